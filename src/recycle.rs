//! The way of a slot back into use: retired into a bag, the bag through a grace period into an inbox, and from there,
//! its content dropped, into the free list of the thread that needs one.
//!
//! One deferred call for each bag instead of one for each slot: crossbeam collects at most eight bags of 64 calls every
//! 128 pins, so a thread that deferred one call per write would outrun it. Bags are used again, so a thread in its
//! steady state allocates nothing.

use std::{ptr, sync::Arc};

use crossbeam_epoch::Guard;

use crate::{
    slab::{OwnedSlot, Slab},
    sync::{AtomicPtr, Ordering},
    table::SlotId,
};

/// How many slots share a grace period, and how many fresh ones are taken at once.
pub(crate) const BAG: usize = if cfg!(any(crossbeam_loom, shuttle_models)) { 1 } else { 32 };

/// How many slots may be on their way back for each thread, beside those in use.
pub(crate) const SLACK: usize = 8 * BAG;

struct Bag {
    slots: Vec<SlotId>,
    /// Whether what the slots held is dropped.
    is_clear: bool,
    next: *mut Bag,
}

// SAFETY: `next` is only followed by the thread that has taken the whole chain out of its inbox.
unsafe impl Send for Bag {}

impl Bag {
    fn new() -> Box<Self> {
        Box::new(Bag { slots: Vec::with_capacity(BAG), is_clear: false, next: ptr::null_mut() })
    }
}

/// Bags whose slots nobody can reach any more. Anyone may add one; a taker takes all.
pub(crate) struct Inbox(AtomicPtr<Bag>);

impl Inbox {
    pub(crate) fn new() -> Self {
        Inbox(AtomicPtr::new(ptr::null_mut()))
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

    /// Adds one slot that was never published, with whatever it holds.
    pub(crate) fn give(&self, slot: OwnedSlot) {
        let mut bag = Bag::new();
        bag.slots.push(slot.release());
        self.add(bag);
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

impl Drop for Inbox {
    fn drop(&mut self) {
        self.take().for_each(drop);
    }
}

/// Where the bags of a thread come back to.
pub(crate) trait Inboxes: Send + Sync + 'static {
    /// The inbox of this thread's lane.
    fn inbox(&self, index: usize) -> &Inbox;

    /// How many inboxes there are.
    fn inboxes(&self) -> usize;
}

/// The slots that one thread holds: free ones, and retired ones that wait for their bag to be full.
pub(crate) struct Slots {
    /// Which inbox its bags come back to.
    index: usize,
    free: Vec<SlotId>,
    bag: Box<Bag>,
    /// Boxed, because a box goes into an inbox without being copied or allocated again.
    #[expect(clippy::vec_box)]
    empty_bags: Vec<Box<Bag>>,
}

impl Slots {
    pub(crate) fn new(index: usize) -> Self {
        Slots { index, free: Vec::with_capacity(2 * BAG), bag: Bag::new(), empty_bags: Vec::new() }
    }

    /// An empty slot: one of this thread's own, or one that was never used, or one from another thread's inbox.
    ///
    /// Runs the destructors of retired values. `None`: all slots are in use or in their grace period.
    pub(crate) fn take<K, V>(&mut self, inboxes: &impl Inboxes, slab: &Slab<K, V>) -> Option<OwnedSlot> {
        if self.free.is_empty() {
            self.reclaim(inboxes, self.index, slab);
        }
        if self.free.is_empty() {
            slab.take_fresh(BAG, |slot| self.free.push(slot.release()));
        }
        if self.free.is_empty() {
            (0..inboxes.inboxes()).for_each(|index| self.reclaim(inboxes, index, slab));
        }
        // SAFETY: what is in the free list was put there by `reclaim` or `take_fresh`, and is nowhere else.
        self.free.pop().map(|id| unsafe { OwnedSlot::assume(id) })
    }

    /// Sets fresh slots aside, for models that must not use one twice.
    #[cfg(all(test, crossbeam_loom))]
    pub(crate) fn reserve<K, V>(&mut self, slots: usize, slab: &Slab<K, V>) {
        slab.take_fresh(slots, |slot| self.free.push(slot.release()));
    }

    /// Fills the free list from an inbox. What this thread does not need goes back into its own, where others may take it:
    /// as one large bag, so that a backlog is walked through only once.
    fn reclaim<K, V>(&mut self, inboxes: &impl Inboxes, index: usize, slab: &Slab<K, V>) {
        let mut surplus: Option<Box<Bag>> = None;
        for mut bag in inboxes.inbox(index).take() {
            if !bag.is_clear {
                for id in &bag.slots {
                    // SAFETY: the bag was put into the inbox after the grace period of all its slots, which were out of the
                    // table when they were retired; and we took it out.
                    let mut slot = unsafe { OwnedSlot::assume(*id) };
                    slab.clear(&mut slot);
                    let _ = slot.release();
                }
            }
            let needed = (4 * BAG).saturating_sub(self.free.len()).min(bag.slots.len());
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
            inboxes.inbox(self.index).add(bag);
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
    pub(crate) fn retire(&mut self, inboxes: &Arc<impl Inboxes>, id: SlotId, guard: &Guard) {
        self.bag.slots.push(id);
        if self.bag.slots.len() >= BAG {
            self.seal(inboxes, guard);
        }
    }

    /// Sends the bag on its way, full or not.
    pub(crate) fn seal(&mut self, inboxes: &Arc<impl Inboxes>, guard: &Guard) {
        if self.bag.slots.is_empty() {
            return;
        }
        let bag = std::mem::replace(&mut self.bag, self.empty_bags.pop().unwrap_or_else(Bag::new));
        let (inboxes, index) = (Arc::clone(inboxes), self.index);
        if cfg!(mutant = "no_grace_period") {
            return inboxes.inbox(index).add(bag);
        }
        guard.defer(move || inboxes.inbox(index).add(bag));
        // Without it the bag would wait in this thread's local garbage for 63 others.
        guard.flush();
    }
}
