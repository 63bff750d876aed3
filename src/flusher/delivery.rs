//! The flusher's batches: how one is put together, sent, taken back, and what its answers mean.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::{
    DRAINS_PER_DELAY, Flusher, Trigger,
    courier::{Courier, Delivered, Fate},
    letters,
    pending::Taken,
    report::Outcome,
};
use crate::{
    backend::{BackendError, Batch, Change, ErrorClass, Op},
    fault,
    store::Cleaned,
    sync::{Instant, Ordering, lock},
};

/// The most batches that are sent together.
const LARGEST_CARGO: usize = 32;

/// How many batches to send together, so that the sync before them takes at most a fifth of what they do.
fn cargo_size(sync: Duration, batch: Duration) -> usize {
    let batches = 4 * sync.as_nanos() / batch.as_nanos().max(1);
    (batches.min(LARGEST_CARGO as u128) as usize).max(1)
}

/// A batch that is on its way.
pub(super) struct Away {
    taken: Vec<Taken>,
    trigger: Trigger,
    /// When its entries were copied, by the clock.
    copied_at: Duration,
    /// In real time, since when it is the next that the backend is asked for.
    since: Instant,
}

/// A courier, and what it is away with.
pub(super) struct Worker<K, V> {
    courier: Arc<Courier<K, V>>,
    /// In the order in which it brings it back.
    away: VecDeque<Away>,
}

impl<K, V> Worker<K, V> {
    pub(super) fn new(courier: Arc<Courier<K, V>>) -> Self {
        Worker { courier, away: VecDeque::new() }
    }

    fn is_home(&self) -> bool {
        self.away.is_empty()
    }

    /// Whether it is at its last batch, if it is at one.
    fn is_almost_home(&self) -> bool {
        self.away.len() <= 1
    }

    /// Whether it has brought something back that was not taken yet.
    pub(super) fn is_back(&self) -> bool {
        self.courier.is_back()
    }

    /// Whether the backend has been at one batch for longer than `limit`.
    pub(super) fn is_stuck(&self, limit: Duration) -> bool {
        self.away.front().is_some_and(|away| away.since.elapsed() > limit)
    }

    /// There will be no more batches.
    pub(super) fn close(&self) {
        self.courier.close();
    }

    /// What it has brought, and what that is in the book.
    fn take_back(&mut self) -> Option<(Delivered<K, V>, Away)> {
        let delivered = self.courier.take_back()?;
        let away = self.away.pop_front()?;
        if let Some(next) = self.away.front_mut() {
            next.since = Instant::now();
        }
        Some((delivered, away))
    }
}

impl<K, V, S> Flusher<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// A worker that may be sent off now.
    pub(super) fn idle_worker(&self) -> Option<usize> {
        // One probe at a time; parts of a refused batch one after the other; and the ranks look at the answers of all.
        let one_at_a_time = self.breaker.is_open()
            || !self.bisection.is_empty()
            || self.ranks.as_ref().is_some_and(|ranks| !ranks.has_ready());
        if one_at_a_time {
            return self.workers.iter().all(Worker::is_home).then_some(0);
        }
        // A full batch that will be sent anyway is copied while the backend is at the one before. Not less: what comes
        // later, or is wanted at once, is to find a place in it.
        let has_more = self.batch_limit == self.settings.batch_size
            && match &self.ranks {
                Some(ranks) => ranks.ready_len() >= self.batch_limit,
                None => self.pending.queued() >= self.batch_limit,
            };
        let home = self.workers.iter().position(Worker::is_home);
        home.or_else(|| self.workers.iter().position(|worker| has_more && worker.is_almost_home()))
    }

    /// Sends a worker off with a cargo. `false`: nothing of what was queued is dirty any more, or may be written now.
    pub(super) fn send(&mut self, worker: usize, trigger: Trigger, now: Duration) -> bool {
        self.plan();
        let (mut cargo, mut operations) = (Vec::new(), 0);
        let most = if self.breaker.is_open() { 1 } else { self.cargo_size };
        while cargo.len() < most {
            let (mut taken, batch) = match self.bisection.next() {
                Some(part) => self.copy(part.into_iter(), now),
                None if self.ranks.is_some() => self.fill_by_rank(now),
                None if self.breaker.is_open() => {
                    let probe = self.pending.take_probe();
                    self.copy(probe.into_iter(), now)
                }
                None => self.fill(trigger, now),
            };
            if batch.is_empty() {
                break;
            }
            operations += batch.len() as u64;
            if fault::broken("clean-after-answer") {
                self.settle(&taken, &batch, vec![Ok(()); batch.len()], now);
                taken.clear();
            }
            self.workers[worker].away.push_back(Away {
                taken,
                trigger,
                copied_at: now,
                since: Instant::now(),
            });
            cargo.push(batch);
        }
        if cargo.is_empty() {
            return false;
        }
        let in_flight = &self.desk.counters.in_flight;
        in_flight.set(in_flight.get() + operations);
        self.workers[worker].courier.send(cargo);
        true
    }

    /// Takes back what the couriers have brought.
    pub(super) fn take_back(&mut self) {
        (0..self.workers.len()).for_each(|worker| self.take_back_from(worker));
    }

    fn take_back_from(&mut self, worker: usize) {
        let mut returned = Vec::new();
        while let Some((Delivered { batch, fate }, away)) = self.workers[worker].take_back() {
            let operations = batch.len() as u64;
            let mut outcome = None;
            match fate {
                Fate::Answered { answers, is_whole, panicked, took, synced } => {
                    self.count_answered(&batch, away.trigger);
                    self.desk.counters.panics.add(u64::from(panicked));
                    self.desk.counters.backend_time.add_time(took);
                    let told = Outcome::new(&batch, &answers, took, away.trigger);
                    let goes_on = self.judge(away, &batch, answers, is_whole);
                    outcome = (!goes_on).then_some(told);
                    fault::point("flush: settled");
                    self.cargo_size = match synced {
                        _ if self.batch_limit < self.settings.batch_size => 1,
                        Some(synced) => cargo_size(synced, took),
                        None => self.cargo_size,
                    };
                }
                Fate::Returned => returned.push(away.taken),
            }
            // Keys, values and errors are the user's, and so are their destructors.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(batch)));
            let in_flight = &self.desk.counters.in_flight;
            in_flight.set(in_flight.get().saturating_sub(operations));
            // The statistics are up to date for whoever hears of it now.
            outcome.iter().for_each(|outcome| self.report(outcome));
            self.pending.deliver();
            self.store.room.notify();
        }
        // The last first, so that they stand in the order of their age again.
        returned.iter().rev().for_each(|taken| self.pending.untried(taken));
    }

    /// Not before it is back: what comes back untried was never given to the backend.
    fn count_answered(&self, batch: &Batch<K, V>, trigger: Trigger) {
        let counters = &self.desk.counters;
        counters.batches.add(1);
        counters.batch_sizes.note(batch.len());
        counters.by_trigger[trigger as usize].add(1);
        counters.retries.add(batch.ops().iter().filter(|op| op.attempt() > 1).count() as u64);
    }

    /// Copies what is to be written now, at most a batch of it.
    fn fill(&mut self, trigger: Trigger, now: Duration) -> (Vec<Taken>, Batch<K, V>) {
        // What is due within the next drain goes along: it would only make a small batch later.
        let slack = self.settings.max_delay / DRAINS_PER_DELAY;
        let due = now.saturating_add(slack).saturating_sub(self.settings.max_delay);
        let can_be_due = now.saturating_add(slack) >= self.settings.max_delay;
        let barrier = self.pending.barrier_moment();
        let drain = self.draining.is_some();
        let wanted = |since: Duration, moment| match trigger {
            Trigger::Pressure | Trigger::Threshold => true,
            Trigger::Timer => can_be_due && since <= due,
            Trigger::Explicit => {
                drain || barrier.is_some_and(|barrier| moment <= barrier) || (can_be_due && since <= due)
            }
        };
        let mut batch = (Vec::new(), Vec::new());
        while batch.1.len() < self.batch_limit
            && let Some(next) = self.pending.take(can_be_due.then_some(due), wanted)
        {
            let is_suspect = self.pending.is_suspect(next.at);
            if is_suspect && !batch.1.is_empty() {
                self.pending.returned(&[next]);
                break;
            }
            self.copy_one(next, now, &mut batch);
            if is_suspect {
                break;
            }
        }
        (batch.0, Batch::new(batch.1))
    }

    /// Copies these places, which are in flight.
    fn copy(&mut self, places: impl Iterator<Item = Taken>, now: Duration) -> (Vec<Taken>, Batch<K, V>) {
        let mut batch = (Vec::new(), Vec::new());
        places.for_each(|next| self.copy_one(next, now, &mut batch));
        (batch.0, Batch::new(batch.1))
    }

    pub(super) fn copy_one(
        &mut self,
        next: Taken,
        now: Duration,
        (taken, ops): &mut (Vec<Taken>, Vec<Op<K, V>>),
    ) {
        // A pin for each copy, so that a large batch does not hold up reclamation. A clone that panics is the
        // user's; the entry stays dirty and is tried again like one that the backend refused.
        let (store, local) = (&self.store, &self.local);
        match catch_unwind(AssertUnwindSafe(|| store.copy_dirty(next.at, &local.pin()))) {
            Ok(Some(entry)) => {
                self.newest = self.newest.max(entry.version);
                let attempt = self.pending.attempt(next.at, entry.version);
                let change = entry.value.map_or(Change::Delete, Change::Upsert);
                ops.push(Op::new(entry.key, change, entry.version, attempt));
                taken.push(next);
            }
            // Cleaned before this was heard of.
            Ok(None) => self.pending.settled(next.at),
            Err(_) => {
                let error = BackendError::transient("cloning the entry for the backend panicked");
                let until = now + self.backoff.delay(self.pending.failures(next.at) + 1);
                self.pending.failed(next.at, Some(until), &error, false);
            }
        }
    }

    /// What the answers say of the backend, and what is to be done about the batch. `true`: they are not the last word on any
    /// of its operations, since parts of it will be tried.
    fn judge(
        &mut self,
        away: Away,
        batch: &Batch<K, V>,
        answers: Vec<Result<(), BackendError>>,
        is_whole: bool,
    ) -> bool {
        let refusal = answers.first().and_then(|first| first.as_ref().err()).cloned();
        let is_transient = |answer: &Result<(), BackendError>| {
            answer.as_ref().is_err_and(|error| error.class() == ErrorClass::Transient)
        };
        let nothing_for_now = answers.iter().all(is_transient);
        if let Some(error) = &refusal
            && is_whole
            && !nothing_for_now
            && batch.len() > 1
        {
            // For good, and for one of them.
            *lock(&self.desk.last_error) = Some(error.clone());
            self.bisection.split(away.taken);
            return true;
        }
        let stores = answers.iter().any(Result::is_ok);
        // One that was refused often says nothing of the backend.
        let is_suspect = batch.len() == 1
            && !self.breaker.is_open()
            && away.taken.first().is_some_and(|taken| self.pending.is_suspect(taken.at));
        self.settle(&away.taken, batch, answers, away.copied_at);
        let now = self.settings.clock.now();
        if stores {
            if self.breaker.close() {
                self.pending.retry_recent();
                if self.is_pressed {
                    self.store.pressure.store(true, Ordering::Relaxed);
                }
            }
        } else if nothing_for_now && !is_suspect && (is_whole || batch.len() > 1 || self.breaker.is_open()) {
            self.breaker.open(now);
            let held = self.bisection.abandon();
            self.pending.returned(&held);
            if let Some(error) = refusal {
                self.pending.refuse_all(&error);
            }
        }
        self.desk.counters.breaker.set(u64::from(self.breaker.is_open()));
        false
    }

    /// Writes the answers into table and book.
    fn settle(
        &mut self,
        taken: &[Taken],
        batch: &Batch<K, V>,
        answers: Vec<Result<(), BackendError>>,
        copied_at: Duration,
    ) {
        let in_outage = self.breaker.is_open();
        let now = self.settings.clock.now();
        let answers = self.resolve_letters(taken, batch, answers);
        let mut refused = letters::refused(&answers);
        let mut delay = None;
        let (mut stored, mut last_error) = (0, None);
        for ((taken, op), answer) in taken.iter().zip(batch.ops()).zip(answers) {
            let error = match answer {
                Ok(()) => {
                    stored += 1;
                    self.note_stored(taken.at);
                    let cleaned = self.store.mark_clean(taken.at, op.version(), &self.local.pin());
                    match cleaned {
                        Cleaned::Superseded if fault::broken("superseded-is-queued") => {
                            self.pending.settled(taken.at);
                        }
                        Cleaned::Superseded => {
                            let has_row = op.change().value().is_some();
                            self.pending.superseded(*taken, op.version(), copied_at, has_row);
                        }
                        Cleaned::Value => self.pending.settled(taken.at),
                        Cleaned::Tombstone => {
                            self.pending.settled(taken.at);
                            self.graves.push_back((taken.at, op.version()));
                        }
                    }
                    continue;
                }
                Err(error) => error,
            };
            if self.is_in_doubt(*taken, &error) {
                last_error = Some(error);
                continue;
            }
            let is_for_now = error.class() == ErrorClass::Transient || self.has_gone_out_of_turn();
            let until = match is_for_now {
                true => {
                    // One delay for all that failed together: they are tried again together.
                    let failures = self.pending.failures(taken.at) + 1;
                    let delay = *delay.get_or_insert_with(|| self.backoff.delay(failures));
                    Some(now.saturating_add(delay))
                }
                false => None,
            };
            self.pending.failed(taken.at, until, &error, in_outage);
            last_error = Some(error);
        }
        refused.retain(|(index, _)| taken.get(*index).is_some_and(|taken| self.pending.is_parked(taken.at)));
        self.write_letters(taken, batch, refused, now);
        self.batch_limit = if stored == 0 {
            (batch.len() / 2).max(1)
        } else {
            self.batch_limit.saturating_mul(2).min(self.settings.batch_size)
        };
        let counters = &self.desk.counters;
        counters.writes.add(stored);
        counters.errors.add(batch.len() as u64 - stored);
        counters.parked.set(self.pending.parked() as u64);
        self.has_cleaned |= stored > 0;
        *lock(&self.desk.last_error) = last_error;
    }
}
