//! What the benches share: a backend that costs nothing, and keys.

// Not every bench uses all of it.
#![allow(dead_code)]

use writeback::{Answers, Backend, BackendError, Batch};

/// A database that takes everything at once, or nothing at all.
pub(crate) struct Nowhere {
    pub(crate) is_down: bool,
}

impl<V: Send + Sync> Backend<u64, V> for Nowhere {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<V>>, BackendError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    fn apply(&self, batch: &Batch<u64, V>) -> Answers {
        if self.is_down { batch.none_stored(BackendError::transient("down")) } else { batch.all_stored() }
    }

    fn identity(&self) -> String {
        "nowhere".to_owned()
    }
}

pub(crate) const TAKES_ALL: Nowhere = Nowhere { is_down: false };

/// A folder on the disk that the crate is built on: not in memory, where a sync costs nothing.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Numbers from 0 to 1 that are the same in each run.
pub(crate) fn randoms() -> impl Iterator<Item = f64> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as f64 / (1_u64 << 53) as f64
    })
}

/// Zipf-distributed keys (exponent 0.99), by inversion of the distribution.
pub(crate) fn zipf(keys: usize, count: usize) -> Vec<u64> {
    let mut sum = 0.0;
    let add = |rank: usize| {
        sum += (rank as f64).powf(-0.99);
        sum
    };
    let cumulated: Vec<f64> = (1..=keys).map(add).collect();
    let rank = |random: f64| cumulated.partition_point(|upto| *upto < random * sum) as u64;
    randoms().take(count).map(|random| key(rank(random))).collect()
}

pub(crate) fn uniform(keys: usize, count: usize) -> Vec<u64> {
    randoms().take(count).map(|random| key((random * keys as f64) as u64)).collect()
}

/// Spreads ranks over the numbers.
pub(crate) fn key(rank: u64) -> u64 {
    rank.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
