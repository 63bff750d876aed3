//! Stands before a database: counts what goes through, sees that no key goes back in time, and lets one call in ten fail.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use writeback::{Answers, Backend, BackendError, Batch, Op};

use super::{
    ledger::{Check, Ledger},
    model::{KEYS, Row},
    random::Random,
};

pub(crate) type Table = dyn Backend<u64, Row>;

/// One call in so many fails.
const ERRORS: u64 = 10;

/// Of a batch in which single operations fail, one in so many does.
const SOME: u64 = 4;

#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(crate) enum Passed {
    /// Calls, and those that have returned; operations, and what was answered to these.
    Batches,
    Answered,
    Ops,
    Stored,
    Refused,
    /// Operations that came for the second time or later.
    Again,
    /// Calls of `load`, keys, and those that got no answer.
    Loads,
    Keys,
    Unanswered,
    /// What was made to fail: batches refused before the database was asked, batches that it has stored and of which nobody is told,
    /// single operations of each kind, and loads.
    RefusedBatches,
    LostReplies,
    RefusedOps,
    LostOps,
    FailedLoads,
    /// What failed by itself: calls that met a database that was down, or hung, or locked.
    Troubles,
    TroubledLoads,
    /// Of these, transactions that the server has ended because of a deadlock.
    Deadlocks,
    Last,
}

/// What is known of a key.
#[derive(Default)]
struct Trace {
    /// The newest version that came by, and the newest that the database has.
    handed: AtomicU64,
    stored: AtomicU64,
    is_inside: AtomicBool,
}

pub(crate) struct Gate {
    table: Box<Table>,
    ledger: Arc<Ledger>,
    traces: Vec<Trace>,
    counts: [AtomicU64; Passed::Last as usize],
    random: Mutex<Random>,
    /// Whether calls fail on purpose.
    rains: AtomicBool,
    is_deadlock: fn(&BackendError) -> bool,
}

impl Gate {
    pub(crate) fn before(
        table: Box<Table>,
        is_deadlock: fn(&BackendError) -> bool,
        ledger: Arc<Ledger>,
        random: Random,
    ) -> Self {
        Gate {
            table,
            ledger,
            traces: (0..KEYS).map(|_| Trace::default()).collect(),
            counts: Default::default(),
            random: Mutex::new(random),
            rains: AtomicBool::new(false),
            is_deadlock,
        }
    }

    pub(crate) fn rain(&self, yes: bool) {
        self.rains.store(yes, Ordering::SeqCst);
    }

    pub(crate) fn get(&self, what: Passed) -> u64 {
        self.counts[what as usize].load(Ordering::SeqCst)
    }

    fn count(&self, what: Passed, more: u64) {
        self.counts[what as usize].fetch_add(more, Ordering::SeqCst);
    }

    /// The newest version of a key that the database has.
    pub(crate) fn stored(&self, key: u64) -> u64 {
        self.traces[key as usize].stored.load(Ordering::SeqCst)
    }

    fn roll<R>(&self, roll: impl FnOnce(&mut Random) -> R) -> R {
        roll(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self, ops: &[Op<u64, Row>]) {
        self.count(Passed::Batches, 1);
        self.count(Passed::Ops, ops.len() as u64);
        self.count(Passed::Again, ops.iter().filter(|op| op.attempt() > 1).count() as u64);
        let mut keys = HashSet::with_capacity(ops.len());
        for op in ops {
            let trace = &self.traces[*op.key() as usize];
            if trace.is_inside.swap(true, Ordering::SeqCst) {
                let twice =
                    if keys.contains(op.key()) { "twice in a batch" } else { "in two batches at once" };
                self.ledger.find(Check::Order, format!("key {} is {twice}", op.key()));
            }
            keys.insert(*op.key());
            let before = trace.handed.fetch_max(op.version(), Ordering::SeqCst);
            if before > op.version() {
                let (key, version) = (op.key(), op.version());
                self.ledger.find(Check::Order, format!("key {key}: version {version} after {before}"));
            }
        }
    }

    fn leave(&self, ops: &[Op<u64, Row>], answers: &Answers) {
        let answers = answers.as_slice();
        let stored = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        self.count(Passed::Stored, stored);
        self.count(Passed::Refused, ops.len() as u64 - stored);
        for (op, answer) in ops.iter().zip(answers) {
            let trace = &self.traces[*op.key() as usize];
            if answer.is_ok() {
                trace.stored.fetch_max(op.version(), Ordering::SeqCst);
            }
            trace.is_inside.store(false, Ordering::SeqCst);
        }
    }

    fn ask(&self, batch: &Batch<u64, Row>) -> Answers {
        if batch.is_empty() {
            return batch.all_stored();
        }
        let answers = self.table.apply(batch);
        let refused = answers.as_slice().iter().filter_map(|answer| answer.as_ref().err());
        let mut refused = refused.peekable();
        self.count(Passed::Troubles, u64::from(refused.peek().is_some()));
        self.count(Passed::Deadlocks, u64::from(refused.any(self.is_deadlock)));
        answers
    }

    fn carry(&self, batch: &Batch<u64, Row>) -> Answers {
        if !self.rains.load(Ordering::SeqCst) {
            return self.ask(batch);
        }
        match self.roll(|random| if random.one_in(ERRORS) { random.below(4) } else { u64::MAX }) {
            0 => {
                self.count(Passed::RefusedBatches, 1);
                batch.none_stored(BackendError::transient("not asked"))
            }
            1 => {
                // Whatever it answers.
                let _ = self.ask(batch);
                self.count(Passed::LostReplies, 1);
                batch.none_stored(BackendError::transient("asked, and the answer is lost"))
            }
            2 => {
                let refuse: Vec<bool> =
                    self.roll(|random| batch.ops().iter().map(|_| random.one_in(SOME)).collect());
                let kept = batch.ops().iter().zip(&refuse).filter(|(_, refuse)| !**refuse);
                let kept = Batch::new(kept.map(|(op, _)| op.clone()).collect());
                self.count(Passed::RefusedOps, (batch.len() - kept.len()) as u64);
                let mut answers = self.ask(&kept).as_slice().to_vec().into_iter();
                let refusal = || Err(BackendError::transient("this one not"));
                let answer = |refuse: bool| if refuse { None } else { answers.next() };
                Answers::new(
                    refuse.into_iter().map(answer).map(|answer| answer.unwrap_or_else(refusal)).collect(),
                )
            }
            3 => {
                let answers = self.ask(batch).as_slice().to_vec().into_iter().map(|answer| {
                    let lost = answer.is_ok() && self.roll(|random| random.one_in(SOME));
                    self.count(Passed::LostOps, u64::from(lost));
                    if lost { Err(BackendError::transient("this answer is lost")) } else { answer }
                });
                Answers::new(answers.collect())
            }
            _ => self.ask(batch),
        }
    }
}

impl Backend<u64, Row> for Gate {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Row>>, BackendError> {
        self.count(Passed::Loads, 1);
        self.count(Passed::Keys, keys.len() as u64);
        let answer = if self.rains.load(Ordering::SeqCst) && self.roll(|random| random.one_in(ERRORS)) {
            self.count(Passed::FailedLoads, 1);
            Err(BackendError::transient("not asked"))
        } else {
            self.table.load(keys).inspect_err(|_| self.count(Passed::TroubledLoads, 1))
        };
        if answer.is_err() {
            self.count(Passed::Unanswered, keys.len() as u64);
        }
        answer
    }

    fn apply(&self, batch: &Batch<u64, Row>) -> Answers {
        self.enter(batch.ops());
        let answers = self.carry(batch);
        self.leave(batch.ops(), &answers);
        self.count(Passed::Answered, 1);
        answers
    }

    fn identity(&self) -> String {
        self.table.identity()
    }

    fn journal_note(&self) -> Option<PathBuf> {
        self.table.journal_note()
    }
}
