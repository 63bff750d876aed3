//! How a cache is set up.

use std::{
    fmt,
    hash::{BuildHasher, Hash},
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    Ack, Cache, DefaultHasher, OnFull, Recovery,
    engine::{Engine, Policies, Thread},
    flights::Flights,
    journaled::{Journaled, WithJournal},
    opening::{self, Begun, Contents},
};
use crate::{
    Backend, Clock, OpenError,
    context::{CacheId, Census},
    epochs::Epochs,
    events::{Event, Listener, Mailbox},
    flusher::{Courier, Desk, Flusher, Settings},
    lane::Lanes,
    letters::Letters,
    recycle::Slots,
    ring::Consumer,
    signal::Signal,
    store::{DirtyLimits, Shape, Store, Weigher},
    table::Table,
};

/// Each lane has slots of its own, and a slot's name has 32 bits.
const MAX_LANES: usize = 4096;

/// The settings of a cache; made by [`Cache::builder`].
///
/// Required are [`capacity`](Builder::capacity) and [`backend`](Builder::backend); without a backend there is no
/// `open` to call.
#[must_use = "a builder does nothing before `open`"]
pub struct Builder<B = (), W = (), S = DefaultHasher, J = ()> {
    capacity: usize,
    max_weight: u64,
    weigher: W,
    backend: B,
    hasher: S,
    pub(super) journal: J,
    ack: Option<Ack>,
    max_delay: Duration,
    flush_at: Option<usize>,
    batch_size: usize,
    write_timeout: Duration,
    on_full: OnFull,
    max_dirty: Option<usize>,
    max_dirty_bytes: Option<u64>,
    throttle: (f64, Duration),
    retry: (Duration, Duration),
    cache_absent: bool,
    lanes: usize,
    pin_flusher: Option<usize>,
    drain_on_drop: Duration,
    clock: Clock,
    pub(super) name: Arc<str>,
    pub(super) stall_limit: Option<Duration>,
    pub(super) listener: Option<Listener>,
}

/// What an entry weighs: nothing, or what a closure says.
pub trait Weigh<K, V>: sealed::Sealed {
    #[doc(hidden)]
    fn into_weigher(self) -> Option<Weigher<K, V>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<F> Sealed for super::ByWeight<F> {}
}

impl<K, V> Weigh<K, V> for () {
    fn into_weigher(self) -> Option<Weigher<K, V>> {
        None
    }
}

/// A weigher that was given to [`Builder::max_weight`].
#[derive(Clone, Copy)]
pub struct ByWeight<F>(F);

impl<K, V, F: Fn(&K, &V) -> u64 + Send + Sync + 'static> Weigh<K, V> for ByWeight<F> {
    fn into_weigher(self) -> Option<Weigher<K, V>> {
        Some(Box::new(self.0))
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder {
            capacity: 0,
            max_weight: u64::MAX,
            weigher: (),
            backend: (),
            hasher: DefaultHasher::default(),
            journal: (),
            ack: None,
            max_delay: Duration::from_millis(500),
            flush_at: None,
            batch_size: 1_000,
            write_timeout: Duration::from_secs(10),
            on_full: OnFull::Wait,
            max_dirty: None,
            max_dirty_bytes: None,
            throttle: (0.5, Duration::from_millis(10)),
            retry: (Duration::from_millis(50), Duration::from_secs(30)),
            cache_absent: false,
            lanes: 16,
            pin_flusher: None,
            drain_on_drop: Duration::from_secs(30),
            clock: Clock::system(),
            name: "default".into(),
            stall_limit: None,
            listener: None,
        }
    }
}

impl<B, W, S, J> Builder<B, W, S, J> {
    pub(super) fn map<B2, W2, S2, J2>(
        self,
        change: impl FnOnce(B, W, S, J) -> (B2, W2, S2, J2),
    ) -> Builder<B2, W2, S2, J2> {
        let (backend, weigher, hasher, journal) =
            change(self.backend, self.weigher, self.hasher, self.journal);
        Builder {
            capacity: self.capacity,
            max_weight: self.max_weight,
            weigher,
            backend,
            hasher,
            journal,
            ack: self.ack,
            max_delay: self.max_delay,
            flush_at: self.flush_at,
            batch_size: self.batch_size,
            write_timeout: self.write_timeout,
            on_full: self.on_full,
            max_dirty: self.max_dirty,
            max_dirty_bytes: self.max_dirty_bytes,
            throttle: self.throttle,
            retry: self.retry,
            cache_absent: self.cache_absent,
            lanes: self.lanes,
            pin_flusher: self.pin_flusher,
            drain_on_drop: self.drain_on_drop,
            clock: self.clock,
            name: self.name,
            stall_limit: self.stall_limit,
            listener: self.listener,
        }
    }

    /// The most entries that the cache holds, at least 1. The memory for them is reserved when the cache is opened:
    /// about 29 bytes for each, and the size of an entry (key, value, 8 bytes); the system provides most of it on first use.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.capacity = entries;
        self
    }

    /// Bounds what the entries weigh in all, in whatever unit `weigh` uses, beside their number. Called once for each
    /// write and load; tombstones weigh nothing.
    ///
    /// ```
    /// # use writeback::{Cache, Error, backend::Memory};
    /// let pages = Cache::builder()
    ///     .capacity(10_000)
    ///     .max_weight(1 << 20, |url: &String, page: &Vec<u8>| (url.len() + page.len()) as u64)
    ///     .backend(Memory::new())
    ///     .open::<String, Vec<u8>>()?;
    /// assert!(matches!(pages.put("/".into(), vec![0; 2 << 20]), Err(Error::TooHeavy { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_weight<F>(mut self, total: u64, weigh: F) -> Builder<B, ByWeight<F>, S, J> {
        self.max_weight = total;
        self.map(|backend, _, hasher, journal| (backend, ByWeight(weigh), hasher, journal))
    }

    /// What an entry weighs, without a limit on what all of them do: for
    /// [`max_dirty_bytes`](Builder::max_dirty_bytes). As [`max_weight`](Builder::max_weight) with `u64::MAX`.
    pub fn weigher<F>(self, weigh: F) -> Builder<B, ByWeight<F>, S, J> {
        self.max_weight(u64::MAX, weigh)
    }

    /// The database behind the cache. An `Arc` of a backend is a backend, for those who want to keep a hold of it.
    pub fn backend<B2>(self, backend: B2) -> Builder<B2, W, S, J> {
        self.map(|_, weigher, hasher, journal| (backend, weigher, hasher, journal))
    }

    /// The hash function; by default a fast one, seeded at random for each cache. With another one, equal hashes in the
    /// upper 32 bits share a bucket, so they should be good.
    pub fn hasher<S2>(self, hasher: S2) -> Builder<B, W, S2, J> {
        self.map(|backend, weigher, _, journal| (backend, weigher, hasher, journal))
    }

    /// How writes are acknowledged that do not say so themselves. Default: [`Ack::Journal`] with a
    /// [`journal`](Builder::journal), [`Ack::Memory`] without.
    pub fn ack(mut self, ack: Ack) -> Self {
        self.ack = Some(ack);
        self
    }

    /// How long an entry may be dirty before it is written, counted from the moment when it *first* became dirty: a key
    /// that is rewritten all the time is still written on time. Default: 500 ms.
    ///
    /// A longer delay saves backend writes, a shorter one loses less when the process dies.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// How many dirty entries start a flush before anything is due. Default: half of the capacity, or half of the number of dirty
    /// entries from which on [`throttle`](Builder::throttle) slows writers down, if that is less.
    pub fn flush_at(mut self, dirty: usize) -> Self {
        self.flush_at = Some(dirty);
        self
    }

    /// The most operations in one call of the backend. Default: 1,000.
    pub fn batch_size(mut self, operations: usize) -> Self {
        self.batch_size = operations;
        self
    }

    /// The most entries that may be dirty at once, those that are on their way to the backend included. A write that would
    /// make one more dirty does what [`on_full`](Builder::on_full) says; one of an entry that is dirty already goes
    /// on. Default: no limit but the capacity.
    ///
    /// This bounds what is lost without a journal, and how long it takes to drain. Writers are slowed down before they are
    /// stopped, see [`throttle`](Builder::throttle). A cache that finds more than this in its journal starts above the limit.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use writeback::{BackendError, Cache, Error, OnFull, backend::Memory};
    /// let rows = std::sync::Arc::new(Memory::new());
    /// rows.set_fault(|_| Err(BackendError::transient("the database is away")));
    /// let orders = Cache::builder()
    ///     .capacity(10_000)
    ///     .max_dirty(100)
    ///     .on_full(OnFull::Error)
    ///     .backend(rows.clone())
    ///     .open::<u64, u64>()?;
    /// let taken = (0..500).filter(|&id| orders.put(id, 1).is_ok()).count();
    /// assert_eq!(taken, 100);
    /// orders.put(7, 2)?; // is dirty already
    /// rows.clear_fault();
    /// orders.flush()?;
    /// orders.put(300, 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_dirty(mut self, entries: usize) -> Self {
        self.max_dirty = Some(entries);
        self
    }

    /// The most that the dirty entries may take, those that are on their way to the backend included: in the unit of the weigher
    /// given to [`max_weight`](Builder::max_weight) or [`weigher`](Builder::weigher), where a remove takes nothing. Without a weigher an
    /// entry takes `size_of` its key and value, and a remove that of its key: what they own on the heap is not counted
    /// then. A write that would take more does what [`on_full`](Builder::on_full) says; one of a dirty entry that does not
    /// become larger goes on. One entry that is larger than the limit has room when nothing else is dirty. Default: no limit.
    ///
    /// While the backend works on an older version of a dirty entry, that copy is in memory beside what is counted, in
    /// at most one batch (with a journal that is synced: a few).
    pub fn max_dirty_bytes(mut self, bytes: u64) -> Self {
        self.max_dirty_bytes = Some(bytes);
        self
    }

    /// What a write does that finds no room: it waits, fails at once, or goes through to the backend. Default:
    /// [`OnFull::Wait`]. For one write: [`WriteOptions`](crate::WriteOptions).
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }

    /// From which share of [`max_dirty`](Builder::max_dirty) and [`max_dirty_bytes`](Builder::max_dirty_bytes) on (0 to 1) writes that
    /// make more dirty are slowed down, and by how much at the limit. In between the delay grows in proportion; it ends sooner
    /// when the backend catches up, and the flusher starts at once. The write is made before its delay, so nobody waits for
    /// it, and reads are never slowed down. Default: 0.5 and 10 ms; `Duration::ZERO` turns it off.
    pub fn throttle(mut self, from: f64, longest: Duration) -> Self {
        self.throttle = (from, longest);
        self
    }

    /// How long a write waits for room (in the cache, in its journal, or below a dirty limit) before it fails with
    /// [`Error::Backpressure`](crate::Error::Backpressure). Default: 10 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// The delay before the first retry of an operation that the backend could not carry out, and the longest one; in
    /// between it doubles, with jitter. Default: 50 ms and 30 s.
    pub fn retry(mut self, first: Duration, longest: Duration) -> Self {
        self.retry = (first, longest);
        self
    }

    /// Whether the answer "there is no such row" takes a place in the cache, so that the next read of that key does not
    /// ask the backend again. Default: no.
    pub fn cache_absent(mut self, yes: bool) -> Self {
        self.cache_absent = yes;
        self
    }

    /// How many threads can have a lane of their own beside one for each core. More threads may write, sharing a lane
    /// under a mutex. Default: 16.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes;
        self
    }

    /// Pins the flusher's thread to a core. Default: it is not pinned.
    pub fn pin_flusher(mut self, core: usize) -> Self {
        self.pin_flusher = Some(core);
        self
    }

    /// How long the drop of the last reference to a cache that was not closed waits for the backend. Default: 30 s.
    pub fn drain_on_drop(mut self, timeout: Duration) -> Self {
        self.drain_on_drop = timeout;
        self
    }

    /// The clock that deadlines and retries go by; for tests. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    fn check(&self) -> Result<(), OpenError> {
        let bad = |setting, value: String, hint| Err(OpenError::BadSetting { setting, value, hint });
        if self.capacity == 0 {
            return Err(OpenError::ZeroCapacity);
        }
        if self.capacity > Table::MAX_ENTRIES {
            return Err(OpenError::CapacityTooLarge { capacity: self.capacity, max: Table::MAX_ENTRIES });
        }
        if self.max_weight == 0 {
            return Err(OpenError::ZeroWeight);
        }
        if self.lanes > MAX_LANES {
            return bad("lanes", self.lanes.to_string(), "at most 4096; further threads share a lane");
        }
        if self.batch_size == 0 {
            return bad("batch_size", "0".into(), "a batch needs room for at least one operation");
        }
        if self.flush_at == Some(0) {
            return bad(
                "flush_at",
                "0".into(),
                "give a number of dirty entries, or use Ack::Backend to write through",
            );
        }
        if self.max_delay.is_zero() {
            return bad(
                "max_delay",
                "0".into(),
                "give a time to collect writes in, or use Ack::Backend to write through",
            );
        }
        if let Some(limit) = self.stall_limit
            && limit <= self.max_delay
        {
            return bad(
                "stall_limit",
                format!("{limit:?}"),
                "more than max_delay: until then an entry may be dirty",
            );
        }
        if self.max_dirty == Some(0) || self.max_dirty_bytes == Some(0) {
            let setting = if self.max_dirty == Some(0) { "max_dirty" } else { "max_dirty_bytes" };
            return bad(setting, "0".into(), "give what may be dirty, or use Ack::Backend to write through");
        }
        if !(0.0..=1.0).contains(&self.throttle.0) {
            let value = self.throttle.0.to_string();
            return bad(
                "throttle",
                value,
                "give the share of the limit from which on writes are slowed down",
            );
        }
        let (first, longest) = self.retry;
        if first.is_zero() || longest < first {
            let value = format!("{first:?}, {longest:?}");
            return bad("retry", value, "the first delay must be more than zero and at most the longest");
        }
        Ok(())
    }

    /// Opens the cache: reserves its memory and starts the flusher. With a journal, what is in it and not yet in the
    /// backend is in the cache, dirty, when this returns; [`Cache::recovery`] tells of it.
    ///
    /// # Blocking
    ///
    /// For reading the journal: about a second for a few million records. If more is dirty in it than the cache may hold,
    /// the rest is written to the backend first.
    ///
    /// # Errors
    ///
    /// [`OpenError`] for settings that make no sense, and where memory or a thread is not to be had; with a journal
    /// [`OpenError::Journal`], and then no file was changed. Also without one, if the backend has unflushed writes in a journal
    /// that it was used with before.
    pub fn open<K, V>(self) -> Result<Cache<K, V, S>, OpenError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        B: Backend<K, V> + 'static,
        W: Weigh<K, V>,
        S: BuildHasher + Send + Sync + 'static,
        J: Journaled<K, V>,
    {
        let (parts, mut crew) = self.assemble()?;
        let keeper = match &parts.store.journal {
            None => None,
            Some(journaling) => {
                let (journal, room) = (Arc::clone(&journaling.journal), Arc::clone(&parts.store.room));
                let keep = move || journal.keep(&room);
                let named = thread::Builder::new().name("writeback-journal".into());
                Some(named.spawn(keep).map_err(OpenError::Spawn)?)
            }
        };
        let courier = Arc::clone(&crew.courier);
        let carrying = Arc::clone(&courier);
        let named = |name: &str| thread::Builder::new().name(name.into());
        let (events, listener) = (parts.desk.events.clone(), crew.listener.take());
        let telling = events.clone().zip(listener).map(|(events, listener)| {
            // Nobody joins it: a listener may never come back.
            named("writeback-listener").spawn(move || events.run(listener))
        });
        let spawned = telling.transpose().and_then(|_| {
            let carrier = named("writeback-courier").spawn(move || carrying.run())?;
            let flusher = named("writeback-flusher").spawn(move || crew.flusher().run())?;
            Ok((carrier, flusher))
        });
        let (courier, flusher) = spawned.map_err(|error| {
            courier.close();
            events.iter().for_each(|events| events.close());
            if let Some(journaling) = &parts.store.journal {
                journaling.journal.commits.stop();
            }
            OpenError::Spawn(error)
        })?;
        Ok(parts.into_cache(keeper, Some(courier), Some(flusher)))
    }

    /// All of a cache but its threads.
    pub(crate) fn assemble<K, V>(self) -> Result<Assembled<K, V, S>, OpenError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        B: Backend<K, V> + 'static,
        W: Weigh<K, V>,
        S: BuildHasher + Send + Sync + 'static,
        J: Journaled<K, V>,
    {
        self.check()?;
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let ring = self.capacity.clamp(64, 8192);
        let (lanes, rings, slots) = Lanes::new(cores.len(), self.lanes, ring);
        let limits = DirtyLimits {
            entries: self.max_dirty.map(|entries| entries as u64),
            bytes: self.max_dirty_bytes,
            slow_from: self.throttle.0,
        };
        // Before anybody is slowed down.
        let early = self
            .max_dirty
            .map_or(usize::MAX, |limit| ((limit as f64 * self.throttle.0 / 2.0) as usize).max(limit / 8));
        let flush_at = self.flush_at.unwrap_or((self.capacity / 2).min(early)).max(1);
        let weigher = self.weigher.into_weigher().map(|weigher| (weigher, self.max_weight));
        let bytes = Store::<K, V, S>::bytes(self.capacity, &lanes);
        let backend: Arc<dyn Backend<K, V>> = Arc::new(self.backend);
        let signal = Arc::new(Signal::new(self.clock.clone()));
        self.clock.register(&signal);
        let wanted = self.journal.into_journal();
        let ack = match (self.ack, &wanted) {
            (Some(ack @ (Ack::Journal | Ack::Synced)), None) => return Err(OpenError::NoJournal { ack }),
            (Some(ack), _) => ack,
            (None, Some(_)) => Ack::Journal,
            (None, None) => Ack::Memory,
        };
        let (capacity, batch_size, hasher, writers) =
            (self.capacity, self.batch_size, self.hasher, lanes.writers());
        let make_store = |begun: Option<Begun<'_, K, V>>| {
            let (journal, contents, area) = match begun {
                Some(Begun { journal, codec, contents, letters }) => {
                    (Some((journal, codec)), Some(contents), Some(letters))
                }
                None => (None, None, None),
            };
            let letters = Letters::new(area);
            let epochs = contents.as_ref().map_or_else(Epochs::new, Contents::epochs);
            let signal = Arc::clone(&signal);
            let shape = Shape { capacity, flush_at, weigher, limits, signal, journal, epochs };
            let store =
                Store::new(shape, lanes, hasher).map_err(|source| OpenError::Memory { bytes, source })?;
            let restore = |contents| opening::restore(contents, &store, &*backend, batch_size, &letters);
            let recovery = contents.map(restore).transpose()?;
            Ok((store, recovery, letters))
        };
        let (store, recovery, letters) = match wanted {
            None => {
                opening::check_note(&*backend, None)?;
                make_store(None)?
            }
            Some(wanted) => opening::with_journal(wanted, capacity, writers, &*backend, &signal, |begun| {
                make_store(Some(begun))
            })?,
        };
        let events = self.listener.is_some().then(|| Arc::new(Mailbox::new()));
        if let (Some(events), Some(recovery)) = (&events, &recovery)
            && (recovery.entries > 0 || !recovery.damage.is_empty())
        {
            let (entries, damage) = (recovery.entries, recovery.damage.clone());
            events.post(Event::Recovered { entries, damage });
        }
        let (store, desk): (_, Arc<Desk>) = (Arc::new(store), Arc::new(Desk::new(letters, events)));
        let note = opening::leave_note(&store, &*backend)?;
        let settings = Settings {
            max_delay: self.max_delay,
            flush_at,
            batch_size,
            first_retry: self.retry.0,
            retry_cap: self.retry.1,
            pin_to: self.pin_flusher.and_then(|core| cores.get(core)).map(|core| core.id),
            name: Arc::clone(&self.name),
            stall_limit: self
                .stall_limit
                .unwrap_or_else(|| self.max_delay.saturating_add(self.max_delay.max(Duration::from_secs(1)))),
            opened_at: self.clock.now(),
            clock: self.clock,
        };
        let policies = Policies {
            ack,
            write_timeout: self.write_timeout,
            on_full: self.on_full,
            longest_throttle: self.throttle.1,
            cache_absent: self.cache_absent,
            drain_on_drop: self.drain_on_drop,
            name: self.name,
            cores,
        };
        let journal = store.journal.as_ref().map(|journaling| Arc::clone(&journaling.journal));
        let crew = Crew {
            store: Arc::clone(&store),
            courier: Courier::new(Arc::clone(&backend), journal, signal),
            desk: Arc::clone(&desk),
            settings,
            rings,
            slots,
            listener: self.listener,
        };
        Ok((Parts { store, backend, desk, policies, recovery, note }, crew))
    }
}

/// A cache without threads, and what one of them needs.
pub(crate) type Assembled<K, V, S> = (Parts<K, V, S>, Crew<K, V, S>);

/// A cache that has no threads yet.
pub(crate) struct Parts<K, V, S> {
    store: Arc<Store<K, V, S>>,
    backend: Arc<dyn Backend<K, V>>,
    pub(crate) desk: Arc<Desk>,
    policies: Policies,
    recovery: Option<Recovery>,
    note: Option<PathBuf>,
}

impl<K, V, S> Parts<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    pub(crate) fn into_cache(
        self,
        keeper: Option<JoinHandle<()>>,
        courier: Option<JoinHandle<()>>,
        flusher: Option<JoinHandle<()>>,
    ) -> Cache<K, V, S> {
        Cache::from_engine(Arc::new(Engine {
            id: CacheId::next(),
            store: self.store,
            backend: self.backend,
            desk: self.desk,
            census: Census::new(),
            flights: Flights::new(),
            policies: self.policies,
            recovery: self.recovery,
            note: self.note,
            flusher: Thread::new(flusher),
            courier: Thread::new(courier),
            keeper: Thread::new(keeper),
            was_closed: false.into(),
        }))
    }
}

/// What becomes the flusher, on the thread that runs it.
pub(crate) struct Crew<K, V, S> {
    store: Arc<Store<K, V, S>>,
    pub(crate) courier: Arc<Courier<K, V>>,
    desk: Arc<Desk>,
    settings: Settings,
    rings: Vec<Consumer>,
    slots: Slots,
    /// Not the flusher's: for a thread of its own.
    listener: Option<Listener>,
}

impl<K, V, S> Crew<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    pub(crate) fn flusher(self) -> Flusher<K, V, S> {
        Flusher::new(self.store, self.courier, self.desk, self.settings, self.rings, self.slots)
    }
}

impl<B, W, S> Builder<B, W, S> {
    /// Gives the cache a journal: a file in which every write is noted before it is acknowledged, so that it survives a crash
    /// of the process, and, with [`Ack::Synced`], a loss of power. The file is made if there is none; if it holds writes
    /// that are not in the backend, they are in the cache when it opens.
    ///
    /// Keys and values need a [`Codec`](crate::Codec): numbers, strings, byte strings, tuples and arrays have one
    /// ([`Plain`](crate::Plain)); for others see [`codecs`](Builder::codecs). Put the file on a local disk (or on `tmpfs`, if
    /// it need only survive crashes of the process), and use it for one cache only.
    ///
    /// ```
    /// # use writeback::{Ack, Cache, backend::Memory};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("scores.journal");
    /// let scores = Cache::builder()
    ///     .capacity(10_000)
    ///     .journal(&path)
    ///     .backend(Memory::new())
    ///     .open::<u64, u64>()?;
    /// scores.put(7, 100)?; // survives `kill -9` from here on
    /// scores.put_acked(8, 200, Ack::Synced)?; // and this one a loss of power
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn journal(self, path: impl AsRef<std::path::Path>) -> Builder<B, W, S, WithJournal> {
        let journal = WithJournal::at(path.as_ref());
        self.map(|backend, weigher, hasher, ()| (backend, weigher, hasher, journal))
    }
}

impl<B, W, S, J> fmt::Debug for Builder<B, W, S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("capacity", &self.capacity)
            .field("max_delay", &self.max_delay)
            .field("flush_at", &self.flush_at)
            .field("batch_size", &self.batch_size)
            .field("ack", &self.ack)
            .finish_non_exhaustive()
    }
}
