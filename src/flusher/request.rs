//! What others ask of the flusher, and how they get their answer.

use std::{sync::Arc, time::Duration};

use crate::{
    BackendError,
    sync::{AtomicUsize, Condvar, Instant, Mutex, Ordering, lock},
    table::Position,
};

/// `Err`: how many of the entries that were waited for could not be written, and one of the reasons.
pub(crate) type Answer = Result<(), (usize, BackendError)>;

/// More entries than there can be.
const UNKNOWN: usize = usize::MAX;

/// One question's answer, waited for by one thread.
pub(crate) struct Reply {
    answer: Mutex<Option<Answer>>,
    /// How many entries a flush still waits for, or has seen refused; unknown until the flusher has begun.
    left: AtomicUsize,
    answered: Condvar,
}

impl Reply {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Reply {
            answer: Mutex::new(None),
            left: AtomicUsize::new(UNKNOWN),
            answered: Condvar::new(),
        })
    }

    /// Notes how many entries are not in the backend yet.
    pub(crate) fn note_left(&self, left: usize) {
        // Relaxed: a gauge.
        self.left.store(left, Ordering::Relaxed);
    }

    /// How many entries are not in the backend yet, if that is known.
    pub(crate) fn left(&self) -> Option<usize> {
        // Relaxed: a gauge.
        Some(self.left.load(Ordering::Relaxed)).filter(|left| *left != UNKNOWN)
    }

    /// Gives the answer; the first one counts.
    pub(crate) fn answer(&self, answer: Answer) {
        lock(&self.answer).get_or_insert(answer);
        self.answered.notify_all();
    }

    /// Whether the answer is there.
    pub(crate) fn is_answered(&self) -> bool {
        lock(&self.answer).is_some()
    }

    /// Waits for the answer.
    pub(crate) fn wait(&self) -> Answer {
        let mut answer = lock(&self.answer);
        loop {
            match answer.take() {
                Some(answer) => return answer,
                None => {
                    answer = self.answered.wait(answer).unwrap_or_else(std::sync::PoisonError::into_inner)
                }
            }
        }
    }

    /// Waits for the answer, at most until `deadline`.
    pub(crate) fn wait_until(&self, deadline: Instant) -> Option<Answer> {
        let mut answer = lock(&self.answer);
        loop {
            if let Some(answer) = answer.take() {
                return Some(answer);
            }
            let left =
                deadline.checked_duration_since(Instant::now()).filter(|left| *left > Duration::ZERO)?;
            answer = match self.answered.wait_timeout(answer, left) {
                Ok((answer, _)) => answer,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

pub(crate) enum Request {
    /// Write everything that is dirty now.
    Flush(Arc<Reply>),
    /// Write this version of this place.
    Write { at: Position, version: u64, reply: Arc<Reply> },
    /// Forget this version of this place, if it is parked.
    Discard { at: Position, version: u64, reply: Arc<Reply> },
    /// Retire the epochs so far.
    Checkpoint(Arc<Reply>),
    /// The cache takes no more writes: write everything, and say when that is done.
    Drain(Arc<Reply>),
    /// End, whatever is left.
    Stop,
}

impl Request {
    /// Where the answer is waited for.
    pub(crate) fn into_reply(self) -> Option<Arc<Reply>> {
        match self {
            Request::Flush(reply) | Request::Checkpoint(reply) | Request::Drain(reply) => Some(reply),
            Request::Write { reply, .. } | Request::Discard { reply, .. } => Some(reply),
            Request::Stop => None,
        }
    }
}

/// How the flusher has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything that was acknowledged is in the backend.
    Drained,
    /// It was told to stop, whatever was left.
    Stopped,
}

/// The flusher's letter box.
pub(crate) struct Requests {
    letters: Mutex<Result<Vec<Request>, Ended>>,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Requests { letters: Mutex::new(Ok(Vec::new())) }
    }

    /// Posts a request. `Err`: the flusher has ended. The caller wakes it.
    pub(crate) fn post(&self, request: Request) -> Result<(), Ended> {
        match &mut *lock(&self.letters) {
            Ok(letters) => {
                letters.push(request);
                Ok(())
            }
            Err(ended) => Err(*ended),
        }
    }

    /// Posts several requests, all or none, likewise.
    pub(crate) fn post_all(&self, requests: impl IntoIterator<Item = Request>) -> Result<(), Ended> {
        match &mut *lock(&self.letters) {
            Ok(letters) => {
                letters.extend(requests);
                Ok(())
            }
            Err(ended) => Err(*ended),
        }
    }

    pub(crate) fn take(&self) -> Vec<Request> {
        lock(&self.letters).as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.letters).as_ref().is_ok_and(Vec::is_empty)
    }

    /// Takes no more requests; returns those that were not answered. The first call counts.
    pub(crate) fn close(&self, ended: Ended) -> Vec<Request> {
        let mut letters = lock(&self.letters);
        let left = letters.as_mut().map(std::mem::take).unwrap_or_default();
        if letters.is_ok() {
            *letters = Err(ended);
        }
        left
    }
}
