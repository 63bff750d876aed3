//! Waiting until the backend has something: everything, one key, what matches, a ticket's version.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::Duration,
};

use super::{Ticket, engine::Engine};
use crate::{
    Error, Version,
    context::Context,
    flusher::{Answer, Ended, Reply, Request},
    sync::Instant,
    table::Position,
};

/// So many places of the table are looked at under one pin.
const SCAN: usize = 64;

/// A version that somebody waits for, where it is, and the answer that is to come.
struct Awaited {
    at: Position,
    version: u64,
    reply: Arc<Reply>,
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// A flush is about what was acknowledged to whoever asks, and nobody may be kept waiting under a pin.
    fn check_may_flush(&self, cx: &Context) -> Result<(), Error> {
        self.check_open()?;
        if cx.is_pinned() { Err(Error::Reentrant) } else { Ok(()) }
    }

    /// Posts requests to the flusher. `false`: it has ended with everything in the backend.
    fn post(&self, requests: impl IntoIterator<Item = Request>) -> Result<bool, Error> {
        match self.desk.requests.post_all(requests) {
            Ok(()) => {
                self.store.signal.wake();
                Ok(true)
            }
            Err(Ended::Drained) => Ok(false),
            Err(Ended::Stopped) => Err(Error::Closed),
        }
    }

    /// Asks for a flush. The reply has its answer already if the flusher has ended with everything in the backend.
    fn begin_flush(&self, cx: &Context) -> Result<Arc<Reply>, Error> {
        self.check_may_flush(cx)?;
        let reply = Reply::new();
        if !self.post([Request::Flush(Arc::clone(&reply))])? {
            reply.answer(Ok(()));
        }
        Ok(reply)
    }

    pub(super) fn flush(&self, cx: &Context) -> Result<(), Error> {
        let reply = self.begin_flush(cx)?;
        self.settle_accounts(reply.wait())
    }

    /// What became a letter while nobody waited is told to whoever asks next: a barrier does not go over a refusal in silence.
    fn settle_accounts(&self, answer: Answer) -> Result<(), Error> {
        let untold = self.desk.letters.take_untold();
        let answer = answer.and_then(|()| untold.map_or(Ok(()), Err));
        answer.map_err(|(failed, cause)| Error::NotFlushed { failed, cause })
    }

    /// Posts a request to the flusher and waits for its answer.
    pub(super) fn ask(&self, request: impl FnOnce(Arc<Reply>) -> Request) -> Result<(), Error> {
        let reply = Reply::new();
        // If the flusher has ended well, everything is in the backend, also what this call is about.
        if !self.post([request(Arc::clone(&reply))])? {
            return Ok(());
        }
        reply.wait().map_err(|(failed, cause)| Error::NotFlushed { failed, cause })
    }

    pub(super) fn flush_within(&self, cx: &Context, time: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let Some(deadline) = start.checked_add(time) else { return self.flush(cx) };
        let reply = self.begin_flush(cx)?;
        match reply.wait_until(deadline) {
            Some(answer) => self.settle_accounts(answer),
            None => Err(Error::FlushTimedOut {
                // At least one: there is no answer yet.
                remaining: reply.left().unwrap_or_else(|| self.store.dirty()).max(1),
                waited: start.elapsed(),
                cause: self.last_error(),
            }),
        }
    }

    pub(super) fn flush_key<Q>(&self, cx: &Context, key: &Q) -> Result<(), Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.check_may_flush(cx)?;
        let hash = self.store.hash(key);
        let found = self.store.dirty_at(hash, key, &cx.pin());
        let Some((at, version)) = found else { return self.check_letters(hash, 0) };
        let answer = self.flush_versions(vec![Awaited { at, version, reply: Reply::new() }]);
        match answer {
            // Another key may have taken its place meanwhile, and the answer may be about that.
            Err(Error::NotFlushed { .. }) if !self.store.is_dirty(hash, key, &cx.pin()) => {
                self.check_letters(hash, version)
            }
            answer => answer,
        }
    }

    pub(super) fn flush_if(
        &self,
        cx: &Context,
        mut wanted: impl FnMut(&K, Option<&V>) -> bool,
    ) -> Result<usize, Error> {
        self.check_may_flush(cx)?;
        let (mut awaited, mut copies) = (Vec::new(), Vec::new());
        let positions = self.store.table.positions();
        for first in (0..positions).step_by(SCAN) {
            {
                let guard = cx.pin();
                let places = self.store.table.places(first..first + SCAN);
                copies.extend(places.filter_map(|at| Some((at, self.store.dirty_copy(at, &guard)?))));
            }
            // On copies and unpinned: it is the user's code, and may take its time.
            for (at, entry) in copies.drain(..) {
                if wanted(&entry.key, entry.value.as_ref()) {
                    awaited.push(Awaited { at, version: entry.version, reply: Reply::new() });
                }
            }
        }
        let count = awaited.len();
        self.flush_versions(awaited).map(|()| count)
    }

    pub(super) fn wait_flushed(&self, cx: &Context, ticket: &Ticket) -> Result<Version, Error> {
        if ticket.cache != self.id {
            return Err(Error::ForeignTicket);
        }
        self.check_may_flush(cx)?;
        let ((at, hash), version) = (ticket.place, ticket.version());
        // A dirty entry never leaves its place. If it holds no dirty entry of the key, the version is in the backend, or in a
        // letter.
        if !self.store.holds_dirty(at, hash, &cx.pin()) {
            return self.check_letters(hash, version.0).map(|()| version);
        }
        let answer = self.flush_versions(vec![Awaited { at, version: version.0, reply: Reply::new() }]);
        match answer {
            Err(Error::NotFlushed { .. }) if !self.store.holds_dirty(at, hash, &cx.pin()) => {
                self.check_letters(hash, version.0).map(|()| version)
            }
            answer => answer.map(|()| version),
        }
    }

    /// Waits until the backend has taken or refused all of these versions.
    fn flush_versions(&self, awaited: Vec<Awaited>) -> Result<(), Error> {
        let request = |Awaited { at, version, reply }: &Awaited| Request::Write {
            at: *at,
            version: *version,
            reply: Arc::clone(reply),
        };
        if awaited.is_empty() || !self.post(awaited.iter().map(request))? {
            return Ok(());
        }
        let refusals = awaited.into_iter().filter_map(|awaited| awaited.reply.wait().err());
        let sum = refusals.reduce(|(sum, cause), (failed, _)| (sum + failed, cause));
        sum.map_or(Ok(()), |(failed, cause)| Err(Error::NotFlushed { failed, cause }))
    }
}
