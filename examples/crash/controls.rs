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

/// Rules that no kill can show, and what shows them instead.
pub(crate) const NOT_BY_KILLS: &[(&str, &str)] = &[
    ("sync", "loss of power"),
    ("sync-before-batch", "loss of power"),
    ("sync-before-retire", "loss of power"),
    ("heal", "loss of power"),
    ("state-of-version", "loss of power"),
    ("head-before-body", "a kill between two stores that follow each other: the kills after every instruction"),
    ("sync-before-reuse", "loss of power"),
];

/// Runs all of them. The table of what was found, or of what was not noticed.
pub(crate) fn run_all(seed: u64) -> Result<String, String> {
    let mut table = String::from(
        "| rule that was left out | kills until noticed | what was noticed first |\n|---|---|---|\n",
    );
    let mut unnoticed = Vec::new();
    for rule in RULES.iter().copied().filter(|rule| NOT_BY_KILLS.iter().all(|(other, _)| other != rule)) {
        let options = Options {
            kills: LIMIT,
            seed,
            databases: vec![Database::Table],
            rule: Some(rule),
            ..Options::default()
        };
        let (kills, what) = match run(&options) {
            Err(Failure { kills, what }) => ((kills + 1).to_string(), in_short(&what)),
            Ok(_) => {
                unnoticed.push(rule);
                (format!("not within {LIMIT}"), String::new())
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
