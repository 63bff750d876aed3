//! The courier: carries one batch at a time to the backend, on a thread of its own.
//!
//! A call of the backend may take as long as it likes. Meanwhile the flusher goes on: it hears of what becomes dirty, answers
//! requests, tends checkpoints, and writes records anew when the journal runs out of space. The two share one letter box;
//! neither holds its lock while it works.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    backend::{Backend, BackendError, Batch},
    fault,
    journal::Journal,
    signal::Signal,
    sync::{Condvar, Mutex, lock},
};

/// A batch that has come back, with one answer for each of its operations.
pub(super) struct Delivered<K, V> {
    pub(super) batch: Batch<K, V>,
    pub(super) answers: Vec<Result<(), BackendError>>,
    pub(super) panicked: bool,
}

enum Letters<K, V> {
    Empty,
    Loaded(Batch<K, V>),
    /// The courier is on its way.
    Away,
    Back(Delivered<K, V>),
    /// No more batches come; who still wanted to know what became of the last one has ended.
    Closed,
}

pub(crate) struct Courier<K, V> {
    letters: Mutex<Letters<K, V>>,
    called: Condvar,
    backend: Arc<dyn Backend<K, V>>,
    /// Also keeps the journal locked until a call has come back whose flusher has ended: what that call writes late must not
    /// meet the writes of another cache with the same journal.
    journal: Option<Arc<Journal>>,
    flusher: Arc<Signal>,
}

impl<K, V> Courier<K, V> {
    pub(crate) fn new(
        backend: Arc<dyn Backend<K, V>>,
        journal: Option<Arc<Journal>>,
        flusher: Arc<Signal>,
    ) -> Arc<Self> {
        let (letters, called) = (Mutex::new(Letters::Empty), Condvar::new());
        Arc::new(Courier { letters, called, backend, journal, flusher })
    }

    /// Runs until the flusher has ended.
    pub(crate) fn run(&self) {
        while self.carry_next() {}
    }

    /// Waits for a batch and carries it. `false`: there will be none.
    pub(crate) fn carry_next(&self) -> bool {
        let mut letters = lock(&self.letters);
        let batch = loop {
            match std::mem::replace(&mut *letters, Letters::Away) {
                Letters::Loaded(batch) => break batch,
                Letters::Closed => {
                    *letters = Letters::Closed;
                    return false;
                }
                other => *letters = other,
            }
            letters = self.called.wait(letters).unwrap_or_else(std::sync::PoisonError::into_inner);
        };
        drop(letters);
        let delivered = self.deliver(batch);
        let mut letters = lock(&self.letters);
        let is_closed = matches!(*letters, Letters::Closed);
        if !is_closed {
            *letters = Letters::Back(delivered);
            drop(letters);
            self.flusher.wake();
        }
        !is_closed
    }

    /// Hands a batch to the backend. Whatever that does, there is one answer for each operation afterwards.
    fn deliver(&self, batch: Batch<K, V>) -> Delivered<K, V> {
        fault::point("flush: copied");
        if self.journal.as_ref().is_some_and(|journal| !journal.sync_before_batch()) {
            let error = BackendError::transient("the cache was closed before its journal was synced");
            let answers = vec![Err(error); batch.len()];
            return Delivered { batch, answers, panicked: false };
        }
        fault::point("flush: synced");
        let answers = catch_unwind(AssertUnwindSafe(|| self.backend.apply(&batch)));
        fault::point("flush: applied");
        let panicked = answers.is_err();
        let mut answers = match answers {
            Ok(answers) => answers.into_inner(),
            Err(_) => vec![Err(BackendError::transient("the backend panicked")); batch.len()],
        };
        let missing =
            || Err(BackendError::transient("the backend answered fewer operations than it was given"));
        answers.resize_with(batch.len(), missing);
        Delivered { batch, answers, panicked }
    }

    /// Sends the courier off. The flusher has taken back what it carried last.
    pub(super) fn send(&self, batch: Batch<K, V>) {
        let mut letters = lock(&self.letters);
        debug_assert!(matches!(*letters, Letters::Empty));
        *letters = Letters::Loaded(batch);
        self.called.notify_one();
    }

    /// What the courier has brought back.
    pub(super) fn take_back(&self) -> Option<Delivered<K, V>> {
        let mut letters = lock(&self.letters);
        match std::mem::replace(&mut *letters, Letters::Empty) {
            Letters::Back(delivered) => Some(delivered),
            other => {
                *letters = other;
                None
            }
        }
    }

    /// Whether the courier has brought something back.
    pub(super) fn is_back(&self) -> bool {
        matches!(*lock(&self.letters), Letters::Back(_))
    }

    /// There will be no more batches. Does not wait for a call that is on its way.
    pub(crate) fn close(&self) {
        let last = std::mem::replace(&mut *lock(&self.letters), Letters::Closed);
        self.called.notify_one();
        // Keys, values and errors are the user's, and so are their destructors.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(last)));
    }
}
