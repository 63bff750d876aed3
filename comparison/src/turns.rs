//! Slices in turns: machines in a cloud change their speed by a factor of two within seconds, so nobody is measured alone. All
//! subjects live in one process, take short slices in an order that is drawn anew each round, and are compared with each other's
//! slices of the same round.

use std::{
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    subjects::{AnySubject, Worker},
    workload::Random,
};

/// One slice, as a thread is told of it.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) subject: usize,
    pub(crate) round: usize,
    pub(crate) thread: usize,
}

/// The number of no subject: the work is over.
const OVER: usize = usize::MAX;

/// Gives each subject a turn in each round, on so many threads at once, and returns for each subject what its slices came to: all
/// threads of the first round, then those of the second. A slice takes about `slice`.
pub(crate) fn take<R: Send>(
    subjects: &[Box<dyn AnySubject>],
    threads: usize,
    rounds: usize,
    slice: Duration,
    work: impl Fn(Turn, &mut dyn Worker) -> R + Sync,
) -> Vec<Vec<R>> {
    let (subject, round) = (AtomicUsize::new(OVER), AtomicUsize::new(0));
    let (begin, end) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let results: Vec<Mutex<Vec<R>>> = subjects.iter().map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        for thread in 0..threads {
            let (subject, round, begin, end, results) = (&subject, &round, &begin, &end, &results);
            let work = &work;
            scope.spawn(move || {
                // Made here: a handle belongs to its thread.
                let mut workers: Vec<_> = subjects.iter().map(|subject| subject.worker()).collect();
                loop {
                    begin.wait();
                    let (subject, round) = (subject.load(Ordering::Acquire), round.load(Ordering::Acquire));
                    if subject == OVER {
                        return;
                    }
                    let result = work(Turn { subject, round, thread }, &mut *workers[subject]);
                    results[subject].lock().expect("nobody panics with it").push(result);
                    end.wait();
                }
            });
        }
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        let mut random = Random::new(7);
        for number in 0..rounds {
            random.shuffle(&mut order);
            round.store(number, Ordering::Release);
            for &next in &order {
                subjects[next].enter(slice);
                subject.store(next, Ordering::Release);
                begin.wait();
                end.wait();
                subjects[next].leave();
            }
        }
        subject.store(OVER, Ordering::Release);
        begin.wait();
    });
    results.into_iter().map(|results| results.into_inner().expect("nobody panics with it")).collect()
}
