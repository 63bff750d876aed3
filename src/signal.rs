//! Waking sleepers without losing a wake-up, and without a system call when nobody sleeps.

use std::time::Duration;

use crate::clock::Clock;
use crate::sync::{AtomicU32, AtomicUsize, Condvar, Mutex, Ordering, fence, lock};

/// How deeply the flusher sleeps.
const AWAKE: u32 = 0;
/// Until its next deadline: it knows of dirty entries, one more need not wake it.
const NAPPING: u32 = 1;
/// Until something happens: it knows of no dirty entry.
const IDLE: u32 = 2;

/// One sleeper (the flusher), any number of wakers.
pub(crate) struct Signal {
    depth: AtomicU32,
    /// Whether somebody has called, and when the first one did.
    notified: Mutex<Option<Duration>>,
    wakes: Condvar,
    clock: Clock,
}

impl Signal {
    pub(crate) fn new(clock: Clock) -> Self {
        Signal { clock, depth: AtomicU32::new(AWAKE), notified: Mutex::new(None), wakes: Condvar::new() }
    }

    /// The time by which it sleeps.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Sleeps until a wake-up or, if there is a `timeout`, that long; not at all if `has_work` finds something.
    ///
    /// If it knows of something dirty, only [`Signal::wake`] wakes it, else every [`Signal::something_dirty`] does too.
    /// Returns until when nothing had called: the first call, or the time-out; this thread may get to run much later. `None`
    /// if it did not sleep.
    pub(crate) fn sleep(
        &self,
        knows_dirty: bool,
        timeout: Option<Duration>,
        has_work: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        self.depth.store(if knows_dirty { NAPPING } else { IDLE }, Ordering::Relaxed);
        // SeqCst: either the waker sees that we sleep, or we see its work. Pairs with the fence in `wake_from`.
        if !cfg!(mutant = "sleep_fence") {
            fence(Ordering::SeqCst);
        }
        let mut notified = lock(&self.notified);
        let sleeps = !has_work();
        if sleeps {
            while notified.is_none() {
                match timeout {
                    None => notified = wait(&self.wakes, notified),
                    Some(timeout) => {
                        notified = wait_timeout(&self.wakes, notified, timeout);
                        // Woken for nothing is as good as a time-out: the caller looks at everything again.
                        break;
                    }
                }
            }
        }
        // Before we count as awake: what is queued from then on is queued later.
        let now = self.clock.now();
        self.depth.store(AWAKE, Ordering::Relaxed);
        let called_at = notified.take();
        sleeps.then(|| called_at.unwrap_or(now))
    }

    /// Whether the sleeper sleeps and knows of nothing dirty, as far as can be seen without a fence.
    pub(crate) fn is_idle(&self) -> bool {
        self.depth.load(Ordering::Relaxed) == IDLE
    }

    /// Wakes the sleeper, however deeply it sleeps. The caller has made its work visible before.
    pub(crate) fn wake(&self) {
        self.wake_from(NAPPING);
    }

    /// Wakes the sleeper if it knew of nothing dirty. The caller has queued something before.
    pub(crate) fn something_dirty(&self) {
        self.wake_from(IDLE);
    }

    fn wake_from(&self, depth: u32) {
        // SeqCst: see `sleep`.
        if !cfg!(mutant = "wake_fence") {
            fence(Ordering::SeqCst);
        }
        if self.depth.load(Ordering::Relaxed) >= depth {
            lock(&self.notified).get_or_insert_with(|| self.clock.now());
            self.wakes.notify_one();
        }
    }
}

/// Any number of sleepers, each waiting for a condition of its own that somebody else may make true.
pub(crate) struct Event {
    sleepers: AtomicUsize,
    turn: Mutex<u64>,
    turns: Condvar,
}

/// A sleeper that has announced itself, and can now look at its condition a last time.
#[must_use]
pub(crate) struct Listener<'a> {
    event: &'a Event,
    turn: u64,
}

impl Event {
    pub(crate) fn new() -> Self {
        Event { sleepers: AtomicUsize::new(0), turn: Mutex::new(0), turns: Condvar::new() }
    }

    /// Announces a sleeper: what happens from now on will end its wait.
    pub(crate) fn listen(&self) -> Listener<'_> {
        let turn = *lock(&self.turn);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // SeqCst: either `notify` sees this sleeper, or the sleeper's next look sees what was done before `notify`.
        if !cfg!(mutant = "listen_fence") {
            fence(Ordering::SeqCst);
        }
        Listener { event: self, turn }
    }

    /// Something has changed: everyone who listens looks again.
    pub(crate) fn notify(&self) {
        // SeqCst: see `listen`.
        if !cfg!(mutant = "notify_fence") {
            fence(Ordering::SeqCst);
        }
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            *lock(&self.turn) += 1;
            self.turns.notify_all();
        }
    }
}

impl Listener<'_> {
    /// Sleeps until something has changed since `listen`, at most for `timeout`.
    pub(crate) fn wait(self, timeout: Duration) {
        let turn = lock(&self.event.turn);
        if *turn == self.turn {
            drop(wait_timeout(&self.event.turns, turn, timeout));
        }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.event.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

type Guard<'a, T> = crate::sync::MutexGuard<'a, T>;

fn wait<'a, T>(condvar: &Condvar, guard: Guard<'a, T>) -> Guard<'a, T> {
    condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn wait_timeout<'a, T>(condvar: &Condvar, guard: Guard<'a, T>, timeout: Duration) -> Guard<'a, T> {
    match condvar.wait_timeout(guard, timeout) {
        Ok((guard, _)) => guard,
        Err(poisoned) => poisoned.into_inner().0,
    }
}
