//! One bit for each place of the table: what did not go through a ring. The flusher sweeps it.

use crate::sync::{AtomicU64, Ordering};
use crate::table::Position;

/// Two levels: a bit for each place, and above it a bit for each word of bits that may hold one.
pub(crate) struct DirtyMap {
    bits: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
}

impl DirtyMap {
    pub(crate) fn new(positions: usize) -> Self {
        let zeros = |bits: usize| (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let bits = zeros(positions);
        let summary = zeros(bits.len());
        DirtyMap { bits, summary }
    }

    /// The flusher will look at this place.
    pub(crate) fn mark(&self, at: Position) {
        let word = at.index() / 64;
        // Release, both: the table word came before the bit, the bit before its summary. Pair with `sweep`.
        let order = if cfg!(mutant = "map_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        let (bits, summary) = (&self.bits[word], &self.summary[word / 64]);
        if cfg!(mutant = "map_order") {
            summary.fetch_or(1 << (word % 64), order);
            bits.fetch_or(1 << (at.index() % 64), order);
            return;
        }
        bits.fetch_or(1 << (at.index() % 64), order);
        summary.fetch_or(1 << (word % 64), order);
    }

    /// Clears all bits, and gives the place of each to `found`. Only the flusher does this.
    pub(crate) fn sweep(&self, mut found: impl FnMut(Position)) {
        for (high, summary) in self.summary.iter().enumerate() {
            // Relaxed: most are zero, and a mark that is just being made is found by the next sweep.
            if summary.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Acquire: pairs with `mark`. The summary goes first, so that a mark in between sets it again.
            for middle in ones(summary.swap(0, Ordering::Acquire)) {
                let word = high * 64 + middle;
                for low in ones(self.bits[word].swap(0, Ordering::Acquire)) {
                    found(Position::from_index(word * 64 + low));
                }
            }
        }
    }

    /// Whether a sweep would find something.
    pub(crate) fn has_marks(&self) -> bool {
        // Relaxed: as in `Consumer::has_more`.
        self.summary.iter().any(|summary| summary.load(Ordering::Relaxed) != 0)
    }
}

fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            bit
        })
    })
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn finds_each_mark_once() {
        let map = DirtyMap::new(100_000);
        let marks = [0, 1, 63, 64, 4095, 4096, 70_000, 99_999];
        for at in marks.into_iter().rev() {
            map.mark(Position::from_index(at));
            map.mark(Position::from_index(at));
        }
        assert!(map.has_marks());
        let mut found = Vec::new();
        map.sweep(|at| found.push(at.index()));
        assert_eq!(found, marks);
        assert!(!map.has_marks());
        map.sweep(|_| panic!("swept twice"));
    }
}
