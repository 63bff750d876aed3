//! Bounds: who may take a place, and who has to leave for it.

use std::hash::{BuildHasher, Hash};

use super::Store;
use crate::{
    grace::Guard,
    lane::Writer,
    policy::{MOVES, PROMOTE, Queue},
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

/// How many places of each queue one eviction looks at before it gives up on it. Most need a few looks; beyond what the
/// policy moves, only places whose epoch is not retired are passed over and met again.
const LOOKS: u32 = 64;

/// What is left of an eviction's budget.
struct Search {
    moves: u32,
    small_looks: u32,
    main_looks: u32,
}

impl Search {
    fn move_on(&mut self) -> bool {
        let may = self.moves > 0;
        self.moves = self.moves.saturating_sub(1);
        may
    }

    fn look_on(&mut self, queue: Queue) -> bool {
        let looks = match queue {
            Queue::Small => &mut self.small_looks,
            Queue::Main => &mut self.main_looks,
        };
        let may = *looks > 0;
        *looks = looks.saturating_sub(1);
        may
    }
}

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    /// A place, if the cache is not full.
    pub(crate) fn try_credit(&self) -> Option<Credit<'_>> {
        // Relaxed: the counter orders nothing.
        let one_more = |taken| (taken < self.capacity).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Credit { taken: &self.taken })
    }

    /// A place: a free one, or that of an entry evicted for it. `None`: nothing can go; see [`Store::press`].
    pub(crate) fn credit_by_force(&self, writer: &mut Writer<'_>, guard: &Guard) -> Option<Credit<'_>> {
        self.try_credit().or_else(|| self.evict(writer, guard))
    }

    /// Evicts until `weight` more has room. `false`: nothing can go.
    pub(crate) fn make_weight(&self, writer: &mut Writer<'_>, weight: u64, guard: &Guard) -> bool {
        while let (total, Some(limit)) = self.weight()
            && total.saturating_add(weight) > limit
        {
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
            self.is_evictable(word, guard)
                && self.remove_clean(writer, at, word, word.is_listed(), guard).is_some()
        })
    }

    /// The flusher should write, for room or the dirty budget is running out.
    pub(crate) fn press_to_flush(&self) {
        // Release: pairs with the flusher's swap, which then finds what this thread has queued before.
        self.pressure.store(true, Ordering::Release);
        self.signal.wake();
    }

    /// The flusher should retire epochs, for the journal is running out of space; and write, so that they can be.
    pub(crate) fn press_to_retire(&self) {
        self.wants_checkpoint.store(true, Ordering::Relaxed);
        self.press_to_flush();
    }

    /// Whether the entry may leave the table: decided, clean, and of a retired epoch.
    pub(super) fn is_evictable(&self, word: Word, guard: &Guard) -> bool {
        word.is_entry() && !word.is_dirty() && self.epochs.may_forget(self.slab.version(word.slot(), guard))
    }

    /// Evicts the entry that the policy likes least.
    fn evict(&self, writer: &mut Writer<'_>, guard: &Guard) -> Option<Credit<'_>> {
        let mut search = Search { moves: MOVES, small_looks: LOOKS, main_looks: LOOKS };
        loop {
            let (at, word, from) = self.victim(&mut search, guard)?;
            match self.remove_clean(writer, at, word, false, guard) {
                Some(credit) => {
                    self.policy.evicted(at, from, self.table.fingerprint(at, word));
                    // Relaxed: a count.
                    self.evictions.fetch_add(1, Ordering::Relaxed);
                    return Some(credit);
                }
                // It was written, or somebody else has removed it.
                None => self.policy.push(from, at),
            }
        }
    }

    /// The entry that has to go, popped from its queue; the policy's rules are told in its module.
    fn victim(&self, search: &mut Search, guard: &Guard) -> Option<(Position, Word, Queue)> {
        let policy = &self.policy;
        while policy.is_small_due() {
            let Some((young, word)) = self.pop_evictable(Queue::Small, search, guard) else { break };
            let heat = self.table.heat(young);
            self.table.set_heat(young, 0);
            policy.add_uses(young, heat);
            if heat >= PROMOTE && search.move_on() {
                policy.push(Queue::Main, young);
                continue;
            }
            return Some(match self.tick_clock(search, guard) {
                Some((old, old_word, true)) if policy.wins(young, old) => {
                    policy.push(Queue::Main, young);
                    (old, old_word, Queue::Main)
                }
                Some((old, _, _)) => {
                    policy.hold(old);
                    (young, word, Queue::Small)
                }
                None => (young, word, Queue::Small),
            });
        }
        match self.tick_clock(search, guard) {
            Some((old, word, true)) => Some((old, word, Queue::Main)),
            // Main is warm all over: better a young one.
            Some((old, word, false)) => Some(match self.pop_evictable(Queue::Small, search, guard) {
                Some((young, word)) => {
                    policy.hold(old);
                    (young, word, Queue::Small)
                }
                None => (old, word, Queue::Main),
            }),
            None => self
                .pop_evictable(Queue::Small, search, guard)
                .map(|(young, word)| (young, word, Queue::Small)),
        }
    }

    /// The next entry of main's clock, and whether it is cold; a warm one only when enough have been moved on.
    fn tick_clock(&self, search: &mut Search, guard: &Guard) -> Option<(Position, Word, bool)> {
        loop {
            let (at, word) = self.pop_evictable(Queue::Main, search, guard)?;
            let heat = self.table.heat(at);
            if heat == 0 || !search.move_on() {
                return Some((at, word, heat == 0));
            }
            self.table.set_heat(at, heat - 1);
            self.policy.add_uses(at, 1);
            self.policy.push(Queue::Main, at);
        }
    }

    /// Pops places until one holds an entry that may leave the table.
    fn pop_evictable(&self, queue: Queue, search: &mut Search, guard: &Guard) -> Option<(Position, Word)> {
        while search.look_on(queue) {
            let at = self.policy.pop(queue)?;
            // The place is in no queue now, and it is ours to say what becomes of its listing.
            let mut word = self.table.word(at, guard);
            loop {
                let put_aside = if word.is_empty() {
                    self.table.set_empty_listed(at, word, false)
                } else if word.is_placeholder() || (word.is_entry() && word.is_dirty()) {
                    // Until the loader is done, or the flusher has cleaned it: nobody walks over it a second time.
                    self.table.replace(at, word, word.with_listed(false), guard)
                } else if self.is_evictable(word, guard) {
                    return Some((at, word));
                } else {
                    // Being inserted, or of an epoch that is not retired.
                    if word.is_entry() {
                        self.wants_checkpoint.store(true, Ordering::Relaxed);
                    }
                    self.policy.push(queue, at);
                    Ok(())
                };
                match put_aside {
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
        writer.retire(word.slot());
        Some(self.emptied())
    }

    /// The place that the caller has just emptied: to be taken again, or dropped and so given back.
    pub(super) fn emptied(&self) -> Credit<'_> {
        Credit { taken: &self.taken }
    }
}
