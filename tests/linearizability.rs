//! Eight million recorded operations and the crashes between them, and, with the feature `faults`, errors that must be found.
//!
//! `examples/linearizability.rs` is the same, as long as you like. It has a main of its own: its children are this binary.

#[path = "linearizability/mod.rs"]
mod harness;

use std::process::ExitCode;

use harness::Plan;

/// Rules of the journal, each of which keeps a history linearizable.
#[cfg(feature = "faults")]
const CONTROLS: [&str; 6] = [
    "put-makes-live",
    "update-expects-version",
    "copy-before-retire",
    "forget-after-retired",
    "clean-exact-version",
    "superseded-is-queued",
];

fn main() -> ExitCode {
    harness::be_a_child_if_told();
    let run = match harness::run(&Plan { operations: 8_000_000, seed: 1 }) {
        Ok(run) => run,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", run.text);
    run.findings.iter().for_each(|finding| println!("FAILED: {finding}"));
    let is_noticed = controls();
    if run.findings.is_empty() && is_noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "faults"))]
fn controls() -> bool {
    true
}

/// Whether each rule is missed when it is left out.
#[cfg(feature = "faults")]
fn controls() -> bool {
    let is_noticed = |rule: &&str| {
        // SAFETY: there is one thread, and this process has no cache that could read it; its children have.
        unsafe { std::env::set_var("WRITEBACK_BROKEN_RULE", rule) };
        let found = match harness::run(&Plan { operations: 20_000_000, seed: 1 }) {
            Ok(run) => run.findings.into_iter().next(),
            Err(error) => Some(error.to_string()),
        };
        let noticed = found.as_deref().is_some_and(|found| !found.starts_with("this never happened"));
        let what: String = found.unwrap_or_else(|| "NOT NOTICED".to_owned()).chars().take(110).collect();
        println!("without {rule}: {what}");
        noticed
    };
    // Each is tried, also after one that was not noticed.
    CONTROLS.iter().filter(|rule| !is_noticed(rule)).count() == 0
}
