//! Slots on their way from reader to next use: nobody reads a slot that is written again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{canary::Canary, explore, join, spawn, unpinned};
use crate::{
    grace::Collector,
    recycle::{Inbox, Inboxes, Slots},
    slab::{OwnedSlot, Slab},
    table::{Kind, Probe, SlotId, Table, Word},
};

struct OneInbox(Inbox, Collector);

impl Inboxes for OneInbox {
    fn inbox(&self, _: usize) -> &Inbox {
        &self.0
    }

    fn inboxes(&self) -> usize {
        1
    }

    fn collector(&self) -> &Collector {
        &self.1
    }
}

struct Shared {
    table: Table,
    slab: Slab<u32, Canary>,
    inboxes: Arc<OneInbox>,
}

fn fill(slab: &Slab<u32, Canary>, mut slot: OwnedSlot, number: u32) -> SlotId {
    slab.set_key(&mut slot, 1);
    slab.set_value(&mut slot, Some(Canary::new(number)));
    slab.set_version(&mut slot, u64::from(number), true);
    slot.release()
}

/// How many executions have used a slot twice.
static REUSES: AtomicUsize = AtomicUsize::new(0);

/// A reader looks at the value while a writer replaces it, retires its slot and takes it again as soon as it gets it.
#[test]
fn recycle_waits_for_readers() {
    explore(Some(2), || {
        // Two slots: the third value needs the first one's.
        let shared = Arc::new(Shared {
            table: Table::new(1).expect("a small table"),
            slab: Slab::new(2).expect("a small slab"),
            inboxes: Arc::new(OneInbox(Inbox::new(), Collector::new())),
        });
        let mut slots = Slots::new(0);
        let writer = shared.inboxes.1.register();
        let (at, mut word) = {
            let guard = writer.pin();
            let slot = slots.take(&*shared.inboxes, &shared.slab).expect("a fresh slot");
            let word = Word::new(Kind::Value, Table::tag(0), fill(&shared.slab, slot, 1));
            let Probe::Vacant(vacancy) = shared.table.probe(0, &guard, |_| false) else {
                panic!("it is empty")
            };
            let at = shared.table.insert(&vacancy, word, &guard).expect("nobody else inserts");
            (at, shared.table.word(at, &guard))
        };
        let reader = spawn({
            let shared = Arc::clone(&shared);
            move || {
                let local = shared.inboxes.1.register();
                let guard = local.pin();
                let slot = shared.table.word(at, &guard).slot();
                // SAFETY: the slot comes from a decided word that was read under `guard`.
                let (key, value) =
                    unsafe { (shared.slab.key(slot, &guard), shared.slab.value(slot, &guard)) };
                let number = value.expect("every version has a value").number();
                assert_eq!((*key, u64::from(number)), (1, shared.slab.version(slot, &guard)));
            }
        });
        for number in 2..=3 {
            let Some(slot) = slots.take(&*shared.inboxes, &shared.slab) else { break };
            if number == 3 {
                REUSES.fetch_add(1, Relaxed);
            }
            let guard = writer.pin();
            let new = word.succeeded_by(Kind::Value, fill(&shared.slab, slot, number), false);
            assert!(shared.table.replace(at, word, new, &guard).is_ok());
            slots.retire(&*shared.inboxes, word.slot());
            slots.seal(&*shared.inboxes);
            word = new;
            drop(guard);
        }
        join(reader);
    });
    assert!(REUSES.load(Relaxed) > 0, "no execution used a slot twice");
}

/// Who sees a word sees the content of its slot.
#[test]
fn slot_is_published_with_its_word() {
    explore(None, || {
        let slab = Slab::<u32, Canary>::new(2).expect("a small slab");
        let shared = Arc::new((Table::new(1).expect("a small table"), slab));
        let (table, slab) = &*shared;
        let mut free = Vec::new();
        slab.take_fresh(2, |slot| free.push(slot));
        let new = free.pop().expect("two slots");
        let reader = spawn({
            let shared = Arc::clone(&shared);
            move || {
                let (table, slab) = &*shared;
                if let Some((_, word)) = table.find(0, unpinned(), |_| true) {
                    // SAFETY: the slot comes from a decided word, and none is used twice.
                    let value = unsafe { slab.value(word.slot(), unpinned()) };
                    assert!((1..=2).contains(&value.expect("every version has a value").number()));
                }
            }
        });
        let Probe::Vacant(vacancy) = table.probe(0, unpinned(), |_| false) else { panic!("it is empty") };
        let word = Word::new(Kind::Value, Table::tag(0), fill(slab, free.pop().expect("two slots"), 1));
        let at = table.insert(&vacancy, word, unpinned()).expect("nobody else inserts");
        let word = table.word(at, unpinned());
        let new = word.succeeded_by(Kind::Value, fill(slab, new, 2), false);
        assert!(table.replace(at, word, new, unpinned()).is_ok());
        join(reader);
    });
}

/// A slot comes back through the inbox to another thread, which may drop what is in it: whoever retired it is done with it.
#[test]
fn recycle_hands_slots_over() {
    explore(None, || {
        let slab = Arc::new(Slab::<u32, Canary>::new(1).expect("a small slab"));
        let inboxes = Arc::new(OneInbox(Inbox::new(), Collector::new()));
        let retiring = spawn({
            let (slab, inboxes) = (Arc::clone(&slab), Arc::clone(&inboxes));
            move || {
                let mut slots = Slots::new(0);
                if let Some(slot) = slots.take(&*inboxes, &slab) {
                    // No grace period: nobody else has seen the slot.
                    slots.retire(&*inboxes, fill(&slab, slot, 1));
                    slots.seal(&*inboxes);
                }
            }
        });
        let mut slots = Slots::new(0);
        if let Some(slot) = slots.take(&*inboxes, &slab) {
            fill(&slab, slot, 2);
        }
        join(retiring);
    });
}

/// So it does if the slot was never published: it has no moment to wait for, so nothing else hands it over.
#[test]
fn recycle_hands_spares_over() {
    explore(None, || {
        let slab = Arc::new(Slab::<u32, Canary>::new(1).expect("a small slab"));
        let inboxes = Arc::new(OneInbox(Inbox::new(), Collector::new()));
        let giving = spawn({
            let (slab, inboxes) = (Arc::clone(&slab), Arc::clone(&inboxes));
            move || {
                if let Some(mut slot) = Slots::new(0).take(&*inboxes, &slab) {
                    slab.set_key(&mut slot, 1);
                    slab.set_value(&mut slot, Some(Canary::new(1)));
                    inboxes.0.give(slot);
                }
            }
        });
        if let Some(slot) = Slots::new(0).take(&*inboxes, &slab) {
            fill(&slab, slot, 2);
        }
        join(giving);
    });
}
