//! The command line of the long mode.

use std::{path::PathBuf, process::ExitCode};

use writeback::faults::{POINTS, RULES};

use super::{controls, life::Database, parent};

/// What a run does.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) kills: u64,
    pub(crate) seed: u64,
    /// How many tables to work on at a time.
    pub(crate) jobs: u64,
    pub(crate) databases: Vec<Database>,
    /// Die only there.
    pub(crate) point: Option<&'static str>,
    /// Leave this rule out.
    pub(crate) rule: Option<&'static str>,
    pub(crate) expect_failure: bool,
    /// Break each rule in turn instead.
    pub(crate) controls: bool,
    /// Where the files are made; by default in memory, if there is such a place.
    pub(crate) folder: Option<PathBuf>,
    /// Tell how far it is.
    pub(crate) progress: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            kills: 2_000,
            seed: 1,
            jobs: 1,
            databases: vec![Database::Table, Database::Sqlite],
            point: None,
            rule: None,
            expect_failure: false,
            controls: false,
            folder: None,
            progress: false,
        }
    }
}

const USAGE: &str = "options: --kills N, --seed N, --jobs N, --backend table|sqlite|both, --point NAME|all, --rule NAME, \
                     --expect-failure, --controls, --folder PATH, --list";

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Options { progress: true, ..Options::default() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
            match argument.as_str() {
                "--kills" => options.kills = number(value()?)?,
                "--jobs" => options.jobs = number(value()?)?,
                "--seed" => options.seed = number(value()?)?,
                "--folder" => options.folder = Some(value()?.into()),
                "--expect-failure" => options.expect_failure = true,
                "--controls" => options.controls = true,
                "--backend" => {
                    options.databases = match value()?.as_str() {
                        "table" => vec![Database::Table],
                        "sqlite" => vec![Database::Sqlite],
                        "both" => vec![Database::Table, Database::Sqlite],
                        other => return Err(format!("no such backend: {other}")),
                    }
                }
                "--point" => {
                    let name = value()?;
                    if name != "all" {
                        options.point = Some(listed(POINTS, &name)?);
                    }
                }
                "--rule" => options.rule = Some(listed(RULES, &value()?)?),
                "--list" => return Err(format!("points: {POINTS:#?}\nrules: {RULES:#?}")),
                _ => return Err(format!("unknown: {argument}\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn listed(names: &[&'static str], name: &str) -> Result<&'static str, String> {
    names
        .iter()
        .copied()
        .find(|known| *known == name)
        .ok_or_else(|| format!("`{name}` is none of {names:#?}"))
}

/// The long mode.
pub(crate) fn command_line() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    if options.controls {
        return match controls::run_all(options.seed) {
            Ok(table) => {
                println!("{table}");
                ExitCode::SUCCESS
            }
            Err(table) => {
                println!("FAILED: {table}");
                ExitCode::FAILURE
            }
        };
    }
    let outcome = parent::run(&options);
    let failed = match &outcome {
        Ok(tally) => {
            println!("{tally}");
            // One point, or a broken rule, leaves much of it at zero.
            let vacuous =
                if options.point.is_some() || options.rule.is_some() { Vec::new() } else { tally.zeros() };
            for zero in &vacuous {
                println!("FAILED: never happened: {zero}");
            }
            !vacuous.is_empty()
        }
        Err(failure) => {
            println!("FAILED after {} kills: {}", failure.kills, failure.what.join("\n  "));
            true
        }
    };
    if failed == options.expect_failure { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
