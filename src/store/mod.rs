//! The store: table, slab, eviction policy, epochs and lanes, put together into the operations on one entry.
//!
//! Nothing in here waits. A write that finds no room says so, and its caller decides (outside every window, unpinned)
//! whether to wait, for how long, and what to tell the user.

mod budget;
mod flush;
mod journaling;
mod load;
mod restore;
mod room;
mod spare;
mod write;

use std::{
    hash::{BuildHasher, Hash},
    io,
    sync::Arc,
};

use crossbeam_utils::CachePadded;

use crate::{
    dirty_map::DirtyMap,
    epochs::Epochs,
    grace::Guard,
    journal::Journal,
    lane::Lanes,
    memory::ZeroedArray,
    policy::Policy,
    recycle,
    signal::{Event, Signal},
    slab::Slab,
    sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    table::{Kind, Position, SlotId, Table, Word},
};

pub(crate) use budget::{Budget, DirtyLimits, Overdraft};
pub(crate) use flush::{Cleaned, Copied, DirtyEntry};
pub(crate) use journaling::{Codecs, EntryCodec, Journaling};
pub(crate) use load::{Fulfilled, Installed, Invalidation, Placeholder};
pub(crate) use room::Credit;
pub(crate) use spare::SpareSlot;
pub(crate) use write::{Draft, Expect, Published, Refused};

/// How a store is made.
pub(crate) struct Shape<K, V> {
    pub(crate) capacity: usize,
    /// Entries that, when dirty, wake the flusher.
    pub(crate) flush_at: usize,
    pub(crate) weigher: Option<(Weigher<K, V>, u64)>,
    pub(crate) limits: DirtyLimits,
    pub(crate) signal: Arc<Signal>,
    pub(crate) journal: Option<JournalParts<K, V>>,
    /// The first epoch, and the one before which versions may be forgotten.
    pub(crate) epochs: Epochs,
}

/// A journal, and how entries are written into it.
pub(crate) type JournalParts<K, V> = (Arc<Journal>, Box<dyn EntryCodec<K, V>>);

pub(crate) type Weigher<K, V> = Box<dyn Fn(&K, &V) -> u64 + Send + Sync>;

/// What the entries weigh, if there is a limit on it.
struct Weights<K, V> {
    weigher: Weigher<K, V>,
    limit: u64,
    total: CachePadded<AtomicU64>,
    /// The weight of each slot's content.
    of: ZeroedArray<AtomicU64>,
}

impl<K, V> Weights<K, V> {
    fn total(&self) -> u64 {
        // Relaxed: a count. An entry can be subtracted before it was added.
        (self.total.load(Ordering::Relaxed) as i64).max(0) as u64
    }
}

pub(crate) struct Store<K, V, S> {
    pub(crate) table: Table,
    pub(crate) slab: Slab<K, V>,
    policy: Policy,
    pub(crate) dirty_map: DirtyMap,
    pub(crate) epochs: Epochs,
    pub(crate) lanes: Arc<Lanes>,
    hasher: S,
    weights: Option<Weights<K, V>>,
    /// How much may be dirty, if there is a limit on it.
    pub(crate) budget: Option<Budget>,
    pub(crate) journal: Option<Journaling<K, V>>,
    capacity: usize,
    /// How many places of the table are taken, and how many are promised: entries, tombstones, placeholders, credits.
    taken: CachePadded<AtomicUsize>,
    /// How many dirty entries have become clean, in all. Written by the flusher only.
    cleaned: CachePadded<AtomicUsize>,
    flush_at: usize,
    /// Wakes the flusher.
    pub(crate) signal: Arc<Signal>,
    /// An evictor found nothing that it could evict, and somebody waits for room. Cleared by the flusher.
    pub(crate) pressure: AtomicBool,
    /// An evictor met clean entries of epochs that are not retired yet. Cleared by the flusher.
    pub(crate) wants_checkpoint: AtomicBool,
    /// Room may have become free.
    pub(crate) room: Arc<Event>,
    /// No more writes. Set once, before the checkpoint that `close` waits for.
    pub(crate) closed: AtomicBool,
    pub(crate) evictions: CachePadded<AtomicU64>,
}

/// A key as the table shows it at one moment.
pub(crate) enum Seen<'g, V> {
    Value {
        at: Position,
        value: &'g V,
        version: u64,
    },
    /// Known to be absent.
    Tombstone {
        version: u64,
    },
    /// Somebody is loading it; the slot names the flight.
    Loading(SlotId),
    Absent,
}

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    pub(crate) fn new(shape: Shape<K, V>, lanes: Arc<Lanes>, hasher: S) -> io::Result<Self> {
        let Shape { capacity, flush_at, weigher, limits, signal, journal, epochs } = shape;
        let slots = Self::slots(capacity, &lanes);
        let journal = journal.map(Journaling::new);
        let table = Table::new(capacity)?;
        let weights = match weigher {
            None => None,
            Some((weigher, limit)) => Some(Weights {
                weigher,
                limit,
                total: CachePadded::new(AtomicU64::new(0)),
                of: ZeroedArray::new(slots)?,
            }),
        };
        Ok(Store {
            policy: Policy::new(capacity, table.positions()),
            dirty_map: DirtyMap::new(table.positions()),
            slab: Slab::new(slots)?,
            table,
            epochs,
            lanes,
            hasher,
            weights,
            budget: Budget::new(limits),
            journal,
            capacity,
            taken: CachePadded::new(AtomicUsize::new(0)),
            cleaned: CachePadded::new(AtomicUsize::new(0)),
            flush_at,
            signal,
            pressure: AtomicBool::new(false),
            wants_checkpoint: AtomicBool::new(false),
            room: Arc::new(Event::new()),
            closed: AtomicBool::new(false),
            evictions: CachePadded::new(AtomicU64::new(0)),
        })
    }

    /// One slot for each entry, and for each lane those on their way back.
    fn slots(capacity: usize, lanes: &Lanes) -> usize {
        capacity + (lanes.writers() + 1) * recycle::slack(Slab::<K, V>::NEEDS_DROP)
    }

    /// How much memory the table and the slots of such a store take, in bytes.
    pub(crate) fn bytes(capacity: usize, lanes: &Lanes) -> usize {
        Table::bytes(capacity).saturating_add(Slab::<K, V>::bytes(Self::slots(capacity, lanes)))
    }

    pub(crate) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        // One multiplication more, so that a hasher which leaves its entropy in the low bits fills the buckets too.
        self.hasher.hash_one(key).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// What the entry weighs, and the limit that it breaks alone, if it does.
    pub(crate) fn weigh(&self, key: &K, value: &V) -> Result<u64, (u64, u64)> {
        let Some(weights) = &self.weights else { return Ok(0) };
        let weight = (weights.weigher)(key, value);
        if weight > weights.limit { Err((weight, weights.limit)) } else { Ok(weight) }
    }

    fn holds<'s, Q>(&'s self, key: &'s Q, guard: &'s Guard) -> impl Fn(SlotId) -> bool + 's
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + ?Sized,
    {
        // SAFETY: the table calls this with slots of decided words that it has just read with Acquire, under `guard`.
        move |slot| unsafe { self.slab.key(slot, guard) }.borrow() == key
    }

    /// Looks a key up. Takes no lock, makes no system call, writes nothing.
    pub(crate) fn look<'g, Q>(&'g self, hash: u64, key: &'g Q, guard: &'g Guard) -> Seen<'g, V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + ?Sized,
    {
        if crate::fault::broken("hit-takes-no-lock") {
            drop(self.room.listen());
        }
        match self.table.find(hash, guard, self.holds(key, guard)) {
            Some((at, word)) => {
                if crate::fault::broken("hit-waits-for-nobody") {
                    // For the flusher.
                    while word.is_dirty() && self.table.word(at, guard) == word {
                        crate::sync::thread::yield_now();
                    }
                }
                self.see(at, word, guard)
            }
            None => Seen::Absent,
        }
    }

    /// The value of a key, if it is there to be read and nothing else has to be done: [`look`](Store::look) for nearly every hit.
    #[inline(always)]
    pub(crate) fn glance<'g, Q>(
        &'g self,
        hash: u64,
        key: &'g Q,
        guard: &'g Guard,
    ) -> Option<(Position, &'g V)>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + ?Sized,
    {
        if crate::fault::broken("hit-takes-no-lock") || crate::fault::broken("hit-waits-for-nobody") {
            return None;
        }
        let (at, word) = self.table.find_at_home(hash, guard, self.holds(key, guard))?;
        // Both are looked at in any case: half of all entries may be dirty, but hardly one of those is not announced, so this is one
        // branch, and can be predicted.
        let is_settled = !word.is_dirty() | self.slab.is_announced(word.slot(), guard);
        if !is_settled | (word.kind() != Kind::Value) {
            return None;
        }
        // SAFETY: the word was read with Acquire under `guard` and is decided.
        unsafe { self.slab.value(word.slot(), guard) }.map(|value| (at, value))
    }

    fn see<'g>(&'g self, at: Position, word: Word, guard: &'g Guard) -> Seen<'g, V> {
        let slot = word.slot();
        if word.is_placeholder() {
            return Seen::Loading(slot);
        }
        // What has been seen must be flushed by the next barrier, also if its writer stalls before it has told the
        // flusher. No wake-up from a read: the writer makes it, and a barrier brings its own.
        if word.is_dirty() && !self.slab.is_announced(slot, guard) && !cfg!(mutant = "see_silent") {
            self.dirty_map.mark(at);
            crate::fault::point("help: marked");
            // And must survive a crash of the process, or the key would go back in time.
            if !crate::fault::broken("reader-makes-live") {
                self.make_live(slot, guard);
            }
            crate::fault::point("help: live");
            self.slab.announce(slot, guard);
        }
        let version = self.slab.version(slot, guard);
        // SAFETY: the word was read with Acquire under `guard` and is decided.
        match unsafe { self.slab.value(slot, guard) } {
            Some(value) => Seen::Value { at, value, version },
            None => Seen::Tombstone { version },
        }
    }

    /// Where the key's newest version is, if that is not in the backend yet: its place and version. The flusher knows of it
    /// when this returns, or is told by the map.
    pub(crate) fn dirty_at<Q>(&self, hash: u64, key: &Q, guard: &Guard) -> Option<(Position, u64)>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let (at, word) = self.table.find(hash, guard, self.holds(key, guard))?;
        if !word.is_dirty() {
            return None;
        }
        let (Seen::Value { version, .. } | Seen::Tombstone { version }) = self.see(at, word, guard) else {
            return None;
        };
        Some((at, version))
    }

    /// Copies the entry at this place for somebody who is not the flusher, if it is dirty.
    pub(crate) fn dirty_copy(&self, at: Position, guard: &Guard) -> Option<DirtyEntry<K, V>>
    where
        K: Clone,
        V: Clone,
    {
        let word = self.dirty_word(at, guard)?;
        let (value, version) = match self.see(at, word, guard) {
            Seen::Value { value, version, .. } => (Some(value.clone()), version),
            Seen::Tombstone { version } => (None, version),
            Seen::Loading(_) | Seen::Absent => return None,
        };
        // SAFETY: the word was read with Acquire under `guard` and is decided.
        let key = unsafe { self.slab.key(word.slot(), guard) }.clone();
        Some(DirtyEntry { key, value, version })
    }

    /// Whether this place holds a dirty entry whose key has this hash.
    pub(crate) fn holds_dirty(&self, at: Position, hash: u64, guard: &Guard) -> bool {
        // SAFETY: the word was read with Acquire under `guard` and is decided.
        let hash_of = |word: Word| self.hash(unsafe { self.slab.key(word.slot(), guard) });
        self.dirty_word(at, guard).is_some_and(|word| hash_of(word) == hash)
    }

    /// Whether the key's newest version is not in the backend yet.
    pub(crate) fn is_dirty<Q>(&self, hash: u64, key: &Q, guard: &Guard) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.table.find(hash, guard, self.holds(key, guard)).is_some_and(|(_, word)| word.is_dirty())
    }
}

/// Counts and flags, which need to know nothing of keys and values.
impl<K, V, S> Store<K, V, S> {
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Entries, tombstones and loads in the table.
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a count.
        self.taken.load(Ordering::Relaxed)
    }

    /// How many entries are dirty. A little behind what other threads are just doing.
    pub(crate) fn dirty(&self) -> usize {
        // Relaxed: counts. The clean ones first, so that a race shows too many dirty ones rather than too few; but an entry
        // can be cleaned before its writer has counted it.
        let cleaned = self.cleaned.load(Ordering::Relaxed);
        (self.lanes.dirtied().wrapping_sub(cleaned) as isize).max(0) as usize
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: the window looks again behind its fence.
        self.closed.load(Ordering::Relaxed)
    }

    /// The dirty bytes that an entry of this kind and weight is charged with.
    fn dirty_bytes(&self, kind: Kind, weight: u64) -> u64 {
        match (&self.weights, kind) {
            (Some(_), _) => weight,
            (None, Kind::Value) => (size_of::<K>() + size_of::<V>()) as u64,
            (None, _) => size_of::<K>() as u64,
        }
    }

    /// What the dirty entry of this word is charged with.
    fn dirty_bytes_of(&self, word: Word) -> u64 {
        // Relaxed: published with the slot, which is not used again as long as the caller is pinned.
        let weight = |weights: &Weights<K, V>| weights.of[word.slot().0 as usize].load(Ordering::Relaxed);
        self.dirty_bytes(word.kind(), self.weights.as_ref().map_or(0, weight))
    }

    /// Total weight and its limit.
    pub(crate) fn weight(&self) -> (u64, Option<u64>) {
        match &self.weights {
            Some(weights) => (weights.total(), Some(weights.limit)),
            None => (0, None),
        }
    }
}
