//! Sleeping and waking: a lost wake-up is a deadlock, which loom reports. Loom's condition variables never time out.

use std::{sync::Arc, time::Duration};

use super::{explore, join, spawn};
use crate::{
    clock::Clock,
    signal::{Event, Signal},
    sync::{AtomicU32, Ordering},
};

/// The flusher knows of nothing and sleeps without a limit: whoever makes something dirty wakes it.
#[test]
fn signal_something_dirty_wakes_the_idle() {
    explore(Some(2), || {
        let shared = Arc::new((Signal::new(Clock::system()), AtomicU32::new(0)));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                spawn(move || {
                    shared.1.fetch_add(1, Ordering::Relaxed);
                    shared.0.something_dirty();
                })
            })
            .collect();
        let (signal, work) = &*shared;
        let mut seen = 0;
        while seen < 2 {
            let _ = signal.sleep(false, None, || work.load(Ordering::Relaxed) > seen);
            seen = work.load(Ordering::Relaxed);
        }
        writers.into_iter().for_each(join);
    });
}

/// The flusher naps until a deadline: a request wakes it, and so does one that comes while it wakes up.
#[test]
fn signal_wake_ends_a_nap() {
    explore(Some(3), || {
        let shared = Arc::new((Signal::new(Clock::system()), AtomicU32::new(0)));
        let writer = spawn({
            let shared = Arc::clone(&shared);
            move || {
                for _ in 0..2 {
                    shared.1.fetch_add(1, Ordering::Relaxed);
                    shared.0.wake();
                }
            }
        });
        let (signal, work) = &*shared;
        let mut seen = 0;
        while seen < 2 {
            let _ = signal.sleep(true, Some(Duration::from_secs(1)), || work.load(Ordering::Relaxed) > seen);
            seen = work.load(Ordering::Relaxed);
        }
        join(writer);
    });
}

/// Writers that wait for room: each is woken by what happens after it has looked in vain.
#[test]
fn event_wakes_all_who_listen() {
    explore(Some(2), || {
        let shared = Arc::new((Event::new(), AtomicU32::new(0)));
        let wait = |shared: &(Event, AtomicU32)| loop {
            let listener = shared.0.listen();
            if shared.1.load(Ordering::Relaxed) > 0 {
                return;
            }
            listener.wait(Duration::from_secs(1));
        };
        let waiter = spawn({
            let shared = Arc::clone(&shared);
            move || wait(&shared)
        });
        let notifier = spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.1.store(1, Ordering::Relaxed);
                shared.0.notify();
            }
        });
        wait(&shared);
        join(waiter);
        join(notifier);
    });
}
