//! Group commit: whoever waits for a sync is told of one that began after he asked, and nobody waits for ever.

use std::{io, sync::Arc};

use super::{explore, join, spawn};
use crate::{
    clock::Clock,
    journal::commit::{Commits, Duty},
    signal::Signal,
    sync::{AtomicU64, Ordering},
};

struct Disk {
    commits: Commits,
    /// What was written, and how much of it was on the disk after the last sync: a bit for each writer.
    written: AtomicU64,
    synced: AtomicU64,
    flusher: Signal,
}

impl Disk {
    fn new() -> Arc<Self> {
        Arc::new(Disk {
            commits: Commits::new(),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            flusher: Signal::new(Clock::system()),
        })
    }

    /// The journal's thread, until it is told to stop. The first `failures` syncs fail.
    fn keep(&self, mut failures: u32) {
        loop {
            match self.commits.next(None) {
                Duty::Sync(number) => {
                    let seen = self.written.load(Ordering::Acquire);
                    let outcome = if failures > 0 {
                        failures -= 1;
                        Err(io::Error::other("a sync that fails"))
                    } else {
                        self.synced.store(seen, Ordering::Release);
                        Ok(())
                    };
                    self.commits.finish(number, outcome, &self.flusher);
                }
                Duty::Stop => return,
                Duty::Grow | Duty::Interval => unreachable!("nobody asks for it"),
            }
        }
    }

    fn write(&self, writer: u64) {
        // AcqRel: a record that is LIVE.
        self.written.fetch_or(1 << writer, Ordering::AcqRel);
    }
}

/// Two writers, each of which waits for a sync of what it wrote.
#[test]
fn commit_covers_what_was_written_before() {
    explore(Some(2), || {
        let disk = Disk::new();
        let keeper = spawn({
            let disk = Arc::clone(&disk);
            move || disk.keep(0)
        });
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let disk = Arc::clone(&disk);
                spawn(move || {
                    disk.write(writer);
                    let number = disk.commits.request();
                    assert!(disk.commits.wait_once(number).is_ok());
                    let synced = disk.synced.load(Ordering::Acquire);
                    assert!(synced & 1 << writer != 0, "acknowledged, and not on the disk");
                })
            })
            .collect();
        writers.into_iter().for_each(join);
        disk.commits.stop();
        join(keeper);
    });
}

/// After a failed sync nobody is told that his write is on the disk before a sync that heals.
#[test]
fn commit_believes_no_retry() {
    explore(Some(2), || {
        let disk = Disk::new();
        let keeper = spawn({
            let disk = Arc::clone(&disk);
            move || disk.keep(1)
        });
        let writer = spawn({
            let disk = Arc::clone(&disk);
            move || {
                disk.write(0);
                let number = disk.commits.request();
                let first = disk.commits.wait_once(number);
                if first.is_ok() {
                    // Only one of the two hears of the failure; the other's sync is the one that heals.
                    assert_ne!(disk.synced.load(Ordering::Acquire), 0);
                }
                first.is_ok()
            }
        });
        let number = disk.commits.request();
        let healed = disk.commits.wait_once(number).is_err();
        if healed {
            assert!(disk.commits.is_poisoned());
            let number = disk.commits.request_healing();
            assert!(disk.commits.wait_once(number).is_ok());
            assert!(!disk.commits.is_poisoned());
        }
        assert!(healed, "the first sync that anybody waits for fails, and both are told");
        let _ = join(writer);
        disk.commits.stop();
        join(keeper);
    });
}
