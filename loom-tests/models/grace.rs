//! Grace periods: nothing is used again in front of somebody who has found it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{explore, join, spawn};
use crate::{
    grace::Collector,
    sync::{AtomicU64, Ordering},
};

struct Shared {
    collector: Collector,
    /// Which of the two cells may be found.
    word: AtomicU64,
    /// What is in them. Relaxed everywhere: that it is there, and stays, is the business of the word and of the grace period.
    cells: [AtomicU64; 2],
}

impl Shared {
    fn new() -> Arc<Self> {
        let cells = [AtomicU64::new(1), AtomicU64::new(2)];
        Arc::new(Shared { collector: Collector::new(), word: AtomicU64::new(0), cells })
    }

    /// Finds a cell and looks at it twice: what it holds is what it held when it could be found.
    fn look(&self) {
        let local = self.collector.register();
        let guard = local.pin();
        let cell = self.word.load(Ordering::Acquire);
        for _ in 0..2 {
            assert_eq!(self.cells[cell as usize].load(Ordering::Relaxed), cell + 1, "used again too early");
        }
        drop(guard);
    }
}

/// How many executions have used the cell again.
static REUSES: AtomicUsize = AtomicUsize::new(0);

/// One takes a cell away and uses it again when it may, while another looks and a third ends eras, too.
#[test]
fn grace_waits_for_whoever_may_have_found_it() {
    explore(Some(2), || {
        let shared = Shared::new();
        let reader = spawn({
            let shared = Arc::clone(&shared);
            move || shared.look()
        });
        let other = spawn({
            let shared = Arc::clone(&shared);
            move || (0..2).for_each(|_| drop(shared.collector.advance()))
        });
        shared.word.store(1, Ordering::Release);
        let moment = shared.collector.now();
        (0..3).for_each(|_| drop(shared.collector.advance()));
        if shared.collector.is_over(moment) {
            REUSES.fetch_add(1, Relaxed);
            shared.cells[0].store(0, Ordering::Relaxed);
        }
        join(reader);
        join(other);
    });
    assert!(REUSES.load(Relaxed) > 0, "no execution has used the cell again");
}

/// Pinned again and again by one thread: each pin counts for itself.
#[test]
fn grace_waits_for_each_pin() {
    explore(Some(2), || {
        let shared = Shared::new();
        let reader = spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.look();
                shared.look();
            }
        });
        shared.word.store(1, Ordering::Release);
        let moment = shared.collector.now();
        (0..3).for_each(|_| drop(shared.collector.advance()));
        if shared.collector.is_over(moment) {
            shared.cells[0].store(0, Ordering::Relaxed);
        }
        join(reader);
    });
}
