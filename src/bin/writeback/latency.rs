//! How long the cache took to acknowledge a write.
//!
//! Each writer records into a histogram of its own and publishes it now and then, so that the live view costs
//! the writers next to nothing.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::{CreationError, Histogram};

/// How old what a writer has published can get.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// Times from 1 ns to 60 s to three digits; a longer one counts as 60 s.
fn histogram() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
}

/// What a writer has published.
pub(crate) struct Published(Mutex<Histogram<u64>>);

impl Published {
    pub(crate) fn new() -> Result<Self, CreationError> {
        histogram().map(|histogram| Self(Mutex::new(histogram)))
    }

    /// The percentiles of all that was published.
    pub(crate) fn percentiles(all: &[Published]) -> Option<Percentiles> {
        let mut merged = histogram().ok()?;
        for one in all {
            // All have the same bounds, so that adding cannot fail.
            let _ = merged.add(&*one.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
        (!merged.is_empty()).then(|| Percentiles {
            p50: merged.value_at_quantile(0.50),
            p99: merged.value_at_quantile(0.99),
            p99_9: merged.value_at_quantile(0.999),
            max: merged.max(),
        })
    }
}

/// A writer's own recorder.
pub(crate) struct Recorder<'a> {
    own: Histogram<u64>,
    published: &'a Published,
    due: Instant,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(published: &'a Published) -> Result<Self, CreationError> {
        Ok(Self { own: histogram()?, published, due: Instant::now() + PUBLISH_EVERY })
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.own.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Publishes if it is time to.
    pub(crate) fn publish(&mut self, now: Instant) {
        if now >= self.due {
            self.publish_now();
            self.due = now + PUBLISH_EVERY;
        }
    }

    fn publish_now(&mut self) {
        let mut published = self.published.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = published.add(&self.own);
        self.own.reset();
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        self.publish_now();
    }
}

/// Latencies in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}
