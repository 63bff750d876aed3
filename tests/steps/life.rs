//! A cache in a child: how it is opened, what it has been through before the operation under test, and that operation.

use std::{
    hash::{BuildHasher, Hasher},
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use writeback::{
    Cache, Clock, JournalSync, OpenError,
    steps::{Outcome, Steps},
};

use crate::{
    page::{ACKED, BEGUN, Page, Rows, stamp, value_of},
    tracer::mark,
};

/// The key whose writes fill segments.
const FILLER: u64 = 7;
const FILLER_BYTES: u64 = 40;
/// How many records of the filler a segment of the smallest size has room for: 4096 bytes, a header of 8 words, and in
/// each record 5 words of header, one of the key, and the value.
const FILLERS: usize = (4096 / 8 - 8) / (5 + 1 + FILLER_BYTES as usize / 8);

/// The same hash in every child, so that all of them take the same path.
#[derive(Clone, Default)]
pub(crate) struct Fixed(u64);

impl BuildHasher for Fixed {
    type Hasher = Fixed;

    fn build_hasher(&self) -> Fixed {
        Fixed(0)
    }
}

impl Hasher for Fixed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// How large a cache is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) capacity: usize,
    pub(crate) lanes: usize,
}

pub(crate) const USUAL: Shape = Shape { capacity: 64, lanes: 1 };

pub(crate) fn open(
    path: &Path,
    page: &'static Page,
    shape: Shape,
) -> Result<Steps<u64, Vec<u8>, Fixed>, OpenError> {
    // A clock that stands still: nothing is flushed, or tried again, but on request.
    let (clock, _) = Clock::manual();
    Cache::builder()
        .capacity(shape.capacity)
        .lanes(shape.lanes)
        .hasher(Fixed(0))
        .clock(clock)
        .flush_at(usize::MAX)
        .write_timeout(Duration::from_millis(10))
        .journal(path)
        .journal_size(64 << 10)
        .journal_sync(JournalSync::Never)
        .backend(Rows(page))
        .open_without_threads()
}

/// What is done between the marks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Put(u64),
    Remove(u64),
    /// Everything dirty goes to the database, and the epochs so far are retired.
    FlushAndRetire,
    /// The epochs so far are retired while the database is down: everything dirty is copied.
    Copy,
}

/// An operation, and what comes before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) protocol: &'static str,
    pub(crate) name: &'static str,
    pub(crate) operation: Operation,
    /// The operation finds its lane's segment full.
    pub(crate) turns: bool,
}

const fn scenario(protocol: &'static str, name: &'static str, operation: Operation, turns: bool) -> Scenario {
    Scenario { protocol, name, operation, turns }
}

pub(crate) const SCENARIOS: [Scenario; 8] = [
    scenario("put", "over a dirty entry", Operation::Put(0), false),
    scenario("put", "over a clean entry", Operation::Put(1), false),
    scenario("put", "of a new key", Operation::Put(6), false),
    scenario("put", "into the next segment", Operation::Put(0), true),
    scenario("remove", "of a dirty entry", Operation::Remove(2), false),
    scenario("remove", "of a clean entry", Operation::Remove(1), false),
    scenario("checkpoint", "after a flush", Operation::FlushAndRetire, false),
    scenario("copy", "database down", Operation::Copy, false),
];

/// A cache under way.
struct Life {
    steps: Steps<u64, Vec<u8>, Fixed>,
    page: &'static Page,
    /// The number of the last stamp.
    number: u64,
}

impl Life {
    fn stamp(&mut self, bytes: u64) -> u64 {
        self.number += 1;
        stamp(self.number, bytes)
    }

    fn put(&mut self, key: u64, bytes: u64) {
        let stamp = self.stamp(bytes);
        let version = self.steps.cache().put(key, value_of(stamp)).expect("put");
        self.acked(key, stamp, version.get());
    }

    fn remove(&mut self, key: u64) {
        let version = self.steps.cache().remove(&key).expect("remove");
        self.acked(key, 0, version.get());
    }

    fn acked(&self, key: u64, stamp: u64, version: u64) {
        let known = &self.page.keys[key as usize];
        known.stamp.store(stamp, SeqCst);
        known.next.store(stamp, SeqCst);
        known.version.store(version, SeqCst);
    }

    fn free_bytes(&self) -> u64 {
        self.steps.cache().stats().journal.expect("a journal").free_bytes
    }

    /// Fills the lane's segment until the next one is begun.
    fn turn(&mut self) {
        let before = self.free_bytes();
        while self.free_bytes() == before {
            self.put(FILLER, FILLER_BYTES);
        }
    }

    fn flush_and_retire(&mut self) {
        assert!(matches!(self.steps.flush(), Outcome::Done), "flush");
        assert!(matches!(self.steps.checkpoint(), Outcome::Done), "checkpoint");
    }

    /// Keys of every kind, in segments that have been used before.
    fn history(&mut self) {
        for _ in 0..5 {
            self.turn();
        }
        self.flush_and_retire();
        // What was dead becomes free, and is taken next.
        self.steps.rounds(20);
        for key in 1..5 {
            self.put(key, 20 + key * 9);
        }
        self.remove(4);
        self.flush_and_retire();
        self.turn();
        for bytes in [8, 100, 31] {
            self.put(0, bytes);
        }
        self.put(2, 64);
        self.remove(3);
        self.put(5, 200);
    }

    fn fill_up(&mut self) {
        self.turn();
        for _ in 1..FILLERS {
            self.put(FILLER, FILLER_BYTES);
        }
    }

    #[inline(never)]
    fn perform(&mut self, operation: Operation, value: Vec<u8>) {
        match operation {
            Operation::Put(key) => drop(self.steps.cache().put(key, value).expect("put")),
            Operation::Remove(key) => drop(self.steps.cache().remove(&key).expect("remove")),
            Operation::FlushAndRetire => self.flush_and_retire(),
            Operation::Copy => {
                assert!(matches!(self.steps.checkpoint(), Outcome::Done), "checkpoint");
            }
        }
    }
}

/// In the child: everything up to the first mark, the operation, and the second mark.
pub(crate) fn live(path: &Path, page: &'static Page, scenario: Scenario) {
    let steps = open(path, page, USUAL).expect("open");
    let mut life = Life { steps, page, number: 0 };
    life.history();
    if scenario.turns {
        life.fill_up();
    }
    let mut value = Vec::new();
    match scenario.operation {
        Operation::Put(key) => {
            let next = life.stamp(FILLER_BYTES + 32);
            page.keys[key as usize].next.store(next, SeqCst);
            value = value_of(next);
        }
        Operation::Remove(key) => page.keys[key as usize].next.store(0, SeqCst),
        Operation::FlushAndRetire => {}
        Operation::Copy => {
            page.is_down.store(1, SeqCst);
            assert!(matches!(life.steps.flush(), Outcome::Refused(_)), "the database is down");
        }
    }
    let before = life.steps.cache().stats().journal.expect("a journal");
    page.phase.store(BEGUN, SeqCst);
    mark();
    life.perform(scenario.operation, value);
    page.phase.store(ACKED, SeqCst);
    let after = life.steps.cache().stats().journal.expect("a journal");
    page.notes[0].store(after.copies - before.copies, SeqCst);
    page.notes[1].store(after.retirements - before.retirements, SeqCst);
    page.notes[2].store(before.free_bytes.saturating_sub(after.free_bytes) / 4096, SeqCst);
    mark();
}
