//! Calls of the cache from inside the cache, and readers that stand in the way.

use std::{sync::Arc, thread, time::Duration};

use writeback::{Error, Invalidated};

use crate::common::{Audit, Gate, OpenAtEnd, eventually, gate_applies, gate_loads_of, quiet};

/// Catches: a call from inside `read` that deadlocks, panics, or is not told that it cannot wait there.
#[test]
fn calls_from_inside_read_work_or_say_reentrant() {
    let rows = Audit::new();
    (0..20).for_each(|key| drop(rows.insert(key, key)));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 10).unwrap();
    let fine_or_reentrant = |name: &str, error: Option<Error>| {
        assert!(matches!(error, None | Some(Error::Reentrant)), "{name}: {error:?}");
    };
    cache
        .read(&1, |value| {
            assert_eq!(cache.get(&1).unwrap(), Some(*value));
            assert_eq!(cache.read(&1, |inner| inner + value).unwrap(), Some(20));
            cache.put(1, 11).unwrap();
            cache.put(2, 22).unwrap();
            assert_eq!((cache.peek(&1), *value), (Some(11), 10), "the reference changed under its reader");
            cache.update(1, |old| old.unwrap() + 1).unwrap();
            cache.remove(&2).unwrap();
            assert!(matches!(cache.flush(), Err(Error::Reentrant)));
            fine_or_reentrant("get", cache.get(&5).err());
            fine_or_reentrant("get_many", cache.get_many(&[6, 7]).err());
            fine_or_reentrant("update", cache.update(8, |old| *old.unwrap_or(&8)).err());
            fine_or_reentrant("get_or_put_with", cache.get_or_put_with(9, || 9).err());
            fine_or_reentrant("invalidate", cache.invalidate(&10).err());
            fine_or_reentrant("put_acked", cache.put_acked(30, 30, writeback::Ack::Backend).err());
            assert_eq!(*value, 10);
        })
        .unwrap()
        .unwrap();
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), rows.get(&2)), (Some(12), None));
    rows.check();
}

/// Catches: a write from inside `read` that waits for room which its own reader keeps.
#[test]
fn writes_from_inside_read_at_a_full_cache_end() {
    let rows = Audit::new();
    let cache = quiet()
        .capacity(4)
        .write_timeout(Duration::from_millis(100))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..4).for_each(|key| drop(cache.put(key, key).unwrap()));
    let acked = cache.read(&0, |value| {
        let acked: Vec<u64> = (100..150)
            .filter(|&key| match cache.put(key, key) {
                Ok(_) => true,
                Err(Error::Reentrant | Error::Backpressure { .. }) => false,
                Err(other) => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(*value, 0);
        acked
    });
    let acked = acked.unwrap().unwrap();
    cache.flush().unwrap();
    assert!(acked.iter().all(|key| rows.get(key) == Some(*key)));
    assert!((100..150).all(|key| acked.contains(&key) || rows.get(&key).is_none()));
    rows.check();
}

/// Catches: calls from inside the closures of `update` and `get_or_put_with` that wait for themselves.
#[test]
fn calls_from_inside_update_work() {
    let rows = Audit::new();
    rows.insert(5, 50);
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 10).unwrap();
    cache
        .update(1, |old| old.unwrap() + cache.get(&1).unwrap().unwrap() + cache.get(&5).unwrap().unwrap())
        .unwrap();
    assert_eq!(cache.get(&1).unwrap(), Some(70));
    let mut interfered = false;
    cache
        .update(1, |old| {
            if !interfered {
                interfered = true;
                cache.put(1, 1_000).unwrap();
            }
            old.unwrap() + 1
        })
        .unwrap();
    assert_eq!(
        cache.get(&1).unwrap(),
        Some(1_001),
        "the write from inside was overwritten by what it had made old"
    );
    cache
        .update(2, |_| {
            let flushed = cache.flush();
            assert!(matches!(flushed, Ok(()) | Err(Error::Reentrant)), "{flushed:?}");
            2
        })
        .unwrap();
    let made = cache.get_or_put_with(3, || cache.get_or_put_with(4, || 44).unwrap() + 1).unwrap();
    assert_eq!((made, cache.get(&4).unwrap()), (45, Some(44)));
    let own = cache.get_or_put_with(6, || {
        cache.put(6, 66).unwrap();
        67
    });
    let own = own.unwrap();
    assert_eq!(cache.get(&6).unwrap(), Some(own));
    cache.flush().unwrap();
    assert_eq!(
        (rows.get(&1), rows.get(&2), rows.get(&3), rows.get(&6)),
        (Some(1_001), Some(2), Some(45), Some(own))
    );
    rows.check();
}

/// Catches: memory under a reader being used again, however long it stays; writes that are lost because of it.
#[test]
fn a_parked_reader_keeps_its_value_and_nothing_is_lost() {
    let rows = Audit::unrecorded();
    let gate = Gate::new();
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet()
        .capacity(16)
        .write_timeout(Duration::from_millis(20))
        .max_delay(Duration::from_millis(1))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    cache.put(1, 111).unwrap();
    thread::scope(|scope| {
        let (cache, gate) = (&cache, &gate);
        let reader = scope.spawn(move || {
            cache.read(&1, |value| {
                gate.pass();
                *value
            })
        });
        gate.wait_for(1);
        let mut acked = Vec::new();
        for n in 0..2_000 {
            let key = n % 200;
            match cache.put(key, n) {
                Ok(_) => acked.push((key, n)),
                Err(Error::Backpressure { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
            if acked.len() + 20 < n as usize {
                break;
            }
        }
        let refused = cache.invalidate(&1);
        assert!(
            matches!(
                refused,
                Ok(Invalidated::Removed | Invalidated::Absent | Invalidated::Dirty)
                    | Err(Error::Backpressure { .. })
            ),
            "{refused:?}"
        );
        gate.open();
        assert_eq!(reader.join().unwrap().unwrap(), Some(111), "the value changed under its reader");
        // With the reader gone there is room again.
        eventually("writes go through again", || cache.put(5_000, 1).is_ok());
        cache.flush().unwrap();
        let last: std::collections::HashMap<u64, u64> = acked.into_iter().collect();
        assert!(last.len() > 5);
        for (key, value) in last {
            assert_eq!(rows.get(&key), Some(value), "key {key}");
        }
    });
    rows.check();
}

/// Catches: a hit that waits for the backend, for a load of another key, for a flush or for another reader.
#[test]
fn c12_a_hit_waits_for_nobody() {
    let rows = Audit::new();
    rows.insert(500, 5);
    let (loads, reading) = (gate_loads_of(&rows, 500), Gate::new());
    let cache = quiet().capacity(64).flush_at(1_000).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    cache.flush().unwrap();
    thread::scope(|scope| {
        let (_a, _c) = (OpenAtEnd(Arc::clone(&loads)), OpenAtEnd(Arc::clone(&reading)));
        let loader = scope.spawn(|| cache.get(&500));
        loads.wait_for(1);
        let applies = gate_applies(&rows);
        let _b = OpenAtEnd(Arc::clone(&applies));
        cache.put(1, 100).unwrap();
        let (held, at) = (&cache, &reading);
        let reader = scope.spawn(move || {
            held.read(&2, |value| {
                at.pass();
                *value
            })
        });
        reading.wait_for(1);
        let flush = scope.spawn(|| cache.flush());
        applies.wait_for(1);
        for round in 0..1_000 {
            for key in 2..10 {
                assert_eq!(cache.get(&key).unwrap(), Some(key));
            }
            assert_eq!(cache.get(&1).unwrap(), Some(100 + round));
            cache.put(1, 101 + round).unwrap();
        }
        assert!(
            !loader.is_finished() && !reader.is_finished() && !flush.is_finished(),
            "nothing was in the way"
        );
        [&loads, &applies, &reading].into_iter().for_each(|gate| gate.open());
        assert_eq!(loader.join().unwrap().unwrap(), Some(5));
        assert_eq!(reader.join().unwrap().unwrap(), Some(2));
        flush.join().unwrap().unwrap();
    });
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(1_100));
    rows.check();
}
