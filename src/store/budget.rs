//! The dirty budget: how many entries, and how many of their bytes, may be dirty at once.
//!
//! A write reserves what it adds *before* its compare-and-swap, and gives it back if that fails; so the sums are never
//! less than what is dirty, and a limit is a limit whatever the number of threads. Only who was granted an *overdraft*
//! (a write-through) goes over it, and no more of them are out than threads use the cache: a grant comes back when
//! the sums are within the limits again, not when the backend has answered, because a write that it refused is still there.

use crossbeam_utils::CachePadded;

use crate::{
    fault,
    signal::Event,
    sync::{AtomicU64, Mutex, Ordering, lock},
};

/// What a dirty entry is charged; or what a write adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Charge {
    fn is_nothing(self) -> bool {
        self.entries == 0 && self.bytes == 0
    }
}

/// The limits of a cache; `None`: no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DirtyLimits {
    pub(crate) entries: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// From which share of a limit on writers are slowed down.
    pub(crate) slow_from: f64,
}

/// One limited sum.
struct Account {
    used: CachePadded<AtomicU64>,
    limit: u64,
    soft: u64,
}

impl Account {
    fn new(limit: u64, slow_from: f64) -> Self {
        Account { used: CachePadded::new(AtomicU64::new(0)), limit, soft: (limit as f64 * slow_from) as u64 }
    }

    fn used(&self) -> u64 {
        // Relaxed: a count.
        self.used.load(Ordering::Relaxed)
    }

    /// Adds `more`, if there is room for it. What is larger than the limit alone has room when nothing else is dirty.
    fn reserve(&self, more: u64) -> bool {
        if more == 0 {
            return true;
        }
        let fits = |used: u64| {
            let after = used.saturating_add(more);
            (after <= self.limit || used == 0).then_some(after)
        };
        // Relaxed: the counter orders nothing.
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn add(&self, more: u64) {
        // Relaxed: a count.
        self.used.fetch_add(more, Ordering::Relaxed);
    }

    fn give_back(&self, less: u64) {
        if less > 0 {
            // Relaxed: a count. It never goes below zero: what is given back was reserved before the word showed it.
            self.used.fetch_sub(less, Ordering::Relaxed);
        }
    }

    /// How far between the soft limit (0) and the hard one (1).
    fn level(&self) -> f64 {
        let (over, range) = (self.used().saturating_sub(self.soft), (self.limit - self.soft).max(1));
        (over as f64 / range as f64).min(1.0)
    }
}

/// Grants that are not used yet, and those that are.
#[derive(Default)]
struct Grants {
    open: usize,
    used: usize,
}

pub(crate) struct Budget {
    entries: Option<Account>,
    bytes: Option<Account>,
    grants: Mutex<Grants>,
}

impl Budget {
    /// `None`: nothing is limited, and nothing is counted.
    pub(crate) fn new(limits: DirtyLimits) -> Option<Self> {
        let held = |limit| if fault::broken("dirty-limit") { u64::MAX } else { limit };
        let account = |limit: Option<u64>| limit.map(|limit| Account::new(held(limit), limits.slow_from));
        let (entries, bytes) = (account(limits.entries), account(limits.bytes));
        (entries.is_some() || bytes.is_some()).then(|| Budget { entries, bytes, grants: Mutex::default() })
    }

    /// Reserves what a write adds. `None`: a limit is in the way.
    pub(super) fn reserve<'b>(&'b self, charge: Charge, room: &'b Event) -> Option<Permit<'b>> {
        let reserve = |account: &Option<Account>, more| account.as_ref().is_none_or(|it| it.reserve(more));
        if !reserve(&self.entries, charge.entries) {
            return None;
        }
        if !reserve(&self.bytes, charge.bytes) {
            if let Some(entries) = &self.entries {
                entries.give_back(charge.entries);
            }
            return None;
        }
        Some(Permit { budget: self, charge, room })
    }

    /// Adds what a write adds, whatever the limits.
    pub(super) fn force<'b>(&'b self, charge: Charge, room: &'b Event) -> Permit<'b> {
        self.charge(charge);
        Permit { budget: self, charge, room }
    }

    /// Something is dirty that asked nobody: what a journal remembers.
    pub(super) fn charge(&self, charge: Charge) {
        let add = |account: &Option<Account>, more| account.iter().for_each(|it| it.add(more));
        add(&self.entries, charge.entries);
        add(&self.bytes, charge.bytes);
    }

    /// An entry is clean, or smaller. Whoever waits for room is told by the caller.
    pub(super) fn discharge(&self, charge: Charge) {
        let give_back = |account: &Option<Account>, less| account.iter().for_each(|it| it.give_back(less));
        give_back(&self.entries, charge.entries);
        give_back(&self.bytes, charge.bytes);
    }

    /// How far above the soft limits: 0 at them or below, 1 at a hard one.
    pub(crate) fn level(&self) -> f64 {
        [&self.entries, &self.bytes].into_iter().flatten().map(Account::level).fold(0.0, f64::max)
    }

    /// Whether not one more entry has room.
    pub(super) fn is_full(&self) -> bool {
        [&self.entries, &self.bytes].into_iter().flatten().any(|it| it.used() >= it.limit)
    }

    /// The right to go over a limit once, if fewer than `at_most` are out.
    pub(crate) fn overdraw(&self, at_most: usize) -> Option<Overdraft<'_>> {
        let mut grants = lock(&self.grants);
        let excess = |account: &Option<Account>| {
            account.as_ref().map_or(0, |account| account.used().saturating_sub(account.limit))
        };
        if excess(&self.bytes) == 0 {
            // What the others were used for is within the limits now.
            grants.used = grants.used.min(excess(&self.entries) as usize);
        }
        if grants.open + grants.used >= at_most {
            return None;
        }
        grants.open += 1;
        Some(Overdraft { budget: self, is_used: false })
    }

    /// Dirty bytes, and their limit; (0, `None`) if they are not limited.
    pub(crate) fn bytes(&self) -> (u64, Option<u64>) {
        self.bytes.as_ref().map_or((0, None), |bytes| (bytes.used(), Some(bytes.limit)))
    }

    /// The limit of dirty entries.
    pub(crate) fn max_entries(&self) -> Option<u64> {
        self.entries.as_ref().map(|entries| entries.limit)
    }
}

/// What a write has reserved. Goes back when dropped.
#[must_use]
pub(super) struct Permit<'b> {
    budget: &'b Budget,
    charge: Charge,
    room: &'b Event,
}

impl Permit<'_> {
    /// It is dirty now; whoever cleans it gives it back. Says whether it is anything at all.
    pub(super) fn spend(self) -> bool {
        let charge = self.charge;
        std::mem::forget(self);
        !charge.is_nothing()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.charge.is_nothing() {
            self.budget.discharge(self.charge);
            // Somebody may have found no room because of this.
            self.room.notify();
        }
    }
}

/// The right of one write to go over the limits. Goes back when dropped, unless it was used.
#[must_use]
pub(crate) struct Overdraft<'b> {
    budget: &'b Budget,
    is_used: bool,
}

impl Overdraft<'_> {
    /// The write is made.
    pub(crate) fn spend(mut self) {
        self.is_used = true;
    }
}

impl Drop for Overdraft<'_> {
    fn drop(&mut self) {
        let mut grants = lock(&self.budget.grants);
        grants.open -= 1;
        grants.used += usize::from(self.is_used);
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    fn budget(entries: u64, bytes: u64) -> Budget {
        let limits = DirtyLimits { entries: Some(entries), bytes: Some(bytes), slow_from: 0.5 };
        Budget::new(limits).expect("limited")
    }

    fn of(entries: u64, bytes: u64) -> Charge {
        Charge { entries, bytes }
    }

    #[test]
    fn what_is_not_spent_goes_back() {
        let (budget, room) = (budget(2, 100), Event::new());
        let first = budget.reserve(of(1, 60), &room).expect("room");
        assert!(budget.reserve(of(1, 60), &room).is_none(), "60 + 60 are more than 100");
        drop(first);
        assert!(budget.reserve(of(1, 60), &room).expect("it went back").spend());
        assert!(budget.reserve(of(1, 40), &room).expect("fits exactly").spend());
        assert!(budget.reserve(of(1, 0), &room).is_none(), "two entries are dirty");
        assert!(!budget.reserve(of(0, 0), &room).expect("adds nothing").spend());
        budget.discharge(of(1, 60));
        assert_eq!(budget.bytes(), (40, Some(100)));
    }

    #[test]
    fn what_is_larger_than_the_limit_goes_alone() {
        let (budget, room) = (budget(10, 100), Event::new());
        assert!(budget.reserve(of(1, 500), &room).expect("nothing else is dirty").spend());
        assert!(budget.reserve(of(1, 1), &room).is_none());
        budget.discharge(of(1, 500));
        assert!(budget.reserve(of(1, 1), &room).expect("room").spend());
        assert!(budget.reserve(of(1, 500), &room).is_none());
    }

    #[test]
    fn the_level_grows_from_the_soft_limit_to_the_hard_one() {
        let (budget, room) = (budget(100, 1_000), Event::new());
        let mut levels = vec![budget.level()];
        for _ in 0..100 {
            budget.reserve(of(1, 1), &room).expect("room").spend();
            levels.push(budget.level());
        }
        assert!(levels[..=50].iter().all(|level| *level == 0.0) && levels[51] > 0.0);
        assert!(levels.is_sorted() && levels[100] == 1.0);
    }

    #[test]
    fn overdrafts_end_and_come_back_below_the_limit_only() {
        let (budget, room) = (budget(1, 100), Event::new());
        budget.reserve(of(1, 1), &room).expect("room").spend();
        drop(budget.overdraw(2).expect("the first, which is not used"));
        for _ in 0..2 {
            let overdraft = budget.overdraw(2).expect("one for each");
            assert!(budget.force(of(1, 1), &room).spend());
            overdraft.spend();
        }
        assert!(budget.overdraw(2).is_none(), "both are used");
        budget.discharge(of(1, 1));
        assert!(budget.overdraw(1).is_none() && budget.overdraw(2).is_some(), "two are dirty, one may be");
        budget.discharge(of(1, 1));
        assert!(budget.overdraw(1).is_some(), "within the limit");
    }
}
