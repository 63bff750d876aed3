//! The dirty ring: order, laps, a full ring, and what each side may rely on.

use std::sync::Arc;

use loom::cell::UnsafeCell;

use super::{explore, join, spawn};
use crate::{
    ring::{Full, ring},
    sync::{AtomicU32, Ordering},
    table::Position,
};

const PUSHES: usize = 4;
const CAPACITY: usize = 2;

struct Notes {
    /// What the producer does before it pushes the n-th position: stands for the table word.
    written: [AtomicU32; PUSHES],
    /// What the consumer does before it pops the n-th.
    read: [UnsafeCell<u32>; PUSHES],
}

// SAFETY: loom reports accesses to the cells that are not ordered.
unsafe impl Sync for Notes {}
// SAFETY: as above.
unsafe impl Send for Notes {}

/// What was pushed comes out once and in order; a position brings along what came before its push; and a cell is
/// written again only after it was read.
#[test]
fn ring_keeps_order_and_hands_over() {
    explore(None, || {
        let (mut producer, mut consumer) = ring(CAPACITY);
        let notes = Arc::new(Notes {
            written: std::array::from_fn(|_| AtomicU32::new(0)),
            read: std::array::from_fn(|_| UnsafeCell::new(0)),
        });
        let pushed = spawn({
            let notes = Arc::clone(&notes);
            move || {
                let mut pushed = 0;
                for _ in 0..PUSHES {
                    notes.written[pushed].store(1, Ordering::Relaxed);
                    match producer.push(Position::from_index(pushed)) {
                        Ok(()) => {
                            if let Some(reused) = pushed.checked_sub(CAPACITY) {
                                // SAFETY: the consumer's access came before its pop, which made room for this push.
                                notes.read[reused].with(|read| unsafe { assert_eq!(*read, 1) });
                            }
                            pushed += 1;
                        }
                        Err(Full) => assert!(pushed >= CAPACITY, "full before it was filled"),
                    }
                }
                pushed
            }
        });
        let mut popped = 0;
        let mut pop = |popped: &mut usize| {
            // SAFETY: the producer looks at it only after the pop.
            notes.read[*popped].with_mut(|read| unsafe { *read = 1 });
            if let Some(at) = consumer.pop() {
                assert_eq!(at.index(), *popped);
                assert_eq!(notes.written[*popped].load(Ordering::Relaxed), 1, "popped before it was written");
                *popped += 1;
            }
        };
        (0..PUSHES).for_each(|_| pop(&mut popped));
        let pushed = join(pushed);
        while popped < pushed {
            let before = popped;
            pop(&mut popped);
            assert_eq!(popped, before + 1, "lost");
        }
        assert!(!consumer.has_more() && consumer.pop().is_none());
    });
}
