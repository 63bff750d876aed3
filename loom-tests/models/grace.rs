//! Grace periods: nothing is used again in front of somebody who has found it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use loom::cell::UnsafeCell;

use super::{explore, join, spawn};
use crate::{
    grace::{Collector, Local},
    sync::{AtomicU64, Ordering},
};

struct Shared {
    collector: Collector,
    /// Which of the two cells may be found.
    word: AtomicU64,
    /// What is in them. Not atomic: loom sees who touches one at the same time as its next owner.
    cells: [UnsafeCell<u64>; 2],
}

// SAFETY: loom looks at each access of the cells.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Arc<Self> {
        let cells = [UnsafeCell::new(1), UnsafeCell::new(2)];
        Arc::new(Shared { collector: Collector::new(), word: AtomicU64::new(0), cells })
    }

    /// Finds a cell and looks at it: it holds what it held when it could be found.
    fn look(&self, local: &Local) {
        let guard = local.pin();
        let cell = self.word.load(Ordering::Acquire);
        // SAFETY: what is to be shown: nobody writes it as long as we are pinned.
        let content = self.cells[cell as usize].with(|content| unsafe { *content });
        assert_eq!(content, cell + 1, "used again too early");
        drop(guard);
    }

    /// Takes the first cell away, and uses it again if that is possible after these tries to let eras go by.
    fn take_away(&self, tries: usize) {
        self.word.store(1, Ordering::Release);
        let moment = self.collector.now();
        (0..tries).for_each(|_| drop(self.collector.advance()));
        if self.collector.is_over(moment) {
            REUSES.fetch_add(1, Relaxed);
            // SAFETY: what is to be shown: nobody reads it any more.
            self.cells[0].with_mut(|content| unsafe { *content = 0 });
        }
    }
}

/// How many executions have used the cell again.
static REUSES: AtomicUsize = AtomicUsize::new(0);

/// One takes a cell away and uses it again when it may, while another looks and a third ends eras, too.
#[test]
fn grace_waits_for_whoever_may_have_found_it() {
    explore(Some(2), || {
        let shared = Shared::new();
        let [reader, other] = [Arc::clone(&shared), Arc::clone(&shared)];
        let reader = spawn(move || reader.look(&reader.collector.register()));
        let other = spawn(move || (0..2).for_each(|_| drop(other.collector.advance())));
        shared.take_away(3);
        join(reader);
        join(other);
    });
    assert!(REUSES.load(Relaxed) > 0, "no execution has used the cell again");
}

/// Two look, one after the other or at once, and one of them twice: each pin counts for itself, also where one thread has
/// another's record after it.
#[test]
fn grace_waits_for_each_pin() {
    explore(Some(2), || {
        let shared = Shared::new();
        let readers = [(1, Arc::clone(&shared)), (2, Arc::clone(&shared))].map(|(times, shared)| {
            spawn(move || {
                let local = shared.collector.register();
                (0..times).for_each(|_| shared.look(&local));
            })
        });
        shared.take_away(3);
        readers.into_iter().for_each(join);
    });
    assert!(REUSES.load(Relaxed) > 0, "no execution has used the cell again");
}
