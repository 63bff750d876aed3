//! Publishing a new version of an entry.

use std::{
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering,
};

use super::{
    Budget, Credit, Overdraft, SpareSlot, Store,
    budget::{Charge, Permit},
};
use crate::{
    epochs::{self, Window},
    fault,
    grace::Guard,
    lane::Writer,
    table::{Kind, Position, Probe, SlotId, Table, Vacancy, Word},
};

/// A slot with a key and a value (or none: a tombstone), not yet published. Goes back into use when dropped.
#[must_use]
pub(crate) struct Draft<'s, K, V, S> {
    pub(super) spare: SpareSlot<'s, K, V, S>,
    pub(super) kind: Kind,
    pub(super) weight: u64,
    /// It may go over the dirty limits.
    pub(crate) overdraft: Option<Overdraft<'s>>,
}

impl<K, V, S> Draft<'_, K, V, S> {
    pub(crate) fn key(&self) -> &K {
        self.spare.key()
    }
}

/// A draft that was refused, and why.
pub(crate) type Unpublished<'s, K, V, S> = (Draft<'s, K, V, S>, Refused);

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
    /// There is no room for so much more weight.
    TooMuch(u64),
    /// A sync of the journal has failed since the record was prepared: it has to be prepared anew, elsewhere.
    Unsound,
    /// As much is dirty as may be.
    TooDirty,
    Closed,
}

/// A write that the dirty limits let through.
struct Admitted<'s> {
    permit: Permit<'s>,
    went_over: bool,
    shrunk_by: u64,
}

impl Admitted<'_> {
    fn spend(self) -> Dirtied {
        Dirtied { grew: self.permit.spend(), went_over: self.went_over, shrunk_by: self.shrunk_by }
    }
}

/// What a write has come to.
#[must_use]
pub(crate) struct Published<'s> {
    pub(crate) at: Position,
    pub(crate) version: u64,
    /// More is dirty than before.
    pub(crate) grew: bool,
    /// It went over a dirty limit, by this right.
    pub(crate) overdraft: Option<Overdraft<'s>>,
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
    dirtied: Dirtied,
}

/// How a write has changed what is dirty, if that is counted.
#[derive(Clone, Copy, Default)]
struct Dirtied {
    grew: bool,
    went_over: bool,
    /// So many bytes fewer are dirty.
    shrunk_by: u64,
}

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    /// A draft of an entry. `Err` gives key and value back: no slot is free.
    #[inline(always)]
    pub(crate) fn draft(
        &self,
        writer: &mut Writer<'_>,
        key: K,
        value: Option<V>,
        weight: u64,
    ) -> Result<Draft<'_, K, V, S>, (K, Option<V>)> {
        let Some(mut slot) = writer.take_slot(&self.slab) else { return Err((key, value)) };
        let kind = if value.is_some() { Kind::Value } else { Kind::Tombstone };
        self.slab.set_key(&mut slot, key);
        self.slab.set_value(&mut slot, value);
        self.note_weight(slot.id(), weight);
        Ok(Draft { spare: SpareSlot::new(self, slot), kind, weight, overdraft: None })
    }

    /// Gives the draft another value.
    pub(crate) fn redraft(&self, draft: &mut Draft<'_, K, V, S>, value: V, weight: u64) {
        self.slab.set_value(draft.spare.slot(), Some(value));
        self.note_weight(draft.spare.id(), weight);
        draft.weight = weight;
    }

    /// What the entry in an owned slot weighs.
    fn note_weight(&self, slot: SlotId, weight: u64) {
        if let Some(weights) = &self.weights {
            // Relaxed: published with the slot.
            weights.of[slot.0 as usize].store(weight, Ordering::Relaxed);
        }
    }

    /// An entry of this weight is in the table now. Whoever replaces it may have subtracted it already.
    pub(super) fn add_weight(&self, weight: u64) {
        if let Some(weights) = &self.weights {
            // Relaxed: a count.
            weights.total.fetch_add(weight, Ordering::Relaxed);
        }
    }

    /// The entry in this slot is not in the table any more.
    pub(super) fn remove_weight(&self, slot: SlotId) {
        if let Some(weights) = &self.weights {
            // Relaxed: counts.
            let weight = weights.of[slot.0 as usize].load(Ordering::Relaxed);
            weights.total.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// How much more than what `old` weighs comes with `weight`, if that is more than there is room for. Each thread may
    /// overlook what others are just publishing.
    pub(super) fn too_much(&self, weight: u64, old: Option<SlotId>) -> Option<u64> {
        let weights = self.weights.as_ref()?;
        let old = old.map_or(0, |slot| weights.of[slot.0 as usize].load(Ordering::Relaxed));
        // What weighs no more than its predecessor is never refused.
        let more = weight.checked_sub(old).filter(|more| *more > 0)?;
        (weights.total().saturating_add(more) > weights.limit).then_some(more)
    }

    /// Publishes a draft as the newest, dirty version of its key: the write happens at one compare-and-swap in here.
    ///
    /// The draft stays with the caller if it is refused. A `credit` is used up if the key needs a new place.
    #[inline(always)]
    pub(crate) fn publish<'s>(
        &'s self,
        writer: &mut Writer<'_>,
        mut draft: Draft<'s, K, V, S>,
        hash: u64,
        expect: Expect,
        credit: &mut Option<Credit<'s>>,
        guard: &Guard,
    ) -> Result<Published<'s>, Unpublished<'s, K, V, S>> {
        let closed_early = cfg!(mutant = "closed_early") && self.closed.load(Ordering::Relaxed);
        let mut window = self.epochs.enter(writer.running());
        fault::point("window: entered");
        // Relaxed: behind the window's opening. If it opened in the epoch that the closing checkpoint began, it has seen
        // `closed`; if in an earlier one, that checkpoint waits for it.
        let is_closed =
            if cfg!(mutant = "closed_early") { closed_early } else { self.closed.load(Ordering::Relaxed) };
        let replaced = if is_closed {
            Err(Refused::Closed)
        } else if !self.may_pend(writer) {
            Err(Refused::Unsound)
        } else {
            self.swing(writer, &mut draft, hash, expect, &mut window, credit, guard)
        };
        let replaced = match replaced {
            Ok(replaced) => replaced,
            Err(refused) => {
                fault::point("put: refused");
                return Err((draft, refused));
            }
        };
        let mut window = Some(window);
        if fault::broken("leave-after-queue") {
            window = None;
        }
        let (weight, at) = (draft.weight, replaced.at);
        let Dirtied { grew, went_over, shrunk_by } = replaced.dirtied;
        let overdraft = draft.overdraft.take();
        let id = draft.spare.into_owned().release();
        let mut wake = false;
        if cfg!(mutant = "announce_early") {
            self.slab.announce(id, guard);
        }
        fault::point("put: published");
        // Announce, then say so. Whoever sees a dirty entry either knows that the flusher hears of it, or tells it.
        if replaced.was_clean || fault::broken("edge-only") {
            let dirtied = writer.count_dirtied();
            if !writer.push(at) {
                self.dirty_map.mark(at);
            }
            wake = self.is_threshold(dirtied);
        } else if (!replaced.was_announced && !cfg!(mutant = "overwrite_silent"))
            || fault::broken("deadline-stays")
        {
            self.dirty_map.mark(at);
        }
        if fault::broken("live-before-announced") {
            self.slab.announce(id, guard);
        }
        fault::point("put: queued");
        if let Some(journaling) = &self.journal {
            // After it was queued: a record that counts is one that the flusher hears of. Before it is announced: who sees that
            // relies on the record. Before the window closes: until then nothing of its epoch is retired.
            if !fault::broken("put-makes-live") {
                writer.appender().make_live();
            }
            fault::point("put: live");
            self.slab.announce(id, guard);
            fault::point("put: announced");
            drop(window);
            writer.appender().advance();
            journaling.journal.note_written();
        } else {
            self.slab.announce(id, guard);
            drop(window);
        }
        fault::point("put: left");
        self.add_weight(weight);
        if let Some(old) = replaced.old {
            self.remove_weight(old);
            writer.retire(old);
        }
        if let (Some(budget), 1..) = (&self.budget, shrunk_by) {
            budget.discharge(Charge { entries: 0, bytes: shrunk_by });
            self.room.notify();
        }
        // System calls, if any, only now.
        if wake {
            self.signal.wake();
        } else if replaced.was_clean || !replaced.was_announced {
            self.signal.something_dirty();
        } else if self.signal.is_idle() {
            // Whoever made the entry dirty has stalled before it woke the flusher, and our write is acknowledged now.
            self.signal.something_dirty();
        }
        Ok(Published { at, version: replaced.version, grew, overdraft: overdraft.filter(|_| went_over) })
    }

    /// The compare-and-swap loop of a write.
    #[inline(always)]
    #[expect(clippy::too_many_arguments)]
    fn swing<'s>(
        &'s self,
        writer: &mut Writer<'_>,
        draft: &mut Draft<'s, K, V, S>,
        hash: u64,
        expect: Expect,
        window: &mut Window<'_>,
        credit: &mut Option<Credit<'s>>,
        guard: &Guard,
    ) -> Result<Replaced, Refused> {
        let epoch = window.epoch;
        loop {
            // Borrowed anew in each round: the version is written into the slot in between.
            let probe = self.table.probe(hash, guard, self.holds(draft.key(), guard));
            let (kind, weight, id) = (draft.kind, draft.weight, draft.spare.id());
            let may_overdraw = draft.overdraft.is_some();
            match probe {
                Probe::Found(at, old) => {
                    let loading = old.is_placeholder();
                    let predecessor = if loading { 0 } else { self.slab.version(old.slot(), guard) };
                    match expect {
                        Expect::Version(version)
                            if loading
                                || (version != predecessor && !fault::broken("update-expects-version")) =>
                        {
                            return Err(Refused::Changed);
                        }
                        _ => {}
                    }
                    if let Some(more) = self.too_much(weight, (!loading).then_some(old.slot())) {
                        return Err(Refused::TooMuch(more));
                    }
                    let permit = self.permit(kind, weight, Some(old), may_overdraw)?;
                    let version = epochs::successor(predecessor, epoch);
                    self.slab.set_version(draft.spare.slot(), version, false);
                    self.pend(writer, window, id, version);
                    let was_announced = loading || self.slab.is_announced(old.slot(), guard);
                    // The place of a placeholder is in no queue yet, unless it was before.
                    let new = old.succeeded_by(kind, id, true).with_listed(loading || old.is_listed());
                    if self.table.replace(at, old, new, guard).is_ok() {
                        let old_slot = (!loading).then_some(old.slot());
                        if loading {
                            self.enlist(at, old);
                        }
                        return Ok(Replaced {
                            at,
                            version,
                            old: old_slot,
                            was_clean: !old.is_dirty(),
                            was_announced,
                            dirtied: permit.map_or_else(Dirtied::default, Admitted::spend),
                        });
                    }
                    fault::point("put: lost");
                }
                Probe::Vacant(vacancy) => {
                    if let Expect::Version(_) = expect {
                        return Err(Refused::Changed);
                    }
                    if let Some(more) = self.too_much(weight, None) {
                        return Err(Refused::TooMuch(more));
                    }
                    if !may_overdraw && self.budget.as_ref().is_some_and(Budget::is_full) {
                        // Nobody is evicted for a write that is not made.
                        return Err(Refused::TooDirty);
                    }
                    let paid = match credit.take().or_else(|| self.try_credit()) {
                        Some(paid) => paid,
                        None => return Err(Refused::NoRoom),
                    };
                    let permit = match self.permit(kind, weight, None, may_overdraw) {
                        Ok(permit) => permit,
                        Err(refused) => {
                            *credit = Some(paid);
                            return Err(refused);
                        }
                    };
                    let version = epochs::successor(0, epoch);
                    self.slab.set_version(draft.spare.slot(), version, false);
                    self.pend(writer, window, id, version);
                    let word = Word::new(kind, Table::tag(hash), id).with_dirty(true).with_listed(true);
                    match self.table.insert(&vacancy, word, guard) {
                        Ok(at) => {
                            paid.spend();
                            self.enlist_new(&vacancy, word);
                            return Ok(Replaced {
                                at,
                                version,
                                old: None,
                                was_clean: true,
                                was_announced: true,
                                dirtied: permit.map_or_else(Dirtied::default, Admitted::spend),
                            });
                        }
                        Err(()) => {
                            fault::point("put: lost");
                            *credit = Some(paid);
                        }
                    }
                }
                Probe::Full => return Err(Refused::NoRoom),
            }
        }
    }

    /// Reserves what a write in place of `old` makes dirty. `None`: that is not counted.
    fn permit(
        &self,
        kind: Kind,
        weight: u64,
        old: Option<Word>,
        may_overdraw: bool,
    ) -> Result<Option<Admitted<'_>>, Refused> {
        let Some(budget) = &self.budget else { return Ok(None) };
        let bytes = self.dirty_bytes(kind, weight);
        // What is dirty already, in flight or not, is charged already.
        let charged = old.filter(|old| old.is_dirty()).map(|old| self.dirty_bytes_of(old));
        let entries = u64::from(charged.is_none());
        let charge = Charge { entries, bytes: bytes.saturating_sub(charged.unwrap_or(0)) };
        let shrunk_by = charged.unwrap_or(0).saturating_sub(bytes);
        match budget.reserve(charge, &self.room) {
            Some(permit) => Ok(Some(Admitted { permit, went_over: false, shrunk_by })),
            None if may_overdraw => {
                let permit = budget.force(charge, &self.room);
                Ok(Some(Admitted { permit, went_over: true, shrunk_by }))
            }
            None => Err(Refused::TooDirty),
        }
    }

    /// Enters the place of a new entry into the eviction policy, if it is not in it from an earlier use.
    pub(super) fn enlist_new(&self, vacancy: &Vacancy, word: Word) {
        if !vacancy.is_listed() {
            self.admit(vacancy.at(), vacancy.fingerprint(word.tag()));
        }
    }

    /// Enters the place of an entry that has just replaced the placeholder `old`, likewise.
    pub(super) fn enlist(&self, at: Position, old: Word) {
        if !old.is_listed() {
            self.admit(at, self.table.fingerprint(at, old));
        }
    }

    fn admit(&self, at: Position, fingerprint: u64) {
        self.policy.admit(at, fingerprint, self.len() >= self.capacity);
    }

    /// Whether the lane that has just made its `dirtied`-th entry dirty should wake the flusher because there are enough.
    fn is_threshold(&self, dirtied: usize) -> bool {
        // Summing all lanes costs a cache line each, so each lane does it only every eighth of the threshold.
        let step = (self.flush_at / 8).max(1);
        dirtied.is_multiple_of(step) && self.dirty() >= self.flush_at
    }
}
