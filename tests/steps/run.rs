//! Which operations are killed where, and what has to have happened at least.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use crate::{
    life::{self, Operation, SCENARIOS, Scenario, Shape, USUAL},
    page::{ACKED, BEGUN, Image, Page},
    sweep::{Bench, Moment, Start, Tally, Walk, Ways, kill_at, recovered, walk},
    tracer::{mark, stay_on_one_core},
};

/// In the short form a put or a remove of at most so many instructions has a child killed at each of them; without the
/// compiler's optimisations they are longer. In the long form every operation has.
const KILLED_AT_EACH: usize = 6_000;
/// About so many children are killed for each of the others.
const SAMPLE: usize = 600;
/// So many instructions after each entry into a system call and each return from one, recoveries are killed.
const NEAR_CALLS: (usize, usize) = (2, 120);

/// Rules that a build with faults can leave out, and the protocol whose kills show that.
const MUTANTS: [(&str, &str); 3] =
    [("head-before-body", "put"), ("put-makes-live", "put"), ("copy-before-retire", "copy")];

/// What is asked for.
struct Plan {
    is_full: bool,
    only: Option<String>,
    /// The rule that is left out: in the short form nothing but walks.
    mutant: Option<String>,
}

impl Plan {
    fn read() -> Option<Plan> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        if has("--list") {
            return None;
        }
        let only = arguments.iter().position(|argument| argument == "--only");
        Some(Plan {
            is_full: has("--full") || env::var_os("WRITEBACK_STEPS_FULL").is_some(),
            only: only.and_then(|at| arguments.get(at + 1)).cloned(),
            mutant: env::var("WRITEBACK_BROKEN_RULE").ok().filter(|rule| !rule.is_empty()),
        })
    }

    fn wants(&self, protocol: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == protocol)
    }
}

/// All that was done, and what was wrong with it.
#[derive(Default)]
struct Report {
    walked: usize,
    kills: usize,
    wrongs: usize,
    /// Things that have to happen and did not.
    missing: Vec<String>,
}

impl Report {
    fn line(&mut self, protocol: &str, name: &str, start: Instant, tally: &Tally) {
        println!(
            "{protocol:<10} {name:<24} {:>8} instructions, {:>4} states, {:>6} kills ({} on other ways): {:>6} before ({} midway), {:>5} after \
             ({} unacked), {} wrong; {:.1} s",
            tally.instructions,
            tally.states,
            tally.kills,
            tally.strays,
            tally.before,
            tally.midway,
            tally.after,
            tally.unacked,
            tally.wrongs(),
            start.elapsed().as_secs_f64(),
        );
        for (kind, count) in &tally.wrong {
            println!("    WRONG: {count} × {kind}");
        }
        if let Some(wrong) = &tally.first_wrong {
            println!("    the first: {wrong}");
        }
        self.walked += tally.instructions;
        self.kills += tally.kills;
        self.wrongs += tally.wrongs();
    }

    fn need(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.missing.push(what());
        }
    }
}

pub(crate) fn run() -> ExitCode {
    let Some(plan) = Plan::read() else { return ExitCode::SUCCESS };
    let is_whole = plan.only.is_none() && plan.mutant.is_none();
    // On a core of its own: recoveries take as long as the rest.
    let recoveries = is_whole.then(|| {
        let mut command = itself();
        command.args(["--only", "recovery"]).args(plan.is_full.then_some("--full"));
        command.stdout(Stdio::piped()).spawn().expect("running this program once more")
    });
    stay_on_one_core(plan.only.is_some());
    let parent = Path::new("/dev/shm");
    let folder = if parent.is_dir() { tempfile::tempdir_in(parent) } else { tempfile::tempdir() };
    let folder = folder.expect("a folder");
    let bench = Bench::new(folder.path());
    let mut report = Report::default();
    match everything(&bench, &plan, &mut report) {
        Ok(()) => {}
        Err(refusal) => {
            println!("SKIPPED: kills at every instruction need ptrace: {refusal}");
            return ExitCode::SUCCESS;
        }
    }
    if let Some(recoveries) = recoveries {
        let output = recoveries.wait_with_output().expect("waiting for the recoveries");
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        report.need(output.status.success(), || "recoveries have failed".into());
    }
    println!(
        "in all{}: {} instructions walked, {} children killed, {} wrong recoveries",
        plan.only.as_ref().map_or_else(String::new, |only| format!(" of {only}")),
        report.walked,
        report.kills,
        report.wrongs
    );
    for missing in &report.missing {
        println!("MISSING: {missing}");
    }
    if report.wrongs > 0 || !report.missing.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn everything(bench: &Bench, plan: &Plan, report: &mut Report) -> Result<(), String> {
    for scenario in SCENARIOS.iter().filter(|scenario| plan.wants(scenario.protocol)) {
        sweep(bench, plan, report, *scenario)?;
    }
    if plan.mutant.is_some() {
        return Ok(());
    }
    if plan.only.is_some() && plan.wants("recovery") {
        let (journal, page) = put_midway(bench)?;
        recoveries(bench, plan, report, &journal, &page)?;
    }
    for (rule, protocol) in MUTANTS.iter().filter(|(_, protocol)| plan.wants(protocol)) {
        mutant(plan, report, rule, protocol);
    }
    Ok(())
}

fn empty_page(bench: &Bench) -> Image {
    bench.page.knowing(&Image::zero(), &Default::default())
}

/// Kills one operation wherever it can be killed.
fn sweep(bench: &Bench, plan: &Plan, report: &mut Report, scenario: Scenario) -> Result<(), String> {
    let begun = Instant::now();
    let body = || life::live(&bench.journal, bench.page, scenario);
    let start = Start { journal: None, page: empty_page(bench), body: &body };
    let Walk { mut tally, changes, path, end, .. } = walk(bench, &start, false)?;
    let writes = matches!(scenario.operation, Operation::Put(_) | Operation::Remove(_));
    if plan.mutant.is_none() || plan.is_full {
        let each = plan.is_full || (writes && tally.instructions <= KILLED_AT_EACH);
        let stride = if each { 1 } else { (end.steps / SAMPLE).max(1) };
        let near = changes.iter().flat_map(|change| [change.steps - 1, change.steps]);
        let mut steps: Vec<usize> = (0..=end.steps).step_by(stride).chain(near).collect();
        steps.sort_unstable();
        steps.dedup();
        let moments = steps.into_iter().map(|steps| Moment { calls: 0, steps });
        kill_at(bench, &start, Some(&Ways::along(&path)), moments, first(&changes), &mut tally)?;
    }
    let (protocol, name) = (scenario.protocol, scenario.name);
    report.line(protocol, name, begun, &tally);
    if plan.mutant.is_none() {
        let says = |what: &str| format!("{protocol} {name}: {what}");
        report.need(tally.instructions >= 400 && tally.states >= 8, || says("hardly anything was walked"));
        report.need(tally.midway > 0, || says("no kill in the middle"));
        report.need(2 * tally.strays < tally.kills, || says("most children took other ways"));
        if writes {
            report
                .need(tally.after > 0 && tally.unacked > 0, || says("no kill between the write and its ack"));
            report.need(tally.kills > tally.instructions || tally.instructions > KILLED_AT_EACH, || {
                says("not killed at each instruction")
            });
        } else {
            report.need(tally.notes[1] > 0, || says("nothing was retired"));
        }
        match scenario.operation {
            Operation::FlushAndRetire => {
                report.need(tally.dirty.len() > 1, || says("no kill after the old records were dead"));
            }
            Operation::Copy => {
                let copies = tally.notes[0];
                let seen = tally.records.len() as u64;
                report.need(copies >= 4 && seen > copies, || says("too little was copied"));
            }
            Operation::Put(_) | Operation::Remove(_) => {}
        }
        if scenario.turns {
            report.need(tally.notes[2] == 1, || says("no segment was begun"));
        }
        report.need(tally.overwrote > 0 || !scenario.turns, || says("the segment was a new one"));
    }
    Ok(())
}

fn first(changes: &[Moment]) -> Moment {
    changes.first().copied().unwrap_or_default()
}

/// A journal with a write in it that has begun and not happened.
fn put_midway(bench: &Bench) -> Result<(Vec<u8>, Image), String> {
    let scenario = *SCENARIOS.iter().find(|scenario| scenario.turns).expect("a put into the next segment");
    let body = || life::live(&bench.journal, bench.page, scenario);
    let start = Start { journal: None, page: empty_page(bench), body: &body };
    let walk = walk(bench, &start, false)?;
    Ok(walk.midway.expect("a put has a middle"))
}

/// Kills recoveries; the next one has to find what an undisturbed one finds.
fn recoveries(
    bench: &Bench,
    plan: &Plan,
    report: &mut Report,
    journal: &[u8],
    page: &Image,
) -> Result<(), String> {
    let found = recovered(bench, journal, page).expect("an undisturbed recovery");
    let known = bench.page.knowing(page, &found.keys);
    report.need(found.dirty >= 4, || "recovery: hardly anything to be recovered".into());
    let nothing = empty_page(bench);
    let of = |name, shape, journal: Option<&[u8]>, page: &Image| {
        (name, shape, journal.map(<[u8]>::to_vec), page.clone())
    };
    for (name, shape, journal, page) in [
        of("of a killed put", USUAL, Some(journal), &known),
        of("making the file larger", Shape { lanes: 12, ..USUAL }, Some(journal), &known),
        of("writing what is too much", Shape { capacity: 2, ..USUAL }, Some(journal), &known),
        of("making the file", USUAL, None, &nothing),
    ] {
        let begun = Instant::now();
        let body = || recover(&bench.journal, bench.page, shape);
        let start = Start { journal, page, body: &body };
        let Walk { mut tally, changes, end, .. } = walk(bench, &start, true)?;
        let near = if plan.is_full { NEAR_CALLS.1 } else { NEAR_CALLS.0 };
        let mut moments: Vec<Moment> = (0..=end.calls)
            .flat_map(|calls| (0..=near).map(move |steps| Moment { calls, steps }))
            // An entry is one instruction; what follows it is the return.
            .filter(|moment| moment.calls % 2 == 0 || moment.steps == 0)
            .filter(|moment| *moment <= end)
            .collect();
        for change in &changes {
            moments.extend(
                [change.steps.saturating_sub(1), change.steps].map(|steps| Moment { steps, ..*change }),
            );
        }
        moments.sort_unstable();
        moments.dedup();
        kill_at(bench, &start, None, moments.into_iter(), first(&changes), &mut tally)?;
        report.line("recovery", name, begun, &tally);
        let says = |what: &str| format!("recovery {name}: {what}");
        report.need(tally.instructions >= 5_000 && end.calls >= 20, || says("hardly anything was walked"));
        report.need(tally.states >= 3 && tally.midway > 0, || says("it has written nothing"));
        report.need(tally.kills > 2 * end.calls, || says("too few kills"));
    }
    Ok(())
}

/// In the child: a recovery between two marks.
fn recover(path: &Path, page: &'static Page, shape: Shape) {
    use std::sync::atomic::Ordering::SeqCst;
    page.phase.store(BEGUN, SeqCst);
    mark();
    let steps = life::open(path, page, shape).expect("open");
    page.phase.store(ACKED, SeqCst);
    mark();
    drop(steps);
}

fn itself() -> Command {
    Command::new(env::current_exe().expect("this program"))
}

/// The kills have to show that a rule was left out.
fn mutant(plan: &Plan, report: &mut Report, rule: &str, protocol: &str) {
    let output = itself()
        .args(["--only", protocol])
        .args(plan.is_full.then_some("--full"))
        .env("WRITEBACK_BROKEN_RULE", rule)
        .output()
        .expect("running this program once more");
    let text = String::from_utf8_lossy(&output.stdout);
    let wrongs = text
        .lines()
        .find(|line| line.starts_with("in all"))
        .and_then(|line| line.rsplit(", ").next()?.split(' ').next()?.parse().ok())
        .unwrap_or(0_usize);
    println!("without the rule {rule:?}: {wrongs} wrong recoveries of {protocol}");
    for line in text.lines().filter(|line| line.contains("WRONG:")) {
        println!("{line}");
    }
    report.need(wrongs > 0 && !output.status.success(), || format!("nothing convicts the mutant {rule}"));
}
