//! The statistics of caches as metrics, for whatever exporter the `metrics` facade has (feature `metrics`).
//!
//! Nothing is counted twice and nothing is counted on the way of a read or a write: the numbers are those of
//! [`Stats`], and go to the recorder when [`Cache::export_metrics`] is called. Call it before each scrape, or every few
//! seconds. Each metric has the label `cache`, the cache's [name](crate::Builder::name).
//!
//! ```
//! use writeback::{Cache, backend::Memory};
//!
//! // Once, after the process has installed its recorder.
//! writeback::metrics::describe();
//!
//! let cache = Cache::builder().name("scores").capacity(100).backend(Memory::new()).open::<u64, u64>()?;
//! cache.export_metrics();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Gauges
//!
//! | name | unit | |
//! |---|---|---|
//! | `writeback_entries` | | entries in the table, tombstones and running loads included |
//! | `writeback_capacity_entries` | | the most that it holds |
//! | `writeback_weight` | the weigher's | what the entries weigh; 0 without a weigher |
//! | `writeback_max_weight` | the weigher's | what they may weigh; only with a weigher |
//! | `writeback_dirty_entries` | | entries that the backend has not got |
//! | `writeback_max_dirty_entries` | | how many entries may be dirty; only with that limit |
//! | `writeback_dirty_bytes` | bytes, or the weigher's | what the dirty entries take; only with that limit, as the following |
//! | `writeback_max_dirty_bytes` | bytes, or the weigher's | what they may take |
//! | `writeback_oldest_dirty_age_seconds` | seconds | how long the oldest of them has been dirty, parked ones left out; 0: none |
//! | `writeback_in_flight_operations` | | operations that the backend is working on |
//! | `writeback_parked_entries` | | entries that the backend has refused for good |
//! | `writeback_dead_letters` | | open dead letters: refused for good, and kept in a file |
//! | `writeback_dead_letter_bytes` | bytes | how large that file is |
//! | `writeback_backend_down` | | 1: the circuit breaker is open, the backend is only probed |
//! | `writeback_coalescing_ratio` | | accepted writes for each backend write |
//! | `writeback_hit_ratio` | | share of reads that were answered from the table |
//! | `writeback_largest_batch_operations` | | the largest batch so far |
//! | `writeback_journal_bytes` | bytes | how large the journal's file is; this and the following only with a journal |
//! | `writeback_journal_free_bytes` | bytes | how much of it could be written at once |
//! | `writeback_journal_sync_lag_seconds` | seconds | how long a write may have been waiting for a sync; 0: none does |
//! | `writeback_journal_sync_running_seconds` | seconds | how long the sync has been running that has not come back; 0: none |
//! | `writeback_journal_poisoned` | | 1: a sync has failed, and nothing has made up for it yet |
//! | `writeback_journal_inconsistent` | | 1: the journal may not fit the backend |
//! | `writeback_journal_recovered_entries` | | entries that were recovered when the cache was opened |
//! | `writeback_journal_damages` | | damaged places that were found then |
//!
//! # Counters
//!
//! | name | unit | |
//! |---|---|---|
//! | `writeback_hits_total` | | reads that were answered from the table |
//! | `writeback_misses_total` | | reads that were not |
//! | `writeback_loads_total` | | keys that were asked of the backend |
//! | `writeback_load_errors_total` | | keys that it could not be asked for |
//! | `writeback_puts_total` | | accepted writes of values |
//! | `writeback_removes_total` | | accepted removes |
//! | `writeback_evictions_total` | | entries that left because room was needed |
//! | `writeback_backend_writes_total` | | operations that the backend has stored |
//! | `writeback_backend_errors_total` | | operations that it has refused |
//! | `writeback_batches_total` | | batches that it was given; label `trigger`: `timer`, `threshold`, `pressure`, `explicit` |
//! | `writeback_batch_operations_total` | | operations in them |
//! | `writeback_backend_microseconds_total` | microseconds | how long it took for those that have come back |
//! | `writeback_coalesced_writes_total` | | accepted writes that needed no backend write of their own |
//! | `writeback_retries_total` | | operations that were sent again |
//! | `writeback_backend_panics_total` | | calls of the backend that panicked |
//! | `writeback_ring_overflows_total` | | entries whose dirtiness did not go through a ring |
//! | `writeback_writer_waits_total` | | writes that had to wait for room |
//! | `writeback_throttled_writes_total` | | writes that were slowed down because a dirty limit was near |
//! | `writeback_throttled_microseconds_total` | microseconds | how long writers were slowed down, or waited for room |
//! | `writeback_dead_letters_unkept_total` | | refused writes that no dead letter could be written for; they stayed parked |
//! | `writeback_flusher_wakeups_total` | | how many times the flusher woke up |
//! | `writeback_events_dropped_total` | | events that the listener was too slow for |
//! | `writeback_listener_panics_total` | | how many times the listener has panicked |
//! | `writeback_journal_syncs_total` | | syncs of the journal; this and the following only with a journal |
//! | `writeback_journal_sync_errors_total` | | failed ones |
//! | `writeback_journal_copies_total` | | records that were written a second time |
//! | `writeback_journal_retirements_total` | | how many times older records were declared dead |
//! | `writeback_journal_growth_errors_total` | | how many times the file could not be made larger |

use std::hash::{BuildHasher, Hash};

use ::metrics::{Label, Unit};

use crate::{Cache, JournalStats, Stats};

/// How a metric is read from the statistics. `None`: there is nothing to say.
enum Reading {
    Gauge(fn(&Stats) -> Option<f64>),
    Counter(fn(&Stats) -> Option<u64>),
}

use Reading::{Counter, Gauge};

struct Metric {
    name: &'static str,
    unit: Unit,
    /// Beside the cache's name.
    label: Option<(&'static str, &'static str)>,
    reading: Reading,
    meaning: &'static str,
}

const fn metric(name: &'static str, unit: Unit, reading: Reading, meaning: &'static str) -> Metric {
    Metric { name, unit, label: None, reading, meaning }
}

const fn batches(trigger: &'static str, reading: fn(&Stats) -> Option<u64>) -> Metric {
    Metric {
        name: "writeback_batches_total",
        unit: Unit::Count,
        label: Some(("trigger", trigger)),
        reading: Counter(reading),
        meaning: "batches that the backend was given",
    }
}

fn journal<R>(stats: &Stats, read: impl FnOnce(&JournalStats) -> R) -> Option<R> {
    stats.journal.as_ref().map(read)
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

const METRICS: &[Metric] = &[
    metric(
        "writeback_entries",
        Unit::Count,
        Gauge(|stats| Some(stats.entries as f64)),
        "entries in the table, tombstones and running loads included",
    ),
    metric(
        "writeback_capacity_entries",
        Unit::Count,
        Gauge(|stats| Some(stats.capacity as f64)),
        "the most that it holds",
    ),
    metric(
        "writeback_weight",
        Unit::Count,
        Gauge(|stats| Some(stats.weight as f64)),
        "what the entries weigh; 0 without a weigher",
    ),
    metric(
        "writeback_max_weight",
        Unit::Count,
        Gauge(|stats| stats.max_weight.map(|weight| weight as f64)),
        "what they may weigh; only with a weigher",
    ),
    metric(
        "writeback_dirty_entries",
        Unit::Count,
        Gauge(|stats| Some(stats.dirty as f64)),
        "entries that the backend has not got",
    ),
    metric(
        "writeback_max_dirty_entries",
        Unit::Count,
        Gauge(|stats| stats.max_dirty.map(|limit| limit as f64)),
        "how many entries may be dirty",
    ),
    metric(
        "writeback_dirty_bytes",
        Unit::Bytes,
        Gauge(|stats| stats.max_dirty_bytes.map(|_| stats.dirty_bytes as f64)),
        "what the dirty entries take",
    ),
    metric(
        "writeback_max_dirty_bytes",
        Unit::Bytes,
        Gauge(|stats| stats.max_dirty_bytes.map(|limit| limit as f64)),
        "what the dirty entries may take",
    ),
    metric(
        "writeback_oldest_dirty_age_seconds",
        Unit::Seconds,
        Gauge(|stats| Some(stats.oldest_dirty_age.map_or(0.0, |age| age.as_secs_f64()))),
        "how long the oldest of them has been dirty, parked ones left out; 0: none",
    ),
    metric(
        "writeback_in_flight_operations",
        Unit::Count,
        Gauge(|stats| Some(stats.in_flight as f64)),
        "operations that the backend is working on",
    ),
    metric(
        "writeback_parked_entries",
        Unit::Count,
        Gauge(|stats| Some(stats.parked as f64)),
        "entries that the backend has refused for good",
    ),
    metric(
        "writeback_dead_letters",
        Unit::Count,
        Gauge(|stats| Some(stats.dead_letters as f64)),
        "open dead letters: refused for good, and kept in a file",
    ),
    metric(
        "writeback_dead_letter_bytes",
        Unit::Bytes,
        Gauge(|stats| stats.journal.as_ref().map(|_| stats.dead_letter_bytes as f64)),
        "how large the file of dead letters is",
    ),
    metric(
        "writeback_backend_down",
        Unit::Count,
        Gauge(|stats| Some(flag(stats.backend_down))),
        "1: the circuit breaker is open, the backend is only probed",
    ),
    metric(
        "writeback_coalescing_ratio",
        Unit::Count,
        Gauge(|stats| Some(stats.coalescing_ratio())),
        "accepted writes for each backend write",
    ),
    metric(
        "writeback_hit_ratio",
        Unit::Count,
        Gauge(|stats| Some(stats.hit_ratio())),
        "share of reads that were answered from the table",
    ),
    metric(
        "writeback_largest_batch_operations",
        Unit::Count,
        Gauge(|stats| Some(stats.batch_sizes.max() as f64)),
        "the largest batch so far",
    ),
    metric(
        "writeback_journal_bytes",
        Unit::Bytes,
        Gauge(|stats| journal(stats, |journal| journal.bytes as f64)),
        "how large the journal's file is",
    ),
    metric(
        "writeback_journal_free_bytes",
        Unit::Bytes,
        Gauge(|stats| journal(stats, |journal| journal.free_bytes as f64)),
        "how much of it could be written at once",
    ),
    metric(
        "writeback_journal_sync_lag_seconds",
        Unit::Seconds,
        Gauge(|stats| journal(stats, |journal| journal.sync_lag.map_or(0.0, |lag| lag.as_secs_f64()))),
        "how long a write may have been waiting for a sync; 0: none does",
    ),
    metric(
        "writeback_journal_sync_running_seconds",
        Unit::Seconds,
        Gauge(|stats| journal(stats, |journal| journal.sync_running.map_or(0.0, |time| time.as_secs_f64()))),
        "how long the sync has been running that has not come back; 0: none",
    ),
    metric(
        "writeback_journal_poisoned",
        Unit::Count,
        Gauge(|stats| journal(stats, |journal| flag(journal.is_poisoned))),
        "1: a sync has failed, and nothing has made up for it yet",
    ),
    metric(
        "writeback_journal_inconsistent",
        Unit::Count,
        Gauge(|stats| journal(stats, |journal| flag(journal.is_inconsistent))),
        "1: the journal may not fit the backend",
    ),
    metric(
        "writeback_journal_recovered_entries",
        Unit::Count,
        Gauge(|stats| journal(stats, |journal| journal.recovered as f64)),
        "entries that were recovered when the cache was opened",
    ),
    metric(
        "writeback_journal_damages",
        Unit::Count,
        Gauge(|stats| journal(stats, |journal| journal.damages as f64)),
        "damaged places that were found then",
    ),
    metric(
        "writeback_hits_total",
        Unit::Count,
        Counter(|stats| Some(stats.hits)),
        "reads that were answered from the table",
    ),
    metric("writeback_misses_total", Unit::Count, Counter(|stats| Some(stats.misses)), "reads that were not"),
    metric(
        "writeback_loads_total",
        Unit::Count,
        Counter(|stats| Some(stats.loads)),
        "keys that were asked of the backend",
    ),
    metric(
        "writeback_load_errors_total",
        Unit::Count,
        Counter(|stats| Some(stats.load_errors)),
        "keys that it could not be asked for",
    ),
    metric(
        "writeback_puts_total",
        Unit::Count,
        Counter(|stats| Some(stats.puts)),
        "accepted writes of values",
    ),
    metric("writeback_removes_total", Unit::Count, Counter(|stats| Some(stats.removes)), "accepted removes"),
    metric(
        "writeback_evictions_total",
        Unit::Count,
        Counter(|stats| Some(stats.evictions)),
        "entries that left because room was needed",
    ),
    metric(
        "writeback_backend_writes_total",
        Unit::Count,
        Counter(|stats| Some(stats.backend_writes)),
        "operations that the backend has stored",
    ),
    metric(
        "writeback_backend_errors_total",
        Unit::Count,
        Counter(|stats| Some(stats.backend_errors)),
        "operations that it has refused",
    ),
    batches("timer", |stats| Some(stats.flushes_timer)),
    batches("threshold", |stats| Some(stats.flushes_threshold)),
    batches("pressure", |stats| Some(stats.flushes_pressure)),
    batches("explicit", |stats| Some(stats.flushes_explicit)),
    metric(
        "writeback_batch_operations_total",
        Unit::Count,
        Counter(|stats| Some(stats.batch_sizes.operations())),
        "operations in them",
    ),
    metric(
        "writeback_backend_microseconds_total",
        Unit::Microseconds,
        Counter(|stats| Some(u64::try_from(stats.backend_time.as_micros()).unwrap_or(u64::MAX))),
        "how long it took for those that have come back",
    ),
    metric(
        "writeback_coalesced_writes_total",
        Unit::Count,
        Counter(|stats| Some(stats.coalesced)),
        "accepted writes that needed no backend write of their own",
    ),
    metric(
        "writeback_retries_total",
        Unit::Count,
        Counter(|stats| Some(stats.retries)),
        "operations that were sent again",
    ),
    metric(
        "writeback_backend_panics_total",
        Unit::Count,
        Counter(|stats| Some(stats.backend_panics)),
        "calls of the backend that panicked",
    ),
    metric(
        "writeback_ring_overflows_total",
        Unit::Count,
        Counter(|stats| Some(stats.ring_overflows)),
        "entries whose dirtiness did not go through a ring",
    ),
    metric(
        "writeback_writer_waits_total",
        Unit::Count,
        Counter(|stats| Some(stats.writer_waits)),
        "writes that had to wait for room",
    ),
    metric(
        "writeback_throttled_writes_total",
        Unit::Count,
        Counter(|stats| Some(stats.throttled_writes)),
        "writes that were slowed down because a dirty limit was near",
    ),
    metric(
        "writeback_throttled_microseconds_total",
        Unit::Microseconds,
        Counter(|stats| Some(stats.throttled_time.as_micros() as u64)),
        "how long writers were slowed down, or waited for room",
    ),
    metric(
        "writeback_dead_letters_unkept_total",
        Unit::Count,
        Counter(|stats| Some(stats.dead_letters_unkept)),
        "refused writes that no dead letter could be written for",
    ),
    metric(
        "writeback_flusher_wakeups_total",
        Unit::Count,
        Counter(|stats| Some(stats.wakeups)),
        "how many times the flusher woke up",
    ),
    metric(
        "writeback_events_dropped_total",
        Unit::Count,
        Counter(|stats| Some(stats.events_dropped)),
        "events that the listener was too slow for",
    ),
    metric(
        "writeback_listener_panics_total",
        Unit::Count,
        Counter(|stats| Some(stats.listener_panics)),
        "how many times the listener has panicked",
    ),
    metric(
        "writeback_journal_syncs_total",
        Unit::Count,
        Counter(|stats| journal(stats, |journal| journal.syncs)),
        "syncs of the journal",
    ),
    metric(
        "writeback_journal_sync_errors_total",
        Unit::Count,
        Counter(|stats| journal(stats, |journal| journal.sync_errors)),
        "failed ones",
    ),
    metric(
        "writeback_journal_copies_total",
        Unit::Count,
        Counter(|stats| journal(stats, |journal| journal.copies)),
        "records that were written a second time",
    ),
    metric(
        "writeback_journal_retirements_total",
        Unit::Count,
        Counter(|stats| journal(stats, |journal| journal.retirements)),
        "how many times older records were declared dead",
    ),
    metric(
        "writeback_journal_growth_errors_total",
        Unit::Count,
        Counter(|stats| journal(stats, |journal| journal.growth_errors)),
        "how many times the file could not be made larger",
    ),
];

/// Tells the recorder of the process what the metrics mean and in which units they are. Once is enough, after the recorder was
/// installed.
pub fn describe() {
    for Metric { name, unit, reading, meaning, .. } in METRICS {
        match reading {
            Gauge(_) => ::metrics::describe_gauge!(*name, *unit, *meaning),
            Counter(_) => ::metrics::describe_counter!(*name, *unit, *meaning),
        }
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Gives the recorder of the process what [`stats`](Cache::stats) knows: gauges as they are, counters as absolute values.
    /// See [`metrics`](crate::metrics) for what there is. Does not wait for anything; without a recorder it does nothing.
    pub fn export_metrics(&self) {
        let stats = self.stats();
        let name: std::sync::Arc<str> = self.name().into();
        for Metric { name: metric, label, reading, .. } in METRICS {
            let mut labels = vec![Label::new("cache", std::sync::Arc::clone(&name))];
            labels.extend(label.map(|(key, value)| Label::new(key, value)));
            match reading {
                Gauge(read) => {
                    if let Some(value) = read(&stats) {
                        ::metrics::gauge!(*metric, labels).set(value);
                    }
                }
                Counter(read) => {
                    if let Some(value) = read(&stats) {
                        ::metrics::counter!(*metric, labels).absolute(value);
                    }
                }
            }
        }
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    /// Catches: a metric that nobody can look up, or one with another unit than its line says.
    #[test]
    fn every_metric_is_in_the_documentation() {
        let documentation = include_str!("metrics.rs");
        let rows = documentation.lines().filter(|line| line.starts_with("//! | `writeback_")).count();
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.dedup();
        assert_eq!(names.len(), rows);
        for Metric { name, unit, .. } in METRICS {
            let unit = match unit {
                Unit::Count if name.ends_with("weight") => "the weigher's |",
                Unit::Count => "|",
                Unit::Bytes if name.ends_with("dirty_bytes") => "bytes, or the weigher's |",
                Unit::Bytes => "bytes |",
                Unit::Seconds => "seconds |",
                Unit::Microseconds => "microseconds |",
                other => panic!("{name}: {other:?}"),
            };
            assert!(documentation.contains(&format!("//! | `{name}` | {unit}")), "{name}");
        }
    }
}
