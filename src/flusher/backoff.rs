//! How long to wait before a refused write is tried again.

use std::time::Duration;

/// Exponential, with a cap, and with jitter so that many caches do not come back to one database at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    /// State of a xorshift generator: jitter needs no better one.
    random: u64,
}

impl Backoff {
    pub(crate) fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        Backoff { first, cap, random: seed | 1 }
    }

    /// The delay after this many refusals in a row: doubling, capped, and then between half of it and all of it.
    pub(crate) fn delay(&mut self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(30)).min(self.cap);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = (self.random >> 40) as f64 / (1u64 << 24) as f64;
        doubled.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_spreads() {
        let (first, cap) = (Duration::from_millis(100), Duration::from_secs(3));
        let mut backoff = Backoff::new(first, cap, 42);
        for failures in 1..100 {
            let full = first.saturating_mul(1 << (failures - 1).min(20)).min(cap);
            let delays: Vec<_> = (0..50).map(|_| backoff.delay(failures)).collect();
            assert!(delays.iter().all(|delay| *delay >= full / 2 && *delay <= full));
            assert!(delays.iter().max() > delays.iter().min(), "no jitter");
        }
    }
}
