//! One open cache: the store, the flusher's desk, and what they have in common with the operations.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{Ack, Closed, Invalidated, OnFull, Recovery, flights::Flights};
use crate::{
    Error, HandleError, Stats,
    backend::{Backend, BackendError},
    context::{self, CacheId, Census, Context, Reentered},
    flusher::{Desk, Ended, Reply, Request},
    grace::Guard,
    journal::Journal,
    lane::Lease,
    store::{Budget, Invalidation, Seen, Store},
    sync::{
        Instant, Mutex, Ordering, lock,
        thread::{self, JoinHandle},
    },
};

pub(crate) struct Engine<K, V, S> {
    pub(super) id: CacheId,
    pub(super) store: Arc<Store<K, V, S>>,
    pub(super) backend: Arc<dyn Backend<K, V>>,
    pub(super) desk: Arc<Desk>,
    pub(super) census: Arc<Census>,
    pub(super) flights: Flights<V>,
    pub(super) policies: Policies,
    pub(super) recovery: Option<Recovery>,
    /// The note beside the database that its journal is needed.
    pub(super) note: Option<PathBuf>,
    pub(super) flusher: Thread,
    pub(super) couriers: Vec<Thread>,
    /// The journal's.
    pub(super) keeper: Thread,
    /// Whether the owner has heard a verdict.
    pub(super) was_closed: std::sync::atomic::AtomicBool,
}

/// How long a dropped cache that is not drained waits for the last call of the backend and the last sync.
const LAST_CALLS: Duration = Duration::from_millis(500);

/// A thread of the engine, until somebody waits for its end.
pub(super) struct Thread(Mutex<Option<JoinHandle<()>>>);

impl Thread {
    pub(super) fn new(handle: Option<JoinHandle<()>>) -> Self {
        Thread(Mutex::new(handle))
    }

    fn is_current(&self) -> bool {
        let is_current = |handle: &JoinHandle<()>| handle.thread().id() == thread::current().id();
        lock(&self.0).as_ref().is_some_and(is_current)
    }

    /// Waits for its end, at most until `deadline`.
    fn join_until(&self, deadline: Instant) {
        if self.is_current() {
            return;
        }
        let has_ended = || lock(&self.0).as_ref().is_none_or(JoinHandle::is_finished);
        while !has_ended() && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(200));
        }
        if has_ended() {
            self.join();
        }
    }

    /// Waits for its end, unless it is this one.
    fn join(&self) {
        if !self.is_current()
            && let Some(handle) = lock(&self.0).take()
        {
            // A thread of the engine that has panicked has told everybody who waited.
            let _ = handle.join();
        }
    }
}

/// What the builder decided for the operations.
pub(super) struct Policies {
    pub(super) ack: Ack,
    pub(super) write_timeout: Duration,
    pub(super) on_full: OnFull,
    pub(super) longest_throttle: Duration,
    pub(super) cache_absent: bool,
    pub(super) drain_on_drop: Duration,
    /// What the cache is called.
    pub(super) name: Arc<str>,
    /// The cores that this process may use.
    pub(super) cores: Vec<core_affinity::CoreId>,
}

impl From<Reentered> for Error {
    fn from(_: Reentered) -> Self {
        Error::Reentrant
    }
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    fn context(&self, lease: Option<Lease>) -> Context {
        Context::new(self.id, Arc::clone(&self.store.lanes), Arc::clone(&self.census), lease)
    }

    pub(super) fn current_context(&self) -> Rc<Context> {
        context::current(self.id, || self.context(None))
    }

    pub(super) fn lease(&self, core: Option<usize>) -> Result<Context, HandleError> {
        if self.store.is_closed() {
            return Err(HandleError::Closed);
        }
        let lanes = &self.store.lanes;
        let Some(core) = core else {
            let lease = lanes.lease().ok_or(HandleError::NoLane { lanes: lanes.leasable() })?;
            return Ok(self.context(Some(lease)));
        };
        let cores = &self.policies.cores;
        let id = *cores.get(core).ok_or(HandleError::NoSuchCore { core, cores: cores.len() })?;
        let lease = lanes.lease_core(core).ok_or(HandleError::Leased { core })?;
        if !core_affinity::set_for_current(id) {
            return Err(HandleError::NotPinned { core });
        }
        Ok(self.context(Some(lease)))
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.store.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    pub(super) fn get<Q>(&self, cx: &Context, key: &Q) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.store.hash(key);
        match self.hit(cx, hash, key, V::clone)? {
            Some(answer) => Ok(answer),
            None => self.load_one(cx, hash, key),
        }
    }

    pub(super) fn read<Q, R>(
        &self,
        cx: &Context,
        key: &Q,
        look: impl FnOnce(&V) -> R,
    ) -> Result<Option<R>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.store.hash(key);
        let mut look = Some(look);
        let looked = self.hit(cx, hash, key, |value| look.take().map(|look| look(value)))?;
        match looked {
            Some(answer) => Ok(answer.flatten()),
            None => {
                let value = self.load_one(cx, hash, key)?;
                Ok(value.zip(look).map(|(value, look)| look(&value)))
            }
        }
    }

    /// Answers a read from the table, if that is possible: the outer `Option` says whether it is.
    #[inline]
    pub(super) fn hit<Q, R>(
        &self,
        cx: &Context,
        hash: u64,
        key: &Q,
        look: impl FnOnce(&V) -> R,
    ) -> Result<Option<Option<R>>, Error>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.check_open()?;
        let guard = cx.pin();
        if let Some((at, value)) = self.store.glance(hash, key, &guard) {
            cx.counters.hits.add(1);
            self.store.table.touch(at);
            return Ok(Some(Some(look(value))));
        }
        self.hit_elsewhere(cx, hash, key, &guard, look)
    }

    /// The same, where a glance was not enough.
    #[cold]
    fn hit_elsewhere<Q, R>(
        &self,
        cx: &Context,
        hash: u64,
        key: &Q,
        guard: &Guard,
        look: impl FnOnce(&V) -> R,
    ) -> Result<Option<Option<R>>, Error>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        Ok(match self.store.look(hash, key, guard) {
            Seen::Value { at, value, .. } => {
                cx.counters.hits.add(1);
                self.store.table.touch(at);
                Some(Some(look(value)))
            }
            Seen::Tombstone { .. } => {
                cx.counters.hits.add(1);
                Some(None)
            }
            Seen::Loading(_) | Seen::Absent => None,
        })
    }

    pub(super) fn peek<Q>(&self, cx: &Context, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.check_open().ok()?;
        let (hash, guard) = (self.store.hash(key), cx.pin());
        match self.store.look(hash, key, &guard) {
            Seen::Value { value, .. } => Some(value.clone()),
            _ => None,
        }
    }

    pub(super) fn contains<Q>(&self, cx: &Context, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (hash, guard) = (self.store.hash(key), cx.pin());
        !self.store.is_closed() && matches!(self.store.look(hash, key, &guard), Seen::Value { .. })
    }

    pub(super) fn is_dirty<Q>(&self, cx: &Context, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.store.is_dirty(self.store.hash(key), key, &cx.pin())
    }

    pub(super) fn invalidate<Q>(&self, cx: &Context, key: &Q) -> Result<Invalidated, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.check_open()?;
        let hash = self.store.hash(key);
        let start = Instant::now();
        loop {
            match cx.with_writer(|writer| self.store.invalidate(writer, hash, key, &cx.pin()))? {
                Invalidation::Removed => {
                    self.store.room.notify();
                    return Ok(Invalidated::Removed);
                }
                Invalidation::Absent => return Ok(Invalidated::Absent),
                Invalidation::Dirty => return Ok(Invalidated::Dirty),
                Invalidation::NotYet if cx.is_pinned() => return Err(Error::Reentrant),
                Invalidation::NotYet => {}
            }
            let reply = Reply::new();
            let posted = self.desk.requests.post(Request::Checkpoint(Arc::clone(&reply)));
            posted.map_err(|_| Error::Closed)?;
            self.store.signal.wake();
            let answer = match start.checked_add(self.policies.write_timeout) {
                Some(deadline) => reply.wait_until(deadline),
                // So far away that it is never.
                None => Some(reply.wait()),
            };
            if answer.is_none() {
                return Err(self.backpressure(start));
            }
        }
    }

    pub(super) fn backpressure(&self, start: Instant) -> Error {
        Error::Backpressure { waited: start.elapsed(), cause: self.last_error() }
    }

    pub(super) fn journal_full(&self, start: Instant) -> Error {
        let bytes = self.journal().map_or(0, |journal| journal.bytes());
        Error::JournalFull { bytes, waited: start.elapsed(), cause: self.last_error() }
    }

    pub(super) fn last_error(&self) -> Option<BackendError> {
        lock(&self.desk.last_error).clone()
    }

    pub(super) fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    pub(super) fn sync(&self, cx: &Context) -> Result<(), Error> {
        self.check_open()?;
        let journal = self.journal().ok_or(Error::NoJournal { ack: Ack::Synced })?;
        if cx.is_pinned() {
            return Err(Error::Reentrant);
        }
        let deadline = Instant::now().checked_add(self.policies.write_timeout);
        let number = journal.request_sync();
        journal.commits.wait_until(number, deadline).map_err(|cause| Error::NotSynced { cause })
    }

    pub(super) fn len(&self) -> usize {
        self.store.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.store.capacity()
    }

    pub(super) fn stats(&self) -> Stats {
        let (mine, flusher, store) = (self.census.sum(), &self.desk.counters, &self.store);
        let (weight, max_weight) = store.weight();
        let (dirty_bytes, max_dirty_bytes) = store.budget.as_ref().map_or((0, None), Budget::bytes);
        let (puts, removes) = (mine.puts.get(), mine.removes.get());
        let (dirty, backend_writes) = (store.dirty(), flusher.writes.get());
        let oldest_dirty = flusher.oldest_dirty.time().filter(|_| dirty > 0);
        let events = self.desk.events.as_ref();
        let [flushes_timer, flushes_threshold, flushes_pressure, flushes_explicit] =
            flusher.by_trigger.each_ref().map(crate::stats::Counter::get);
        Stats {
            entries: store.len(),
            capacity: store.capacity(),
            weight,
            max_weight,
            dirty,
            oldest_dirty_age: oldest_dirty.map(|since| store.signal.now().saturating_sub(since)),
            max_dirty: store.budget.as_ref().and_then(Budget::max_entries).map(|limit| limit as usize),
            dirty_bytes,
            max_dirty_bytes,
            in_flight: flusher.in_flight.get() as usize,
            parked: flusher.parked.get() as usize,
            dead_letters: self.desk.letters.open(),
            dead_letter_bytes: self.desk.letters.bytes(),
            dead_letters_unkept: self.desk.letters.unkept(),
            hits: mine.hits.get(),
            misses: mine.misses.get(),
            loads: mine.loads.get(),
            load_errors: mine.load_errors.get(),
            puts,
            removes,
            // Relaxed: a count.
            evictions: store.evictions.load(Ordering::Relaxed),
            backend_writes,
            backend_errors: flusher.errors.get(),
            batches: flusher.batches.get(),
            batch_sizes: flusher.batch_sizes.snapshot(),
            backend_time: Duration::from_nanos(flusher.backend_time.get()),
            flushes_timer,
            flushes_threshold,
            flushes_pressure,
            flushes_explicit,
            // What is still dirty may need a write of its own.
            coalesced: (puts + removes).saturating_sub(backend_writes).saturating_sub(dirty as u64),
            retries: flusher.retries.get(),
            backend_down: flusher.breaker.get() > 0,
            backend_panics: flusher.panics.get(),
            ring_overflows: flusher.overflows.get(),
            writer_waits: mine.waits.get(),
            throttled_writes: mine.throttled.get(),
            throttled_time: Duration::from_nanos(mine.throttled_nanos.get()),
            wakeups: flusher.wakeups.get(),
            events_dropped: events.map_or(0, |events| events.dropped()),
            listener_panics: events.map_or(0, |events| events.panics()),
            journal: self.journal().map(|journal| journal.stats()),
        }
    }
}

impl<K, V, S> Engine<K, V, S> {
    pub(super) fn name(&self) -> &str {
        &self.policies.name
    }

    pub(super) fn journal(&self) -> Option<&Arc<Journal>> {
        self.store.journal.as_ref().map(|journaling| &journaling.journal)
    }

    pub(super) fn close(&self, timeout: Duration) -> Closed {
        // Relaxed: a note to ourselves.
        self.was_closed.store(true, Ordering::Relaxed);
        // Relaxed: the fence that writers' windows pair with is in the checkpoint that the request begins.
        self.store.closed.store(true, Ordering::Relaxed);
        self.store.room.notify();
        let reply = Reply::new();
        let answer = match self.desk.requests.post(Request::Drain(Arc::clone(&reply))) {
            Ok(()) => {
                self.store.signal.wake();
                match Instant::now().checked_add(timeout) {
                    Some(deadline) => reply.wait_until(deadline),
                    // So far away that it is never.
                    None => Some(reply.wait()),
                }
            }
            Err(Ended::Drained) => Some(Ok(())),
            Err(Ended::Stopped) => None,
        };
        match answer {
            Some(Ok(())) => {
                // Without its journal the cache would not know of the dead letters, and show older rows in their place.
                if let Some(note) = self.note.as_ref().filter(|_| self.desk.letters.open() == 0) {
                    // Nothing is left in the journal. A note that stays is found out to be old by the next cache.
                    let _ = std::fs::remove_file(note);
                }
                Closed::Drained
            }
            // At least one: a writer may not have counted its entry yet.
            _ => Closed::Remaining {
                dirty: self.store.dirty().max(1),
                cause: lock(&self.desk.last_error).clone(),
                journal: self.journal().map(|journal| journal.path().to_owned()),
            },
        }
    }
}

impl<K, V, S> Drop for Engine<K, V, S> {
    fn drop(&mut self) {
        self.store.lanes.abandon();
        let was_closed = *self.was_closed.get_mut();
        if self.flusher.is_current() {
            // A value that the flusher has dropped held the last reference: it cannot wait for itself. It writes what is
            // left and then ends.
            self.store.closed.store(true, Ordering::Relaxed);
            let _ = self.desk.requests.post(Request::Drain(Reply::new()));
            return;
        }
        let closed = self.close(if was_closed { Duration::ZERO } else { self.policies.drain_on_drop });
        let _ = self.desk.requests.post(Request::Stop);
        self.store.signal.wake();
        let journal = self.journal().cloned();
        let is_drained = closed.is_drained();
        // It ends at once: it is a courier who may be away with a call of the backend that hangs, and the keeper with a
        // sync that does. They must not hang us, but as long as one of them is there, the journal is locked for the next cache.
        self.flusher.join();
        if let Some(journal) = &journal {
            // After the flusher: nobody asks for anything any more.
            journal.commits.stop();
        }
        if is_drained {
            self.couriers.iter().for_each(Thread::join);
            self.keeper.join();
        } else {
            let deadline = Instant::now() + LAST_CALLS;
            self.couriers.iter().for_each(|courier| courier.join_until(deadline));
            self.keeper.join_until(deadline);
        }
        // The owner who closed it knows.
        if let Closed::Remaining { dirty, cause, journal } = closed
            && !was_closed
        {
            let cause =
                cause.map_or_else(|| "it did not answer in time".to_owned(), |cause| cause.to_string());
            match journal {
                None => eprintln!(
                    "writeback: a cache was dropped with {dirty} writes that the backend has not taken: {cause}. \
                     They are lost. Call `close` and look at its verdict to prevent this."
                ),
                Some(journal) => eprintln!(
                    "writeback: a cache was dropped with {dirty} writes that the backend has not taken: {cause}. \
                     They are in the journal {}, and the next cache that is opened with it goes on with them.",
                    journal.display()
                ),
            }
        }
    }
}
