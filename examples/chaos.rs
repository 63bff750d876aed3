//! The chaos test, as long as you like: everything befalls the database, and nothing acknowledged is lost.
//!
//! ```sh
//! eval "$(.ci/servers start DIR)"
//! cargo run --release --features cli --example chaos -- --minutes 10 --seed 1
//! cargo run --release --features cli --example chaos -- --minutes 1 --backend sqlite:chaos.db --sabotage drop-batch
//! ```
//!
//! `docs/reliability.md` says what it checks and what it has found.

#[path = "../tests/chaos/mod.rs"]
#[allow(dead_code, reason = "the short form has plans of its own")]
mod harness;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use harness::{Plan, PostgresServer, RedisServer, Sabotage, SqliteFile, Subject, Trouble};

/// Eight writers over a database to which everything happens.
#[derive(Debug, Parser)]
struct Options {
    /// How long things go wrong
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,

    /// Decides what goes wrong, and in which order
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// postgres://…, redis://… or sqlite:FILE; may be given several times [default: SQLite, and the servers that WRITEBACK_POSTGRES
    /// and WRITEBACK_REDIS name]
    #[arg(long, value_name = "ADDRESS")]
    backend: Vec<String>,

    /// Operations in a second, of all writers of a database together
    #[arg(long, value_name = "N")]
    pace: Option<u64>,

    /// Break a promise on purpose, to see whether it is noticed
    #[arg(long, value_name = "NAME", value_parser = Sabotage::ALL.map(|(name, ..)| name))]
    sabotage: Option<String>,
}

fn subject(address: &str) -> Result<Arc<dyn Subject>, Trouble> {
    Ok(match address.split_once(':') {
        Some(("postgres" | "postgresql", _)) => Arc::new(PostgresServer::at(address)?),
        Some(("redis", _)) => Arc::new(RedisServer::at(address)?),
        Some(("sqlite", file)) => Arc::new(SqliteFile::at(Path::new(file))?),
        _ => return Err(format!("`{address}` is none of postgres://…, redis://…, sqlite:FILE").into()),
    })
}

fn run(options: &Options) -> Result<bool, Trouble> {
    let length = Duration::try_from_secs_f64(options.minutes * 60.0)?;
    let mut plan = Plan::long(length, options.seed);
    plan.pace = options.pace.unwrap_or(plan.pace);
    let named = Sabotage::ALL.iter().find(|(name, ..)| Some(*name) == options.sabotage.as_deref());
    plan.sabotage = named.map(|(_, sabotage, _)| *sabotage);
    let folder = tempfile::tempdir()?;
    let subjects = match &options.backend[..] {
        [] => harness::present(folder.path())?,
        backends => backends.iter().map(|address| subject(address)).collect::<Result<_, _>>()?,
    };
    let run = harness::run(&plan, subjects)?;
    println!("{}", run.text);
    for finding in &run.findings {
        println!("FAILED: {finding}");
    }
    Ok(run.findings.is_empty())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
