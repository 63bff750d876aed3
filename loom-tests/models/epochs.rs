//! Windows of writers against checkpoints.

use std::sync::Arc;

use loom::thread;

use super::{explore, join, spawn};
use crate::{
    epochs::{Checkpoint, Epochs, Running},
    sync::{AtomicU64, Ordering},
};

struct Shared {
    epochs: Epochs,
    lanes: [Running; 2],
    /// The epoch in which each window of lane 0 has written.
    written: [AtomicU64; 2],
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Shared {
            epochs: Epochs::new(),
            lanes: [Running::new(), Running::new()],
            written: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }
}

/// While a window is open, its epoch is not retired, whatever checkpoints are under way.
#[test]
fn epochs_retire_no_open_window() {
    explore(Some(2), || {
        let shared = Shared::new();
        let writers: Vec<_> = (0..2)
            .map(|lane| {
                let shared = Arc::clone(&shared);
                spawn(move || {
                    let window = shared.epochs.enter(&shared.lanes[lane]);
                    assert!(shared.epochs.retired() <= window.epoch, "an open window was passed");
                })
            })
            .collect();
        let mut checkpoint = Checkpoint::new();
        checkpoint.begin(&shared.epochs, 2, 0);
        for _ in 0..2 {
            if checkpoint.poll(|lane| &shared.lanes[lane]) {
                shared.epochs.retire(checkpoint.target());
                break;
            }
        }
        writers.into_iter().for_each(join);
    });
}

/// Two checkpoints, one after the other, against one window.
#[test]
fn epochs_second_checkpoint() {
    explore(Some(3), || {
        let shared = Shared::new();
        let writer = spawn({
            let shared = Arc::clone(&shared);
            move || {
                for _ in 0..2 {
                    let window = shared.epochs.enter(&shared.lanes[0]);
                    assert!(shared.epochs.retired() <= window.epoch, "an open window was passed");
                }
            }
        });
        let mut checkpoint = Checkpoint::new();
        for _ in 0..2 {
            checkpoint.begin(&shared.epochs, 1, 0);
            if !checkpoint.poll(|lane| &shared.lanes[lane]) {
                break;
            }
            shared.epochs.retire(checkpoint.target());
        }
        join(writer);
    });
}

/// Once a checkpoint has retired an epoch, its caller sees what every window of that epoch did; also if the lane is in
/// a later window by then.
#[test]
fn epochs_retired_windows_are_visible() {
    explore(None, || {
        let shared = Shared::new();
        let writer = spawn({
            let shared = Arc::clone(&shared);
            move || {
                for written in &shared.written {
                    let window = shared.epochs.enter(&shared.lanes[0]);
                    written.store(window.epoch, Ordering::Relaxed);
                }
            }
        });
        let mut checkpoint = Checkpoint::new();
        checkpoint.begin(&shared.epochs, 1, 0);
        while !checkpoint.poll(|lane| &shared.lanes[lane]) {
            thread::yield_now();
        }
        shared.epochs.retire(checkpoint.target());
        let seen = shared.written.each_ref().map(|written| written.load(Ordering::Relaxed));
        join(writer);
        for (seen, written) in seen.into_iter().zip(&shared.written) {
            let epoch = written.load(Ordering::Relaxed);
            assert!(epoch >= shared.epochs.retired() || seen == epoch, "retired, but not seen");
        }
    });
}

/// Whoever sees that an epoch is retired sees what its windows did, and not only the one who has retired it.
#[test]
fn epochs_retired_is_told_with_what_it_means() {
    explore(Some(3), || {
        let shared = Shared::new();
        let writer = spawn({
            let shared = Arc::clone(&shared);
            move || {
                let window = shared.epochs.enter(&shared.lanes[0]);
                shared.written[0].store(window.epoch, Ordering::Relaxed);
                window.epoch
            }
        });
        let evictor = spawn({
            let shared = Arc::clone(&shared);
            move || (shared.epochs.retired(), shared.written[0].load(Ordering::Relaxed))
        });
        let mut checkpoint = Checkpoint::new();
        checkpoint.begin(&shared.epochs, 1, 0);
        for _ in 0..2 {
            if checkpoint.poll(|lane| &shared.lanes[lane]) {
                shared.epochs.retire(checkpoint.target());
                break;
            }
        }
        let epoch = join(writer);
        let (retired, seen) = join(evictor);
        assert!(epoch >= retired || seen == epoch, "retired, but not seen");
    });
}
