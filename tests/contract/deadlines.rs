//! A dirty entry is in the backend in time, whatever else goes on; and nothing runs when there is nothing to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use writeback::{
    Clock,
    backend::{Call, Doing},
};

use crate::common::{Audit, eventually, gate_applies, quiet};

const SECOND: Duration = Duration::from_secs(1);

/// Catches: a deadline that moves with every write.
#[test]
fn c07_the_deadline_counts_from_the_first_write() {
    let rows = Audit::new();
    let (clock, time) = Clock::manual();
    let cache = quiet().max_delay(SECOND).clock(clock).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    // Long enough for a flusher that dates an entry when it first looks at it.
    thread::sleep(Duration::from_millis(300));
    time.advance(SECOND * 6 / 10);
    cache.put(1, 2).unwrap();
    time.advance(SECOND * 6 / 10);
    eventually("the key was flushed 1.2 s after its first write", || rows.get(&1) == Some(2));
    assert_eq!(rows.ops_applied(), 1);
}

/// Catches: an entry that is dated by when the flusher gets to it, and not by when it became dirty.
#[test]
fn c07_time_that_passes_right_after_a_write_counts() {
    for _ in 0..20 {
        let rows = Audit::new();
        let (clock, time) = Clock::manual();
        let cache =
            quiet().max_delay(SECOND).clock(clock).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
        cache.put(1, 1).unwrap();
        time.advance(SECOND * 2);
        eventually("an entry that is dirty for two seconds was flushed", || rows.get(&1) == Some(1));
    }
}

/// Catches: "a continuously updated key may not be persisted ever".
#[test]
fn f40_a_key_that_is_updated_all_the_time_is_flushed_every_interval() {
    let rows = Audit::new();
    let (clock, time) = Clock::manual();
    let cache = quiet().max_delay(SECOND).clock(clock).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let mut writes = 0;
    for second in 1..=60 {
        eventually("one flush for each second", || {
            writes += 1;
            cache.put(1, writes).unwrap();
            time.advance(SECOND / 50);
            rows.ops_applied() >= second
        });
    }
    let (flushes, seconds) = (rows.ops_applied(), writes / 50);
    assert!(flushes * 3 >= seconds, "{flushes} flushes in {seconds} s");
    assert!(flushes <= seconds + 1, "{flushes} flushes in {seconds} s");
    rows.check();
}

/// Catches: the same on the real clock.
#[test]
fn c07_a_key_that_is_rewritten_every_millisecond_is_flushed_on_time() {
    let rows = Audit::new();
    let delay = Duration::from_millis(50);
    let cache = quiet().max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let start = Instant::now();
    let mut value = 0;
    while start.elapsed() < Duration::from_millis(1500) {
        value += 1;
        cache.put(1, value).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let intervals = start.elapsed().as_millis() / delay.as_millis();
    let applied = u128::from(rows.ops_applied());
    assert!(applied * 4 >= intervals, "{applied} flushes in {intervals} intervals");
    assert!(cache.stats().flushes_timer > 0);
}

/// Catches: the oldest dirty entry waiting behind younger ones.
#[test]
fn f41_the_oldest_deadline_goes_first() {
    let rows = Audit::new();
    let (clock, time) = Clock::manual();
    let cache = quiet()
        .max_delay(SECOND)
        .batch_size(20)
        .clock(clock)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let gate = gate_applies(&rows);
    cache.put(1_000, 0).unwrap();
    let pass_until = |calls| {
        eventually("the backend was called", || {
            time.advance(SECOND);
            gate.arrived() >= calls
        });
    };
    pass_until(1);
    // The flusher is busy. One early key; much later many others, from other threads.
    cache.put(0, 0).unwrap();
    gate.allow(1);
    eventually("the plug went through", || !cache.is_dirty(&1_000));
    cache.put(1_000, 1).unwrap();
    pass_until(2);
    thread::scope(|scope| {
        for lane in 0..4 {
            let cache = &cache;
            scope.spawn(move || (1..50).for_each(|key| drop(cache.put(lane * 100 + key, key).unwrap())));
        }
    });
    gate.open();
    eventually("all was flushed", || {
        time.advance(SECOND);
        cache.stats().dirty == 0
    });
    let batches: Vec<Vec<u64>> = rows
        .calls()
        .iter()
        .filter_map(|call| match call {
            Call::Apply { ops, .. } => Some(ops.iter().map(|(op, _)| *op.key()).collect()),
            _ => None,
        })
        .collect();
    let early = batches.iter().position(|batch| batch.contains(&0)).unwrap();
    assert!(early <= 1, "the early key was in batch {early} of {}", batches.len());
    assert!(batches.len() > 5);
    rows.check();
}

/// Catches: a key that is overtaken for ever by a stream that is as fast as the backend.
#[test]
fn f41_an_early_key_is_flushed_by_its_deadline_under_load() {
    let rows = Audit::unrecorded();
    rows.set_gate(|doing| {
        if let Doing::Apply(_) = doing {
            thread::sleep(Duration::from_millis(2));
        }
    });
    let delay = Duration::from_millis(100);
    let cache = quiet()
        .capacity(4_000)
        .flush_at(100)
        .batch_size(50)
        .max_delay(delay)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for lane in 0..2 {
            let (cache, stop) = (&cache, &stop);
            scope.spawn(move || {
                for key in (1_000_000 * (lane + 1)).. {
                    if stop.load(Ordering::Relaxed) || key % 1_000_000 == 500_000 {
                        break;
                    }
                    cache.put(key, key).unwrap();
                }
            });
        }
        eventually("there is a backlog", || cache.stats().dirty > 1_000);
        let (start, before) = (Instant::now(), rows.ops_applied());
        for key in 0..20 {
            cache.put(key, key).unwrap();
        }
        eventually("the early keys were flushed", || (0..20).all(|key| rows.get(&key) == Some(key)));
        let (took, passed) = (start.elapsed(), rows.ops_applied() - before);
        assert!(took < delay * 50, "took {took:?}");
        assert!(passed > 20, "the others went on meanwhile");
        // What was dirty before them, and what one full cache holds, may go first; not more.
        assert!(passed < 3 * 4_000, "{passed} younger operations went first");
        stop.store(true, Ordering::Relaxed);
    });
    rows.check();
}

/// Catches: a flusher that polls.
#[test]
fn an_idle_cache_does_not_wake() {
    let rows = Audit::new();
    let cache =
        quiet().max_delay(Duration::from_millis(5)).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..100).for_each(|key| drop(cache.put(key, key).unwrap()));
    eventually("all was flushed by the timer", || cache.stats().dirty == 0 && rows.len() == 100);
    eventually("300 ms without a wake-up", || {
        let before = cache.stats().wakeups;
        thread::sleep(Duration::from_millis(300));
        cache.stats().wakeups == before
    });
    // It does wake when there is something to do.
    let before = cache.stats().wakeups;
    cache.put(1, 2).unwrap();
    eventually("the timer still works", || rows.get(&1) == Some(2));
    assert!(cache.stats().wakeups > before);
}

/// Catches: reads of cached keys that wake the flusher.
#[test]
fn reads_do_not_wake_the_flusher() {
    let rows = Audit::new();
    let cache =
        quiet().max_delay(Duration::from_millis(5)).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    cache.flush().unwrap();
    eventually("100 ms of reads without a wake-up", || {
        let (before, end) = (cache.stats().wakeups, Instant::now() + Duration::from_millis(100));
        while Instant::now() < end {
            assert_eq!(cache.get(&1).unwrap(), Some(1));
        }
        cache.stats().wakeups == before
    });
}
