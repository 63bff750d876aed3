//! The courier: carries batches to the backend, on a thread of its own.
//!
//! A call of the backend may take as long as it likes. Meanwhile the flusher goes on: it hears of what becomes dirty, answers
//! requests, tends checkpoints, and writes records anew when the journal runs out of space. The two share one letter box;
//! neither holds its lock while it works.
//!
//! With a durable journal the backend gets nothing that is not on stable storage. One sync covers all batches of a cargo, so
//! where a sync takes long and the backend does not, the flusher makes up larger cargoes. And it makes up the next one while the
//! courier is away with the one before, so that the backend does not wait for it.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{
    backend::{Backend, BackendError, Batch},
    fault,
    journal::Journal,
    signal::Signal,
    sync::{Condvar, Instant, Mutex, lock},
};

/// A batch that has come back.
pub(super) struct Delivered<K, V> {
    pub(super) batch: Batch<K, V>,
    pub(super) fate: Fate,
}

/// What became of a batch.
pub(super) enum Fate {
    /// There is one answer for each of its operations.
    Answered {
        answers: Vec<Result<(), BackendError>>,
        /// They are one answer, for the batch as a whole.
        is_whole: bool,
        panicked: bool,
        /// How long the backend took, and the sync before it, if there was one.
        took: Duration,
        synced: Option<Duration>,
    },
    /// The backend has taken nothing of the batch before it, so nobody has asked it for this one.
    Returned,
}

struct Letters<K, V> {
    /// What the flusher has sent, less what the courier is away with; `true`: the first batch of a cargo.
    cargo: VecDeque<(Batch<K, V>, bool)>,
    back: VecDeque<Delivered<K, V>>,
    /// In `back` is one of which nothing was stored: until the flusher knows, nothing more is carried.
    has_failed: bool,
    /// No more batches come; who still wanted to know what became of the last one has ended.
    is_closed: bool,
}

impl<K, V> Letters<K, V> {
    /// Nobody asks the backend for what has not been carried yet.
    fn return_cargo(&mut self) {
        let Letters { cargo, back, .. } = self;
        back.extend(cargo.drain(..).map(|(batch, _)| Delivered { batch, fate: Fate::Returned }));
    }
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
        let (cargo, back) = (VecDeque::new(), VecDeque::new());
        let letters = Mutex::new(Letters { cargo, back, has_failed: false, is_closed: false });
        let called = Condvar::new();
        Arc::new(Courier { letters, called, backend, journal, flusher })
    }

    /// Runs until the flusher has ended.
    pub(crate) fn run(&self) {
        while self.carry_next() {}
    }

    /// Waits for a batch and carries it. `false`: there will be none.
    pub(crate) fn carry_next(&self) -> bool {
        let mut letters = lock(&self.letters);
        let (batch, is_first) = loop {
            if letters.is_closed {
                return false;
            }
            match letters.cargo.pop_front() {
                Some(next) => break next,
                None => {
                    letters = self.called.wait(letters).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            }
        };
        drop(letters);
        let fate = self.deliver(&batch, is_first);
        let goes_on = matches!(&fate, Fate::Answered { answers, .. } if answers.iter().any(Result::is_ok));
        let mut letters = lock(&self.letters);
        if letters.is_closed {
            return false;
        }
        letters.back.push_back(Delivered { batch, fate });
        if !goes_on {
            letters.has_failed = true;
            letters.return_cargo();
        }
        drop(letters);
        self.flusher.wake();
        true
    }

    /// Hands a batch to the backend. Whatever that does, there is one answer for each operation afterwards.
    fn deliver(&self, batch: &Batch<K, V>, is_first: bool) -> Fate {
        fault::point("flush: copied");
        let start = Instant::now();
        let journal = self.journal.as_ref().filter(|_| is_first);
        if journal.is_some_and(|journal| !journal.sync_before_batch()) {
            let error = BackendError::transient("the cache was closed before its journal was synced");
            let answers = vec![Err(error); batch.len()];
            return Fate::Answered {
                answers,
                is_whole: true,
                panicked: false,
                took: Duration::ZERO,
                synced: None,
            };
        }
        let synced = journal.map(|_| start.elapsed());
        fault::point("flush: synced");
        let start = Instant::now();
        let answers = catch_unwind(AssertUnwindSafe(|| self.backend.apply(batch)));
        let took = start.elapsed();
        fault::point("flush: applied");
        let panicked = answers.is_err();
        let (mut answers, is_whole) = match answers {
            Ok(answers) => answers.into_parts(),
            Err(_) => (vec![Err(BackendError::transient("the backend panicked")); batch.len()], true),
        };
        let missing =
            || Err(BackendError::transient("the backend answered fewer operations than it was given"));
        answers.resize_with(batch.len(), missing);
        Fate::Answered { answers, is_whole, panicked, took, synced }
    }

    /// Gives the courier batches that were copied before now, to be carried after what it has.
    pub(super) fn send(&self, cargo: Vec<Batch<K, V>>) {
        let mut letters = lock(&self.letters);
        letters.cargo.extend(cargo.into_iter().enumerate().map(|(index, batch)| (batch, index == 0)));
        if letters.has_failed {
            letters.return_cargo();
        }
        self.called.notify_one();
    }

    /// The next batch that has come back, in the order in which they were sent.
    pub(super) fn take_back(&self) -> Option<Delivered<K, V>> {
        let mut letters = lock(&self.letters);
        let next = letters.back.pop_front();
        letters.has_failed &= !letters.back.is_empty();
        next
    }

    /// Whether the courier has brought something back.
    pub(super) fn is_back(&self) -> bool {
        !lock(&self.letters).back.is_empty()
    }

    /// Whether there is something to carry: whoever carries it by hand must not wait for it.
    #[cfg(feature = "faults")]
    pub(crate) fn has_cargo(&self) -> bool {
        !lock(&self.letters).cargo.is_empty()
    }

    /// There will be no more batches. Does not wait for a call that is on its way.
    pub(crate) fn close(&self) {
        let mut letters = lock(&self.letters);
        letters.is_closed = true;
        let (cargo, back) = (std::mem::take(&mut letters.cargo), std::mem::take(&mut letters.back));
        drop(letters);
        self.called.notify_one();
        // Keys, values and errors are the user's, and so are their destructors.
        let _ = catch_unwind(AssertUnwindSafe(|| drop((cargo, back))));
    }
}
