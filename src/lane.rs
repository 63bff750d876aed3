//! Lanes: what one writing thread has for itself. A lane belongs to whoever leases it, not to a core: "single producer"
//! means one thread.
//!
//! There is one lane for each core, for threads that pin themselves, and a number of others. A thread that finds all
//! of them leased shares the last one, under a mutex.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::{
    epochs::Running,
    grace::Collector,
    journal::{Appender, WordAddress},
    recycle::{Inbox, Inboxes, Slots},
    ring::{self, Consumer, Producer},
    slab::{OwnedSlot, Slab},
    sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, lock},
    table::{Position, SlotId},
};

/// The part of a lane that others look at.
pub(crate) struct Lane {
    pub(crate) running: Running,
    /// How many entries this lane has made dirty. Written by its owner only.
    dirtied: CachePadded<AtomicUsize>,
    inbox: Inbox,
    leased: AtomicBool,
    /// The part that only the owner may touch, while nobody owns it. The shared lane's stays here for ever.
    parked: Mutex<Option<Owned>>,
}

/// The part of a lane that belongs to its owner.
pub(crate) struct Owned {
    slots: Slots,
    ring: Producer,
    /// Its end of the journal; unused without one.
    appender: Appender,
}

pub(crate) struct Lanes {
    /// First the lanes of the cores, then the others, then the shared one, then the flusher's inbox.
    lanes: Box<[Lane]>,
    cores: usize,
    collector: Collector,
    /// The cache is gone; contexts of threads may be cleared away.
    abandoned: AtomicBool,
}

impl Inboxes for Lanes {
    fn inbox(&self, index: usize) -> &Inbox {
        &self.lanes[index].inbox
    }

    fn inboxes(&self) -> usize {
        self.lanes.len()
    }

    fn collector(&self) -> &Collector {
        &self.collector
    }
}

impl Lanes {
    /// Lanes for `cores` cores and `others` more threads, and the flusher's ends of their rings.
    pub(crate) fn new(
        cores: usize,
        others: usize,
        ring_capacity: usize,
    ) -> (Arc<Self>, Vec<Consumer>, Slots) {
        let count = cores + others + 1;
        let (producers, consumers): (Vec<_>, Vec<_>) = (0..count).map(|_| ring::ring(ring_capacity)).unzip();
        let lane = |_| Lane {
            running: Running::new(),
            dirtied: CachePadded::new(AtomicUsize::new(0)),
            inbox: Inbox::new(),
            leased: AtomicBool::new(false),
            parked: Mutex::new(None),
        };
        let lanes = Arc::new(Lanes {
            lanes: (0..count + 1).map(lane).collect(),
            cores,
            collector: Collector::new(),
            abandoned: AtomicBool::new(false),
        });
        for (index, ring) in producers.into_iter().enumerate() {
            *lock(&lanes.lanes[index].parked) =
                Some(Owned { slots: Slots::new(index), ring, appender: Appender::new(false) });
        }
        (lanes, consumers, Slots::new(count))
    }

    /// Who pins to look at the table, and when that is over.
    pub(crate) fn collector(&self) -> &Collector {
        &self.collector
    }

    /// How many lanes writers use, the shared one included.
    pub(crate) fn writers(&self) -> usize {
        self.lanes.len() - 1
    }

    /// How many lanes can be leased.
    pub(crate) fn leasable(&self) -> usize {
        self.writers() - 1
    }

    pub(crate) fn running(&self, index: usize) -> &Running {
        &self.lanes[index].running
    }

    /// Where the state of the record of a slot is that is just being published.
    pub(crate) fn record_of(&self, slot: SlotId) -> Option<WordAddress> {
        self.lanes.iter().find_map(|lane| lane.running.record_of(slot))
    }

    /// How many times an entry became dirty, in all. Grows; a little behind what other threads are just doing.
    pub(crate) fn dirtied(&self) -> usize {
        // Relaxed: a count.
        let counts = self.lanes.iter().map(|lane| lane.dirtied.load(Ordering::Relaxed));
        counts.fold(0, usize::wrapping_add)
    }

    /// Leases any lane; those of the cores last.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let (cores, shared) = (self.cores, self.writers() - 1);
        (cores..shared).chain(0..cores).find_map(|index| self.lease_lane(index))
    }

    /// Leases the lane of a core.
    pub(crate) fn lease_core(self: &Arc<Self>, core: usize) -> Option<Lease> {
        self.lease_lane(core)
    }

    fn lease_lane(self: &Arc<Self>, index: usize) -> Option<Lease> {
        let lane = &self.lanes[index];
        // Relaxed: the mutex hands the owner's part over. Looked at first so that leased lanes stay shared lines.
        if lane.leased.load(Ordering::Relaxed) || lane.leased.swap(true, Ordering::Relaxed) {
            return None;
        }
        let owned = lock(&lane.parked).take();
        owned.map(|owned| Lease { lanes: Arc::clone(self), index, owned: Some(owned) })
    }

    /// The lane that all threads share that have none of their own. Waits for the others.
    pub(crate) fn shared(self: &Arc<Self>) -> Shared<'_> {
        let index = self.writers() - 1;
        Shared { lanes: self, index, owned: lock(&self.lanes[index].parked) }
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// A leased lane; goes back when dropped.
pub(crate) struct Lease {
    lanes: Arc<Lanes>,
    index: usize,
    /// Invariant: `Some` until the drop.
    owned: Option<Owned>,
}

impl Lease {
    pub(crate) fn writer(&mut self) -> Option<Writer<'_>> {
        let (lanes, lane) = (&self.lanes, &self.lanes.lanes[self.index]);
        self.owned.as_mut().map(|owned| Writer { lanes, lane, owned })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let lane = &self.lanes.lanes[self.index];
        *lock(&lane.parked) = self.owned.take();
        // Release is not needed: the next owner takes the mutex. A thread that sees `false` too early finds nothing
        // parked, which it takes for leased.
        lane.leased.store(false, Ordering::Relaxed);
    }
}

/// The shared lane, held for one write.
pub(crate) struct Shared<'a> {
    lanes: &'a Arc<Lanes>,
    index: usize,
    owned: MutexGuard<'a, Option<Owned>>,
}

impl Shared<'_> {
    pub(crate) fn writer(&mut self) -> Option<Writer<'_>> {
        let (lanes, lane) = (self.lanes, &self.lanes.lanes[self.index]);
        self.owned.as_mut().map(|owned| Writer { lanes, lane, owned })
    }
}

/// The right to write through a lane, for as long as it is borrowed.
pub(crate) struct Writer<'a> {
    lanes: &'a Arc<Lanes>,
    lane: &'a Lane,
    owned: &'a mut Owned,
}

impl<'a> Writer<'a> {
    /// An empty slot, if there is one; see [`Slots::take`].
    pub(crate) fn take_slot<K, V>(&mut self, slab: &Slab<K, V>) -> Option<OwnedSlot> {
        self.owned.slots.take(&**self.lanes, slab)
    }

    /// As [`Slots::reserve`].
    #[cfg(all(test, crossbeam_loom))]
    pub(crate) fn reserve<K, V>(&mut self, slots: usize, slab: &Slab<K, V>) {
        self.owned.slots.reserve(slots, slab);
    }

    /// Retires a slot that was just taken out of the table.
    #[inline]
    pub(crate) fn retire(&mut self, id: SlotId) {
        self.owned.slots.retire(&**self.lanes, id);
    }

    /// Sends what was retired on its way, however little it is.
    pub(crate) fn seal(&mut self) {
        self.owned.slots.seal(&**self.lanes);
    }

    /// This lane's end of the journal.
    pub(crate) fn appender(&mut self) -> &mut Appender {
        &mut self.owned.appender
    }

    pub(crate) fn running(&self) -> &'a Running {
        &self.lane.running
    }

    /// Tells the flusher of a place that has just become dirty. `false`: the ring is full.
    pub(crate) fn push(&mut self, at: Position) -> bool {
        self.owned.ring.push(at).is_ok()
    }

    /// Counts an entry that has become dirty, and returns this lane's count.
    pub(crate) fn count_dirtied(&mut self) -> usize {
        // Relaxed, load and store: only the owner writes it.
        let count = self.lane.dirtied.load(Ordering::Relaxed).wrapping_add(1);
        self.lane.dirtied.store(count, Ordering::Relaxed);
        count
    }
}
