//! Settings that make no sense, calls at the wrong time: each is refused with a hint.

use std::{sync::Arc, time::Duration};

use writeback::{Ack, Cache, Error, HandleError, OpenError};

use crate::common::{Audit, PATIENCE, quiet};

type Opened = Result<Cache<u64, u64>, OpenError>;

#[track_caller]
fn hints(result: Opened, hint: &str) -> OpenError {
    let Err(error) = result else { panic!("it opened") };
    assert!(error.to_string().contains(hint), "{error}");
    error
}

/// Catches: a cache without room that opens and then does strange things.
#[test]
fn a_capacity_of_zero_or_beyond_reason_is_refused() {
    let rows = Audit::new();
    let none = Cache::builder().backend(Arc::clone(&rows)).open();
    assert!(matches!(hints(none, "capacity("), OpenError::ZeroCapacity));
    let zero = quiet().capacity(0).backend(Arc::clone(&rows)).open();
    assert!(matches!(hints(zero, "at least 1"), OpenError::ZeroCapacity));
    let huge = quiet().capacity(usize::MAX).backend(Arc::clone(&rows)).open();
    assert!(matches!(hints(huge, "at most"), OpenError::CapacityTooLarge { .. }));
    assert_eq!(Arc::strong_count(&rows), 1);
}

/// Catches: limits of zero.
#[test]
fn settings_without_sense_are_refused() {
    let rows = Audit::new();
    let open = |builder: writeback::Builder| -> Opened { builder.backend(Arc::clone(&rows)).open() };
    let weight = quiet().max_weight(0, |_: &u64, _: &u64| 1).backend(Arc::clone(&rows)).open();
    assert!(matches!(hints(weight, "max_weight"), OpenError::ZeroWeight));
    let zero = Duration::ZERO;
    let second = Duration::from_secs(1);
    let bad = [
        ("batch_size", quiet().batch_size(0)),
        ("flush_at", quiet().flush_at(0)),
        ("max_delay", quiet().max_delay(zero)),
        ("retry", quiet().retry(zero, second)),
        ("retry", quiet().retry(second * 2, second)),
    ];
    for (name, builder) in bad {
        match hints(open(builder), name) {
            OpenError::BadSetting { setting, hint, .. } => assert!(setting == name && !hint.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    for ack in [Ack::Journal, Ack::Synced] {
        assert!(matches!(hints(open(quiet().ack(ack)), "Ack::Memory"), OpenError::NoJournal { .. }));
    }
}

/// Catches: settings at the edge of what is allowed that overflow or hang.
#[test]
fn extreme_settings_work() {
    let rows = Audit::new();
    let cache: Cache<u64, u64> = Cache::builder()
        .capacity(3)
        .max_delay(Duration::MAX)
        .flush_at(usize::MAX)
        .batch_size(usize::MAX)
        .write_timeout(Duration::MAX)
        .retry(Duration::from_nanos(1), Duration::MAX)
        .lanes(0)
        .drain_on_drop(Duration::MAX)
        .max_weight(u64::MAX, |_: &u64, _: &u64| u64::MAX / 2)
        .backend(Arc::clone(&rows))
        .open()
        .unwrap();
    (0..20).for_each(|key| drop(cache.put(key, key).unwrap()));
    cache.flush().unwrap();
    assert!(cache.close(Duration::MAX).is_drained());
    assert_eq!(rows.len(), 20);
}

/// Catches: a durability that was asked for and silently not given.
#[test]
fn an_ack_that_needs_a_journal_is_refused_without_one() {
    let rows = Audit::new();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for ack in [Ack::Journal, Ack::Synced] {
        match cache.put_acked(1, 1, ack) {
            Err(error @ Error::NoJournal { .. }) => {
                assert!(error.to_string().contains("Ack::Backend"), "{error}")
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cache.get(&1).unwrap(), None);
    cache.flush().unwrap();
    assert_eq!((rows.len(), cache.stats().puts), (0, 0), "a refused write was stored");
}

/// Catches: an operation after the close that is carried out, panics or hangs.
#[test]
fn every_operation_after_a_close_says_so() {
    let rows = Audit::new();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    let handle = cache.handle().unwrap();
    assert!(cache.close(PATIENCE).is_drained());
    let calls = rows.calls().len();
    let results: Vec<(&str, Result<(), Error>)> = vec![
        ("get", cache.get(&1).map(drop)),
        ("get of a missing key", cache.get(&2).map(drop)),
        ("read", cache.read(&1, |_| ()).map(drop)),
        ("put", cache.put(1, 2).map(drop)),
        ("put_acked", cache.put_acked(1, 2, Ack::Backend).map(drop)),
        ("update", cache.update(1, |_| 2).map(drop)),
        ("update_if", cache.update_if(1, |_| Some(2)).map(drop)),
        ("get_or_put_with", cache.get_or_put_with(3, || 2).map(drop)),
        ("remove", cache.remove(&1).map(drop)),
        ("get_many", cache.get_many(&[1, 2]).map(drop)),
        ("put_many", cache.put_many([(1, 2)]).map(drop)),
        ("flush", cache.flush()),
        ("invalidate", cache.invalidate(&1).map(drop)),
        ("handle's get", handle.get(&1).map(drop)),
        ("handle's put", handle.put(1, 2).map(drop)),
        ("handle's update", handle.update(1, |_| 2).map(drop)),
        ("handle's remove", handle.remove(&1).map(drop)),
        ("handle's get_many", handle.get_many(&[1]).map(drop)),
        ("handle's put_many", handle.put_many([(1, 2)]).map(drop)),
    ];
    for (name, result) in results {
        match result {
            Err(error @ Error::Closed) => assert!(error.to_string().contains("open a new one")),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(matches!(cache.handle(), Err(HandleError::Closed)));
    let _ = (cache.peek(&1), cache.contains(&1), cache.is_dirty(&1), cache.len(), cache.stats());
    assert_eq!(rows.calls().len(), calls);
    assert_eq!(rows.get(&1), Some(1));
}

/// Catches: borrowed keys that do not find what owned ones stored.
#[test]
fn keys_can_be_asked_for_by_what_they_borrow_as() {
    let rows = Arc::new(writeback::backend::Memory::<String, Vec<u8>>::new());
    let cache = quiet().backend(Arc::clone(&rows)).open::<String, Vec<u8>>().unwrap();
    cache.put("one".to_owned(), vec![1]).unwrap();
    assert_eq!(cache.get("one").unwrap(), Some(vec![1]));
    assert_eq!(cache.read("one", Vec::len).unwrap(), Some(1));
    assert_eq!(cache.peek("one"), Some(vec![1]));
    assert!(cache.contains("one") && cache.is_dirty("one") && !cache.contains("two"));
    assert_eq!(cache.get("two").unwrap(), None);
    cache.flush().unwrap();
    assert!(matches!(cache.invalidate("one"), Ok(writeback::Invalidated::Removed)));
    assert_eq!(cache.get("one").unwrap(), Some(vec![1]));
    cache.remove("one").unwrap();
    cache.flush().unwrap();
    assert!(rows.is_empty());
}

/// Catches: values and keys of no size or of a large one.
#[test]
fn sizes_of_types_do_not_matter() {
    let units = quiet().backend(writeback::backend::Memory::new()).open::<(), ()>().unwrap();
    units.put((), ()).unwrap();
    assert_eq!(units.get(&()).unwrap(), Some(()));
    units.flush().unwrap();
    let big = quiet()
        .capacity(4)
        .backend(writeback::backend::Memory::new())
        .open::<[u8; 33], [u64; 500]>()
        .unwrap();
    for n in 0..20 {
        big.put([n; 33], [u64::from(n); 500]).unwrap();
    }
    for n in 0..20 {
        assert_eq!(big.get(&[n; 33]).unwrap(), Some([u64::from(n); 500]));
    }
    assert!(big.close(PATIENCE).is_drained());
}
