//! Bounds: who may take a place, and who has to leave for it.

use std::hash::{BuildHasher, Hash};

use crossbeam_epoch::Guard;

use super::Store;
use crate::{
    lane::Writer,
    policy::Verdict,
    sync::{AtomicUsize, Ordering},
    table::{Position, Word},
};

/// The promise of one place in the table. Goes back when dropped.
#[must_use]
pub(crate) struct Credit<'s> {
    taken: &'s AtomicUsize,
}

impl Credit<'_> {
    /// The place is taken now; whoever empties it gives it back.
    pub(super) fn spend(self) {
        std::mem::forget(self);
    }
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        // Relaxed: a count.
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many places an eviction looks at before it gives up. Nearly all need one or two looks; only places that are
/// being loaded, or whose epoch is not retired, are passed over without any progress.
const LOOKS: usize = 64;

/// From this look on an entry goes however often it was read.
const PATIENCE: usize = 16;

/// So many dirty entries in the way of one eviction mean that the flusher should not wait for its deadline.
const MANY_DIRTY: usize = 8;

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    /// A place, if the cache is not full.
    pub(crate) fn try_credit(&self) -> Option<Credit<'_>> {
        // Relaxed: the counter orders nothing.
        let credit = Credit { taken: &self.taken };
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.capacity { Some(credit) } else { None }
    }

    /// A place: a free one, or that of an entry evicted for it. `None`: nothing can go; see [`Store::press`].
    pub(crate) fn credit_by_force(&self, writer: &mut Writer<'_>, guard: &Guard) -> Option<Credit<'_>> {
        self.try_credit().or_else(|| self.evict(writer, guard))
    }

    /// Whether the entries weigh more than they may.
    pub(crate) fn is_overweight(&self) -> bool {
        let (total, limit) = self.weight();
        limit.is_some_and(|limit| total > limit)
    }

    /// Evicts until the entries weigh no more than they may. `false`: nothing can go.
    pub(crate) fn trim_weight(&self, writer: &mut Writer<'_>, guard: &Guard) -> bool {
        while self.is_overweight() {
            if self.evict(writer, guard).is_none() {
                return false;
            }
        }
        true
    }

    /// Evicts one entry from the range of this hash. `false`: nothing in it can go.
    pub(crate) fn clear_range(&self, writer: &mut Writer<'_>, hash: u64, guard: &Guard) -> bool {
        self.table.range(hash).any(|at| {
            let word = self.table.word(at, guard);
            self.is_evictable(word, guard) && self.remove_clean(writer, at, word, word.is_listed(), guard).is_some()
        })
    }

    /// The flusher should make room: by flushing, and by retiring epochs.
    pub(crate) fn press(&self) {
        // Relaxed: `wake` has the fence.
        self.pressure.store(true, Ordering::Relaxed);
        self.wants_checkpoint.store(true, Ordering::Relaxed);
        self.signal.wake();
    }

    /// Whether the entry may leave the table: decided, clean, and of a retired epoch.
    pub(super) fn is_evictable(&self, word: Word, guard: &Guard) -> bool {
        word.is_entry() && !word.is_dirty() && self.epochs.may_forget(self.slab.version(word.slot(), guard))
    }

    /// Evicts the entry that the policy likes least.
    fn evict(&self, writer: &mut Writer<'_>, guard: &Guard) -> Option<Credit<'_>> {
        let mut dirty_ones = 0;
        for look in 0..LOOKS {
            let Some((queue, at)) = self.policy.pop() else { break };
            // The place is in no queue now, and it is ours to say what becomes of its listing.
            let mut word = self.table.word(at, guard);
            loop {
                let next = if word.is_empty() {
                    self.table.set_empty_listed(at, word, false)
                } else if word.is_tentative() || word.is_placeholder() {
                    Ok(self.policy.push(queue, at))
                } else if word.is_dirty() {
                    // Out of the queue until the flusher has cleaned it: nobody walks over it a second time.
                    dirty_ones += 1;
                    self.table.replace(at, word, word.with_listed(false), guard)
                } else if !self.is_evictable(word, guard) {
                    self.wants_checkpoint.store(true, Ordering::Relaxed);
                    Ok(self.policy.push(queue, at))
                } else {
                    match self.policy.judge(queue, self.table.heat(at), look >= PATIENCE) {
                        Verdict::Keep { queue, heat } => {
                            self.table.set_heat(at, heat);
                            Ok(self.policy.push(queue, at))
                        }
                        Verdict::Evict => match self.remove_clean(writer, at, word, false, guard) {
                            Some(credit) => {
                                self.policy.evicted(queue, self.table.fingerprint(at, word));
                                self.evictions.fetch_add(1, Ordering::Relaxed);
                                if dirty_ones >= MANY_DIRTY {
                                    self.pressure.store(true, Ordering::Relaxed);
                                }
                                return Some(credit);
                            }
                            None => Err(self.table.word(at, guard)),
                        },
                    }
                };
                match next {
                    Ok(()) => break,
                    Err(now) => word = now,
                }
            }
        }
        None
    }

    /// Takes exactly this clean word out of the table. Its place is the caller's.
    pub(super) fn remove_clean(
        &self,
        writer: &mut Writer<'_>,
        at: Position,
        word: Word,
        listed: bool,
        guard: &Guard,
    ) -> Option<Credit<'_>> {
        debug_assert!(word.is_entry() && !word.is_dirty());
        self.table.vacate(at, word, listed, guard).ok()?;
        self.remove_weight(word.slot());
        writer.retire(word.slot(), guard);
        Some(Credit { taken: &self.taken })
    }
}
