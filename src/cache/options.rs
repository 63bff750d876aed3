//! What one write may ask for that differs from what the builder said.

use std::time::Duration;

use super::Ack;

/// What a write does that finds no room: as much is dirty as [`max_dirty`](crate::Builder::max_dirty) or
/// [`max_dirty_bytes`](crate::Builder::max_dirty_bytes) allow, the cache is full of entries that the backend has not taken, or
/// its journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OnFull {
    /// It waits, at most for the write timeout, and then fails with [`Error::Backpressure`](crate::Error::Backpressure) (or
    /// [`JournalFull`](crate::Error::JournalFull)). While the room gets scarce it is slowed down, see
    /// [`Builder::throttle`](crate::Builder::throttle).
    #[default]
    Wait,
    /// It fails with that error at once, and is never slowed down. Where the cache only has to tidy up (it is full, but not of
    /// dirty entries) it may take 5 ms first.
    Error,
    /// At a dirty limit it goes through: it is made, over the limit, and returns when it is in the backend, as with
    /// [`Ack::Backend`], but with [`NotFlushed`](crate::Error::NotFlushed) if that takes longer than the write timeout;
    /// then it *is* in the cache. No more than one such write for each thread that uses the cache is over the limit at a
    /// time: others wait, as they do where the cache or the journal is full, because there it has no place to go. Everything else is
    /// as for [`OnFull::Wait`].
    WriteThrough,
}

/// How one write differs from what the builder said; for [`Cache::put_with`](crate::Cache::put_with) and its like. An
/// [`Ack`] or an [`OnFull`] alone can stand for it.
///
/// ```
/// # use std::time::Duration;
/// # use writeback::{Ack, Cache, OnFull, WriteOptions, backend::Memory};
/// # let cache = Cache::builder().capacity(100).backend(Memory::new()).open::<u64, u64>()?;
/// cache.put_with(1, 10, OnFull::Error)?;
/// let patient = WriteOptions::new().ack(Ack::Backend).timeout(Duration::from_secs(60));
/// cache.put_with(2, 20, patient)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "options do nothing before they are given to a write"]
pub struct WriteOptions {
    pub(super) ack: Option<Ack>,
    pub(super) on_full: Option<OnFull>,
    pub(super) timeout: Option<Duration>,
}

impl WriteOptions {
    /// Everything as the builder said.
    pub fn new() -> Self {
        WriteOptions::default()
    }

    /// When the write counts as done, instead of [`Builder::ack`](crate::Builder::ack).
    pub fn ack(mut self, ack: Ack) -> Self {
        self.ack = Some(ack);
        self
    }

    /// What it does if there is no room, instead of [`Builder::on_full`](crate::Builder::on_full).
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = Some(on_full);
        self
    }

    /// How long it waits for room, instead of [`Builder::write_timeout`](crate::Builder::write_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl From<Ack> for WriteOptions {
    fn from(ack: Ack) -> Self {
        WriteOptions::new().ack(ack)
    }
}

impl From<OnFull> for WriteOptions {
    fn from(on_full: OnFull) -> Self {
        WriteOptions::new().on_full(on_full)
    }
}
