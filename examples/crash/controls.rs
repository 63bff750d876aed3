//! Negative controls: each protective rule is left out once, and the harness must notice.

use std::fmt::Write;

use writeback::faults::RULES;

use super::{
    life::Database,
    options::Options,
    parent::{Failure, run},
};

/// How many kills a broken rule may take.
pub(crate) const LIMIT: u64 = 500;

/// Rules that kills do notice, but not dependably within the limit, and what they may take instead.
///
/// The flusher looks at the rings a moment before it looks at the lanes, and only what a writer does in between is missed:
/// about one kill in 220 meets it.
pub(crate) const SLOW: &[(&str, u64)] = &[("collect-after-scan", 2_500)];

/// Rules that are about a loss of power: a kill leaves what the operating system has. `tests/power` has their controls.
/// (It may notice the absence of one or the other, but that is luck.)
pub(crate) const OF_POWER: &[&str] = &[
    "sync",
    "sync-before-batch",
    "sync-before-reuse",
    "sync-before-retire",
    "heal",
    "checksum",
    "pending-first",
    "state-of-version",
];

/// Runs all of them. The table of what was found, or of what was not noticed.
pub(crate) fn run_all(seed: u64) -> Result<String, String> {
    let mut table = String::from(
        "| rule that was left out | kills until noticed | what was noticed first |\n|---|---|---|\n",
    );
    let mut unnoticed = Vec::new();
    for rule in RULES.iter().copied().filter(|rule| !OF_POWER.contains(rule)) {
        let limit = SLOW.iter().find(|(slow, _)| *slow == rule).map_or(LIMIT, |(_, limit)| *limit);
        let options = Options {
            kills: limit,
            seed,
            databases: vec![Database::Table],
            rule: Some(rule),
            ..Options::default()
        };
        let (kills, what) = match run(&options) {
            Err(Failure { kills, what }) => ((kills + 1).to_string(), in_short(&what)),
            Ok(_) => {
                unnoticed.push(rule);
                (format!("not within {limit}"), String::new())
            }
        };
        let _ = writeln!(table, "| {rule} | {kills} | {what} |");
    }
    if unnoticed.is_empty() { Ok(table) } else { Err(format!("{table}\nnot noticed: {unnoticed:?}")) }
}

/// The first finding; of a child that has refused to go on also what it has said, without where its files were.
fn in_short(what: &[String]) -> String {
    let first = what.first().cloned().unwrap_or_default();
    let said = what.get(1).filter(|_| first.contains("by itself")).and_then(|said| said.lines().next());
    let said = said.map(|said| said.rsplit_once(".journal ").map_or(said, |(_, rest)| rest));
    match said.map(|said| said.split(';').next().unwrap_or(said)) {
        Some(said) => format!("{first}: the journal {said}"),
        None => first,
    }
}
