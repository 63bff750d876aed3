//! The statistics of a cache, as a recorder of the `metrics` facade sees them.

#![cfg(feature = "metrics")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use writeback::{Cache, backend::Memory};

/// Remembers everything.
#[derive(Default)]
struct Book {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    units: Mutex<BTreeMap<String, Unit>>,
}

/// `name{label=value,…}`.
fn full_name(key: &Key) -> String {
    let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

impl Recorder for Book {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.units.lock().unwrap().extend(unit.map(|unit| (key.as_str().to_owned(), unit)));
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.units.lock().unwrap().extend(unit.map(|unit| (key.as_str().to_owned(), unit)));
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::clone(self.counters.lock().unwrap().entry(full_name(key)).or_default()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::clone(self.gauges.lock().unwrap().entry(full_name(key)).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Book {
    fn counter(&self, name: &str) -> Option<u64> {
        self.counters.lock().unwrap().get(name).map(|value| value.load(Ordering::Relaxed))
    }

    fn gauge(&self, name: &str) -> Option<f64> {
        let gauges = self.gauges.lock().unwrap();
        gauges.get(name).map(|value| f64::from_bits(value.load(Ordering::Relaxed)))
    }
}

#[test]
fn what_is_exported_is_what_the_statistics_say() {
    let folder = tempfile::tempdir().unwrap();
    let plain = Cache::builder().name("plain").capacity(100).backend(Memory::new());
    let plain = plain.open::<u64, u64>().unwrap();
    let builder = Cache::builder().name("kept").capacity(100).journal(folder.path().join("metrics.journal"));
    let kept = builder.max_dirty(50).backend(Memory::new()).open::<u64, u64>().unwrap();
    let book = Book::default();
    metrics::with_local_recorder(&book, || {
        writeback::metrics::describe();
        for round in 0..3 {
            for key in 0..10 {
                plain.put(key, round).unwrap();
            }
        }
        plain.flush().unwrap();
        plain.export_metrics();
        // A second time changes nothing that did not change.
        plain.export_metrics();
        kept.put(1, 1).unwrap();
        kept.sync().unwrap();
        kept.export_metrics();
    });
    let stats = plain.stats();
    assert_eq!(book.counter("writeback_puts_total{cache=plain}"), Some(30));
    assert_eq!(book.counter("writeback_backend_writes_total{cache=plain}"), Some(stats.backend_writes));
    assert_eq!(
        book.counter("writeback_batches_total{cache=plain,trigger=explicit}"),
        Some(stats.flushes_explicit)
    );
    assert_eq!(book.gauge("writeback_entries{cache=plain}"), Some(10.0));
    assert_eq!(book.gauge("writeback_dirty_entries{cache=plain}"), Some(0.0));
    assert_eq!(book.gauge("writeback_coalescing_ratio{cache=plain}"), Some(stats.coalescing_ratio()));
    // What does not exist is not exported as a zero.
    assert_eq!(book.gauge("writeback_max_weight{cache=plain}"), None);
    assert_eq!(book.gauge("writeback_journal_bytes{cache=plain}"), None);
    assert_eq!(book.gauge("writeback_max_dirty_entries{cache=plain}"), None);
    assert_eq!(book.gauge("writeback_dead_letter_bytes{cache=plain}"), None);
    assert_eq!(book.gauge("writeback_max_dirty_entries{cache=kept}"), Some(50.0));
    assert_eq!(book.gauge("writeback_dead_letters{cache=kept}"), Some(0.0));
    assert_eq!(book.gauge("writeback_backend_down{cache=kept}"), Some(0.0));
    let journal = kept.stats().journal.unwrap();
    assert_eq!(book.gauge("writeback_journal_bytes{cache=kept}"), Some(journal.bytes as f64));
    assert_eq!(book.gauge("writeback_journal_poisoned{cache=kept}"), Some(0.0));
    assert_eq!(book.units.lock().unwrap()["writeback_oldest_dirty_age_seconds"], Unit::Seconds);
}
