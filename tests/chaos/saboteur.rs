//! The controls: a layer that breaks one promise on purpose.
//!
//! It stands behind the gate where it plays a database that lies, and before it where it plays an engine that errs.

use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{Answers, Backend, BackendError, Batch};

use super::{gate::Table, model::Row, plan::Sabotage};

/// What a leak leaves behind with each batch.
const LEAK: usize = 512 << 10;

/// How many batches pass before things go wrong that end a run early.
const GRACE: u64 = 20;

pub(crate) struct Saboteur {
    table: Box<Table>,
    sabotage: Option<Sabotage>,
    batches: AtomicU64,
    loads: AtomicU64,
    old: Mutex<Option<Batch<u64, Row>>>,
    kept: Mutex<Vec<Vec<u8>>>,
    hangs: Arc<Hang>,
}

/// Where a call hangs, so that a control can come to an end after all.
#[derive(Default)]
pub(crate) struct Hang {
    is_over: Mutex<bool>,
    changed: Condvar,
}

impl Hang {
    fn wait(&self) {
        drop(self.changed.wait_while(lock(&self.is_over), |is_over| !*is_over));
    }

    pub(crate) fn end(&self) {
        *lock(&self.is_over) = true;
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Saboteur {
    fn around(table: Box<Table>, sabotage: Option<Sabotage>, hangs: &Arc<Hang>) -> Box<Table> {
        match sabotage {
            None => table,
            Some(_) => Box::new(Saboteur {
                table,
                sabotage,
                batches: AtomicU64::new(0),
                loads: AtomicU64::new(0),
                old: Mutex::default(),
                kept: Mutex::default(),
                hangs: Arc::clone(hangs),
            }),
        }
    }

    /// A database that lies.
    pub(crate) fn behind(table: Box<Table>, sabotage: Option<Sabotage>, hangs: &Arc<Hang>) -> Box<Table> {
        use Sabotage::{DropBatch, ForgetRow, Hang, Leak, RefuseForGood, StayDown};
        let lies = |sabotage: &Sabotage| {
            matches!(sabotage, DropBatch | ForgetRow | Hang | Leak | RefuseForGood | StayDown)
        };
        Saboteur::around(table, sabotage.filter(lies), hangs)
    }

    /// An engine that errs.
    pub(crate) fn before(table: Box<Table>, sabotage: Option<Sabotage>, hangs: &Arc<Hang>) -> Box<Table> {
        use Sabotage::{EarlyAnswer, Miscount, OldBatch};
        let errs = |sabotage: &Sabotage| matches!(sabotage, EarlyAnswer | Miscount | OldBatch);
        Saboteur::around(table, sabotage.filter(errs), hangs)
    }

    /// Hands out a batch of earlier, whose keys have newer versions by now.
    fn repeat_old(&self, batch: &Batch<u64, Row>) {
        let old = lock(&self.old).get_or_insert_with(|| batch.clone()).clone();
        let newer = |version, key| batch.ops().iter().any(|op| *op.key() == key && op.version() > version);
        if old.ops().iter().any(|op| newer(op.version(), *op.key())) {
            drop(self.table.apply(&old));
        }
    }
}

impl Backend<u64, Row> for Saboteur {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Row>>, BackendError> {
        let mut rows = self.table.load(keys)?;
        let nth = self.loads.fetch_add(1, Ordering::Relaxed);
        if self.sabotage == Some(Sabotage::ForgetRow) && nth.is_multiple_of(10) {
            rows.fill(None);
        }
        Ok(rows)
    }

    fn apply(&self, batch: &Batch<u64, Row>) -> Answers {
        let nth = self.batches.fetch_add(1, Ordering::Relaxed);
        match self.sabotage {
            Some(Sabotage::DropBatch | Sabotage::EarlyAnswer) if nth.is_multiple_of(10) => {
                return batch.all_stored();
            }
            Some(Sabotage::StayDown) if nth >= GRACE => {
                std::thread::sleep(Duration::from_millis(1));
                return batch.none_stored(BackendError::transient("down for good"));
            }
            Some(Sabotage::RefuseForGood) if nth == GRACE => {
                return batch.answer_each(|_| Err(BackendError::permanent("refused for good")));
            }
            Some(Sabotage::Leak) => lock(&self.kept).push(vec![1; LEAK]),
            Some(Sabotage::Hang) if nth == GRACE => self.hangs.wait(),
            _ => {}
        }
        let answers = self.table.apply(batch);
        match self.sabotage {
            Some(Sabotage::Miscount) if nth.is_multiple_of(10) => drop(self.table.apply(batch)),
            Some(Sabotage::OldBatch) => self.repeat_old(batch),
            _ => {}
        }
        answers
    }

    fn identity(&self) -> String {
        self.table.identity()
    }

    fn journal_note(&self) -> Option<PathBuf> {
        self.table.journal_note()
    }
}
