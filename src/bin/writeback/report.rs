//! The end of a command: a summary for people, one line of JSON for programs, and the exit code for both.

use std::{
    cmp::Reverse,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};
use writeback::Stats;

use crate::{
    drain::Drain,
    failure::Failure,
    format::{self, Lines},
    latency::Percentiles,
    say,
    verify::Comparison,
    view,
};

/// What a command did, and whether the database holds it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) command: &'static str,
    /// What was done, in words.
    pub(crate) title: String,
    /// What was written: `writes`, `events`.
    pub(crate) noun: &'static str,
    /// What the keys are: `players`, `words`.
    pub(crate) keys: &'static str,
    /// What the values count: `points`, `events`.
    pub(crate) unit: &'static str,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) distinct: u64,
    pub(crate) writing: Duration,
    pub(crate) drain: Drain,
    pub(crate) stats: Stats,
    pub(crate) latency: Option<Percentiles>,
    pub(crate) comparison: Comparison,
    /// The keys with the highest values, as the database has them.
    pub(crate) top: Vec<(String, i64)>,
    pub(crate) database: PathBuf,
    pub(crate) table: String,
    /// Whether the database is still there when the command has ended.
    pub(crate) kept: bool,
    pub(crate) interrupted: bool,
    /// Why the work is not complete, other than by an interrupt.
    pub(crate) trouble: Option<Trouble>,
}

/// Why a command stopped before the end of its work.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The input could not be read to its end.
    Input(Failure),
    /// The cache or its database did not take a write.
    Refused(String),
}

impl Report {
    /// 0 when all is done and the database holds it; else see `writeback --help`.
    pub(crate) fn exit_code(&self) -> u8 {
        match &self.trouble {
            _ if self.drain.remaining.is_some() => 3,
            _ if !self.comparison.matches() => 1,
            Some(Trouble::Refused(_)) => 3,
            Some(Trouble::Input(failure)) => failure.exit_code(),
            None if self.interrupted && self.command == "count" => 130,
            None => 0,
        }
    }

    /// Prints the summary, and the line of JSON if wanted, which then has the standard output for itself.
    pub(crate) fn print(&self, json: bool) -> Result<(), Failure> {
        let summary = self.summary();
        if json {
            say(&summary);
            print(&self.json().to_string())?;
        } else {
            print(&summary)?;
        }
        self.complain();
        Ok(())
    }

    fn summary(&self) -> String {
        let Self { stats, noun, drain, comparison, .. } = self;
        let mut lines = Lines::default();
        lines.add(noun, format::count(self.acked), format::rate(self.acked, self.writing));
        if self.refused > 0 {
            lines.add("refused", format::count(self.refused), "not acknowledged, and not in the database");
        }
        lines.add(self.keys, format::count(self.distinct), "distinct");
        let note = match format::ratio(self.acked, stats.backend_writes) {
            Some(ratio) => format!("one for {ratio} {noun}"),
            None => String::new(),
        };
        lines.add("backend writes", format::count(stats.backend_writes), note);
        lines.add("batches", format::count(stats.batches), view::triggers(stats, " · "));
        if let Some(Percentiles { p50, p99, p99_9, max }) = self.latency {
            lines.add("ack latency", format::nanos(p50), "p50");
            lines.add("", format::nanos(p99), "p99");
            lines.add("", format::nanos(p99_9), "p99.9");
            lines.add("", format::nanos(max), "max");
        }
        let note = format!("and {} to drain", format::seconds(drain.took));
        lines.add("time", format::seconds(self.writing), note);

        let mut text = format!("writeback {}: {}\n\n{lines}\n", self.command, self.title);
        if !self.top.is_empty() {
            let mut top = Lines::default();
            for (i, (key, n)) in self.top.iter().enumerate() {
                top.add(if i == 0 { "top" } else { "" }, format::signed(*n), key.escape_debug().to_string());
            }
            text.push_str(&format!("\n{top}\n"));
        }
        let verdict = if comparison.matches() {
            let rows = format::plural(comparison.rows, "row holds", "rows hold");
            let sum = format::count(u64::try_from(comparison.sum).unwrap_or(0));
            format!("✓ match: {rows} exactly what was acknowledged, {sum} {} in all", self.unit)
        } else {
            format!(
                "✗ mismatch: the table does not hold what was acknowledged: {}",
                comparison.differences().0
            )
        };
        text.push_str(&format!("\n  {verdict}"));
        if let Some((dirty, cause)) = &drain.remaining {
            let entries = format::plural(*dirty as u64, "entry", "entries");
            text.push_str(&format!("\n  ✗ not drained: {entries} could not be written: {cause}"));
        }
        if self.interrupted {
            text.push_str("\n  interrupted: what was acknowledged until then is counted here");
        }
        let place = match self.kept {
            true => self.database.display().to_string(),
            false => "a temporary database that is gone now; --db FILE keeps one".to_owned(),
        };
        text.push_str(&format!("\n    table `{}` in {place}", self.table));
        text
    }

    /// What went wrong, where errors are looked for.
    fn complain(&self) {
        if !self.comparison.matches() {
            for example in self.comparison.differences().1 {
                say(&format!("error: {}", example.escape_debug()));
            }
        }
        let so_far = format!("the {} {} before it are in the database", format::count(self.acked), self.noun);
        match &self.trouble {
            Some(Trouble::Input(failure)) => say(&format!("error: {failure} ({so_far})")),
            Some(Trouble::Refused(reason)) => say(&format!("error: {reason} ({so_far})")),
            None => {}
        }
    }

    fn json(&self) -> Value {
        let Self { stats, drain, .. } = self;
        let mut line = json!({
            "command": self.command,
            "distinct_keys": self.distinct,
            "backend_writes": stats.backend_writes,
            "coalescing_ratio": self.ratio(),
            "batches": stats.batches,
            "triggers": {
                "timer": stats.flushes_timer,
                "threshold": stats.flushes_threshold,
                "pressure": stats.flushes_pressure,
                "explicit": stats.flushes_explicit,
            },
            "seconds": (self.writing + drain.took).as_secs_f64(),
            "seconds_writing": self.writing.as_secs_f64(),
            "seconds_draining": drain.took.as_secs_f64(),
            "refused": self.refused,
            "evictions": stats.evictions,
            "drained": drain.remaining.is_none(),
            "dirty_left": drain.remaining.as_ref().map_or(0, |(dirty, _)| *dirty),
            "match": self.comparison.matches(),
            "complete": self.trouble.is_none() && !self.interrupted,
            "interrupted": self.interrupted,
            "rows": self.comparison.rows,
            "database": self.kept.then(|| self.database.to_string_lossy()),
            "table": self.table,
        });
        line[self.noun] = json!(self.acked);
        if let Some(Percentiles { p50, p99, p99_9, max }) = self.latency {
            line["latency_ns"] = json!({ "p50": p50, "p99": p99, "p99_9": p99_9, "max": max });
        }
        line
    }

    /// How many acknowledged writes there were for each one of the database; `None` if there was none.
    fn ratio(&self) -> Option<f64> {
        let writes = self.stats.backend_writes;
        (writes > 0).then(|| self.acked as f64 / writes as f64)
    }
}

/// Writes to the standard output. A reader who has seen enough is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// The five keys with the highest values, the first of them the highest.
pub(crate) fn top<K: Ord + ToString>(rows: impl IntoIterator<Item = (K, i64)>) -> Vec<(String, i64)> {
    const SHOWN: usize = 5;
    let mut best: Vec<(K, i64)> = Vec::with_capacity(SHOWN + 1);
    for row in rows {
        let place = best.partition_point(|other| (Reverse(other.1), &other.0) < (Reverse(row.1), &row.0));
        if place < SHOWN {
            best.insert(place, row);
            best.truncate(SHOWN);
        }
    }
    best.into_iter().map(|(key, n)| (key.to_string(), n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_is_sorted_and_ties_go_to_the_smaller_key() {
        let rows = [("f", 1), ("b", 7), ("e", 3), ("a", 7), ("c", 5), ("d", 3), ("g", 9)];
        let found = top(rows);
        let expected = [("g", 9), ("a", 7), ("b", 7), ("c", 5), ("d", 3)];
        assert_eq!(found, expected.map(|(key, n)| (key.to_owned(), n)));
    }
}
