//! Dead letters: what the backend has refused for good is kept, seen, and decided about by somebody.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use writeback::{
    Ack, BackendError, Cache, Change, ClosedDeadLetters, ClosedJournal, DeadLetter, DeadLetterError,
    DeadLetterId, Error, ErrorClass, JournalError, OpenError, Retried,
};

use crate::common::{
    PATIENCE, Rows, SMALL, child_place, crash, eventually, image, open, place, quiet, refusal, spawn,
    try_open,
};

fn poisoned(poison: impl Fn(u64, Option<u64>) -> bool + Send + Sync + 'static) -> Arc<Rows> {
    let rows = Arc::new(Rows::new());
    poison_with(&rows, poison);
    rows
}

fn poison_with(rows: &Rows, poison: impl Fn(u64, Option<u64>) -> bool + Send + Sync + 'static) {
    rows.set_fault(move |op| match poison(*op.key(), op.change().value().copied()) {
        true => Err(BackendError::permanent("value out of range")),
        false => Ok(()),
    });
}

/// Keys and values of the open letters.
fn listed(cache: &Cache<u64, u64>) -> Vec<(u64, Option<u64>)> {
    let letters = cache.dead_letters().unwrap();
    letters
        .iter()
        .filter(|letter| !letter.is_superseded)
        .map(|letter| (letter.key, letter.change.value().copied()))
        .collect()
}

fn only(cache: &Cache<u64, u64>) -> DeadLetter<u64, u64> {
    let mut letters = cache.dead_letters().unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters.remove(0)
}

fn dead(journal: &Path) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(".dead");
    name.into()
}

#[test]
fn f07_one_of_a_hundred_becomes_a_dead_letter_with_its_error() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key == 42);
    let before = SystemTime::now() - Duration::from_secs(1);
    let cache = open(&path, &rows);
    for key in 0..100 {
        cache.put(key, key + 1).unwrap();
    }
    match cache.flush() {
        Err(Error::NotFlushed { failed: 1, cause }) => assert_eq!(cause.class(), ErrorClass::Permanent),
        other => panic!("{other:?}"),
    }
    assert_eq!((rows.len(), rows.get(&42)), (99, None));
    let letter = only(&cache);
    assert_eq!((letter.key, letter.change.clone()), (42, Change::Upsert(43)));
    assert_eq!((letter.error.as_str(), letter.class), ("value out of range", ErrorClass::Permanent));
    assert_eq!((letter.attempts, letter.is_durable, letter.is_superseded), (1, true, false));
    let now = SystemTime::now() + Duration::from_secs(1);
    assert!(before <= letter.first_dirty && letter.first_dirty <= letter.refused && letter.refused <= now);
    eventually("it is counted", || {
        let stats = cache.stats();
        (stats.parked, stats.dirty, stats.dead_letters) == (0, 0, 1)
    });
    assert_eq!(cache.stats().dead_letter_bytes, fs::metadata(dead(&path)).unwrap().len());
    // Its reader goes on seeing it, it holds nobody up, and it is not tried again by itself.
    assert_eq!((cache.get(&42).unwrap(), cache.is_dirty(&42)), (Some(43), false));
    let tried = rows.batches();
    cache.flush().unwrap();
    assert_eq!(rows.batches(), tried);
    assert!(cache.close(PATIENCE).is_drained());
}

/// Catches: a barrier that goes over a refusal because a timer was faster.
#[test]
fn f07_a_refusal_that_nobody_waited_for_is_told_to_the_next_flush() {
    let folder = place();
    let rows = poisoned(|key, _| key == 1);
    let cache = quiet(&rows)
        .max_delay(Duration::from_millis(1))
        .journal(folder.path().join("a.journal"))
        .open::<u64, u64>()
        .unwrap();
    cache.put(1, 1).unwrap();
    eventually("it is a letter", || cache.stats().dead_letters == 1);
    assert!(matches!(cache.flush(), Err(Error::NotFlushed { failed: 1, .. })));
    cache.flush().unwrap();
}

/// Catches: a flush of one key, of a version, or with a deadline, that takes a dead letter for a success.
#[test]
fn f07_no_barrier_goes_over_a_letter() {
    let folder = place();
    let rows = poisoned(|key, _| key == 1);
    let cache = quiet(&rows)
        .max_delay(Duration::from_millis(1))
        .journal(folder.path().join("a.journal"))
        .open::<u64, u64>()
        .unwrap();
    let (bad, good) =
        (cache.put_ticket(1, 1, Ack::Memory).unwrap(), cache.put_ticket(2, 2, Ack::Memory).unwrap());
    eventually("it is a letter", || cache.stats().dead_letters == 1 && cache.stats().dirty == 0);
    let is_refused = |answer: Result<(), Error>| matches!(answer, Err(Error::NotFlushed { failed: 1, cause }) if cause.class() == ErrorClass::Permanent);
    // As long as nobody has decided about it.
    for _ in 0..2 {
        assert!(is_refused(cache.flush_key(&1)));
        assert!(is_refused(cache.wait_flushed(&bad).map(drop)));
    }
    cache.flush_key(&2).unwrap();
    cache.wait_flushed(&good).unwrap();
    assert!(is_refused(cache.flush_within(PATIENCE)));
    cache.flush_within(PATIENCE).unwrap();
    rows.clear_fault();
    cache.put_acked(1, 3, Ack::Backend).unwrap();
    cache.flush_key(&1).unwrap();
    // What came later is in the backend instead.
    cache.wait_flushed(&bad).unwrap();
}

#[test]
fn reopened_they_are_listed_seen_and_not_replayed() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key < 3);
    rows.insert(2, 7);
    let cache = open(&path, &rows);
    cache.put(0, 10).unwrap();
    cache.put(1, 11).unwrap();
    cache.remove(&2).unwrap();
    assert!(cache.flush().is_err());
    let letters = cache.dead_letters().unwrap();
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    rows.clear_fault();
    for _ in 0..2 {
        let cache = open(&path, &rows);
        assert_eq!((cache.recovery().unwrap().entries, cache.recovery().unwrap().dead_letters), (0, 3));
        assert_eq!(listed(&cache), [(0, Some(10)), (1, Some(11)), (2, None)]);
        let again = cache.dead_letters().unwrap();
        for (before, after) in letters.iter().zip(&again) {
            assert_eq!((before.id, before.version), (after.id, after.version));
            assert_eq!((before.refused, before.first_dirty), (after.refused, after.first_dirty));
        }
        // What was acknowledged is what is read, one by one, together, and by an update.
        assert_eq!(cache.get(&0).unwrap(), Some(10));
        assert_eq!(cache.get_many(&[3, 1, 2]).unwrap(), [None, Some(11), None]);
        cache.flush().unwrap();
        assert_eq!((rows.len(), rows.get(&2)), (1, Some(7)), "replayed by itself");
        assert!(cache.close(PATIENCE).is_drained());
    }
}

/// Catches: a key that goes back in time because its clean entry was evicted.
#[test]
fn c06_an_evicted_letter_is_still_what_readers_see() {
    let folder = place();
    let rows = poisoned(|key, _| key < 5);
    for key in 0..5 {
        rows.insert(key, 0);
    }
    let cache =
        quiet(&rows).capacity(50).journal(folder.path().join("a.journal")).open::<u64, u64>().unwrap();
    for key in 0..5 {
        cache.put(key, key + 10).unwrap();
    }
    assert!(cache.flush().is_err());
    eventually("they were evicted", || {
        for key in 100..300 {
            cache.put(key, key).unwrap();
        }
        let _ = cache.flush();
        (0..5).all(|key| cache.peek(&key).is_none())
    });
    for key in 0..5 {
        assert_eq!(cache.get(&key).unwrap(), Some(key + 10));
        assert_eq!(rows.get(&key), Some(0));
    }
    cache.update(3, |old| old.unwrap() + 1).unwrap();
    assert_eq!(cache.get(&3).unwrap(), Some(14));
}

#[test]
fn a_retry_is_stored_or_refused_again() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key < 2);
    let cache = open(&path, &rows);
    cache.put(0, 10).unwrap();
    cache.remove(&1).unwrap();
    assert!(cache.flush().is_err());
    let ids: Vec<_> = cache.dead_letters().unwrap().iter().map(|letter| letter.id).collect();
    let refused = cache.retry_dead_letters().unwrap();
    assert!(refused.iter().all(|(_, retried)| matches!(retried, Retried::Refused(_))), "{refused:?}");
    let letters = cache.dead_letters().unwrap();
    assert_eq!(letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), ids, "the same letters");
    assert!(letters.iter().all(|letter| letter.attempts == 2));
    cache.flush().unwrap();
    rows.set_fault(|_| Err(BackendError::transient("down")));
    assert!(matches!(cache.retry_dead_letter(ids[0]).unwrap(), Retried::Pending(_)));
    assert_eq!(listed(&cache).len(), 2, "open until it is stored");
    rows.clear_fault();
    eventually("it is stored after all", || rows.get(&0) == Some(10));
    eventually("and no letter any more", || listed(&cache) == [(1, None)]);
    assert!(matches!(cache.retry_dead_letter(ids[0]).unwrap(), Retried::Gone));
    assert!(matches!(cache.retry_dead_letter(ids[1]).unwrap(), Retried::Stored));
    assert!(matches!(cache.retry_dead_letter(DeadLetterId::from(999)).unwrap(), Retried::Gone));
    assert!(cache.dead_letters().unwrap().is_empty());
    drop(cache);
    assert!(open(&path, &rows).dead_letters().unwrap().is_empty());
}

#[test]
fn a_newer_write_that_is_stored_supersedes_it_and_one_that_is_not_does_not() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|_, value| value.is_some_and(|value| value > 100));
    let cache = open(&path, &rows);
    cache.put(1, 101).unwrap();
    assert!(cache.flush().is_err());
    let first = only(&cache).id;
    cache.put(1, 102).unwrap();
    assert!(matches!(cache.retry_dead_letter(first).unwrap(), Retried::Newer), "a newer one is on its way");
    assert!(cache.flush().is_err());
    assert_eq!(listed(&cache), [(1, Some(101)), (1, Some(102))], "both bytes are kept");
    assert!(matches!(cache.retry_dead_letter(first).unwrap(), Retried::Newer), "a newer one is a letter");
    assert_eq!(cache.get(&1).unwrap(), Some(102));
    cache.put_acked(1, 3, Ack::Backend).unwrap();
    let letters = cache.dead_letters().unwrap();
    assert!(letters.len() == 2 && letters.iter().all(|letter| letter.is_superseded), "{letters:?}");
    assert_eq!(cache.stats().dead_letters, 0);
    assert!(matches!(cache.retry_dead_letter(first).unwrap(), Retried::Newer));
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    // It stays so: the old value does not come back over the row.
    let cache = open(&path, &rows);
    assert_eq!((cache.get(&1).unwrap(), cache.dead_letters().unwrap().len()), (Some(3), 2));
    assert!(cache.discard_dead_letter(first).unwrap());
    assert!(!cache.discard_dead_letter(first).unwrap());
    assert_eq!((cache.get(&1).unwrap(), cache.dead_letters().unwrap().len()), (Some(3), 1));
}

#[test]
fn a_discarded_letter_is_forgotten_and_the_row_is_seen_again() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key < 2);
    rows.insert(1, 5);
    let cache = open(&path, &rows);
    cache.put(0, 10).unwrap();
    cache.put(1, 11).unwrap();
    assert!(cache.flush().is_err());
    for letter in cache.dead_letters().unwrap() {
        assert!(cache.discard_dead_letter(letter.id).unwrap());
    }
    assert_eq!((cache.get(&0).unwrap(), cache.get(&1).unwrap()), (None, Some(5)));
    assert_eq!((cache.stats().dead_letters, cache.dead_letters().unwrap().len()), (0, 0));
    let copy = crash(&path, "copy.journal");
    let cache = open(&copy, &Arc::new(Rows::new()));
    assert_eq!((cache.recovery().unwrap().entries, cache.get(&0).unwrap()), (0, None));
}

/// The letter is written, the record is not dead yet: the state that a kill between the two leaves.
#[test]
fn c01_a_crash_between_the_letter_and_the_end_of_its_record_shows_it_once() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key < 10);
    let cache = open(&path, &rows);
    for key in 0..20 {
        cache.put(key, key + 1).unwrap();
    }
    cache.remove(&9).unwrap();
    // All of it is dirty in this one, and in no letter.
    let early = image(&path);
    assert!(cache.flush().is_err());
    let expected: Vec<_> = (0..10).map(|key| (key, (key < 9).then_some(key + 1))).collect();
    let mut found = listed(&cache);
    found.sort_unstable();
    assert_eq!(found, expected);
    let copy = folder.path().join("copy.journal");
    fs::write(&copy, early).unwrap();
    fs::copy(dead(&path), dead(&copy)).unwrap();
    let later = Arc::new(Rows::new());
    let cache = open(&copy, &later);
    assert_eq!((cache.recovery().unwrap().entries, cache.recovery().unwrap().dead_letters), (10, 10));
    cache.flush().unwrap();
    assert_eq!(later.len(), 10, "only what was not a letter was written");
    let mut found = listed(&cache);
    found.sort_unstable();
    assert_eq!(found, expected);
    (0..20).for_each(|key| assert_eq!(cache.get(&key).unwrap(), (key != 9).then_some(key + 1)));
    assert!(cache.retry_dead_letters().unwrap().iter().all(|(_, how)| matches!(how, Retried::Stored)));
    assert!(cache.close(PATIENCE).is_drained());
    assert_eq!(later.len(), 19);
}

/// Killed for real, at any time: every key is a letter or dirty, and never both.
#[test]
fn c01_kill_9_loses_no_letter() {
    for after in [5, 20, 45, 80, 140, 220] {
        let folder = place();
        let mut child = spawn("letters::c01_child", folder.path(), &[]);
        let started = folder.path().join("started");
        eventually("the child has begun", || started.exists());
        thread::sleep(Duration::from_millis(after));
        child.kill();
        let acked: u64 = fs::read(folder.path().join("acked"))
            .ok()
            .and_then(|bytes| bytes.get(..8)?.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let rows = Arc::new(Rows::new());
        let cache = open(&folder.path().join("a.journal"), &rows);
        let letters = listed(&cache);
        for key in 0..acked {
            // Even keys are poison; odd ones may have been flushed into the memory of the child.
            if key % 2 == 0 {
                assert_eq!(cache.get(&key).unwrap(), Some(key + 1), "{key} of {acked}, after {after} ms");
                let (dirty, dead) = (cache.is_dirty(&key), letters.contains(&(key, Some(key + 1))));
                assert!(dirty != dead, "{key}: dirty {dirty}, a letter {dead}");
            }
        }
        assert!(cache.recovery().unwrap().dead_letter_damage.iter().all(|damage| damage.is_tail));
        drop(cache);
    }
}

#[test]
#[ignore = "a child of another test"]
fn c01_child() {
    let Some(folder) = child_place() else { return };
    let rows = poisoned(|key, _| key % 2 == 0);
    let cache = quiet(&rows)
        .max_delay(Duration::from_millis(2))
        .journal(folder.join("a.journal"))
        .journal_size(SMALL)
        .open::<u64, u64>()
        .unwrap();
    fs::write(folder.join("started"), b"").unwrap();
    let acked = fs::File::create(folder.join("acked")).unwrap();
    for key in 0..1_500_u64 {
        cache.put(key, key + 1).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&acked, &(key + 1).to_le_bytes(), 0).unwrap();
        if key % 8 == 0 {
            thread::sleep(Duration::from_micros(500));
        }
    }
    thread::sleep(PATIENCE);
}

#[test]
fn f11_a_full_area_keeps_everything_parked_and_drops_nothing() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key < 30);
    let build = |rows: &Arc<Rows>| {
        quiet(rows)
            .capacity(60)
            .journal(&path)
            .journal_size(SMALL)
            .dead_letter_limit(1_000)
            .open::<u64, u64>()
            .unwrap()
    };
    let cache = build(&rows);
    for key in 0..30 {
        cache.put(key, key).unwrap();
    }
    match cache.flush() {
        Err(Error::NotFlushed { failed: 30, .. }) => {}
        other => panic!("{other:?}"),
    }
    eventually("some are letters, the others parked", || {
        let stats = cache.stats();
        stats.dead_letters > 0 && stats.parked > 0 && stats.dead_letters + stats.parked == 30
    });
    let stats = cache.stats();
    assert!(
        stats.dead_letter_bytes <= 1_000 && stats.dead_letters_unkept as usize == stats.parked,
        "{stats:?}"
    );
    // A writer of a parked key is told, and nothing is evicted for others.
    assert!(cache.put_acked(29, 29, Ack::Backend).is_err());
    for key in 100..400 {
        cache.put(key, key).unwrap();
    }
    assert!(cache.flush().is_err());
    (0..30).for_each(|key| assert_eq!(cache.get(&key).unwrap(), Some(key)));
    // All are listed, whichever they are.
    let mut all = listed(&cache);
    all.sort_unstable();
    assert_eq!(all, (0..30).map(|key| (key, Some(key))).collect::<Vec<_>>());
    assert!(!cache.close(Duration::from_millis(50)).is_drained());
    drop(cache);
    let cache = build(&rows);
    let recovery = cache.recovery().unwrap();
    // At least: what was stored a moment ago may not be retired yet, and is then written once more.
    assert!(recovery.entries + recovery.dead_letters >= 30, "{recovery:?}");
    // Where one is given up, or stored, there is room for another.
    let letters = recovery.dead_letters;
    for letter in cache.dead_letters().unwrap().into_iter().filter(|letter| letter.is_durable).take(3) {
        assert!(cache.discard_dead_letter(letter.id).unwrap());
    }
    assert_eq!(cache.stats().dead_letters, letters - 3);
    assert!(cache.flush().is_err());
    eventually("the room is used", || cache.stats().dead_letters + 1 >= letters);
    rows.clear_fault();
    cache.retry_dead_letters().unwrap();
    cache.flush().unwrap();
    assert_eq!((cache.stats().dead_letters, cache.stats().parked), (0, 0));
    assert_eq!((0..30).filter(|key| rows.get(key).is_some()).count(), 27);
}

/// Without a journal the same list shows what is parked.
#[test]
fn f07_without_a_journal_they_are_parked_entries() {
    let rows = poisoned(|key, _| key < 3);
    let cache = quiet(&rows).open::<u64, u64>().unwrap();
    for key in 0..10 {
        cache.put(key, key + 1).unwrap();
    }
    assert!(cache.flush().is_err());
    assert_eq!(listed(&cache), [(0, Some(1)), (1, Some(2)), (2, Some(3))]);
    let letters = cache.dead_letters().unwrap();
    assert!(letters.iter().all(|letter| !letter.is_durable && letter.error == "value out of range"));
    assert!(matches!(cache.retry_dead_letter(letters[0].id).unwrap(), Retried::Refused(_)));
    assert!(cache.discard_dead_letter(letters[0].id).unwrap());
    assert_eq!((cache.get(&0).unwrap(), cache.stats().dirty), (None, 2));
    cache.put(1, 100).unwrap();
    assert!(matches!(cache.retry_dead_letter(letters[1].id).unwrap(), Retried::Newer));
    rows.clear_fault();
    assert!(matches!(cache.retry_dead_letter(letters[2].id).unwrap(), Retried::Stored));
    cache.flush().unwrap();
    assert!(cache.dead_letters().unwrap().is_empty());
    assert_eq!((rows.get(&0), rows.get(&1), rows.get(&2)), (None, Some(100), Some(3)));
}

#[test]
fn c11_a_damaged_file() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key < 5);
    let cache = open(&path, &rows);
    for key in 0..5 {
        cache.put(key, key + 1).unwrap();
        assert!(cache.flush().is_err());
    }
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    let whole = fs::read(dead(&path)).unwrap();
    let put = |bytes: &[u8]| fs::write(dead(&path), bytes).unwrap();
    // A tail is cut off and reported, and the file goes on.
    put(&whole[..whole.len() - 3]);
    let cache = open(&path, &rows);
    let recovery = cache.recovery().unwrap();
    assert_eq!((recovery.dead_letters, recovery.dead_letter_damage.len()), (4, 1));
    assert!(recovery.dead_letter_damage[0].is_tail);
    cache.put(4, 50).unwrap();
    assert!(cache.flush().is_err());
    assert_eq!(listed(&cache).len(), 5);
    drop(cache);
    let cache = open(&path, &rows);
    assert_eq!((cache.recovery().unwrap().dead_letter_damage.len(), listed(&cache).len()), (0, 5));
    drop(cache);
    // A hole is not gone over in silence, and what is whole is saved.
    let mut hole = whole.clone();
    hole[whole.len() / 2] ^= 1;
    put(&hole);
    match refusal(try_open(&path, &rows)) {
        JournalError::DeadLetters(DeadLetterError::Damaged { saved: 4, damage, .. }) => {
            assert!(damage.len() == 1 && !damage[0].is_tail);
        }
        other => panic!("{other}"),
    }
    assert!(fs::read(dead(&path)).unwrap() == hole, "a refused file was changed");
    let cache: Cache<u64, u64> =
        quiet(&rows).journal(&path).journal_size(SMALL).journal_salvage(true).open().unwrap();
    assert_eq!((listed(&cache).len(), cache.recovery().unwrap().dead_letter_damage.len()), (4, 1));
    let mut copy = dead(&path).into_os_string();
    copy.push(".damaged");
    assert!(fs::read(copy).unwrap() == hole);
    drop(cache);
    // No letters at all, another format, a damaged header.
    let mut format = whole.clone();
    format[8] = 9;
    let mut header = whole.clone();
    header[30] ^= 1;
    for (bytes, name) in
        [(&b"hello, world"[..], "NotLetters"), (&format, "OtherFormat"), (&header, "DamagedHeader")]
    {
        put(bytes);
        let error = refusal(try_open(&path, &rows));
        assert!(format!("{error:?}").contains(name), "{error:?}");
    }
}

/// F54 for letters: those of another backend or of other types are not taken for one's own.
#[test]
fn f54_the_letters_of_others() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|_, _| true);
    let cache = open(&path, &rows);
    cache.put(1, 1).unwrap();
    assert!(cache.flush().is_err());
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    let other = Arc::new(writeback::backend::Memory::<u64, String>::new());
    let opened = Cache::builder().capacity(10).backend(other).journal(&path).open::<u64, String>();
    match opened {
        Err(OpenError::Journal(JournalError::DeadLetters(DeadLetterError::Others { open: 1, .. }))) => {}
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_closed_journal_shows_its_letters() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = poisoned(|key, _| key < 2);
    let cache = open(&path, &rows);
    for key in 0..2 {
        cache.put(key, key).unwrap();
    }
    assert!(cache.flush().is_err());
    drop(cache);
    let mut journal = None;
    eventually("it is closed", || {
        journal = ClosedJournal::open(&path).ok();
        journal.is_some()
    });
    let journal = journal.unwrap();
    let mut letters = ClosedDeadLetters::open(&journal).unwrap();
    assert_eq!(
        (letters.open_count(), letters.key_codec(), letters.bytes()),
        (2, "u64", fs::metadata(dead(&path)).unwrap().len())
    );
    let entry = letters.entries().next().unwrap();
    assert_eq!((entry.error, entry.value), ("value out of range", Some(&0_u64.to_le_bytes()[..])));
    let key = 0_u64.to_le_bytes();
    assert_eq!(letters.note_stored([(&key[..], Some(&key[..]), u64::MAX)]).unwrap(), 1);
    assert_eq!(letters.open_count(), 1);
    drop(letters);
    drop(journal);
    assert_eq!(listed(&open(&path, &rows)), [(1, Some(1))]);
}

/// Catches: two writers, a flaky backend, retries and discards: nothing is lost and nothing goes back in time.
#[test]
fn c01_c06_writers_and_retries_at_once() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::unrecorded());
    poison_with(&rows, |_, value| value.is_some_and(|value| value % 7 == 3));
    let cache = quiet(&rows)
        .capacity(64)
        .max_delay(Duration::from_millis(1))
        .journal(&path)
        .journal_size(SMALL)
        .open::<u64, u64>()
        .unwrap();
    thread::scope(|scope| {
        for writer in 0..2 {
            let cache = cache.clone();
            scope.spawn(move || {
                for n in 0..3_000_u64 {
                    let key = writer * 20 + n % 20;
                    cache.put(key, n).unwrap();
                    assert_eq!(cache.get(&key).unwrap(), Some(n), "{key}");
                    // Pushes others out.
                    let _ = cache.get(&(1_000 + n % 200));
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                let _ = cache.retry_dead_letters().unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
    });
    for key in 0..40 {
        assert_eq!(cache.get(&key).unwrap(), Some(2_980 + key % 20), "{key}");
    }
    rows.clear_fault();
    let _ = cache.flush();
    eventually("all of it is stored", || {
        let _ = cache.retry_dead_letters().unwrap();
        cache.stats().dead_letters == 0
    });
    assert!(cache.close(PATIENCE).is_drained());
    (0..40).for_each(|key| assert_eq!(rows.get(&key), Some(2_980 + key % 20), "{key}"));
}
