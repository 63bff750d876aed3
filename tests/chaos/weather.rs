//! What befalls the database, in an order that the seed decides.
//!
//! The misfortunes are dealt like cards: all of them once, and then all of them again in another order. So even a short run has
//! each of them.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    plan::Plan,
    random::Random,
    subject::{Misfortune, Subject},
};

pub(crate) struct Weather {
    possible: Vec<Misfortune>,
    strikes: [AtomicU64; Misfortune::ALL.len()],
    /// Connections that were cut or ended, transactions that were met.
    hit: [AtomicU64; Misfortune::ALL.len()],
    now: Mutex<Option<(Misfortune, Instant)>>,
    /// What could not be brought about, and why.
    missed: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Weather {
    pub(crate) fn of(subject: &dyn Subject) -> Self {
        Weather {
            possible: subject.misfortunes(),
            strikes: Default::default(),
            hit: Default::default(),
            now: Mutex::default(),
            missed: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Until it is told to end; then all is well again.
    pub(crate) fn run(&self, subject: &dyn Subject, plan: &Plan, mut random: Random) {
        let mut deck = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            // Some come on the heels of the last.
            if !random.one_in(4) {
                thread::sleep(random.time(Duration::ZERO, plan.pause));
            }
            let Some(what) = deck.pop() else {
                deck.clone_from(&self.possible);
                random.shuffle(&mut deck);
                continue;
            };
            *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, Instant::now()));
            match subject.strike(what, &mut random, plan.longest) {
                Ok(hit) => {
                    self.strikes[what as usize].fetch_add(1, Ordering::Relaxed);
                    self.hit[what as usize].fetch_add(hit, Ordering::Relaxed);
                }
                Err(why) => {
                    let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
                    missed.push(format!("{what}: {why}"));
                }
            }
            *self.now.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_possible(&self, what: Misfortune) -> bool {
        self.possible.contains(&what)
    }

    pub(crate) fn strikes(&self, what: Misfortune) -> u64 {
        self.strikes[what as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn hit(&self, what: Misfortune) -> u64 {
        self.hit[what as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn missed(&self) -> Vec<String> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is going on, and for how long.
    pub(crate) fn now(&self) -> Option<(Misfortune, Duration)> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.map(|(what, since)| (what, since.elapsed()))
    }
}
