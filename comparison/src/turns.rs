//! Slices in turns: machines in a cloud change their speed by a factor of two within seconds, so nobody is measured alone. All
//! subjects live in one process, take short slices in an order that is drawn anew each round, and are compared with the array's
//! slice of the same round.

use std::{
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    subjects::{AnySubject, Pace, Slice},
    workload::{Op, Random, Stream},
};

/// How turns are taken.
#[derive(Clone, Copy)]
pub(crate) struct Turns {
    pub(crate) rounds: usize,
    /// What is timed.
    pub(crate) slice: Duration,
    /// What comes before it, untimed: threads wake up, and what the others have driven out of the processor's caches comes
    /// back.
    pub(crate) lead: Duration,
    pub(crate) pace: Pace,
}

/// Operations per second of each subject (the outer list) in each round, and the share of reads that found nothing.
pub(crate) struct Rates {
    pub(crate) rates: Vec<Vec<f64>>,
    pub(crate) misses: Vec<f64>,
}

/// The number of no subject: the work is over.
const OVER: usize = usize::MAX;

/// One thread for each list of operations.
pub(crate) fn take(subjects: &[Box<dyn AnySubject>], lists: &[Vec<Op>], turns: Turns) -> Rates {
    let (next, place) = (AtomicUsize::new(OVER), AtomicUsize::new(0));
    let (begin, end) = (Barrier::new(lists.len() + 1), Barrier::new(lists.len() + 1));
    let slices = Mutex::new(Vec::new());
    let mut rates = vec![Vec::with_capacity(turns.rounds); subjects.len()];
    let mut totals = vec![Slice::default(); subjects.len()];
    thread::scope(|scope| {
        for ops in lists {
            let (next, place, begin, end, slices) = (&next, &place, &begin, &end, &slices);
            scope.spawn(move || {
                let mut workers: Vec<_> = subjects.iter().map(|subject| subject.worker()).collect();
                loop {
                    begin.wait();
                    let subject = next.load(Ordering::Acquire);
                    if subject == OVER {
                        return;
                    }
                    let mut stream = Stream::from(ops, place.load(Ordering::Acquire));
                    workers[subject].work(&mut stream, turns.pace, turns.lead);
                    let slice = workers[subject].work(&mut stream, turns.pace, turns.slice);
                    slices.lock().expect("nobody panics with it").push(slice);
                    end.wait();
                }
            });
        }
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        let mut random = Random::new(7);
        for _ in 0..turns.rounds {
            random.shuffle(&mut order);
            place.store(random.next() as usize % lists[0].len(), Ordering::Release);
            for &subject in &order {
                subjects[subject].enter(turns.lead + turns.slice);
                next.store(subject, Ordering::Release);
                begin.wait();
                end.wait();
                subjects[subject].leave();
                let mut rate = 0.0;
                for slice in slices.lock().expect("nobody panics with it").drain(..) {
                    rate += slice.ops as f64 / slice.took.as_secs_f64();
                    totals[subject].ops += slice.ops;
                    totals[subject].misses += slice.misses;
                }
                rates[subject].push(rate);
            }
        }
        next.store(OVER, Ordering::Release);
        begin.wait();
    });
    let misses = totals.iter().map(|total| total.misses as f64 / total.ops as f64);
    Rates { rates, misses: misses.collect() }
}
