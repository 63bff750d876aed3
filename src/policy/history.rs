//! What is remembered of keys that have left: how often they were used, and which queue they left from.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The largest count of uses.
pub(super) const MAX_COUNT: u8 = 15;

const LANES: [u32; 4] = [0, 16, 32, 48];

/// Counts of uses by fingerprint. Each word has four lanes of 12 bits of fingerprint and a 4-bit count, the newest in the
/// lowest; a full word forgets the smallest count, of equal ones the oldest.
///
/// All in one word changes in one compare-and-swap. One that fails is not tried again: history is a hint.
pub(super) struct History {
    words: Box<[AtomicU64]>,
}

impl History {
    /// Remembers about `2 * keys` keys.
    pub(super) fn new(keys: usize) -> Self {
        History { words: (0..keys.div_ceil(2)).map(|_| AtomicU64::new(0)).collect() }
    }

    fn locate(&self, hash: u64) -> (&AtomicU64, u64) {
        (&self.words[scale(hash, self.words.len())], (hash & 0xfff).max(1))
    }

    /// How often the key was used when it left, and forgets it; 0 if nothing is known of it.
    pub(super) fn take(&self, hash: u64) -> u8 {
        let (word, fingerprint) = self.locate(hash);
        // Relaxed, here and below: a hint that orders nothing.
        let now = word.load(Ordering::Relaxed);
        let Some(lane) = LANES.into_iter().find(|lane| now >> (lane + 4) & 0xfff == fingerprint) else {
            return 0;
        };
        let newer = (1u64 << lane) - 1;
        let without = now & newer | (now >> 16) & !newer;
        let _ = word.compare_exchange(now, without, Ordering::Relaxed, Ordering::Relaxed);
        (now >> lane & 0xf) as u8
    }

    /// Remembers how often the key was used.
    pub(super) fn put(&self, hash: u64, count: u8) {
        let (word, fingerprint) = self.locate(hash);
        let now = word.load(Ordering::Relaxed);
        let worth = |lane: &u32| match now >> lane & 0xffff {
            0 => 0,
            known => 1 + (known & 0xf),
        };
        // From the oldest on, so that of equal ones the oldest goes.
        let lane = LANES.into_iter().rev().min_by_key(worth).unwrap_or(0);
        let newer = (1u64 << lane) - 1;
        let older = !(newer << 16 | 0xffff);
        let with = now & older | (now & newer) << 16 | fingerprint << 4 | u64::from(count.min(MAX_COUNT));
        let _ = word.compare_exchange(now, with, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Halves the counts of the word that holds key number `index`, rounding up, so that a use is never quite forgotten.
    pub(super) fn age(&self, index: usize) {
        if let (true, Some(word)) = (index.is_multiple_of(2), self.words.get(index / 2)) {
            let now = word.load(Ordering::Relaxed);
            let halves = now >> 1 & 0x0007_0007_0007_0007;
            let _ = word.compare_exchange(now, now - halves, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// A few fingerprints of keys that have just left a queue: if one of them comes back, the queue was too short.
pub(super) struct Ghosts {
    cells: Box<[AtomicU32]>,
}

impl Ghosts {
    pub(super) fn new(keys: usize) -> Self {
        Ghosts { cells: (0..keys).map(|_| AtomicU32::new(0)).collect() }
    }

    fn locate(&self, hash: u64) -> Option<(&AtomicU32, u32)> {
        let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // An empty set has no cell for anything.
        Some((self.cells.get(scale(hash, self.cells.len()))?, (hash as u32).max(1)))
    }

    pub(super) fn put(&self, hash: u64) {
        if let Some((cell, fingerprint)) = self.locate(hash) {
            cell.store(fingerprint, Ordering::Relaxed);
        }
    }

    /// Whether the key has just left; forgets it.
    pub(super) fn take(&self, hash: u64) -> bool {
        self.locate(hash).is_some_and(|(cell, fingerprint)| {
            let known = cell.load(Ordering::Relaxed) == fingerprint;
            if known {
                cell.store(0, Ordering::Relaxed);
            }
            known
        })
    }
}

/// The upper half of a hash as a number below `len`.
fn scale(hash: u64, len: usize) -> usize {
    (((hash >> 32) * len as u64) >> 32) as usize
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn history_remembers_counts_and_forgets_the_least_used() {
        let history = History::new(2);
        let key = |n: u64| n << 8 | n;
        for (n, count) in [(1, 5), (2, 1), (3, 7), (4, 2)] {
            history.put(key(n), count);
        }
        // The fifth takes the place of the least used.
        history.put(key(5), 3);
        assert_eq!([1, 2, 3, 4, 5].map(|n| history.take(key(n))), [5, 0, 7, 2, 3]);
        assert_eq!(history.take(key(1)), 0);
    }

    #[test]
    fn ageing_halves_and_rounds_up() {
        let history = History::new(2);
        history.put(7, 9);
        for expected in [5, 3, 2, 1, 1] {
            history.age(0);
            assert_eq!(history.take(7), expected);
            history.put(7, expected);
        }
    }

    #[test]
    fn ghosts_know_who_has_just_left() {
        let ghosts = Ghosts::new(64);
        ghosts.put(42);
        assert!(ghosts.take(42) && !ghosts.take(42));
        assert!(!Ghosts::new(0).take(42));
    }
}
