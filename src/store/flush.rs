//! The flusher's view of the store: what is dirty, and when it is not any more.

use std::hash::{BuildHasher, Hash};

use super::{Store, budget::Charge};
use crate::{
    epochs,
    grace::Guard,
    journal::{Appender, Unprepared},
    lane::Lanes,
    recycle::Slots,
    sync::Ordering,
    table::{Kind, Position, SlotId, Word},
};

/// A copy of a dirty entry; no value: the key was removed.
pub(crate) struct DirtyEntry<K, V> {
    pub(crate) key: K,
    pub(crate) value: Option<V>,
    pub(crate) version: u64,
}

/// What a place needed in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    /// Nothing: the backend has what it holds.
    Clean,
    /// Nothing: its record is new enough, and live.
    Newer,
    /// A copy, which was made.
    Anew,
}

/// What became of a version that the backend has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleaned {
    /// It is clean now.
    Value,
    /// It is clean now, and has nothing more to say once its epoch is retired.
    Tombstone,
    /// There is a newer version, which is dirty.
    Superseded,
}

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    pub(super) fn dirty_word(&self, at: Position, guard: &Guard) -> Option<Word> {
        let word = self.table.word(at, guard);
        (word.is_entry() && word.is_dirty()).then_some(word)
    }

    /// The version at this place, if it is dirty.
    pub(crate) fn dirty_version(&self, at: Position, guard: &Guard) -> Option<u64> {
        self.dirty_word(at, guard).map(|word| self.slab.version(word.slot(), guard))
    }

    /// Copies the entry at this place, if it is dirty.
    pub(crate) fn copy_dirty(&self, at: Position, guard: &Guard) -> Option<DirtyEntry<K, V>>
    where
        K: Clone,
        V: Clone,
    {
        let slot = self.dirty_word(at, guard)?.slot();
        self.vouch_for(slot, guard);
        // SAFETY: the word was read with Acquire under `guard` and is decided.
        let (key, value) =
            unsafe { (self.slab.key(slot, guard).clone(), self.slab.value(slot, guard).cloned()) };
        Some(DirtyEntry { key, value, version: self.slab.version(slot, guard) })
    }

    /// The version at this place, if it is dirty, and what `look` makes of its key and value (none: a tombstone).
    pub(crate) fn peek_dirty<R>(
        &self,
        at: Position,
        guard: &Guard,
        look: impl FnOnce(&K, Option<&V>) -> R,
    ) -> Option<(u64, R)> {
        let slot = self.dirty_word(at, guard)?.slot();
        // SAFETY: the word was read with Acquire under `guard` and is decided.
        let (key, value) = unsafe { (self.slab.key(slot, guard), self.slab.value(slot, guard)) };
        Some((self.slab.version(slot, guard), look(key, value)))
    }

    /// What goes to the backend, or into a copy, must count if we crash; and we are the flusher, we know of it.
    fn vouch_for(&self, slot: SlotId, guard: &Guard) {
        if !self.slab.is_announced(slot, guard) {
            if !crate::fault::broken("flusher-makes-live") {
                self.make_live(slot, guard);
            }
            self.slab.announce(slot, guard);
        }
    }

    /// Writes a record of epoch `target` for the entry at this place, if it is dirty and its own record is older.
    pub(crate) fn copy_forward(
        &self,
        at: Position,
        target: u64,
        appender: &mut Appender,
        guard: &Guard,
    ) -> Result<Copied, Unprepared> {
        let Some(word) = self.dirty_word(at, guard) else { return Ok(Copied::Clean) };
        self.vouch_for(word.slot(), guard);
        let version = self.slab.version(word.slot(), guard);
        if epochs::epoch_of(version) >= target {
            return Ok(Copied::Newer);
        }
        // SAFETY: the word was read with Acquire under `guard` and is decided.
        let (key, value) =
            unsafe { (self.slab.key(word.slot(), guard), self.slab.value(word.slot(), guard)) };
        self.copy_record(appender, key, value, version, target)?;
        Ok(Copied::Anew)
    }

    /// The backend has taken exactly `version` of the entry at this place.
    ///
    /// Clears DIRTY by compare-and-swap on a word that holds exactly that version: never by key, never by value.
    pub(crate) fn mark_clean(&self, at: Position, version: u64, guard: &Guard) -> Cleaned {
        let mut word = self.table.word(at, guard);
        loop {
            debug_assert!(word.is_entry() && word.is_dirty(), "cleaned by somebody else: {word:?}");
            let current = self.slab.version(word.slot(), guard);
            if current != version
                && !cfg!(mutant = "clean_by_key")
                && !crate::fault::broken("clean-exact-version")
            {
                return Cleaned::Superseded;
            }
            let clean = word.with_dirty(false).with_listed(true);
            match self.table.replace(at, word, clean, guard) {
                Ok(()) => {
                    if !word.is_listed() {
                        // An evictor has put it aside while it was dirty.
                        self.policy.readmit(at, self.table.heat(at));
                    }
                    // Relaxed, load and store: only the flusher writes it.
                    let cleaned = self.cleaned.load(Ordering::Relaxed);
                    self.cleaned.store(cleaned.wrapping_add(1), Ordering::Relaxed);
                    if let Some(budget) = &self.budget {
                        budget.discharge(Charge { entries: 1, bytes: self.dirty_bytes_of(word) });
                    }
                    let removed = clean.kind() == Kind::Tombstone;
                    return if removed { Cleaned::Tombstone } else { Cleaned::Value };
                }
                // A newer version, or an evictor has put it aside.
                Err(now) => word = now,
            }
        }
    }

    /// Takes the tombstone of exactly this version out of the table, if it is still there and may be forgotten.
    ///
    /// `false`: not yet.
    pub(crate) fn bury(&self, at: Position, version: u64, slots: &mut Slots, guard: &Guard) -> bool {
        let mut word = self.table.word(at, guard);
        loop {
            let is_it = word.is_entry()
                && word.kind() == Kind::Tombstone
                && !word.is_dirty()
                && self.slab.version(word.slot(), guard) == version;
            if !is_it {
                return true;
            }
            if !self.epochs.may_forget(version) {
                return false;
            }
            match self.table.vacate(at, word, word.is_listed(), guard) {
                Ok(()) => {
                    self.remove_weight(word.slot());
                    slots.retire(&*self.lanes, word.slot());
                    drop(self.emptied());
                    return true;
                }
                Err(now) => word = now,
            }
        }
    }

    /// The lanes, for the flusher's rings and checkpoints.
    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }
}
