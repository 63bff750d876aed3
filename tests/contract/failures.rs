//! What the engine does with errors: each operation has its own answer, and none of them loses anything.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{Ack, Answers, BackendError, Clock, Error, ErrorClass, Stats, backend::Call};

use crate::common::{Audit, NEVER, eventually, lock, quiet};

/// Each apply so far: key, version, attempt and whether it was stored.
fn sent(rows: &Audit) -> Vec<Vec<(u64, u64, u32, bool)>> {
    let calls = rows.calls();
    let applies = calls.iter().filter_map(|call| match call {
        Call::Apply { ops, .. } => Some(ops),
        Call::Load { .. } => None,
    });
    applies
        .map(|ops| ops.iter().map(|(op, ok)| (*op.key(), op.version(), op.attempt(), *ok)).collect())
        .collect()
}

/// Catches: a failed batch that is dropped, or whose keys are invalidated, so that reads go back in time.
#[test]
fn f06_a_failed_flush_keeps_the_value_and_the_next_one_stores_it() {
    let rows = Audit::new();
    rows.insert(1, 1);
    rows.set_fault(|_| Err(BackendError::transient("no connection")));
    let cache = quiet().retry(NEVER, NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 2).unwrap();
    match cache.flush() {
        Err(error @ Error::NotFlushed { failed: 1, .. }) => {
            assert!(error.to_string().contains("no connection"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    assert!(cache.is_dirty(&1));
    let counted = |stats: Stats| (stats.dirty, stats.parked, stats.backend_errors, stats.backend_writes);
    eventually("the error was counted", || counted(cache.stats()) == (1, 0, 1, 0));
    rows.clear_fault();
    // "Tried again at once": the hour of back-off does not matter to an explicit flush.
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), cache.is_dirty(&1)), (Some(2), false));
    eventually("the retry was counted", || cache.stats().retries == 1);
    rows.check();
}

/// Catches: one bad operation that takes its batch with it, or that disappears.
#[test]
fn f07_one_poisoned_operation_among_a_hundred_is_parked_and_the_others_are_stored() {
    let rows = Audit::new();
    rows.set_fault(|op| match op.key() {
        42 => Err(BackendError::permanent("value out of range")),
        _ => Ok(()),
    });
    let (clock, time) = Clock::manual();
    let cache =
        quiet().clock(clock).retry(NEVER, NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..100).for_each(|key| drop(cache.put(key, key).unwrap()));
    match cache.flush() {
        Err(Error::NotFlushed { failed: 1, cause }) => {
            assert_eq!(cause.class(), ErrorClass::Permanent);
            assert!(cause.to_string().contains("value out of range"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((rows.len(), rows.get(&42)), (99, None));
    let counted = |stats: Stats| (stats.dirty, stats.parked, stats.backend_writes, stats.backend_errors);
    eventually("all answers were counted", || counted(cache.stats()) == (1, 1, 99, 1));
    assert_eq!((cache.get(&42).unwrap(), cache.is_dirty(&42)), (Some(42), true));
    // It does not come back by itself, and holds nobody up.
    time.advance(Duration::from_secs(100_000));
    cache.put(7, 77).unwrap();
    assert!(cache.flush().is_err(), "a flush tries what was refused again");
    assert_eq!(rows.get(&7), Some(77));
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!((rows.get(&42), cache.is_dirty(&42)), (Some(42), false));
    eventually("nothing is parked or dirty", || cache.stats().parked == 0 && cache.stats().dirty == 0);
    rows.check();
}

/// Catches: a parked entry that is retried in the background for ever, or not retried when it was rewritten.
#[test]
fn f07_a_parked_entry_waits_for_a_new_value() {
    for conflict in [false, true] {
        let rows = Audit::new();
        rows.set_fault(move |op| match op.change().value() {
            Some(13) if conflict => Err(BackendError::conflict("changed by another")),
            Some(13) => Err(BackendError::permanent("unlucky")),
            _ => Ok(()),
        });
        let delay = Duration::from_millis(5);
        let cache = quiet().max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
        cache.put(1, 13).unwrap();
        eventually("it was parked", || cache.stats().parked == 1);
        let tried = rows.batches();
        crate::common::stays("it is left alone", || rows.batches() == tried);
        assert_eq!(cache.peek(&1), Some(13));
        cache.put(1, 14).unwrap();
        eventually("the new value was stored", || rows.get(&1) == Some(14) && !cache.is_dirty(&1));
        eventually("nothing is parked", || cache.stats().parked == 0);
        // A remove of a parked entry works too.
        cache.put(1, 13).unwrap();
        eventually("it was parked again", || cache.stats().parked == 1);
        cache.remove(&1).unwrap();
        eventually("it was deleted", || rows.get(&1).is_none() && !cache.is_dirty(&1));
        eventually("nothing is parked", || cache.stats().parked == 0);
        rows.check();
    }
}

/// Catches: parked entries that leave the cache when it is full.
#[test]
fn f11_parked_entries_are_never_evicted() {
    let rows = Audit::unrecorded();
    rows.set_fault(|op| if *op.key() < 10 { Err(BackendError::permanent("no")) } else { Ok(()) });
    let cache = quiet().capacity(20).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(cache.flush().is_err());
    eventually("they were parked", || cache.stats().parked == 10);
    (100..1_100).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(cache.stats().evictions > 0);
    for key in 0..10 {
        assert_eq!((cache.get(&key).unwrap(), cache.is_dirty(&key)), (Some(key), true));
    }
    assert_eq!(cache.stats().parked, 10);
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), 1_010);
    rows.check();
}

/// Catches: a batch that failed half-way being sent again as a whole; retries without version or attempt.
#[test]
fn f37_f38_only_what_failed_is_sent_again_with_its_version_and_attempt_two() {
    let rows = Audit::new();
    let failed = AtomicU64::new(0);
    rows.set_fault(move |op| {
        if *op.key() >= 50 && failed.fetch_add(1, Ordering::Relaxed) < 50 {
            return Err(BackendError::transient("the connection broke"));
        }
        Ok(())
    });
    let (clock, time) = Clock::manual();
    let second = Duration::from_secs(1);
    let cache = quiet()
        .clock(clock)
        .max_delay(second)
        .retry(second, second)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..100).for_each(|key| drop(cache.put(key, key).unwrap()));
    eventually("all was stored", || {
        time.advance(second * 2);
        cache.stats().dirty == 0
    });
    let sent: Vec<_> = sent(&rows).concat();
    assert_eq!(sent.len(), 150);
    let (first, again) = sent.split_at(100);
    assert!(first.iter().all(|&(key, _, attempt, ok)| attempt == 1 && ok == (key < 50)));
    for &(key, version, attempt, ok) in again {
        assert!(key >= 50 && attempt == 2 && ok);
        assert!(first.iter().any(|&(k, v, ..)| (k, v) == (key, version)), "key {key} changed its version");
    }
    eventually("all was counted", || (cache.stats().retries, cache.stats().backend_errors) == (50, 50));
    rows.check();
}

/// Catches: a write that is retried as attempt 2 although its value is new, or a retry of what was overwritten.
#[test]
fn f38_a_rewritten_key_is_a_first_attempt_of_a_new_version() {
    let rows = Audit::new();
    rows.set_fault(|op| {
        if op.change().value() == Some(&1) { Err(BackendError::transient("busy")) } else { Ok(()) }
    });
    let cache = quiet().retry(NEVER, NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let first = cache.put(1, 1).unwrap();
    assert!(cache.flush().is_err());
    let second = cache.put(1, 2).unwrap();
    cache.flush().unwrap();
    assert_eq!(sent(&rows), [[(1, first.get(), 1, false)], [(1, second.get(), 1, true)]]);
    rows.check();
}

/// Catches: operations without an answer being taken for stored, or for lost.
#[test]
fn c01_a_backend_that_answers_less_than_it_was_asked_gets_the_rest_again() {
    let rows = Audit::new();
    rows.set_answer_hook(|answers| {
        let mut answers = answers.as_slice().to_vec();
        answers.truncate(answers.len() / 2);
        Answers::new(answers)
    });
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..100).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(matches!(cache.flush(), Err(Error::NotFlushed { .. })));
    assert!(cache.stats().dirty > 0);
    rows.clear_answer_hook();
    cache.flush().unwrap();
    assert_eq!((rows.len(), cache.stats().dirty), (100, 0));
    assert!(rows.resent() >= 50);
    rows.check();
    // More answers than operations are no reason to panic either.
    rows.set_answer_hook(|answers| Answers::new([answers.as_slice(), &[Ok(()), Ok(())]].concat()));
    cache.put(1, 1_000).unwrap();
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(1_000));
    eventually("each was counted once", || cache.stats().backend_writes == 101);
}

/// Catches: a panic of the backend that kills the flusher, or counts as stored.
#[test]
fn c01_a_backend_that_panics_is_tried_again() {
    let rows = Audit::new();
    let armed = Arc::new(AtomicBool::new(true));
    let trigger = Arc::clone(&armed);
    rows.set_gate(move |_| assert!(!trigger.load(Ordering::SeqCst), "a panic that the test wants"));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    match cache.flush() {
        Err(Error::NotFlushed { cause, .. }) => assert_eq!(cause.class(), ErrorClass::Transient),
        other => panic!("{other:?}"),
    }
    assert!(cache.stats().backend_panics > 0);
    assert!((0..10).all(|key| cache.is_dirty(&key) && cache.peek(&key) == Some(key)));
    armed.store(false, Ordering::SeqCst);
    eventually("the retry stored it", || rows.len() == 10 && cache.stats().dirty == 0);
    cache.flush().unwrap();
    rows.check();
}

/// Catches: `Ack::Backend` that returns before the write is stored, or hides its error.
#[test]
fn ack_backend_returns_when_it_is_stored_and_says_when_it_is_not() {
    let rows = Audit::new();
    let cache = quiet().retry(NEVER, NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(5, 5).unwrap();
    let version = cache.put_acked(1, 10, Ack::Backend).unwrap();
    assert_eq!(rows.get(&1), Some(10));
    assert_eq!(rows.history(&1)[0].version(), version.get());
    assert!(!cache.is_dirty(&1));
    rows.set_fault(|op| if *op.key() == 1 { Err(BackendError::permanent("no")) } else { Ok(()) });
    assert!(matches!(cache.put_acked(1, 11, Ack::Backend), Err(Error::NotFlushed { .. })));
    assert_eq!((cache.get(&1).unwrap(), cache.is_dirty(&1)), (Some(11), true));
    // An entry that failed earlier is no error of another one's write.
    cache.put_acked(2, 20, Ack::Backend).unwrap();
    assert_eq!(rows.get(&2), Some(20));
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(11));
    rows.check();
    let through = quiet().ack(Ack::Backend).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    through.put(8, 80).unwrap();
    assert_eq!(rows.get(&8), Some(80));
    through.update(8, |old| old.unwrap() + 1).unwrap();
    assert_eq!(rows.get(&8), Some(81));
    through.remove(&8).unwrap();
    assert_eq!(rows.get(&8), None);
    through.put_many((20..30).map(|key| (key, key))).unwrap();
    assert_eq!(rows.get(&29), Some(29));
}

/// Catches: a barrier that is answered although a write before it was refused, or because of one after it.
#[test]
fn a_flush_answers_for_what_came_before_it() {
    let rows = Audit::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    rows.set_fault(move |op| {
        lock(&log).push(*op.key());
        if *op.key() == 3 { Err(BackendError::transient("busy")) } else { Ok(()) }
    });
    let cache =
        quiet().retry(NEVER, NEVER).batch_size(2).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(matches!(cache.flush(), Err(Error::NotFlushed { failed: 1, .. })));
    assert_eq!(rows.len(), 9, "an error of one entry kept the flush from the others: {:?}", lock(&seen));
    rows.check();
}

/// Catches: numbers that lag behind what a flush has just told its caller.
#[test]
fn stats_show_what_a_flush_has_answered_for() {
    let rows = Audit::unrecorded();
    rows.set_fault(|op| if *op.key() == 0 { Err(BackendError::permanent("no")) } else { Ok(()) });
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(0, 0).unwrap();
    for n in 1..=300 {
        cache.put(n, n).unwrap();
        assert!(cache.flush().is_err());
        let stats = cache.stats();
        let counted =
            (stats.dirty, stats.parked, stats.in_flight, stats.backend_writes, stats.backend_errors);
        assert_eq!(counted, (1, 1, 0, n, n), "dirty, parked, in flight, written, refused");
    }
}

/// Catches: a batch that is refused as a whole for one row of it, and all of which is parked, or tried row by row.
#[test]
fn f34_one_poison_in_a_thousand_is_found_by_halving() {
    for poison in [0_u64, 499, 617, 999] {
        let rows = Audit::new();
        rows.set_batch_fault(move |batch| match batch.ops().iter().any(|op| *op.key() == poison) {
            true => Err(BackendError::permanent("a row of this transaction is not valid")),
            false => Ok(()),
        });
        let cache = quiet().batch_size(1_000).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
        (0..1_000).for_each(|key| drop(cache.put(key, key).unwrap()));
        match cache.flush() {
            Err(Error::NotFlushed { failed: 1, cause }) => assert_eq!(cause.class(), ErrorClass::Permanent),
            other => panic!("{other:?}"),
        }
        assert_eq!(rows.len(), 999);
        assert!(rows.get(&poison).is_none() && cache.is_dirty(&poison));
        assert_eq!(cache.get(&poison).unwrap(), Some(poison));
        assert!(rows.batches() <= 22, "{} calls", rows.batches());
        eventually("it was counted", || (cache.stats().parked, cache.stats().dirty) == (1, 1));
        // Nothing was stored twice, and everything in the order in which it was written.
        let stored: Vec<u64> =
            sent(&rows).into_iter().flatten().filter(|(.., stored)| *stored).map(|(key, ..)| key).collect();
        assert_eq!(stored, (0..1_000).filter(|key| *key != poison).collect::<Vec<_>>());
        rows.clear_fault();
        cache.flush().unwrap();
        assert_eq!(rows.len(), 1_000);
        rows.check();
    }
}

/// Catches: an outage that is met entry by entry, or in which barriers wait for an attempt of each; a recovery that waits for
/// every entry's own back-off.
#[test]
fn f36_an_outage_is_probed_one_at_a_time_and_ends_at_once() {
    let rows = Audit::new();
    rows.set_batch_fault(|_| Err(BackendError::transient("the database is away")));
    let (clock, time) = Clock::manual();
    let cache = quiet()
        .capacity(10_000)
        .clock(clock)
        .max_delay(Duration::from_millis(10))
        .flush_at(1_000)
        .retry(Duration::from_millis(100), Duration::from_secs(30))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..10_000).for_each(|key| drop(cache.put(key, key).unwrap()));
    eventually("the outage was noticed", || cache.stats().backend_down);
    let mut seconds = 0;
    eventually("forty batches were sent", || {
        time.advance(Duration::from_secs(1));
        seconds += 1;
        rows.batches() >= 40
    });
    // Later and later, up to 30 s: by the tenth they come twice a minute at most.
    assert!(seconds > 300, "forty batches in {seconds} s");
    eventually("the last one came back", || cache.stats().in_flight == 0);
    let probes = rows.batches();
    assert!(sent(&rows).iter().rev().take(20).all(|batch| batch.len() == 1), "probes are small");
    // Who asks is told at once, after one more probe.
    match cache.flush() {
        Err(Error::NotFlushed { failed: 10_000, cause }) => assert_eq!(cause.class(), ErrorClass::Transient),
        other => panic!("{other:?}"),
    }
    assert!(matches!(cache.put_acked(7, 8, Ack::Backend), Err(Error::NotFlushed { failed: 1, .. })));
    eventually("the probes came back", || rows.batches() == probes + 2);
    assert_eq!(cache.stats().parked, 0, "an outage is nobody's fault");
    rows.clear_fault();
    // One probe's delay, and the rest follows without a timer.
    time.advance(Duration::from_secs(30));
    eventually("everything was stored", || cache.stats().dirty == 0);
    assert!(!cache.stats().backend_down);
    assert_eq!((rows.len(), rows.get(&7)), (10_000, Some(8)));
    rows.check();
}
