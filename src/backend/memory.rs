//! A backend in memory that records every call: for tests, examples and experiments.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Answers, Backend, BackendError, Batch, Change, Op};

/// A [`Backend`] that keeps its rows in a `HashMap`, records every call, and misbehaves on request.
///
/// ```
/// use std::sync::Arc;
/// use writeback::{Cache, backend::Memory};
///
/// let rows = Arc::new(Memory::new());
/// let cache = Cache::builder().capacity(100).backend(rows.clone()).open::<u64, u64>()?;
/// for _ in 0..100 {
///     cache.update(7, |old| old.unwrap_or(&0) + 1)?;
/// }
/// cache.flush()?;
/// assert_eq!(rows.get(&7), Some(100));
/// assert_eq!(rows.ops_applied(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Memory<K, V> {
    state: Mutex<State<K, V>>,
    /// Asked before each operation; an `Err` is the answer for it and the row is left alone.
    fault: Mutex<Option<Fault<K, V>>>,
    /// Asked before each batch; an `Err` is the answer for all of it.
    batch_fault: Mutex<Option<BatchFault<K, V>>>,
    /// Called at the start of each call, outside every lock: a place to block or to be slow in.
    gate: Mutex<Option<Gate<K, V>>>,
}

type Fault<K, V> = Box<dyn FnMut(&Op<K, V>) -> Result<(), BackendError> + Send>;
type BatchFault<K, V> = Box<dyn FnMut(&Batch<K, V>) -> Result<(), BackendError> + Send>;
type Gate<K, V> = std::sync::Arc<dyn Fn(Doing<'_, K, V>) + Send + Sync>;

/// What a call to [`Memory`] is about to do, as its gate sees it.
#[derive(Debug)]
pub enum Doing<'a, K, V> {
    /// The keys of a `load`.
    Load(&'a [K]),
    /// The batch of an `apply`.
    Apply(&'a Batch<K, V>),
}

struct State<K, V> {
    rows: HashMap<K, V>,
    calls: Vec<Call<K, V>>,
    recording: bool,
    ops_applied: u64,
    batches: u64,
    loads: u64,
}

/// One recorded call to [`Memory`].
#[derive(Debug, Clone)]
pub enum Call<K, V> {
    /// The keys of a `load`, and when it was answered.
    Load {
        /// The keys that were asked for.
        keys: Vec<K>,
        /// When the answer was given.
        at: Instant,
    },
    /// The operations of an `apply`, with the answer that each was given.
    Apply {
        /// Each operation and whether it was stored.
        ops: Vec<(Op<K, V>, bool)>,
        /// When the answer was given.
        at: Instant,
        /// How long the call took, gate included.
        took: Duration,
    },
}

impl<K: Eq + Hash + Clone, V: Clone> Memory<K, V> {
    /// An empty database that records every call.
    #[must_use]
    pub fn new() -> Self {
        Self::with_recording(true)
    }

    /// An empty database that counts calls but does not keep them: for long runs.
    #[must_use]
    pub fn unrecorded() -> Self {
        Self::with_recording(false)
    }

    fn with_recording(recording: bool) -> Self {
        let state = State {
            rows: HashMap::new(),
            calls: Vec::new(),
            recording,
            ops_applied: 0,
            batches: 0,
            loads: 0,
        };
        Self {
            state: Mutex::new(state),
            fault: Mutex::new(None),
            batch_fault: Mutex::new(None),
            gate: Mutex::new(None),
        }
    }

    /// The row of `key`.
    pub fn get(&self, key: &K) -> Option<V> {
        lock(&self.state).rows.get(key).cloned()
    }

    /// Stores a row behind the cache's back.
    pub fn insert(&self, key: K, value: V) -> Option<V> {
        lock(&self.state).rows.insert(key, value)
    }

    /// A copy of all rows.
    pub fn rows(&self) -> HashMap<K, V> {
        lock(&self.state).rows.clone()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        lock(&self.state).rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All calls so far, in the order in which they were answered.
    pub fn calls(&self) -> Vec<Call<K, V>> {
        lock(&self.state).calls.clone()
    }

    /// Every operation on `key` that was stored, in order.
    pub fn history(&self, key: &K) -> Vec<Op<K, V>> {
        let state = lock(&self.state);
        let ops = state.calls.iter().filter_map(|call| match call {
            Call::Apply { ops, .. } => Some(ops),
            Call::Load { .. } => None,
        });
        ops.flatten().filter(|(op, stored)| *stored && op.key() == key).map(|(op, _)| op.clone()).collect()
    }

    /// How many operations were stored.
    pub fn ops_applied(&self) -> u64 {
        lock(&self.state).ops_applied
    }

    /// How many times `apply` was called.
    pub fn batches(&self) -> u64 {
        lock(&self.state).batches
    }

    /// How many times `load` was called.
    pub fn loads(&self) -> u64 {
        lock(&self.state).loads
    }

    /// Asks `fault` before each operation from now on; its `Err` is the answer, and the row is left alone.
    pub fn set_fault(&self, fault: impl FnMut(&Op<K, V>) -> Result<(), BackendError> + Send + 'static) {
        *lock(&self.fault) = Some(Box::new(fault));
    }

    /// Asks `fault` before each batch from now on; with its `Err` the batch is refused as a whole, as by a database that rolls a
    /// transaction back and does not say for which of its rows.
    pub fn set_batch_fault(
        &self,
        fault: impl FnMut(&Batch<K, V>) -> Result<(), BackendError> + Send + 'static,
    ) {
        *lock(&self.batch_fault) = Some(Box::new(fault));
    }

    /// Every operation and every batch succeeds again.
    pub fn clear_fault(&self) {
        *lock(&self.fault) = None;
        *lock(&self.batch_fault) = None;
    }

    /// Calls `gate` at the start of every call from now on, while no lock is held: it may block, sleep or panic.
    pub fn set_gate(&self, gate: impl Fn(Doing<'_, K, V>) + Send + Sync + 'static) {
        *lock(&self.gate) = Some(std::sync::Arc::new(gate));
    }

    /// Calls go straight through again.
    pub fn clear_gate(&self) {
        *lock(&self.gate) = None;
    }

    fn pass_gate(&self, doing: Doing<'_, K, V>) {
        let gate = lock(&self.gate).clone();
        if let Some(gate) = gate {
            gate(doing);
        }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Default for Memory<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> fmt::Debug for Memory<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Memory")
            .field("rows", &state.rows.len())
            .field("ops_applied", &state.ops_applied)
            .finish()
    }
}

impl<K, V> Backend<K, V> for Memory<K, V>
where
    K: Eq + Hash + Clone + Send + Sync,
    V: Clone + Send + Sync,
{
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        // Read first, wait afterwards: a slow load that comes back with what was true at its start is the hard case.
        let values = {
            let mut state = lock(&self.state);
            state.loads += 1;
            keys.iter().map(|key| state.rows.get(key).cloned()).collect()
        };
        self.pass_gate(Doing::Load(keys));
        let mut state = lock(&self.state);
        if state.recording {
            state.calls.push(Call::Load { keys: keys.to_vec(), at: Instant::now() });
        }
        Ok(values)
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        let start = Instant::now();
        self.pass_gate(Doing::Apply(batch));
        let refused = lock(&self.batch_fault).as_mut().and_then(|fault| fault(batch).err());
        let mut fault = lock(&self.fault);
        let mut state = lock(&self.state);
        let answers = match refused {
            Some(error) => batch.none_stored(error),
            None => batch.answer_each(|op| {
                if let Some(fault) = fault.as_mut() {
                    fault(op)?;
                }
                state.ops_applied += 1;
                match op.change() {
                    Change::Upsert(value) => drop(state.rows.insert(op.key().clone(), value.clone())),
                    Change::Delete => drop(state.rows.remove(op.key())),
                }
                Ok(())
            }),
        };
        state.batches += 1;
        if state.recording {
            let ops = batch.ops().iter().cloned().zip(answers.as_slice().iter().map(Result::is_ok)).collect();
            state.calls.push(Call::Apply { ops, at: Instant::now(), took: start.elapsed() });
        }
        answers
    }
}

/// A panic inside a gate or a fault must not take the rows with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
