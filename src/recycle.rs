//! The way of a slot back into use: retired into a bag, the bag with the moment of its sealing into an inbox, and from there, when
//! that moment is over and its content dropped, into the free list of the thread that needs one.
//!
//! Bags are used again, so a thread in its steady state allocates nothing. What it retires and takes again is so little that it
//! stays in the processor's cache: a write over an entry that is far away touches one far-away slot, not two.

use std::ptr;

use crate::{
    grace::{Collector, Moment},
    slab::{OwnedSlot, Slab},
    sync::{AtomicPtr, Ordering},
    table::SlotId,
};

/// How many slots share a moment, and how many fresh ones are taken at once.
const BAG: usize = match (cfg!(crossbeam_loom), cfg!(shuttle_models)) {
    // The fence of a sealing would hide what other orderings lack.
    (true, _) => 2,
    (_, true) => 1,
    _ => 32,
};

/// In models slots are used again as soon as that is possible.
const IS_MODEL: bool = cfg!(any(crossbeam_loom, shuttle_models));

/// How many bags a thread seals before it tries to end an era. Each try costs a system call, so more are better for it; but what
/// is in the bags is not dropped meanwhile, and may be large.
const fn pace(needs_drop: bool) -> usize {
    if needs_drop || IS_MODEL { 1 } else { 16 }
}

/// How many free slots a thread keeps at most.
const fn stock(needs_drop: bool) -> usize {
    if needs_drop { 2 * BAG } else { 4 * BAG }
}

/// How many slots may be on their way back for each thread, beside those in use: what it seals in three eras and the one that goes
/// on, what is free, what is in an open bag, and a little more. So many values may be there that nobody needs any more.
pub(crate) const fn slack(needs_drop: bool) -> usize {
    if IS_MODEL { 8 } else { (4 * pace(needs_drop) + 2) * BAG + stock(needs_drop) }
}

struct Bag {
    slots: Vec<SlotId>,
    /// When it was sealed: from then on nobody could find its slots.
    sealed: Moment,
    /// Whether what the slots held is dropped.
    is_clear: bool,
    next: *mut Bag,
}

// SAFETY: `next` is only followed by the thread that has taken the whole chain out of its inbox.
unsafe impl Send for Bag {}

impl Bag {
    fn new() -> Box<Self> {
        let slots = Vec::with_capacity(BAG);
        Box::new(Bag { slots, sealed: Moment::LONG_AGO, is_clear: false, next: ptr::null_mut() })
    }
}

/// Bags that anyone may add to; a taker takes all.
struct Chain(AtomicPtr<Bag>);

impl Chain {
    fn new() -> Self {
        Chain(AtomicPtr::new(ptr::null_mut()))
    }

    fn add(&self, bag: Box<Bag>) {
        let bag = Box::into_raw(bag);
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: `bag` came from a box and is not in the inbox yet.
            unsafe { (*bag).next = head };
            // Release: pairs with the Acquire in `take`.
            match self.0.compare_exchange_weak(head, bag, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all bags. Nothing else removes any, so a bag cannot come back between a load and a compare-and-swap.
    fn take(&self) -> impl Iterator<Item = Box<Bag>> + use<> {
        // Relaxed first: an empty inbox costs no exclusive cache line.
        let mut head = if self.0.load(Ordering::Relaxed).is_null() {
            ptr::null_mut()
        } else {
            // Acquire: pairs with the Release in `add`; the bag's content, and that its slots are out of reach.
            self.0.swap(ptr::null_mut(), Ordering::Acquire)
        };
        std::iter::from_fn(move || {
            (!head.is_null()).then(|| {
                // SAFETY: the chain is ours since the swap, and each of its bags came from `Box::into_raw`.
                let bag = unsafe { Box::from_raw(head) };
                head = bag.next;
                bag
            })
        })
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.take().for_each(drop);
    }
}

/// How many eras there are bags of in an inbox: those that are not over, and one that is.
const TURNS: usize = 4;

/// The bags of one lane, on their way back. Anyone may look for slots there.
pub(crate) struct Inbox {
    /// Nobody can reach these any more.
    ready: Chain,
    /// By the moment of their sealing: each chain has its turn when an era ends.
    sealed: [Chain; TURNS],
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Inbox { ready: Chain::new(), sealed: std::array::from_fn(|_| Chain::new()) }
    }

    /// Adds one slot that was never published, with whatever it holds.
    pub(crate) fn give(&self, slot: OwnedSlot) {
        let mut bag = Bag::new();
        bag.slots.push(slot.release());
        self.ready.add(bag);
    }

    fn seal(&self, bag: Box<Bag>) {
        if cfg!(mutant = "no_grace_period") {
            return self.ready.add(bag);
        }
        self.sealed[bag.sealed.turn(TURNS)].add(bag);
    }

    /// Takes the bags whose moment is over.
    ///
    /// Those of an era that was over before the last one stay until the turn comes round to their chain. That is soon enough: who finds
    /// nothing ends another era.
    fn take<'a>(&'a self, collector: &Collector) -> impl Iterator<Item = Box<Bag>> + use<'a> {
        let over = collector.over();
        let aged = self.sealed[over.turn(TURNS)].take().filter_map(move |bag| {
            if bag.sealed <= over {
                return Some(bag);
            }
            // Sealed by somebody who has seen a newer era than we.
            self.seal(bag);
            None
        });
        self.ready.take().chain(aged)
    }
}

/// Where the bags of a thread come back to.
pub(crate) trait Inboxes: Send + Sync + 'static {
    /// The inbox of this thread's lane.
    fn inbox(&self, index: usize) -> &Inbox;

    /// How many inboxes there are.
    fn inboxes(&self) -> usize;

    /// Who knows when a moment is over.
    fn collector(&self) -> &Collector;
}

/// The slots that one thread holds: free ones, and retired ones that wait for their bag to be full.
pub(crate) struct Slots {
    /// Which inbox its bags come back to.
    index: usize,
    free: Vec<SlotId>,
    bag: Box<Bag>,
    /// How many bags it has sealed since it last ended an era, or tried to.
    unaged: usize,
    /// Boxed, because a box goes into an inbox without being copied or allocated again.
    #[expect(clippy::vec_box)]
    empty_bags: Vec<Box<Bag>>,
}

impl Slots {
    pub(crate) fn new(index: usize) -> Self {
        let free = Vec::with_capacity(4 * BAG);
        Slots { index, free, bag: Bag::new(), unaged: 0, empty_bags: Vec::new() }
    }

    /// An empty slot: one of this thread's own, or one that was never used, or one from another thread's inbox.
    ///
    /// Runs the destructors of retired values. `None`: all slots are in use or in their grace period.
    pub(crate) fn take<K, V>(&mut self, inboxes: &impl Inboxes, slab: &Slab<K, V>) -> Option<OwnedSlot> {
        if self.free.is_empty() {
            if self.unaged >= pace(Slab::<K, V>::NEEDS_DROP) {
                self.unaged = 0;
                inboxes.collector().advance();
            }
            self.reclaim(inboxes, self.index, slab);
        }
        if self.free.is_empty() {
            slab.take_fresh(BAG, |slot| self.free.push(slot.release()));
        }
        if self.free.is_empty() {
            self.gather(inboxes, slab);
        }
        // SAFETY: what is in the free list was put there by `reclaim` or `take_fresh`, and is nowhere else.
        self.free.pop().map(|id| unsafe { OwnedSlot::assume(id) })
    }

    /// Sets fresh slots aside, for models that must not use one twice.
    #[cfg(all(test, crossbeam_loom))]
    pub(crate) fn reserve<K, V>(&mut self, slots: usize, slab: &Slab<K, V>) {
        slab.take_fresh(slots, |slot| self.free.push(slot.release()));
    }

    /// Fills the free list from wherever there are slots, and lets eras go by as far as readers allow it.
    fn gather<K, V>(&mut self, inboxes: &impl Inboxes, slab: &Slab<K, V>) {
        for _ in 0..TURNS {
            (0..inboxes.inboxes()).for_each(|index| self.reclaim(inboxes, index, slab));
            if !self.free.is_empty() || !inboxes.collector().advance() {
                return;
            }
        }
    }

    /// Fills the free list from an inbox. What this thread does not need goes back into its own, where others may take it:
    /// as one large bag, so that a backlog is walked through only once.
    fn reclaim<K, V>(&mut self, inboxes: &impl Inboxes, index: usize, slab: &Slab<K, V>) {
        let mut surplus: Option<Box<Bag>> = None;
        for mut bag in inboxes.inbox(index).take(inboxes.collector()) {
            if !bag.is_clear {
                for id in &bag.slots {
                    // SAFETY: the slots were out of the table when the bag was sealed, and that moment is over (or they were never in
                    // it); and we took the bag out.
                    let mut slot = unsafe { OwnedSlot::assume(*id) };
                    slab.clear(&mut slot);
                    let _ = slot.release();
                }
            }
            let needed = stock(Slab::<K, V>::NEEDS_DROP).saturating_sub(self.free.len()).min(bag.slots.len());
            self.free.extend(bag.slots.drain(bag.slots.len() - needed..));
            if !bag.slots.is_empty() {
                bag.is_clear = true;
                surplus = Some(match surplus.take() {
                    None => bag,
                    Some(other) => self.pour_together(bag, other),
                });
            } else {
                self.keep_empty(bag);
            }
        }
        if let Some(bag) = surplus {
            inboxes.inbox(self.index).ready.add(bag);
        }
    }

    /// Both bags' slots in the larger one.
    fn pour_together(&mut self, mut one: Box<Bag>, mut other: Box<Bag>) -> Box<Bag> {
        if one.slots.len() < other.slots.len() {
            std::mem::swap(&mut one, &mut other);
        }
        one.slots.append(&mut other.slots);
        self.keep_empty(other);
        one
    }

    fn keep_empty(&mut self, mut bag: Box<Bag>) {
        if self.empty_bags.len() < 8 && bag.slots.capacity() < 2 * BAG {
            bag.is_clear = false;
            self.empty_bags.push(bag);
        }
    }

    /// Retires a slot that this thread has just taken out of the table.
    #[inline]
    pub(crate) fn retire(&mut self, inboxes: &impl Inboxes, id: SlotId) {
        self.bag.slots.push(id);
        if self.bag.slots.len() >= BAG {
            self.seal(inboxes);
        }
    }

    /// Sends the bag on its way, full or not.
    pub(crate) fn seal(&mut self, inboxes: &impl Inboxes) {
        if self.bag.slots.is_empty() {
            return;
        }
        let mut bag = std::mem::replace(&mut self.bag, self.empty_bags.pop().unwrap_or_else(Bag::new));
        bag.sealed = inboxes.collector().now();
        inboxes.inbox(self.index).seal(bag);
        self.unaged += 1;
    }
}
