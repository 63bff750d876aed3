//! The circuit breaker: while the backend takes nothing at all, it is asked now and then, and not for each entry.
//!
//! An operation that fails alone is no outage: it backs off by itself. An outage is a batch of which nothing was stored,
//! because the backend said so of the batch as a whole, panicked, or refused each of several operations for the moment. Then
//! nothing is sent until the next *probe*: a small batch, one at a time, later and later up to the cap, for days if need be.
//! When the backend takes something again, batches grow from there.

use std::time::Duration;

use super::backoff::Backoff;

pub(super) struct Breaker {
    backoff: Backoff,
    /// How many batches in a row have found the backend down.
    failures: u32,
    /// If it is open: when the next probe is due, by the clock.
    until: Option<Duration>,
}

impl Breaker {
    pub(super) fn new(backoff: Backoff) -> Self {
        Breaker { backoff, failures: 0, until: None }
    }

    /// Whether the backend was down when it was last asked.
    pub(super) fn is_open(&self) -> bool {
        self.until.is_some()
    }

    /// Until when nothing is to be sent.
    pub(super) fn holds(&self, now: Duration) -> Option<Duration> {
        self.until.filter(|until| now < *until)
    }

    /// The backend is down.
    pub(super) fn open(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now.saturating_add(self.backoff.delay(self.failures)));
    }

    /// The backend has taken something. `true`: it was down before.
    pub(super) fn close(&mut self) -> bool {
        self.failures = 0;
        self.until.take().is_some()
    }

    /// Somebody asks: the next probe is due now.
    pub(super) fn probe_now(&mut self) {
        if let Some(until) = &mut self.until {
            *until = Duration::ZERO;
        }
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn probes_come_later_and_later_and_end_with_a_success() {
        let (first, cap) = (Duration::from_millis(100), Duration::from_secs(30));
        let mut breaker = Breaker::new(Backoff::new(first, cap, 7));
        assert!(!breaker.is_open() && breaker.holds(Duration::ZERO).is_none());
        let (mut now, mut probes) = (Duration::ZERO, 0);
        while now < Duration::from_secs(3600) {
            breaker.open(now);
            let until = breaker.holds(now).expect("open");
            assert!(until > now && until <= now + cap);
            now = until;
            assert!(breaker.is_open() && breaker.holds(now).is_none(), "a probe is due");
            probes += 1;
        }
        assert!((120..260).contains(&probes), "{probes} in an hour");
        breaker.open(now);
        breaker.probe_now();
        assert!(breaker.is_open() && breaker.holds(now).is_none());
        assert!(breaker.close() && !breaker.close());
        breaker.open(now);
        assert!(breaker.holds(now + first).is_none(), "it begins with the first delay again");
    }
}
