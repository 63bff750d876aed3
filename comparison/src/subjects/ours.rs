//! This engine: bounded, evicting, tracking what is dirty, with statistics, and with its flusher at work.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{Answers, Backend, BackendError, Batch, Cache, Handle};

use super::Subject;
use crate::door::{MAX_DELAY, Turns};

/// How the cache is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    /// Through a leased handle for each thread; acknowledged from memory.
    Handle,
    /// Through the methods of the cache itself.
    Cache,
    /// Through handles, with a journal: what is acknowledged survives a crash of the process.
    Journal,
}

/// A backend that costs next to nothing: it counts what it is given, and drops it.
struct Sink(Arc<AtomicU64>);

impl Backend<u64, u64> for Sink {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.all_stored()
    }

    fn identity(&self) -> String {
        "sink".to_owned()
    }
}

pub(super) struct Ours {
    // Before the cache: its drop lets the cache write what is left.
    turns: Turns,
    face: Face,
    cache: Cache<u64, u64>,
    operations: Arc<AtomicU64>,
}

impl Ours {
    pub(super) fn new(face: Face, capacity: usize, folder: &Path) -> Self {
        let operations = Arc::<AtomicU64>::default();
        let (turns, clock, sink) = Turns::new(Sink(Arc::clone(&operations)));
        let builder = Cache::builder().capacity(capacity).max_delay(MAX_DELAY).clock(clock).backend(sink);
        let cache = match face {
            Face::Handle | Face::Cache => builder.open(),
            // As large as the documentation advises: a few times what is dirty at a time.
            Face::Journal => {
                let path = folder.join("comparison.journal");
                builder.journal(path).journal_size(128 * capacity as u64).open()
            }
        };
        Ours { turns, face, cache: cache.expect("opens"), operations }
    }
}

/// What a thread holds.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each thread, and a box would cost each operation a look"
)]
pub(super) enum Local<'a> {
    Leased(Handle<u64, u64>),
    Shared(&'a Cache<u64, u64>),
}

impl Subject for Ours {
    type Local<'a> = Local<'a>;

    fn name(&self) -> &'static str {
        match self.face {
            Face::Handle => super::OURS,
            Face::Cache => "writeback, cache",
            Face::Journal => super::OURS_JOURNALED,
        }
    }

    fn local(&self) -> Local<'_> {
        match self.face {
            Face::Handle | Face::Journal => Local::Leased(self.cache.handle().expect("a lane is free")),
            Face::Cache => Local::Shared(&self.cache),
        }
    }

    #[inline]
    fn get(local: &Local<'_>, key: u64) -> Option<u64> {
        match local {
            Local::Leased(handle) => handle.get(&key),
            Local::Shared(cache) => cache.get(&key),
        }
        .expect("the backend can always be asked")
    }

    #[inline]
    fn put(local: &Local<'_>, key: u64, value: u64) {
        match local {
            Local::Leased(handle) => handle.put(key, value),
            Local::Shared(cache) => cache.put(key, value),
        }
        .expect("the backend takes everything");
    }

    fn remove(local: &Local<'_>, key: u64) {
        match local {
            Local::Leased(handle) => handle.remove(&key),
            Local::Shared(cache) => cache.remove(&key),
        }
        .expect("the backend takes everything");
    }

    fn evicts(&self) -> bool {
        true
    }

    fn enter(&self, slice: Duration) {
        self.turns.enter(slice);
    }

    fn leave(&self) {
        self.turns.leave();
    }

    fn account(&self) -> Option<String> {
        let stats = self.cache.stats();
        Some(format!(
            "{}: {} writes, {} operations at the backend ({:.1} writes in one) in {} batches (timer {}, threshold {}, \
             pressure {}, explicit {}); {} of {} entries dirty at the end, {} evicted, {} writers waited",
            Subject::name(self),
            stats.puts + stats.removes,
            self.operations.load(Ordering::Relaxed),
            stats.coalescing_ratio(),
            stats.batches,
            stats.flushes_timer,
            stats.flushes_threshold,
            stats.flushes_pressure,
            stats.flushes_explicit,
            stats.dirty,
            stats.entries,
            stats.evictions,
            stats.writer_waits,
        ))
    }
}
