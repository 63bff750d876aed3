//! A backend that fails now and then, and knows what it may rely on.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::draw;
use crate::{Answers, Backend, BackendError, Batch, Change, Op, sync::point};

/// One row: its value and version. `None`: the row was deleted.
type Row<V> = (Option<V>, u64);

pub(super) struct Rows<V = u64> {
    /// Never held across a point.
    state: Mutex<State<V>>,
}

struct State<V> {
    rows: BTreeMap<u64, Row<V>>,
    /// Keys of the batch that is on its way.
    in_flight: Vec<u64>,
    /// How often it may still fail in this execution: so that a drain comes to its end.
    failures: u64,
    problems: Vec<String>,
}

impl<V: Clone> Rows<V> {
    pub(super) fn new(failures: u64) -> Self {
        let (rows, in_flight, problems) = (BTreeMap::new(), Vec::new(), Vec::new());
        Rows { state: Mutex::new(State { rows, in_flight, failures, problems }) }
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: u64) -> Option<V> {
        self.state().rows.get(&key)?.0.clone()
    }

    /// The row's version, and its value.
    pub(super) fn row(&self, key: u64) -> Option<(u64, Option<V>)> {
        self.state().rows.get(&key).map(|(value, version)| (*version, value.clone()))
    }

    /// Fails if the engine broke a promise: one write of a key at a time, versions that do not fall.
    pub(super) fn check(&self) {
        assert_eq!(self.state().problems, Vec::<String>::new());
    }

    /// Whether to fail: one time in three, as long as it may.
    fn fails(&self) -> bool {
        let mut state = self.state();
        let fails = state.failures > 0 && draw(3) == 0;
        state.failures -= u64::from(fails);
        fails
    }

    fn store(&self, op: &Op<u64, V>) {
        let mut state = self.state();
        let value = match op.change() {
            Change::Upsert(value) => Some(value.clone()),
            Change::Delete => None,
        };
        let before = state.rows.insert(*op.key(), (value, op.version()));
        if before.is_some_and(|(_, version)| version > op.version()) {
            state.problems.push(format!("key {}: an older version after a newer one", op.key()));
        }
    }
}

impl<V: Clone + Send + Sync> Backend<u64, V> for Rows<V> {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<V>>, BackendError> {
        point();
        let found = keys.iter().map(|key| self.get(*key)).collect();
        // What was read is old by now.
        point();
        Ok(found)
    }

    fn apply(&self, batch: &Batch<u64, V>) -> Answers {
        for op in batch.ops() {
            let mut state = self.state();
            if state.in_flight.contains(op.key()) {
                state.problems.push(format!("key {} is written twice at once", op.key()));
            }
            state.in_flight.push(*op.key());
        }
        point();
        let answers = if self.fails() {
            batch.none_stored(BackendError::transient("away"))
        } else {
            batch.answer_each(|op| {
                point();
                let fails = self.fails();
                // Half of what fails has been stored all the same.
                if !fails || draw(2) == 0 {
                    self.store(op);
                }
                if fails { Err(BackendError::transient("lost")) } else { Ok(()) }
            })
        };
        point();
        self.state().in_flight.clear();
        answers
    }
}
