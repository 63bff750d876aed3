//! What may be dirty is limited in entries and in bytes: writers are slowed down, wait, are told, or go through.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use writeback::{Ack, BackendError, Cache, Closed, Error, OnFull, OpenError, WriteOptions};

use crate::common::{Audit, NEVER, OpenAtEnd, Rng, eventually, gate_applies, quiet, scaled, stays};

fn is_backpressure<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Backpressure { .. }))
}

fn by_value(_: &u64, value: &u64) -> u64 {
    *value
}

/// Catches: a limit that does not hold with many threads, that counts what is in flight as clean, or that lets drift what it
/// counts.
#[test]
fn f29_dirty_bytes_stay_within_the_limit() {
    const LIMIT: u64 = 64_000;
    let rows = Audit::unrecorded();
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    rows.set_fault(
        move |_| {
            if down.load(Ordering::SeqCst) { Err(BackendError::transient("away")) } else { Ok(()) }
        },
    );
    let cache = quiet()
        .capacity(100_000)
        .batch_size(64)
        .weigher(by_value)
        .max_dirty_bytes(LIMIT)
        .throttle(0.5, Duration::from_micros(50))
        .write_timeout(Duration::from_micros(300))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let (peak, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let (threads, writes) = (16, scaled(300, 2_000));
    let acked: Vec<(u64, u64)> = thread::scope(|scope| {
        let write = |thread: u64| {
            let (cache, peak, refused, is_down) = (&cache, &peak, &refused, &is_down);
            move || {
                let (mut rng, mut acked) = (Rng::new(thread), Vec::new());
                for n in 0..writes {
                    if n == writes / 2 {
                        is_down.store(false, Ordering::SeqCst);
                    }
                    // Each thread has keys of its own, some of them often: overwrites grow, shrink, and remove.
                    let (key, value) = (rng.below(writes) * threads + thread, rng.below(900) + 100);
                    let written = match rng.below(10) {
                        0 => cache.remove(&key).map(|_| 0),
                        1 => cache.update(key, |_| value).map(|_| value),
                        _ => cache.put(key, value).map(|_| value),
                    };
                    match written {
                        Ok(value) => acked.push((key, value)),
                        Err(Error::Backpressure { .. }) => drop(refused.fetch_add(1, Ordering::SeqCst)),
                        Err(other) => panic!("{other:?}"),
                    }
                    peak.fetch_max(cache.stats().dirty_bytes, Ordering::SeqCst);
                }
                acked
            }
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(write(thread))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let peak = peak.into_inner();
    assert!(peak <= LIMIT, "{peak} bytes were dirty");
    assert!(peak > LIMIT * 9 / 10 && refused.into_inner() > 0, "the limit was never met: {peak}");
    let last: std::collections::HashMap<u64, u64> = acked.into_iter().collect();
    let dirty: u64 = last.iter().filter(|(key, _)| cache.is_dirty(*key)).map(|(_, value)| value).sum();
    let stats = cache.stats();
    assert!(stats.dirty_bytes <= dirty, "{} are charged for {dirty}", stats.dirty_bytes);
    assert_eq!((stats.max_dirty_bytes, stats.max_dirty), (Some(LIMIT), None));
    cache.flush().unwrap();
    assert_eq!((cache.stats().dirty_bytes, cache.stats().dirty), (0, 0));
    for (key, value) in last {
        assert_eq!(rows.get(&key).unwrap_or(0), value, "key {key}");
    }
    rows.check();
}

/// Catches: a limit of entries that is passed, drops, or stores what it has refused.
#[test]
fn f02_at_a_dirty_limit_nothing_is_dropped() {
    let rows = Audit::unrecorded();
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let cache = quiet()
        .capacity(10_000)
        .max_dirty(1_000)
        .on_full(OnFull::Error)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let writers = 8;
    let acked: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let cache = &cache;
                scope.spawn(move || {
                    let keys = (writer..5_000).step_by(writers as usize);
                    keys.filter(|&key| match cache.put(key, key + 1) {
                        Ok(_) => true,
                        Err(Error::Backpressure { .. }) => false,
                        Err(other) => panic!("{other:?}"),
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((acked.len(), cache.stats().dirty), (1_000, 1_000));
    assert_eq!((cache.len(), cache.stats().max_dirty), (1_000, Some(1_000)));
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), 1_000);
    assert!(acked.iter().all(|key| rows.get(key) == Some(key + 1)));
    (0..1_000).for_each(|key| drop(cache.put(10_000 + key, 0).unwrap()));
    rows.check();
}

/// Catches: writers that wait at a dirty limit for a flush that nobody starts, or are not woken.
#[test]
fn f31_writers_at_a_dirty_limit_start_the_flush() {
    let rows = Audit::unrecorded();
    let cache = quiet()
        .max_dirty(64)
        .throttle(1.0, Duration::ZERO)
        .write_timeout(Duration::from_secs(60))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..64).for_each(|key| drop(cache.put(key, key).unwrap()));
    let start = Instant::now();
    thread::scope(|scope| {
        for writer in 1..=8 {
            let cache = &cache;
            scope.spawn(move || {
                for n in 0..50 {
                    cache.put(writer * 1_000 + n, n).unwrap();
                    assert!(cache.stats().dirty <= 64 + 8);
                }
            });
        }
    });
    // Each flush is a call into memory. Seconds mean that somebody slept until a timer.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(cache.stats().flushes_pressure > 0);
    cache.flush().unwrap();
    assert_eq!(rows.len(), 464);
    rows.check();
}

/// Catches: a write of a key that waits for the key's own flush.
#[test]
fn f31_an_overwrite_at_a_dirty_limit_does_not_wait_for_its_own_flush() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet()
        .flush_at(1)
        .max_dirty(1)
        .max_dirty_bytes(16)
        .on_full(OnFull::Error)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    cache.put(1, 0).unwrap();
    gate.wait_for(1);
    for n in 1..=1_000 {
        cache.put(1, n).unwrap();
        cache.update(1, |old| old.unwrap() + 1).unwrap();
    }
    assert!(is_backpressure(&cache.put(2, 2)), "what is in flight is dirty");
    cache.remove(&1).unwrap();
    assert_eq!(gate.arrived(), 1);
    gate.open();
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), rows.history(&1).len()), (None, 2));
    rows.check();
}

/// Catches: bytes of an overwrite that are charged twice, or never given back; a smaller value that is refused.
#[test]
fn c09_an_overwrite_is_charged_what_it_adds() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache: Cache<u64, u64> = quiet()
        .weigher(by_value)
        .max_dirty_bytes(100)
        .throttle(1.0, Duration::ZERO)
        .on_full(OnFull::Error)
        .backend(Arc::clone(&rows))
        .open()
        .unwrap();
    let bytes = || cache.stats().dirty_bytes;
    cache.put(1, 60).unwrap();
    cache.put(2, 40).unwrap();
    assert!(is_backpressure(&cache.put(1, 61)) && is_backpressure(&cache.put(3, 1)));
    assert_eq!((cache.peek(&1), cache.peek(&3), bytes()), (Some(60), None, 100));
    cache.put(1, 60).unwrap();
    cache.put(1, 10).unwrap();
    assert_eq!(bytes(), 50);
    cache.remove(&2).unwrap();
    assert_eq!(bytes(), 10);
    // Who waits is told when an entry shrinks.
    cache.put(2, 90).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| cache.put_with(4, 50, OnFull::Wait));
        eventually("it waits", || cache.stats().writer_waits > 0);
        cache.put(2, 20).unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(bytes(), 80);
    gate.open();
    cache.flush().unwrap();
    assert_eq!(bytes(), 0);
    // Larger than the limit alone, it still gets through, alone.
    rows.set_fault(|_| Err(BackendError::transient("away")));
    cache.put(5, 1_000).unwrap();
    assert!(is_backpressure(&cache.put(6, 1)));
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!((rows.get(&4), rows.get(&5), bytes()), (Some(50), Some(1_000), 0));
    rows.check();
}

/// Catches: no delay near the limit, one that does not grow, one that goes on when all is clean again.
#[test]
fn c09_delays_grow_towards_the_limit_and_end() {
    let rows = Audit::unrecorded();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let longest = Duration::from_millis(8);
    let cache =
        quiet().max_dirty(40).throttle(0.5, longest).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let throttled = || (cache.stats().throttled_writes, cache.stats().throttled_time);
    (0..20).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert_eq!(throttled(), (0, Duration::ZERO));
    for key in 20..40 {
        let (_, before) = throttled();
        cache.put(key, key).unwrap();
        // In proportion, and never less; more only if the machine is busy.
        let least = longest.mul_f64((key - 19) as f64 / 20.0);
        assert!(throttled().1 - before >= least, "the delay at {key} is too short");
        // What makes nothing more dirty is not slowed down.
        (0..5).for_each(|n| drop(cache.put(key, n).unwrap()));
        assert_eq!(throttled().0, key - 19);
    }
    // The flusher was woken, long before the limit.
    gate.wait_for(1);
    assert!(is_backpressure(&cache.put_with(99, 0, WriteOptions::new().timeout(longest))));
    assert!(cache.put_with(99, 0, OnFull::Error).is_err());
    gate.open();
    cache.flush().unwrap();
    let after = throttled();
    (100..110).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert_eq!(throttled(), after);
    rows.check();
}

/// Catches: a slowed-down writer that sleeps on when there is room, or when the cache is closed.
#[test]
fn c09_a_delay_ends_when_the_reason_for_it_does() {
    let rows = Audit::unrecorded();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let open = || {
        quiet()
            .max_dirty(4)
            .throttle(0.0, NEVER)
            .write_timeout(NEVER)
            .backend(Arc::clone(&rows))
            .open::<u64, u64>()
    };
    let cache = open().unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| cache.put(1, 1));
        gate.wait_for(1);
        // It is made already, although it has not returned.
        assert_eq!(cache.peek(&1), Some(1));
        stays("it is slowed down", || !writer.is_finished());
        gate.allow(1);
        writer.join().unwrap().unwrap();
    });
    thread::scope(|scope| {
        let writer = scope.spawn(|| cache.put(2, 2));
        gate.wait_for(2);
        assert!(matches!(cache.close(Duration::ZERO), Closed::Remaining { .. }));
        writer.join().unwrap().unwrap();
        gate.open();
    });
    assert!(cache.close(NEVER).is_drained());
    assert_eq!(rows.len(), 2);
}

/// Catches: a call that does something else at the limit than it was told; one that gave up and left half a write.
#[test]
fn c09_each_call_chooses_what_happens_at_the_limit() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet()
        .max_dirty(4)
        .throttle(1.0, Duration::ZERO)
        .write_timeout(NEVER)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..4).for_each(|key| drop(cache.put(key, key).unwrap()));
    let short = WriteOptions::new().timeout(Duration::from_millis(20));
    for options in [WriteOptions::from(OnFull::Error), short] {
        assert!(is_backpressure(&cache.put_with(10, 1, options)));
        assert!(is_backpressure(&cache.update_with(11, |_| 1, options)));
        assert!(is_backpressure(&cache.remove_with(&12, options)));
        assert!(is_backpressure(&cache.put_many_with([(13, 1), (14, 1)], options)));
        assert!(is_backpressure(&cache.put_ticket(15, 1, options)));
    }
    assert!((10..16).all(|key| cache.peek(&key).is_none() && !cache.is_dirty(&key)));
    // The backend hangs: a write-through ends all the same, says that it is in the cache only, and the next one finds that the
    // limit is passed by as much as it may be.
    let through = short.on_full(OnFull::WriteThrough);
    let answer = cache.put_with(20, 1, through);
    assert!(matches!(answer, Err(Error::NotFlushed { failed: 1, .. })), "{answer:?}");
    assert!(cache.peek(&20) == Some(1) && cache.is_dirty(&20));
    for key in 21..30 {
        assert!(is_backpressure(&cache.put_with(key, 1, through)));
        assert!(cache.peek(&key).is_none());
    }
    assert_eq!(cache.stats().dirty, 5);
    // What is dirty already is within the limit.
    cache.put_with(20, 2, OnFull::Error).unwrap();
    gate.open();
    cache.flush().unwrap();
    assert_eq!((rows.len(), rows.get(&20)), (5, Some(2)));
    cache.put_with(30, 1, OnFull::Error).unwrap();
    rows.check();
}

/// Catches: a write-through that waits for room which never comes, returns before the backend has it, or lets the limit be
/// passed by more and more.
#[test]
fn c09_write_through_gets_past_what_is_refused_for_good() {
    let rows = Audit::new();
    rows.set_fault(|op| if *op.key() < 10 { Err(BackendError::permanent("no")) } else { Ok(()) });
    let cache = quiet().max_dirty(4).on_full(OnFull::WriteThrough).backend(Arc::clone(&rows)).open().unwrap();
    (0..4).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(cache.flush().is_err());
    for key in 100..150 {
        cache.put(key, key).unwrap();
        assert_eq!(rows.get(&key), Some(key));
        assert!(cache.stats().dirty <= 5);
    }
    cache.update(100, |old| old.unwrap() + 1).unwrap();
    cache.remove(&101).unwrap();
    assert_eq!(cache.put_many([(102, 0), (103, 0)]).unwrap(), 2);
    cache.put_ticket(104, 0, Ack::Memory).unwrap().wait().unwrap();
    assert_eq!((rows.get(&100), rows.get(&101), rows.get(&103)), (Some(101), None, Some(0)));
    // Refused, it stays; and the next one has to wait until the cache is below its limit again.
    let short = WriteOptions::new().timeout(Duration::from_millis(10));
    assert!(matches!(cache.put_with(5, 5, short), Err(Error::NotFlushed { .. })));
    assert_eq!(cache.peek(&5), Some(5));
    assert!(is_backpressure(&cache.put_with(6, 6, short)));
    assert_eq!((cache.peek(&6), cache.stats().dirty), (None, 5));
    rows.clear_fault();
    cache.flush().unwrap();
    cache.put(6, 6).unwrap();
    rows.check();
}

/// Catches: write-throughs of many threads that pass the limit by more than one for each.
#[test]
fn f29_write_throughs_pass_the_limit_by_one_for_each_thread() {
    let rows = Audit::unrecorded();
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let cache = quiet()
        .max_dirty(50)
        .on_full(OnFull::WriteThrough)
        .throttle(1.0, Duration::ZERO)
        .write_timeout(Duration::from_millis(2))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    thread::scope(|scope| {
        for writer in 0..8 {
            let cache = &cache;
            scope.spawn(move || {
                for n in 0..20 {
                    let _ = cache.put(writer * 100 + n, n);
                    let dirty = cache.stats().dirty;
                    assert!(dirty <= 50 + 9, "{dirty} are dirty");
                }
            });
        }
    });
    let dirty = cache.stats().dirty;
    assert!(dirty > 50, "nothing went through");
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), dirty);
    rows.check();
}

/// Catches: writers that wait at a limit of a cache that is closed, and hang or write.
#[test]
fn c09_close_ends_the_wait_at_a_limit() {
    let rows = Audit::unrecorded();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet()
        .max_dirty(4)
        .throttle(1.0, Duration::ZERO)
        .write_timeout(NEVER)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..4).for_each(|key| drop(cache.put(key, key).unwrap()));
    thread::scope(|scope| {
        let (told, answers) = mpsc::channel();
        for key in 10..14 {
            let (cache, told) = (&cache, told.clone());
            scope.spawn(move || told.send(cache.put(key, key)).unwrap());
        }
        eventually("all wait", || cache.stats().writer_waits == 4);
        // Meanwhile reads and other writes go on.
        (0..4).for_each(|key| assert_eq!(cache.get(&key).unwrap(), Some(key)));
        (0..4).for_each(|key| drop(cache.put(key, key + 1).unwrap()));
        assert!(!cache.close(Duration::ZERO).is_drained());
        for _ in 0..4 {
            assert!(matches!(answers.recv().unwrap(), Err(Error::Closed)));
        }
        gate.open();
    });
    assert!(cache.close(NEVER).is_drained());
    assert_eq!(rows.len(), 4);
    assert!((0..4).all(|key| rows.get(&key) == Some(key + 1)));
}

/// Catches: a write from inside `read` that waits at the limit under its pin.
#[test]
fn c09_a_write_from_inside_read_does_not_wait_at_a_limit() {
    let rows = Audit::unrecorded();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet()
        .max_dirty(4)
        .throttle(0.0, NEVER)
        .write_timeout(NEVER)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    cache.put_with(0, 0, OnFull::Error).unwrap();
    let looked = cache.read(&0, |_| {
        (1..4).for_each(|key| drop(cache.put(key, key).unwrap()));
        assert!(matches!(cache.put(4, 4), Err(Error::Reentrant)));
        assert!(is_backpressure(&cache.put_with(4, 4, OnFull::Error)));
        assert!(matches!(cache.put_with(4, 4, OnFull::WriteThrough), Err(Error::Reentrant)));
        cache.put(3, 33).unwrap();
        assert!(cache.peek(&4).is_none());
    });
    assert!(looked.unwrap().is_some());
    gate.open();
    cache.flush().unwrap();
    assert_eq!((rows.len(), rows.get(&3)), (4, Some(33)));
    rows.check();
}

/// Catches: a journal with more than the limit that is refused, forgotten, or makes the count wrong.
#[test]
fn c09_a_cache_that_recovers_more_than_its_limit_drains_first() {
    let folder = tempfile::tempdir().unwrap();
    let rows = Audit::unrecorded();
    let open = |max_dirty| {
        let cache = quiet().journal(folder.path().join("limits.journal")).on_full(OnFull::Error);
        cache.drain_on_drop(Duration::ZERO).max_dirty(max_dirty).backend(Arc::clone(&rows)).open::<u64, u64>()
    };
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let cache = open(100).unwrap();
    (0..20).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(!cache.close(Duration::ZERO).is_drained());
    drop(cache);
    let mut cache = None;
    eventually("the journal is free", || {
        cache = open(10).ok();
        cache.is_some()
    });
    let cache = cache.unwrap();
    assert_eq!(cache.stats().dirty, 20);
    assert!(is_backpressure(&cache.put(100, 0)));
    cache.put(5, 55).unwrap();
    rows.clear_fault();
    cache.flush().unwrap();
    (0..10).for_each(|key| drop(cache.put(100 + key, key).unwrap()));
    assert!(cache.close(NEVER).is_drained());
    assert_eq!((rows.len(), rows.get(&5)), (30, Some(55)));
}

/// Catches: settings that stop every write.
#[test]
fn limits_that_make_no_sense_are_refused() {
    let refused = |builder: writeback::Builder| {
        let opened = builder.backend(Audit::new()).open::<u64, u64>();
        matches!(opened, Err(OpenError::BadSetting { .. }))
    };
    assert!(refused(quiet().max_dirty(0)));
    assert!(refused(quiet().max_dirty_bytes(0)));
    assert!(refused(quiet().throttle(1.5, Duration::ZERO)));
    assert!(refused(quiet().throttle(f64::NAN, Duration::ZERO)));
    assert!(!refused(quiet().max_dirty(1).max_dirty_bytes(1).throttle(1.0, Duration::ZERO)));
}
