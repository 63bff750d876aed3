//! Loads that are under way, and the readers that wait for them.

use std::{collections::HashMap, sync::Arc};

use crate::{
    BackendError,
    sync::{Condvar, Mutex, lock},
    table::SlotId,
};

/// How a load ended.
#[derive(Clone)]
pub(super) enum Landing<V> {
    /// The backend's answer; no row is an answer.
    Loaded(Option<V>),
    Failed(BackendError),
    /// A write or an invalidation came first: look again.
    Overtaken,
}

/// One load, and everyone who waits for it.
pub(super) struct Flight<V> {
    landing: Mutex<Option<Landing<V>>>,
    landed: Condvar,
}

impl<V: Clone> Flight<V> {
    pub(super) fn wait(&self) -> Landing<V> {
        let mut landing = lock(&self.landing);
        loop {
            match &*landing {
                Some(landing) => return landing.clone(),
                None => {
                    landing = self.landed.wait(landing).unwrap_or_else(std::sync::PoisonError::into_inner)
                }
            }
        }
    }

    pub(super) fn land(&self, result: Landing<V>) {
        *lock(&self.landing) = Some(result);
        self.landed.notify_all();
    }
}

const SHARDS: usize = 16;

/// Flights by the slot of their placeholder. Touched by misses only.
pub(super) struct Flights<V> {
    shards: [Mutex<HashMap<u32, Arc<Flight<V>>>>; SHARDS],
}

impl<V> Flights<V> {
    pub(super) fn new() -> Self {
        Flights { shards: std::array::from_fn(|_| Mutex::new(HashMap::new())) }
    }

    fn shard(&self, slot: SlotId) -> &Mutex<HashMap<u32, Arc<Flight<V>>>> {
        &self.shards[slot.0 as usize % SHARDS]
    }

    /// Registers a flight, before its placeholder can be seen.
    pub(super) fn take_off(&self, slot: SlotId) -> Arc<Flight<V>> {
        let flight = Arc::new(Flight { landing: Mutex::new(None), landed: Condvar::new() });
        lock(self.shard(slot)).insert(slot.0, Arc::clone(&flight));
        flight
    }

    /// The flight of a placeholder that was seen under a pin which still holds; `None`: it has landed since.
    pub(super) fn find(&self, slot: SlotId) -> Option<Arc<Flight<V>>> {
        lock(self.shard(slot)).get(&slot.0).cloned()
    }

    /// Forgets a flight, before its slot can be used again.
    pub(super) fn forget(&self, slot: SlotId) {
        lock(self.shard(slot)).remove(&slot.0);
    }
}
