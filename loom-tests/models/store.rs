//! The whole store with one or two keys: writers, a reader and the flusher's steps.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use super::{explore, join, spawn, unpinned};
use crate::{
    clock::Clock,
    codec::Plain,
    epochs::{Checkpoint, Epochs},
    journal::Journal,
    lane::{Lanes, Lease},
    ring::Consumer,
    signal::Signal,
    store::{Cleaned, Codecs, DirtyLimits, EntryCodec, Expect, Refused, Seen, Shape, Store},
    table::Position,
};

/// The key is the hash.
#[derive(Clone, Copy, Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u32")
    }

    fn write_u32(&mut self, key: u32) {
        self.0 = u64::from(key);
    }
}

impl BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

pub(super) type SmallStore = Store<u32, u32, Identity>;

pub(super) const KEY: u32 = 1;

pub(super) fn small_store() -> (Arc<SmallStore>, Flushing) {
    small_store_with(None)
}

pub(super) fn small_store_with(journal: Option<Arc<Journal>>) -> (Arc<SmallStore>, Flushing) {
    let (lanes, rings, _) = Lanes::new(0, 2, 1);
    let codec: Box<dyn EntryCodec<u32, u32>> = Box::new(Codecs(Plain, Plain));
    let shape = Shape {
        capacity: 2,
        flush_at: usize::MAX,
        weigher: None,
        limits: DirtyLimits::default(),
        signal: Arc::new(Signal::new(Clock::system())),
        journal: journal.map(|journal| (journal, codec)),
        epochs: Epochs::new(),
    };
    let store = Arc::new(Store::new(shape, lanes, Identity(0)).expect("a small store"));
    (Arc::clone(&store), Flushing { store, rings, book: BTreeSet::new(), backend: None, written: 0 })
}

/// A thread's lane, with as many free slots as it needs: in these models none is used twice.
pub(super) struct Writing {
    pub(super) store: Arc<SmallStore>,
    pub(super) lease: Lease,
    values: Vec<u32>,
}

impl Writing {
    /// `values` are written last to first.
    pub(super) fn new(store: &Arc<SmallStore>, values: &[u32]) -> Self {
        let mut lease = store.lanes.lease().expect("a free lane");
        // Two more for a load.
        lease.writer().expect("a lane has a writer").reserve(values.len() + 2, &store.slab);
        Writing { store: Arc::clone(store), lease, values: values.to_vec() }
    }

    /// Writes the next value.
    pub(super) fn put(&mut self) -> Result<Position, Refused> {
        let value = self.values.pop().expect("a value is left");
        let mut writer = self.lease.writer().expect("a lane has a writer");
        let Ok(mut draft) = self.store.draft(&mut writer, KEY, Some(value), 0) else {
            panic!("a slot is free")
        };
        self.store.prepare(&mut writer, &mut draft).expect("the journal has room");
        let hash = self.store.hash(&KEY);
        let put = self.store.publish(&mut writer, draft, hash, Expect::Anything, &mut None, unpinned());
        put.map(|put| put.at).map_err(|(_, refused)| refused)
    }
}

/// The flusher, step by step.
pub(super) struct Flushing {
    pub(super) store: Arc<SmallStore>,
    rings: Vec<Consumer>,
    /// Dirty places, as far as they were heard of.
    pub(super) book: BTreeSet<Position>,
    /// What the backend has: one row.
    pub(super) backend: Option<u32>,
    pub(super) written: u64,
}

impl Flushing {
    pub(super) fn collect(&mut self) {
        for ring in &mut self.rings {
            while let Some(at) = ring.pop() {
                self.book.insert(at);
            }
        }
        self.store.dirty_map.sweep(|at| {
            self.book.insert(at);
        });
    }

    pub(super) fn has_heard_of(&self, at: Position) -> bool {
        self.book.contains(&at)
    }

    /// Writes everything in the book once. `store_row` stands for the backend.
    pub(super) fn flush_with(&mut self, store_row: impl Fn(u32)) {
        for at in std::mem::take(&mut self.book) {
            let Some(entry) = self.store.copy_dirty(at, unpinned()) else { continue };
            assert!(entry.version > self.written, "an older version after a newer one");
            self.written = entry.version;
            self.backend = entry.value;
            store_row(entry.value.expect("no model removes"));
            if self.store.mark_clean(at, entry.version, unpinned()) == Cleaned::Superseded {
                self.book.insert(at);
            }
        }
    }

    pub(super) fn flush(&mut self) {
        self.flush_with(|_| ());
    }

    /// Retires all epochs so far; nobody is in a window for long.
    pub(super) fn checkpoint(&self) {
        let mut checkpoint = Checkpoint::new();
        checkpoint.begin(&self.store.epochs, self.store.lanes.writers(), 0);
        while !checkpoint.poll(|lane| self.store.lanes.running(lane)) {
            loom::thread::yield_now();
        }
        self.store.epochs.retire(checkpoint.target());
    }

    /// Flushes until the book is empty, and asserts that nothing dirty is left.
    pub(super) fn drain(&mut self) {
        self.collect();
        while !self.book.is_empty() {
            self.flush();
        }
        assert!(!self.store.is_dirty(self.store.hash(&KEY), &KEY, unpinned()), "dirty, and nobody knows");
        assert_eq!(self.store.dirty(), 0);
    }
}

pub(super) fn value(store: &SmallStore) -> Option<u32> {
    match store.look(store.hash(&KEY), &KEY, unpinned()) {
        Seen::Value { value, .. } => Some(*value),
        _ => None,
    }
}

/// The flusher writes and cleans while two writers go on: in the end the backend has the last value, and no DIRTY bit
/// was cleared that stood for a newer one.
#[test]
fn store_cleans_exact_versions() {
    explore(Some(2), || {
        let (store, mut flushing) = small_store();
        let mut first = Writing::new(&store, &[12, 11]);
        let mut second = Writing::new(&store, &[21]);
        assert!(first.put().is_ok());
        flushing.collect();
        let threads =
            [spawn(move || assert!(first.put().is_ok())), spawn(move || assert!(second.put().is_ok()))];
        flushing.flush();
        threads.into_iter().for_each(join);
        flushing.drain();
        let last = value(&store);
        assert!(last == Some(12) || last == Some(21));
        assert_eq!(flushing.backend, last, "the backend has an older value");
    });
}

/// One writer against a flusher that works through three rounds.
#[test]
fn store_cleans_while_it_is_written() {
    explore(Some(3), || {
        let (store, mut flushing) = small_store();
        let mut writing = Writing::new(&store, &[13, 12, 11]);
        assert!(writing.put().is_ok());
        let writer = spawn(move || (0..2).for_each(|_| assert!(writing.put().is_ok())));
        for _ in 0..2 {
            flushing.collect();
            flushing.flush();
        }
        join(writer);
        flushing.drain();
        assert_eq!((flushing.backend, value(&store)), (Some(13), Some(13)));
    });
}

/// A barrier after a write covers it, although the writer that made the entry dirty stalls before it has said so.
#[test]
fn store_announces_what_was_overwritten() {
    explore(Some(3), || {
        let (store, mut flushing) = small_store();
        let mut stalling = Writing::new(&store, &[11]);
        let mut writing = Writing::new(&store, &[21]);
        let other = spawn(move || assert!(stalling.put().is_ok()));
        let at = writing.put().expect("there is room");
        flushing.collect();
        assert!(flushing.has_heard_of(at), "acknowledged, and the flusher does not hear of it");
        join(other);
        flushing.drain();
        assert_eq!(flushing.backend, value(&store));
    });
}

/// A barrier after a read covers what was read, although its writer stalls before it has told the flusher.
#[test]
fn store_announces_what_was_read() {
    explore(Some(3), || {
        let (store, mut flushing) = small_store();
        let mut writing = Writing::new(&store, &[11]);
        let writer = spawn(move || assert!(writing.put().is_ok()));
        if let Seen::Value { at, .. } = store.look(store.hash(&KEY), &KEY, unpinned()) {
            flushing.collect();
            assert!(flushing.has_heard_of(at), "read, and the flusher does not hear of it");
        }
        join(writer);
        flushing.drain();
        assert_eq!(flushing.backend, Some(11));
    });
}

/// An evictor that finds another version than it has looked at takes it for what it is: nothing of an epoch that is not
/// retired is evicted.
#[test]
fn store_evicts_nothing_of_a_running_epoch() {
    explore(Some(2), || {
        let (store, mut flushing) = small_store();
        let mut writing = Writing::new(&store, &[12, 11]);
        assert!(writing.put().is_ok());
        let mut evicting = Writing::new(&store, &[]);
        let evictor = spawn({
            let store = Arc::clone(&store);
            move || {
                let _full = store.try_credit().expect("there is room for two");
                let mut writer = evicting.lease.writer().expect("a lane has a writer");
                assert!(store.credit_by_force(&mut writer, unpinned()).is_none(), "its epoch is not retired");
            }
        });
        assert!(writing.put().is_ok());
        flushing.collect();
        flushing.flush();
        join(evictor);
        assert_eq!(value(&store), Some(12));
    });
}
