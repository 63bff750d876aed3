//! Chaos: whatever befalls the database, at the end it holds what was acknowledged, and nothing else.
//!
//! The long form of the same thing is `examples/chaos.rs`. Needs the servers that `.ci/servers` starts; those that are not there are
//! skipped, and it says so. `WRITEBACK_SERVERS` (from there too) allows it to kill them.

#[path = "chaos/mod.rs"]
#[allow(dead_code, reason = "the long form has a plan of its own")]
mod harness;

use std::sync::{Arc, Mutex, PoisonError};

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

#[test]
fn each_check_would_notice() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, sabotage, check) in Sabotage::ALL {
        let folder = tempfile::tempdir().unwrap();
        let subject: Arc<dyn Subject> = Arc::new(SqliteFile::at(&folder.path().join("chaos.db")).unwrap());
        let run = harness::run(&Plan::control(sabotage), vec![subject]).unwrap();
        let noticed = run.findings.iter().find(|finding| finding.check == check);
        match noticed {
            Some(finding) => println!("{name}: {}", finding.to_string().lines().next().unwrap_or_default()),
            None => panic!("{name} was not noticed by the check {check:?}: {}", told(&run.findings)),
        }
    }
}

fn told(findings: &[harness::Finding]) -> String {
    findings.iter().map(|finding| format!("\n{finding}")).collect()
}
