//! F48, F49, F50: disks that are full, slow, or fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use writeback::{Ack, BackendError, Cache, Error, JournalError, backend::Memory};

use crate::common::{NEVER, PATIENCE, eventually, place, refusal};
#[cfg(feature = "faults")]
use crate::common::{SMALL, child_place, crash, down, open, quiet, spawn};

/// A small disk; `None` if this process may not make one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, options: &str) -> Option<Disk> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Disk(at.to_owned())),
            other => {
                println!("SKIPPED: no small disk to be had: {other:?}");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failing test may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

type Pages = Memory<u64, Vec<u8>>;

fn keep(path: &Path, size: u64, rows: &Arc<Pages>) -> Result<Cache<u64, Vec<u8>>, writeback::OpenError> {
    Cache::builder()
        .capacity(100_000)
        .max_delay(NEVER)
        .flush_at(1_000_000)
        .retry(Duration::from_millis(1), Duration::from_millis(8))
        .write_timeout(Duration::from_millis(100))
        .drain_on_drop(Duration::ZERO)
        .lanes(1)
        .backend(Arc::clone(rows))
        .journal(path)
        .journal_size(size)
        .open()
}

#[test]
fn f49_a_full_disk_is_a_typed_error_and_ends() {
    let folder = place();
    let Some(disk) = Disk::mount(&folder.path().join("disk"), "size=10m") else { return };
    let path = disk.0.join("a.journal");
    let rows = Arc::new(Pages::unrecorded());
    rows.set_fault(|_| Err(BackendError::transient("down")));

    // No room from the beginning: nothing is left behind.
    let error = refusal(keep(&path, 20 << 20, &rows));
    let JournalError::NoSpace { bytes, .. } = error else { panic!("{error}") };
    assert!(bytes >= 20 << 20);
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 0, "a failed opening left a file");

    // No room later: writers are told.
    let cache = keep(&path, 1 << 20, &rows).unwrap();
    let mut written = 0;
    let fill = |written: &mut u64| loop {
        match cache.put(*written, vec![*written as u8; 1_000]) {
            Ok(_) => *written += 1,
            Err(error) => break error,
        }
        assert!(*written < 12_000, "more than the disk holds");
    };
    for _ in 0..3 {
        let error = fill(&mut written);
        assert!(matches!(error, Error::JournalFull { .. }), "{error}");
    }
    let stats = cache.stats().journal.unwrap();
    println!("{written} records, {stats:?}");
    assert!(stats.growth_errors > 0 && stats.bytes > 2 << 20, "{stats:?}");
    eventually("a failed growth is undone", || {
        fs::metadata(&path).unwrap().len() == cache.stats().journal.unwrap().bytes
    });
    // What is there can be read and rewritten, at least as long as there is room for it.
    assert_eq!(cache.get(&(written / 2)).unwrap().unwrap(), vec![(written / 2) as u8; 1_000]);

    // A crash now: opened on the full disk.
    drop(cache);
    let cache = keep(&path, 1 << 20, &rows).unwrap();
    assert_eq!(cache.recovery().unwrap().entries as u64, written);
    // The backend is back: room without anybody's help.
    rows.clear_fault();
    cache.flush().unwrap();
    eventually("writes go on", || cache.put(1, vec![1]).is_ok());
    for n in 0..20_000 {
        cache.put(n % 10, vec![2; 1_000]).unwrap();
    }
    assert!(cache.close(PATIENCE).is_drained());
    assert_eq!(rows.len() as u64, written);
}

/// The disk is filled by somebody else, who goes away; the backend stays down all the time.
#[test]
fn f49_space_that_becomes_free_is_used() {
    let folder = place();
    let Some(disk) = Disk::mount(&folder.path().join("disk"), "size=10m") else { return };
    let path = disk.0.join("a.journal");
    let rows = Arc::new(Pages::unrecorded());
    rows.set_fault(|_| Err(BackendError::transient("down")));
    let cache = keep(&path, 1 << 20, &rows).unwrap();
    let other = disk.0.join("other");
    let mut size = 9 << 20;
    while fs::write(&other, vec![1; size]).is_err() {
        size -= 4096;
    }
    let mut written = 0;
    let error = loop {
        match cache.put(written, vec![7; 1_000]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::JournalFull { .. }), "{error}");
    let before = cache.stats().journal.unwrap();
    assert!(before.growth_errors > 0, "{before:?}");
    fs::remove_file(&other).unwrap();
    eventually("writes go on", || cache.put(written, vec![7; 1_000]).is_ok());
    for key in 0..2 * written {
        cache.put(key, vec![8; 1_000]).unwrap();
    }
    assert!(cache.stats().journal.unwrap().bytes > before.bytes);
    drop(cache);
    assert_eq!(keep(&path, 1 << 20, &rows).unwrap().recovery().unwrap().entries as u64, 2 * written);
}

/// No files may be made: a limit on their number, as a disk without inodes.
#[test]
fn f49_no_room_for_a_file() {
    let folder = place();
    let Some(disk) = Disk::mount(&folder.path().join("disk"), "size=10m,nr_inodes=1") else { return };
    let rows = Arc::new(Pages::unrecorded());
    let error = refusal(keep(&disk.0.join("a.journal"), 1 << 20, &rows));
    assert!(matches!(error, JournalError::NoSpace { .. } | JournalError::Io { .. }), "{error}");
}

#[cfg(feature = "faults")]
#[test]
fn f48_a_failed_sync_is_not_believed() {
    for failing in ["1", "3"] {
        let folder = place();
        spawn("disk::f48_child", folder.path(), &[("WRITEBACK_FAILING_SYNCS", failing)]).succeeds();
    }
}

#[cfg(feature = "faults")]
#[test]
#[ignore = "a process that another test starts"]
fn f48_child() {
    let Some(folder) = child_place() else { return };
    let path = folder.join("a.journal");
    let rows = down();
    let cache = quiet(&rows)
        .write_timeout(PATIENCE)
        .journal(&path)
        .journal_size(SMALL)
        .journal_sync(writeback::JournalSync::Never)
        .open::<u64, u64>()
        .unwrap();
    for key in 0..100 {
        cache.put(key, key).unwrap();
    }
    let before = cache.stats().journal.unwrap();
    let ticket = cache.put_ticket(100, 100, Ack::Synced).unwrap();
    ticket.wait().unwrap();
    let after = cache.stats().journal.unwrap();
    assert!(after.sync_errors > 0, "no sync has failed: {after:?}");
    assert!(!after.is_poisoned, "{after:?}");
    // Everything that was dirty before the failed sync was written anew, elsewhere, before that acknowledgement.
    assert!(after.copies - before.copies >= 101, "{before:?} {after:?}");
    cache.put_acked(101, 101, Ack::Synced).unwrap();
    cache.sync().unwrap();
    // The copies alone are enough: wipe every record that was there before the failure.
    let again = open(&crash(&path, "copy.journal"), &rows);
    assert_eq!(again.recovery().unwrap().entries, 102);
    drop(again);
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), 102);
}

/// A disk that never takes a sync: the writes are told so, and those that need none go on.
#[cfg(feature = "faults")]
#[test]
fn f48_a_disk_that_never_syncs() {
    let folder = place();
    spawn("disk::f48_child_never", folder.path(), &[("WRITEBACK_FAILING_SYNCS", "1000000000")]).succeeds();
}

#[cfg(feature = "faults")]
#[test]
#[ignore = "a process that another test starts"]
fn f48_child_never() {
    let Some(folder) = child_place() else { return };
    let path = folder.join("a.journal");
    let rows = down();
    let cache = quiet(&rows)
        .write_timeout(Duration::from_millis(200))
        .journal(&path)
        .journal_size(SMALL)
        .open::<u64, u64>()
        .unwrap();
    for round in 0..3 {
        let error = cache.put_acked(1, round, Ack::Synced).unwrap_err();
        assert!(matches!(error, Error::NotSynced { .. }), "{error}");
        assert_eq!(cache.get(&1).unwrap(), Some(round), "the write is in the cache");
        for key in 10..20 {
            cache.put(key, round).unwrap();
        }
        assert!(cache.sync().is_err());
    }
    assert!(cache.stats().journal.unwrap().is_poisoned);
    let again = open(&crash(&path, "copy.journal"), &rows);
    assert_eq!((again.len(), again.peek(&1)), (11, Some(2)));
}

/// The same with the real system call failing, if there is a tool to make it fail.
#[test]
fn f48_fdatasync_that_fails_once() {
    let here = std::env::current_exe().unwrap();
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: no strace");
        return;
    }
    let folder = place();
    let log = folder.path().join("strace.log");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&log)
        .args(["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=2"])
        .arg(here)
        .args(["--exact", "disk::f48_child_traced", "--ignored", "--nocapture"])
        .env("WRITEBACK_TEST_CHILD", folder.path())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("ptrace") && text.contains("not permitted") {
        println!("SKIPPED: strace may not trace here");
        return;
    }
    assert!(output.status.success(), "{text}");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("INJECTED"), "nothing failed: {log}");
}

#[test]
#[ignore = "a process that another test starts"]
fn f48_child_traced() {
    let Some(folder) = crate::common::child_place() else { return };
    let rows = crate::common::down();
    let path = folder.join("a.journal");
    let cache = crate::common::quiet(&rows)
        .journal(&path)
        .journal_size(1)
        .journal_sync(writeback::JournalSync::Never)
        .open::<u64, u64>()
        .unwrap();
    for key in 0..50 {
        cache.put(key, key).unwrap();
        if key % 10 == 9 {
            cache.sync().unwrap();
        }
    }
    let stats = cache.stats().journal.unwrap();
    assert_eq!(stats.sync_errors, 1, "{stats:?}");
    assert!(!stats.is_poisoned && stats.copies > 0, "{stats:?}");
    let again = crate::common::open(&crate::common::crash(&path, "copy.journal"), &rows);
    assert_eq!(again.recovery().unwrap().entries, 50);
}

/// F50: every sync takes 50 ms; who does not ask for one does not wait for one, and who does shares it.
#[test]
fn f50_a_slow_sync_slows_only_those_who_wait_for_it() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: no strace");
        return;
    }
    let folder = place();
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "--seccomp-bpf"])
        .args(["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=300000"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::f50_child_slow", "--ignored", "--nocapture"])
        .env("WRITEBACK_TEST_CHILD", folder.path())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    if text.contains("ptrace") && text.contains("not permitted") {
        println!("SKIPPED: strace may not trace here");
        return;
    }
    assert!(output.status.success());
}

#[test]
#[ignore = "a process that another test starts"]
fn f50_child_slow() {
    let Some(folder) = crate::common::child_place() else { return };
    let rows = crate::common::down();
    let cache = crate::common::quiet(&rows)
        .capacity(100_000)
        .lanes(4)
        .journal(folder.join("a.journal"))
        .journal_size(64 << 20)
        .open::<u64, u64>()
        .unwrap();
    std::thread::scope(|scope| {
        let cache = &cache;
        let waiting: Vec<_> = (0..4)
            .map(|thread| scope.spawn(move || cache.put_acked(90_000 + thread, 1, Ack::Synced).map(drop)))
            .collect();
        let mut during = 0;
        let mut seen = false;
        while waiting.iter().any(|thread| !thread.is_finished()) {
            cache.put(during % 10_000, during).unwrap();
            during += 1;
            seen |= cache.stats().journal.unwrap().sync_running.is_some();
        }
        waiting.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        let syncs = cache.stats().journal.unwrap().syncs;
        println!("{during} writes while 4 waited for {syncs} syncs");
        assert!(seen, "the running sync was never to be seen");
        assert!(during > 1_000, "{during} writes while a sync ran");
        assert!(syncs <= 6, "{syncs} syncs for four who waited at once");
    });
}
