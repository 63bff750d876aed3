//! Publishing a new version of an entry.

use std::{
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering,
};

use crossbeam_epoch::Guard;

use super::{Credit, Store};
use crate::{
    epochs,
    lane::Writer,
    slab::OwnedSlot,
    table::{Kind, Position, Probe, SlotId, Table, Vacancy, Word},
};

/// A slot with a key and a value (or none: a tombstone), not yet published.
#[must_use]
pub(crate) struct Draft {
    slot: OwnedSlot,
    kind: Kind,
    weight: u64,
}

/// What a write demands of the entry that it replaces.
#[derive(Clone, Copy)]
pub(crate) enum Expect {
    Anything,
    /// Exactly this version: the write was computed from it.
    Version(u64),
}

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The entry is not the one that the write was computed from.
    Changed,
    /// A place is needed and none is free; with a credit: none in the range of this key.
    NoRoom,
    Closed,
}

/// What a write has replaced.
struct Replaced {
    at: Position,
    version: u64,
    /// The slot that is now nobody's; a placeholder's stays with its loader.
    old: Option<SlotId>,
    /// Whether the entry was clean, or absent.
    was_clean: bool,
    /// Whether the predecessor's writer had told the flusher.
    was_announced: bool,
}

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    /// A draft of an entry. `Err` gives key and value back: no slot is free.
    pub(crate) fn draft(
        &self,
        writer: &mut Writer<'_>,
        key: K,
        value: Option<V>,
        weight: u64,
    ) -> Result<Draft, (K, Option<V>)> {
        let Some(mut slot) = writer.take_slot(&self.slab) else { return Err((key, value)) };
        let kind = if value.is_some() { Kind::Value } else { Kind::Tombstone };
        self.slab.set_key(&mut slot, key);
        self.slab.set_value(&mut slot, value);
        self.add_weight(slot.id(), weight);
        Ok(Draft { slot, kind, weight })
    }

    /// Takes back what was not published.
    pub(crate) fn discard(&self, writer: &mut Writer<'_>, draft: Draft) {
        self.remove_weight(draft.slot.id());
        writer.give_back(draft.slot, &self.slab);
    }

    /// Gives the draft another value.
    pub(crate) fn redraft(&self, draft: &mut Draft, value: V, weight: u64) {
        self.remove_weight(draft.slot.id());
        self.slab.set_value(&mut draft.slot, Some(value));
        self.add_weight(draft.slot.id(), weight);
        draft.weight = weight;
    }

    pub(crate) fn draft_key<'a>(&'a self, draft: &'a Draft) -> &'a K {
        self.slab.owned_key(&draft.slot)
    }

    pub(crate) fn add_weight(&self, slot: SlotId, weight: u64) {
        if let Some(weights) = &self.weights {
            // Relaxed: counts; the slot's own weight is published with the slot.
            weights.of[slot.0 as usize].store(weight, Ordering::Relaxed);
            weights.total.fetch_add(weight, Ordering::Relaxed);
        }
    }

    pub(crate) fn remove_weight(&self, slot: SlotId) {
        if let Some(weights) = &self.weights {
            // Relaxed: counts. Swapped, so that it cannot be subtracted twice.
            let weight = weights.of[slot.0 as usize].swap(0, Ordering::Relaxed);
            weights.total.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// Publishes a draft as the newest, dirty version of its key: the write happens at one compare-and-swap in here.
    ///
    /// The draft stays with the caller if it is refused. A `credit` is used up if the key needs a new place.
    pub(crate) fn publish<'s>(
        &'s self,
        writer: &mut Writer<'_>,
        draft: Draft,
        hash: u64,
        expect: Expect,
        credit: &mut Option<Credit<'s>>,
        guard: &Guard,
    ) -> Result<(Position, u64), (Draft, Refused)> {
        let Draft { mut slot, kind, weight } = draft;
        let closed_early = cfg!(mutant = "closed_early") && self.closed.load(Ordering::Relaxed);
        let window = self.epochs.enter(writer.running());
        // Relaxed: behind the window's fence. Either we see that the cache is closed, or the checkpoint of the one who
        // closes it waits for this window. Pairs with the fence in `Checkpoint::begin`.
        let replaced =
            if closed_early || !cfg!(mutant = "closed_early") && self.closed.load(Ordering::Relaxed) {
                Err(Refused::Closed)
            } else {
                self.swing(&mut slot, kind, hash, expect, window.epoch, credit, guard)
            };
        let replaced = match replaced {
            Ok(replaced) => replaced,
            Err(refused) => return Err((Draft { slot, kind, weight }, refused)),
        };
        let (id, at) = (slot.release(), replaced.at);
        let mut wake = false;
        if cfg!(mutant = "announce_early") {
            self.slab.announce(id, guard);
        }
        // Announce, then say so. Whoever sees a dirty entry either knows that the flusher hears of it, or tells it.
        if replaced.was_clean {
            let dirtied = writer.count_dirtied();
            if !writer.push(at) {
                self.dirty_map.mark(at);
            }
            wake = self.is_threshold(dirtied);
        } else if !replaced.was_announced && !cfg!(mutant = "overwrite_silent") {
            self.dirty_map.mark(at);
        }
        self.slab.announce(id, guard);
        drop(window);
        if let Some(old) = replaced.old {
            self.remove_weight(old);
            writer.retire(old, guard);
        }
        // System calls, if any, only now.
        if wake {
            self.signal.wake();
        } else if replaced.was_clean || !replaced.was_announced {
            self.signal.something_dirty();
        }
        Ok((at, replaced.version))
    }

    /// The compare-and-swap loop of a write.
    #[allow(clippy::too_many_arguments)]
    fn swing<'s>(
        &'s self,
        slot: &mut OwnedSlot,
        kind: Kind,
        hash: u64,
        expect: Expect,
        epoch: u64,
        credit: &mut Option<Credit<'s>>,
        guard: &Guard,
    ) -> Result<Replaced, Refused> {
        loop {
            // Borrowed anew in each round: the version is written into the slot in between.
            let probe = self.table.probe(hash, guard, self.holds(self.slab.owned_key(slot), guard));
            match probe {
                Probe::Found(at, old) => {
                    let loading = old.is_placeholder();
                    let predecessor = if loading { 0 } else { self.slab.version(old.slot(), guard) };
                    match expect {
                        Expect::Version(version) if loading || version != predecessor => {
                            return Err(Refused::Changed);
                        }
                        _ => {}
                    }
                    let version = epochs::successor(predecessor, epoch);
                    self.slab.set_version(slot, version, false);
                    let was_announced = loading || self.slab.is_announced(old.slot(), guard);
                    let new = old.succeeded_by(kind, slot.id(), true);
                    if self.table.replace(at, old, new, guard).is_ok() {
                        let old_slot = (!loading).then_some(old.slot());
                        return Ok(Replaced {
                            at,
                            version,
                            old: old_slot,
                            was_clean: !old.is_dirty(),
                            was_announced,
                        });
                    }
                }
                Probe::Vacant(vacancy) => {
                    if let Expect::Version(_) = expect {
                        return Err(Refused::Changed);
                    }
                    let paid = match credit.take().or_else(|| self.try_credit()) {
                        Some(paid) => paid,
                        None => return Err(Refused::NoRoom),
                    };
                    let version = epochs::successor(0, epoch);
                    self.slab.set_version(slot, version, false);
                    let word = Word::new(kind, Table::tag(hash), slot.id()).with_dirty(true);
                    match self.table.insert(&vacancy, word, guard) {
                        Ok(at) => {
                            paid.spend();
                            self.enlist(&vacancy, word);
                            return Ok(Replaced {
                                at,
                                version,
                                old: None,
                                was_clean: true,
                                was_announced: true,
                            });
                        }
                        Err(()) => *credit = Some(paid),
                    }
                }
                Probe::Full => return Err(Refused::NoRoom),
            }
        }
    }

    /// Enters a place that was just taken into the eviction policy, if it is not in it from an earlier use.
    pub(super) fn enlist(&self, vacancy: &Vacancy, word: Word) {
        if !vacancy.is_listed() {
            let is_full = self.len() >= self.capacity;
            self.policy.admit(vacancy.at(), vacancy.fingerprint(word.tag()), is_full);
        }
    }

    /// Whether the lane that has just made its `dirtied`-th entry dirty should wake the flusher because there are enough.
    fn is_threshold(&self, dirtied: usize) -> bool {
        // Summing all lanes costs a cache line each, so each lane does it only every eighth of the threshold.
        let step = (self.flush_at / 8).max(1);
        dirtied.is_multiple_of(step) && self.dirty() >= self.flush_at
    }
}
