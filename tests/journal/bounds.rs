//! C9, F09: how large a journal gets, what happens when it may not, and what evictions leave of what is dirty.

use std::{collections::HashSet, fs, sync::Arc, thread, time::Duration, time::Instant};

use writeback::{Ack, Error};

use crate::common::{
    Gate, NEVER, OpenAtEnd, PATIENCE, Rng, Rows, SMALL, crash, down, eventually, open, place, quiet, scaled,
};

/// What an entry of these tests takes in the journal: five words, key and value.
const RECORD: u64 = 56;

/// Puts over few keys, for as long as one likes, while the backend takes nothing: the file is a small multiple of what is
/// dirty.
#[test]
fn c09_a_backend_that_is_down_does_not_grow_the_journal() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let keys = 10_000;
    let cache =
        quiet(&rows).capacity(20_000).lanes(2).journal(&path).journal_size(SMALL).open::<u64, u64>().unwrap();
    let least = fs::metadata(&path).unwrap().len();
    let puts = scaled(200_000, 10_000_000);
    thread::scope(|scope| {
        for thread in 0..2 {
            let cache = &cache;
            scope.spawn(move || {
                let handle = cache.handle().unwrap();
                for n in 0..puts / 2 {
                    handle.put((n * 2 + thread) % keys, n).unwrap();
                }
            });
        }
    });
    let length = fs::metadata(&path).unwrap().len();
    let stats = cache.stats().journal.unwrap();
    println!("{puts} puts, {} bytes dirty, {length} in the file, {least} at first: {stats:?}", keys * RECORD);
    assert!(length <= least.max(4 * keys * RECORD), "{length} bytes for {} dirty ones", keys * RECORD);
    assert!(stats.retirements > 0 && stats.copies > 0, "{stats:?}");
    assert_eq!(cache.stats().dirty as u64, keys);
    let again = quiet(&rows).capacity(20_000).journal(crash(&path, "copy")).open::<u64, u64>().unwrap();
    assert_eq!(again.recovery().unwrap().entries as u64, keys);
    for key in 0..keys {
        assert_eq!(again.peek(&key), cache.peek(&key));
    }
}

/// The other way round: what is dirty is bounded by the capacity, so a journal that may grow is never too small for it.
#[test]
fn c09_a_full_cache_is_never_short_of_journal() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = quiet(&rows)
        .capacity(3_000)
        .write_timeout(Duration::from_secs(5))
        .journal(&path)
        .journal_size(SMALL)
        .open::<u64, u64>()
        .unwrap();
    let (mut written, mut refused) = (0, 0);
    while refused < 1 {
        match cache.put(written, written) {
            Ok(_) => written += 1,
            Err(Error::Backpressure { cause, .. }) => {
                assert!(cause.is_none_or(|cause| cause.to_string().contains("down")));
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(written, 3_000);
    for n in 0..20_000 {
        cache.put(n % written, n).unwrap_or_else(|error| panic!("{error}, {:?}", cache.stats().journal));
    }
    let length = fs::metadata(&path).unwrap().len();
    println!("{written} dirty, {length} bytes");
    assert_eq!(
        open(&crash(&path, "copy"), &{
            rows.clear_fault();
            Arc::clone(&rows)
        })
        .recovery()
        .unwrap()
        .entries as u64,
        written
    );
}

/// Where the journal may not grow, writers wait, are told, and go on when there is room; `flush` and reads work all the time.
#[test]
fn c09_a_full_journal_is_a_typed_error_and_ends() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::unrecorded());
    let gate = Gate::before(&rows);
    let _end = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet(&rows)
        .capacity(100_000)
        .write_timeout(Duration::from_millis(100))
        .journal(&path)
        .journal_size(SMALL)
        .journal_limit(SMALL)
        .open::<u64, u64>()
        .unwrap();
    let mut written = 0;
    let error = loop {
        match cache.put(written, written) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 50_000, "a journal of this size takes no so many");
    };
    let Error::JournalFull { bytes, waited, .. } = error else { panic!("{error}") };
    assert_eq!(bytes, fs::metadata(&path).unwrap().len());
    assert!(waited >= Duration::from_millis(100));
    assert!(cache.peek(&written).is_none() && !cache.is_dirty(&written), "a refused write left something");
    println!("{written} records in {bytes} bytes");
    assert_eq!(cache.get(&0).unwrap(), Some(0));
    let again = quiet(&down()).capacity(100_000).journal(crash(&path, "copy")).open::<u64, u64>().unwrap();
    assert_eq!(again.recovery().unwrap().entries as u64, written);
    drop(again);
    // One who has time waits, and a flush that is asked for now ends when the backend does.
    thread::scope(|scope| {
        let flush = scope.spawn(|| cache.flush());
        eventually("the backend is at work", || gate.arrived() > 0);
        gate.open();
        flush.join().unwrap().unwrap();
    });
    eventually("there is room again", || cache.put(written, written).is_ok());
    for n in 0..20_000 {
        cache.put(n % 10, n).unwrap();
    }
    cache.flush().unwrap();
    assert_eq!(rows.len() as u64, written + 1);
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
}

/// Many writers at a full journal, each with its own patience: whoever was told "no" has written nothing, whoever was told "yes"
/// has written.
#[test]
fn c09_many_writers_at_a_full_journal() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::unrecorded());
    let gate = Gate::before(&rows);
    let _end = OpenAtEnd(Arc::clone(&gate));
    let cache = quiet(&rows)
        .capacity(100_000)
        .lanes(4)
        .max_delay(Duration::from_millis(2))
        .write_timeout(Duration::from_millis(20))
        .journal(&path)
        .journal_size(SMALL)
        .journal_limit(SMALL)
        .open::<u64, u64>()
        .unwrap();
    let rounds = scaled(3_000, 20_000);
    let outcomes: Vec<(HashSet<u64>, u64)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let cache = &cache;
                scope.spawn(move || {
                    let (mut written, mut refused) = (HashSet::new(), 0);
                    for n in 0..rounds {
                        let key = thread * 1_000_000 + n;
                        match cache.put(key, n) {
                            Ok(_) => drop(written.insert(key)),
                            Err(Error::JournalFull { .. }) => refused += 1,
                            Err(other) => panic!("{other}"),
                        }
                        if refused > 20 {
                            thread::yield_now();
                        }
                        if refused >= 40 {
                            break;
                        }
                    }
                    (written, refused)
                })
            })
            .collect();
        // Open for a moment, closed for a moment.
        let begun = Instant::now();
        while threads.iter().any(|thread| !thread.is_finished()) {
            gate.allow(1);
            thread::sleep(Duration::from_millis(15));
            assert!(begun.elapsed() < 2 * PATIENCE, "writers hang");
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    gate.open();
    cache.flush().unwrap();
    let written: HashSet<_> = outcomes.iter().flat_map(|one| one.0.iter().copied()).collect();
    let refused: u64 = outcomes.iter().map(|one| one.1).sum();
    println!("{} written, {refused} refused", written.len());
    assert!(!written.is_empty() && refused > 0);
    let stored: HashSet<_> = rows.rows().into_keys().collect();
    assert_eq!(stored, written);
}

/// A storm of evictions among clean and dirty entries: what was dirty stays, in the cache and in the journal.
#[test]
fn f09_an_eviction_storm_leaves_what_is_dirty() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::unrecorded());
    let cache = quiet(&rows)
        .capacity(1_000)
        .write_timeout(Duration::from_millis(200))
        .journal(&path)
        .journal_size(SMALL)
        .open::<u64, u64>()
        .unwrap();
    // Every third is clean.
    for key in (0..600).filter(|key| key % 3 == 0) {
        cache.put(key, key).unwrap();
    }
    cache.flush().unwrap();
    for key in 10_000..200_000 {
        rows.insert(key, key);
    }
    rows.set_fault(|_| Err(writeback::BackendError::transient("down")));
    for key in (0..600).filter(|key| key % 3 != 0) {
        if key % 3 == 1 {
            cache.put(key, key + 1).map(drop).unwrap()
        } else {
            cache.remove(&key).map(drop).unwrap()
        }
    }
    let dirty: HashSet<u64> = (0..1_000).filter(|key| cache.is_dirty(key)).collect();
    assert_eq!(dirty.len(), 400);
    let mut rng = Rng::new(9);
    for n in 0..scaled(5_000, 50_000) {
        let key = 10_000 + rng.below(190_000);
        assert_eq!(cache.get(&key).unwrap(), Some(key));
        if n % 16 == 0 {
            // A write of a key that is dirty already, and one of a dirty key that stays as it is.
            cache.put(1, 2).unwrap();
        }
    }
    let stats = cache.stats();
    assert!(stats.evictions > scaled(3_000, 30_000), "no storm: {stats:?}");
    let after: HashSet<u64> = (0..1_000).filter(|key| cache.is_dirty(key)).collect();
    assert_eq!(after, dirty);
    assert_eq!(stats.dirty, 400);
    let again = open(&crash(&path, "copy"), &rows);
    let journaled: HashSet<u64> = (0..1_000).filter(|key| again.is_dirty(key)).collect();
    // The journal may know of flushed ones that were not declared dead yet; with the values that they have.
    assert!(journaled.is_superset(&dirty), "{:?}", dirty.difference(&journaled).collect::<Vec<_>>());
    for key in &journaled {
        let expected = match key % 3 {
            0 => Some(*key),
            1 => Some(key + 1),
            _ => None,
        };
        assert_eq!(again.peek(key), expected, "key {key}");
    }
    drop(again);
    rows.clear_fault();
    cache.flush().unwrap();
    for key in 0..600 {
        assert_eq!(
            rows.get(&key),
            if key % 3 == 2 { None } else { Some(if key % 3 == 0 { key } else { key + 1 }) }
        );
    }
}

/// More keys than fit, all written, with a journal that laps: each is in the backend with its last value at the end.
#[test]
fn c01_more_keys_than_fit() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::unrecorded());
    let cache = quiet(&rows).capacity(500).journal(&path).journal_size(SMALL).open::<u64, u64>().unwrap();
    let keys = 5_000;
    let mut rng = Rng::new(1);
    let mut last = vec![None; keys as usize];
    for n in 0..scaled(20_000, 300_000) {
        let key = rng.below(keys);
        if rng.one_in(5) {
            cache.remove(&key).unwrap();
            last[key as usize] = None;
        } else {
            cache.put(key, n).unwrap();
            last[key as usize] = Some(n);
        }
        if n % 7 == 0 {
            let key = rng.below(keys);
            assert_eq!(cache.get(&key).unwrap(), last[key as usize], "key {key}");
        }
    }
    assert!(cache.stats().evictions > 0);
    assert!(cache.stats().journal.unwrap().retirements > 0);
    let copy = crash(&path, "copy");
    // As it is now in the backend, with what the journal remembers over it.
    let snapshot = Arc::new(Rows::unrecorded());
    rows.rows().into_iter().for_each(|(key, value)| {
        snapshot.insert(key, value);
    });
    let again = open(&copy, &snapshot);
    for key in 0..keys {
        assert_eq!(again.get(&key).unwrap(), last[key as usize], "key {key} after a crash");
    }
    drop(again);
    assert!(cache.close(PATIENCE).is_drained());
    for key in 0..keys {
        assert_eq!(rows.get(&key), last[key as usize], "key {key}");
    }
}

/// An acknowledgement of the backend, and a flush, while the journal laps.
#[test]
fn c09_write_through_keeps_the_journal_empty() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::unrecorded());
    let cache = quiet(&rows)
        .max_delay(NEVER)
        .journal(&path)
        .journal_size(SMALL)
        .journal_limit(SMALL)
        .open::<u64, u64>()
        .unwrap();
    let length = fs::metadata(&path).unwrap().len();
    for n in 0..scaled(3_000, 20_000) {
        cache.put_acked(n % 1_000, n, Ack::Backend).unwrap();
        assert_eq!(rows.get(&(n % 1_000)), Some(n));
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
}
