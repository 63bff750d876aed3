//! Bounded caches that evict; none of them knows of dirtiness or of a database.

use super::{Hasher, Subject};

pub(crate) struct Quick(quick_cache::sync::Cache<u64, u64, quick_cache::UnitWeighter, Hasher>);

impl Quick {
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with(capacity, &mut quick_cache::OptionsBuilder::new())
    }

    /// Bounded and evicting as a whole, not by parts.
    pub(crate) fn unsharded(capacity: usize) -> Self {
        Self::with(capacity, quick_cache::OptionsBuilder::new().shards(1))
    }

    fn with(capacity: usize, options: &mut quick_cache::OptionsBuilder) -> Self {
        let options = options.estimated_items_capacity(capacity).weight_capacity(capacity as u64);
        Quick(quick_cache::sync::Cache::with_options(
            options.build().expect("a capacity is all it needs"),
            quick_cache::UnitWeighter,
            Hasher::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        ))
    }
}

impl Subject for Quick {
    type Local<'a> = &'a Quick;

    fn name(&self) -> &'static str {
        "quick_cache"
    }

    fn local(&self) -> &Quick {
        self
    }

    #[inline]
    fn get(cache: &&Quick, key: u64) -> Option<u64> {
        cache.0.get(&key)
    }

    #[inline]
    fn put(cache: &&Quick, key: u64, value: u64) {
        cache.0.insert(key, value);
    }

    fn remove(cache: &&Quick, key: u64) {
        cache.0.remove(&key);
    }

    fn evicts(&self) -> bool {
        true
    }
}

/// Its hash function cannot be chosen.
pub(crate) struct TinyUfo(tinyufo::TinyUfo<u64, u64>);

impl TinyUfo {
    pub(crate) fn new(capacity: usize) -> Self {
        TinyUfo(tinyufo::TinyUfo::new(capacity, capacity))
    }
}

impl Subject for TinyUfo {
    type Local<'a> = &'a TinyUfo;

    fn name(&self) -> &'static str {
        "TinyUFO"
    }

    fn local(&self) -> &TinyUfo {
        self
    }

    #[inline]
    fn get(cache: &&TinyUfo, key: u64) -> Option<u64> {
        cache.0.get(&key)
    }

    #[inline]
    fn put(cache: &&TinyUfo, key: u64, value: u64) {
        cache.0.put(key, value, 1);
    }

    fn remove(cache: &&TinyUfo, key: u64) {
        cache.0.remove(&key);
    }

    fn evicts(&self) -> bool {
        true
    }
}

/// Its part in memory.
pub(crate) struct Foyer(foyer::Cache<u64, u64, Hasher>);

impl Foyer {
    pub(crate) fn new(capacity: usize) -> Self {
        Foyer(foyer::CacheBuilder::new(capacity).with_hash_builder(Hasher::default()).build())
    }

    /// Bounded and evicting as a whole, not by parts.
    pub(crate) fn unsharded(capacity: usize) -> Self {
        let builder = foyer::CacheBuilder::new(capacity).with_shards(1);
        Foyer(builder.with_hash_builder(Hasher::default()).build())
    }
}

impl Subject for Foyer {
    type Local<'a> = &'a Foyer;

    fn name(&self) -> &'static str {
        "foyer"
    }

    fn local(&self) -> &Foyer {
        self
    }

    #[inline]
    fn get(cache: &&Foyer, key: u64) -> Option<u64> {
        cache.0.get(&key).map(|entry| *entry.value())
    }

    #[inline]
    fn put(cache: &&Foyer, key: u64, value: u64) {
        drop(cache.0.insert(key, value));
    }

    fn remove(cache: &&Foyer, key: u64) {
        drop(cache.0.remove(&key));
    }

    fn evicts(&self) -> bool {
        true
    }
}

pub(crate) struct Moka(moka::sync::Cache<u64, u64, Hasher>);

impl Moka {
    pub(crate) fn new(capacity: usize) -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(capacity as u64).initial_capacity(capacity);
        Moka(builder.build_with_hasher(Hasher::default()))
    }
}

impl Subject for Moka {
    type Local<'a> = &'a Moka;

    fn name(&self) -> &'static str {
        "moka"
    }

    fn local(&self) -> &Moka {
        self
    }

    #[inline]
    fn get(cache: &&Moka, key: u64) -> Option<u64> {
        cache.0.get(&key)
    }

    #[inline]
    fn put(cache: &&Moka, key: u64, value: u64) {
        cache.0.insert(key, value);
    }

    fn remove(cache: &&Moka, key: u64) {
        cache.0.invalidate(&key);
    }

    fn settle(&self) {
        self.0.run_pending_tasks();
    }

    fn evicts(&self) -> bool {
        true
    }
}
