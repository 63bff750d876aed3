//! Many writes, few backend writes; and which trigger started a flush.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use writeback::{Change, Clock};

use crate::common::{Audit, NEVER, eventually, quiet, stays};

/// Catches: a backend write for each write of the cache.
#[test]
fn c08_a_hundred_updates_in_one_interval_are_one_backend_write() {
    let rows = Audit::new();
    let (clock, time) = Clock::manual();
    let second = Duration::from_secs(1);
    let cache = quiet().max_delay(second).clock(clock).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for interval in 1..=5 {
        for _ in 0..100 {
            cache.update(7, |old| old.unwrap_or(&0) + 1).unwrap();
        }
        eventually("the key was flushed", || {
            time.advance(second);
            !cache.is_dirty(&7)
        });
        assert_eq!(rows.get(&7), Some(100 * interval));
        assert_eq!(rows.ops_applied(), interval);
    }
    let stats = cache.stats();
    assert_eq!((stats.puts, stats.backend_writes, stats.coalesced), (500, 5, 495));
    assert!((stats.coalescing_ratio() - 100.0).abs() < 1e-9, "{}", stats.coalescing_ratio());
    assert!(stats.flushes_timer >= 5);
    rows.check();
}

/// Catches: a put that is followed by a remove, or the other way round, being sent as two operations.
#[test]
fn c08_writes_and_removes_of_one_key_are_one_operation_with_the_last_word() {
    let rows = Audit::new();
    rows.insert(1, 10);
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 11).unwrap();
    cache.remove(&1).unwrap();
    cache.remove(&2).unwrap();
    cache.put(2, 22).unwrap();
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), rows.get(&2)), (None, Some(22)));
    let (first, second) = (rows.history(&1), rows.history(&2));
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(first[0].change(), &Change::Delete);
    assert_eq!(second[0].change(), &Change::Upsert(22));
    rows.check();
}

/// Catches: clean entries being flushed, and a flush of nothing calling the backend.
#[test]
fn c08_a_flush_of_nothing_new_costs_nothing() {
    let rows = Audit::new();
    (0..100).for_each(|key| drop(rows.insert(key, key)));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..100).for_each(|key| assert_eq!(cache.get(&key).unwrap(), Some(key)));
    cache.flush().unwrap();
    cache.put(5, 50).unwrap();
    cache.flush().unwrap();
    cache.flush().unwrap();
    assert_eq!((rows.ops_applied(), rows.batches()), (1, 1));
    assert_eq!(cache.stats().dirty, 0);
}

/// Catches: more backend writes for one key than there were intervals, under a stream of writes.
#[test]
fn c08_a_stream_of_writes_costs_one_backend_write_for_each_interval() {
    let rows = Audit::new();
    let delay = Duration::from_millis(40);
    let cache = quiet().max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let start = Instant::now();
    let mut writes = 0;
    while start.elapsed() < Duration::from_millis(1200) {
        writes += 1;
        cache.put(1, writes).unwrap();
    }
    let most = start.elapsed().as_millis() / delay.as_millis() + 2;
    let applied = u128::from(rows.ops_applied());
    assert!(applied <= most, "{applied} backend writes in {most} intervals");
    assert!(applied >= 3, "only {applied} backend writes: the test saw no stream");
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(writes));
    rows.check();
}

/// Catches: a timer that does not start a flush, or one that is counted under another trigger.
#[test]
fn trigger_timer_starts_a_flush_and_is_counted() {
    let rows = Audit::new();
    let (clock, time) = Clock::manual();
    let delay = Duration::from_secs(5);
    let cache = quiet().max_delay(delay).clock(clock).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    time.advance(delay - Duration::from_millis(1));
    stays("nothing is written before the deadline", || rows.batches() == 0);
    eventually("the timer flushed", || {
        time.advance(Duration::from_secs(1));
        rows.get(&1) == Some(1)
    });
    eventually("it was counted", || cache.stats().flushes_timer == 1);
    let stats = cache.stats();
    assert_eq!((stats.flushes_threshold, stats.flushes_pressure, stats.flushes_explicit), (0, 0, 0));
}

/// Catches: a dirty count above the limit that starts nothing, or a flush below it.
#[test]
fn trigger_threshold_starts_a_flush_and_is_counted() {
    let rows = Audit::new();
    let cache = quiet().flush_at(50).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..40).for_each(|key| drop(cache.put(key, key).unwrap()));
    stays("forty dirty entries are no reason", || rows.batches() == 0);
    (40..60).for_each(|key| drop(cache.put(key, key).unwrap()));
    eventually("the threshold flushed", || rows.len() >= 50);
    eventually("it was counted", || cache.stats().flushes_threshold > 0);
    let stats = cache.stats();
    assert_eq!((stats.flushes_timer, stats.flushes_pressure, stats.flushes_explicit), (0, 0, 0));
}

/// Catches: a full cache of dirty entries in which a writer waits for a flush that nobody starts.
#[test]
fn trigger_pressure_starts_a_flush_and_is_counted() {
    let rows = Audit::new();
    let cache = quiet().capacity(16).flush_at(1_000).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..200).for_each(|key| drop(cache.put(key, key).unwrap()));
    let stats = cache.stats();
    assert!(stats.flushes_pressure > 0, "{stats:?}");
    assert!(stats.evictions > 0, "{stats:?}");
    assert_eq!((stats.flushes_timer, stats.flushes_explicit), (0, 0));
    cache.flush().unwrap();
    assert_eq!(rows.len(), 200);
}

/// Catches: a `flush` that is not counted, or not a barrier.
#[test]
fn trigger_explicit_starts_a_flush_and_is_counted() {
    let rows = Audit::new();
    let cache = quiet().max_delay(NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for round in 1..=20 {
        cache.put(round, round).unwrap();
        cache.flush().unwrap();
        assert_eq!(rows.len() as u64, round);
        assert!(!cache.is_dirty(&round));
    }
    let stats = cache.stats();
    assert_eq!(stats.flushes_explicit, 20);
    assert_eq!((stats.flushes_timer, stats.flushes_threshold, stats.flushes_pressure), (0, 0, 0));
}

/// Catches: a batch larger than the backend was promised.
#[test]
fn a_batch_is_never_larger_than_batch_size() {
    let rows = Audit::new();
    let cache = quiet().batch_size(7).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..100).for_each(|key| drop(cache.put(key, key).unwrap()));
    cache.flush().unwrap();
    let sizes: Vec<usize> = rows
        .calls()
        .iter()
        .filter_map(|call| match call {
            writeback::backend::Call::Apply { ops, .. } => Some(ops.len()),
            _ => None,
        })
        .collect();
    assert!(sizes.iter().all(|&size| size <= 7), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 100);
    assert!(sizes.len() <= 30, "batches are not filled: {sizes:?}");
}
