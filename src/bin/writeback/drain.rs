//! The end of a run: everything that is still dirty goes to the database, and the cache says whether it did.

use std::{
    hash::Hash,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use writeback::{Cache, Closed};

use crate::{
    format,
    view::{Snapshot, View},
};

/// What became of the dirty entries.
#[derive(Debug)]
pub(crate) struct Drain {
    /// How many could not be written, and why.
    pub(crate) remaining: Option<(usize, String)>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Closes `cache`, which flushes it, for at most `patience`.
///
/// No `flush` before it: that has no time limit, and a database that holds out for longer than `patience` is
/// what the verdict has to tell.
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
            progress: format!("{} entries to go", format::count(left)),
            stats,
            latency: None,
        }
    };
    let remaining = thread::scope(|scope| {
        let (running, is_running) = mpsc::channel();
        let end = scope.spawn(move || {
            let _running = running;
            match cache.close(patience) {
                Closed::Remaining { dirty, cause, .. } => {
                    let cause = cause.map(|cause| cause.to_string());
                    Some((dirty, cause.unwrap_or_else(|| "the database was too slow".to_owned())))
                }
                _ => None,
            }
        });
        view.watch(&is_running, snapshot);
        end.join().unwrap_or_else(|_| Some((cache.stats().dirty, "closing the cache panicked".to_owned())))
    });
    Drain { remaining, took: start.elapsed() }
}
