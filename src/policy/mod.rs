//! Which entry has to leave.
//!
//! S3-FIFO with a duel. New entries enter a *small* queue; those that were read at least twice when they reach its
//! head move to the *main* queue, a clock with two-bit counters. The others do not just leave: they duel with the entry
//! that main's clock would evict. Whoever has the higher count of uses stays, and a tie keeps the one in main. Counts
//! survive eviction in a compact [`History`], and are halved, rounding up, once in [`AGE`] misses for each entry. How
//! long small is adapts: a miss on a key that small has just evicted says "longer", one that main has just evicted
//! "shorter". The base algorithm is S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache
//! eviction", SOSP 2023); duel, history and adaptation were found by simulation on the traces that
//! `tests/hit_ratio.rs` replays.
//!
//! A read only raises its entry's heat, in the table, up to 3. All the rest happens on misses and evictions, each of
//! which does a bounded number of steps.
//!
//! The policy names places of the table, not entries. A place is in at most one queue: the LISTED bit of its word says
//! so, and whoever has popped it decides what becomes of it. Dirty entries that reach a head are put aside by the store
//! and come back by [`Policy::readmit`] when they are clean, so nobody walks over them twice.

mod fifo;
mod history;

use crossbeam_utils::CachePadded;

use crate::{
    sync::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    table::Position,
};

pub(crate) use fifo::Fifo;
use history::{Ghosts, History, MAX_COUNT};

/// The queue in which an entry waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Small,
    Main,
}

/// An entry that was read this often while it was in small moves to main without a duel.
pub(crate) const PROMOTE: u8 = 2;

/// How many entries one eviction moves at most instead of evicting them.
pub(crate) const MOVES: u32 = 16;

/// Each count is halved once in so many misses for each entry of the capacity.
const AGE: u64 = 8;

/// In a smaller cache, small's length does not adapt: its ghosts would be too few to say anything.
const ADAPT_FROM: usize = 32;

pub(crate) struct Policy {
    small: Fifo,
    main: Fifo,
    /// A place that main's clock would have evicted but for a duel, plus one; it is the first to be asked the next time.
    held: CachePadded<AtomicU32>,
    /// How long small should be.
    target: CachePadded<AtomicUsize>,
    misses: CachePadded<AtomicU64>,
    /// How often the entry at each place was used, as far as it was counted.
    counts: Box<[AtomicU8]>,
    history: History,
    /// What small and main have just evicted.
    left_small: Ghosts,
    left_main: Ghosts,
    capacity: usize,
}

impl Policy {
    /// A policy for `capacity` entries in a table with so many positions.
    pub(crate) fn new(capacity: usize, positions: usize) -> Self {
        let ghosts = if capacity < ADAPT_FROM { 0 } else { (capacity / 20).max(1) };
        Policy {
            small: Fifo::new(positions),
            main: Fifo::new(positions),
            held: CachePadded::new(AtomicU32::new(0)),
            target: CachePadded::new(AtomicUsize::new((capacity * 3 / 100).max(1))),
            misses: CachePadded::new(AtomicU64::new(0)),
            counts: (0..positions).map(|_| AtomicU8::new(0)).collect(),
            history: History::new(capacity),
            left_small: Ghosts::new(ghosts),
            left_main: Ghosts::new(ghosts),
            capacity,
        }
    }

    fn queue(&self, queue: Queue) -> &Fifo {
        match queue {
            Queue::Small => &self.small,
            Queue::Main => &self.main,
        }
    }

    /// Puts a popped place into a queue.
    pub(crate) fn push(&self, queue: Queue, at: Position) {
        self.queue(queue).push(at);
    }

    /// Takes the place at the head of a queue; main's held place first.
    pub(crate) fn pop(&self, queue: Queue) -> Option<Position> {
        if queue == Queue::Main {
            // Relaxed, all of it: a place is only a name, what it names is read with Acquire.
            if self.held.load(Ordering::Relaxed) != 0 {
                let held = self.held.swap(0, Ordering::Relaxed);
                if held != 0 {
                    return Some(Position::from_index(held as usize - 1));
                }
            }
        }
        self.queue(queue).pop()
    }

    /// Keeps a place that was popped from main as the first to be asked.
    pub(crate) fn hold(&self, at: Position) {
        let held = at.index() as u32 + 1;
        if self.held.compare_exchange(0, held, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.main.push(at);
        }
    }

    /// Whether the next victim should come from small.
    pub(crate) fn is_small_due(&self) -> bool {
        self.small.len() >= self.target.load(Ordering::Relaxed)
            || (self.main.len() == 0 && self.held.load(Ordering::Relaxed) == 0)
    }

    fn count(&self, at: Position) -> u8 {
        self.counts[at.index()].load(Ordering::Relaxed)
    }

    fn set_count(&self, at: Position, count: u8) {
        self.counts[at.index()].store(count.min(MAX_COUNT), Ordering::Relaxed);
    }

    /// Counts uses of an entry.
    pub(crate) fn add_uses(&self, at: Position, uses: u8) {
        if uses > 0 {
            self.set_count(at, self.count(at) + uses);
        }
    }

    /// Whether the entry at the head of small stays, and the one that main would evict goes.
    pub(crate) fn wins(&self, challenger: Position, incumbent: Position) -> bool {
        self.count(challenger) > self.count(incumbent)
    }

    /// An entry has taken a place that is in no queue, before anything was evicted: there is nothing to remember of it.
    pub(crate) fn admit_first(&self, at: Position, is_full: bool) {
        self.set_count(at, 1);
        self.enter(at, false, is_full);
    }

    /// An entry with this fingerprint has taken a place that is in no queue.
    pub(crate) fn admit(&self, at: Position, fingerprint: u64, is_full: bool) {
        self.age();
        let hash = spread(fingerprint);
        let mut to_main = false;
        if self.left_small.take(hash) {
            self.adapt(|target| (target + 1).min(self.capacity * 9 / 10));
            to_main = true;
        }
        if self.left_main.take(hash) {
            self.adapt(|target| target.saturating_sub(1));
        }
        self.set_count(at, self.history.take(hash) + 1);
        self.enter(at, to_main, is_full);
    }

    fn enter(&self, at: Position, to_main: bool, is_full: bool) {
        // While there is room, main fills up too; else small would only ever evict its own.
        let to_main = to_main || !is_full && self.small.len() >= self.target.load(Ordering::Relaxed);
        self.push(if to_main { Queue::Main } else { Queue::Small }, at);
    }

    fn adapt(&self, change: impl Fn(usize) -> usize) {
        let now = self.target.load(Ordering::Relaxed);
        let next = change(now).max(self.capacity / 100).max(1);
        // One try: an adaptation more or less is nothing.
        let _ = self.target.compare_exchange(now, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A place that was put aside because its entry was dirty has a clean one.
    pub(crate) fn readmit(&self, at: Position, heat: u8) {
        self.push(if heat >= PROMOTE { Queue::Main } else { Queue::Small }, at);
    }

    /// The entry at this place has left from this queue.
    pub(crate) fn evicted(&self, at: Position, from: Queue, fingerprint: u64) {
        let hash = spread(fingerprint);
        self.history.put(hash, self.count(at));
        match from {
            Queue::Small => self.left_small.put(hash),
            Queue::Main => self.left_main.put(hash),
        }
    }

    /// One step of ageing: a hand that goes round once in `AGE` misses for each entry.
    fn age(&self) {
        let misses = self.misses.fetch_add(1, Ordering::Relaxed);
        if !misses.is_multiple_of(AGE) {
            return;
        }
        let index = (misses / AGE % self.capacity as u64) as usize;
        self.history.age(index);
        let place = |index: usize| (index as u64 * self.counts.len() as u64 / self.capacity as u64) as usize;
        for count in &self.counts[place(index)..place(index + 1)] {
            let now = count.load(Ordering::Relaxed);
            count.store(now - now / 2, Ordering::Relaxed);
        }
    }
}

fn spread(fingerprint: u64) -> u64 {
    let spread = (fingerprint + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let spread = (spread ^ spread >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd);
    spread ^ spread >> 29
}
