//! Read-through: one load for everyone, errors are told and forgotten, answers are right.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use writeback::{BackendError, Cache, Error, Invalidated, backend::Doing};

use crate::common::{Audit, Gate, OpenAtEnd, eventually, gate_loads_of, quiet};

const READERS: u64 = 8;

/// Lets many threads miss the same key at once; `gate` is where its load stops.
fn all_get(cache: &Cache<u64, u64>, key: u64, gate: &Gate) -> Vec<Result<Option<u64>, Error>> {
    let started = AtomicU64::new(0);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(|| {
                    started.fetch_add(1, Ordering::SeqCst);
                    cache.get(&key)
                })
            })
            .collect();
        gate.wait_for(1);
        eventually("all readers run", || started.load(Ordering::SeqCst) == READERS);
        thread::sleep(crate::common::A_WHILE);
        gate.open();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    })
}

/// Catches: a load for each reader of a missing key.
#[test]
fn single_flight_many_readers_of_a_missing_key_cost_one_load() {
    let rows = Audit::new();
    rows.insert(1, 10);
    let gate = gate_loads_of(&rows, 1);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for answer in all_get(&cache, 1, &gate) {
        assert_eq!(answer.unwrap(), Some(10));
    }
    assert_eq!(rows.loads(), 1);
    assert_eq!(cache.stats().loads, 1);
}

/// Catches: waiters of a load that finds no row being left behind, or each asking again in turn for ever.
#[test]
fn single_flight_an_absent_row_is_told_to_all() {
    let rows = Audit::new();
    let gate = gate_loads_of(&rows, 1);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for answer in all_get(&cache, 1, &gate) {
        assert_eq!(answer.unwrap(), None);
    }
    assert_eq!(cache.len(), 0, "a negative answer was cached");
}

/// Catches: an error that only the one who loaded hears of, or one that is cached.
#[test]
fn single_flight_an_error_is_told_to_all_and_not_cached() {
    let rows = Audit::new();
    rows.insert(1, 10);
    let gate = gate_loads_of(&rows, 1);
    let _open = OpenAtEnd(Arc::clone(&gate));
    rows.set_load_hook(|_| Err(BackendError::transient("the database is away")));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for answer in all_get(&cache, 1, &gate) {
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Load(_)), "{error:?}");
        assert!(error.to_string().contains("the database is away"), "{error}");
    }
    assert!(cache.stats().load_errors > 0);
    assert_eq!(cache.len(), 0, "an error was cached");
    rows.clear_load_hook();
    assert_eq!(cache.get(&1).unwrap(), Some(10));
}

/// Catches: a panic in the backend's load that wedges the key, its waiters, or the caller.
#[test]
fn single_flight_a_panicking_load_is_an_error_for_all_and_leaves_nothing_behind() {
    let rows = Audit::new();
    rows.insert(1, 10);
    let gate = Gate::new();
    let _open = OpenAtEnd(Arc::clone(&gate));
    let at = Arc::clone(&gate);
    rows.set_gate(move |doing| {
        if let Doing::Load(_) = doing {
            at.pass();
            panic!("a panic that the test wants");
        }
    });
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for answer in all_get(&cache, 1, &gate) {
        assert!(matches!(answer, Err(Error::Load(_))), "{answer:?}");
    }
    assert!(cache.get_many(&[1, 2, 3]).is_err());
    assert!(cache.update(1, |_| 5).is_err());
    assert_eq!(cache.len(), 0);
    rows.clear_gate();
    assert_eq!(cache.get(&1).unwrap(), Some(10));
    cache.update(1, |old| old.unwrap() + 1).unwrap();
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(11));
}

/// Catches: a load with too few or too many answers being taken for the answer, or a panic on it.
#[test]
fn a_load_of_the_wrong_length_is_an_error() {
    let rows = Audit::new();
    rows.insert(1, 10);
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    rows.set_load_hook(|values| {
        values.clear();
        Ok(())
    });
    assert!(matches!(cache.get(&1), Err(Error::Load(_))));
    rows.set_load_hook(|values| {
        values.push(Some(77));
        Ok(())
    });
    assert!(matches!(cache.get(&1), Err(Error::Load(_))));
    assert!(matches!(cache.get_many(&[1, 2]), Err(Error::Load(_))));
    rows.clear_load_hook();
    assert_eq!(cache.get_many(&[1, 2]).unwrap(), [Some(10), None]);
}

/// Catches: "no such row" that is remembered although nobody asked for that, or not remembered although.
#[test]
fn negative_answers_are_cached_only_where_asked_for() {
    for cached in [false, true] {
        let rows = Audit::new();
        let cache = quiet().cache_absent(cached).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
        for _ in 0..5 {
            assert_eq!(cache.get(&1).unwrap(), None);
            assert!(!cache.contains(&1) && !cache.is_dirty(&1));
            assert_eq!(cache.peek(&1), None);
        }
        assert_eq!(rows.loads(), if cached { 1 } else { 5 });
        // A row that somebody else inserts is found: at once, or after an invalidation.
        rows.insert(1, 10);
        if cached {
            assert_eq!(cache.get(&1).unwrap(), None);
            let _ = cache.invalidate(&1).unwrap();
        }
        assert_eq!(cache.get(&1).unwrap(), Some(10));
        // Writes over a cached absence.
        assert_eq!(cache.get(&2).unwrap(), None);
        cache.update(2, |old| old.copied().unwrap_or(100) + 1).unwrap();
        assert_eq!(cache.get(&2).unwrap(), Some(101));
        assert_eq!(cache.get(&3).unwrap(), None);
        assert_eq!(cache.get_or_put_with(3, || 33).unwrap(), 33);
        cache.flush().unwrap();
        assert_eq!((rows.get(&2), rows.get(&3)), (Some(101), Some(33)));
        assert_eq!(rows.ops_applied(), 2, "an absence was written");
        rows.check();
    }
}

/// Catches: answers of `get_many` out of order, one load call for each key, trouble with keys that are given twice.
#[test]
fn get_many_answers_in_order_with_one_load() {
    let rows = Audit::new();
    (0..50).for_each(|key| drop(rows.insert(key, key * 10)));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(3, 333).unwrap();
    cache.remove(&4).unwrap();
    assert_eq!(cache.get(&5).unwrap(), Some(50));
    let before = rows.loads();
    let keys = [9, 3, 99, 4, 5, 9, 0];
    let expected = [Some(90), Some(333), None, None, Some(50), Some(90), Some(0)];
    assert_eq!(cache.get_many(&keys).unwrap(), expected);
    assert_eq!(rows.loads() - before, 1);
    assert_eq!(cache.get_many(&keys[..2]).unwrap(), expected[..2]);
    assert_eq!(rows.loads() - before, 1);
    assert_eq!(cache.get_many(&[]).unwrap(), []);
}

/// Catches: `get_many` of more keys than the cache holds, and two of them in opposite order waiting for each other.
#[test]
fn get_many_of_more_keys_than_fit_and_in_opposite_orders() {
    let rows = Audit::new();
    (0..300).for_each(|key| drop(rows.insert(key, key + 1)));
    let cache = quiet().capacity(20).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let mut keys: Vec<u64> = (0..300).collect();
                for _ in 0..20 {
                    if thread % 2 == 0 {
                        keys.reverse();
                    }
                    let expected: Vec<_> = keys.iter().map(|key| Some(key + 1)).collect();
                    assert_eq!(cache.get_many(&keys).unwrap(), expected);
                }
            });
        }
    });
    assert!(cache.len() <= 20 && cache.stats().evictions > 0);
    assert_eq!(rows.ops_applied(), 0);
}

/// Catches: a `peek` or `contains` that loads, hits that are not counted, wrong ratios.
#[test]
fn peek_never_loads_and_hits_are_counted() {
    let rows = Audit::new();
    rows.insert(1, 10);
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    assert_eq!((cache.peek(&1), cache.contains(&1), rows.loads()), (None, false, 0));
    assert_eq!(cache.read(&1, |value| value + 1).unwrap(), Some(11));
    assert_eq!((cache.peek(&1), cache.contains(&1), rows.loads()), (Some(10), true, 1));
    for _ in 0..9 {
        cache.get(&1).unwrap();
    }
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.loads), (9, 1, 1));
    assert!((stats.hit_ratio() - 0.9).abs() < 1e-9);
    assert_eq!(cache.read(&2, |value| value + 1).unwrap(), None);
}

/// Catches: an absent row that is asked for once for each time that it was given.
#[test]
fn get_many_asks_once_for_an_absent_key_that_is_given_twice() {
    let rows = Audit::new();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    assert_eq!(cache.get_many(&[1, 2, 1]).unwrap(), [None; 3]);
    assert_eq!(rows.loads(), 1);
}

/// Catches: an answer to `invalidate` that denies what it did.
#[test]
fn an_invalidation_of_a_cached_absence_says_that_it_removed_something() {
    let rows = Audit::new();
    let cache = quiet().cache_absent(true).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    assert_eq!((cache.get(&1).unwrap(), cache.len()), (None, 1));
    assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Removed);
}
