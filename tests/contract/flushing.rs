//! Flushes of less than everything, and flushes that do not wait for ever.

use std::{collections::HashSet, sync::Arc, thread, time::Duration};

use writeback::{Ack, BackendError, Clock, Error, OnFull};

use crate::common::{Audit, NEVER, OpenAtEnd, eventually, evict, gate_applies, quiet};

const SECOND: Duration = Duration::from_secs(1);

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> usize {
    match result {
        Err(Error::NotFlushed { failed, .. }) => failed,
        other => panic!("{other:?}"),
    }
}

/// Catches: a flush of one key that waits for others, forgets removes, or answers before the backend has it.
#[test]
fn flush_key_waits_for_its_key_alone() {
    let rows = Audit::new();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key + 1).unwrap()));
    cache.flush_key(&3).unwrap();
    assert_eq!((rows.get(&3), rows.ops_applied(), cache.is_dirty(&3)), (Some(4), 1, false));
    // Clean, or unknown: there is nothing to wait for.
    cache.flush_key(&3).unwrap();
    cache.flush_key(&99).unwrap();
    assert_eq!(rows.ops_applied(), 1);
    cache.remove(&3).unwrap();
    cache.flush_key(&3).unwrap();
    assert_eq!((rows.get(&3), rows.ops_applied(), cache.stats().dirty), (None, 2, 9));
    rows.check();
}

/// Catches: a version that is waited for being answered by an older one that was on its way.
#[test]
fn flush_key_waits_for_the_version_of_now() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().flush_at(1).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    gate.wait_for(1);
    cache.put(1, 2).unwrap();
    thread::scope(|scope| {
        let flush = scope.spawn(|| cache.flush_key(&1).map(|()| rows.get(&1)));
        gate.allow(1);
        gate.wait_for(2);
        assert!(!flush.is_finished());
        gate.open();
        assert_eq!(flush.join().unwrap().unwrap(), Some(2));
    });
    rows.check();
}

/// Catches: flushes that say Ok over a refusal, or that a refusal wedges.
#[test]
fn no_kind_of_flush_says_ok_over_a_refusal() {
    let rows = Audit::new();
    let cache = quiet().retry(NEVER, NEVER).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for error in [BackendError::transient("away"), BackendError::permanent("never")] {
        let ticket = cache.put_ticket(1, 10, Ack::Memory).unwrap();
        cache.put(2, 20).unwrap();
        rows.set_fault(move |_| Err(error.clone()));
        // Each of them tries again.
        for _ in 0..2 {
            assert_eq!(refused(cache.flush_key(&1)), 1);
            assert_eq!(refused(cache.flush_if(|_, _| true)), 2);
            assert_eq!(refused(cache.flush_within(NEVER)), 2);
            assert_eq!(refused(cache.wait_flushed(&ticket)), 1);
        }
        rows.clear_fault();
        cache.flush_key(&1).unwrap();
        cache.wait_flushed(&ticket).unwrap();
        assert_eq!((rows.get(&1), cache.stats().dirty), (Some(10), 1));
        cache.flush_within(NEVER).unwrap();
        assert_eq!((rows.get(&2), cache.stats().dirty), (Some(20), 0));
        rows.check();
    }
}

/// Catches: a predicate that sees clean entries, misses dirty ones, or must not call the cache.
#[test]
fn flush_if_writes_what_matches_and_nothing_else() {
    let rows = Audit::new();
    let cache = quiet().capacity(5_000).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..100).for_each(|key| drop(cache.put(key, key).unwrap()));
    cache.flush().unwrap();
    (50..1_000).for_each(|key| drop(cache.put(key, key + 1).unwrap()));
    cache.remove(&0).unwrap();
    let before = rows.ops_applied();
    let mut seen = HashSet::new();
    let flushed = cache.flush_if(|key, value| {
        assert_eq!(value.copied(), (*key != 0).then_some(key + 1));
        assert!(seen.insert(*key), "key {key} was shown twice");
        // It holds nothing: the cache can be used, and be waited for.
        assert_eq!(cache.get(key).unwrap(), value.copied());
        if *key == 77 {
            cache.flush_key(&77).unwrap();
        }
        key % 100 == 0
    });
    assert_eq!(flushed.unwrap(), 10);
    assert_eq!(seen.len(), 951);
    assert_eq!(rows.ops_applied() - before, 11);
    assert_eq!((rows.get(&0), rows.get(&900), rows.get(&901)), (None, Some(901), None));
    assert_eq!(cache.flush_if(|_, _| false).unwrap(), 0);
    assert_eq!(cache.stats().dirty, 940);
    rows.check();
}

/// Catches: a flush with a deadline that hangs, says Ok, or miscounts what remains.
#[test]
fn flush_within_says_how_much_remains() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().batch_size(1).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    let remaining = || match cache.flush_within(Duration::from_millis(20)) {
        Err(Error::FlushTimedOut { remaining, waited, .. }) if waited >= Duration::from_millis(20) => {
            remaining
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(remaining(), 10);
    gate.allow(3);
    eventually("three are written", || remaining() == 7);
    // Written while the flush waits, too.
    thread::scope(|scope| {
        let flush = scope.spawn(|| cache.flush_within(Duration::from_millis(300)));
        gate.allow(2);
        let answer = flush.join().unwrap();
        assert!(matches!(answer, Err(Error::FlushTimedOut { remaining: 5, .. })), "{answer:?}");
    });
    gate.open();
    cache.flush_within(NEVER).unwrap();
    cache.flush_within(Duration::MAX).unwrap();
    assert_eq!(rows.len(), 10);
    // What was refused remains, and is counted once.
    rows.set_fault(|op| if op.key() % 2 == 0 { Err(BackendError::permanent("no")) } else { Ok(()) });
    (20..24).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert_eq!(refused(cache.flush_within(NEVER)), 2);
    rows.check();
}

/// Catches: a ticket that is told of another version, another key, or another cache.
#[test]
fn wait_flushed_is_about_the_tickets_version() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet().capacity(64).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let first = cache.put_ticket(1, 1, Ack::Memory).unwrap();
    cache.put(2, 2).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| cache.wait_flushed(&first));
        gate.wait_for(1);
        let second = cache.put_ticket(1, 10, Ack::Memory).unwrap();
        assert!(second.version() > first.version());
        gate.allow(1);
        assert_eq!(waiter.join().unwrap().unwrap(), first.version());
        assert_eq!((rows.get(&1), rows.get(&2)), (Some(1), None));
        assert!(cache.is_dirty(&1));
        gate.open();
        assert_eq!(cache.wait_flushed(&second).unwrap(), second.version());
        // The older one is in the backend by then, too; and a ticket is still there to be waited for.
        cache.wait_flushed(&first).unwrap();
        let version = second.version();
        assert_eq!(second.wait().unwrap(), version);
        assert_eq!((rows.get(&1), cache.is_dirty(&2)), (Some(10), true));
    });
    rows.check();
}

/// Catches: a flush of many that keeps another key past its deadline.
#[test]
fn c07_a_long_explicit_flush_does_not_make_other_keys_late() {
    let rows = Audit::new();
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let (clock, time) = Clock::manual();
    let cache = quiet()
        .capacity(4_000)
        .batch_size(10)
        .max_delay(SECOND)
        .clock(clock)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..2_000).for_each(|key| drop(cache.put(key, key).unwrap()));
    thread::scope(|scope| {
        let flush = scope.spawn(|| cache.flush_if(|key, _| *key >= 10));
        gate.wait_for(1);
        time.advance(SECOND * 2);
        // Others are due now. They are old, so they come with the next batches and not behind all that is asked for.
        gate.allow(4);
        eventually("the others were written", || (0..10).all(|key| rows.get(&key).is_some()));
        gate.open();
        assert_eq!(flush.join().unwrap().unwrap(), 1_990);
    });
    rows.check();
}

/// Catches: flushes that wait under a pin, or of a cache that is closed.
#[test]
fn flushes_from_inside_read_and_after_close_are_refused() {
    let rows = Audit::new();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let other = quiet().backend(Audit::new()).open::<u64, u64>().unwrap();
    let ticket = cache.put_ticket(1, 1, OnFull::Error).unwrap();
    assert!(matches!(other.wait_flushed(&ticket), Err(Error::ForeignTicket)));
    cache
        .read(&1, |_| {
            assert!(matches!(cache.flush_key(&1), Err(Error::Reentrant)));
            assert!(matches!(cache.flush_if(|_, _| true), Err(Error::Reentrant)));
            assert!(matches!(cache.flush_within(NEVER), Err(Error::Reentrant)));
            assert!(matches!(cache.wait_flushed(&ticket), Err(Error::Reentrant)));
        })
        .unwrap();
    assert!(cache.close(NEVER).is_drained());
    assert!(matches!(cache.flush_key(&1), Err(Error::Closed)));
    assert!(matches!(cache.flush_if(|_, _| true), Err(Error::Closed)));
    assert!(matches!(cache.flush_within(NEVER), Err(Error::Closed)));
    assert!(matches!(cache.wait_flushed(&ticket), Err(Error::Closed)));
}

/// Catches: a ticket whose entry has left the cache, or whose place another key has.
#[test]
fn wait_flushed_of_an_entry_that_is_gone_returns_at_once() {
    let rows = Audit::unrecorded();
    let cache = quiet().capacity(8).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let ticket = cache.put_ticket(1, 1, Ack::Memory).unwrap();
    cache.flush().unwrap();
    evict(&cache, 1);
    cache.flush().unwrap();
    rows.set_fault(|_| Err(BackendError::permanent("no")));
    (100..200).for_each(|key| drop(cache.put_with(key, key, OnFull::Error)));
    cache.wait_flushed(&ticket).unwrap();
}
