//! What the engine counts, and a snapshot of it.

use std::{ops::RangeInclusive, time::Duration};

use crate::sync::{AtomicU64, Ordering};

/// Counters of one thread: only it writes them, anyone may read them.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) loads: Counter,
    pub(crate) load_errors: Counter,
    pub(crate) puts: Counter,
    pub(crate) removes: Counter,
    pub(crate) waits: Counter,
    pub(crate) throttled: Counter,
    pub(crate) throttled_nanos: Counter,
}

impl Counters {
    /// Adds what `other` has counted.
    pub(crate) fn absorb(&self, other: &Counters) {
        let pairs = [
            (&self.hits, &other.hits),
            (&self.misses, &other.misses),
            (&self.loads, &other.loads),
            (&self.load_errors, &other.load_errors),
            (&self.puts, &other.puts),
            (&self.removes, &other.removes),
            (&self.waits, &other.waits),
            (&self.throttled, &other.throttled),
            (&self.throttled_nanos, &other.throttled_nanos),
        ];
        pairs.into_iter().for_each(|(mine, theirs)| mine.add(theirs.get()));
    }
}

/// A count with one writer.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`. Not a read-modify-write: two threads that call this lose counts.
    pub(crate) fn add(&self, more: u64) {
        // Relaxed: a count.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the flusher counts. Only it writes them.
#[derive(Default)]
pub(crate) struct FlushCounters {
    pub(crate) in_flight: Counter,
    pub(crate) parked: Counter,
    pub(crate) writes: Counter,
    pub(crate) errors: Counter,
    pub(crate) batches: Counter,
    pub(crate) by_trigger: [Counter; 4],
    pub(crate) retries: Counter,
    pub(crate) panics: Counter,
    pub(crate) wakeups: Counter,
    /// 1: the breaker is open.
    pub(crate) breaker: Counter,
    pub(crate) batch_sizes: BatchCounters,
    /// In nanoseconds, how long the backend took for all batches.
    pub(crate) backend_time: Counter,
    /// Since when the oldest entry has been dirty.
    pub(crate) oldest_dirty: Counter,
    pub(crate) overflows: Counter,
}

impl Counter {
    pub(crate) fn set(&self, value: u64) {
        // Relaxed: a gauge.
        self.0.store(value, Ordering::Relaxed);
    }

    /// Counts a time; 584 years before it runs over.
    pub(crate) fn add_time(&self, time: Duration) {
        self.add(nanoseconds(time));
    }

    /// A gauge of a time, or of none.
    pub(crate) fn set_time(&self, time: Option<Duration>) {
        self.set(time.map_or(0, |time| nanoseconds(time).saturating_add(1)));
    }

    /// What [`Counter::set_time`] was given last.
    pub(crate) fn time(&self) -> Option<Duration> {
        self.get().checked_sub(1).map(Duration::from_nanos)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Sizes of batches by their binary logarithm; the last one also counts all that are larger.
const SIZES: usize = 24;

/// The sizes of batches, as the flusher counts them.
#[derive(Default)]
pub(crate) struct BatchCounters {
    counts: [Counter; SIZES],
    operations: Counter,
    largest: Counter,
}

impl BatchCounters {
    pub(crate) fn note(&self, operations: usize) {
        let bucket = operations.max(1).ilog2() as usize;
        self.counts[bucket.min(SIZES - 1)].add(1);
        self.operations.add(operations as u64);
        self.largest.set(self.largest.get().max(operations as u64));
    }

    pub(crate) fn snapshot(&self) -> BatchSizes {
        BatchSizes {
            counts: self.counts.each_ref().map(Counter::get),
            operations: self.operations.get(),
            largest: self.largest.get(),
        }
    }
}

/// How many operations the batches had that the backend was given.
#[derive(Debug, Clone, Default)]
pub struct BatchSizes {
    counts: [u64; SIZES],
    operations: u64,
    largest: u64,
}

impl BatchSizes {
    /// Operations of all batches together, those that were sent again included.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// The mean; 0 if there was no batch yet.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let batches: u64 = self.counts.iter().sum();
        if batches == 0 { 0.0 } else { self.operations as f64 / batches as f64 }
    }

    /// The largest batch; 0 if there was none yet.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.largest
    }

    /// A histogram: for sizes 1, 2–3, 4–7 and so on, how many batches had such a size. The last range is open.
    pub fn buckets(&self) -> impl Iterator<Item = (RangeInclusive<u64>, u64)> + '_ {
        self.counts.iter().enumerate().map(|(bucket, count)| {
            let end = if bucket + 1 == SIZES { u64::MAX } else { (2 << bucket) - 1 };
            (1 << bucket..=end, *count)
        })
    }
}

/// A snapshot of what the cache has done and what it holds.
///
/// Each number is right by itself; numbers of different threads may be a few operations apart.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Entries in the table, tombstones and running loads included.
    pub entries: usize,
    /// The most entries that the cache holds.
    pub capacity: usize,
    /// What the entries weigh in all; 0 without a weigher.
    pub weight: u64,
    /// What they may weigh in all.
    pub max_weight: Option<u64>,
    /// Entries whose newest version is not in the backend yet.
    pub dirty: usize,
    /// How long the oldest entry has been dirty that was not parked, by the cache's clock. Never less than it really is, and
    /// at most an eighth of `max_delay` more; an entry that became dirty within that time may not be seen yet. `None`: there
    /// is none.
    pub oldest_dirty_age: Option<Duration>,
    /// How many entries may be dirty; see [`max_dirty`](crate::Builder::max_dirty).
    pub max_dirty: Option<usize>,
    /// What the dirty entries take, in the unit of the weigher, or in bytes; 0 if that is not limited.
    pub dirty_bytes: u64,
    /// What they may take; see [`max_dirty_bytes`](crate::Builder::max_dirty_bytes).
    pub max_dirty_bytes: Option<u64>,
    /// Operations that the backend is working on.
    pub in_flight: usize,
    /// Dirty entries that the backend has refused for good, and that are no dead letters; see
    /// [`ErrorClass::Permanent`](crate::ErrorClass).
    pub parked: usize,
    /// Open dead letters: writes that the backend has refused for good, which are kept in a file beside the journal. See
    /// [`Cache::dead_letters`](crate::Cache::dead_letters).
    pub dead_letters: usize,
    /// Bytes of that file.
    pub dead_letter_bytes: u64,
    /// How many times a refused write could not become a dead letter, because their file was full or could not be written. It
    /// stayed parked.
    pub dead_letters_unkept: u64,
    /// Reads that were answered from the table.
    pub hits: u64,
    /// Reads that were not.
    pub misses: u64,
    /// Keys that were asked of the backend.
    pub loads: u64,
    /// Keys that the backend could not be asked for.
    pub load_errors: u64,
    /// Writes of values that were accepted.
    pub puts: u64,
    /// Removes that were accepted.
    pub removes: u64,
    /// Entries that left because room was needed.
    pub evictions: u64,
    /// Operations that the backend has stored.
    pub backend_writes: u64,
    /// Operations that the backend has refused.
    pub backend_errors: u64,
    /// Batches that the backend was given.
    pub batches: u64,
    /// How large they were.
    pub batch_sizes: BatchSizes,
    /// How long the backend took for all of them that have come back, in real time; without the syncs of a journal.
    pub backend_time: Duration,
    /// Batches that were sent because an entry had been dirty for `max_delay`, or was due for a retry.
    pub flushes_timer: u64,
    /// Batches that were sent because `flush_at` entries were dirty.
    pub flushes_threshold: u64,
    /// Batches that were sent because room was needed.
    pub flushes_pressure: u64,
    /// Batches that were sent because somebody asked: `flush`, `Ack::Backend`, `close`.
    pub flushes_explicit: u64,
    /// Accepted writes that needed no backend write of their own, because a later one of the same key covered them.
    pub coalesced: u64,
    /// Operations that were sent again.
    pub retries: u64,
    /// Whether the backend took nothing when it was last asked, so that only probes are sent to it, one at a time.
    pub backend_down: bool,
    /// Calls of the backend that panicked.
    pub backend_panics: u64,
    /// Entries whose dirtiness did not go through a ring: it was full, or another thread helped.
    pub ring_overflows: u64,
    /// Writes that had to wait for room.
    pub writer_waits: u64,
    /// Writes that were slowed down because a dirty limit was near; see [`throttle`](crate::Builder::throttle).
    pub throttled_writes: u64,
    /// How long writers were slowed down, or waited for room, in all.
    pub throttled_time: std::time::Duration,
    /// How many times the flusher woke up.
    pub wakeups: u64,
    /// Events that the listener was too slow for; see [`Event::Missed`](crate::Event::Missed).
    pub events_dropped: u64,
    /// How many times the listener has panicked.
    pub listener_panics: u64,
    /// What the journal has done, if there is one.
    pub journal: Option<JournalStats>,
}

/// The part of [`Stats`] that is about the journal.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct JournalStats {
    /// How large the file is.
    pub bytes: u64,
    /// How much of it could be written at once; the rest holds records that may still be needed, or is reserved for copies
    /// of them.
    pub free_bytes: u64,
    /// Successful and failed calls of `fdatasync`.
    pub syncs: u64,
    /// Failed ones.
    pub sync_errors: u64,
    /// How long a sync that has not come back has been running.
    pub sync_running: Option<Duration>,
    /// How long the oldest write may have been waiting for a sync: the time since the last successful sync began, if something
    /// was written or failed since. The oldest such write is at most this old. `None`: all is on stable storage.
    pub sync_lag: Option<Duration>,
    /// Whether a sync has failed, and what was in the journal has not been written anew since. No write is acknowledged as
    /// [`Ack::Synced`](crate::Ack::Synced) until that is done.
    pub is_poisoned: bool,
    /// Records that were written a second time, so that the space of the first could be used again.
    pub copies: u64,
    /// How many times older records were declared dead.
    pub retirements: u64,
    /// How many times the file could not be made larger.
    pub growth_errors: u64,
    /// Entries that were recovered when the cache was opened.
    pub recovered: u64,
    /// Damaged places that were found then.
    pub damages: u64,
    /// It was opened for another backend than the one it belonged to, or without a part that is missing: what it holds may
    /// not fit what the backend holds.
    pub is_inconsistent: bool,
}

impl Stats {
    /// Accepted writes for each backend write; 1 if there was none yet.
    #[must_use]
    pub fn coalescing_ratio(&self) -> f64 {
        let written = self.backend_writes.max(1) as f64;
        if self.backend_writes == 0 { 1.0 } else { (self.backend_writes + self.coalesced) as f64 / written }
    }

    /// The share of reads that were answered from the table, 0 to 1; 0 if there was no read.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        let reads = self.hits + self.misses;
        if reads == 0 { 0.0 } else { self.hits as f64 / reads as f64 }
    }
}
