//! What survives a loss of power.
//!
//! Two ways to find out. The *enumerator* records what a real cache writes into its journal and in which order it syncs, and
//! reads every mixture of old and new sectors that a loss of power may have left (`states.rs`). The *cuts* shut a file
//! system down under a running process and mount it again (`cuts.rs`). Each has controls: the same with one protective
//! rule of the journal switched off, which must be noticed.
//!
//! ```text
//! cargo test --release --features sqlite,faults --test power
//! cargo run --release --features sqlite,faults --example power -- --states 10000000 --cuts 1000
//! ```

mod cuts;
mod states;
mod workload;

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use states::{Before, Breadth, Counts, Sample, Walk};
use workload::{KEYS, NEVER, PLANS, Plan, Rows, Run};

/// Rules of the journal that can be switched off, the workload that has to notice it, and what it means.
const CONTROLS: [(&str, &str, &str); 8] = [
    ("sync", "mixed", "a synced ack without a sync"),
    ("sync-before-batch", "mixed", "the backend is given what is not on the disk yet"),
    ("sync-before-reuse", "reuse", "space is used again before the retired epoch is on the disk"),
    ("sync-before-retire", "copies", "an epoch is retired before the copies are on the disk"),
    ("checksum", "mixed", "records are believed without their checksum"),
    ("state-of-version", "contended", "the state is not mixed with the version"),
    ("pending-first", "contended", "as the last, and it is that of an older lap until the record is live"),
    ("heal", "failing sync", "after a failed sync the next one is believed"),
];

/// A folder on a file system in memory, where there is one: the recording says what is durable, not the disk.
fn folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// What the enumerator has done.
#[derive(Default)]
struct Total {
    counts: Counts,
    events: u64,
    runs: u64,
    second_lives: u64,
    opened: u64,
    /// Copies, retired epochs, lost attempts, failed syncs, growths.
    happened: [u64; 5],
}

impl Total {
    fn add(&mut self, run: &Run, walk: &Walk<'_>) {
        self.counts += walk.counts;
        self.events += run.tape.events.len() as u64;
        self.runs += 1;
        for (sum, count) in self.happened.iter_mut().zip(run.counts) {
            *sum += count;
        }
    }
}

fn report(plan: &Plan, seed: u64, run: &Run, walk: &Walk<'_>, at: usize, what: &str) -> String {
    if std::env::var_os("POWER_TRACE").is_some() {
        for (index, event) in run.tape.events.iter().enumerate().take(at + 1).skip(at.saturating_sub(400)) {
            eprintln!("{index}: {event:x?}");
        }
    }
    format!(
        "workload {:?}, seed {seed}, event {at} of {}, after {} states: {what}",
        plan.name,
        run.tape.events.len(),
        walk.counts.states
    )
}

/// Runs one workload and tries its crash states; then goes on from some of them. `Err`: a promise was broken.
fn enumerate(plan: &Plan, seed: u64, breadth: Breadth, limit: u64, total: &mut Total) -> Result<(), String> {
    let folder = folder();
    let path = folder.path().join("power.journal");
    let rows = Arc::new(Rows::new(HashMap::new(), plan.longest));
    let run = workload::run(plan, seed, &path, &rows);
    let is_lax = plan.sync == writeback::JournalSync::Never;
    let before = Before { synced: [0; KEYS], stored: [0; KEYS], is_lax };
    let mut walk = Walk::new(&run, plan.longest, breadth, before, seed, 3);
    let walked = walk.walk(limit);
    total.add(&run, &walk);
    if let Err(conviction) = walked {
        return Err(report(plan, seed, &run, &walk, conviction.event, &conviction.what));
    }
    for (index, sample) in walk.samples.iter().enumerate() {
        second_life(plan, seed * 7 + index as u64, breadth, limit / 8, &run, sample, total)?;
    }
    Ok(())
}

/// Opens a journal as a loss of power has left it, looks into the cache, goes on, and loses power once more.
fn second_life(
    plan: &Plan,
    seed: u64,
    breadth: Breadth,
    limit: u64,
    first: &Run,
    sample: &Sample,
    total: &mut Total,
) -> Result<(), String> {
    let plan = &Plan { operations: 30, ..*plan };
    let folder = folder();
    let path = folder.path().join("power.journal");
    let mut image = sample.image.clone();
    // Another boot.
    image[449 * 8] ^= 0x55;
    std::fs::write(&path, &image).unwrap();
    let row = |(key, &version): (usize, &u64)| {
        let number = *first.happened[key].get(&version)?;
        Some((key as u64, (number != 0).then(|| workload::value(number, plan.longest))))
    };
    let stored = || sample.stored.iter().enumerate().filter_map(row).collect::<HashMap<_, _>>();
    let rows = Arc::new(Rows::new(stored(), plan.longest));
    rows.is_down.store(true, std::sync::atomic::Ordering::Relaxed);
    let wide = Plan { capacity: plan.capacity.max(KEYS), ..*plan };
    let cache = workload::open(&wide, &path, &rows).map_err(|error| {
        format!("workload {:?}: a state that recovery can read does not open: {error}", plan.name)
    })?;
    total.opened += 1;
    for (key, &(version, number)) in sample.recovered.iter().enumerate() {
        let expected = match version {
            0 => stored().get(&(key as u64)).cloned().flatten(),
            _ => (number != 0).then(|| workload::value(number, plan.longest)),
        };
        let got = cache.get(&(key as u64)).unwrap();
        if got != expected {
            return Err(format!("workload {:?}: key {key} of a reopened journal is {got:?}", plan.name));
        }
    }
    let _ = cache.close(Duration::ZERO);
    drop(cache);
    // Anew, from the same state: the look above has been an owner, too.
    let path = folder.path().join("again.journal");
    std::fs::write(&path, &image).unwrap();
    let rows = Arc::new(Rows::new(stored(), plan.longest));
    let mut run = workload::run(plan, seed, &path, &rows);
    let mut before = Before { synced: [0; KEYS], stored: sample.stored, is_lax: false };
    for (key, &(version, number)) in sample.recovered.iter().enumerate() {
        // On the disk already.
        before.synced[key] = version;
        if version != 0 {
            run.happened[key].insert(version, number);
        }
    }
    before.is_lax = plan.sync == writeback::JournalSync::Never;
    let mut walk = Walk::new(&run, plan.longest, breadth, before, seed, 0);
    let walked = walk.walk(limit);
    total.add(&run, &walk);
    total.second_lives += 1;
    walked.map_err(|conviction| {
        format!("second life: {}", report(plan, seed, &run, &walk, conviction.event, &conviction.what))
    })
}

/// Tries at least so many states, in all workloads.
fn enumerate_all(states: u64, breadth: Breadth) -> Total {
    let mut total = Total::default();
    let (start, mut seed) = (Instant::now(), 0);
    let plans: Vec<&Plan> = PLANS.iter().chain([&NEVER]).collect();
    let mut said = Instant::now();
    while total.counts.states < states {
        for plan in &plans {
            seed += 1;
            let limit = (states / plans.len() as u64).clamp(1_000, 2_000_000);
            if let Err(what) = enumerate(plan, seed, breadth, limit, &mut total) {
                panic!("a loss of power breaks a promise: {what}");
            }
            if std::env::var_os("POWER_TRACE").is_some() {
                println!(
                    "  {} {:?}: {} states, {:.1?}",
                    seed,
                    plan.name,
                    total.counts.states,
                    start.elapsed()
                );
            }
            if said.elapsed() > Duration::from_secs(20) {
                said = Instant::now();
                println!("  {} states after {:.0?}", total.counts.states, start.elapsed());
            }
        }
    }
    let Total { counts, events, runs, second_lives, opened, happened } = &total;
    let rate = counts.states as f64 / start.elapsed().as_secs_f64();
    println!(
        "enumerator: {} crash states at {} points of {runs} runs ({second_lives} of them second lives, {events} events), \
         in {:.1?}: {rate:.0} states/s; 0 promises broken",
        counts.states,
        counts.points,
        start.elapsed()
    );
    println!(
        "  exhausted points {}, widest point {} sectors, states with holes or torn tails {}, read as a whole {}, opened by \
         a cache {opened}",
        counts.exhausted, counts.widest, counts.torn, counts.whole
    );
    let [copies, retired, lost, failed, grown] = happened;
    println!(
        "  copies {copies}, epochs retired {retired}, lost attempts {lost}, failed syncs {failed}, growths {grown}"
    );
    let all = [counts.exhausted, counts.torn, counts.whole, *opened, *second_lives];
    for count in all.iter().chain(happened) {
        assert!(*count > 0, "something that this is about has not happened");
    }
    total
}

/// In a process in which a rule is switched off: looks until that is noticed.
fn control(states: u64, name: &str) -> i32 {
    let plan = PLANS.iter().find(|plan| plan.name == name).expect("a workload of this name");
    let mut total = Total::default();
    let breadth = Breadth { all: 128, random: 24 };
    let mut seed = 1_000;
    while total.counts.states < states {
        seed += 1;
        if let Err(what) = enumerate(plan, seed, breadth, 400_000, &mut total) {
            println!("noticed after {} states: {what}", total.counts.states);
            return 0;
        }
    }
    println!("not noticed in {} states", total.counts.states);
    3
}

/// This program, to be run once more.
fn myself() -> Command {
    Command::new(std::env::current_exe().expect("this program has a path"))
}

fn controls(states: u64) {
    let mut missed = Vec::new();
    for (rule, plan, meaning) in CONTROLS {
        let start = Instant::now();
        let child = myself()
            .args(["--control", &states.to_string(), plan])
            .env("WRITEBACK_BROKEN_RULE", rule)
            .output()
            .expect("a second process");
        let said = String::from_utf8_lossy(&child.stdout);
        let complained = String::from_utf8_lossy(&child.stderr);
        println!("control {rule} ({meaning}), {:.1?}: {}", start.elapsed(), said.trim_end());
        if !child.status.success() || !said.contains("noticed after") {
            eprintln!("{complained}");
            missed.push(rule);
        }
    }
    assert!(missed.is_empty(), "rules that were switched off without anybody noticing: {missed:?}");
}

/// The number after an option.
fn option(arguments: &[String], name: &str) -> Option<u64> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

/// Everything, in the form that the arguments ask for.
pub(crate) fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    if let Some(states) = option(&arguments, "--control") {
        let plan = arguments.last().map_or("", String::as_str);
        std::process::exit(control(states, plan));
    }
    if let [_, mode, journal, memory] = arguments.as_slice()
        && mode == "--cut-child"
    {
        cuts::child(journal.as_ref(), memory.as_ref());
    }
    let (states, cuts) = (option(&arguments, "--states"), option(&arguments, "--cuts"));
    let breadth = match states {
        // Wider where there is time.
        Some(states) if states > 2_000_000 => Breadth { all: 256, random: 24 },
        _ => Breadth { all: 16, random: 4 },
    };
    let start = Instant::now();
    enumerate_all(states.unwrap_or(500_000), breadth);
    controls(6_000_000);
    cuts::cut_all(cuts.unwrap_or(40));
    println!("done in {:.1?}", start.elapsed());
}
