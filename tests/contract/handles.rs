//! Handles: leased lanes, and what is said when there is none.

use std::{
    sync::{Arc, Barrier},
    thread,
};

use writeback::{Ack, HandleError};

use crate::common::{Audit, evict, quiet};

/// Catches: a handle that does something else than its cache.
#[test]
fn a_handle_does_what_the_cache_does() {
    let rows = Audit::new();
    rows.insert(9, 90);
    let cache = quiet().capacity(16).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let handle = cache.handle().unwrap();
    let first = handle.put(1, 10).unwrap();
    assert!(cache.put(1, 11).unwrap() > first);
    assert_eq!((handle.get(&1).unwrap(), handle.get(&9).unwrap()), (Some(11), Some(90)));
    assert_eq!(handle.read(&1, |value| value * 2).unwrap(), Some(22));
    handle.update(9, |old| old.unwrap() + 1).unwrap();
    assert_eq!(handle.put_many([(2, 20), (3, 30)]).unwrap(), 2);
    assert_eq!(handle.get_many(&[1, 2, 3, 4, 9]).unwrap(), [Some(11), Some(20), Some(30), None, Some(91)]);
    handle.remove(&2).unwrap();
    handle.put_acked(4, 40, Ack::Backend).unwrap();
    assert_eq!(rows.get(&4), Some(40));
    handle.cache().flush().unwrap();
    evict(&cache, 1);
    assert_eq!(handle.get(&1).unwrap(), Some(11));
    assert_eq!((rows.get(&1), rows.get(&2), rows.get(&9)), (Some(11), None, Some(91)));
    let stats = cache.stats();
    assert!(stats.puts >= 7 && stats.removes == 1 && stats.hits > 0, "{stats:?}");
    rows.check();
}

/// Catches: a core that does not exist, or whose lane another thread has, being taken for granted.
#[test]
fn a_handle_on_a_core_is_leased_to_one_thread() {
    let rows = Audit::new();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    match cache.handle_on(100_000) {
        Err(error @ HandleError::NoSuchCore { core: 100_000, .. }) => {
            assert!(error.to_string().contains("numbered from 0"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // In threads of their own, since a handle on a core pins its thread.
    thread::scope(|scope| {
        scope.spawn(|| {
            let handle = cache.handle_on(0).unwrap();
            handle.put(1, 1).unwrap();
            thread::scope(|inner| {
                inner.spawn(|| match cache.handle_on(0) {
                    Err(error @ HandleError::Leased { core: 0 }) => {
                        assert!(error.to_string().contains("handle()"), "{error}");
                    }
                    other => panic!("{other:?}"),
                });
            });
            drop(handle);
            thread::scope(|inner| {
                inner.spawn(|| drop(cache.handle_on(0).unwrap().put(2, 2).unwrap()));
            });
        });
    });
    cache.flush().unwrap();
    assert_eq!(rows.len(), 2);
}

/// Catches: lanes that run out for ever, or a cache that stops working when they do.
#[test]
fn lanes_run_out_and_come_back() {
    let rows = Audit::new();
    let cache = quiet().lanes(2).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let mut held = Vec::new();
    let refused = loop {
        match cache.handle() {
            Ok(handle) => held.push(handle),
            Err(error) => break error,
        }
        assert!(held.len() < 10_000, "lanes never run out");
    };
    assert!(held.len() >= 2);
    assert!(matches!(refused, HandleError::NoLane { .. }), "{refused:?}");
    assert!(refused.to_string().contains("raise `lanes`"), "{refused}");
    // The cache itself works from every thread.
    thread::scope(|scope| {
        for thread in 0..8 {
            let cache = &cache;
            scope.spawn(move || (0..100).for_each(|n| drop(cache.put(thread * 1_000 + n, n).unwrap())));
        }
    });
    for (handle, key) in held.iter().zip(100_000..) {
        handle.put(key, key).unwrap();
    }
    let lanes = held.len();
    cache.flush().unwrap();
    assert_eq!(rows.len(), 800 + lanes);
    for round in 0..20 {
        held.clear();
        for _ in 0..lanes {
            held.push(cache.handle().unwrap_or_else(|error| panic!("round {round}: {error}")));
        }
    }
    rows.check();
}

/// Catches: lanes that are not given back by threads that end, with or without a handle.
#[test]
fn threads_past_the_pool_write_and_their_lanes_come_back() {
    let rows = Audit::unrecorded();
    let cache = quiet().capacity(10_000).lanes(3).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for round in 0..5 {
        let together = Barrier::new(16);
        thread::scope(|scope| {
            for thread in 0..16 {
                let (cache, together) = (&cache, &together);
                scope.spawn(move || {
                    together.wait();
                    for n in 0..50 {
                        cache.put(round * 1_000 + thread * 50 + n, n).unwrap();
                    }
                    together.wait();
                });
            }
        });
    }
    drop(cache.handle().expect("all threads have ended"));
    cache.flush().unwrap();
    assert_eq!(rows.len(), 5 * 16 * 50);
    assert_eq!(cache.stats().puts, 5 * 16 * 50);
    rows.check();
}

/// Catches: one thread mixing up the lanes of several caches.
#[test]
fn one_thread_uses_many_caches() {
    let made: Vec<_> = (0..40)
        .map(|_| {
            let rows = Audit::new();
            let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
            (rows, cache)
        })
        .collect();
    for round in 0..10 {
        for ((_, cache), n) in made.iter().zip(0..) {
            cache.put(round, n * 100 + round).unwrap();
        }
    }
    for ((rows, cache), n) in made.into_iter().zip(0..) {
        (0..10).for_each(|key| assert_eq!(cache.get(&key).unwrap(), Some(n * 100 + key)));
        drop(cache);
        assert_eq!((rows.len(), rows.get(&3)), (10, Some(n * 100 + 3)));
    }
}
