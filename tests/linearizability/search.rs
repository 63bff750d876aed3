//! A checker for short histories that knows nothing of versions: the search of Wing and Gong, with the memory of Lowe.
//!
//! It looks for one order of the operations that agrees with the clock, and in which each was told what a plain variable would
//! have told it. Of the writes that a crash has cut off it may leave out any. The time that it takes grows with two to the
//! power of how many operations overlap.

use std::collections::HashSet;

use super::history::{Attempt, History, What};

/// The most operations of one history.
pub(crate) const MOST: usize = 64;

#[derive(Clone, Copy)]
struct Operation {
    begin: u64,
    /// `u64::MAX`: cut off.
    end: u64,
    does: Does,
}

#[derive(Clone, Copy)]
enum Does {
    Write(Option<u64>),
    Replace { old: Option<u64>, value: u64 },
    Read(Option<u64>),
}

impl Does {
    /// What the key is after it; `None`: it cannot have happened to such a key.
    fn to(self, state: Option<u64>) -> Option<Option<u64>> {
        match self {
            Does::Write(value) => Some(value),
            Does::Replace { old, value } => (old == state).then_some(Some(value)),
            Does::Read(value) => (value == state).then_some(state),
        }
    }
}

struct Search {
    operations: Vec<Operation>,
    /// All that have ended.
    ended: u64,
    /// Which were done in some order, and what the key was then: it leads nowhere.
    dead_ends: HashSet<(u64, Option<u64>)>,
}

/// Checks the history of one key. Says what is wrong.
pub(crate) fn check(history: &History) -> Result<(), String> {
    let ended = history.events.iter().map(|event| Operation {
        begin: event.begin,
        end: event.end,
        does: match event.what {
            What::Put { value, .. } => Does::Write(Some(value)),
            What::Remove { .. } => Does::Write(None),
            What::Update { old, value, .. } => Does::Replace { old, value },
            What::Get { value } => Does::Read(value),
        },
    });
    let cut_off = history.pending.iter().map(|pending| Operation {
        begin: pending.begin,
        end: u64::MAX,
        does: match pending.what {
            Attempt::Put { value } => Does::Write(Some(value)),
            Attempt::Remove => Does::Write(None),
            Attempt::Update { old, value } => Does::Replace { old, value },
        },
    });
    let operations: Vec<_> = ended.chain(cut_off).collect();
    assert!(operations.len() <= MOST, "a history of {} operations is not short", operations.len());
    let ended = mask(history.events.len());
    let mut search = Search { operations, ended, dead_ends: HashSet::new() };
    match search.goes_on(0, history.value) {
        true => Ok(()),
        false => Err(format!("no order explains {history:?}")),
    }
}

fn mask(bits: usize) -> u64 {
    u64::MAX.checked_shr((MOST - bits) as u32).unwrap_or(0)
}

impl Search {
    /// Whether the operations that are not `done` can follow in some order.
    fn goes_on(&mut self, done: u64, state: Option<u64>) -> bool {
        if done & self.ended == self.ended {
            return true;
        }
        if self.dead_ends.contains(&(done, state)) {
            return false;
        }
        let left = |at: &usize| done & 1 << at == 0;
        // Whoever begins after another one has ended does not come before it.
        let all = 0..self.operations.len();
        let first_end = all.clone().filter(left).map(|at| self.operations[at].end).min().unwrap_or(u64::MAX);
        for at in all.filter(left) {
            let next = self.operations[at];
            if next.begin <= first_end
                && let Some(state) = next.does.to(state)
                && self.goes_on(done | 1 << at, state)
            {
                return true;
            }
        }
        self.dead_ends.insert((done, state));
        false
    }
}
