//! C11, F43, F52: which files are opened, by whom, with which settings, and how fast.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, thread, time::Duration, time::Instant};

use writeback::{BackendError, Cache, JournalError, JournalSync, OpenError, backend::Memory};

use crate::common::{
    Gate, OpenAtEnd, PATIENCE, Rows, SMALL, child_place, crash, down, eventually, image, open, place, quiet,
    refusal, scaled, spawn, try_open,
};

#[test]
fn f43_a_large_journal_serves_before_it_flushes() {
    let keys = scaled(20_000, 1_000_000);
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let opened = |rows: &Arc<Rows>| {
        quiet(rows)
            .capacity(keys as usize * 2)
            .flush_at(1)
            .max_delay(Duration::from_millis(1))
            .journal(&path)
            .journal_size(keys * 56 * 5 / 4 + (1 << 20))
            .journal_sync(JournalSync::Never)
            .open::<u64, u64>()
            .unwrap()
    };
    let cache = opened(&rows);
    for key in 0..keys {
        cache.put(key, key + 1).unwrap();
    }
    assert!(!cache.close(Duration::ZERO).is_drained());
    drop(cache);

    let rows = Arc::new(Rows::unrecorded());
    let gate = Gate::before(&rows);
    let _end = OpenAtEnd(Arc::clone(&gate));
    let begun = Instant::now();
    let cache = opened(&rows);
    let all = begun.elapsed();
    assert_eq!(cache.get(&(keys / 2)).unwrap(), Some(keys / 2 + 1));
    cache.put(3, 33).unwrap();
    cache.put(keys, 1).unwrap();
    assert_eq!(cache.get(&3).unwrap(), Some(33));
    assert_eq!(cache.stats().backend_writes, 0, "served before anything was flushed");
    let recovery = cache.recovery().unwrap();
    assert_eq!(recovery.entries as u64, keys);
    let rate = keys as f64 / all.as_secs_f64();
    println!("{keys} records: opened in {all:?} (reading {:?}), {rate:.0} records/s", recovery.took);
    if !cfg!(debug_assertions) {
        assert!(rate > 200_000.0, "{rate:.0} records a second");
    }
    gate.open();
    cache.flush().unwrap();
    assert!(gate.arrived() > 0);
    assert_eq!(rows.len() as u64, keys + 1);
    assert_eq!(rows.get(&3), Some(33));
}

#[test]
fn f52_a_second_cache_is_refused_with_the_owner() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = open(&path, &rows);
    cache.put(1, 1).unwrap();
    let before = image(&path);
    let JournalError::Locked { pid, path: told } = refusal(try_open(&path, &rows)) else { panic!() };
    assert_eq!((pid, told), (u64::from(std::process::id()), path.clone()));
    assert!(image(&path) == before, "the refused one has changed the file");
    // By another name too.
    let link = folder.path().join("b.journal");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(refusal(try_open(&link, &rows)), JournalError::Locked { .. }));
    let hard = folder.path().join("c.journal");
    fs::hard_link(&path, &hard).unwrap();
    assert!(matches!(refusal(try_open(&hard, &rows)), JournalError::Locked { .. }));
    cache.put(2, 2).unwrap();
    drop(cache);
    assert_eq!(open(&path, &rows).len(), 2);
}

#[test]
fn f52_a_killed_owner_leaves_no_lock() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let mut child = spawn("opening::f52_child_owner", folder.path(), &[]);
    eventually("the child has written", || folder.path().join("ready").exists());
    let rows = down();
    let JournalError::Locked { pid, .. } = refusal(try_open(&path, &rows)) else { panic!() };
    assert_eq!(pid, u64::from(child.0.id()));
    assert!(refusal(try_open(&path, &rows)).to_string().contains(&pid.to_string()));
    child.kill();
    let cache = open(&path, &rows);
    assert_eq!(cache.recovery().unwrap().entries, 100);
    assert_eq!(cache.get(&99).unwrap(), Some(100));
    assert_eq!(cache.recovery().unwrap().damage, []);
}

#[test]
#[ignore = "a process that another test starts"]
fn f52_child_owner() {
    let Some(folder) = child_place() else { return };
    let cache = open(&folder.join("a.journal"), &down());
    for key in 0..100 {
        cache.put(key, key + 1).unwrap();
    }
    fs::write(folder.join("ready"), "").unwrap();
    thread::sleep(PATIENCE);
}

#[test]
fn c11_other_types_are_refused_while_something_is_in_it() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    open(&path, &rows).put(1, 2).unwrap();
    let before = fs::read(&path).unwrap();
    let strings = || {
        let words = Memory::<u64, String>::new();
        words.set_fault(|_| Err(BackendError::transient("down")));
        Cache::builder()
            .capacity(100)
            .journal(&path)
            .journal_size(SMALL)
            .drain_on_drop(Duration::ZERO)
            .backend(words)
            .open::<u64, String>()
    };
    let error = refusal(strings());
    let JournalError::OtherCodec { dirty: 1, journal, cache, .. } = &error else { panic!("{error}") };
    assert!(journal.contains("u64") && cache.contains("str"), "{error}");
    let signed = Cache::builder()
        .capacity(100)
        .journal(&path)
        .backend(Arc::new(Memory::<i64, u64>::new()))
        .open::<i64, u64>();
    assert!(matches!(refusal(signed), JournalError::OtherCodec { dirty: 1, .. }));
    assert!(fs::read(&path).unwrap() == before, "a refused journal was changed");
    // Once it is empty, it may be used for anything.
    rows.clear_fault();
    assert!(open(&path, &rows).close(PATIENCE).is_drained());
    let cache = strings().unwrap();
    cache.put(1, "one".into()).unwrap();
    drop(cache);
    assert_eq!(strings().unwrap().get(&1).unwrap(), Some("one".into()));
    assert!(matches!(refusal(try_open(&path, &rows)), JournalError::OtherCodec { .. }));
}

#[test]
fn c11_foreign_and_newer_files() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    for foreign in [&b"x"[..], b"SQLite format 3\0", &[0; 10_000], &[0xff; 4096], b"wbackjn"] {
        fs::write(&path, foreign).unwrap();
        let error = refusal(try_open(&path, &rows));
        assert!(
            matches!(error, JournalError::NotAJournal { .. } | JournalError::DamagedSuperblock { .. }),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), foreign);
    }
    fs::remove_file(&path).unwrap();
    open(&path, &rows).put(1, 2).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    for (version, salvage) in [(2_u64, false), (99, true), (u64::MAX, false), (0, true)] {
        bytes[8..16].copy_from_slice(&version.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let opened = quiet(&rows).journal(&path).journal_salvage(salvage).open::<u64, u64>();
        let JournalError::OtherFormat { found, known: 1, .. } = refusal(opened) else { panic!() };
        assert_eq!(found, version);
        assert!(fs::read(&path).unwrap() == bytes);
    }
    bytes[8..16].copy_from_slice(&1_u64.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert_eq!(open(&path, &rows).get(&1).unwrap(), Some(2));
}

#[test]
fn c11_places_where_no_journal_can_be() {
    let folder = place();
    let rows = down();
    let missing = folder.path().join("no/such/folder/a.journal");
    let JournalError::Io { path, .. } = refusal(try_open(&missing, &rows)) else { panic!() };
    assert_eq!(path, missing);
    let error = refusal(try_open(folder.path(), &rows));
    assert!(matches!(error, JournalError::Io { .. } | JournalError::NotAJournal { .. }), "{error}");
    let error = refusal(try_open("".as_ref(), &rows));
    assert!(matches!(error, JournalError::Io { .. }), "{error}");
    // What looks empty and is no file, through a link so that nobody's device can come to harm: never replaced.
    let link = folder.path().join("link.journal");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    let error = refusal(try_open(&link, &rows));
    assert!(matches!(error, JournalError::Io { .. } | JournalError::NotAJournal { .. }), "{error}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "it was replaced");
    fs::remove_file(&link).unwrap();
    // An empty file is what `touch` makes, or a crash before the journal was whole: taken, or refused.
    let empty = folder.path().join("empty.journal");
    fs::write(&empty, "").unwrap();
    match try_open(&empty, &rows) {
        Ok(cache) => {
            cache.put(1, 1).unwrap();
            drop(cache);
            assert_eq!(open(&empty, &rows).len(), 1);
        }
        opened => assert!(matches!(refusal(opened), JournalError::NotAJournal { .. })),
    }
    // What is left in the folder is what the caller named.
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["empty.journal"], "something else was left behind");
}

#[test]
fn c11_a_read_only_file() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    open(&path, &rows).put(1, 2).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        println!("SKIPPED: this user may write into read-only files");
        return;
    }
    assert!(matches!(refusal(try_open(&path, &rows)), JournalError::Io { .. }));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(open(&path, &rows).len(), 1);
}

/// More in the journal than the cache holds: the backend gets the rest before the cache opens.
#[test]
fn c01_a_smaller_cache_writes_the_rest_through() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let dead = down();
    let cache = open(&path, &dead);
    for key in 0..1_000 {
        cache.put(key, key + 1).unwrap();
    }
    for key in 0..100 {
        cache.remove(&key).unwrap();
    }
    drop(cache);
    let before = fs::read(&path).unwrap();
    let smaller =
        |rows: &Arc<Rows>| quiet(rows).capacity(100).journal(&path).journal_size(SMALL).open::<u64, u64>();
    for _ in 0..2 {
        let error = refusal(smaller(&dead));
        let JournalError::TooMuch { excess, ref source, .. } = error else { panic!("{error}") };
        assert!((890..=1_000).contains(&excess), "{excess}");
        assert!(source.to_string().contains("down"), "{source}");
        assert!(fs::read(&path).unwrap() == before, "a refused journal was changed");
    }
    // A backend that takes a part of it, and then no more.
    let some = Arc::new(Rows::new());
    let mut left = 300;
    some.set_fault(move |_| {
        left -= 1;
        if left < 0 { Err(BackendError::permanent("no more")) } else { Ok(()) }
    });
    for key in 0..100 {
        some.insert(key, 77);
    }
    assert!(matches!(refusal(smaller(&some)), JournalError::TooMuch { .. }));
    assert!(fs::read(&path).unwrap() == before, "a refused journal was changed");
    assert_eq!(some.ops_applied(), 300);
    some.clear_fault();
    let cache = smaller(&some).unwrap();
    let recovery = cache.recovery().unwrap();
    assert_eq!(recovery.entries, 1_000);
    assert!(recovery.written_through >= 900, "{recovery:?}");
    assert_eq!(recovery.written_through + cache.stats().dirty, 1_000);
    for key in 0..1_000 {
        assert_eq!(cache.get(&key).unwrap(), (key >= 100).then_some(key + 1), "key {key}");
    }
    cache.flush().unwrap();
    assert_eq!(some.len(), 900);
}

/// The same, bounded by weight.
#[test]
fn c01_a_lighter_cache_writes_the_rest_through() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let cache = open(&path, &down());
    for key in 0..1_000 {
        cache.put(key, 10).unwrap();
    }
    drop(cache);
    let rows = Arc::new(Rows::new());
    let cache = quiet(&rows)
        .max_weight(1_000, |_: &u64, value: &u64| *value)
        .journal(&path)
        .journal_size(SMALL)
        .open::<u64, u64>()
        .unwrap();
    let recovery = cache.recovery().unwrap();
    assert_eq!(recovery.entries, 1_000);
    assert!(recovery.written_through >= 900, "{recovery:?}");
    assert!(cache.stats().weight <= 1_000);
    cache.flush().unwrap();
    assert_eq!(rows.len(), 1_000);
    drop(cache);
    // One entry alone is heavier than the cache may be.
    let path = folder.path().join("b.journal");
    open(&path, &down()).put(1, 5_000).unwrap();
    let rows = Arc::new(Rows::new());
    let cache = quiet(&rows)
        .max_weight(1_000, |_: &u64, value: &u64| *value)
        .journal(&path)
        .open::<u64, u64>()
        .unwrap();
    assert_eq!(cache.recovery().unwrap().written_through, 1);
    assert_eq!(rows.get(&1), Some(5_000));
}

/// Sizes, lanes, limits and weights may change from one opening to the next.
#[test]
fn c11_other_settings_over_the_same_journal() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let mut written = 0;
    let settings =
        [(1_u64, 1_usize, 100_u64), (8 << 20, 4, 64), (1 << 20, 0, 3), (1, 300, 8), (1 << 16, 1, 1)];
    for (size, lanes, puts) in settings {
        let cache = quiet(&rows)
            .capacity(1_000 + lanes)
            .lanes(lanes)
            .journal(&path)
            .journal_size(size)
            .journal_limit(size.saturating_mul(2))
            .open::<u64, u64>()
            .unwrap();
        assert_eq!(
            cache.recovery().unwrap().entries as u64,
            written,
            "opened with {size} bytes, {lanes} lanes"
        );
        assert_eq!(cache.recovery().unwrap().damage, []);
        for key in 0..written {
            assert_eq!(cache.get(&key).unwrap(), Some(key), "opened with {size} bytes, {lanes} lanes");
        }
        let threads = 4;
        thread::scope(|scope| {
            for thread in 0..threads {
                let cache = &cache;
                scope.spawn(move || {
                    for key in (written..written + puts).filter(|key| key % threads == thread) {
                        cache.put(key, key).unwrap();
                    }
                });
            }
        });
        written += puts;
    }
    let cache = open(&path, &rows);
    assert_eq!(cache.recovery().unwrap().entries as u64, written);
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len() as u64, written);
}

/// Opened again and again, with and without something in it: the file does not grow, and versions do.
#[test]
fn c10_reopened_many_times() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    let mut last = 0;
    let mut length = None;
    for round in 0..scaled(30, 200) {
        if round % 3 == 0 {
            rows.clear_fault();
        } else {
            rows.set_fault(|_| Err(BackendError::transient("down")));
        }
        let cache = open(&path, &rows);
        let recovery = cache.recovery().unwrap();
        assert_eq!(recovery.damage, []);
        assert_eq!(recovery.entries, if round % 3 == 1 || round == 0 { 0 } else { 100 }, "round {round}");
        assert_eq!(cache.get(&7).unwrap(), (round > 0).then(|| round - 1));
        for key in 0..100 {
            let version = cache.put(key, round).unwrap().get();
            if key == 7 {
                assert!(version > last, "round {round}: version {version} after {last}");
                last = version;
            }
        }
        let closed = cache.close(if round % 3 == 0 { PATIENCE } else { Duration::ZERO });
        assert_eq!(closed.is_drained(), round % 3 == 0, "{closed:?}");
        drop(cache);
        let now = fs::metadata(&path).unwrap().len();
        assert!(now <= 2 * *length.get_or_insert(now), "round {round}: {now} bytes, and {length:?} at first");
    }
}

/// Every copy of a crash is recovered from in turn: a crash during the use after a crash, and so on.
#[test]
fn c10_crash_after_crash() {
    let folder = place();
    let rows = down();
    let mut path = folder.path().join("0.journal");
    let mut versions = [0; 10];
    for life in 1..=scaled(15, 60) {
        let cache = open(&path, &rows);
        for (key, last) in versions.iter_mut().enumerate() {
            assert_eq!(cache.get(&(key as u64)).unwrap(), (life > 1).then(|| life - 1));
            let version = cache.put(key as u64, life).unwrap().get();
            assert!(version > *last);
            *last = version;
        }
        path = crash(&path, &format!("{life}.journal"));
    }
    let cache = open(&path, &rows);
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), 10);
}

/// One who cannot be told apart from the owner by its file's name: a journal that was moved while it was open.
#[test]
fn f52_a_moved_journal_is_still_locked() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = open(&path, &rows);
    cache.put(1, 1).unwrap();
    let moved = folder.path().join("moved.journal");
    fs::rename(&path, &moved).unwrap();
    assert!(matches!(refusal(try_open(&moved, &rows)), JournalError::Locked { .. }));
    drop(cache);
    assert_eq!(open(&moved, &rows).len(), 1);
}

/// Many threads open the same new journal: one of them has it.
#[test]
fn f52_a_race_for_a_new_journal() {
    let folder = place();
    let rows = down();
    let (mut won, mut refused) = (0, 0);
    for round in 0..scaled(2, 4) {
        let path = folder.path().join(format!("{round}.journal"));
        let opened: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| try_open(&path, &rows))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners = opened.iter().filter(|opened| opened.is_ok()).count();
        assert_eq!(winners, 1, "round {round}");
        for opened in opened {
            match opened {
                Ok(cache) => {
                    cache.put(1, 1).unwrap();
                    won += 1;
                }
                Err(OpenError::Journal(JournalError::Locked { .. })) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(open(&path, &rows).len(), 1);
    }
    assert!(won > 0 && refused > 0);
}

/// With and without a journal a cache takes as many dirty entries as its capacity says.
#[test]
fn c09_a_large_cache_can_be_full_of_dirty_entries() {
    let folder = place();
    let capacity = 1_250_000;
    let fill = |cache: Cache<u64, u64>| (0..).find(|key| cache.put(*key, 1).is_err()).unwrap_or(0);
    let settings = || quiet(&down()).capacity(capacity).write_timeout(Duration::from_millis(300));
    let without = fill(settings().open().unwrap());
    let path = folder.path().join("a.journal");
    let with = fill(settings().journal(&path).journal_size(256 << 20).open().unwrap());
    assert_eq!((without, with), (capacity as u64, capacity as u64));
}
