//! Everything, into one document.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    AnyError, durable, hit_ratio, memory,
    report::{Part, Section, machine},
    speed, tail, traces, write_back,
};

/// How, and where to.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// About a minute instead of ten: fewer rounds, so more noise.
    #[arg(long)]
    quick: bool,
    /// The document; its plots go into a folder of the same name beside it.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md"), hide_default_value = true)]
    out: PathBuf,
}

pub(crate) fn run(options: &Options, folder: &Path, data: &Path) -> Result<(), AnyError> {
    // What it was before anything is measured.
    let (machine, versions) = (machine::machine(), machine::versions());
    let rounds = |full: usize, quick: usize| if options.quick { quick } else { full };
    let mut sections = Vec::new();
    let mut add = |what: &str, section: Result<Section, AnyError>| -> Result<(), AnyError> {
        let section = section?;
        section.print();
        sections.push(section);
        traces::progress(&format!("done: {what}"));
        Ok(())
    };
    let slice = if options.quick { vec![5] } else { vec![5, 1, 20] };
    let speed = speed::Options { rounds: rounds(60, 10), slice, ..speed::Options::default() };
    add("speed", Ok(speed::run(&speed, folder)))?;
    let tail = tail::Options { keys: 1_000_000, rounds: rounds(30, 3), slice: 50 };
    add("latency", Ok(tail::run(&tail, folder)))?;
    let durable = durable::Options { keys: 100_000, rounds: rounds(15, 2), slice: 50 };
    add("durable writes", durable::run(&durable, folder))?;
    add("memory", memory::run(&memory::Options::new(1_000_000), folder))?;
    if data.is_dir() {
        add("hit ratio", hit_ratio::run(&hit_ratio::Options::default(), data))?;
        add("write-back", write_back::run(&write_back::Options::default(), data))?;
    } else {
        eprintln!("skipped: no traces in {}", data.display());
    }

    let name = options.out.file_stem().unwrap_or_default().to_string_lossy();
    let plots = options.out.with_extension("");
    let mut text = format!(
        "# Benchmarks\n\nThis file is written by one command, in the folder `comparison`, which measures all subjects in one process, in turns:\n\n\
         ```sh\ncargo run --release -- all{}\n```\n\nOnly ratios carry over to other machines. Each chapter names the command that makes it \
         alone.\n\n{}\n{}\n",
        if options.quick { " --quick" } else { "" },
        machine.markdown().trim_start(),
        versions.markdown().trim_start(),
    );
    for section in &sections {
        text += &section.markdown(&name);
        for part in &section.parts {
            if let Part::Plot(plot) = part {
                plot.write(&plots)?;
            }
        }
    }
    fs::write(&options.out, text.trim_end().to_owned() + "\n")?;
    println!("{} and the plots in {} are written", options.out.display(), plots.display());
    Ok(())
}
