//! Where keys, values and versions are: an array of slots that is made once and whose slots are used again and again.
//!
//! A slot is *owned* ([`OwnedSlot`]) by one thread until its name is published in a table word; from then on everybody
//! may read it while pinned, and nobody writes it, except the stamp's `ANNOUNCED` bit. When a word that named it is
//! replaced, the thread that replaced it *retires* the slot; after a grace period its content is dropped and it is
//! owned again.

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    grace::Guard,
    memory::{Zeroable, ZeroedArray},
    sync::{AtomicU64, AtomicUsize, Ordering, UnsafeCell},
    table::SlotId,
};

/// A version with what the slot holds.
///
/// ```text
///  63                            4    3        2           1          0
/// +-------------------------------+--------+-----------+----------+-----------+
/// |            version            | unused | HAS_VALUE | OCCUPIED | ANNOUNCED |
/// +-------------------------------+--------+-----------+----------+-----------+
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp(u64);

const ANNOUNCED: u64 = 1;
const OCCUPIED: u64 = 1 << 1;
const HAS_VALUE: u64 = 1 << 2;
const VERSION_SHIFT: u32 = 4;

impl Stamp {
    fn version(self) -> u64 {
        self.0 >> VERSION_SHIFT
    }

    fn with_version(self, version: u64) -> Self {
        Stamp(self.0 & !(u64::MAX << VERSION_SHIFT) | version << VERSION_SHIFT)
    }
}

#[repr(C)]
struct Slot<K, V> {
    stamp: AtomicU64,
    /// Invariant: initialised exactly while the stamp has `OCCUPIED` (in an owned slot whose content needs no drop, also
    /// longer).
    key: UnsafeCell<MaybeUninit<K>>,
    /// Invariant: initialised exactly while the stamp has `HAS_VALUE`.
    value: UnsafeCell<MaybeUninit<V>>,
}

// SAFETY: the stamp zero says "not occupied, no value", and uninitialised memory may be anything. `Slot` has no drop
// glue; `Slab::drop` drops what is initialised.
unsafe impl<K, V> Zeroable for Slot<K, V> {
    #[cfg(crossbeam_loom)]
    fn zero() -> Self {
        Slot {
            stamp: AtomicU64::new(0),
            key: UnsafeCell::new(MaybeUninit::uninit()),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }
}

/// A slot that only its holder knows. Not dropped silently: it goes back to a free list, or into a table word.
#[derive(Debug)]
#[must_use]
pub(crate) struct OwnedSlot(SlotId);

impl OwnedSlot {
    /// Takes a slot over.
    ///
    /// # Safety
    ///
    /// The caller is the only one who can reach the slot: it is in no table word, in no free list, and every thread
    /// that could have read its name in a table word has unpinned since.
    pub(crate) unsafe fn assume(id: SlotId) -> Self {
        OwnedSlot(id)
    }

    pub(crate) fn id(&self) -> SlotId {
        self.0
    }

    /// The slot's name is now in a table word (or in a free list).
    pub(crate) fn release(self) -> SlotId {
        self.0
    }
}

pub(crate) struct Slab<K, V> {
    slots: ZeroedArray<Slot<K, V>>,
    /// Slots from here on were never used. Runs over the end when they are used up.
    fresh: AtomicUsize,
    _owns: PhantomData<(K, V)>,
}

// SAFETY: the slab owns keys and values, hands out shared references to them from any thread, and lets any thread drop
// them: like a `Mutex`-free map, it needs `Send + Sync` of both.
unsafe impl<K: Send + Sync, V: Send + Sync> Sync for Slab<K, V> {}
// SAFETY: as above.
unsafe impl<K: Send + Sync, V: Send + Sync> Send for Slab<K, V> {}

impl<K, V> Slab<K, V> {
    /// Whether anything happens when a key or a value is dropped.
    pub(crate) const NEEDS_DROP: bool = std::mem::needs_drop::<K>() || std::mem::needs_drop::<V>();

    pub(crate) fn new(slots: usize) -> io::Result<Self> {
        Ok(Slab { slots: ZeroedArray::new(slots)?, fresh: AtomicUsize::new(0), _owns: PhantomData })
    }

    /// How much memory `slots` slots take, in bytes.
    pub(crate) fn bytes(slots: usize) -> usize {
        slots.saturating_mul(size_of::<Slot<K, V>>())
    }

    /// Takes up to `count` slots that were never used, and gives each to `keep`.
    pub(crate) fn take_fresh(&self, count: usize, mut keep: impl FnMut(OwnedSlot)) {
        // Relaxed: the counter orders nothing, it only deals out numbers; checked first so that it cannot wrap.
        if self.fresh.load(Ordering::Relaxed) < self.slots.len() {
            let first = self.fresh.fetch_add(count, Ordering::Relaxed);
            for id in first..(first + count).min(self.slots.len()) {
                keep(OwnedSlot(SlotId(id as u32)));
            }
        }
    }

    fn slot(&self, id: SlotId) -> &Slot<K, V> {
        &self.slots[id.0 as usize]
    }

    fn stamp(&self, id: SlotId, order: Ordering) -> Stamp {
        Stamp(self.slot(id).stamp.load(order))
    }

    /// Puts a key into an empty slot.
    pub(crate) fn set_key(&self, slot: &mut OwnedSlot, key: K) {
        let cell = self.slot(slot.0);
        debug_assert!(!Self::NEEDS_DROP || self.stamp(slot.0, Ordering::Relaxed).0 & OCCUPIED == 0);
        // SAFETY: `slot` is owned, so nobody else reads or writes the cell.
        unsafe { (*cell.key.get()).write(key) };
        // Relaxed: the slot is not published yet. The version of the last use goes.
        cell.stamp.store(OCCUPIED, Ordering::Relaxed);
    }

    /// Puts a value into a slot that has a key, or (`None`) none; drops the value that was there.
    pub(crate) fn set_value(&self, slot: &mut OwnedSlot, value: Option<V>) {
        let cell = self.slot(slot.0);
        let stamp = self.stamp(slot.0, Ordering::Relaxed).0;
        debug_assert_ne!(stamp & OCCUPIED, 0);
        cell.stamp.store(stamp & !HAS_VALUE, Ordering::Relaxed);
        if stamp & HAS_VALUE != 0 {
            // SAFETY: `slot` is owned and the bit said that the value is initialised; the bit is gone.
            contain(|| unsafe { (*cell.value.get()).assume_init_drop() });
        }
        if let Some(value) = value {
            // SAFETY: `slot` is owned.
            unsafe { (*cell.value.get()).write(value) };
            cell.stamp.store(stamp | HAS_VALUE, Ordering::Relaxed);
        }
    }

    /// Gives an owned slot its version. `announced`: it needs no announcement (a clean entry, or a placeholder).
    pub(crate) fn set_version(&self, slot: &mut OwnedSlot, version: u64, announced: bool) {
        let cell = self.slot(slot.0);
        let stamp = self.stamp(slot.0, Ordering::Relaxed).with_version(version).0;
        // Relaxed: published with the word.
        cell.stamp.store(if announced { stamp | ANNOUNCED } else { stamp & !ANNOUNCED }, Ordering::Relaxed);
    }

    /// The key of an owned slot that has one.
    pub(crate) fn owned_key<'a>(&'a self, slot: &'a OwnedSlot) -> &'a K {
        assert_ne!(self.stamp(slot.0, Ordering::Relaxed).0 & OCCUPIED, 0, "an owned slot without a key");
        // SAFETY: `slot` is owned and borrowed, so nobody writes it; the key is initialised.
        unsafe { (*self.slot(slot.0).key.get()).assume_init_ref() }
    }

    /// The value of an owned slot, if it has one.
    pub(crate) fn owned_value<'a>(&'a self, slot: &'a OwnedSlot) -> Option<&'a V> {
        let has_value = self.stamp(slot.0, Ordering::Relaxed).0 & HAS_VALUE != 0;
        // SAFETY: `slot` is owned and borrowed, so nobody writes it; the bit says that the value is initialised.
        has_value.then(|| unsafe { (*self.slot(slot.0).value.get()).assume_init_ref() })
    }

    /// Drops what an owned slot holds.
    pub(crate) fn clear(&self, slot: &mut OwnedSlot) {
        if !Self::NEEDS_DROP {
            // The next `set_key` starts anew; until then nobody looks. Saves a cache miss for each slot.
            return;
        }
        let cell = self.slot(slot.0);
        let stamp = self.stamp(slot.0, Ordering::Relaxed).0;
        cell.stamp.store(0, Ordering::Relaxed);
        if stamp & HAS_VALUE != 0 {
            // SAFETY: `slot` is owned and the bit said that the value is initialised; the bit is gone.
            contain(|| unsafe { (*cell.value.get()).assume_init_drop() });
        }
        if stamp & OCCUPIED != 0 {
            // SAFETY: `slot` is owned and the bit said that the key is initialised; the bit is gone.
            contain(|| unsafe { (*cell.key.get()).assume_init_drop() });
        }
    }

    /// The key of a published slot.
    ///
    /// # Safety
    ///
    /// `id` was read (with Acquire) from a decided table word under `guard`, or under a pin that `guard` continues.
    pub(crate) unsafe fn key<'g>(&'g self, id: SlotId, _: &'g Guard) -> &'g K {
        // SAFETY: the slot was published with its key, nobody writes it while it is reachable, and it is not used
        // again before every thread that was pinned when it was retired has unpinned, this one included.
        unsafe { (*self.slot(id).key.get()).assume_init_ref() }
    }

    /// The value of a published slot, if it has one.
    ///
    /// # Safety
    ///
    /// As for [`Slab::key`].
    pub(crate) unsafe fn value<'g>(&'g self, id: SlotId, _: &'g Guard) -> Option<&'g V> {
        let has_value = self.stamp(id, Ordering::Relaxed).0 & HAS_VALUE != 0;
        // SAFETY: as in `key`; the bit was published with the slot.
        has_value.then(|| unsafe { (*self.slot(id).value.get()).assume_init_ref() })
    }

    /// The version of a published slot; meaningful under the same pin under which its name was read.
    pub(crate) fn version(&self, id: SlotId, _: &Guard) -> u64 {
        // Relaxed: published with the word.
        self.stamp(id, Ordering::Relaxed).version()
    }

    /// Whether the flusher is known to hear of this version.
    pub(crate) fn is_announced(&self, id: SlotId, _: &Guard) -> bool {
        // Acquire: pairs with the Release in `announce`; who sees the bit may rely on the announcement.
        self.stamp(id, Ordering::Acquire).0 & ANNOUNCED != 0
    }

    /// The flusher is known to hear of this version: it was queued, or the caller is the flusher.
    ///
    /// Writer and helpers may do this at the same time: all store the same bits, and nothing else in a published
    /// stamp changes.
    pub(crate) fn announce(&self, id: SlotId, _: &Guard) {
        let stamp = self.stamp(id, Ordering::Relaxed).0;
        // Release: pairs with the Acquire in `is_announced`; the announcement came first.
        self.slot(id).stamp.store(stamp | ANNOUNCED, Ordering::Release);
    }
}

/// Runs a destructor of the user's. It runs long after the entry was replaced, in some later call that has nothing to do
/// with it, so a panic in it is reported by the panic hook and goes no further.
fn contain(destructor: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(destructor));
}

impl<K, V> Drop for Slab<K, V> {
    fn drop(&mut self) {
        if Self::NEEDS_DROP {
            let used = self.fresh.load(Ordering::Relaxed).min(self.slots.len());
            for id in 0..used {
                // `&mut self`: no reader, no writer and no flusher is left, so every slot is ours, wherever it is named.
                self.clear(&mut OwnedSlot(SlotId(id as u32)));
            }
        }
    }
}
