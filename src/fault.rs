//! Crash points and switched-off rules, for the tests of the tests.
//!
//! With the feature `faults` a process can be told (through its environment) to kill itself the n-th time that it passes
//! a named point of the journal's protocol, and to leave one protective rule of it out. Without the feature both are
//! nothing at all.

#[cfg(feature = "faults")]
pub use on::fail_syncs;
#[cfg(feature = "faults")]
pub(crate) use on::{broken, point, sync_fails};

/// A step of the protocol that a crash may follow.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn point(_: &'static str) {}

/// Whether this rule is switched off.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn broken(_: &'static str) -> bool {
    false
}

/// Whether the next sync should fail.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn sync_fails() -> bool {
    false
}

#[cfg(feature = "faults")]
mod on {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    struct Plan {
        point: String,
        left: AtomicU64,
        broken: String,
        failing_syncs: AtomicU64,
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        PLAN.get_or_init(|| {
            let variable = |name| std::env::var(name).unwrap_or_default();
            let number = |name| variable(name).parse().unwrap_or(0);
            Plan {
                point: variable("WRITEBACK_CRASH_AT"),
                left: AtomicU64::new(number("WRITEBACK_CRASH_AFTER")),
                broken: variable("WRITEBACK_BROKEN_RULE"),
                failing_syncs: AtomicU64::new(number("WRITEBACK_FAILING_SYNCS")),
            }
        })
    }

    pub(crate) fn point(name: &'static str) {
        let plan = plan();
        if plan.point == name && plan.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            // No destructor, no flush, no other thread's next step: what a SIGKILL at this instruction leaves.
            std::process::abort();
        }
    }

    pub(crate) fn broken(rule: &'static str) -> bool {
        plan().broken == rule
    }

    /// Lets so many of the next syncs fail.
    pub fn fail_syncs(count: u64) {
        plan().failing_syncs.store(count, Ordering::Relaxed);
    }

    pub(crate) fn sync_fails() -> bool {
        let left = &plan().failing_syncs;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}
