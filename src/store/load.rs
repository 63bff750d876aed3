//! Placeholders: how a value comes from the backend into the table without ever covering a write.

use std::hash::{BuildHasher, Hash};

use super::{Credit, Seen, SpareSlot, Store};
use crate::{
    epochs,
    grace::Guard,
    lane::Writer,
    slab::OwnedSlot,
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
pub(crate) enum Installed<'g, K, V, S> {
    Ours(Placeholder),
    /// The key is there, or on its way.
    Seen(Seen<'g, V>, SpareSlot<'g, K, V, S>),
    /// No place in the range of the key.
    NoRoom(SpareSlot<'g, K, V, S>),
}

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    /// A slot for a placeholder, holding the key. `None`: no slot is free.
    pub(crate) fn placeholder_slot(&self, writer: &mut Writer<'_>, key: K) -> Option<SpareSlot<'_, K, V, S>> {
        let mut slot = writer.take_slot(&self.slab)?;
        self.slab.set_key(&mut slot, key);
        self.slab.set_version(&mut slot, 0, true);
        Some(SpareSlot::new(self, slot))
    }

    /// Puts a placeholder where the key would be, if it is absent.
    pub(crate) fn install<'g>(
        &'g self,
        spare: SpareSlot<'g, K, V, S>,
        hash: u64,
        credit: Credit<'_>,
        guard: &'g Guard,
    ) -> Installed<'g, K, V, S> {
        // In no queue of the policy: nothing can be evicted here before the load is done.
        let word = Word::new(Kind::Placeholder, Table::tag(hash), spare.id());
        loop {
            match self.table.probe(hash, guard, self.holds(spare.key(), guard)) {
                Probe::Found(at, word) => return Installed::Seen(self.see(at, word, guard), spare),
                Probe::Full => return Installed::NoRoom(spare),
                Probe::Vacant(vacancy) => {
                    if let Ok(at) = self.table.insert(&vacancy, word, guard) {
                        credit.spend();
                        // Read after the placeholder is there: what the key had before is in epochs before this one.
                        let version = epochs::loaded(self.epochs.retired());
                        return Installed::Ours(Placeholder { at, slot: spare.into_owned(), version });
                    }
                }
            }
        }
    }

    /// Replaces exactly this placeholder by what was loaded: a value, or the knowledge that there is none; without
    /// content, by nothing.
    pub(crate) fn fulfil(
        &self,
        writer: &mut Writer<'_>,
        placeholder: Placeholder,
        content: Option<(K, Option<V>, u64)>,
        guard: &Guard,
    ) -> Fulfilled {
        let Placeholder { at, slot, version } = placeholder;
        let word = self.table.word(at, guard);
        let is_ours = word.is_placeholder() && (word.slot() == slot.id() || cfg!(mutant = "fulfil_any"));
        let fulfilled = if is_ours {
            self.swap_placeholder(writer, at, word, version, content, guard)
        } else {
            Fulfilled::Overtaken
        };
        writer.retire(slot.release());
        fulfilled
    }

    fn swap_placeholder(
        &self,
        writer: &mut Writer<'_>,
        at: Position,
        mut word: Word,
        version: u64,
        content: Option<(K, Option<V>, u64)>,
        guard: &Guard,
    ) -> Fulfilled {
        let holder = word.slot();
        let entry = content.and_then(|(key, value, weight)| {
            let mut draft = self.draft(writer, key, value, weight).ok()?;
            self.slab.set_version(draft.spare.slot(), version, true);
            Some(draft)
        });
        loop {
            let swapped = match &entry {
                Some(draft) => {
                    let clean = word.succeeded_by(draft.kind, draft.spare.id(), false).with_listed(true);
                    self.table.replace(at, word, clean, guard)
                }
                None => self.table.vacate(at, word, word.is_listed(), guard),
            };
            match swapped {
                Ok(()) => {
                    return match entry {
                        Some(draft) => {
                            let weight = draft.weight;
                            draft.spare.into_owned().release();
                            self.add_weight(weight);
                            self.enlist(at, word);
                            Fulfilled::Cached
                        }
                        None => {
                            drop(self.emptied());
                            Fulfilled::Dropped
                        }
                    };
                }
                // Only its listing may have changed.
                Err(now) if now.is_placeholder() && now.slot() == holder => word = now,
                Err(_) => return Fulfilled::Overtaken,
            }
        }
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
                    drop(self.emptied());
                    return Invalidation::Removed;
                }
            } else if !self.is_evictable(word, guard) {
                return Invalidation::NotYet;
            } else if self.remove_clean(writer, at, word, word.is_listed(), guard).is_some() {
                return Invalidation::Removed;
            }
        }
    }
}

/// What became of a placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fulfilled {
    /// What was loaded is in the cache.
    Cached,
    /// The placeholder is gone, and nothing took its place: there was nothing to cache, or no slot for it.
    Dropped,
    /// A put, a remove or an invalidation came first, and wins.
    Overtaken,
}

/// What came of an invalidation.
pub(crate) enum Invalidation {
    Removed,
    Absent,
    Dirty,
    /// Its epoch is not retired: the flusher has to be asked first.
    NotYet,
}
