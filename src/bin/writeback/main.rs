//! The command-line tool `writeback`: see the engine at work, or count real events with it.
//!
//! Each command ends with a verdict: what the database holds, read without the cache, against what the cache
//! has acknowledged.

mod column;
mod count;
mod crash;
mod database;
mod dead_letters;
mod demo;
mod drain;
mod failure;
mod feed;
mod format;
mod input;
mod interrupt;
mod journal;
mod latency;
mod options;
mod record;
mod report;
mod verify;
mod view;
mod words;
mod writer;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{count::Count, dead_letters::DeadLetters, demo::Demo, failure::Failure, journal::Journal};

const EXIT_CODES: &str = "\
Exit codes:
  0    the database holds exactly what was acknowledged
  1    the database does not match; `journal verify`: something is damaged
  2    wrong usage, or an input, a journal or a database that cannot be used
  3    the database did not take everything in time
  130  interrupted before the work was done

Ctrl-C (or SIGTERM) stops the work, writes what was acknowledged, and still gives the verdict.
A second one quits at once.";

/// A write-back cache at work.
///
/// Writes are acknowledged from memory and reach the database later, coalesced and in batches. Each command ends with a
/// verdict: the database is read back without the cache and compared with what was acknowledged.
#[derive(Debug, Parser)]
#[command(name = "writeback", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(Demo),
    Count(Count),
    Journal(Journal),
    DeadLetters(DeadLetters),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match run(command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Result<u8, Failure> {
    // What the others do is short, or safe to be cut short: a signal ends them at once.
    if !matches!(command, Command::Journal(_) | Command::DeadLetters(_)) {
        interrupt::listen()?;
    }
    match command {
        Command::Demo(demo) => demo.start(),
        Command::Count(count) => {
            let json = count.json();
            let report = count.run()?;
            report.print(json)?;
            Ok(report.exit_code())
        }
        Command::Journal(journal) => journal.run(),
        Command::DeadLetters(letters) => letters.run(),
    }
}

/// A line for the user. That nobody can read it is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
