//! Finding the operation for which a whole batch was refused.
//!
//! Some databases refuse a transaction and do not say for which of its rows. So when a batch as a whole was refused for good,
//! its halves are tried, one after the other, and so on down to the one operation: with one culprit among n that takes at
//! most 2 log2(n) more calls, and everything else is stored.

use std::collections::VecDeque;

use super::pending::Taken;

/// Parts of refused batches that are still to be tried, in the order of their operations. In the book they are in flight.
#[derive(Default)]
pub(super) struct Bisection {
    parts: VecDeque<Vec<Taken>>,
}

impl Bisection {
    /// This batch was refused as a whole. It has more than one operation.
    pub(super) fn split(&mut self, mut refused: Vec<Taken>) {
        let second = refused.split_off(refused.len() / 2);
        self.parts.push_front(second);
        self.parts.push_front(refused);
    }

    /// The part to be tried next.
    pub(super) fn next(&mut self) -> Option<Vec<Taken>> {
        self.parts.pop_front()
    }

    /// Whether there is one.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Gives up: whatever is left, in order.
    pub(super) fn abandon(&mut self) -> Vec<Taken> {
        self.parts.drain(..).flatten().collect()
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;
    use crate::table::Position;

    #[test]
    fn one_culprit_is_found_in_twice_the_logarithm() {
        for (len, culprit) in [(2, 0), (2, 1), (3, 1), (1000, 0), (1000, 499), (1000, 500), (1000, 999)] {
            let all: Vec<Taken> =
                (0..len).map(|index| Taken { at: Position::from_index(index), moment: 0 }).collect();
            let (mut bisection, mut calls, mut stored) = (Bisection::default(), 0, Vec::new());
            bisection.split(all);
            while let Some(part) = bisection.next() {
                calls += 1;
                if !part.iter().any(|taken| taken.at.index() == culprit) {
                    stored.extend(part.iter().map(|taken| taken.at.index()));
                } else if part.len() > 1 {
                    bisection.split(part);
                }
            }
            assert!(calls <= 2 * (len as f64).log2().ceil() as usize, "{calls} calls for {len}");
            let others: Vec<usize> = (0..len).filter(|index| *index != culprit).collect();
            assert_eq!(stored, others, "in order, and all but one");
        }
    }
}
