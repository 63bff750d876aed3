//! How a thread adds to the numbers in the cache.

use std::hash::Hash;

use writeback::{Cache, Error, ErrorClass, Handle};

/// A thread's way into the cache: a lane of its own while there is a free one.
pub(crate) struct Writer<'a, K, V> {
    cache: &'a Cache<K, V>,
    lane: Option<Handle<K, V>>,
}

impl<'a, K: Hash + Eq + Clone + Send + Sync + 'static> Writer<'a, K, i64> {
    pub(crate) fn new(cache: &'a Cache<K, i64>) -> Self {
        Self { cache, lane: cache.handle().ok() }
    }

    /// Adds `n` to the number of `key`, which starts at zero.
    pub(crate) fn add(&self, key: K, n: i64) -> Result<(), Error> {
        let sum = |old: Option<&i64>| old.copied().unwrap_or(0).saturating_add(n);
        match &self.lane {
            Some(lane) => lane.update(key, sum).map(drop),
            None => self.cache.update(key, sum).map(drop),
        }
    }
}

/// Whether the same write may be taken later.
pub(crate) fn may_pass(error: &Error) -> bool {
    match error {
        Error::Backpressure { .. } => true,
        Error::Load(cause) => cause.class() == ErrorClass::Transient,
        _ => false,
    }
}
