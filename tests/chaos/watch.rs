//! Looks at a cache from outside while it works: bounds that have to hold at any moment, peaks, and whether anybody is stuck.

use std::{
    fmt::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::Cache;

use super::{
    gate::{Gate, Passed},
    ledger::{Check, Ledger},
    model::Row,
    plan::Plan,
    weather::Weather,
};

const PAUSE: Duration = Duration::from_millis(20);

/// What no journal of a trial may outgrow.
pub(crate) const JOURNAL_LIMIT: u64 = 32 << 20;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peaks {
    pub(crate) oldest_dirty: Duration,
    pub(crate) dirty: usize,
    pub(crate) journal: u64,
}

#[derive(Default)]
pub(crate) struct Watch {
    peaks: Mutex<Peaks>,
    over: AtomicBool,
    is_stuck: AtomicBool,
}

impl Watch {
    pub(crate) fn run(
        &self,
        cache: &Cache<u64, Row>,
        ledger: &Ledger,
        gate: &Gate,
        weather: &Weather,
        plan: &Plan,
    ) {
        while !self.over.load(Ordering::Relaxed) {
            let stats = cache.stats();
            if stats.entries > stats.capacity {
                ledger.find(Check::Memory, format!("{} entries of {}", stats.entries, stats.capacity));
            }
            let journal = stats.journal.as_ref().map_or(0, |journal| journal.bytes);
            if journal > JOURNAL_LIMIT {
                ledger.find(Check::Memory, format!("the journal has {journal} bytes of {JOURNAL_LIMIT}"));
            }
            let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
            peaks.oldest_dirty = peaks.oldest_dirty.max(stats.oldest_dirty_age.unwrap_or_default());
            peaks.dirty = peaks.dirty.max(stats.dirty);
            peaks.journal = peaks.journal.max(journal);
            drop(peaks);
            let stuck = |(_, _, time): &(usize, _, Duration)| *time > plan.patience;
            if ledger.at_work().iter().any(stuck) && !self.is_stuck.swap(true, Ordering::SeqCst) {
                ledger.find(Check::Progress, dump(cache, ledger, gate, weather));
            }
            thread::sleep(PAUSE);
        }
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn peaks(&self) -> Peaks {
        *self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that may say why nothing goes on.
pub(crate) fn dump(cache: &Cache<u64, Row>, ledger: &Ledger, gate: &Gate, weather: &Weather) -> String {
    let mut text = String::from("somebody is blocked");
    for (writer, doing, time) in ledger.at_work() {
        let _ = write!(text, "\n  writer {writer}: {doing:?} for {time:.1?}");
    }
    let _ = write!(text, "\n  misfortune: {:?}", weather.now());
    let (batches, answers) = (gate.get(Passed::Batches), gate.get(Passed::Answered));
    let _ = write!(text, "\n  calls of the backend: {batches} batches begun, {answers} answered");
    let _ = write!(text, "\n  {:#?}", cache.stats());
    text
}
