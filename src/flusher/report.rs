//! What the flusher tells of its work: to the listener, to the log, and in gauges. Nothing here decides anything.

use std::{
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::{
    Flusher, Trigger,
    trouble::{Edge, Episode, FailureLog, Line, Pace, Watchdog},
};
use crate::{
    backend::{BackendError, Batch, ErrorClass},
    events::Event,
    sync::{Instant, Ordering},
};

/// How often evictions are told, in real time.
const EVICTIONS_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Reporter {
    /// The cache's, for the log.
    name: Arc<str>,
    failures: FailureLog,
    refusals: Pace,
    outage: Episode,
    watchdog: Watchdog,
    evictions_told: u64,
    evictions_told_at: Instant,
}

impl Reporter {
    pub(super) fn new(name: Arc<str>, max_delay: Duration, stall_limit: Duration) -> Self {
        Reporter {
            name,
            failures: FailureLog::default(),
            refusals: Pace::default(),
            outage: Episode::default(),
            watchdog: Watchdog::new(max_delay, stall_limit),
            evictions_told: 0,
            evictions_told_at: Instant::now(),
        }
    }
}

/// What the backend answered to one batch.
pub(super) struct Outcome {
    stored: usize,
    took: Duration,
    trigger: Trigger,
    /// One for each class of errors that there is.
    failures: Vec<Failure>,
}

struct Failure {
    operations: usize,
    error: BackendError,
    attempt: u32,
}

impl Outcome {
    pub(super) fn new<K, V>(
        batch: &Batch<K, V>,
        answers: &[Result<(), BackendError>],
        took: Duration,
        trigger: Trigger,
    ) -> Self {
        let (mut stored, mut failures) = (0, Vec::<Failure>::new());
        for (op, answer) in batch.ops().iter().zip(answers) {
            let Err(error) = answer else {
                stored += 1;
                continue;
            };
            let attempt = op.attempt();
            match failures.iter_mut().find(|known| known.error.class() == error.class()) {
                Some(known) => {
                    known.operations += 1;
                    known.attempt = known.attempt.max(attempt);
                }
                None => failures.push(Failure { operations: 1, error: error.clone(), attempt }),
            }
        }
        Outcome { stored, took, trigger, failures }
    }

    /// What will be tried again.
    fn transient(&self) -> Option<&Failure> {
        self.failures.iter().find(|failure| failure.error.class() == ErrorClass::Transient)
    }
}

/// Errors are the user's, and what they say of themselves is their code. So is whoever reads the log.
fn log(line: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(line));
}

impl<K, V, S> Flusher<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// A batch has come back, and table, book and statistics say so.
    pub(super) fn report(&mut self, outcome: &Outcome) {
        let now = self.settings.clock.now();
        self.publish_age();
        self.log_outcome(outcome, now);
        let &Outcome { stored, took, trigger, .. } = outcome;
        if stored > 0 {
            self.tell(|| Event::Flushed { operations: stored, took, trigger });
        }
        for Failure { operations, error, attempt } in &outcome.failures {
            self.tell(|| Event::Failed {
                operations: *operations,
                class: error.class(),
                error: error.clone(),
                attempt: *attempt,
            });
        }
        if let Some((entries, error, attempt)) = self.pending.take_new_parked() {
            if let Some(entries) = self.reporter.refusals.count(now, entries as u64) {
                let (cache, parked) = (&self.reporter.name, self.pending.parked());
                log(|| {
                    tracing::warn!(
                        %cache, entries, parked, %error,
                        "the backend has refused entries for good; they stay in the cache until they change or a \
                         flush is asked for"
                    );
                });
            }
            self.tell(|| Event::Parked { entries, error, attempt });
        }
        let edge = match self.breaker.is_open() {
            true => self.reporter.outage.begin(now),
            false => self.reporter.outage.end(now),
        };
        match (edge, outcome.transient()) {
            (Some(Edge::Begins), Some(failure)) => {
                self.tell(|| Event::BackendDown { error: failure.error.clone() });
            }
            (Some(Edge::Ends { after }), _) => self.tell(|| Event::BackendUp { after }),
            _ => {}
        }
        self.tell_evictions();
    }

    fn log_outcome(&mut self, outcome: &Outcome, now: Duration) {
        let failures = &mut self.reporter.failures;
        let line = match outcome.transient() {
            Some(failure) => failures.failed(now, failure.operations as u64),
            None => failures.worked(now),
        };
        let (cache, dirty) = (&self.reporter.name, self.pending.len());
        match (line, outcome.transient()) {
            (Some(Line::Failing { operations, lasting }), Some(Failure { error, attempt, .. })) => {
                log(|| {
                    tracing::warn!(
                        %cache, operations, ?lasting, dirty, attempt, %error,
                        "the backend fails; what it has not taken stays in the cache and is tried again"
                    );
                })
            }
            (Some(Line::Back { after }), _) => {
                log(|| tracing::info!(%cache, ?after, dirty, "the backend stores batches again"));
            }
            _ => {}
        }
    }

    /// Looks at what changes without an answer of the backend. Once in each round.
    pub(super) fn watch(&mut self, now: Duration) {
        self.publish_age();
        let age = self.pending.oldest_dirty().map(|since| now.saturating_sub(since));
        let edge = self.reporter.watchdog.look(age, now);
        let (cache, limit) = (&self.reporter.name, self.reporter.watchdog.limit());
        // A backend that fails has its own lines.
        let is_quiet = self.reporter.failures.is_failing();
        let dirty = self.pending.len();
        match edge {
            Some(Edge::Begins) => {
                let oldest_dirty_age = age.unwrap_or_default();
                if !is_quiet {
                    log(|| {
                        tracing::warn!(
                            %cache, ?oldest_dirty_age, ?limit, dirty,
                            "the backend does not keep up: entries are dirty for longer than they should be"
                        );
                    });
                }
                self.tell(|| Event::Stalled { oldest_dirty_age, limit });
            }
            Some(Edge::Ends { after }) => self.tell(|| Event::Resumed { after }),
            None => {}
        }
        if self.desk.events.is_some() && self.reporter.evictions_told_at.elapsed() >= EVICTIONS_PAUSE {
            self.tell_evictions();
        }
    }

    /// How soon to look again at what nobody wakes us for.
    pub(super) fn until_watch(&self) -> Option<Duration> {
        self.desk.events.as_ref().map(|_| EVICTIONS_PAUSE)
    }

    fn publish_age(&self) {
        self.desk.counters.oldest_dirty.set_time(self.pending.oldest_dirty());
    }
}

impl<K, V, S> Flusher<K, V, S> {
    /// Tells the listener, if there is one.
    fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(events) = &self.desk.events {
            events.post(event());
        }
    }

    fn tell_evictions(&mut self) {
        // Relaxed: a count.
        let evictions = self.store.evictions.load(Ordering::Relaxed);
        let entries = evictions.saturating_sub(self.reporter.evictions_told);
        self.reporter.evictions_told = evictions;
        self.reporter.evictions_told_at = Instant::now();
        if entries > 0 {
            self.tell(|| Event::Evicted { entries });
        }
    }

    /// The flusher ends: the rest is told, and there will be no more.
    pub(super) fn end_of_report(&mut self) {
        self.tell_evictions();
        if let Some(events) = &self.desk.events {
            events.close();
        }
    }
}
