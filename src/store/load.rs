//! Placeholders: how a value comes from the backend into the table without ever covering a write.

use std::hash::{BuildHasher, Hash};

use crossbeam_epoch::Guard;

use super::{Credit, Seen, Store};
use crate::{
    epochs,
    lane::Writer,
    slab::OwnedSlot,
    sync::Ordering,
    table::{Kind, Position, Probe, SlotId, Table, Word},
};

/// A placeholder in the table. Its slot is not used again before the loader is done, so no other placeholder can be
/// mistaken for it.
#[must_use]
pub(crate) struct Placeholder {
    at: Position,
    slot: OwnedSlot,
    /// What a value that is loaded now is worth: more than every version that the key had before.
    version: u64,
}

impl Placeholder {
    pub(crate) fn slot(&self) -> SlotId {
        self.slot.id()
    }
}

/// What happened to an attempt to install a placeholder.
pub(crate) enum Installed<'g, V> {
    Ours(Placeholder),
    /// The key is there, or on its way.
    Seen(Seen<'g, V>),
    /// No place in the range of the key.
    NoRoom,
}

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    /// A slot for a placeholder, holding the key. `None`: no slot is free.
    pub(crate) fn placeholder_slot(&self, writer: &mut Writer<'_>, key: K) -> Option<OwnedSlot> {
        let mut slot = writer.take_slot(&self.slab)?;
        self.slab.set_key(&mut slot, key);
        self.slab.set_version(&mut slot, 0, true);
        Some(slot)
    }

    /// Puts a placeholder where the key would be, if it is absent. The slot stays in `slot` unless it is used.
    pub(crate) fn install<'g>(
        &'g self,
        slot: &mut Option<OwnedSlot>,
        hash: u64,
        credit: Credit<'_>,
        guard: &'g Guard,
    ) -> Installed<'g, V> {
        let Some(owned) = slot.take() else { return Installed::NoRoom };
        let word = Word::new(Kind::Placeholder, Table::tag(hash), owned.id());
        let installed = loop {
            match self.table.probe(hash, guard, self.holds(self.slab.owned_key(&owned), guard)) {
                Probe::Found(at, word) => break Installed::Seen(self.see(at, word, guard)),
                Probe::Full => break Installed::NoRoom,
                Probe::Vacant(vacancy) => {
                    if let Ok(at) = self.table.insert(&vacancy, word, guard) {
                        credit.spend();
                        self.enlist(&vacancy, word);
                        // Read after the placeholder is there: what the key had before is in epochs before this one.
                        let version = epochs::loaded(self.epochs.retired());
                        return Installed::Ours(Placeholder { at, slot: owned, version });
                    }
                }
            }
        };
        *slot = Some(owned);
        installed
    }

    /// Replaces exactly this placeholder by what was loaded: a value, or the knowledge that there is none.
    ///
    /// `false`: a put, a remove or an invalidation came first, and wins.
    pub(crate) fn fulfil(
        &self,
        writer: &mut Writer<'_>,
        placeholder: Placeholder,
        content: Option<(K, Option<V>, u64)>,
        guard: &Guard,
    ) -> bool {
        let Placeholder { at, slot, version } = placeholder;
        let word = self.table.word(at, guard);
        let is_ours = word.is_placeholder() && (word.slot() == slot.id() || cfg!(mutant = "fulfil_any"));
        let done = is_ours && self.swap_placeholder(writer, at, word, version, content, guard);
        writer.retire(slot.release(), guard);
        done
    }

    fn swap_placeholder(
        &self,
        writer: &mut Writer<'_>,
        at: Position,
        mut word: Word,
        version: u64,
        content: Option<(K, Option<V>, u64)>,
        guard: &Guard,
    ) -> bool {
        let holder = word.slot();
        let entry = content.and_then(|(key, value, weight)| {
            let mut slot = writer.take_slot(&self.slab)?;
            let kind = if value.is_some() { Kind::Value } else { Kind::Tombstone };
            self.slab.set_key(&mut slot, key);
            self.slab.set_value(&mut slot, value);
            self.slab.set_version(&mut slot, version, true);
            self.add_weight(slot.id(), weight);
            Some((kind, slot))
        });
        loop {
            let swapped = match &entry {
                Some((kind, slot)) => {
                    self.table.replace(at, word, word.succeeded_by(*kind, slot.id(), false), guard)
                }
                None => self.table.vacate(at, word, word.is_listed(), guard),
            };
            match swapped {
                Ok(()) => {
                    match entry {
                        Some((_, slot)) => drop(slot.release()),
                        // Relaxed: a count.
                        None => drop(self.taken.fetch_sub(1, Ordering::Relaxed)),
                    }
                    return true;
                }
                // Only its listing may have changed.
                Err(now) if now.is_placeholder() && now.slot() == holder => word = now,
                Err(_) => break,
            }
        }
        if let Some((_, slot)) = entry {
            self.remove_weight(slot.id());
            writer.give_back(slot, &self.slab);
        }
        false
    }

    /// Takes a clean entry, or the placeholder of a load, out of the table.
    pub(crate) fn invalidate<Q>(
        &self,
        writer: &mut Writer<'_>,
        hash: u64,
        key: &Q,
        guard: &Guard,
    ) -> Invalidation
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + ?Sized,
    {
        loop {
            let Some((at, word)) = self.table.find(hash, guard, self.holds(key, guard)) else {
                return Invalidation::Absent;
            };
            if word.is_dirty() {
                return Invalidation::Dirty;
            }
            if word.is_placeholder() {
                // The loader keeps the slot; it will find that its placeholder is gone.
                if self.table.vacate(at, word, word.is_listed(), guard).is_ok() {
                    self.taken.fetch_sub(1, Ordering::Relaxed);
                    return Invalidation::Removed;
                }
            } else if !self.is_evictable(word, guard) {
                return Invalidation::NotYet;
            } else if self.remove_clean(writer, at, word, word.is_listed(), guard).is_some() {
                return if word.kind() == Kind::Value { Invalidation::Removed } else { Invalidation::Absent };
            }
        }
    }
}

/// What came of an invalidation.
pub(crate) enum Invalidation {
    Removed,
    Absent,
    Dirty,
    /// Its epoch is not retired: the flusher has to be asked first.
    NotYet,
}
