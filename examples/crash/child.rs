//! A life: open, check, work until killed.

use std::{
    os::unix::process::parent_id,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use writeback::{Cache, JournalSync};

use super::{
    backend::{Health, Watchman},
    board::{Board, Count, Violation, phase},
    check,
    life::{Database, Life, VARIABLE},
    model::{OWN, Random, WRITERS},
    work::{Writer, read},
};

/// Never returns in a process that was started as a child.
pub(crate) fn be_a_child_if_told() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let life = Life::from_text(&text).unwrap_or_else(|| {
        eprintln!("no such life: {text}");
        std::process::exit(2)
    });
    match live(&life) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(3)
        }
    }
}

fn live(life: &Life) -> Result<(), Box<dyn std::error::Error>> {
    let board = Arc::new(Board::open(&Life::board(&life.folder))?);
    board.phase.store(phase::OPENING, Ordering::Release);
    let mut random = Random::new(life.seed);
    let watchman = Arc::new(match life.database {
        Database::Table => Watchman::of_table(&board, life.health, random.next()),
        Database::Sqlite => Watchman::of_sqlite(&life.folder, &board, life.health, random.next())?,
    });
    let open = || {
        let sync = if life.syncs { JournalSync::Every(Duration::from_millis(1)) } else { JournalSync::Never };
        Cache::builder()
            .capacity(life.capacity)
            // As small as can be.
            .journal(life.folder.join("dirty.journal"))
            .journal_size(1)
            .journal_sync(sync)
            .lanes(2)
            .max_delay(Duration::from_micros(500 + life.seed % 2000))
            .batch_size(8 + (life.seed % 32) as usize)
            .retry(Duration::from_micros(300), Duration::from_millis(2))
            .write_timeout(Duration::from_millis(10))
            .drain_on_drop(Duration::ZERO)
            .backend(Arc::clone(&watchman))
            .open::<u64, Vec<u8>>()
    };
    let cache = open()?;
    board.count(Count::Opened, 1);
    if let Some(recovery) = cache.recovery() {
        board.count(Count::Recovered, recovery.entries as u64);
        board.count(Count::WrittenThrough, recovery.written_through as u64);
        if let Some(damage) = recovery.damage.first() {
            eprintln!("a kill has left damage: {:?}", recovery.damage);
            board.violation(Violation::Damage, [damage.offset, recovery.damage.len() as u64, 0, 0]);
        }
    }
    board.phase.store(phase::CHECKING, Ordering::Release);
    check::all(&cache, &board);
    if life.last {
        cache.flush()?;
        let drained = cache.close(Duration::from_secs(20)).is_drained();
        drop(cache);
        let again = open()?;
        let left = again.recovery().map_or(0, |recovery| recovery.entries as u64);
        if !drained || left > 0 {
            board.violation(Violation::NotFlushed, [u64::from(drained), left, 0, 0]);
        }
        // Now from the backend.
        check::all(&again, &board);
        return Ok(());
    }
    watchman.arm();
    // With a backend that takes nothing, all that is written has to have room.
    let keys = if life.health == Health::Down { life.capacity / 2 / WRITERS } else { OWN / WRITERS };
    board.phase.store(phase::WORKING, Ordering::Release);
    for index in 0..WRITERS {
        let (cache, board, random) = (cache.clone(), Arc::clone(&board), Random::new(random.next()));
        let races = life.races;
        thread::spawn(move || Writer { cache, board, index, keys, races, random }.run());
    }
    let (reader, seen, dice) = (cache.clone(), Arc::clone(&board), Random::new(random.next()));
    thread::spawn(move || read(&reader, &seen, keys, dice));
    let parent = parent_id();
    while parent_id() == parent {
        tell(&cache, &board, life.health);
        thread::sleep(Duration::from_micros(300));
    }
    Err("the parent is gone".into())
}

/// Puts the cache's own statistics on the board: they die with it.
fn tell(cache: &Cache<u64, Vec<u8>>, board: &Board, health: Health) {
    let stats = cache.stats();
    let set = |what: Count, value: u64| board.counts[what as usize].store(value, Ordering::Relaxed);
    set(Count::Evictions, stats.evictions);
    set(Count::Overflows, stats.ring_overflows);
    if let Some(journal) = stats.journal {
        set(if health == Health::Down { Count::CopiesDown } else { Count::Copies }, journal.copies);
        set(Count::Retirements, journal.retirements);
        set(Count::JournalBytes, journal.bytes);
    }
}
