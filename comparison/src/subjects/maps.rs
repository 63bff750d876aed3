//! Concurrent maps: no bound, no eviction.

use super::{Hasher, Subject};

pub(super) struct Dash(dashmap::DashMap<u64, u64, Hasher>);

impl Dash {
    pub(super) fn new(capacity: usize) -> Self {
        Dash(dashmap::DashMap::with_capacity_and_hasher(capacity, Hasher::default()))
    }
}

impl Subject for Dash {
    type Local<'a> = &'a Dash;

    fn name(&self) -> &'static str {
        "dashmap"
    }

    fn local(&self) -> &Dash {
        self
    }

    #[inline]
    fn get(map: &&Dash, key: u64) -> Option<u64> {
        map.0.get(&key).map(|value| *value)
    }

    #[inline]
    fn put(map: &&Dash, key: u64, value: u64) {
        map.0.insert(key, value);
    }

    fn remove(map: &&Dash, key: u64) {
        map.0.remove(&key);
    }
}

pub(super) struct Scc(scc::HashMap<u64, u64, Hasher>);

impl Scc {
    pub(super) fn new(capacity: usize) -> Self {
        Scc(scc::HashMap::with_capacity_and_hasher(capacity, Hasher::default()))
    }
}

impl Subject for Scc {
    type Local<'a> = &'a Scc;

    fn name(&self) -> &'static str {
        "scc"
    }

    fn local(&self) -> &Scc {
        self
    }

    #[inline]
    fn get(map: &&Scc, key: u64) -> Option<u64> {
        map.0.read_sync(&key, |_, value| *value)
    }

    #[inline]
    fn put(map: &&Scc, key: u64, value: u64) {
        map.0.upsert_sync(key, value);
    }

    fn remove(map: &&Scc, key: u64) {
        map.0.remove_sync(&key);
    }
}

pub(super) struct Papaya(papaya::HashMap<u64, u64, Hasher>);

impl Papaya {
    pub(super) fn new(capacity: usize) -> Self {
        Papaya(papaya::HashMap::with_capacity_and_hasher(capacity, Hasher::default()))
    }
}

impl Subject for Papaya {
    // A guard for each operation: one that is held for long keeps everything that is replaced meanwhile in memory.
    type Local<'a> = &'a Papaya;

    fn name(&self) -> &'static str {
        "papaya"
    }

    fn local(&self) -> &Papaya {
        self
    }

    #[inline]
    fn get(map: &&Papaya, key: u64) -> Option<u64> {
        map.0.pin().get(&key).copied()
    }

    #[inline]
    fn put(map: &&Papaya, key: u64, value: u64) {
        map.0.pin().insert(key, value);
    }

    fn remove(map: &&Papaya, key: u64) {
        map.0.pin().remove(&key);
    }
}
