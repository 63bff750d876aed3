//! What is compared: each engine behind the same small trait, called as a careful user would call it.

mod array;
mod caches;
mod maps;
mod ours;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::workload::{Op, Stream};

use ours::{Face, Ours};

pub(crate) use caches::{Foyer, Moka, Quick, TinyUfo};

/// The hash function of all of them that let one be chosen, so that tables are compared and not hash functions.
pub(crate) type Hasher = foldhash::fast::RandomState;

/// An engine, from `u64` to `u64`.
pub(crate) trait Subject: Send + Sync {
    /// What a thread holds while it works: a handle, or nothing but the reference.
    type Local<'a>
    where
        Self: 'a;

    fn name(&self) -> &'static str;
    fn local(&self) -> Self::Local<'_>;
    fn get(local: &Self::Local<'_>, key: u64) -> Option<u64>;
    fn put(local: &Self::Local<'_>, key: u64, value: u64);
    fn remove(local: &Self::Local<'_>, key: u64);

    /// Whether it makes room by itself when it is full.
    fn evicts(&self) -> bool {
        false
    }

    /// Carries out what it has put off, so that it is within its bound.
    fn settle(&self) {}

    /// Its turn begins: what it does in the background it should do now. The slice takes about so long.
    fn enter(&self, _slice: Duration) {}

    /// Its turn is over: nothing should go on in the background.
    fn leave(&self) {}

    /// What it says of itself after the run, if that tells whether it did its whole work.
    fn account(&self) -> Option<String> {
        None
    }
}

/// How one operation follows the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Pace {
    /// The next one begins when the last one has ended, as if its key were known only then.
    Single,
    /// The processor may begin the next ones before the last has ended: many accesses of memory are on their way at
    /// once. No service works like this, but loops in benchmarks do.
    Overlapped,
}

/// Waits until the processor has done everything that the program asks for before this, except that stores may still be
/// on their way.
#[inline(always)]
fn wait_for_all_before() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this architecture has it; it reads and writes nothing.
    unsafe {
        std::arch::x86_64::_mm_lfence();
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every processor of this architecture has it; it reads and writes nothing.
    unsafe {
        std::arch::asm!("isb", options(nostack, preserves_flags));
    }
}

/// What came of a slice on one thread.
#[derive(Clone, Copy, Default)]
pub(crate) struct Slice {
    pub(crate) ops: u64,
    /// Reads that found nothing.
    pub(crate) misses: u64,
    pub(crate) took: Duration,
}

/// A [`Subject`] of any type.
pub(crate) trait AnySubject: Send + Sync {
    fn name(&self) -> &'static str;
    fn evicts(&self) -> bool;
    fn settle(&self);
    fn enter(&self, slice: Duration);
    fn leave(&self);
    fn account(&self) -> Option<String>;
    /// For the calling thread.
    fn worker(&self) -> Box<dyn Worker + '_>;
}

/// A thread's hold of a subject. Each call is one call through the table of methods, however many operations it does.
pub(crate) trait Worker {
    /// Works for at least this long.
    fn work(&mut self, stream: &mut Stream<'_>, pace: Pace, time: Duration) -> Slice;
    fn get(&mut self, key: u64) -> Option<u64>;
    fn put(&mut self, key: u64, value: u64);
    fn remove(&mut self, key: u64);
    /// Puts each of the keys.
    fn fill(&mut self, keys: &mut dyn Iterator<Item = u64>);
}

impl<S: Subject> AnySubject for S {
    fn name(&self) -> &'static str {
        Subject::name(self)
    }

    fn evicts(&self) -> bool {
        Subject::evicts(self)
    }

    fn settle(&self) {
        Subject::settle(self);
    }

    fn enter(&self, slice: Duration) {
        Subject::enter(self, slice);
    }

    fn leave(&self) {
        Subject::leave(self);
    }

    fn account(&self) -> Option<String> {
        Subject::account(self)
    }

    fn worker(&self) -> Box<dyn Worker + '_> {
        Box::new(Hold::<S> { local: self.local() })
    }
}

struct Hold<'a, S: Subject + 'a> {
    local: S::Local<'a>,
}

/// What was read, so that nothing is optimised away.
#[derive(Default)]
struct Read {
    misses: u64,
    sum: u64,
}

impl<'a, S: Subject + 'a> Hold<'a, S> {
    #[inline(always)]
    fn carry_out(&self, op: Op, read: &mut Read) {
        if op.writes() {
            S::put(&self.local, op.key(), op.key());
        } else {
            match S::get(&self.local, op.key()) {
                Some(value) => read.sum = read.sum.wrapping_add(value),
                None => read.misses += 1,
            }
        }
    }
}

impl<'a, S: Subject + 'a> Worker for Hold<'a, S> {
    fn work(&mut self, stream: &mut Stream<'_>, pace: Pace, time: Duration) -> Slice {
        let (mut ops, mut read) = (0, Read::default());
        let start = Instant::now();
        loop {
            let chunk = stream.chunk();
            match pace {
                Pace::Overlapped => chunk.iter().for_each(|op| self.carry_out(*op, &mut read)),
                Pace::Single => {
                    for op in chunk {
                        self.carry_out(*op, &mut read);
                        wait_for_all_before();
                    }
                }
            }
            ops += chunk.len() as u64;
            let took = start.elapsed();
            if took >= time {
                std::hint::black_box(read.sum);
                return Slice { ops, misses: read.misses, took };
            }
        }
    }

    fn get(&mut self, key: u64) -> Option<u64> {
        S::get(&self.local, key)
    }

    fn put(&mut self, key: u64, value: u64) {
        S::put(&self.local, key, value);
    }

    fn remove(&mut self, key: u64) {
        S::remove(&self.local, key);
    }

    fn fill(&mut self, keys: &mut dyn Iterator<Item = u64>) {
        keys.for_each(|key| S::put(&self.local, key, key));
    }
}

/// The array that all others are measured against, and how it is called in tables.
pub(crate) const BASE: &str = "array of atomics";
/// This engine, through a leased handle, without and with a journal.
pub(crate) const OURS: &str = "writeback, handle";
pub(crate) const OURS_JOURNALED: &str = "writeback, Ack::Journal";

/// Makes a subject with room for so many entries; its files go into the folder.
type Maker = fn(usize, &Path) -> Box<dyn AnySubject>;

/// Everyone; the array is the first.
const MAKERS: [(&str, Maker); 11] = [
    (BASE, |capacity, _| Box::new(array::Array::new(capacity))),
    ("dashmap", |capacity, _| Box::new(maps::Dash::new(capacity))),
    ("scc", |capacity, _| Box::new(maps::Scc::new(capacity))),
    ("papaya", |capacity, _| Box::new(maps::Papaya::new(capacity))),
    ("quick_cache", |capacity, _| Box::new(caches::Quick::new(capacity))),
    ("TinyUFO", |capacity, _| Box::new(caches::TinyUfo::new(capacity))),
    ("foyer", |capacity, _| Box::new(caches::Foyer::new(capacity))),
    ("moka", |capacity, _| Box::new(caches::Moka::new(capacity))),
    (OURS, |capacity, folder| Box::new(Ours::new(Face::Handle, capacity, folder))),
    ("writeback, cache", |capacity, folder| Box::new(Ours::new(Face::Cache, capacity, folder))),
    (OURS_JOURNALED, |capacity, folder| Box::new(Ours::new(Face::Journal, capacity, folder))),
];

/// All whose names are wanted.
pub(crate) fn some(
    capacity: usize,
    folder: &Path,
    is_wanted: impl Fn(&str) -> bool,
) -> Vec<Box<dyn AnySubject>> {
    let wanted = MAKERS.iter().filter(|(name, _)| is_wanted(name));
    wanted.map(|(_, make)| make(capacity, folder)).collect()
}

/// All names, in the order of the tables.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    MAKERS.iter().map(|(name, _)| *name)
}
