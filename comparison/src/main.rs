//! Measures writeback beside its peers.

mod all;
mod door;
mod durable;
mod hit_ratio;
mod memory;
mod pages;
mod quantile;
mod report;
mod speed;
mod subjects;
mod tail;
mod traces;
mod turns;
mod workload;
mod write_back;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures writeback beside its peers: all in one process, in turns.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where files of databases and journals go while they are measured. Default: here.
    #[arg(long, global = true, default_value = ".")]
    disk: PathBuf,
    /// The folder with the traces `hit-ratio` and `write-back`. Default: `../shared/data` beside the checkout.
    #[arg(long, global = true, default_value = traces::BESIDE, hide_default_value = true)]
    data: PathBuf,
    /// Leaves the choice of pages to the system. Default: the allocator asks for huge ones, for all subjects.
    #[arg(long, global = true)]
    system_pages: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Throughput of gets and puts beside an array of atomics.
    Speed(speed::Options),
    /// Latencies of single operations, up to p99.99.
    Tail(tail::Options),
    /// Bytes for each entry at full capacity.
    Memory(memory::Options),
    /// Durable writes beside embedded databases.
    Durable(durable::Options),
    /// Hit ratios on traces.
    HitRatio(hit_ratio::Options),
    /// Backend writes on traces of reads and writes.
    WriteBack(write_back::Options),
    /// All of these, into `docs/benchmarks.md`.
    All(all::Options),
}

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let arguments = Arguments::parse();
    if !arguments.system_pages {
        pages::make_huge();
    }
    let folder = tempfile::Builder::new().prefix("comparison-").tempdir_in(&arguments.disk)?;
    let (folder, data) = (folder.path(), &arguments.data);
    let section = match arguments.command {
        Command::Speed(options) => speed::run(&options, folder),
        Command::Tail(options) => tail::run(&options, folder),
        Command::Durable(options) => durable::run(&options, folder)?,
        Command::Memory(options) => memory::run(&options, folder)?,
        Command::HitRatio(options) => hit_ratio::run(&options, data)?,
        Command::WriteBack(options) => write_back::run(&options, data)?,
        Command::All(options) => return all::run(&options, folder, data),
    };
    section.print();
    Ok(())
}
