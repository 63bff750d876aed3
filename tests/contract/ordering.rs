//! Per key the backend sees a subsequence of the writes, in order, one at a time, ending in the last.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use writeback::{BackendError, Cache, Change};

use crate::common::{
    Audit, Gate, OpenAtEnd, Rng, eventually, evict, gate_applies, lock, quiet, scaled, stays,
};

/// Catches: a random one of several quick updates being stored.
#[test]
fn f05_the_last_of_a_thousand_quick_updates_is_stored() {
    let rows = Audit::new();
    let delay = Duration::from_millis(1);
    let cache = quiet().max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for round in 0..20 {
        (0..1_000).for_each(|value| drop(cache.put(round, value).unwrap()));
    }
    cache.flush().unwrap();
    for round in 0..20 {
        let values: Vec<u64> = rows.history(&round).iter().map(|op| *op.change().value().unwrap()).collect();
        assert!(values.is_sorted() && values.last() == Some(&999), "{values:?}");
    }
    rows.check();
}

/// Catches: a write that overtakes another one of its key, a version that is used twice or goes back, a lost last write.
#[test]
fn c04_the_backend_sees_a_subsequence_in_order_with_many_writers() {
    let rows = Audit::new();
    let mut rng = Rng::new(4);
    rows.set_fault(move |_| if rng.one_in(10) { Err(BackendError::transient("busy")) } else { Ok(()) });
    let cache = quiet()
        .capacity(12)
        .flush_at(6)
        .batch_size(5)
        .max_delay(Duration::from_millis(1))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let acked: Mutex<BTreeMap<(u64, u64), Option<u64>>> = Mutex::default();
    thread::scope(|scope| {
        for writer in 0..4 {
            let (cache, acked) = (&cache, &acked);
            scope.spawn(move || {
                let mut rng = Rng::new(writer);
                for n in 0..scaled(2_000, 10_000) {
                    let (key, value) = (rng.below(24), writer * 1_000_000 + n);
                    let (version, change) = if rng.one_in(8) {
                        (cache.remove(&key).unwrap(), None)
                    } else {
                        (cache.put(key, value).unwrap(), Some(value))
                    };
                    let before = lock(acked).insert((key, version.get()), change);
                    assert_eq!(before, None, "version {version:?} of key {key} was given out twice");
                }
            });
        }
    });
    rows.clear_fault();
    cache.flush().unwrap();
    let acked = lock(&acked);
    for key in 0..24 {
        let mut last = 0;
        for op in rows.history(&key) {
            assert!(op.version() > last, "key {key}: version {} after {last}", op.version());
            last = op.version();
            assert_eq!(acked.get(&(key, last)), Some(&op.change().value().copied()), "key {key}");
        }
        let ((_, newest), value) = acked.range((key, 0)..=(key, u64::MAX)).next_back().unwrap();
        assert_eq!((last, rows.get(&key)), (*newest, *value), "key {key} does not end in its last write");
    }
    rows.check();
    let stats = cache.stats();
    assert!(stats.evictions > 0 && stats.retries > 0 && stats.coalesced > 0, "{stats:?}");
    assert!(rows.resent() > 0);
}

/// Catches: a second write of a key on its way while the first one stalls.
#[test]
fn f13_a_stalled_write_is_never_overtaken() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().batch_size(1).flush_at(1).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    gate.wait_for(1);
    thread::scope(|scope| {
        cache.put(1, 2).unwrap();
        let flushes: Vec<_> = (0..3).map(|_| scope.spawn(|| cache.flush())).collect();
        stays("the second write waits for the first", || {
            rows.check();
            flushes.iter().all(|flush| !flush.is_finished())
        });
        assert_eq!(cache.get(&1).unwrap(), Some(2));
        gate.open();
        flushes.into_iter().for_each(|flush| flush.join().unwrap().unwrap());
    });
    assert_eq!(rows.get(&1), Some(2));
    let history: Vec<_> = rows.history(&1).iter().map(|op| *op.change().value().unwrap()).collect();
    assert_eq!(history, [1, 2]);
    rows.check();
}

/// Puts `first`, stops its write in the backend, does `second`, and lets the first answer arrive.
fn written_while_in_flight(first: u64, second: impl FnOnce(&Cache<u64, u64>), expected: Option<u64>) {
    let rows = Audit::new();
    let gate: Arc<Gate> = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let delay = Duration::from_millis(1);
    let cache = quiet().max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, first).unwrap();
    gate.wait_for(1);
    second(&cache);
    assert!(cache.is_dirty(&1));
    gate.allow(1);
    // The answer to the first write is in, since a second batch is on its way.
    gate.wait_for(2);
    assert!(cache.is_dirty(&1), "the answer for the old version cleaned the new one");
    assert_eq!(cache.get(&1).unwrap(), expected);
    assert_eq!(rows.get(&1), Some(first));
    gate.open();
    eventually("the second version was flushed", || !cache.is_dirty(&1));
    assert_eq!(rows.get(&1), expected);
    let history = rows.history(&1);
    assert_eq!(history.len(), 2);
    assert!(history[0].version() < history[1].version());
    assert_eq!(history[1].change(), &expected.map_or(Change::Delete, Change::Upsert));
    rows.check();
}

/// Catches: clearing dirty by key.
#[test]
fn f04_a_write_during_the_flush_stays_dirty() {
    written_while_in_flight(1, |cache| drop(cache.put(1, 2)), Some(2));
}

/// Catches: clearing dirty by equality of values.
#[test]
fn f04_an_equal_write_during_the_flush_stays_dirty() {
    written_while_in_flight(1, |cache| drop(cache.put(1, 1)), Some(1));
}

/// Catches: a remove during the flush that is forgotten.
#[test]
fn f04_a_remove_during_the_flush_stays_dirty() {
    written_while_in_flight(1, |cache| drop(cache.remove(&1)), None);
}

/// Catches: A-B-A: the value comes back, but through other versions.
#[test]
fn f04_a_remove_and_an_equal_put_during_the_flush_stay_dirty() {
    let again = |cache: &Cache<u64, u64>| {
        cache.remove(&1).unwrap();
        cache.put(1, 1).unwrap();
    };
    written_while_in_flight(1, again, Some(1));
}

/// Catches: a remove whose flush cleans a put that came after it, or drops it with the tombstone.
#[test]
fn f04_a_put_during_the_flush_of_a_remove_stays() {
    let rows = Audit::new();
    rows.insert(1, 1);
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let delay = Duration::from_millis(1);
    let cache = quiet().max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.remove(&1).unwrap();
    gate.wait_for(1);
    assert_eq!(cache.get(&1).unwrap(), None);
    cache.put(1, 2).unwrap();
    gate.allow(1);
    gate.wait_for(2);
    assert_eq!((cache.get(&1).unwrap(), rows.get(&1)), (Some(2), None));
    gate.open();
    eventually("the put was flushed", || rows.get(&1) == Some(2) && !cache.is_dirty(&1));
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    rows.check();
}

/// Catches: versions that start anew when an entry comes back after an eviction, a load or a remove.
#[test]
fn c04_versions_grow_through_eviction_and_reinsertion() {
    let rows = Audit::new();
    let cache = quiet().capacity(4).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let mut last = cache.put(1, 0).unwrap();
    for round in 1..60 {
        cache.flush().unwrap();
        evict(&cache, 1);
        let next = match round % 4 {
            0 => cache.put(1, round).unwrap(),
            1 => {
                let _ = cache.get(&1).unwrap();
                cache.put(1, round).unwrap()
            }
            2 => cache.remove(&1).unwrap(),
            _ => cache.update(1, |_| round).unwrap(),
        };
        assert!(next > last, "round {round}: {next:?} after {last:?}");
        last = next;
    }
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(59));
    assert!(cache.stats().evictions > 0);
    rows.check();
}
