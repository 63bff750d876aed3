//! Recorded histories with crashes, as long as you like.
//!
//! ```sh
//! cargo run --release --example linearizability -- --operations 100000000 --seed 7
//! ```
//!
//! `docs/reliability.md` says what it checks and what it has found.

#[path = "../tests/linearizability/mod.rs"]
mod harness;

use std::process::ExitCode;

use harness::Plan;

fn plan() -> Option<Plan> {
    let mut plan = Plan { operations: 100_000_000, seed: 1 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let number = arguments.next()?.parse().ok()?;
        match &*name {
            "--operations" => plan.operations = number,
            "--seed" => plan.seed = number,
            _ => return None,
        }
    }
    Some(plan)
}

fn main() -> ExitCode {
    harness::be_a_child_if_told();
    let Some(plan) = plan() else {
        eprintln!("usage: linearizability [--operations N] [--seed N]");
        return ExitCode::from(2);
    };
    match harness::run(&plan) {
        Ok(run) => {
            println!("{}", run.text);
            run.findings.iter().for_each(|finding| println!("FAILED: {finding}"));
            if run.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
