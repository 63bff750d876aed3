//! Any async client as a backend.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, Runtime, RuntimeFlavor};

use super::{Answers, Backend, BackendError, Batch};

/// A [`Backend`] whose methods are async: implement it for an async client, and give a cache the client inside of an
/// [`OnRuntime`].
///
/// What each method must answer is what the one of the same name in [`Backend`] must.
///
/// ```
/// use std::{collections::HashMap, time::Duration};
/// use tokio::sync::Mutex;
/// use writeback::{Answers, BackendError, Batch, Cache, Change, backend::{AsyncBackend, OnRuntime}};
///
/// struct Client(Mutex<HashMap<u64, String>>);
///
/// impl AsyncBackend<u64, String> for Client {
///     async fn load(&self, keys: &[u64]) -> Result<Vec<Option<String>>, BackendError> {
///         let rows = self.0.lock().await;
///         Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
///     }
///
///     async fn apply(&self, batch: &Batch<u64, String>) -> Answers {
///         let mut rows = self.0.lock().await;
///         batch.answer_each(|op| {
///             match op.change() {
///                 Change::Upsert(value) => drop(rows.insert(*op.key(), value.clone())),
///                 Change::Delete => drop(rows.remove(op.key())),
///             }
///             Ok(())
///         })
///     }
/// }
///
/// let backend = OnRuntime::own(|_| Client(Mutex::default()))?.timeout(Duration::from_secs(5));
/// let cache = Cache::builder().capacity(100).backend(backend).open::<u64, String>()?;
/// cache.put(1, "Ada".to_owned())?;
/// cache.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncBackend<K, V>: Send + Sync + 'static {
    /// Reads the values of `keys`, in the order of `keys`, `None` where there is no row. May be dropped before it is done.
    ///
    /// # Errors
    ///
    /// Whatever kept the database from answering.
    fn load(&self, keys: &[K]) -> impl Future<Output = Result<Vec<Option<V>>, BackendError>> + Send;

    /// Carries out the operations of `batch` in their order, and says of each whether it is now stored. Is never dropped before
    /// it is done, unless the runtime ends.
    ///
    /// It should have timeouts of its own: as long as it goes on, no other batch begins once the one of [`OnRuntime`] is over.
    fn apply(&self, batch: &Batch<K, V>) -> impl Future<Output = Answers> + Send;

    /// What tells this database, and the place in it, from others; see [`Backend::identity`].
    fn identity(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }
}

/// An [`AsyncBackend`] on a tokio runtime, as the [`Backend`] of a cache.
///
/// A call runs as a task of the runtime, and the caller blocks until it is done.
///
/// # Which runtime
///
/// Best one of its own ([`own`](Self::own)): then the cache may be called from anywhere, from tasks of other runtimes too, which it blocks.
///
/// On a runtime that has other tasks ([`on`](Self::on)), those must not block all of its threads with the cache, for then nobody is left to
/// carry out what they wait for. A load that is waited for hands the other tasks of its thread on; for a `flush`, or a write
/// that waits for room or for the database, use `tokio::task::spawn_blocking`. The runtime has to live as long as the cache; once it has
/// ended, every call is answered with a transient error.
///
/// # A batch that takes too long
///
/// is answered with a transient error, but goes on: whether it will be stored is not known. Until it has ended, no other batch begins, so that
/// it never comes after something newer; batches are answered with a transient error meanwhile. A load that takes too long is dropped.
pub struct OnRuntime<B> {
    backend: Arc<B>,
    handle: Handle,
    /// Taken on drop.
    own: Option<Runtime>,
    timeout: Duration,
    late: Arc<Late>,
}

/// Why a call had no answer: the source of the [`BackendError`]s of [`OnRuntime`] itself, and why there is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnRuntimeError {
    /// The runtime has only the thread that drives it: a call from one of its tasks would wait for itself.
    #[error(
        "the runtime has no threads of its own, so a call could wait for itself: use a multi-thread runtime"
    )]
    CurrentThread,

    /// The thread of an own runtime could not be started.
    #[error("the thread of the async backend could not be started: {0}")]
    Spawn(#[source] std::io::Error),

    /// The call was not done in time.
    #[error("no answer from the async backend within {waited:?}: check the database, or raise `timeout`")]
    TimedOut {
        /// How long was waited.
        waited: Duration,
    },

    /// An earlier batch that was not done in time still goes on, and nothing may overtake it.
    #[error(
        "an earlier batch of the async backend that took too long still goes on, after {waited:?} more: give its \
         calls timeouts of their own"
    )]
    StillRunning {
        /// How long was waited for it.
        waited: Duration,
    },

    /// The call panicked, or the runtime has ended.
    #[error(
        "the call of the async backend ended without an answer: it panicked, or its runtime was shut down"
    )]
    Ended,
}

const TIMEOUT: Duration = Duration::from_secs(30);

impl<B> OnRuntime<B> {
    /// Runs the calls of a backend on a runtime of its own, with one thread; each for at most 30 seconds. `make` gets the
    /// runtime, for clients that begin their work when they are made.
    ///
    /// # Errors
    ///
    /// [`OnRuntimeError::Spawn`]: the thread cannot be started.
    pub fn own(make: impl FnOnce(&Handle) -> B) -> Result<Self, OnRuntimeError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("writeback-async").enable_all().build();
        let runtime = runtime.map_err(OnRuntimeError::Spawn)?;
        let handle = runtime.handle().clone();
        let backend = Arc::new(make(&handle));
        Ok(Self { backend, handle, own: Some(runtime), timeout: TIMEOUT, late: Arc::default() })
    }

    /// Runs the calls of `backend` on the runtime of `handle`, each for at most 30 seconds.
    ///
    /// # Errors
    ///
    /// [`OnRuntimeError::CurrentThread`]: the runtime is not a multi-thread one.
    pub fn on(handle: Handle, backend: B) -> Result<Self, OnRuntimeError> {
        if handle.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Err(OnRuntimeError::CurrentThread);
        }
        Ok(Self { backend: Arc::new(backend), handle, own: None, timeout: TIMEOUT, late: Arc::default() })
    }

    /// How long a call may take (30 seconds).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Waits until no batch that was given up goes on.
    fn wait_for_late(&self, until: Instant) -> Result<(), OnRuntimeError> {
        let count = lock(&self.late.count);
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.late.ended.wait_timeout_while(count, left, |count| *count > 0);
        let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match *count {
            0 => Ok(()),
            _ => Err(OnRuntimeError::StillRunning { waited: left }),
        }
    }

    /// Runs a task, and waits for what it answers.
    fn run<R: Send + 'static>(
        &self,
        task: impl Future<Output = R> + Send + 'static,
        until: Instant,
        goes_on: bool,
    ) -> Result<R, OnRuntimeError> {
        let call = Arc::new(Call { phase: Mutex::new(Phase::Running), changed: Condvar::new() });
        let end = End { call: call.clone(), late: self.late.clone() };
        let task = self.handle.spawn(async move {
            let end = end;
            let answer = task.await;
            end.with(Some(answer));
        });
        let left = until.saturating_duration_since(Instant::now());
        let waiting = |phase: &mut Phase<R>| matches!(phase, Phase::Running);
        let (mut phase, _) = call
            .changed
            .wait_timeout_while(lock(&call.phase), left, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *phase, Phase::Over(None)) {
            Phase::Over(answer) => answer.ok_or(OnRuntimeError::Ended),
            Phase::Running | Phase::Late if goes_on => {
                *phase = Phase::Late;
                *lock(&self.late.count) += 1;
                Err(OnRuntimeError::TimedOut { waited: self.timeout })
            }
            Phase::Running | Phase::Late => {
                task.abort();
                Err(OnRuntimeError::TimedOut { waited: self.timeout })
            }
        }
    }
}

impl<K, V, B> Backend<K, V> for OnRuntime<B>
where
    K: Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    B: AsyncBackend<K, V>,
{
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        let (backend, keys) = (self.backend.clone(), keys.to_vec());
        let until = Instant::now() + self.timeout;
        let task = async move { backend.load(&keys).await };
        hand_on(|| self.run(task, until, false)).unwrap_or_else(|error| Err(BackendError::transient(error)))
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        let (backend, own) = (self.backend.clone(), batch.clone());
        let until = Instant::now() + self.timeout;
        let answers = hand_on(|| {
            self.wait_for_late(until)?;
            self.run(async move { backend.apply(&own).await }, until, true)
        });
        answers.unwrap_or_else(|error| batch.none_stored(BackendError::transient(error)))
    }

    fn identity(&self) -> String {
        self.backend.identity()
    }
}

impl<B> Drop for OnRuntime<B> {
    fn drop(&mut self) {
        if let Some(runtime) = self.own.take() {
            // Not the ordinary drop, which waits, and panics where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

impl<B> fmt::Debug for OnRuntime<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnRuntime").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Waits with `wait`. On a worker thread of a runtime, another thread takes over its other tasks meanwhile: the awaited one
/// may be among them.
fn hand_on<R>(wait: impl FnOnce() -> R) -> R {
    let worker = Handle::try_current().is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread);
    let mut wait = Some(wait);
    let mut now = || wait.take().map(|wait| wait());
    // It panics in a few places in which blocking is not allowed; there it is better to block all the same.
    let waited = if worker {
        catch_unwind(AssertUnwindSafe(|| tokio::task::block_in_place(&mut now)))
    } else {
        Ok(now())
    };
    match waited {
        Ok(Some(answer)) => answer,
        Ok(None) => unreachable!("it is taken once"),
        Err(panic) => match now() {
            Some(answer) => answer,
            None => std::panic::resume_unwind(panic),
        },
    }
}

/// The batches that were given up and go on.
#[derive(Default)]
struct Late {
    count: Mutex<usize>,
    ended: Condvar,
}

/// One call.
struct Call<R> {
    phase: Mutex<Phase<R>>,
    changed: Condvar,
}

enum Phase<R> {
    Running,
    /// Nobody waits any more, but others wait for its end.
    Late,
    /// `None`: without an answer.
    Over(Option<R>),
}

/// The task's end of a call; dropped also when the task panics, or is dropped with its runtime.
struct End<R> {
    call: Arc<Call<R>>,
    late: Arc<Late>,
}

impl<R> End<R> {
    fn with(&self, answer: Option<R>) {
        let mut phase = lock(&self.call.phase);
        match *phase {
            Phase::Over(_) => return,
            Phase::Late => {
                *lock(&self.late.count) -= 1;
                self.late.ended.notify_all();
            }
            Phase::Running => {}
        }
        *phase = Phase::Over(answer);
        self.call.changed.notify_all();
    }
}

impl<R> Drop for End<R> {
    fn drop(&mut self) {
        self.with(None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
