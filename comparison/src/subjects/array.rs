//! The measure of all others: no keys, no collisions, no bound, only the memory access that nobody can do without.

use std::{
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{BASE, Hasher, Subject};

pub(super) struct Array {
    hasher: Hasher,
    values: Box<[AtomicU64]>,
}

impl Array {
    /// A power of two, so that a mask does for an index.
    pub(super) fn new(capacity: usize) -> Self {
        let len = capacity.next_power_of_two();
        // The power of two that is nearest: a million keys take 2^20 places, not 2^21, if they have a little more room.
        let len = if len - capacity > capacity - len / 2 { len / 2 } else { len };
        Array { hasher: Hasher::default(), values: (0..len).map(|_| AtomicU64::new(0)).collect() }
    }

    #[inline]
    fn value(&self, key: u64) -> &AtomicU64 {
        &self.values[self.hasher.hash_one(key) as usize & (self.values.len() - 1)]
    }
}

impl Subject for Array {
    type Local<'a> = &'a Array;

    fn name(&self) -> &'static str {
        BASE
    }

    fn local(&self) -> &Array {
        self
    }

    #[inline]
    fn get(array: &&Array, key: u64) -> Option<u64> {
        Some(array.value(key).load(Ordering::Relaxed))
    }

    #[inline]
    fn put(array: &&Array, key: u64, value: u64) {
        array.value(key).store(value, Ordering::Relaxed);
    }

    fn remove(array: &&Array, key: u64) {
        array.value(key).store(0, Ordering::Relaxed);
    }
}
