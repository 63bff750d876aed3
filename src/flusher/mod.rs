//! The flusher: the one thread that carries dirty entries to the backend.
//!
//! It drains the rings and the dirty map into its book ([`Pending`]), and when one of four triggers fires (an entry has
//! been dirty for `max_delay`, enough are dirty, a writer needs room, somebody asks) it copies a batch and gives it to the
//! [`Courier`], who hands it to the backend while nobody holds anything. When that has come back, it clears DIRTY of
//! exactly the versions that were stored. Everything else (a newer version, an error, a panic) leaves the entry dirty
//! and in the book.
//!
//! It sleeps until the next deadline, or, when nothing is dirty, until somebody wakes it.

mod ages;
mod backoff;
mod bisect;
mod breaker;
mod checkpoint;
mod courier;
mod delivery;
mod letters;
mod pending;
mod places;
mod ranks;
mod report;
mod request;
mod trouble;

use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::Duration,
};

use crate::{
    backend::BackendError,
    clock::Clock,
    epochs::Checkpoint,
    events::{FlushTrigger as Trigger, Mailbox},
    fault,
    grace::Local,
    journal::Appender,
    letters::Letters,
    recycle::Slots,
    ring::Consumer,
    stats::FlushCounters,
    store::Store,
    sync::{Instant, Mutex, Ordering, lock, unforeseen},
    table::Position,
};

use backoff::Backoff;
use bisect::Bisection;
use breaker::Breaker;
use checkpoint::{CHECKPOINT_PAUSE, Cut, Dead};
pub(crate) use courier::Courier;
use delivery::Worker;
use pending::Pending;
pub(crate) use ranks::Ranker;
use ranks::Ranks;
use report::Reporter;
pub(crate) use request::{Answer, Ended, Reply, Request, Requests};

/// What one round of the flusher came to.
pub(crate) enum Round {
    /// It has sent a batch off.
    Sent,
    /// There was nothing to send at this time.
    Idle(Duration),
    /// There will be no more rounds.
    Last,
}

/// How the flusher is set up.
pub(crate) struct Settings {
    pub(crate) max_delay: Duration,
    pub(crate) flush_at: usize,
    pub(crate) batch_size: usize,
    pub(crate) first_retry: Duration,
    pub(crate) retry_cap: Duration,
    pub(crate) pin_to: Option<usize>,
    pub(crate) clock: Clock,
    /// The cache's, for the log.
    pub(crate) name: Arc<str>,
    pub(crate) stall_limit: Duration,
    /// Before the first write, by the clock.
    pub(crate) opened_at: Duration,
}

/// What the flusher shares with everyone else.
pub(crate) struct Desk {
    pub(crate) requests: Requests,
    pub(crate) counters: FlushCounters,
    /// The backend's last error, if its last answer was one.
    pub(crate) last_error: Mutex<Option<BackendError>>,
    /// What was refused for good.
    pub(crate) letters: Letters,
    /// What a listener is told, if there is one.
    pub(crate) events: Option<Arc<Mailbox>>,
}

impl Desk {
    pub(crate) fn new(letters: Letters, events: Option<Arc<Mailbox>>) -> Self {
        let (requests, counters) = (Requests::new(), FlushCounters::default());
        Desk { requests, counters, last_error: Mutex::new(None), letters, events }
    }
}

/// While something is dirty the rings are drained this often in one `max_delay`: the age of an entry is known to this
/// fraction.
const DRAINS_PER_DELAY: u32 = 8;

pub(crate) struct Flusher<K, V, S> {
    store: Arc<Store<K, V, S>>,
    workers: Vec<Worker<K, V>>,
    /// The order across keys, if there is one.
    ranks: Option<Ranks<K, V>>,
    /// How many batches are sent together.
    cargo_size: usize,
    desk: Arc<Desk>,
    settings: Settings,
    rings: Vec<Consumer>,
    slots: Slots,
    local: Local,
    pending: Pending,
    backoff: Backoff,
    breaker: Breaker,
    bisection: Bisection,
    reporter: Reporter,
    checkpoint: Checkpoint,
    /// With a journal: the second half of a checkpoint.
    cut: Option<Cut>,
    /// Segments of the journal on their way back into use.
    dead: Vec<Dead>,
    /// The flusher's end of the journal, for copies.
    appender: Appender,
    /// The checkpoint that is under way makes up for a failed sync; and when that was tried last.
    heals: bool,
    healed_at: Option<Instant>,
    /// Somebody needs room that only the end of a checkpoint gives.
    is_pressed: bool,
    /// Tombstones that are clean, and wait for their epoch to be retired.
    graves: VecDeque<(Position, u64)>,
    /// The newest version that was seen, so that a count that ran over is caught up with.
    newest: u64,
    /// When the rings were drained last: what is found in them became dirty later than that.
    drained_at: Duration,
    /// In real time: writers that wait for it go by no other.
    checkpointed_at: Instant,
    /// Something was cleaned since the last checkpoint, so that one would retire something.
    has_cleaned: bool,
    checkpoint_replies: Vec<Arc<Reply>>,
    drain_replies: Vec<Arc<Reply>>,
    /// `close` was called. `Some(true)`: and all writers that were still at it have finished.
    draining: Option<bool>,
    /// The last checkpoint has begun, after which nothing in the journal counts.
    sealing: bool,
    /// Flushing because of the threshold goes on until the backlog is half of it.
    below_threshold: bool,
    /// The most operations in the next batch: halved when a whole batch is refused, doubled when one is stored. So one
    /// operation that fails its whole batch is soon alone, and a backend that comes back is not run over.
    batch_limit: usize,
    /// How the flusher ends; known when `step` says that it does.
    ended: Ended,
}

impl<K, V, S> Flusher<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    pub(crate) fn new(
        store: Arc<Store<K, V, S>>,
        couriers: Vec<Arc<Courier<K, V>>>,
        ranker: Option<Ranker<K, V>>,
        desk: Arc<Desk>,
        settings: Settings,
        rings: Vec<Consumer>,
        slots: Slots,
    ) -> Self {
        let backoff = Backoff::new(settings.first_retry, settings.retry_cap, unforeseen());
        Flusher {
            local: store.lanes.collector().register(),
            pending: Pending::new(),
            backoff,
            breaker: Breaker::new(backoff),
            bisection: Bisection::default(),
            reporter: Reporter::new(Arc::clone(&settings.name), settings.max_delay, settings.stall_limit),
            checkpoint: Checkpoint::new(),
            cut: None,
            dead: Vec::new(),
            appender: Appender::new(true),
            heals: false,
            healed_at: None,
            is_pressed: false,
            graves: VecDeque::new(),
            newest: 0,
            drained_at: settings.opened_at,
            checkpointed_at: Instant::now(),
            has_cleaned: false,
            checkpoint_replies: Vec::new(),
            drain_replies: Vec::new(),
            draining: None,
            sealing: false,
            below_threshold: true,
            batch_limit: settings.batch_size,
            ended: Ended::Stopped,
            store,
            workers: couriers.into_iter().map(Worker::new).collect(),
            ranks: ranker.map(Ranks::new),
            cargo_size: 1,
            desk,
            settings,
            rings,
            slots,
        }
    }

    /// Runs until it is told to stop, or everything is drained after `close`.
    pub(crate) fn run(mut self) {
        if let Some(core) = self.settings.pin_to {
            // Pinning is a matter of speed; where the system refuses it, flushing goes on.
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
        }
        while self.step() {}
    }

    /// One round, and a sleep if there was nothing to write. `false`: it was the last.
    fn step(&mut self) -> bool {
        match self.round() {
            Round::Sent => true,
            Round::Idle(now) => {
                self.sleep(now);
                true
            }
            Round::Last => false,
        }
    }

    /// One round, without sleeping.
    pub(crate) fn round(&mut self) -> Round {
        self.collect();
        self.take_back();
        if !self.answer_requests() {
            return Round::Last;
        }
        self.pending.deliver();
        self.tend_checkpoint();
        let now = self.settings.clock.now();
        self.pending.retry_due(now);
        self.watch(now);
        if let Some(worker) = self.idle_worker()
            && let Some(trigger) = self.trigger(now)
            && self.send(worker, trigger, now)
        {
            return Round::Sent;
        }
        if self.draining == Some(true) && !self.has_news() {
            if self.pending.is_empty() && self.seal() {
                self.ended = Ended::Drained;
                return Round::Last;
            }
            if self.pending.is_all_parked() {
                // Waiting longer changes nothing.
                let cause = lock(&self.desk.last_error).clone();
                let cause = cause.unwrap_or_else(|| BackendError::permanent("refused earlier"));
                let parked = self.pending.parked();
                self.drain_replies.drain(..).for_each(|reply| reply.answer(Err((parked, cause.clone()))));
            }
        }
        Round::Idle(now)
    }

    /// Everything that became dirty goes into the book.
    fn collect(&mut self) {
        let now = self.settings.clock.now();
        let (pending, since) = (&mut self.pending, self.drained_at);
        for ring in &mut self.rings {
            while let Some(at) = ring.pop() {
                pending.heard(at, since);
            }
        }
        let mut marks = 0;
        self.store.dirty_map.sweep(|at| {
            pending.heard(at, since);
            marks += 1;
        });
        self.desk.counters.overflows.add(marks);
        self.drained_at = now;
    }

    /// Whether `collect` would find something.
    fn has_news(&self) -> bool {
        self.rings.iter().any(Consumer::has_more) || self.store.dirty_map.has_marks()
    }

    fn answer_requests(&mut self) -> bool {
        let requests = self.desk.requests.take();
        if requests.is_empty() {
            return true;
        }
        // What was acknowledged before a request was posted is in the rings now, but was perhaps not a moment ago.
        self.collect();
        for request in requests {
            match request {
                Request::Flush(reply) => {
                    self.breaker.probe_now();
                    self.pending.retry_all();
                    self.pending.barrier(reply);
                }
                Request::Write { at, version, reply } => {
                    self.breaker.probe_now();
                    self.pending.wait_for(at, version, reply);
                }
                Request::Discard { at, version, reply } => self.discard_parked(at, version, reply),
                Request::Checkpoint(reply) => {
                    self.checkpoint_replies.push(reply);
                    self.is_pressed = true;
                    self.store.wants_checkpoint.store(true, Ordering::Relaxed);
                }
                Request::Drain(reply) => {
                    self.drain_replies.push(reply);
                    self.breaker.probe_now();
                    self.pending.retry_all();
                    if self.draining.is_none() {
                        self.draining = Some(false);
                        // A checkpoint that began earlier says nothing about writers that did not see `closed`.
                        self.begin_checkpoint();
                    }
                }
                Request::Stop => return false,
            }
        }
        true
    }

    fn trigger(&mut self, now: Duration) -> Option<Trigger> {
        if self.pending.parked() > 0 {
            let (store, guard) = (&self.store, self.local.pin());
            self.pending.retry_changed(|at, version| store.dirty_version(at, &guard) != Some(version));
        }
        let queued = self.pending.queued();
        if self.breaker.holds(now).is_some() {
            // Whoever needs room gets it by a checkpoint, which copies what is held here.
            self.is_pressed |= self.store.pressure.swap(false, Ordering::Relaxed);
            return None;
        }
        if !self.bisection.is_empty() {
            return Some(Trigger::Explicit);
        }
        if self.breaker.is_open() && queued > 0 {
            // The probe is due, whoever would have asked for it.
            return Some(Trigger::Timer);
        }
        if queued == 0 {
            // Acquire: pairs with the Release in `press_to_flush`. Whoever pressed may have queued something since we collected, which
            // the next round is to send at once; else it presses again when it looks in vain.
            if self.store.pressure.swap(false, Ordering::Acquire) && self.has_news() {
                self.store.pressure.store(true, Ordering::Relaxed);
            }
            return None;
        }
        if self.pending.is_waited_for() || self.draining.is_some() {
            return Some(Trigger::Explicit);
        }
        if self.pending.has_urgent() {
            // Its delay is over.
            return Some(Trigger::Timer);
        }
        let pressed = self.store.pressure.swap(false, Ordering::Relaxed);
        self.is_pressed |= pressed;
        // With a journal, room comes with the end of a checkpoint, which what is queued may hold up.
        if pressed || (self.is_pressed && self.pending.owing() > 0) {
            return Some(Trigger::Pressure);
        }
        let floor = if self.below_threshold { self.settings.flush_at } else { self.settings.flush_at / 2 };
        self.below_threshold = queued < floor.max(1);
        if !self.below_threshold {
            return Some(Trigger::Threshold);
        }
        let due = |oldest: Duration| {
            now >= oldest.saturating_add(self.settings.max_delay) || fault::broken("interval-is-waited-for")
        };
        self.pending.oldest().is_some_and(due).then_some(Trigger::Timer)
    }

    /// Sleeps until something is due, or somebody calls.
    fn sleep(&mut self, now: Duration) {
        let clock = self.settings.clock.clone();
        let mut until: Option<Duration> = None;
        let mut not_later_than = |time: Duration| until = Some(until.map_or(time, |until| until.min(time)));
        if !self.pending.is_empty() {
            // While something is dirty, new entries do not wake us, so we look at the rings now and then.
            not_later_than(now.saturating_add(self.settings.max_delay / DRAINS_PER_DELAY));
        }
        // While the couriers are away nothing is sent, however late it is; they call when they are back. What waits for its
        // turn among the ranks waits for one of them, or for a retry.
        let (is_home, is_held) = (self.idle_worker().is_some(), self.is_held_by_ranks());
        // While the backend is down, only the next probe is.
        let held = self.breaker.holds(now);
        if is_home
            && !is_held
            && let Some(oldest) = self.pending.oldest()
        {
            let due = oldest.saturating_add(self.settings.max_delay);
            not_later_than(held.unwrap_or(if self.breaker.is_open() { now } else { due }));
        }
        if is_home && let Some(retry) = self.pending.next_retry() {
            not_later_than(held.map_or(retry, |held| held.max(retry)));
        }
        let mut timeout = until.map(|until| clock.real(until.saturating_sub(now)));
        let wants_checkpoint = self.wants_checkpoint();
        let wanted = wants_checkpoint.then_some(CHECKPOINT_PAUSE);
        for pause in
            [wanted, self.next_look(), self.until_healing(), self.until_watch()].into_iter().flatten()
        {
            timeout = Some(timeout.map_or(pause, |timeout| timeout.min(pause)));
        }
        let (store, requests, workers) = (&self.store, &self.desk.requests, &self.workers);
        let knows_dirty = !self.pending.is_empty();
        let quiet_until = store.signal.sleep(knows_dirty, timeout, || {
            // A manual clock that was turned since we looked at it has found us awake.
            until.is_some_and(|until| clock.now() >= until)
                || !requests.is_empty()
                || workers.iter().any(Worker::is_back)
                || (is_home && !is_held && store.pressure.load(Ordering::Relaxed))
                || (!wants_checkpoint && store.wants_checkpoint.load(Ordering::Relaxed))
                || (!knows_dirty && self.has_news())
        });
        if let (false, Some(quiet_until)) = (knows_dirty, quiet_until) {
            // The rings were empty when we fell asleep, and the first entry woke us.
            self.drained_at = quiet_until;
        }
        self.desk.counters.wakeups.add(1);
    }
}

impl<K, V, S> Drop for Flusher<K, V, S> {
    /// However the flusher ends, nobody is left waiting, and nothing is acknowledged any more.
    fn drop(&mut self) {
        self.workers.iter().for_each(Worker::close);
        self.store.closed.store(true, Ordering::Relaxed);
        let unanswered = self.desk.requests.close(self.ended);
        let answer = match self.ended {
            Ended::Drained => Ok(()),
            Ended::Stopped => {
                let error = BackendError::transient("the cache was closed before this was written");
                self.pending.abandon(&error);
                Err((1, error))
            }
        };
        let replies = unanswered.into_iter().filter_map(Request::into_reply);
        for reply in replies.chain(self.checkpoint_replies.drain(..)).chain(self.drain_replies.drain(..)) {
            reply.answer(answer.clone());
        }
        self.end_of_report();
        self.store.room.notify();
    }
}
