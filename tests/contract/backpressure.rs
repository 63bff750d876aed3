//! What happens at the limits: writers wait, are told, or get through; nothing is dropped and nobody hangs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use writeback::{Ack, BackendError, Cache, Error};

use crate::common::{Audit, NEVER, OpenAtEnd, eventually, gate_applies, quiet, stays};

/// Catches: dirty entries that are dropped at the limit, and writes that are refused but stored, or the other way round.
#[test]
fn f02_backend_down_never_drops() {
    let rows = Audit::unrecorded();
    rows.set_fault(|_| Err(BackendError::transient("the database is away")));
    let cache = quiet()
        .capacity(1_000)
        .write_timeout(Duration::from_millis(3))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let writers = 8;
    let acked: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let cache = &cache;
                scope.spawn(move || {
                    let mut acked = Vec::new();
                    for key in (writer..5_000).step_by(writers as usize) {
                        match cache.put(key, key + 1) {
                            Ok(_) => acked.push(key),
                            Err(Error::Backpressure { waited, .. }) => {
                                assert!(waited >= Duration::from_millis(3), "gave up after {waited:?}");
                            }
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    acked
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(acked.len() >= 900 && acked.len() <= 1_000 + writers as usize, "{} were acked", acked.len());
    let error = cache.put(77_777, 0).unwrap_err();
    assert!(error.to_string().contains("the database is away"), "the cause is not told: {error}");
    assert!(error.to_string().contains("capacity"), "no hint: {error}");
    let stats = cache.stats();
    assert_eq!(stats.puts, acked.len() as u64);
    assert_eq!((stats.dirty, stats.parked), (acked.len(), 0));
    assert!(stats.writer_waits > 0 && stats.backend_errors > 0);
    for key in &acked {
        assert_eq!(cache.peek(key), Some(key + 1));
    }
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), acked.len());
    assert!(acked.iter().all(|key| rows.get(key) == Some(key + 1)));
    cache.put(77_777, 0).unwrap();
    rows.check();
}

/// Catches: all writers waiting for room and nobody starting the flush.
#[test]
fn f31_a_full_cache_flushes_promptly_for_its_waiting_writers() {
    let rows = Audit::unrecorded();
    let cache = quiet()
        .capacity(64)
        .write_timeout(Duration::from_secs(60))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..64).for_each(|key| drop(cache.put(key, key).unwrap()));
    let start = Instant::now();
    thread::scope(|scope| {
        for writer in 1..=8 {
            let cache = &cache;
            scope.spawn(move || (0..50).for_each(|n| drop(cache.put(writer * 1_000 + n, n).unwrap())));
        }
    });
    // One flush is a call into memory here. Seconds mean that somebody slept until a timer.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(cache.stats().flushes_pressure > 0);
    cache.flush().unwrap();
    assert_eq!(rows.len(), 464);
    rows.check();
}

/// Catches: a full cache in which the writer alone cannot get through, over and over.
#[test]
fn f31_a_single_writer_through_a_full_cache_does_not_wait_for_timers() {
    let rows = Audit::unrecorded();
    let cache = quiet().capacity(4).max_delay(NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let start = Instant::now();
    (0..500).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    cache.flush().unwrap();
    assert_eq!(rows.len(), 500);
}

/// Catches: a write of a key that waits for the key's own flush.
#[test]
fn f31_a_write_never_waits_for_the_flush_of_its_own_key() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet()
        .capacity(4)
        .flush_at(1)
        .write_timeout(Duration::from_millis(50))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    cache.put(1, 0).unwrap();
    gate.wait_for(1);
    // The backend does not answer. The cache is full, too.
    let full = (10..20).filter(|&key| cache.put(key, key).is_ok()).count();
    assert!(full <= 3, "{full}");
    for n in 1..=1_000 {
        cache.put(1, n).unwrap();
        cache.update(1, |old| old.unwrap() + 1).unwrap();
    }
    cache.remove(&1).unwrap();
    cache.put(1, 5).unwrap();
    assert_eq!(gate.arrived(), 1);
    gate.open();
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(5));
    assert_eq!(rows.history(&1).len(), 2);
    rows.check();
}

/// Catches: writers that are not woken when room comes.
#[test]
fn f31_waiting_writers_go_on_when_the_backend_does() {
    let rows = Audit::unrecorded();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().capacity(16).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..16).for_each(|key| drop(cache.put(key, key).unwrap()));
    let passed = AtomicU64::new(0);
    thread::scope(|scope| {
        for key in 100..106 {
            let (cache, passed) = (&cache, &passed);
            scope.spawn(move || {
                cache.put(key, key).unwrap();
                passed.fetch_add(1, Ordering::SeqCst);
            });
        }
        gate.wait_for(1);
        eventually("writers wait", || cache.stats().writer_waits > 0);
        stays("nobody gets through", || passed.load(Ordering::SeqCst) == 0);
        // Reads go on meanwhile.
        (0..16).for_each(|key| assert_eq!(cache.get(&key).unwrap(), Some(key)));
        gate.open();
    });
    cache.flush().unwrap();
    assert_eq!(rows.len(), 22);
    rows.check();
}

/// Catches: `update`, `remove` and the others having no limit, or another one, than `put`.
#[test]
fn c09_every_kind_of_write_is_told_when_there_is_no_room() {
    let rows = Audit::unrecorded();
    rows.insert(500, 1);
    rows.set_fault(|_| Err(BackendError::permanent("read-only")));
    let cache = quiet()
        .capacity(8)
        .write_timeout(Duration::from_millis(20))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let acked = (0..8).filter(|&key| cache.put(key, key).is_ok()).count();
    assert!(acked > 4);
    while cache.put(1_000 + acked as u64, 1).is_ok() {
        assert!(cache.len() <= 9);
    }
    let told = |name: &str, result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::Backpressure { .. })), "{name}: {result:?}");
    };
    told("put", cache.put(100, 1).map(drop));
    told("put_acked", cache.put_acked(101, 1, Ack::Backend).map(drop));
    told("update", cache.update(500, |old| old.unwrap() + 1).map(drop));
    told("update_if", cache.update_if(102, |_| Some(1)).map(drop));
    told("get_or_put_with", cache.get_or_put_with(103, || 1).map(drop));
    told("remove", cache.remove(&500).map(drop));
    told("put_many", cache.put_many([(104, 1)]).map(drop));
    assert_eq!(cache.get(&500).unwrap(), Some(1));
    assert_eq!(cache.get(&100).unwrap(), None);
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.get(&500), Some(1));
    assert!((100..105).all(|key| rows.get(&key).is_none()));
    cache.update(500, |old| old.unwrap() + 1).unwrap();
    cache.flush().unwrap();
    assert_eq!(rows.get(&500), Some(2));
}

/// Catches: weight as a limit that drops, hangs or lets everything in.
#[test]
fn f29_a_weight_limit_holds_while_the_backend_is_down() {
    let rows = Audit::unrecorded();
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let cache: Cache<u64, u64> = quiet()
        .max_weight(1_000, |_: &u64, value: &u64| *value)
        .write_timeout(Duration::from_millis(3))
        .backend(Arc::clone(&rows))
        .open()
        .unwrap();
    let acked = AtomicU64::new(0);
    thread::scope(|scope| {
        for writer in 0..8 {
            let (cache, acked) = (&cache, &acked);
            scope.spawn(move || {
                for n in 0..100 {
                    match cache.put(writer * 1_000 + n, 10) {
                        Ok(_) => drop(acked.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => assert!(matches!(error, Error::Backpressure { .. }), "{error:?}"),
                    }
                    assert!(cache.stats().weight <= 1_000 + 8 * 10);
                }
            });
        }
    });
    let acked = acked.into_inner();
    assert!((90..=108).contains(&acked), "{acked}");
    assert_eq!(cache.stats().dirty as u64, acked);
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len() as u64, acked);
    rows.check();
}

/// Catches: a row that is there not being found because there is no room to put one.
#[test]
fn c09_get_or_put_with_needs_no_room_where_there_is_a_row() {
    let rows = Audit::unrecorded();
    rows.insert(500, 1);
    rows.set_fault(|_| Err(BackendError::permanent("read-only")));
    let wait = Duration::from_millis(20);
    let cache =
        quiet().capacity(8).write_timeout(wait).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let refused = (0..100).filter(|&key| cache.put(key, key).is_err()).count();
    assert!(refused > 90);
    assert_eq!(cache.get(&500).unwrap(), Some(1));
    assert_eq!(cache.get_or_put_with(500, || 7).unwrap(), 1);
}
