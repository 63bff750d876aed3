//! Read-modify-write is atomic, also through evictions, loads and a backend that fails.

use std::{
    collections::HashSet,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::BackendError;

use crate::common::{Audit, Rng, quiet, scaled};

/// Catches: lost updates, updates that start from an old row, updates that are applied twice.
#[test]
fn updates_add_up_through_evictions_and_errors() {
    let rows = Audit::unrecorded();
    (0..16).for_each(|key| drop(rows.insert(key, 1_000)));
    let mut rng = Rng::new(9);
    rows.set_fault(move |_| if rng.one_in(10) { Err(BackendError::transient("busy")) } else { Ok(()) });
    rows.set_gate(|_| thread::yield_now());
    let cache = quiet()
        .capacity(4)
        .max_delay(Duration::from_millis(1))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let each = scaled(800, 5_000);
    thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for _ in 0..each {
                    cache.update(rng.below(16), |old| old.expect("the row is there") + 1).unwrap();
                }
            });
        }
    });
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.rows().values().sum::<u64>(), 16_000 + 4 * each);
    let stats = cache.stats();
    assert!(stats.evictions > 100 && stats.retries > 0 && stats.loads > 100, "{stats:?}");
    rows.check();
}

/// Catches: lost updates on one hot key, by both ways to write it.
#[test]
fn updates_of_one_hot_key_add_up() {
    let rows = Audit::unrecorded();
    let delay = Duration::from_millis(1);
    let cache = quiet().max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let each = scaled(10_000, 100_000);
    thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let handle = cache.handle().unwrap();
                for n in 0..each {
                    if (n + thread) % 2 == 0 {
                        handle.update(1, |old| old.unwrap_or(&0) + 1).unwrap();
                    } else {
                        cache.update_if(1, |old| Some(old.unwrap_or(&0) + 1)).unwrap().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(cache.get(&1).unwrap(), Some(4 * each));
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(4 * each));
    rows.check();
}

/// Catches: versions of updates that do not order them.
#[test]
fn versions_of_updates_are_in_the_order_of_their_values() {
    let rows = Audit::unrecorded();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let mut all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    for _ in 0..scaled(2_000, 20_000) {
                        let mut value = 0;
                        let version = cache.update(1, |old| {
                            value = old.unwrap_or(&0) + 1;
                            value
                        });
                        mine.push((version.unwrap(), value));
                    }
                    mine
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert!(all.iter().zip(1..).all(|((_, value), expected)| *value == expected));
}

/// Catches: a compare-and-swap that lets two through, or writes when it was told not to.
#[test]
fn update_if_is_compare_and_swap() {
    let rows = Audit::new();
    let cache = quiet().capacity(64).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let rounds = scaled(300, 3_000);
    let won = AtomicU64::new(0);
    let together = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..rounds {
                    together.wait();
                    let swap = |old: Option<&u64>| (old.copied().unwrap_or(0) == round).then_some(round + 1);
                    if cache.update_if(1, swap).unwrap().is_some() {
                        won.fetch_add(1, Ordering::SeqCst);
                    }
                    together.wait();
                }
            });
        }
    });
    assert_eq!(won.into_inner(), rounds);
    cache.flush().unwrap();
    let puts = cache.stats().puts;
    assert_eq!(cache.update_if(1, |_| None).unwrap(), None);
    assert_eq!(cache.update_if(2, |old| old.map(|old| old + 1)).unwrap(), None);
    assert!(!cache.is_dirty(&1) && !cache.is_dirty(&2) && !cache.contains(&2));
    assert_eq!(cache.stats().puts, puts);
    rows.check();
}

/// Catches: an update that takes a missing key for an absent row.
#[test]
fn an_update_of_a_missing_key_loads_it_first() {
    let rows = Audit::new();
    rows.insert(1, 41);
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.update(1, |old| old.copied().unwrap_or(0) + 1).unwrap();
    cache.update(2, |old| old.copied().unwrap_or(7) + 1).unwrap();
    assert_eq!(cache.get_many(&[1, 2]).unwrap(), [Some(42), Some(8)]);
    assert_eq!(rows.loads(), 2);
    // A removed one is absent, whatever the backend still has.
    cache.remove(&1).unwrap();
    cache.update(1, |old| old.copied().unwrap_or(100)).unwrap();
    assert_eq!(cache.get(&1).unwrap(), Some(100));
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), rows.get(&2)), (Some(100), Some(8)));
    rows.check();
}

/// Catches: callers that disagree on who made the value, and a `make` that runs more than once in one call.
#[test]
fn all_callers_of_get_or_put_with_agree() {
    let rows = Audit::unrecorded();
    (0..400).step_by(10).for_each(|key| drop(rows.insert(key, 5)));
    let cache = quiet().capacity(32).flush_at(8).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let together = Barrier::new(6);
    let answers: Vec<Vec<(u64, bool)>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let (cache, together) = (&cache, &together);
                scope.spawn(move || {
                    let call = |key| {
                        together.wait();
                        let mut calls = 0;
                        let made = cache.get_or_put_with(key, || {
                            calls += 1;
                            1_000 + key * 10 + thread
                        });
                        assert!(calls <= 1);
                        (made.unwrap(), calls == 1)
                    };
                    (0..400).map(call).collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    cache.flush().unwrap();
    for key in 0..400 {
        let agreed: HashSet<u64> = answers.iter().map(|mine| mine[key].0).collect();
        assert_eq!(agreed.len(), 1, "key {key}: {agreed:?}");
        let value = *agreed.iter().next().unwrap();
        assert_eq!((rows.get(&(key as u64)), value == 5), (Some(value), key % 10 == 0));
        assert!(value == 5 || answers.iter().any(|mine| mine[key].1));
    }
    assert!(cache.stats().evictions > 0);
    rows.check();
}

/// Catches: an update and a remove at the same time of which one gets lost.
#[test]
fn updates_and_removes_of_one_key_are_one_history() {
    let rows = Audit::unrecorded();
    let delay = Duration::from_millis(1);
    let cache = quiet().capacity(4).max_delay(delay).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let (made, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    // Tokens are put where there is none, and taken where there is one: both are conditional, so none may vanish.
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (cache, made, taken) = (&cache, &made, &taken);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for _ in 0..scaled(1_500, 10_000) {
                    let key = rng.below(8);
                    if thread < 2 {
                        let version = cache.update_if(key, |old| (*old.unwrap_or(&0) == 0).then_some(1));
                        made.fetch_add(u64::from(version.unwrap().is_some()), Ordering::SeqCst);
                    } else {
                        let version = cache.update_if(key, |old| (old == Some(&1)).then_some(0));
                        if version.unwrap().is_some() {
                            taken.fetch_add(1, Ordering::SeqCst);
                        }
                        // A key that nobody else uses: remove and update in turns.
                        let own = 100 + thread;
                        cache.remove(&own).unwrap();
                        cache.update(own, |old| old.map_or(1, |_| 99)).unwrap();
                        assert_eq!(cache.get(&own).unwrap(), Some(1));
                    }
                }
            });
        }
    });
    cache.flush().unwrap();
    let left: u64 = (0..8).filter_map(|key| rows.get(&key)).sum();
    let (made, taken) = (made.into_inner(), taken.into_inner());
    assert!(taken > 10, "the threads never met");
    assert_eq!(made, taken + left);
    rows.check();
}
