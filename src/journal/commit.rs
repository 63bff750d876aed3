//! Group commit: one `fdatasync` for everybody who waits for one, and what to believe after one has failed.
//!
//! Syncs are numbered. A write that must be on stable storage needs one that *begins* after its record is LIVE, so it
//! asks for the next number, and any number of writes ask for the same one. No lock is held while the disk works.
//!
//! After a failed sync the kernel may have dropped what it could not write and call the next sync a success, so no sync
//! counts until the flusher has written all that is dirty anew, elsewhere, and asked for the sync that heals.

use std::{io, sync::Arc, time::Duration};

use crate::{
    signal::Signal,
    sync::{Condvar, Instant, Mutex, lock},
};

/// When the engine makes the journal durable, beside what single writes ask for with
/// [`Ack::Synced`](crate::Ack::Synced). What Redis calls `appendfsync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalSync {
    /// Not at all: for a journal that need only survive crashes of the process. After a loss of power the operating system
    /// may have kept any mixture of old and new, and an older value may be written over a newer one in the database.
    /// The first write with `Ack::Synced` ends this and is as safe as with the other policies.
    Never,
    /// After at most this time.
    Every(Duration),
    /// Before each acknowledgement: [`Ack::Journal`](crate::Ack::Journal) means [`Ack::Synced`](crate::Ack::Synced).
    Always,
}

/// The number of a sync.
pub(crate) type SyncNumber = u64;

struct State {
    /// The newest sync that was asked for.
    wanted: SyncNumber,
    /// The newest one that has begun.
    begun: SyncNumber,
    /// The newest that has succeeded (and could be believed).
    synced: SyncNumber,
    /// The newest that has failed.
    failed: SyncNumber,
    cause: Option<Arc<io::Error>>,
    /// A sync has failed: nothing is believed before the one that heals.
    poisoned: bool,
    /// Since when, if so.
    poisoned_since: Option<Instant>,
    /// Everything was written anew: the next sync heals.
    healing: bool,
    /// Somebody needs more segments.
    wants_growth: bool,
    stopped: bool,
    /// When the sync began that has not come back.
    running: Option<Instant>,
    /// When the last sync began that has succeeded; at first, when the journal was opened.
    covered_until: Instant,
}

/// What the journal's thread has to do next.
pub(crate) enum Duty {
    Sync(SyncNumber),
    Grow,
    /// Nothing was asked for; the interval is over.
    Interval,
    Stop,
}

pub(crate) struct Commits {
    state: Mutex<State>,
    asked: Condvar,
    done: Condvar,
}

impl Commits {
    pub(crate) fn new() -> Self {
        Commits {
            state: Mutex::new(State {
                wanted: 0,
                begun: 0,
                synced: 0,
                failed: 0,
                cause: None,
                poisoned: false,
                poisoned_since: None,
                healing: false,
                wants_growth: false,
                stopped: false,
                running: None,
                covered_until: Instant::now(),
            }),
            asked: Condvar::new(),
            done: Condvar::new(),
        }
    }

    /// Asks for a sync that begins after now.
    pub(crate) fn request(&self) -> SyncNumber {
        let mut state = lock(&self.state);
        // Not the one that runs: it may have begun before what it should cover was written.
        let next = if cfg!(mutant = "join_running") { state.begun.max(1) } else { state.begun + 1 };
        if state.wanted < next {
            state.wanted = next;
            self.asked.notify_one();
        }
        next
    }

    /// The number of the first sync that begins after now, for who can wait until somebody asks for it.
    pub(crate) fn next_number(&self) -> SyncNumber {
        lock(&self.state).begun + 1
    }

    /// Asks for the sync with this number, if it has not begun.
    pub(crate) fn ask_for(&self, number: SyncNumber) {
        let mut state = lock(&self.state);
        if state.begun < number && state.wanted < number {
            state.wanted = number;
            self.asked.notify_one();
        }
    }

    /// As [`Commits::request`], when everything has been written anew since the failure.
    pub(crate) fn request_healing(&self) -> SyncNumber {
        let mut state = lock(&self.state);
        state.healing = true;
        let next = state.begun + 1;
        state.wanted = state.wanted.max(next);
        // Also if somebody has asked for this sync before: it was held back until now.
        if !cfg!(mutant = "heal_silently") {
            self.asked.notify_one();
        }
        next
    }

    /// Whether this sync has happened. `Err`: it failed, and nothing since has made up for it.
    pub(crate) fn outcome(&self, number: SyncNumber) -> Option<Result<(), Arc<io::Error>>> {
        Self::outcome_in(&lock(&self.state), number)
    }

    fn outcome_in(state: &State, number: SyncNumber) -> Option<Result<(), Arc<io::Error>>> {
        if state.synced >= number {
            return Some(Ok(()));
        }
        if state.failed >= number || state.stopped {
            let stopped = || Arc::new(io::Error::other("the cache was closed before the sync"));
            return Some(Err(state.cause.clone().unwrap_or_else(stopped)));
        }
        None
    }

    /// Waits until this sync has been tried, or will not be before the journal is healed. For the flusher, which heals it.
    pub(crate) fn wait_once(&self, number: SyncNumber) -> Result<(), Arc<io::Error>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(outcome) = Self::outcome_in(&state, number) {
                return outcome;
            }
            if let (true, Some(cause)) = (state.poisoned && !state.healing, &state.cause) {
                return Err(Arc::clone(cause));
            }
            state = self.done.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Waits until this sync has succeeded, also through failures that are healed, at most until `deadline`. `Err`: why not.
    pub(crate) fn wait_until(
        &self,
        number: SyncNumber,
        deadline: Option<Instant>,
    ) -> Result<(), Arc<io::Error>> {
        let mut state = lock(&self.state);
        loop {
            if state.synced >= number {
                return Ok(());
            }
            let late = || Arc::new(io::Error::from(io::ErrorKind::TimedOut));
            if state.stopped {
                return Self::outcome_in(&state, number).unwrap_or_else(|| Err(late()));
            }
            state = match deadline {
                None => self.done.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let failure = (state.failed >= number).then(|| state.cause.clone()).flatten();
                        return Err(failure.unwrap_or_else(late));
                    }
                    match self.done.wait_timeout(state, left) {
                        Ok((state, _)) => state,
                        Err(poisoned) => poisoned.into_inner().0,
                    }
                }
            };
        }
    }

    /// Waits until this sync has succeeded, also through failures that are healed, or until syncs have failed for as long as
    /// `patience`. `false`: it will not be tried any more.
    pub(crate) fn wait_in_order(&self, number: SyncNumber, patience: Duration) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.synced >= number {
                return true;
            }
            if state.stopped {
                return false;
            }
            state = match state.poisoned_since {
                None => self.done.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(since) => {
                    let left = patience.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        return true;
                    }
                    match self.done.wait_timeout(state, left) {
                        Ok((state, _)) => state,
                        Err(poisoned) => poisoned.into_inner().0,
                    }
                }
            };
        }
    }

    /// Whether a sync has failed and nothing has healed it yet.
    pub(crate) fn is_poisoned(&self) -> bool {
        lock(&self.state).poisoned
    }

    /// How long the sync has been running that has not come back.
    pub(crate) fn running_for(&self) -> Option<Duration> {
        lock(&self.state).running.map(|begun| begun.elapsed())
    }

    /// How long ago the last sync began that has succeeded, if `written` or a sync that runs or has failed say that something
    /// was written since.
    pub(crate) fn lag(&self, written: bool) -> Option<Duration> {
        let state = lock(&self.state);
        let is_behind = written || state.poisoned || state.running.is_some();
        is_behind.then(|| state.covered_until.elapsed())
    }

    /// Asks for more segments.
    pub(crate) fn ask_for_growth(&self) {
        let mut state = lock(&self.state);
        if !state.wants_growth {
            state.wants_growth = true;
            self.asked.notify_one();
        }
    }

    /// The thread ends; who waits is told.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.asked.notify_all();
        self.done.notify_all();
    }

    /// Waits for something to do. For the journal's thread.
    pub(crate) fn next(&self, interval: Option<Duration>) -> Duty {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return Duty::Stop;
            }
            if state.wants_growth {
                state.wants_growth = false;
                return Duty::Grow;
            }
            if state.wanted > state.begun && (!state.poisoned || state.healing) {
                state.begun = state.wanted;
                state.running = Some(Instant::now());
                return Duty::Sync(state.begun);
            }
            match interval {
                None => state = self.asked.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(interval) => {
                    let (again, timeout) = match self.asked.wait_timeout(state, interval) {
                        Ok((state, timeout)) => (state, timeout.timed_out()),
                        Err(poisoned) => {
                            let (state, timeout) = poisoned.into_inner();
                            (state, timeout.timed_out())
                        }
                    };
                    state = again;
                    if timeout && state.wanted == state.begun && !state.wants_growth && !state.stopped {
                        return Duty::Interval;
                    }
                }
            }
        }
    }

    /// Says what came of a sync. For the journal's thread. A failure wakes the flusher: it has to write everything anew.
    pub(crate) fn finish(&self, number: SyncNumber, outcome: io::Result<()>, flusher: &Signal) {
        let failed = outcome.is_err();
        {
            let mut state = lock(&self.state);
            match outcome {
                Ok(()) => {
                    state.synced = number;
                    state.covered_until = state.running.unwrap_or(state.covered_until);
                    state.poisoned = false;
                    state.poisoned_since = None;
                }
                Err(cause) => {
                    state.failed = number;
                    state.cause = Some(Arc::new(cause));
                    state.poisoned = true;
                    state.poisoned_since.get_or_insert_with(Instant::now);
                    if crate::fault::broken("heal") {
                        // As if the next sync, should it succeed, made up for this one.
                        state.poisoned = false;
                        state.wanted += 1;
                    }
                }
            }
            state.healing = false;
            state.running = None;
        }
        self.done.notify_all();
        if failed {
            flusher.wake();
        }
    }
}
