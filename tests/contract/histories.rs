//! Never a stale read: not during a flush, not after an eviction, not when a slow load comes back late.

use std::{sync::Arc, thread};

use writeback::{Cache, Invalidated};

use crate::common::{Audit, OpenAtEnd, eventually, evict, gate_applies, gate_loads_of, quiet};

/// Catches: a read during a flush that goes to the backend, or shows what is being replaced there.
#[test]
fn c06_a_read_during_the_flush_shows_the_new_value() {
    let rows = Audit::new();
    rows.insert(1, 1);
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 2).unwrap();
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    thread::scope(|scope| {
        let flush = scope.spawn(|| cache.flush());
        gate.wait_for(1);
        assert_eq!(rows.get(&1), Some(1));
        assert_eq!((cache.get(&1).unwrap(), cache.peek(&1)), (Some(2), Some(2)));
        assert_eq!(cache.read(&1, |value| *value).unwrap(), Some(2));
        assert_eq!(cache.get_many(&[1]).unwrap(), [Some(2)]);
        assert!(cache.is_dirty(&1));
        eventually("the write is in flight", || cache.stats().in_flight == 1);
        gate.open();
        flush.join().unwrap().unwrap();
    });
    assert!(!cache.is_dirty(&1));
    assert_eq!(rows.loads(), 0);
}

/// Fills the cache with other entries as far as it can while the backend is blocked.
fn storm(cache: &Cache<u64, u64>) {
    cache.get_many(&(10_000..10_500).collect::<Vec<_>>()).unwrap();
    (10_000..10_500).for_each(|key| assert_eq!(cache.get(&key).unwrap(), Some(key)));
}

fn f21(change: impl Fn(&Cache<u64, u64>), expected: Option<u64>) {
    let rows = Audit::new();
    rows.insert(1, 1);
    (10_000..10_500).for_each(|key| drop(rows.insert(key, key)));
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().capacity(8).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    assert_eq!(cache.get(&1).unwrap(), Some(1));
    change(&cache);
    storm(&cache);
    assert_eq!(cache.get(&1).unwrap(), expected, "before the flush");
    thread::scope(|scope| {
        let flush = scope.spawn(|| cache.flush());
        gate.wait_for(1);
        storm(&cache);
        assert_eq!(cache.get(&1).unwrap(), expected, "during the flush");
        assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Dirty);
        gate.open();
        flush.join().unwrap().unwrap();
    });
    assert_eq!(cache.get(&1).unwrap(), expected, "after the flush");
    storm(&cache);
    assert_eq!(cache.get(&1).unwrap(), expected, "after an eviction");
    assert_eq!(rows.get(&1), expected);
    assert!(cache.stats().evictions > 500);
    rows.check();
}

/// Catches: an evicted dirty entry whose old row is loaded again.
#[test]
fn f21_a_put_survives_an_eviction_storm_before_and_during_its_flush() {
    f21(|cache| drop(cache.put(1, 2).unwrap()), Some(2));
}

/// Catches: an evicted tombstone whose old row is loaded again.
#[test]
fn f21_a_remove_survives_an_eviction_storm_before_and_during_its_flush() {
    f21(|cache| drop(cache.remove(&1).unwrap()), None);
}

/// Catches: an update that is computed from the old row.
#[test]
fn f21_an_update_survives_an_eviction_storm_before_and_during_its_flush() {
    f21(|cache| drop(cache.update(1, |old| old.unwrap() + 100).unwrap()), Some(101));
}

/// Stops a load of key 1 after it has read the row, does `meanwhile`, lets it come back. Says what its reader got.
fn slow_load(rows: &Arc<Audit>, cache: &Cache<u64, u64>, meanwhile: impl FnOnce()) -> Option<u64> {
    let gate = gate_loads_of(rows, 1);
    let _open = OpenAtEnd(Arc::clone(&gate));
    thread::scope(|scope| {
        let reader = scope.spawn(|| cache.get(&1));
        gate.wait_for(1);
        meanwhile();
        gate.open();
        reader.join().unwrap().unwrap()
    })
}

fn small(rows: &Arc<Audit>) -> Cache<u64, u64> {
    rows.insert(1, 1);
    quiet().capacity(8).backend(Arc::clone(rows)).open().unwrap()
}

/// Catches: a load that overwrites a put.
#[test]
fn c06_a_slow_load_does_not_overwrite_a_put() {
    let rows = Audit::new();
    let cache = small(&rows);
    let got = slow_load(&rows, &cache, || {
        cache.put(1, 2).unwrap();
        assert_eq!(cache.get(&1).unwrap(), Some(2));
    });
    assert_eq!(got, Some(2), "the reader of the slow load saw what was overwritten before it came back");
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    assert!(cache.is_dirty(&1));
    cache.flush().unwrap();
    assert_eq!(rows.get(&1), Some(2));
}

/// Catches: a load that was started before a put, and is cached after that was flushed and evicted.
#[test]
fn c06_a_slow_load_that_returns_after_put_flush_and_eviction_is_not_shown() {
    let rows = Audit::new();
    let cache = small(&rows);
    let got = slow_load(&rows, &cache, || {
        cache.put(1, 2).unwrap();
        cache.flush().unwrap();
        evict(&cache, 1);
        assert_eq!(rows.get(&1), Some(2));
    });
    assert_eq!(got, Some(2), "the reader of the slow load saw what was overwritten before it came back");
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    cache.update(1, |old| old.unwrap() + 1).unwrap();
    assert_eq!(cache.get(&1).unwrap(), Some(3));
    assert!(cache.stats().evictions > 0);
}

/// Catches: an old load that joins, or answers, a new one of the same key.
#[test]
fn c06_a_slow_load_does_not_answer_a_later_reader() {
    let rows = Audit::new();
    let cache = small(&rows);
    let gate = gate_loads_of(&rows, 1);
    let _open = OpenAtEnd(Arc::clone(&gate));
    thread::scope(|scope| {
        let first = scope.spawn(|| cache.get(&1));
        gate.wait_for(1);
        cache.put(1, 2).unwrap();
        cache.flush().unwrap();
        evict(&cache, 1);
        // Its own load, or that of the first reader made good: whatever comes back has to be the new value.
        let second = scope.spawn(|| cache.get(&1));
        thread::sleep(crate::common::A_WHILE);
        gate.open();
        assert_eq!(second.join().unwrap().unwrap(), Some(2));
        assert_eq!(first.join().unwrap().unwrap(), Some(2));
    });
    assert_eq!(cache.get(&1).unwrap(), Some(2));
}

/// Catches: a load that brings a removed row back.
#[test]
fn c06_a_slow_load_does_not_bring_a_removed_row_back() {
    for flushed in [false, true] {
        let rows = Audit::new();
        let cache = small(&rows);
        let got = slow_load(&rows, &cache, || {
            cache.remove(&1).unwrap();
            if flushed {
                cache.flush().unwrap();
                (100..150).for_each(|key| drop(cache.put_acked(key, 0, writeback::Ack::Backend).unwrap()));
                assert_eq!(rows.get(&1), None);
            }
        });
        assert_eq!(got, None, "flushed: {flushed}");
        assert_eq!(cache.get(&1).unwrap(), None);
        cache.flush().unwrap();
        assert_eq!((cache.get(&1).unwrap(), rows.get(&1)), (None, None));
    }
}

/// Catches: a load that an invalidation should have made void being cached.
#[test]
fn c06_a_slow_load_is_not_cached_after_an_invalidation() {
    let rows = Audit::new();
    let cache = small(&rows);
    let got = slow_load(&rows, &cache, || {
        rows.insert(1, 3);
        assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Removed);
    });
    assert!(got == Some(1) || got == Some(3), "{got:?}");
    assert_eq!(cache.get(&1).unwrap(), Some(3), "the load that was invalidated is in the cache");
    assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Removed);
    assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Absent);
}

/// Catches: the same for `get_many` and `update`, which have their own ways to a load.
#[test]
fn c06_slow_loads_of_get_many_and_update_do_not_show_old_values() {
    let rows = Audit::new();
    let cache = small(&rows);
    let gate = gate_loads_of(&rows, 1);
    let _open = OpenAtEnd(Arc::clone(&gate));
    thread::scope(|scope| {
        let many = scope.spawn(|| cache.get_many(&[1, 2]));
        gate.wait_for(1);
        cache.put(1, 2).unwrap();
        cache.flush().unwrap();
        evict(&cache, 1);
        gate.allow(1);
        gate.open();
        assert_eq!(many.join().unwrap().unwrap(), [Some(2), None]);
    });
    let rows = Audit::new();
    let cache = small(&rows);
    let gate = gate_loads_of(&rows, 1);
    let _open = OpenAtEnd(Arc::clone(&gate));
    thread::scope(|scope| {
        let update = scope.spawn(|| cache.update(1, |old| old.unwrap() + 100));
        gate.wait_for(1);
        cache.put(1, 2).unwrap();
        cache.flush().unwrap();
        evict(&cache, 1);
        gate.open();
        update.join().unwrap().unwrap();
    });
    assert_eq!(cache.get(&1).unwrap(), Some(102));
}

/// Catches: an invalidation that drops a write.
#[test]
fn f27_a_dirty_entry_is_not_invalidated() {
    let rows = Audit::new();
    let cache = small(&rows);
    cache.put(1, 2).unwrap();
    assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Dirty);
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    cache.flush().unwrap();
    rows.insert(1, 5);
    assert_eq!(cache.get(&1).unwrap(), Some(2));
    assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Removed);
    assert_eq!(cache.get(&1).unwrap(), Some(5));
    cache.remove(&1).unwrap();
    assert_eq!(cache.invalidate(&1).unwrap(), Invalidated::Dirty);
    assert_eq!(cache.get(&1).unwrap(), None);
    assert_eq!(cache.invalidate(&99).unwrap(), Invalidated::Absent);
}
