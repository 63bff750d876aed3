//! Epochs of writing, and the version numbers that are made of them.
//!
//! Not to be mistaken for the epochs of crossbeam: those say when memory may be used again, and this code calls their
//! use *pinning*. The epochs here say which versions may be forgotten.
//!
//! A version is `epoch | count`. Each write of a key takes the larger of its predecessor's version plus one and the
//! current epoch with count zero. An entry may leave the table only when its version's epoch is *retired*
//! (`epoch < retired`), and no writer still runs in a retired epoch. So a key that comes back gets a larger version than
//! it ever had, although nothing remembers the old one. With a journal, `retired` is also the word that says which of
//! its records are dead.
//!
//! # The checkpoint
//!
//! A state machine that the flusher polls and never waits for: raise the current epoch to T; see every lane once idle or
//! at T or later; retire all below T. A writer that stalls in the middle of a write delays the retirement (and so
//! evictions), never a flush.

use crossbeam_utils::CachePadded;

use crate::{
    fault,
    journal::WordAddress,
    sync::{AtomicU64, Ordering, fence},
    table::SlotId,
};

const COUNT_BITS: u32 = 20;

/// The version of one write of a key: larger than that of every earlier write of the same key, for ever.
///
/// A version orders the writes of *one* key; it says nothing about different keys. Backends see it as
/// [`Op::version`](crate::Op::version).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub(crate) u64);

impl Version {
    /// The version as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The epoch of a version. A count that runs over carries into it, which keeps the order and is caught up with by the
/// next checkpoint.
pub(crate) fn epoch_of(version: u64) -> u64 {
    version >> COUNT_BITS
}

/// The version of a write in `epoch` over a predecessor (0: there is none).
pub(crate) fn successor(predecessor: u64, epoch: u64) -> u64 {
    if cfg!(mutant = "successor_falls") {
        return (epoch << COUNT_BITS) + (predecessor & ((1 << COUNT_BITS) - 1)) + 1;
    }
    (predecessor + 1).max(epoch << COUNT_BITS)
}

/// The version of what a load brings: at least as large as all that the key had before it was absent, and different from
/// that of an earlier load if there was a write between the two.
pub(crate) fn loaded(retired: u64) -> u64 {
    (retired << COUNT_BITS) - 1
}

/// What a writer is doing, for others to see. One for each lane.
pub(crate) struct Running(CachePadded<Doing>);

struct Doing {
    /// The epoch of the open window; 0: none is open.
    epoch: AtomicU64,
    /// With a journal: the slot that is being published, plus one; 0: none.
    slot: AtomicU64,
    /// Where the state of that slot's record is. Changes only while `slot` is 0.
    record: AtomicU64,
}

impl Running {
    pub(crate) fn new() -> Self {
        Running(CachePadded::new(Doing {
            epoch: AtomicU64::new(0),
            slot: AtomicU64::new(0),
            record: AtomicU64::new(0),
        }))
    }

    /// The epoch of the open window, for its owner.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Relaxed)
    }

    /// Where the state of the record of `slot` is, if that is being published here.
    pub(crate) fn record_of(&self, slot: SlotId) -> Option<WordAddress> {
        let name = u64::from(slot.0) + 1;
        // Acquire, both looks: pair with the Release stores of this word. If the slot is there, so is its record. If it is not any
        // more, its record is live (and the caller relies on that).
        if self.0.slot.load(Ordering::Acquire) != name {
            return None;
        }
        // Acquire: pairs with the Release in `publishes`. If this is the record of a later slot, the next look sees that.
        let record = self.0.record.load(Ordering::Acquire);
        let again = if cfg!(mutant = "record_relaxed") { Ordering::Relaxed } else { Ordering::Acquire };
        (self.0.slot.load(again) == name).then_some(WordAddress(record))
    }
}

/// The window in which a writer publishes. While it is open, the epoch in it is not retired. No I/O, no lock and no
/// user code that may block inside.
pub(crate) struct Window<'a> {
    doing: &'a Doing,
    pub(crate) epoch: u64,
    /// Whether a slot is named in it.
    publishes: bool,
}

impl Window<'_> {
    /// Tells others where the record is of the slot that is about to be published, so that whoever sees it can make it live.
    pub(crate) fn publishes(&mut self, slot: SlotId, record: WordAddress) {
        if !self.publishes {
            self.publishes = true;
            // Release, both: in this order for `record_of`, and after the slot before it was taken off.
            self.doing.record.store(record.0, Ordering::Release);
            self.doing.slot.store(u64::from(slot.0) + 1, Ordering::Release);
        }
        // Another attempt with the same slot has the same record.
        debug_assert_eq!(self.doing.slot.load(Ordering::Relaxed), u64::from(slot.0) + 1);
        debug_assert_eq!(self.doing.record.load(Ordering::Relaxed), record.0);
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        if self.publishes {
            // Release: who does not find the slot any more may rely on its record being live. (Or it was never published.)
            self.doing.slot.store(0, Ordering::Release);
        }
        // Release: all that the writer did in the window, its announcement included, comes before. Pairs with the
        // Acquire in `Checkpoint::poll`.
        let release = if cfg!(mutant = "leave_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        self.doing.epoch.store(0, release);
    }
}

pub(crate) struct Epochs {
    /// G: the epoch that new windows open in.
    current: CachePadded<AtomicU64>,
    /// E: versions of earlier epochs may be forgotten once they are clean.
    retired: CachePadded<AtomicU64>,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Self::starting_at(1, 1)
    }

    /// Goes on where an earlier life has ended: `current` is newer than all it had, and `retired` is what its journal says.
    pub(crate) fn starting_at(current: u64, retired: u64) -> Self {
        debug_assert!(retired >= 1 && current >= retired);
        Epochs {
            current: CachePadded::new(AtomicU64::new(current)),
            retired: CachePadded::new(AtomicU64::new(retired)),
        }
    }

    /// Retires all epochs before `target`. A checkpoint has seen that no writer is in them any more; with a journal also that
    /// it needs none of their records.
    pub(crate) fn retire(&self, target: u64) {
        // Release: pairs with the Acquire in `retired`; all that the writers of these epochs did.
        self.retired.store(target, Ordering::Release);
    }

    /// Opens the window of a lane that has none open.
    pub(crate) fn enter<'a>(&self, running: &'a Running) -> Window<'a> {
        debug_assert_eq!(running.epoch(), 0, "two windows of one lane");
        // Acquire, both loads: who opens a window in a new epoch has seen all that came before that epoch began, the
        // `closed` flag among it. Pairs with the Release in `Checkpoint::begin`.
        let mut epoch = self.current.load(Ordering::Acquire);
        fault::point("window: looked");
        loop {
            // Release: a checkpoint that sees this window sees what the windows before it did; the store that closed the
            // last one would no longer say so.
            running.0.epoch.store(
                epoch,
                if cfg!(mutant = "enter_relaxed") { Ordering::Relaxed } else { Ordering::Release },
            );
            // SeqCst: either we see the epoch that a checkpoint has just begun and take that one, or the checkpoint sees
            // us run in the old one. Pairs with the fence in `Checkpoint::begin`.
            if !cfg!(mutant = "enter_fence") {
                fence(Ordering::SeqCst);
            }
            fault::point("window: open");
            let again = self.current.load(Ordering::Acquire);
            if again == epoch || cfg!(mutant = "enter_once") || fault::broken("enter-looks-again") {
                return Window { doing: &running.0, epoch, publishes: false };
            }
            epoch = again;
        }
    }

    /// Versions of epochs before this one may be forgotten once they are clean.
    pub(crate) fn retired(&self) -> u64 {
        // Acquire: pairs with the Release in `retire`; all writers of retired epochs are done.
        self.retired.load(Ordering::Acquire)
    }

    /// Whether an entry with this version may leave the table, if it is clean.
    pub(crate) fn may_forget(&self, version: u64) -> bool {
        epoch_of(version) < self.retired() || fault::broken("forget-after-retired")
    }
}

/// The flusher's side of the epochs.
pub(crate) struct Checkpoint {
    target: u64,
    /// The lanes that have not yet been seen past the target; empty: no checkpoint is under way.
    waiting: Vec<usize>,
}

impl Checkpoint {
    pub(crate) fn new() -> Self {
        Checkpoint { target: 0, waiting: Vec::new() }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Begins a checkpoint that will retire everything up to the current epoch, and at least up to `newest`.
    pub(crate) fn begin(&mut self, epochs: &Epochs, lanes: usize, newest: u64) {
        debug_assert!(!self.is_under_way());
        self.target = epochs.current.load(Ordering::Relaxed).max(newest) + 1;
        // Release: pairs with the Acquire in `Epochs::enter`.
        epochs.current.store(self.target, Ordering::Release);
        // SeqCst: pairs with the fence in `Epochs::enter`.
        fence(Ordering::SeqCst);
        self.waiting.extend(0..lanes);
    }

    /// The epoch that it has begun.
    pub(crate) fn target(&self) -> u64 {
        self.target
    }

    /// Looks at the lanes that are still waited for. `true`: all have been seen idle or past the target, so no writer is
    /// in an earlier epoch, and what was written in them can be collected.
    pub(crate) fn poll<'a>(&mut self, running: impl Fn(usize) -> &'a Running) -> bool {
        let target = self.target;
        self.waiting.retain(|&lane| {
            // Acquire: pairs with the Release in `Window::drop` and `Epochs::enter`; what the writer announced is there to
            // be collected.
            let epoch = running(lane).0.epoch.load(Ordering::Acquire);
            epoch != 0 && epoch < target && !fault::broken("writers-pass-first")
        });
        self.waiting.is_empty()
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_through_counts_epochs_and_loads() {
        let first = successor(0, 1);
        assert_eq!(epoch_of(first), 1);
        assert_eq!(successor(first, 1), first + 1);
        assert!(successor(first, 2) > first + 1);
        // A count that runs over carries into the epoch.
        let last = successor(0, 2) - 1;
        assert_eq!((epoch_of(last), epoch_of(successor(last, 1))), (1, 2));
        // What is loaded when epoch 1 is retired may leave at once, and outranks all of epoch 1.
        assert_eq!(epoch_of(loaded(2)), 1);
        assert!(loaded(2) >= last && loaded(2) < successor(0, 2));
    }

    #[test]
    fn an_open_window_holds_retirement_back_and_a_later_one_does_not() {
        let (epochs, lanes) = (Epochs::new(), [Running::new(), Running::new()]);
        let mut checkpoint = Checkpoint::new();
        let window = epochs.enter(&lanes[0]);
        let version = successor(0, window.epoch);
        checkpoint.begin(&epochs, 2, 0);
        assert!(!checkpoint.poll(|lane| &lanes[lane]));
        assert!(!epochs.may_forget(version));
        let later = epochs.enter(&lanes[1]);
        assert!(later.epoch > window.epoch);
        drop(window);
        assert!(checkpoint.poll(|lane| &lanes[lane]));
        epochs.retire(checkpoint.target());
        assert!(epochs.may_forget(version) && !epochs.may_forget(successor(0, later.epoch)));
    }
}
