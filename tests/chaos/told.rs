//! What the cache tells its listener, added up.

use std::sync::atomic::{AtomicU64, Ordering};

use writeback::Event;

#[derive(Default)]
pub(crate) struct Told {
    flushed: AtomicU64,
    failed: AtomicU64,
    parked: AtomicU64,
    evicted: AtomicU64,
    missed: AtomicU64,
    down: AtomicU64,
    up: AtomicU64,
    stalled: AtomicU64,
    /// In nanoseconds.
    longest_outage: AtomicU64,
}

/// The sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) flushed: u64,
    pub(crate) failed: u64,
    pub(crate) parked: u64,
    pub(crate) evicted: u64,
    pub(crate) missed: u64,
    pub(crate) down: u64,
    pub(crate) up: u64,
    pub(crate) stalled: u64,
    pub(crate) longest_outage: std::time::Duration,
}

impl Told {
    pub(crate) fn hear(&self, event: &Event) {
        let add = |sum: &AtomicU64, more: u64| {
            sum.fetch_add(more, Ordering::SeqCst);
        };
        match event {
            Event::Flushed { operations, .. } => add(&self.flushed, *operations as u64),
            Event::Failed { operations, .. } => add(&self.failed, *operations as u64),
            Event::Parked { entries, .. } => add(&self.parked, *entries as u64),
            Event::Evicted { entries, .. } => add(&self.evicted, *entries),
            Event::Missed { events, .. } => add(&self.missed, *events),
            Event::BackendDown { .. } => add(&self.down, 1),
            Event::BackendUp { after, .. } => {
                add(&self.up, 1);
                self.longest_outage.fetch_max(after.as_nanos() as u64, Ordering::SeqCst);
            }
            Event::Stalled { .. } => add(&self.stalled, 1),
            _ => {}
        }
    }

    pub(crate) fn sums(&self) -> Sums {
        let get = |sum: &AtomicU64| sum.load(Ordering::SeqCst);
        Sums {
            flushed: get(&self.flushed),
            failed: get(&self.failed),
            parked: get(&self.parked),
            evicted: get(&self.evicted),
            missed: get(&self.missed),
            down: get(&self.down),
            up: get(&self.up),
            stalled: get(&self.stalled),
            longest_outage: std::time::Duration::from_nanos(get(&self.longest_outage)),
        }
    }
}
