//! Chaos: whatever befalls the database, at the end it holds what was acknowledged, and nothing else.
//!
//! The long form of the same thing is `examples/chaos.rs`. Needs the servers that `.ci/servers` starts; those that are not there are
//! skipped, and it says so. `WRITEBACK_SERVERS` (from there too) allows it to kill them.

#[path = "chaos/mod.rs"]
#[allow(dead_code, reason = "the long form has a plan of its own")]
mod harness;

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use harness::{Plan, Sabotage, SqliteFile, Subject};

/// The memory of a process is one, so its runs take turns.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn nothing_is_lost() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let subjects = harness::present(folder.path()).unwrap();
    let run = harness::run(&Plan::short(), subjects).unwrap();
    println!("{}", run.text);
    assert!(run.findings.is_empty(), "{}", told(&run.findings));
}

/// Each check is shown something that it has to notice.
#[test]
fn each_check_would_notice() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (leak, others): (Vec<_>, Vec<_>) =
        Sabotage::ALL.into_iter().partition(|(_, sabotage, _)| *sabotage == Sabotage::Leak);
    // Memory is the whole process's, so whoever grows has to be alone.
    for together in [others, leak] {
        thread::scope(|scope| {
            for (name, sabotage, _) in together {
                scope.spawn(move || control(name, sabotage));
            }
        });
    }
}

fn control(name: &str, sabotage: Sabotage) {
    let folder = tempfile::tempdir().unwrap();
    let subject: Arc<dyn Subject> = Arc::new(SqliteFile::at(&folder.path().join("chaos.db")).unwrap());
    let run = harness::run(&Plan::control(sabotage), vec![subject]).unwrap();
    let check = sabotage.noticed_by();
    match run.findings.iter().find(|finding| finding.check == check) {
        Some(finding) => println!("{name}: {}", finding.to_string().lines().next().unwrap_or_default()),
        None => panic!("{name} was not noticed by the check {check:?}: {}", told(&run.findings)),
    }
}

fn told(findings: &[harness::Finding]) -> String {
    findings.iter().map(|finding| format!("\n{finding}")).collect()
}
