//! Kills: nothing acknowledged is lost, nothing read is rolled back, nothing older goes over something newer.
//!
//! The long mode of the same thing is `examples/crash.rs`. With its own `main`, because the children are this binary.

#[path = "../examples/crash/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the long mode has a command line, and this has none")]
mod harness;

use std::{env, process::ExitCode};

use harness::Options;

fn main() -> ExitCode {
    harness::be_a_child_if_told();
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("kills: test\ncontrols: test");
        return ExitCode::SUCCESS;
    }
    // As the test harness does it: any of the words in the name of the test.
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut failed = false;
    if wanted("kills") {
        failed |= !kills();
    }
    if wanted("controls") {
        failed |= !controls();
    }
    ExitCode::from(u8::from(failed))
}

fn kills() -> bool {
    // Everything happens to have happened by then; a debug build is slower.
    let kills = if cfg!(debug_assertions) { 500 } else { 2_000 };
    match harness::run(&Options { kills, ..Options::default() }) {
        Ok(tally) => {
            println!("kills: {tally}");
            let zeros = tally.zeros();
            for zero in &zeros {
                println!("kills: never happened: {zero}");
            }
            zeros.is_empty()
        }
        Err(failure) => {
            println!("kills: FAILED after {} kills: {}", failure.kills, failure.what.join("\n  "));
            false
        }
    }
}

/// Each rule that a kill can show is left out, and must be missed.
fn controls() -> bool {
    match harness::run_controls(1) {
        Ok(table) => {
            println!("controls:\n{table}");
            true
        }
        Err(table) => {
            println!("controls: FAILED\n{table}");
            false
        }
    }
}
