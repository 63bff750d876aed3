//! A bounded queue of table positions for any number of threads, four bytes for each.

use crossbeam_utils::CachePadded;

use crate::{
    sync::{AtomicU32, AtomicU64, Ordering},
    table::Position,
};

/// First in, first out, but for races: a position whose thread was overtaken between taking its ticket and storing goes
/// to the back again. Nothing is lost and nothing doubled.
///
/// Each end is a counter of tickets; ticket n owns cell n modulo the capacity. A cell holds zero or a position plus one.
pub(crate) struct Fifo {
    cells: Box<[AtomicU32]>,
    head: CachePadded<AtomicU64>,
    tail: CachePadded<AtomicU64>,
}

impl Fifo {
    /// A queue for at most `capacity` positions; more must never be in it at once.
    pub(crate) fn new(capacity: usize) -> Self {
        Fifo {
            cells: (0..capacity.max(1)).map(|_| AtomicU32::new(0)).collect(),
            head: CachePadded::new(AtomicU64::new(0)),
            tail: CachePadded::new(AtomicU64::new(0)),
        }
    }

    fn cell(&self, ticket: u64) -> &AtomicU32 {
        &self.cells[(ticket % self.cells.len() as u64) as usize]
    }

    /// About how many positions are queued.
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a hint.
        let (head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Relaxed));
        tail.saturating_sub(head) as usize
    }

    /// Appends a position.
    pub(crate) fn push(&self, at: Position) {
        let value = at.index() as u32 + 1;
        loop {
            let ticket = self.tail.fetch_add(1, Ordering::Relaxed);
            let cell = self.cell(ticket);
            // AcqRel: if a consumer has given this ticket up (its swap found zero), this sees its head. A cell that is
            // still taken belongs to a consumer of the last lap that has not got to it: the next ticket is as good.
            let order = if cfg!(mutant = "fifo_relaxed") { Ordering::Relaxed } else { Ordering::AcqRel };
            if cell.compare_exchange(0, value, order, Ordering::Relaxed).is_err() {
                continue;
            }
            if self.head.load(Ordering::Relaxed) <= ticket || cfg!(mutant = "fifo_recheck") {
                return;
            }
            // The consumer of this ticket was here before us, so nobody would look into the cell for a whole lap. If
            // the position is still there, take it back and queue again; if not, somebody has found it after all.
            if cell.compare_exchange(value, 0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                return;
            }
        }
    }

    /// Takes the oldest position.
    pub(crate) fn pop(&self) -> Option<Position> {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Acquire is not needed: a position is only a name, what it names is read with Acquire.
            if head >= self.tail.load(Ordering::Relaxed) {
                return None;
            }
            match self.head.compare_exchange_weak(head, head + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    // AcqRel: Release publishes the new head to a producer that comes too late, see `push`.
                    let value = self.cell(head).swap(0, Ordering::AcqRel);
                    if value != 0 {
                        return Some(Position::from_index(value as usize - 1));
                    }
                    head = self.head.load(Ordering::Relaxed);
                }
                Err(now) => head = now,
            }
        }
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn is_first_in_first_out_over_many_laps() {
        let fifo = Fifo::new(5);
        for lap in 0..100 {
            (0..5).for_each(|i| fifo.push(Position::from_index(lap * 5 + i)));
            assert_eq!(fifo.len(), 5);
            for i in 0..5 {
                assert_eq!(fifo.pop(), Some(Position::from_index(lap * 5 + i)));
            }
            assert_eq!(fifo.pop(), None);
        }
    }

    #[test]
    fn loses_and_doubles_nothing_under_contention() {
        // Eight tokens travel through a queue of eight; at the end each is there once.
        let fifo = Fifo::new(8);
        (0..8).for_each(|i| fifo.push(Position::from_index(i)));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50_000 {
                        if let Some(at) = fifo.pop() {
                            fifo.push(at);
                        }
                    }
                });
            }
        });
        let mut tokens: Vec<_> = std::iter::from_fn(|| fifo.pop()).map(Position::index).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..8).collect::<Vec<_>>());
    }
}
