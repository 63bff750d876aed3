//! The end of a run: everything that is still dirty goes to the database, and the cache says whether it did.

use std::{
    hash::Hash,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use writeback::{Cache, Closed};

use crate::view::{Snapshot, View};

/// What became of the dirty entries.
#[derive(Debug)]
pub(crate) struct Drain {
    /// How many could not be written, and why.
    pub(crate) remaining: Option<(usize, String)>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Flushes and closes `cache`, for at most `patience` and the time of one try.
pub(crate) fn drain<K, V>(cache: &Cache<K, V>, patience: Duration, view: &mut View) -> Drain
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let start = Instant::now();
    let dirty_at_first = cache.stats().dirty as u64;
    let snapshot = || {
        let stats = cache.stats();
        let left = stats.dirty as u64;
        Snapshot {
            phase: "draining",
            noun: "writes",
            position: dirty_at_first.saturating_sub(left),
            length: Some(dirty_at_first),
            progress: format!("{} entries to go", crate::format::count(left)),
            stats,
            latency: None,
        }
    };
    let remaining = thread::scope(|scope| {
        let (running, is_running) = mpsc::channel();
        let end = scope.spawn(move || {
            let _running = running;
            // A failed flush leaves its entries dirty, and it is for `close` to say what became of them.
            let flushed = cache.flush();
            match cache.close(patience) {
                Closed::Remaining { dirty, cause } => {
                    let cause = cause.map(|cause| cause.to_string());
                    let cause = cause.or_else(|| flushed.err().map(|error| error.to_string()));
                    Some((dirty, cause.unwrap_or_else(|| "the database was too slow".to_owned())))
                }
                _ => None,
            }
        });
        view.watch(&is_running, snapshot);
        end.join().unwrap_or_else(|_| Some((cache.stats().dirty, "the flush panicked".to_owned())))
    });
    Drain { remaining, took: start.elapsed() }
}
