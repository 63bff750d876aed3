//! Random numbers that a seed brings back: which misfortunes there are and in which order. How threads interleave, no seed says.

use std::time::Duration;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

/// A good mixture of the bits of a number.
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Random {
    /// Another row of numbers for each `part` of a run.
    pub(crate) fn new(seed: u64, part: u64) -> Self {
        Random(mix(mix(seed) ^ part))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// At least `from` and less than `to`, short ones more often than long ones.
    pub(crate) fn time(&mut self, from: Duration, to: Duration) -> Duration {
        let share = self.below(1 << 20) as f64 / (1 << 20) as f64;
        from + to.saturating_sub(from).mul_f64(share * share)
    }

    pub(crate) fn shuffle<T>(&mut self, deck: &mut [T]) {
        for last in (1..deck.len()).rev() {
            deck.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
