//! The figures of a run, as the table that `docs/reliability.md` has.

use std::{fmt, time::Duration};

use writeback::Stats;

use super::{
    gate::Passed,
    ledger::{Count, Doing},
    memory::Course,
    subject::Misfortune,
    trial::Trial,
};

/// What one database has gone through.
pub(crate) struct Report {
    name: &'static str,
    lines: Vec<(String, String)>,
    /// What could not be brought about.
    missed: Vec<String>,
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn numbers<const N: usize>(numbers: [u64; N]) -> String {
    numbers.map(grouped).join(" / ")
}

fn times<const N: usize>(times: [Duration; N]) -> String {
    times.map(|time| format!("{time:.2?}")).join(" / ")
}

impl Report {
    pub(crate) fn of(trial: &Trial, stats: &Stats, worked: Duration) -> Self {
        let (passed, written) = (|what| trial.passed(what), |what| trial.ledger.get(what));
        let (weather, sums, peaks) = (&trial.weather, trial.told.sums(), trial.watch.peaks());
        let slowest = |doing| trial.ledger.slowest(doing);
        let writes = stats.puts + stats.removes;
        let journal = stats.journal.clone().unwrap_or_default();
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
        line("seconds", format!("{:.0}", worked.as_secs_f64()));
        for what in Misfortune::ALL {
            let value = if !weather.is_possible(what) {
                "–".to_owned()
            } else {
                let (strikes, hit) = (weather.strikes(what), weather.hit(what));
                match what {
                    Misfortune::Kick => format!("{} ({} times)", grouped(hit), grouped(strikes)),
                    Misfortune::Reset => grouped(hit),
                    Misfortune::Deadlock => {
                        numbers([trial.subject.rivals_ended(), passed(Passed::Deadlocks)])
                    }
                    _ => grouped(strikes),
                }
            };
            let name = match what {
                Misfortune::Deadlock => {
                    "deadlocks: somebody else's transaction ended / the cache's".to_owned()
                }
                what => what.to_string(),
            };
            line(&name, value);
        }
        let failed = passed(Passed::RefusedBatches) + passed(Passed::LostReplies);
        line(
            "calls of the backend: batches / loads",
            numbers([passed(Passed::Batches), passed(Passed::Loads)]),
        );
        line(
            "failed on purpose: batches / of these stored all the same / operations / of these stored / loads",
            numbers([
                failed,
                passed(Passed::LostReplies),
                passed(Passed::RefusedOps) + passed(Passed::LostOps),
                passed(Passed::LostOps),
                passed(Passed::FailedLoads),
            ]),
        );
        line(
            "failed by a misfortune: batches / loads",
            numbers([passed(Passed::Troubles), passed(Passed::TroubledLoads)]),
        );
        line(
            "writes",
            format!(
                "{} ({} a second)",
                grouped(writes),
                grouped((writes as f64 / worked.as_secs_f64()) as u64)
            ),
        );
        line(
            "of them removes / updates / of counters",
            numbers([stats.removes, written(Count::Updates), written(Count::Increments)]),
        );
        line(
            "acknowledged as synced / by the backend / tickets / flushes",
            numbers([
                written(Count::Synced),
                written(Count::Backend),
                written(Count::Tickets),
                written(Count::Flushes),
            ]),
        );
        line(
            "told that it is not in the backend yet / not synced yet",
            numbers([written(Count::NotFlushed), written(Count::NotSynced)]),
        );
        line(
            "writes refused: no room / the key could not be loaded",
            numbers([written(Count::NoRoom), written(Count::NotLoaded)]),
        );
        line(
            "reads / of them loads of the backend / failed",
            numbers([written(Count::Reads), stats.misses, written(Count::ReadsFailed)]),
        );
        line("evictions", grouped(stats.evictions));
        line(
            "operations stored / refused / sent again",
            numbers([stats.backend_writes, stats.backend_errors, stats.retries]),
        );
        line("outages that the cache has noticed / stalls", numbers([sums.down, sums.stalled]));
        line("longest outage, as it saw it", times([sums.longest_outage]));
        line("longest that an entry was dirty", times([peaks.oldest_dirty]));
        line(
            "most dirty entries / the cache holds",
            numbers([peaks.dirty as u64, trial.plan.capacity as u64]),
        );
        line("largest journal, bytes", grouped(peaks.journal));
        line("records copied / epochs retired", numbers([journal.copies, journal.retirements]));
        line(
            "slowest write / update, which may load / synced / by the backend / read",
            times([Doing::Write, Doing::Update, Doing::Synced, Doing::Backend, Doing::Read].map(slowest)),
        );
        Report { name: trial.subject.name(), lines, missed: weather.missed() }
    }
}

/// Several beside each other.
pub(crate) struct Table<'a>(pub(crate) &'a [Report]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: &mut dyn Iterator<Item = &str>| {
            writeln!(f, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        row(f, "", &mut self.0.iter().map(|report| report.name))?;
        row(f, "---", &mut self.0.iter().map(|_| "---"))?;
        for (at, (name, _)) in first.lines.iter().enumerate() {
            row(
                f,
                name,
                &mut self.0.iter().filter_map(|report| report.lines.get(at)).map(|(_, cell)| &**cell),
            )?;
        }
        for report in self.0 {
            for missed in &report.missed {
                writeln!(f, "{}: could not be brought about: {missed}", report.name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let Course { first, second, most, most_resident, samples } = *self;
        write!(f, "memory without files: {} in the first half, {} in the second", mib(first), mib(second))?;
        write!(f, ", at most {}; with files at most {}", mib(most), mib(most_resident))?;
        write!(f, " ({samples} samples after the warm-up)")
    }
}
