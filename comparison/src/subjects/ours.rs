//! This engine: bounded, evicting, tracking what is dirty, with statistics, and with its flusher at work.
//!
//! The flusher must neither rest while it is measured nor work while others are. So the cache's clock only goes during its own
//! turns, and between them the backend does not answer: over all its turns together the cache is in the state of one
//! that is used without a break, and writes each dirty entry half a second of its own time after the first write, as
//! it does by default.

use std::{
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{Answers, Backend, BackendError, Batch, Cache, Clock, Handle, ManualClock};

use super::Subject;

/// The default of the library.
const MAX_DELAY: Duration = Duration::from_millis(500);
/// Enough that the flusher looks at its clock as often as by itself.
const TICK: Duration = Duration::from_nanos(MAX_DELAY.as_nanos() as u64 / 8);

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

/// A backend that costs next to nothing: it counts what it is given. It answers only while its cache has its turn.
struct Sink {
    is_open: Mutex<bool>,
    opened: Condvar,
    operations: AtomicU64,
}

impl Sink {
    fn set_open(&self, open: bool) {
        *self.is_open.lock().expect("nobody panics with it") = open;
        self.opened.notify_all();
    }
}

impl Backend<u64, u64> for Sink {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        let open = self.is_open.lock().expect("nobody panics with it");
        drop(self.opened.wait_while(open, |open| !*open).expect("nobody panics with it"));
        self.operations.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.all_stored()
    }

    fn identity(&self) -> String {
        "sink".to_owned()
    }
}

/// A cache that lives in turns. Outside of them, and before the first, its backend answers only if it is told to.
pub(super) struct Ours {
    face: Face,
    cache: Cache<u64, u64>,
    sink: Arc<Sink>,
    clock: ManualClock,
    /// By how much the clock is behind the cache's turns.
    owed: Mutex<Duration>,
}

impl Ours {
    pub(super) fn new(face: Face, capacity: usize, folder: &Path) -> Self {
        let (clock, hand) = Clock::manual();
        let (is_open, opened) = (Mutex::new(false), Condvar::new());
        let sink = Arc::new(Sink { is_open, opened, operations: AtomicU64::new(0) });
        let builder =
            Cache::builder().capacity(capacity).max_delay(MAX_DELAY).clock(clock).backend(Arc::clone(&sink));
        let cache = match face {
            Face::Handle | Face::Cache => builder.open(),
            // A few times what is dirty at a time.
            Face::Journal => {
                let path = folder.join("comparison.journal");
                builder.journal(path).journal_size(256 * capacity as u64).open()
            }
        };
        Ours { face, cache: cache.expect("opens"), sink, clock: hand, owed: Mutex::default() }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.sink.set_open(true);
    }
}

/// What a thread holds.
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
        self.sink.set_open(true);
        let mut owed = self.owed.lock().expect("nobody panics with it");
        *owed += slice;
        if *owed >= TICK {
            self.clock.advance(std::mem::take(&mut owed));
        }
    }

    fn leave(&self) {
        self.sink.set_open(false);
    }

    fn account(&self) -> Option<String> {
        let stats = self.cache.stats();
        Some(format!(
            "{}: {} writes, {} operations at the backend ({:.1} writes in one) in {} batches (timer {}, threshold {}, \
             pressure {}, explicit {}); {} of {} entries dirty at the end, {} evicted, {} writers waited",
            Subject::name(self),
            stats.puts + stats.removes,
            self.sink.operations.load(Ordering::Relaxed),
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
