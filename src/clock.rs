//! The time that deadlines and retries go by: the system's, or one that a test turns by hand.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use crate::signal::Signal;
use crate::sync::Instant;

/// A source of time for the flusher. The default is the system's monotonic clock.
///
/// Only *flushing* goes by it: deadlines of dirty entries and delays of retries. A writer that waits for room, and
/// `close`, wait in real time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System { start: Instant },
    Manual(Arc<Manual>),
}

/// Turns a manual [`Clock`].
#[derive(Clone)]
pub struct ManualClock(Arc<Manual>);

struct Manual {
    now: Mutex<Duration>,
    /// Who sleeps by this clock.
    sleepers: Mutex<Vec<Weak<Signal>>>,
}

impl Clock {
    /// The system's monotonic clock.
    #[must_use]
    pub fn system() -> Self {
        Clock(Source::System { start: Instant::now() })
    }

    /// A clock that stands still until it is turned.
    #[must_use]
    pub fn manual() -> (Clock, ManualClock) {
        let manual = Arc::new(Manual { now: Mutex::new(Duration::ZERO), sleepers: Mutex::new(Vec::new()) });
        (Clock(Source::Manual(Arc::clone(&manual))), ManualClock(manual))
    }

    /// The time since the clock was made.
    pub(crate) fn now(&self) -> Duration {
        match &self.0 {
            Source::System { start } => start.elapsed(),
            Source::Manual(manual) => *manual.now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// How long to sleep in real time for a sleep of `time` by this clock. A manual clock wakes its sleepers itself.
    pub(crate) fn real(&self, time: Duration) -> Duration {
        match &self.0 {
            Source::System { .. } => time,
            Source::Manual(_) => Duration::from_secs(3600),
        }
    }

    /// Wakes `signal` whenever a manual clock is turned.
    pub(crate) fn register(&self, signal: &Arc<Signal>) {
        if let Source::Manual(manual) = &self.0 {
            manual.sleepers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(signal));
        }
    }
}

impl ManualClock {
    /// Lets `time` pass at once.
    pub fn advance(&self, time: Duration) {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) += time;
        let sleepers = self.0.sleepers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for signal in sleepers.iter().filter_map(Weak::upgrade) {
            signal.wake();
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Source::System { .. } => "system",
            Source::Manual(_) => "manual",
        };
        f.debug_struct("Clock").field("kind", &kind).field("now", &self.now()).finish()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").finish()
    }
}
