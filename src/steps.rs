//! A cache without threads, for tests that stop it after every single instruction.
//!
//! It is opened by the code that opens every cache, and written by the same public calls; only their threads are not
//! started. What flusher and courier would do in a loop is done here, round by round, by whoever asks. Nothing syncs the
//! journal and nothing makes it larger, so it needs [`JournalSync::Never`](crate::JournalSync::Never) and enough room from
//! the beginning.

use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::Duration,
};

use crate::{
    Backend, BackendError, Builder, Cache, Journaled, OpenError, Rank, Weigh,
    flusher::{Courier, Desk, Ended, Flusher, Reply, Request, Round},
};

/// How many rounds one request may take. Each takes a handful, so this many mean that it never ends.
const ROUNDS: usize = 10_000;

/// A cache and its flusher, both on the caller's thread.
pub struct Steps<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    flusher: Flusher<K, V, S>,
    /// One: it is waited for.
    couriers: Vec<Arc<Courier<K, V>>>,
    desk: Arc<Desk>,
    cache: Cache<K, V, S>,
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The backend did not take everything.
    Refused(BackendError),
    /// The flusher does not come to an end with it, or has ended itself.
    Stuck,
}

impl<B, W, S, J, R> Builder<B, W, S, J, R> {
    /// As [`Builder::open`], without threads.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::open`].
    #[doc(hidden)]
    pub fn open_without_threads<K, V>(self) -> Result<Steps<K, V, S>, OpenError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        B: Backend<K, V> + 'static,
        W: Weigh<K, V>,
        S: BuildHasher + Send + Sync + 'static,
        J: Journaled<K, V>,
        R: Rank<K, V>,
    {
        let (parts, crew) = self.flush_workers(1).assemble()?;
        let (desk, couriers) = (Arc::clone(&parts.desk), crew.couriers.clone());
        let cache = parts.into_cache(None, Vec::new(), None);
        Ok(Steps { flusher: crew.flusher(), couriers, desk, cache })
    }
}

impl<K, V, S> Steps<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// The cache. Calls that wait for the flusher or for a sync never come back.
    pub fn cache(&self) -> &Cache<K, V, S> {
        &self.cache
    }

    /// Gives the backend all that is dirty.
    pub fn flush(&mut self) -> Outcome {
        self.carry_out(Request::Flush)
    }

    /// Retires the epochs so far. What the backend has refused is copied.
    pub fn checkpoint(&mut self) -> Outcome {
        self.carry_out(Request::Checkpoint)
    }

    /// So many rounds of the flusher.
    pub fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round();
        }
    }

    /// One round of the flusher, and the courier's ways if it sends something. `false`: it was the last.
    fn round(&mut self) -> bool {
        match self.flusher.round() {
            Round::Sent => {
                // All of them: how many go behind one sync depends on how long the last ones took.
                for courier in &self.couriers {
                    while courier.has_cargo() {
                        courier.carry_next();
                    }
                }
                true
            }
            Round::Idle(_) => true,
            Round::Last => false,
        }
    }

    fn carry_out(&mut self, request: impl FnOnce(Arc<Reply>) -> Request) -> Outcome {
        let reply = Reply::new();
        match self.desk.requests.post(request(Arc::clone(&reply))) {
            Ok(()) => {}
            Err(Ended::Drained) => return Outcome::Done,
            Err(Ended::Stopped) => return Outcome::Stuck,
        }
        for _ in 0..ROUNDS {
            if reply.is_answered() {
                return match reply.wait() {
                    Ok(()) => Outcome::Done,
                    Err((_, cause)) => Outcome::Refused(cause),
                };
            }
            if !self.round() {
                return Outcome::Stuck;
            }
        }
        Outcome::Stuck
    }
}

impl<K, V, S> Drop for Steps<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    fn drop(&mut self) {
        // Says that nobody expects the rest to be written, so that the drop of the cache does not wait for it.
        let _ = self.cache.close(Duration::ZERO);
    }
}
