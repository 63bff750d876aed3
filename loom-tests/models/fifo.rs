//! The queue of the eviction policy: producers that are overtaken between ticket and cell.

use std::sync::Arc;

use super::{explore, join, spawn};
use crate::{policy::Fifo, table::Position};

/// Each position is in the queue once or was popped once, whoever overtakes whom.
#[test]
fn fifo_loses_and_doubles_nothing() {
    explore(Some(3), || {
        let fifo = Arc::new(Fifo::new(3));
        let producers: Vec<_> = (0..2)
            .map(|index| {
                let fifo = Arc::clone(&fifo);
                spawn(move || fifo.push(Position::from_index(index)))
            })
            .collect();
        let mut count = [0; 2];
        for _ in 0..2 {
            if let Some(at) = fifo.pop() {
                count[at.index()] += 1;
            }
        }
        producers.into_iter().for_each(join);
        while let Some(at) = fifo.pop() {
            count[at.index()] += 1;
        }
        assert_eq!(count, [1, 1]);
    });
}

/// As above, with a second consumer that puts back what it has popped: cells are used again.
#[test]
fn fifo_second_lap() {
    explore(Some(3), || {
        let fifo = Arc::new(Fifo::new(3));
        fifo.push(Position::from_index(0));
        let producer = spawn({
            let fifo = Arc::clone(&fifo);
            move || fifo.push(Position::from_index(1))
        });
        let carrier = spawn({
            let fifo = Arc::clone(&fifo);
            move || {
                if let Some(at) = fifo.pop() {
                    fifo.push(at);
                }
            }
        });
        let mut count = [0; 2];
        if let Some(at) = fifo.pop() {
            count[at.index()] += 1;
        }
        join(producer);
        join(carrier);
        while let Some(at) = fifo.pop() {
            count[at.index()] += 1;
        }
        assert_eq!(count, [1, 1]);
    });
}
