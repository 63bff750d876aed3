//! Crash points and switched-off rules, for the tests of the tests.
//!
//! With the feature `faults` a process can be told through its environment to kill itself the n-th time that it passes a
//! named point of the journal's protocol, to stall now and then at such points, so that rare interleavings become
//! common, and to leave one protective rule out, of the protocol or of the engine beside it. Without the feature all of this
//! is nothing.
//!
//! | variable | meaning |
//! |---|---|
//! | `WRITEBACK_CRASH_AT`, `WRITEBACK_CRASH_AFTER` | one of [`POINTS`], and how many passes to let by before the kill |
//! | `WRITEBACK_CRASH_SINCE` | one of [`POINTS`]: only passes of a thread count that has passed that one; `stall`: only passes after the first stall; `own stall`: only passes of a thread that has stalled |
//! | `WRITEBACK_STALL_AT`, `WRITEBACK_STALL_PERMILLE`, `WRITEBACK_STALL_MICROS` | some of [`POINTS`], with commas, or `all`; how often a pass stalls there (`name=permille`: there alone), and for how long at most |
//! | `WRITEBACK_BROKEN_RULE` | one of [`RULES`] or of [`CONTRACT_RULES`] |
//! | `WRITEBACK_FAILING_SYNCS` | how many of the next syncs fail |
//!
//! A name that is on no list ends the process at its first point: a test with a misspelt name would test nothing.

#[cfg(feature = "faults")]
pub use on::{CONTRACT_RULES, POINTS, RULES, fail_syncs};
#[cfg(feature = "faults")]
pub(crate) use on::{broken, point, sync_fails};

/// A step of the protocol that a crash may follow.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn point(_: &'static str) {}

/// Whether this rule is switched off. In models a rule is switched off when they are compiled: their mutants.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn broken(rule: &'static str) -> bool {
    cfg!(crossbeam_loom) && option_env!("WRITEBACK_MUTANT") == Some(rule)
}

/// Whether the next sync should fail.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn sync_fails() -> bool {
    false
}

#[cfg(feature = "faults")]
mod on {
    use std::{
        cell::Cell,
        sync::{
            OnceLock,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        time::Duration,
    };

    /// All named points, in the order of the protocol.
    pub const POINTS: &[&str] = &[
        // A write, outside its window: the record's place and what is known of it.
        "segment: taken",
        "segment: end",
        "segment: sealed",
        "segment: cleared",
        "prepare",
        "prepare: head off",
        "prepare: end",
        "prepare: shape",
        "prepare: payload",
        // In the window.
        "window: looked",
        "window: open",
        "window: entered",
        "pend: head off",
        "pend: version",
        "pend: header",
        "pend",
        "put: published",
        "put: queued",
        "put: live",
        "put: announced",
        "put: left",
        "put: lost",
        "put: refused",
        // Somebody else does it for a writer that has stalled.
        "help: marked",
        "help: found",
        "help: live",
        // The flusher.
        "flush: copied",
        "flush: synced",
        "flush: applied",
        "flush: settled",
        // The checkpoint.
        "checkpoint: begun",
        "checkpoint: polling",
        "checkpoint: passed",
        "checkpoint: cut",
        "checkpoint: settled",
        "checkpoint: epoch",
        "checkpoint: epoch again",
        "checkpoint: retired",
        "checkpoint: segments dead",
        "checkpoint: segments returned",
        // A copy of what holds a checkpoint up.
        "copy: prepared",
        "copy: pending",
        "copy: live",
        "copy: noted",
        // Opening.
        "recovery: opened",
        "recovery: scanned",
        "recovery: mapped",
        "recovery: restored",
        "recovery: written through",
        "recovery: end",
        "recovery: claimed",
    ];

    /// The rules of the journal's protocol that can be switched off: a crash, or a loss of power, shows that they are.
    pub const RULES: &[&str] = &[
        // Records and acknowledgements.
        "live-before-publish",
        "head-before-body",
        "put-makes-live",
        "live-before-announced",
        "reader-makes-live",
        "flusher-makes-live",
        "head-off-first",
        "end-is-zeroed",
        "seal-end-first",
        // The window.
        "enter-looks-again",
        "leave-after-queue",
        "epoch-follows-version",
        "forget-after-retired",
        "update-expects-version",
        // The flusher.
        "clean-after-answer",
        "clean-exact-version",
        "superseded-is-queued",
        // The checkpoint.
        "writers-pass-first",
        "collect-after-scan",
        "copy-after-scan",
        "copy-before-retire",
        "sealed-until-retired",
        "grace-period",
        // Recovery.
        "dead-by-epoch",
        "pending-is-nothing",
        "highest-version-wins",
        "epochs-go-on",
        // Loss of power: no kill can show these.
        "sync",
        "sync-before-batch",
        "sync-before-reuse",
        "sync-before-retire",
        "heal",
        "checksum",
        "pending-first",
        "state-of-version",
    ];

    /// The other rules that can be switched off: a test of the contract shows that they are (`tests/controls`).
    pub const CONTRACT_RULES: &[&str] = &[
        // When the flusher writes.
        "deadline-stays",
        "edge-only",
        "interval-is-waited-for",
        // What is bounded.
        "dirty-limit",
        "segments-come-back",
        // What is told.
        "damage-is-refused",
        "damage-is-told",
        // A hit.
        "hit-waits-for-nobody",
        "hit-takes-no-lock",
    ];

    struct Plan {
        crash_at: String,
        left: AtomicU64,
        since: String,
        stall_at: Vec<(String, u64)>,
        stall_micros: u64,
        broken: String,
        failing_syncs: AtomicU64,
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        PLAN.get_or_init(|| {
            let variable = |name| std::env::var(name).unwrap_or_default();
            let number = |name| variable(name).parse().unwrap_or(0);
            let permille = number("WRITEBACK_STALL_PERMILLE");
            let stall_at = |text: &str| match text.split_once('=') {
                Some((name, permille)) => (name.to_owned(), permille.parse().unwrap_or(0)),
                None => (text.to_owned(), permille),
            };
            let plan = Plan {
                crash_at: variable("WRITEBACK_CRASH_AT"),
                left: AtomicU64::new(number("WRITEBACK_CRASH_AFTER")),
                since: variable("WRITEBACK_CRASH_SINCE"),
                stall_at: variable("WRITEBACK_STALL_AT").split(',').map(stall_at).collect(),
                stall_micros: number("WRITEBACK_STALL_MICROS"),
                broken: variable("WRITEBACK_BROKEN_RULE"),
                failing_syncs: AtomicU64::new(number("WRITEBACK_FAILING_SYNCS")),
            };
            let known = |names: &[&str], name: &str| name.is_empty() || names.contains(&name);
            if !known(POINTS, &plan.crash_at)
                || !(known(POINTS, &plan.since) || ["stall", "own stall"].contains(&&*plan.since))
                || !plan.stall_at.iter().all(|(at, _)| known(POINTS, at) || at == "all")
                || !(known(RULES, &plan.broken) || CONTRACT_RULES.contains(&&*plan.broken))
            {
                eprintln!(
                    "writeback: no such point or rule among `{}`, `{}`, {:?}, `{}`",
                    plan.crash_at, plan.since, plan.stall_at, plan.broken
                );
                std::process::exit(2);
            }
            plan
        })
    }

    pub(crate) fn point(name: &'static str) {
        debug_assert!(POINTS.contains(&name), "{name} is not on the list of points");
        let plan = plan();
        if plan.crash_at == name && counts(plan) && plan.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            die();
        }
        if plan.since == name {
            IS_MARKED.set(true);
        }
        if let Some((_, permille)) = plan.stall_at.iter().find(|(at, _)| at == "all" || at == name) {
            stall(plan, *permille);
        }
    }

    thread_local! {
        /// This thread has done what makes its passes count.
        static IS_MARKED: Cell<bool> = const { Cell::new(false) };
        static RANDOM: Cell<u64> = const { Cell::new(0) };
    }

    /// Some thread has stalled.
    static HAS_STALLED: AtomicBool = AtomicBool::new(false);

    fn counts(plan: &Plan) -> bool {
        match &*plan.since {
            "" => true,
            "stall" => HAS_STALLED.load(Ordering::Relaxed),
            _ => IS_MARKED.get(),
        }
    }

    /// No destructor, no flush, no other thread's next step.
    fn die() {
        #[cfg(unix)]
        // SAFETY: two plain system calls.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
        // Where there is no such signal; and a signal to oneself has arrived when `kill` returns.
        std::process::abort();
    }

    fn stall(plan: &Plan, permille: u64) {
        let mut random = RANDOM.get();
        if random == 0 {
            // Different in each thread and each life.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            random =
                now.map_or(1, |now| now.as_nanos() as u64) ^ std::ptr::from_ref(&random).addr() as u64 | 1;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        RANDOM.set(random);
        if (random >> 20) % 1000 < permille {
            // Asleep, so that others get to run, also on one core.
            std::thread::sleep(Duration::from_micros((random >> 40) % plan.stall_micros.max(1)));
            HAS_STALLED.store(true, Ordering::Relaxed);
            if plan.since == "own stall" {
                IS_MARKED.set(true);
            }
        }
    }

    pub(crate) fn broken(rule: &'static str) -> bool {
        debug_assert!(
            RULES.contains(&rule) || CONTRACT_RULES.contains(&rule),
            "{rule} is not on a list of rules"
        );
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

#[cfg(all(test, feature = "faults", not(crossbeam_loom)))]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    /// Every name in the source is on its list, and everything on a list is in the source.
    #[test]
    fn the_lists_name_what_the_source_names() {
        let (mut points, mut rules) = (BTreeSet::new(), BTreeSet::new());
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |text| {
            for (call, found) in [("fault::point(\"", &mut points), ("fault::broken(\"", &mut rules)] {
                let names = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(str::to_owned));
            }
        });
        let listed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(points, listed(super::POINTS));
        assert_eq!(rules, listed(&[super::RULES, super::CONTRACT_RULES].concat()));
    }

    fn collect(folder: &Path, found: &mut impl FnMut(&str)) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.file_name().is_some_and(|name| name != "fault.rs") {
                found(&fs::read_to_string(&path).unwrap());
            }
        }
    }
}
