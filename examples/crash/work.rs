//! What a child does until it is killed: writers and readers, who note on the board what they begin and what they got.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use writeback::{Ack, Cache, Error, Handle, Version};

use super::{
    board::{Board, Cell, Count, Violation},
    check::Before,
    model::{KEYS, OWN, RACING, Random, SHARED, WRITERS, cell, decode, encode, is_remove},
};

type Entries = Cache<u64, Vec<u8>>;

pub(crate) struct Writer {
    pub(crate) cache: Entries,
    pub(crate) board: Arc<Board>,
    pub(crate) index: usize,
    /// How many of its own keys it uses.
    pub(crate) keys: usize,
    /// One in so many writes goes to a key that all overwrite.
    pub(crate) races: u64,
    pub(crate) random: Random,
}

impl Writer {
    pub(crate) fn run(mut self) {
        // One with a lane of its own for sure, the others as it comes.
        let handle = if self.index == 0 { self.cache.handle().ok() } else { None };
        loop {
            let others = if self.random.one_in(self.races) { 2 } else { self.random.below(8) / 7 };
            match others {
                0 => {
                    let nth = self.random.below(self.keys as u64) as usize;
                    self.own((nth * WRITERS + self.index) as u64, handle.as_ref());
                }
                1 => {
                    let key = OWN as u64 + self.random.below(SHARED as u64);
                    self.share(key);
                }
                _ => {
                    let key = (OWN + SHARED) as u64 + self.random.below(RACING as u64);
                    self.race(key);
                }
            }
        }
    }

    /// Begins the next write of a key.
    fn begin(cell: &Cell) -> u64 {
        let number = cell.issued.load(Ordering::Relaxed) + 1;
        cell.issued.store(number, Ordering::Release);
        cell.pending.store(number, Ordering::Release);
        number
    }

    /// Notes what came of it.
    fn end(&self, key: u64, cell: &Cell, number: u64, written: Result<Version, Error>) {
        match written {
            Ok(version) => {
                let before = cell.version.load(Ordering::Relaxed);
                if before >= version.get() {
                    self.board.violation(Violation::OldVersion, [key, before, version.get(), number]);
                }
                // First: the number says that the version is that of its write.
                cell.version.store(version.get(), Ordering::Release);
                cell.acked.store(number, Ordering::Release);
                self.board.count(Count::Acks, 1);
            }
            // No room: nothing has happened.
            Err(_) => {
                cell.pending.store(cell.acked.load(Ordering::Relaxed), Ordering::Release);
                self.board.count(Count::Refused, 1);
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    fn own(&mut self, key: u64, handle: Option<&Handle<u64, Vec<u8>>>) {
        let cell = &self.board.cells[cell(key, 0)];
        let acked = cell.acked.load(Ordering::Relaxed);
        let number = Self::begin(cell);
        let value = || encode(key, [number, 0, 0]);
        let written = if is_remove(key, number) {
            self.board.count(Count::Removes, 1);
            match handle {
                Some(handle) => handle.remove(&key),
                None => self.cache.remove(&key),
            }
        } else {
            match self.random.below(8) {
                0..3 => {
                    self.board.count(Count::Updates, 1);
                    let written = self.cache.update_if(key, |old| {
                        // Nobody else writes it, so it is what we have written last.
                        let old = old.map(|old| decode(key, old).map_or(u64::MAX, |fields| fields[0]));
                        if old != (!is_remove(key, acked)).then_some(acked) {
                            let found = old.unwrap_or(0);
                            self.board.violation(Violation::WrongOld, [key, acked, number, found]);
                        }
                        Some(value())
                    });
                    written
                        .map(|version| version.unwrap_or_else(|| unreachable!("the closure always writes")))
                }
                // It is in the journal when this returns; nobody waits for the backend.
                3 => self.cache.put_ticket(key, value(), Ack::Backend).map(|ticket| ticket.version()),
                _ => match handle {
                    Some(handle) => handle.put(key, value()),
                    None => self.cache.put(key, value()),
                },
            }
        };
        self.end(key, cell, number, written);
    }

    fn share(&self, key: u64) {
        let cell = &self.board.cells[cell(key, self.index)];
        let acked = cell.acked.load(Ordering::Relaxed);
        let number = Self::begin(cell);
        self.board.count(Count::Updates, 1);
        let written = self.cache.update(key, |old| {
            let mut fields = old.map_or([0; WRITERS], |old| decode(key, old).unwrap_or([u64::MAX; WRITERS]));
            if fields[self.index] != acked {
                let found = fields[self.index];
                self.board.violation(Violation::WrongOld, [key, acked, number, found]);
            }
            fields[self.index] = number;
            encode(key, fields)
        });
        self.end(key, cell, number, written);
    }

    fn race(&self, key: u64) {
        let cell = &self.board.cells[cell(key, self.index)];
        let number = Self::begin(cell);
        let written = self.cache.put(key, encode(key, [self.index as u64, number, 0]));
        self.end(key, cell, number, written);
    }
}

/// Reads until it is killed.
pub(crate) fn read(cache: &Entries, board: &Board, keys: usize, mut random: Random) {
    loop {
        // Mostly what is written right now.
        let key = match random.below(4) {
            0 => OWN as u64 + random.below((KEYS - OWN) as u64),
            _ => random.below((keys * WRITERS) as u64),
        };
        let before = Before::of(board, key);
        if let Ok(found) = cache.get(&key) {
            before.compare(board, key, found.as_ref());
        }
    }
}
