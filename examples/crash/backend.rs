//! The databases behind the cache, and the watchman before them.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use writeback::{Answers, Backend, BackendError, Batch, backend::Sqlite};

use super::{
    board::{Board, Count, Violation},
    model::{MAX_VALUE, Random},
};

pub(crate) type Rows = dyn Backend<u64, Vec<u8>>;

/// A table on the board: the fastest database that survives a kill.
struct Table {
    board: Arc<Board>,
    /// A row is read in several loads.
    turn: Mutex<()>,
}

impl Table {
    fn read(&self, key: u64) -> Option<Vec<u8>> {
        let row = &self.board.rows[key as usize];
        let copy = &row.copies[(row.which.load(Ordering::Acquire) & 1) as usize];
        let length = copy.length.load(Ordering::Relaxed).checked_sub(1)? as usize;
        let bytes = copy.words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        Some(bytes.take(length).collect())
    }

    fn write(&self, key: u64, value: Option<&Vec<u8>>) {
        let row = &self.board.rows[key as usize];
        let other = row.which.load(Ordering::Relaxed) + 1;
        let copy = &row.copies[(other & 1) as usize];
        copy.length.store(value.map_or(0, |value| value.len() as u64 + 1), Ordering::Relaxed);
        let mut padded = value.cloned().unwrap_or_default();
        padded.resize(MAX_VALUE, 0);
        for (to, bytes) in copy.words.iter().zip(padded.as_chunks::<8>().0) {
            to.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        // Release: the copy is whole before it counts.
        row.which.store(other, Ordering::Release);
    }
}

impl Backend<u64, Vec<u8>> for Table {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().map(|key| self.read(*key)).collect())
    }

    fn apply(&self, batch: &Batch<u64, Vec<u8>>) -> Answers {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        batch.answer_each(|op| {
            self.write(*op.key(), op.change().value());
            Ok(())
        })
    }
}

/// What the backend does wrong in this life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// Refuses some operations, some batches, and loses some answers.
    Flaky,
    /// Refuses everything from the time when the cache is open.
    Down,
    Well,
}

/// Stands before a database: sees that no key goes back in time, and lets things go wrong.
pub(crate) struct Watchman {
    rows: Box<Rows>,
    board: Arc<Board>,
    health: Health,
    /// Nothing goes wrong before the cache is open.
    armed: AtomicBool,
    random: Mutex<Random>,
}

impl Watchman {
    pub(crate) fn of_table(board: &Arc<Board>, health: Health, seed: u64) -> Self {
        Self::new(Box::new(Table { board: Arc::clone(board), turn: Mutex::new(()) }), board, health, seed)
    }

    pub(crate) fn of_sqlite(
        folder: &Path,
        board: &Arc<Board>,
        health: Health,
        seed: u64,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let database = Sqlite::options().full_sync(false).open(folder.join("rows.db"))?;
        Ok(Self::new(Box::new(database.table::<u64, Vec<u8>>("entries")?), board, health, seed))
    }

    fn new(rows: Box<Rows>, board: &Arc<Board>, health: Health, seed: u64) -> Self {
        let (board, random) = (Arc::clone(board), Mutex::new(Random::new(seed)));
        Watchman { rows, board, health, armed: AtomicBool::new(false), random }
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    fn refuse(&self, batch: &Batch<u64, Vec<u8>>) -> Answers {
        self.board.count(Count::BackendErrors, batch.len() as u64);
        batch.none_stored(BackendError::transient("down"))
    }
}

impl Backend<u64, Vec<u8>> for Watchman {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
        self.rows.load(keys)
    }

    fn apply(&self, batch: &Batch<u64, Vec<u8>>) -> Answers {
        for op in batch.ops() {
            let before = self.board.handed[*op.key() as usize].fetch_max(op.version(), Ordering::SeqCst);
            if before > op.version() {
                self.board.violation(Violation::Regression, [*op.key(), before, op.version(), 0]);
            }
        }
        self.board.count(Count::BackendOps, batch.len() as u64);
        let armed = self.armed.load(Ordering::Relaxed);
        if !armed || self.health == Health::Well {
            return self.rows.apply(batch);
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if random.one_in(4) {
            std::thread::sleep(Duration::from_micros(random.below(400)));
        }
        if self.health == Health::Down || random.one_in(10) {
            return self.refuse(batch);
        }
        if random.one_in(40) {
            // Stored, but nobody is told.
            self.board.count(Count::LostAnswers, 1);
            let _ = self.rows.apply(batch);
            return self.refuse(batch);
        }
        let fate: Vec<u64> = batch.ops().iter().map(|_| random.below(120)).collect();
        drop(random);
        let refused = fate.iter().filter(|fate| **fate < 6).count();
        if refused == 0 {
            return self.rows.apply(batch);
        }
        self.board.count(Count::BackendErrors, refused as u64);
        let kept = batch.ops().iter().zip(&fate).filter(|(_, fate)| **fate >= 6).map(|(op, _)| op.clone());
        let kept = Batch::new(kept.collect());
        let mut stored = self.rows.apply(&kept).as_slice().to_vec().into_iter();
        let answers = fate.iter().map(|fate| match fate {
            0 => Err(BackendError::permanent("refused for good")),
            1..6 => Err(BackendError::transient("refused")),
            _ => stored.next().unwrap_or_else(|| Err(BackendError::transient("no answer"))),
        });
        Answers::new(answers.collect())
    }

    fn identity(&self) -> String {
        self.rows.identity()
    }

    fn journal_note(&self) -> Option<std::path::PathBuf> {
        self.rows.journal_note()
    }
}
