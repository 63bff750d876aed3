//! What a run has seen, and whether it has seen enough for its result to mean something.

use std::{fmt, time::Duration};

use writeback::faults::POINTS;

use super::board::{COUNTS, Count};

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By its own hand at this point.
    Point(usize),
    /// By the parent's, while it was opening or checking.
    Early,
    /// By the parent's, at work.
    Working,
}

#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) kills: u64,
    pub(crate) early: u64,
    pub(crate) working: u64,
    pub(crate) at_points: Vec<u64>,
    pub(crate) mid_write: u64,
    pub(crate) drains: u64,
    pub(crate) counts: [u64; COUNTS],
    /// Of the table and of the SQLite file.
    pub(crate) by_database: [u64; 2],
    pub(crate) took: Duration,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Tally {
            kills: 0,
            early: 0,
            working: 0,
            at_points: vec![0; POINTS.len()],
            mid_write: 0,
            drains: 0,
            counts: [0; COUNTS],
            by_database: [0; 2],
            took: Duration::ZERO,
        }
    }

    pub(crate) fn ended(&mut self, end: End, mid_write: bool) {
        self.kills += 1;
        self.mid_write += u64::from(mid_write);
        match end {
            End::Point(point) => self.at_points[point] += 1,
            End::Early => self.early += 1,
            End::Working => self.working += 1,
        }
    }

    /// Adds what another journal and database have seen.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.kills += other.kills;
        self.early += other.early;
        self.working += other.working;
        self.mid_write += other.mid_write;
        self.drains += other.drains;
        let sum = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        sum(&mut self.at_points, &other.at_points);
        sum(&mut self.by_database, &other.by_database);
        let gauge = Count::JournalBytes as usize;
        let largest = self.counts[gauge].max(other.counts[gauge]);
        sum(&mut self.counts, &other.counts);
        self.counts[gauge] = largest;
    }

    fn rows(&self) -> Vec<(&'static str, u64)> {
        let count = |what: Count| self.counts[what as usize];
        vec![
            ("kills at work", self.working),
            ("kills while opening and checking", self.early),
            ("kills at named points", self.at_points.iter().sum()),
            ("kills over the table", self.by_database[0]),
            ("kills over SQLite", self.by_database[1]),
            ("kills in the middle of a write", self.mid_write),
            ("recoveries", count(Count::Opened)),
            ("entries recovered", count(Count::Recovered)),
            ("entries written through while opening", count(Count::WrittenThrough)),
            ("drained, closed and compared", self.drains),
            ("writes acknowledged", count(Count::Acks)),
            ("of them removes", count(Count::Removes)),
            ("of them updates", count(Count::Updates)),
            ("writes refused for want of room", count(Count::Refused)),
            ("keys checked after a kill", count(Count::KeysChecked)),
            ("of them found with the write in progress", count(Count::PendingFound)),
            ("earlier reads checked after a kill", count(Count::SeenChecked)),
            ("reads checked at work", count(Count::LiveReads)),
            ("operations given to the backend", count(Count::BackendOps)),
            ("operations that it refused", count(Count::BackendErrors)),
            ("batches whose answer was lost", count(Count::LostAnswers)),
            ("evictions", count(Count::Evictions)),
            ("dirty places not told by a ring", count(Count::Overflows)),
            ("epochs retired", count(Count::Retirements)),
            ("records copied", count(Count::Copies)),
            ("records copied with the backend down", count(Count::CopiesDown)),
        ]
    }

    /// What has to happen in a run and did not happen in this one.
    pub(crate) fn zeros(&self) -> Vec<String> {
        let rows = self.rows().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name.to_owned());
        let points = POINTS.iter().zip(&self.at_points).filter(|(_, hits)| **hits == 0);
        rows.chain(points.map(|(name, _)| format!("a kill at `{name}`"))).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(f, "{} kills in {seconds:.1} s, {:.1} a second", self.kills, self.kills as f64 / seconds)?;
        writeln!(f, "  0 lost, 0 rolled back, 0 backend regressions, 0 other violations")?;
        for (name, count) in self.rows() {
            writeln!(f, "  {count:>10}  {name}")?;
        }
        let journal = self.counts[Count::JournalBytes as usize];
        writeln!(f, "  {journal:>10}  bytes of the largest journal")?;
        writeln!(f, "  kills at each point:")?;
        for (name, hits) in POINTS.iter().zip(&self.at_points) {
            writeln!(f, "  {hits:>10}  {name}")?;
        }
        Ok(())
    }
}
