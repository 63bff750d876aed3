//! What a journal is for: acknowledged writes outlive the cache.

use std::{sync::Arc, time::Duration};

use writeback::{Ack, BackendError, Cache, Clock, Closed, backend::Memory};

/// What was acknowledged and not flushed is there again, dirty, and reaches the backend.
#[test]
fn unflushed_writes_are_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Memory::<u64, String>::new());
    rows.set_fault(|_| Err(BackendError::transient("down")));
    let open = || {
        Cache::builder()
            .capacity(1_000)
            .journal(&path)
            .journal_size(1 << 20)
            .backend(Arc::clone(&rows))
            .open::<u64, String>()
            .unwrap()
    };
    let cache = open();
    for key in 0..500 {
        cache.put(key, format!("value {key}")).unwrap();
    }
    cache.remove(&7).unwrap();
    cache.update(8, |old| format!("{} and more", old.unwrap())).unwrap();
    let closed = cache.close(Duration::from_millis(50));
    assert!(
        matches!(&closed, Closed::Remaining { dirty: 500, journal: Some(at), .. } if *at == path),
        "{closed:?}"
    );
    drop(cache);

    let cache = open();
    let recovery = cache.recovery().unwrap();
    assert_eq!((recovery.entries, recovery.written_through, recovery.damage.len()), (500, 0, 0));
    assert_eq!(cache.get(&7).unwrap(), None);
    assert_eq!(cache.get(&8).unwrap().unwrap(), "value 8 and more");
    assert_eq!(cache.get(&499).unwrap().unwrap(), "value 499");
    assert_eq!(cache.stats().dirty, 500);
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), 499);
    assert!(cache.close(Duration::from_secs(10)).is_drained());
    drop(cache);

    let cache = open();
    assert_eq!(cache.recovery().unwrap().entries, 0, "a drained journal has nothing left");
    assert_eq!(cache.get(&8).unwrap().unwrap(), "value 8 and more");
}

#[test]
fn every_ack_level_returns() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::builder()
        .capacity(1_000)
        .journal(folder.path().join("a.journal"))
        .journal_size(1 << 20)
        .backend(Memory::new())
        .open::<u64, u64>()
        .unwrap();
    for (key, ack) in [(1, Ack::Memory), (2, Ack::Journal), (3, Ack::Synced), (4, Ack::Backend)] {
        cache.put_acked(key, key, ack).unwrap();
        cache.put_ticket(key + 10, key, ack).unwrap().wait().unwrap();
        cache.update_acked(key, |old| old.unwrap() + 1, ack).unwrap();
        cache.remove_acked(&(key + 10), ack).unwrap();
        cache.put_many_acked((0..10).map(|more| (key * 100 + more, more)), ack).unwrap();
    }
    cache.sync().unwrap();
    assert!(cache.stats().journal.unwrap().syncs > 0);
}

/// Millions of writes of a few keys while the backend is down: the file stays as it is.
#[test]
fn c09_the_journal_is_bounded_by_what_is_dirty() {
    let folder = tempfile::tempdir().unwrap();
    let rows = Arc::new(Memory::<u64, u64>::new());
    rows.set_fault(|_| Err(BackendError::transient("down")));
    let (clock, _turn) = Clock::manual();
    let cache = Cache::builder()
        .capacity(10_000)
        .journal(folder.path().join("a.journal"))
        .journal_size(1 << 20)
        .clock(clock)
        .drain_on_drop(Duration::ZERO)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let writes = if cfg!(debug_assertions) { 300_000 } else { 3_000_000 };
    for n in 0..writes {
        cache.put(n % 1_000, n).unwrap();
    }
    let stats = cache.stats().journal.unwrap();
    assert_eq!(stats.bytes, std::fs::metadata(folder.path().join("a.journal")).unwrap().len());
    assert!(stats.copies > 0 && stats.retirements > 0, "{stats:?}");
    // It may grow by some segments where the flusher came late. All records together are a hundred times as much.
    assert!(stats.bytes < 2 << 20, "{stats:?}");
}
