//! The dirty ring: one writer thread tells the flusher which places of the table became dirty.
//!
//! One producer, one consumer, no loop, no waiting. Each end keeps its own index in a plain field and a copy of the
//! other end's, so that it reads the other's cache line only when the ring looks full (or empty). A full ring is not an
//! error: the producer marks the place in the [`DirtyMap`](crate::dirty_map::DirtyMap) instead.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::{
    sync::{AtomicU32, AtomicUsize, Ordering},
    table::Position,
};

struct Ring {
    /// Invariant: a power of two.
    cells: Box<[AtomicU32]>,
    /// Where the producer writes next. Written by the producer only; counts up and wraps.
    tail: CachePadded<AtomicUsize>,
    /// Where the consumer reads next. Written by the consumer only.
    head: CachePadded<AtomicUsize>,
}

impl Ring {
    fn cell(&self, index: usize) -> &AtomicU32 {
        &self.cells[index & (self.cells.len() - 1)]
    }
}

/// The writing end. Belongs to whoever leases the lane.
pub(crate) struct Producer {
    ring: Arc<Ring>,
    tail: usize,
    head_seen: usize,
}

/// The reading end. Belongs to the flusher.
pub(crate) struct Consumer {
    ring: Arc<Ring>,
    head: usize,
    tail_seen: usize,
}

/// There was no room; the position is not in the ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A ring for at least `capacity` positions.
pub(crate) fn ring(capacity: usize) -> (Producer, Consumer) {
    let cells = (0..capacity.next_power_of_two()).map(|_| AtomicU32::new(0)).collect();
    let ring = Arc::new(Ring {
        cells,
        tail: CachePadded::new(AtomicUsize::new(0)),
        head: CachePadded::new(AtomicUsize::new(0)),
    });
    let producer = Producer { ring: Arc::clone(&ring), tail: 0, head_seen: 0 };
    (producer, Consumer { ring, head: 0, tail_seen: 0 })
}

impl Producer {
    /// Appends a position.
    pub(crate) fn push(&mut self, position: Position) -> Result<(), Full> {
        let capacity = self.ring.cells.len();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            // Acquire: pairs with the Release in `pop`; the consumer has read the cell before we write it again.
            self.head_seen = self.ring.head.load(if cfg!(mutant = "ring_head") {
                Ordering::Relaxed
            } else {
                Ordering::Acquire
            });
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                return Err(Full);
            }
        }
        // Relaxed: published by the tail.
        self.ring.cell(self.tail).store(position.index() as u32, Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
        // Release: pairs with the Acquire in `pop`; the cell, and the table word that it points at, come first.
        self.ring
            .tail
            .store(self.tail, if cfg!(mutant = "ring_tail") { Ordering::Relaxed } else { Ordering::Release });
        Ok(())
    }
}

impl Consumer {
    /// Takes the oldest position out.
    pub(crate) fn pop(&mut self) -> Option<Position> {
        if self.head == self.tail_seen {
            // Acquire: pairs with the Release in `push`.
            self.tail_seen = self.ring.tail.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let position = self.ring.cell(self.head).load(Ordering::Relaxed);
        self.head = self.head.wrapping_add(1);
        // Release: pairs with the Acquire in `push`; the cell was read before it is given back.
        self.ring.head.store(self.head, Ordering::Release);
        Some(Position::from_index(position as usize))
    }

    /// Whether something could be popped.
    pub(crate) fn has_more(&self) -> bool {
        // Relaxed is enough for an answer, but the caller uses it to decide to sleep: the SeqCst fence between its
        // announcement and this load is in `Signal`, its partner is the fence of the writer after its push.
        self.head != self.tail_seen || self.ring.tail.load(Ordering::Relaxed) != self.head
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_over_many_laps_and_says_when_it_is_full() {
        let (mut producer, mut consumer) = ring(3);
        assert!(consumer.pop().is_none() && !consumer.has_more());
        for lap in 0..1000 {
            let filled = (lap % 4) + 1;
            for i in 0..filled {
                assert_eq!(producer.push(Position::from_index(lap * 8 + i)), Ok(()));
            }
            if filled == 4 {
                assert_eq!(producer.push(Position::from_index(0)), Err(Full));
            }
            assert!(consumer.has_more());
            for i in 0..filled {
                assert_eq!(consumer.pop(), Some(Position::from_index(lap * 8 + i)));
            }
            assert_eq!(consumer.pop(), None);
        }
    }

    #[test]
    fn nothing_is_lost_or_doubled_between_two_threads() {
        let (mut producer, mut consumer) = ring(8);
        let count = 200_000;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..count {
                    while producer.push(Position::from_index(i)).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
            for i in 0..count {
                let position = loop {
                    match consumer.pop() {
                        Some(position) => break position,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(position.index(), i);
            }
        });
    }
}
