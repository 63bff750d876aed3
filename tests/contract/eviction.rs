//! Bounds on entries and weight, and that nothing dirty leaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::{Ack, BackendError, Error};

use crate::common::{Audit, Rng, eventually, quiet, scaled};

const WRITERS: u64 = 4;

/// Catches: entries beyond the capacity, entries lost in the storm.
#[test]
fn c09_entries_never_exceed_the_capacity_by_more_than_the_writers() {
    let rows = Audit::unrecorded();
    let cache = quiet().capacity(64).flush_at(32).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let done = AtomicBool::new(false);
    let keys = scaled(3_000, 30_000);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let cache = &cache;
                scope.spawn(move || {
                    (0..keys).for_each(|key| drop(cache.put(key * WRITERS + writer, key).unwrap()))
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(cache.len()).max(cache.stats().entries);
            }
            most
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().unwrap();
        assert!(most <= 64 + WRITERS as usize, "{most} entries in a cache of 64");
        assert!(most >= 32, "the watcher saw only {most}");
    });
    assert!(cache.len() <= 64);
    cache.flush().unwrap();
    assert_eq!(rows.len() as u64, WRITERS * keys);
    assert!(cache.stats().evictions > 1_000);
    assert_eq!(cache.capacity(), 64);
    rows.check();
}

/// Catches: weight beyond the bound, weight that is not given back, weights that drift.
#[test]
fn c09_weight_never_exceeds_the_bound_by_more_than_what_is_on_its_way() {
    let rows = Audit::unrecorded();
    let cache = quiet()
        .max_weight(1_000, |_: &u64, value: &u64| *value)
        .flush_at(8)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    assert_eq!(cache.stats().max_weight, Some(1_000));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let cache = &cache;
                scope.spawn(move || {
                    let mut rng = Rng::new(writer);
                    for _ in 0..scaled(3_000, 20_000) {
                        let key = rng.below(200);
                        match rng.below(8) {
                            0 => drop(cache.remove(&key).unwrap()),
                            1 => drop(cache.get(&key).unwrap()),
                            2 => drop(cache.update(key, |old| 1 + old.unwrap_or(&0) % 99).unwrap()),
                            _ => drop(cache.put(key, 1 + rng.below(99)).unwrap()),
                        }
                    }
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                // A number that other threads change while it is added up: only what three readings agree on counts.
                let readings = [cache.stats().weight, cache.stats().weight, cache.stats().weight];
                most = most.max(*readings.iter().min().unwrap());
            }
            most
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().unwrap();
        assert!(most <= 1_000 + WRITERS * 100, "a weight of {most} in a cache of 1,000");
        assert!(most > 500, "the watcher saw only {most}");
    });
    cache.flush().unwrap();
    let held: u64 = (0..200).filter_map(|key| cache.peek(&key)).sum();
    assert_eq!(cache.stats().weight, held);
    assert!(held <= 1_000);
    assert!(cache.stats().evictions > 0);
    // An entry that grows in its place has to make room too.
    for key in 0..5 {
        cache.put(key, 1).unwrap();
    }
    for key in 0..5 {
        cache.put(key, 900).unwrap();
        assert!(cache.stats().weight <= 1_000 + 900);
    }
    eventually("the weight came down", || cache.stats().weight <= 1_000);
    cache.flush().unwrap();
    (0..5).for_each(|key| assert_eq!(rows.get(&key), Some(900)));
    rows.check();
}

/// Catches: an entry that is too heavy being cached, lost or stored although the write was refused.
#[test]
fn c09_an_entry_that_is_too_heavy_is_refused_on_every_path() {
    let rows = Audit::new();
    rows.insert(9, 5_000);
    let cache = quiet()
        .max_weight(100, |_: &u64, value: &u64| *value)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    cache.put(1, 50).unwrap();
    let refused = |result: Result<(), Error>| match result {
        Err(error @ Error::TooHeavy { weight: 101, limit: 100 }) => {
            assert!(error.to_string().contains("max_weight"))
        }
        other => panic!("{other:?}"),
    };
    refused(cache.put(1, 101).map(drop));
    refused(cache.put_acked(1, 101, Ack::Backend).map(drop));
    refused(cache.update(1, |_| 101).map(drop));
    refused(cache.get_or_put_with(2, || 101).map(drop));
    refused(cache.put_many([(3, 30), (4, 101), (5, 10)]).map(drop));
    assert_eq!(cache.get(&1).unwrap(), Some(50), "a refused write left traces");
    // A row that is too heavy to be cached is read all the same.
    assert_eq!(cache.get(&9).unwrap(), Some(5_000));
    assert_eq!(cache.get_many(&[9, 1]).unwrap(), [Some(5_000), Some(50)]);
    assert!(!cache.contains(&9));
    cache.put(6, 100).unwrap();
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), rows.get(&3), rows.get(&6)), (Some(50), Some(30), Some(100)));
    assert_eq!((rows.get(&2), rows.get(&4), rows.get(&5)), (None, None, None));
}

/// Catches: a dirty entry that is evicted, or forgotten by the flusher, in a storm of reads.
#[test]
fn f09_the_dirty_set_is_the_same_after_an_eviction_storm() {
    let rows = Audit::unrecorded();
    (1_000..11_000).for_each(|key| drop(rows.insert(key, key)));
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let long = Duration::from_secs(1000);
    let cache =
        quiet().capacity(100).retry(long, long).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for key in 0..50 {
        if key % 5 == 0 {
            cache.remove(&key).unwrap();
        } else {
            cache.put(key, key + 1).unwrap();
        }
    }
    assert!(cache.flush().is_err());
    let value = |key: u64| (!key.is_multiple_of(5)).then_some(key + 1);
    let check = || {
        assert_eq!(cache.stats().dirty, 50);
        for key in 0..50 {
            assert!(cache.is_dirty(&key), "key {key} was lost");
            assert_eq!(cache.peek(&key), value(key));
        }
    };
    check();
    thread::scope(|scope| {
        for reader in 0..3 {
            let cache = &cache;
            scope.spawn(move || {
                let mut rng = Rng::new(reader);
                for _ in 0..scaled(5_000, 30_000) {
                    let key = 1_000 + rng.below(10_000);
                    assert_eq!(cache.get(&key).unwrap(), Some(key));
                }
            });
        }
    });
    assert!(cache.stats().evictions > 1_000);
    assert!(cache.len() <= 100 + 3);
    check();
    rows.clear_fault();
    cache.flush().unwrap();
    (0..50).for_each(|key| assert_eq!(rows.get(&key), value(key)));
    assert_eq!(cache.stats().dirty, 0);
    rows.check();
}

/// Catches: reads that fail, hang or evict dirty entries when the cache is full of them.
#[test]
fn f09_a_cache_full_of_dirty_entries_still_reads_through() {
    let rows = Audit::unrecorded();
    (1_000..1_100).for_each(|key| drop(rows.insert(key, key)));
    rows.set_fault(|_| Err(BackendError::transient("away")));
    let cache = quiet()
        .capacity(20)
        .write_timeout(Duration::from_millis(20))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let acked: Vec<u64> = (0..100).filter(|&key| cache.put(key, key).is_ok()).collect();
    assert!(acked.len() >= 16 && acked.len() <= 20, "{acked:?}");
    for key in 1_000..1_100 {
        assert_eq!(cache.get(&key).unwrap(), Some(key));
        assert_eq!(cache.get_many(&[key, 5_000]).unwrap(), [Some(key), None]);
    }
    assert!(acked.iter().all(|key| cache.is_dirty(key)));
    // A cached key can still be written.
    cache.put(acked[0], 77).unwrap();
    cache.update(acked[1], |old| old.unwrap() + 1).unwrap();
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!((rows.get(&acked[0]), rows.get(&acked[1])), (Some(77), Some(acked[1] + 1)));
    rows.check();
}

/// Catches: the smallest cache not working.
#[test]
fn c09_a_cache_of_one_entry_works() {
    let rows = Audit::unrecorded();
    let cache = quiet().capacity(1).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for key in 0..500 {
        cache.put(key, key).unwrap();
        assert_eq!(cache.get(&key).unwrap(), Some(key));
        assert_eq!(cache.get(&(key / 2)).unwrap(), Some(key / 2));
    }
    cache.remove(&3).unwrap();
    cache.update(4, |old| old.unwrap() + 1).unwrap();
    cache.flush().unwrap();
    assert_eq!((rows.len(), rows.get(&3), rows.get(&4)), (499, None, Some(5)));
    assert!(cache.len() <= 1);
    rows.check();
}

/// Catches: an update of a row that is too heavy to be cached going round in circles.
#[test]
fn c09_an_update_of_a_row_that_is_too_heavy_to_be_cached_ends() {
    let rows = Audit::new();
    rows.insert(9, 5_000);
    let cache = quiet()
        .max_weight(100, |_: &u64, value: &u64| *value)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let updating = thread::spawn({
        let cache = cache.clone();
        move || cache.update(9, |old| old.unwrap() / 100)
    });
    eventually("the update came back", || updating.is_finished());
    // To refuse it is allowed, since the old row would have to be held for a moment. To change it half-way is not.
    let updated = match updating.join().unwrap() {
        Ok(_) => Some(50),
        Err(Error::TooHeavy { .. }) => Some(5_000),
        Err(other) => panic!("{other:?}"),
    };
    cache.flush().unwrap();
    assert_eq!((cache.get(&9).unwrap(), rows.get(&9)), (updated, updated));
}
