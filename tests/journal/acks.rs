//! C2: what each acknowledgement means, from many threads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::{Ack, BackendError, Cache, Error, JournalSync, OpenError};

use crate::common::{Gate, OpenAtEnd, Rows, SMALL, crash, down, eventually, open, place, quiet, scaled};

#[test]
fn c02_without_a_journal_its_levels_are_errors() {
    let rows = Arc::new(Rows::new());
    let cache = quiet(&rows).open::<u64, u64>().unwrap();
    for ack in [Ack::Journal, Ack::Synced] {
        assert!(matches!(cache.put_acked(1, 1, ack), Err(Error::NoJournal { .. })));
        assert!(matches!(cache.put_ticket(1, 1, ack), Err(Error::NoJournal { .. })));
        assert!(matches!(cache.remove_acked(&1, ack), Err(Error::NoJournal { .. })));
        assert!(matches!(cache.update_acked(1, |_| 1, ack), Err(Error::NoJournal { .. })));
        assert!(matches!(cache.put_many_acked([(1, 1)], ack), Err(Error::NoJournal { .. })));
        assert!(matches!(quiet(&rows).ack(ack).open::<u64, u64>(), Err(OpenError::NoJournal { .. })));
    }
    assert!(matches!(cache.sync(), Err(Error::NoJournal { .. })));
    assert!(cache.is_empty() && cache.recovery().is_none() && cache.stats().journal.is_none());
}

/// Whatever was acknowledged, at whatever level, is in the journal the moment after.
#[test]
fn c02_every_acknowledged_write_survives() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    let cache = quiet(&rows).lanes(8).journal(&path).journal_size(1 << 20).open::<u64, u64>().unwrap();
    let each = scaled(30, 200);
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let cache = &cache;
            scope.spawn(move || {
                let ack = [Ack::Memory, Ack::Journal, Ack::Synced, Ack::Backend][thread as usize % 4];
                let mut tickets = Vec::new();
                for n in 0..each {
                    let key = thread * 100_000 + n;
                    match n % 5 {
                        0 => cache.put_acked(key, n, ack).map(drop).unwrap(),
                        1 => tickets.push((key, cache.put_ticket(key, n, ack).unwrap())),
                        2 => cache.update_acked(key, |_| n, ack).map(drop).unwrap(),
                        3 => cache.put_many_acked([(key, 1), (key, n)], ack).map(drop).unwrap(),
                        _ => {
                            cache.put(key, n).unwrap();
                            cache.remove_acked(&key, ack).unwrap();
                        }
                    }
                }
                for (key, ticket) in tickets {
                    let version = ticket.version();
                    assert_eq!(ticket.wait().unwrap(), version, "key {key}");
                }
            });
        }
    });
    let copy = crash(&path, "copy.journal");
    let stored = Arc::new(Rows::new());
    rows.rows().into_iter().for_each(|(key, value)| {
        stored.insert(key, value);
    });
    for key in (0..each).flat_map(|n| [300_000 + n, 700_000 + n]) {
        let n = key % 100_000;
        assert_eq!(rows.get(&key), (n % 5 != 4).then_some(n), "Ack::Backend, key {key}");
    }
    let again = quiet(&stored).capacity(100_000).journal(&copy).open::<u64, u64>().unwrap();
    for thread in 0..8 {
        for n in 0..each {
            let key = thread * 100_000 + n;
            assert_eq!(again.get(&key).unwrap(), (n % 5 != 4).then_some(n), "key {key}");
        }
    }
}

/// Thousands of durable writes in the air share few syncs.
#[test]
fn c02_tickets_share_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = quiet(&rows)
        .capacity(20_000)
        .journal(&path)
        .journal_size(4 << 20)
        .journal_sync(JournalSync::Never)
        .open::<u64, u64>()
        .unwrap();
    let before = cache.stats().journal.unwrap().syncs;
    let tickets: Vec<_> = (0..5_000).map(|key| cache.put_ticket(key, key, Ack::Synced).unwrap()).collect();
    let mut last = 0;
    for ticket in tickets {
        last = last.max(ticket.wait().unwrap().get());
    }
    let syncs = cache.stats().journal.unwrap().syncs - before;
    println!("5,000 tickets, {syncs} syncs");
    assert!((1..=2_500).contains(&syncs), "{syncs}");
    // A ticket that nobody waits for takes nothing back.
    drop(cache.put_ticket(9_999, 1, Ack::Backend).unwrap());
    assert_eq!(cache.get(&9_999).unwrap(), Some(1));
    let ready = cache.put_ticket(1, 1, Ack::Journal).unwrap();
    assert!(ready.is_ready());
    ready.wait().unwrap();
}

/// A ticket for the backend is ready when the backend has answered, and not before.
#[test]
fn c02_tickets_of_the_backend() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Rows::new());
    let gate = Gate::before(&rows);
    let _end = OpenAtEnd(Arc::clone(&gate));
    let cache = open(&path, &rows);
    let tickets: Vec<_> = (0..10).map(|key| cache.put_ticket(key, key, Ack::Backend).unwrap()).collect();
    eventually("the backend was called", || gate.arrived() > 0);
    assert!(tickets.iter().all(|ticket| !ticket.is_ready()));
    gate.open();
    eventually("they are ready", || tickets.iter().all(writeback::Ticket::is_ready));
    tickets.into_iter().for_each(|ticket| ticket.wait().map(drop).unwrap());
    assert_eq!(rows.len(), 10);
    rows.set_fault(|_| Err(BackendError::permanent("never")));
    let ticket = cache.put_ticket(1, 5, Ack::Backend).unwrap();
    assert!(matches!(ticket.wait(), Err(Error::NotFlushed { .. })));
    assert_eq!(open(&crash(&path, "copy"), &rows).get(&1).unwrap(), Some(5), "refused, and kept");
}

/// Tickets whose cache is closed, or gone, are answered and do not hang.
#[test]
fn c02_tickets_outlive_their_cache() {
    let folder = place();
    for ack in [Ack::Journal, Ack::Synced, Ack::Backend] {
        let path = folder.path().join(format!("{ack:?}.journal"));
        let rows = down();
        let cache = quiet(&rows)
            .write_timeout(Duration::from_millis(300))
            .journal(&path)
            .journal_size(SMALL)
            .open::<u64, u64>()
            .unwrap();
        let tickets: Vec<_> = (0..10).map(|key| cache.put_ticket(key, key, ack).unwrap()).collect();
        let done = Arc::new(AtomicBool::new(false));
        let waiter = thread::spawn({
            let done = Arc::clone(&done);
            move || {
                let results: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().map(drop)).collect();
                done.store(true, Ordering::SeqCst);
                results
            }
        });
        let closed = cache.close(Duration::from_millis(10));
        assert!(!closed.is_drained());
        drop(cache);
        eventually("tickets are answered", || done.load(Ordering::SeqCst));
        let results = waiter.join().unwrap();
        println!("{ack:?}: {:?}", results[0]);
        if ack != Ack::Backend {
            assert!(results.iter().all(Result::is_ok), "{ack:?}: {results:?}");
        } else {
            assert!(results.iter().all(Result::is_err), "nothing was stored: {results:?}");
        }
        assert_eq!(open(&path, &rows).recovery().unwrap().entries, 10, "{ack:?}");
    }
}

/// `JournalSync::Always` makes every acknowledgement durable; `Every` syncs by itself; `Never` does not.
#[test]
fn c02_sync_policies() {
    let folder = place();
    let opened = |name: &str, sync| {
        quiet(&down())
            .journal(folder.path().join(name))
            .journal_size(SMALL)
            .journal_sync(sync)
            .open::<u64, u64>()
            .unwrap()
    };
    let syncs = |cache: &Cache<u64, u64>| cache.stats().journal.unwrap().syncs;
    let always = opened("always", JournalSync::Always);
    let before = syncs(&always);
    for key in 0..20 {
        always.put(key, key).unwrap();
    }
    assert!(syncs(&always) >= before + 20, "one after another they share nothing");
    let every = opened("every", JournalSync::Every(Duration::from_millis(20)));
    let before = syncs(&every);
    every.put(1, 1).unwrap();
    eventually("it syncs by itself", || syncs(&every) > before);
    let never = opened("never", JournalSync::Never);
    let before = syncs(&never);
    for key in 0..1_000 {
        never.put(key, key).unwrap();
    }
    thread::sleep(Duration::from_millis(60));
    assert_eq!(syncs(&never), before);
    never.sync().unwrap();
    assert!(syncs(&never) > before);
}

/// C3: what a reader has seen is never rolled back. Readers note the newest that they saw; a crash image that was taken later
/// has it, or a newer one.
#[test]
fn c03_what_was_read_is_in_the_journal() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = quiet(&rows).lanes(4).journal(&path).journal_size(32 << 20).open::<u64, u64>().unwrap();
    let seen = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let rounds = scaled(20, 200);
    let mut newer = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let handle = cache.handle().unwrap();
            for n in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                handle.put(1, n).unwrap();
                if n % 64 == 0 {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let value = cache.peek(&1).unwrap_or(0);
                seen.fetch_max(value, Ordering::SeqCst);
            }
        });
        let copy = folder.path().join("copy");
        for _ in 0..rounds {
            let floor = seen.load(Ordering::SeqCst);
            // One writer, one segment after another: a reading from front to back while it writes is a state that a crash
            // could leave, as long as the journal has not come round.
            let (before, bytes) = (cache.stats().journal.unwrap(), std::fs::read(&path).unwrap());
            let after = cache.stats().journal.unwrap();
            if before.retirements != after.retirements || before.copies != after.copies {
                continue;
            }
            std::fs::write(&copy, bytes).unwrap();
            let Ok(again) = quiet(&rows).journal(&copy).open::<u64, u64>() else { continue };
            let value = again.peek(&1).unwrap_or(0);
            assert!(value >= floor, "a reader saw {floor}, and a crash brought {value} back");
            newer += u64::from(floor > 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{newer} of {rounds} images compared");
    assert!(newer > rounds / 4);
}

/// Behind one sync several batches are sent together; when the first of them finds the backend down, the others come back
/// without having been given to it, and no count says that they were.
#[test]
fn batches_that_come_back_untried_are_not_counted() {
    let folder = place();
    let rows = Arc::new(Rows::unrecorded());
    let path = folder.path().join("a.journal");
    let cache = quiet(&rows).batch_size(1).journal(path).journal_size(SMALL).open::<u64, u64>().unwrap();
    for round in 0..scaled(40, 200) {
        rows.clear_fault();
        cache.put_many((0..16).map(|key| (key, round))).unwrap();
        eventually("it is stored", || cache.flush().is_ok());
        rows.set_batch_fault(|_| Err(BackendError::transient("down")));
        cache.put_many((0..16).map(|key| (key, round))).unwrap();
        assert!(cache.flush().is_err());
        let stats = cache.stats();
        assert_eq!(stats.batches, rows.batches());
        let answered = stats.backend_writes + stats.backend_errors;
        assert_eq!((stats.batch_sizes.operations(), stats.batches), (answered, answered));
    }
}
