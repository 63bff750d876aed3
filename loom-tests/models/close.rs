//! `close`: no write is accepted that the drain's last look at the queues does not find.

use super::{
    explore, join, spawn,
    store::{Writing, small_store},
};
use crate::{store::Refused, sync::Ordering};

/// Two writes against `closed`, the checkpoint that follows it, and the collection after that. The rings hold one
/// position, so both ways of telling the flusher are taken.
#[test]
fn close_accepts_nothing_unseen() {
    explore(Some(3), || {
        let (store, mut flushing) = small_store();
        let mut writing = Writing::new(&store, &[12, 11]);
        let writer = spawn(move || [writing.put(), writing.put()]);
        store.closed.store(true, Ordering::Relaxed);
        flushing.checkpoint();
        flushing.collect();
        let mut last = None;
        for (result, value) in join(writer).into_iter().zip([11, 12]) {
            match result {
                Ok(at) => {
                    assert!(flushing.has_heard_of(at), "accepted after the last look");
                    last = Some(value);
                }
                Err(refused) => assert_eq!(refused, Refused::Closed),
            }
        }
        flushing.drain();
        assert_eq!(flushing.backend, last);
    });
}
