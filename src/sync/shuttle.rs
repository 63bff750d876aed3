//! The primitives for scenarios under shuttle: whatever threads have in common is a point at which another may go on.
//!
//! All threads of a scenario are coroutines of one. So an atomic is the standard one behind such a point, and memory that is
//! mapped stays what it is; orderings say nothing here. Time is a count that only those move who look at it or wait, so that
//! a seed determines everything.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{LockResult, atomic as inner},
    time::Duration,
};

pub(crate) use shuttle::thread_local;
pub(crate) use std::sync::atomic::{Ordering, fence};

/// Lets another thread go on.
pub(crate) fn point() {
    shuttle::thread::sleep(Duration::ZERO);
}

/// Something that threads share: each use of it is a point.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct Shared<T>(T);

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        point();
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! shared {
    ($($name:ident of $value:ty),*) => {$(
        pub(crate) type $name = Shared<inner::$name>;

        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Shared(inner::$name::new(value))
            }
        }
    )*};
}

shared!(AtomicBool of bool, AtomicU8 of u8, AtomicU32 of u32, AtomicU64 of u64, AtomicUsize of usize);

pub(crate) type AtomicPtr<T> = Shared<inner::AtomicPtr<T>>;

impl<T> AtomicPtr<T> {
    pub(crate) const fn new(pointer: *mut T) -> Self {
        Shared(inner::AtomicPtr::new(pointer))
    }
}

/// Shuttle's, whose guard also knows its mutex: a wait with a time-out lets go of it and takes it again.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    of: &'a Mutex<T>,
    held: shuttle::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        // A scenario ends with the first panic, so there is nobody whom poison could tell anything.
        let held = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(MutexGuard { of: self, held })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.held
    }
}

/// Shuttle's, with time-outs that come: whoever waits with one waits for as long as the others let him. A wait without one
/// that nobody ends is a deadlock, which shuttle finds.
#[derive(Debug, Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

pub(crate) struct TimedOut;

impl TimedOut {
    pub(crate) fn timed_out(&self) -> bool {
        true
    }
}

impl Condvar {
    pub(crate) const fn new() -> Self {
        Condvar(shuttle::sync::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let MutexGuard { of, held } = guard;
        let held = self.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(MutexGuard { of, held })
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, TimedOut)> {
        let mutex = guard.of;
        drop(guard);
        thread::sleep(timeout);
        mutex.lock().map(|guard| (guard, TimedOut)).map_err(|_| unreachable!("never poisoned"))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Nanoseconds of the execution that is under way.
static NOW: inner::AtomicU64 = inner::AtomicU64::new(0);

/// What a look at the time takes.
const LOOK: Duration = Duration::from_micros(1);
/// The most that a wait takes: a waiter is called too early rather than the others too late.
const NAP: Duration = Duration::from_micros(200);

fn pass(time: Duration) -> Duration {
    let passed = u64::try_from(time.as_nanos()).expect("short");
    Duration::from_nanos(NOW.fetch_add(passed, Ordering::Relaxed) + passed)
}

/// A moment of the execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Instant(pass(LOOK))
    }

    /// An execution begins.
    #[cfg(test)]
    pub(crate) fn restart() {
        NOW.store(0, Ordering::Relaxed);
    }

    pub(crate) fn elapsed(self) -> Duration {
        Instant::now().saturating_duration_since(self)
    }

    pub(crate) fn checked_add(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Instant)
    }

    pub(crate) fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Instant(self.0 + time)
    }
}

pub(crate) mod thread {
    use std::{io, sync::Arc, time::Duration};

    use super::{NAP, Ordering, inner::AtomicBool, pass};

    pub(crate) use shuttle::thread::{Result, Thread, current, yield_now};

    pub(crate) fn sleep(time: Duration) {
        pass(time.min(NAP));
        yield_now();
    }

    /// Shuttle's does not tell whether the thread has ended.
    #[derive(Debug)]
    pub(crate) struct JoinHandle<T> {
        thread: shuttle::thread::JoinHandle<T>,
        has_ended: Arc<AtomicBool>,
    }

    impl<T> JoinHandle<T> {
        pub(crate) fn is_finished(&self) -> bool {
            self.has_ended.load(Ordering::Relaxed)
        }

        pub(crate) fn thread(&self) -> &Thread {
            self.thread.thread()
        }

        pub(crate) fn join(self) -> Result<T> {
            self.thread.join()
        }
    }

    pub(crate) struct Builder(shuttle::thread::Builder);

    impl Builder {
        pub(crate) fn new() -> Self {
            Builder(shuttle::thread::Builder::new())
        }

        pub(crate) fn name(self, name: String) -> Self {
            Builder(self.0.name(name))
        }

        pub(crate) fn spawn<T: Send + 'static>(
            self,
            body: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            let has_ended = Arc::new(AtomicBool::new(false));
            let ended = Arc::clone(&has_ended);
            let thread = self.0.spawn(move || {
                let result = body();
                ended.store(true, Ordering::Relaxed);
                result
            })?;
            Ok(JoinHandle { thread, has_ended })
        }
    }
}
