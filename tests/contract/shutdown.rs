//! Closing and dropping: what was acknowledged arrives, or the caller is told; nobody is left waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use writeback::{BackendError, Closed, Error};

use crate::common::{Audit, NEVER, OpenAtEnd, PATIENCE, eventually, gate_applies, gate_loads_of, quiet};

/// Catches: a close that returns before everything is written.
#[test]
fn f03_close_drains() {
    let rows = Audit::unrecorded();
    let cache = quiet().capacity(10_000).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10_000).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(cache.close(PATIENCE).is_drained());
    assert_eq!(rows.len(), 10_000);
    assert!(cache.close(Duration::ZERO).is_drained(), "a second close forgot");
    assert_eq!(cache.stats().dirty, 0);
    rows.check();
}

/// Catches: a close that says Drained with unsaved data, or that stops the flusher with data left.
#[test]
fn f03_close_reports_what_remains_and_the_flusher_goes_on() {
    let rows = Audit::unrecorded();
    rows.set_fault(|op| if *op.key() == 0 { Ok(()) } else { Err(BackendError::transient("very slow")) });
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..1_000).for_each(|key| drop(cache.put(key, key).unwrap()));
    let start = Instant::now();
    match cache.close(Duration::from_millis(100)) {
        Closed::Remaining { dirty: 999, cause: Some(cause), .. } => {
            assert!(cause.to_string().contains("very slow"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(10), "{took:?}");
    assert!(matches!(cache.get(&1), Err(Error::Closed)));
    assert_eq!(cache.stats().dirty, 999);
    rows.clear_fault();
    assert!(cache.close(PATIENCE).is_drained());
    assert_eq!(rows.len(), 1_000);
    rows.check();
}

/// Catches: a close that waits for a backend that hangs, longer than it was told.
#[test]
fn f03_close_keeps_its_deadline_when_the_backend_hangs() {
    let rows = Audit::unrecorded();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    let start = Instant::now();
    assert!(matches!(cache.close(Duration::from_millis(50)), Closed::Remaining { dirty: 10, .. }));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(gate.arrived(), 1);
    gate.open();
    assert!(cache.close(PATIENCE).is_drained());
    assert_eq!(rows.len(), 10);
}

/// Catches: entries that the backend has refused for good being counted as drained.
#[test]
fn f03_parked_entries_remain() {
    let rows = Audit::unrecorded();
    rows.set_fault(|op| if *op.key() == 3 { Err(BackendError::permanent("no")) } else { Ok(()) });
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    match cache.close(Duration::from_millis(100)) {
        Closed::Remaining { dirty: 1, cause, .. } => assert!(cause.is_some()),
        other => panic!("{other:?}"),
    }
    assert_eq!(rows.len(), 9);
    rows.clear_fault();
    assert!(cache.close(Duration::from_secs(3)).is_drained(), "a close tries again what was refused");
    assert_eq!(rows.get(&3), Some(3));
}

/// Catches: data that is lost when a cache is dropped without a close.
#[test]
fn c01_dropping_the_last_reference_drains() {
    let rows = Audit::unrecorded();
    let cache = quiet().drain_on_drop(PATIENCE).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let other = cache.clone();
    (0..500).for_each(|key| drop(cache.put(key, key).unwrap()));
    drop(cache);
    assert_eq!(rows.len(), 0, "the drop of one of two references closed the cache");
    (500..600).for_each(|key| drop(other.put(key, key).unwrap()));
    let handle = other.handle().unwrap();
    drop(other);
    handle.put(600, 600).unwrap();
    drop(handle);
    assert_eq!(rows.len(), 601);
    assert_eq!(Arc::strong_count(&rows), 1, "the flusher is still there");
    rows.check();
}

/// Catches: a drop that waits longer than `drain_on_drop` for a backend that is away.
#[test]
fn c01_dropping_gives_up_in_the_end() {
    let rows = Audit::unrecorded();
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let wait = Duration::from_millis(50);
    let cache = quiet().retry(NEVER, NEVER).drain_on_drop(wait).backend(Arc::clone(&rows)).open().unwrap();
    cache.put(1_u64, 1_u64).unwrap();
    let start = Instant::now();
    drop(cache);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    eventually("the flusher is gone", || Arc::strong_count(&rows) == 1);
}

/// Catches: a write that is acknowledged while the cache closes, and lost.
#[test]
fn c01_every_write_that_was_acked_during_a_close_arrives() {
    for round in 0..20 {
        let rows = Audit::unrecorded();
        let cache = quiet().capacity(100_000).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
        let started = AtomicBool::new(false);
        let acked: u64 = thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (cache, started) = (&cache, &started);
                    scope.spawn(move || {
                        for n in 0.. {
                            if n == 50 + 20 * round {
                                started.store(true, Ordering::SeqCst);
                            }
                            match cache.put(writer * 1_000_000 + n, n) {
                                Ok(_) => {}
                                Err(Error::Closed) => return n,
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                        unreachable!()
                    })
                })
                .collect();
            eventually("writers write", || started.load(Ordering::SeqCst));
            assert!(cache.close(PATIENCE).is_drained());
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        assert!(acked > 50);
        assert_eq!(rows.len() as u64, acked, "Drained was said too early");
        rows.check();
    }
}

/// Catches: threads that wait for a load, for room or for a flush, and are forgotten when the cache closes.
#[test]
fn close_leaves_nobody_waiting() {
    let rows = Audit::unrecorded();
    rows.insert(77, 7);
    let loads = gate_loads_of(&rows, 77);
    let _open = OpenAtEnd(Arc::clone(&loads));
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let cache =
        quiet().capacity(4).write_timeout(NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    thread::scope(|scope| {
        let readers = [(); 2].map(|()| scope.spawn(|| cache.get(&77)));
        loads.wait_for(1);
        (0..3).for_each(|key| drop(cache.put(key, key).unwrap()));
        let writers = [10, 11, 12].map(|key| {
            scope.spawn({
                let cache = &cache;
                move || cache.put(key, 1)
            })
        });
        eventually("a writer waits", || cache.stats().writer_waits > 0);
        let flush = scope.spawn(|| cache.flush());
        let _ = cache.close(Duration::from_millis(50));
        eventually("the writers are back", || writers.iter().all(|writer| writer.is_finished()));
        eventually("the flush is back", || flush.is_finished());
        assert!(flush.join().unwrap().is_err());
        let refused = writers.into_iter().filter_map(|writer| writer.join().unwrap().err());
        assert!(refused.inspect(|error| assert!(matches!(error, Error::Closed), "{error:?}")).count() >= 2);
        loads.open();
        for reader in readers {
            let answer = reader.join().unwrap();
            assert!(matches!(answer, Ok(Some(7)) | Err(Error::Closed)), "{answer:?}");
        }
    });
    rows.clear_fault();
    assert!(cache.close(PATIENCE).is_drained());
    assert!(rows.len() >= 4);
}

/// Catches: two closes at once, one of which hangs or lies.
#[test]
fn several_closes_at_once_all_end() {
    let rows = Audit::unrecorded();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..900).for_each(|key| drop(cache.put(key, key).unwrap()));
    thread::scope(|scope| {
        let closes = [(); 4].map(|()| scope.spawn(|| cache.close(PATIENCE)));
        closes.into_iter().for_each(|close| assert!(close.join().unwrap().is_drained()));
    });
    assert_eq!(rows.len(), 900);
}
