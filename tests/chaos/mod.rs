//! Eight writers over a database to which everything happens: it is killed, out of reach, hangs, is locked, ends connections,
//! has deadlocks, and one call in ten fails; and at the end all of what was acknowledged is there.
//!
//! A [trial](Trial) is one database (a [subject]) behind a [gate], which counts and lets calls fail, under a cache with a
//! journal. [Writers](writer) work by a [model] that knows what has to be where; the [weather] decides what goes wrong; a
//! [watch] looks that nobody is stuck and nothing grows; the [verdict] is given when all has come to rest. That each check would
//! notice something is shown by a [sabotage](plan::Sabotage) of each.

mod gate;
mod ledger;
mod memory;
mod model;
mod plan;
mod proxy;
mod random;
mod report;
mod saboteur;
mod subject;
mod told;
mod trial;
mod verdict;
mod watch;
mod weather;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

pub(crate) use self::{
    ledger::{Check, Finding},
    plan::{Plan, Sabotage},
    subject::{PostgresServer, RedisServer, SqliteFile, Subject, Trouble},
};
use self::{
    memory::Memory,
    report::{Report, Table},
    trial::{Outcome, Trial},
};

/// What a run came to.
pub(crate) struct Run {
    pub(crate) findings: Vec<Finding>,
    /// The figures.
    pub(crate) text: String,
}

/// Some databases at the same time, each with a cache and writers of its own.
pub(crate) fn run(plan: &Plan, subjects: Vec<Arc<dyn Subject>>) -> Result<Run, Trouble> {
    let trials =
        subjects.into_iter().map(|subject| Trial::of(subject, plan)).collect::<Result<Vec<_>, _>>()?;
    let working = Arc::new(AtomicUsize::new(trials.len()));
    let all = trials.len();
    let threads: Vec<_> = trials
        .into_iter()
        .map(|trial| {
            let working = Arc::clone(&working);
            let is_calm = move || {
                working.fetch_sub(1, Ordering::SeqCst);
            };
            thread::spawn(move || trial.run(is_calm))
        })
        .collect();
    let mut memory = Memory::new();
    // What the comparison at the end needs does not count.
    while working.load(Ordering::SeqCst) == all && !threads.iter().any(thread::JoinHandle::is_finished) {
        memory.look();
        thread::sleep(memory::PAUSE);
    }
    let (mut findings, mut reports) = (Vec::new(), Vec::<Report>::new());
    for thread in threads {
        let Outcome { findings: some, report } = thread.join().map_err(|_| "a trial has panicked")??;
        findings.extend(some);
        reports.push(report);
    }
    let mut text = Table(&reports).to_string();
    match memory.course() {
        Some(course) => {
            text.push_str(&format!("{course}\n"));
            if let Err(what) = course.verdict() {
                findings.push(Finding { check: Check::Memory, what });
            }
        }
        None => text.push_str("memory: skipped: this system does not tell, or the run was too short\n"),
    }
    Ok(Run { findings, text })
}

/// The databases that there are, and why there are no others.
pub(crate) fn present(folder: &std::path::Path) -> Result<Vec<Arc<dyn Subject>>, Trouble> {
    let mut subjects: Vec<Arc<dyn Subject>> = Vec::new();
    match std::env::var("WRITEBACK_POSTGRES") {
        Ok(address) => subjects.push(Arc::new(PostgresServer::at(&address)?)),
        Err(_) => eprintln!("skipped: WRITEBACK_POSTGRES names no server (.ci/servers starts one)"),
    }
    match std::env::var("WRITEBACK_REDIS") {
        Ok(address) => subjects.push(Arc::new(RedisServer::at(&address)?)),
        Err(_) => eprintln!("skipped: WRITEBACK_REDIS names no server (.ci/servers starts one)"),
    }
    subjects.push(Arc::new(SqliteFile::at(&folder.join("chaos.db"))?));
    Ok(subjects)
}
