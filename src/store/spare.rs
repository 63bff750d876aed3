//! Slots in the hands of an operation, which may end in an error, or in a panic of the user's code.

use super::Store;
use crate::{recycle::Inboxes, slab::OwnedSlot, table::SlotId};

/// An owned slot with a key. Unless it is published, it goes back into use when dropped.
#[must_use]
pub(crate) struct SpareSlot<'s, K, V, S> {
    store: &'s Store<K, V, S>,
    slot: OwnedSlot,
}

impl<'s, K, V, S> SpareSlot<'s, K, V, S> {
    pub(super) fn new(store: &'s Store<K, V, S>, slot: OwnedSlot) -> Self {
        SpareSlot { store, slot }
    }

    pub(super) fn slot(&mut self) -> &mut OwnedSlot {
        &mut self.slot
    }

    pub(crate) fn id(&self) -> SlotId {
        self.slot.id()
    }

    /// The key that was put into it.
    pub(crate) fn key(&self) -> &K {
        self.store.slab.owned_key(&self.slot)
    }

    /// The slot, for whoever publishes it.
    pub(super) fn into_owned(self) -> OwnedSlot {
        let id = self.slot.id();
        std::mem::forget(self);
        // SAFETY: it was owned by `self`, which is gone without having given it away.
        unsafe { OwnedSlot::assume(id) }
    }
}

impl<K, V, S> Drop for SpareSlot<'_, K, V, S> {
    fn drop(&mut self) {
        // The last inbox: every thread that runs out of slots looks there. Whoever takes it drops what it holds.
        let lanes = &*self.store.lanes;
        // SAFETY: it is owned by `self`, which is going.
        lanes.inbox(lanes.inboxes() - 1).give(unsafe { OwnedSlot::assume(self.slot.id()) });
    }
}
