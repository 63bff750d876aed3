//! Loads: what a slow backend answers never covers a write.

use std::sync::Arc;

use super::{
    explore, join, spawn,
    store::{KEY, SmallStore, Writing, small_store, value},
    unpinned,
};
use crate::{
    store::{Installed, Invalidation, Placeholder},
    sync::{AtomicU32, Ordering},
};

/// Installs a placeholder, if the key is absent.
fn install(store: &SmallStore, writing: &mut Writing) -> Option<Placeholder> {
    let mut writer = writing.lease.writer().expect("a lane has a writer");
    let credit = store.try_credit()?;
    let spare = store.placeholder_slot(&mut writer, KEY)?;
    match store.install(spare, store.hash(&KEY), credit, unpinned()) {
        Installed::Ours(placeholder) => Some(placeholder),
        Installed::Seen(..) | Installed::NoRoom(_) => None,
    }
}

fn fulfil(store: &SmallStore, writing: &mut Writing, placeholder: Placeholder, row: u32) {
    let mut writer = writing.lease.writer().expect("a lane has a writer");
    let _ = store.fulfil(&mut writer, placeholder, Some((KEY, Some(row), 0)), unpinned());
}

/// A load of the old row, while the key is put, flushed, evicted and loaded again: whatever is cached in the end is the
/// newest value, and it is in the backend.
#[test]
fn load_never_covers_a_put() {
    explore(Some(3), || {
        let (store, mut flushing) = small_store();
        let row = Arc::new(AtomicU32::new(1));
        let mut loading = Writing::new(&store, &[]);
        let mut writing = Writing::new(&store, &[2]);
        let loader = spawn({
            let (store, row) = (Arc::clone(&store), Arc::clone(&row));
            move || {
                if let Some(placeholder) = install(&store, &mut loading) {
                    let loaded = row.load(Ordering::Acquire);
                    fulfil(&store, &mut loading, placeholder, loaded);
                }
            }
        });
        assert!(writing.put().is_ok());
        flushing.collect();
        flushing.flush_with(|value| row.store(value, Ordering::Release));
        flushing.checkpoint();
        let evicted = {
            let mut writer = writing.lease.writer().expect("a lane has a writer");
            store.invalidate(&mut writer, store.hash(&KEY), &KEY, unpinned())
        };
        assert!(matches!(evicted, Invalidation::Removed));
        if let Some(placeholder) = install(&store, &mut writing) {
            let loaded = row.load(Ordering::Acquire);
            fulfil(&store, &mut writing, placeholder, loaded);
        }
        join(loader);
        let cached = value(&store);
        assert!(cached.is_none() || cached == Some(2), "an old value came back: {cached:?}");
        assert_eq!((row.load(Ordering::Acquire), flushing.backend), (2, Some(2)));
        flushing.drain();
    });
}
