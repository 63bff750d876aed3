//! F03 and the ends of a cache: close, drop, crash.

use std::{collections::HashMap, fs, sync::Arc, sync::Mutex, sync::PoisonError, thread, time::Duration};

use writeback::{Ack, Answers, Backend, BackendError, Batch, Cache, Change, Closed, Error};

use crate::common::{NEVER, PATIENCE, Rows, SMALL, crash, down, eventually, open, place, quiet, scaled};

/// Version, attempt and value of an operation.
type Stored = (u64, u32, u64);

/// Rows that note which operation, by version and attempt, wrote each of them, in all lives of the cache.
#[derive(Default)]
struct Noted {
    rows: Mutex<HashMap<u64, Vec<Stored>>>,
    left: Mutex<Option<u64>>,
}

impl Noted {
    /// Takes `operations`, and then no more; `None`: takes all.
    fn take(&self, operations: Option<u64>) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = operations;
    }
}

impl Backend<u64, u64> for Noted {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        let rows = self.rows.lock().unwrap();
        Ok(keys.iter().map(|key| rows.get(key).and_then(|row| row.last()).map(|op| op.2)).collect())
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        batch.answer_each(|op| {
            let mut left = self.left.lock().unwrap();
            if let Some(left) = left.as_mut() {
                *left = left.checked_sub(1).ok_or_else(|| BackendError::transient("one a second"))?;
            }
            let Change::Upsert(value) = op.change() else { panic!("nothing was removed") };
            self.rows.lock().unwrap().entry(*op.key()).or_default().push((
                op.version(),
                op.attempt(),
                *value,
            ));
            Ok(())
        })
    }
}

#[test]
fn f03_shutdown_with_a_deadline_keeps_the_rest_in_the_journal() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Noted::default());
    let open = || {
        Cache::builder()
            .capacity(12_000)
            .max_delay(NEVER)
            .flush_at(1_000_000)
            .batch_size(1)
            .retry(NEVER, NEVER)
            .drain_on_drop(Duration::ZERO)
            .backend(Arc::clone(&rows))
            .journal(&path)
            .open::<u64, u64>()
            .unwrap()
    };
    let cache = open();
    for key in 0..10_000 {
        cache.put(key, key * 3).unwrap();
    }
    rows.take(Some(1));
    let closed = cache.close(Duration::from_secs(1));
    let Closed::Remaining { dirty, journal, cause, .. } = &closed else { panic!("{closed:?}") };
    assert_eq!((*dirty, journal.as_ref()), (9_999, Some(&path)));
    assert!(cause.as_ref().unwrap().to_string().contains("one a second"));
    assert_eq!(rows.rows.lock().unwrap().len(), 1);
    drop(cache);

    rows.take(None);
    let cache = open();
    let entries = cache.recovery().unwrap().entries;
    assert!((9_999..=10_000).contains(&entries), "{entries}");
    cache.flush().unwrap();
    assert!(cache.close(PATIENCE).is_drained());
    let rows = rows.rows.lock().unwrap();
    assert_eq!(rows.len(), 10_000);
    let mut twice = 0;
    for (key, ops) in rows.iter() {
        assert!(ops.iter().all(|op| op.2 == key * 3), "key {key}: {ops:?}");
        // Written again, as the journal cannot know that it was stored: as the same operation, so that a backend can see it.
        assert!(ops.iter().all(|op| op.0 == ops[0].0), "key {key} was written as another operation: {ops:?}");
        twice += ops.len() - 1;
    }
    assert_eq!(twice, entries - 9_999);
}

#[test]
fn f03_close_twice() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = open(&path, &rows);
    for key in 0..10 {
        cache.put(key, key).unwrap();
    }
    for _ in 0..2 {
        let closed = cache.close(Duration::from_millis(20));
        assert!(
            matches!(&closed, Closed::Remaining { dirty: 10, journal: Some(at), .. } if *at == path),
            "{closed:?}"
        );
    }
    assert!(matches!(cache.put(1, 2), Err(Error::Closed)));
    assert!(matches!(cache.sync(), Err(Error::Closed)));
    assert!(matches!(cache.put_ticket(1, 2, Ack::Synced), Err(Error::Closed)));
    rows.clear_fault();
    assert!(cache.close(PATIENCE).is_drained());
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    assert_eq!(rows.len(), 10);
    assert_eq!(open(&path, &rows).recovery().unwrap().entries, 0);
}

#[test]
fn c01_dropped_without_close() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = open(&path, &rows);
    for key in 0..10 {
        cache.put(key, key).unwrap();
    }
    drop(cache);
    let cache = open(&path, &rows);
    assert_eq!((cache.recovery().unwrap().entries, cache.stats().dirty), (10, 10));
    rows.clear_fault();
    drop(cache);
    // With time to drain it leaves nothing behind.
    let cache =
        quiet(&rows).drain_on_drop(PATIENCE).journal(&path).journal_size(SMALL).open::<u64, u64>().unwrap();
    cache.put(11, 11).unwrap();
    drop(cache);
    assert_eq!(rows.len(), 11);
    assert_eq!(open(&path, &rows).recovery().unwrap().entries, 0);
}

/// A thread that ends with its own handle, and clones: the last reference closes.
#[test]
fn c01_dropped_by_several_threads() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    let cache = quiet(&rows).lanes(4).drain_on_drop(PATIENCE).journal(&path).open::<u64, u64>().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let cache = cache.clone();
            thread::spawn(move || {
                let handle = cache.handle().unwrap();
                drop(cache);
                for key in 0..scaled(200, 5_000) {
                    handle.put(key * 4 + thread, key).unwrap();
                }
            })
        })
        .collect();
    drop(cache);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    eventually("the last one has drained it", || rows.len() as u64 == 4 * scaled(200, 5_000));
    eventually("and has let go of it", || {
        crate::common::try_open(&path, &rows).is_ok_and(|cache| cache.recovery().unwrap().entries == 0)
    });
}

#[test]
fn c10_a_clean_close_leaves_nothing() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    for round in 0..10 {
        let cache = open(&path, &rows);
        assert_eq!(cache.recovery().unwrap().entries, 0);
        for key in 0..100 {
            cache.put(key, round).unwrap();
        }
        for key in 50..60 {
            cache.remove(&key).unwrap();
        }
        assert!(cache.close(PATIENCE).is_drained());
        // Even before the cache is dropped: it may be killed now.
        let copy = crash(&path, "copy.journal");
        drop(cache);
        for path in [&path, &copy] {
            let before = rows.ops_applied();
            let cache = open(path, &rows);
            assert_eq!((cache.recovery().unwrap().entries, cache.stats().dirty), (0, 0), "round {round}");
            cache.flush().unwrap();
            assert_eq!(rows.ops_applied(), before);
        }
    }
}

#[test]
fn c10_removed_keys_do_not_rise_again() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    let cache = open(&path, &rows);
    for key in 0..40 {
        cache.put(key, key).unwrap();
    }
    cache.flush().unwrap();
    assert_eq!(rows.len(), 40);
    rows.set_fault(|_| Err(BackendError::transient("down")));
    for key in 0..20 {
        cache.remove(&key).unwrap();
    }
    let unflushed = crash(&path, "unflushed.journal");
    rows.clear_fault();
    cache.flush().unwrap();
    let flushed = crash(&path, "flushed.journal");
    assert_eq!(rows.len(), 20);

    // The rows as they were when nothing of the removal had reached the backend.
    let old = Arc::new(Rows::new());
    for key in 0..40 {
        old.insert(key, key);
    }
    for (path, rows) in [(unflushed, &old), (flushed, &rows)] {
        let again = open(&path, rows);
        for key in 0..40 {
            assert_eq!(again.get(&key).unwrap(), (key >= 20).then_some(key), "{}", path.display());
        }
        again.flush().unwrap();
        assert_eq!(rows.len(), 20);
    }
}

/// What was flushed and retired is the backend's: recovery leaves what others have changed there since.
#[test]
fn c10_older_records_do_not_come_back() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    let cache = open(&path, &rows);
    cache.put(1, 1).unwrap();
    cache.flush().unwrap();
    cache.put(1, 2).unwrap();
    cache.flush().unwrap();
    // Right after: the newest may be written again, the older one never.
    let early = crash(&path, "early.journal");
    let again = open(&early, &rows);
    assert_eq!(again.get(&1).unwrap(), Some(2));
    again.flush().unwrap();
    assert_eq!(rows.get(&1), Some(2));
    drop(again);
    // Later: others fill the journal until everything of then is declared dead.
    let retired = cache.stats().journal.unwrap().retirements;
    let mut n = 0;
    while cache.stats().journal.unwrap().retirements < retired + 3 {
        for key in 1_000..1_500 {
            cache.put(key, n).unwrap();
        }
        cache.flush().unwrap();
        n += 1;
        assert!(n < 100_000, "no record is ever declared dead");
    }
    let late = crash(&path, "late.journal");
    rows.insert(1, 77);
    let again = open(&late, &rows);
    assert!(!again.is_dirty(&1));
    assert_eq!(again.get(&1).unwrap(), Some(77));
    again.flush().unwrap();
    assert_eq!(rows.get(&1), Some(77));
    // And the same after a clean end.
    drop(again);
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    rows.insert(1, 78);
    rows.insert(1_001, 79);
    let cache = open(&path, &rows);
    assert_eq!((cache.get(&1).unwrap(), cache.get(&1_001).unwrap()), (Some(78), Some(79)));
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), rows.get(&1_001)), (Some(78), Some(79)));
}

/// Versions grow from life to life for each key, also for keys that were clean, evicted or removed in between.
#[test]
fn c10_versions_grow_across_restarts() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    for life in 0..scaled(6, 30) {
        let cache = quiet(&rows).capacity(50).journal(&path).journal_size(SMALL).open::<u64, u64>().unwrap();
        for key in 0..200 {
            // Twice as many as fit: each is evicted in each life.
            if key % 7 == life % 7 {
                cache.remove(&key).unwrap();
            } else {
                cache.put(key, life).unwrap();
            }
        }
        if life % 2 == 0 {
            assert!(cache.close(PATIENCE).is_drained());
        } else {
            cache.flush().unwrap();
        }
        drop(cache);
    }
    let mut checked = 0;
    for key in 0..200 {
        let versions: Vec<_> = rows.history(&key).iter().map(|op| op.version()).collect();
        checked += versions.len();
        assert!(versions.windows(2).all(|pair| pair[0] <= pair[1]), "key {key}: {versions:?}");
        let mut distinct = versions.clone();
        distinct.dedup();
        assert_eq!(distinct.len() as u64, scaled(6, 30), "key {key}: {versions:?}");
    }
    assert!(checked > 0);
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
}
