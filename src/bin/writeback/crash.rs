//! `writeback demo --crash`: a second process plays and is killed, and this one looks after what it was promised.

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use writeback::{Cache, ClosedJournal, Recovery};

use crate::{
    database::Table,
    drain::{self, Drain},
    failure::Failure,
    format::{self, Lines},
    interrupt,
    record::Told,
    report, say,
    verify::Comparison,
    view::View,
};

/// What the second process says when its writers are about to begin.
pub(crate) const PLAYING: &str = "playing";

/// How often to look whether it is still there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A crash, and what came of it.
pub(crate) struct Crash {
    pub(crate) title: String,
    /// What the killed process was told.
    pub(crate) told: Told,
    pub(crate) played: Duration,
    /// How the table differed from that before the journal was opened.
    behind: Behind,
    /// Dirty keys in the journal, found without a cache.
    dirty: usize,
    recovery: Recovery,
    drain: Drain,
    /// Writes whose answer nobody has seen.
    open: usize,
    comparison: Comparison,
    database: PathBuf,
    kept: bool,
}

/// The rows that a table lacks acknowledged points in.
#[derive(Debug, Default, Clone, Copy)]
struct Behind {
    players: u64,
    points: i64,
}

impl Behind {
    fn of(base: &HashMap<i64, i64>, told: &Told, rows: &HashMap<i64, i64>) -> Self {
        let mut behind = Self::default();
        for (player, won) in &told.points {
            let expected = base.get(player).copied().unwrap_or(0).saturating_add(*won);
            let missing = expected.saturating_sub(rows.get(player).copied().unwrap_or(0));
            if missing > 0 {
                behind.players += 1;
                behind.points = behind.points.saturating_add(missing);
            }
        }
        behind
    }
}

/// Runs this program again with these arguments, lets it play for so long, and kills it. Returns how long it has played.
pub(crate) fn play_and_kill(
    arguments: Vec<OsString>,
    time: Duration,
    view: &View,
) -> Result<Duration, Failure> {
    let failed = |error: io::Error| Failure::Victim { reason: format!("could not be started: {error}") };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    // It ends when its standard input does, and so when this process does.
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().map_err(failed)?);
    let mut first = String::new();
    if let Some(out) = child.0.stdout.take() {
        BufReader::new(out).read_line(&mut first).map_err(failed)?;
    }
    let ended = |status: ExitStatus| Failure::Victim { reason: format!("ended too early ({status})") };
    if first.trim_end() != PLAYING {
        return Err(ended(child.0.wait().map_err(failed)?));
    }
    let start = Instant::now();
    view.note(&format!("process {} plays for {}, then it gets SIGKILL", child.0.id(), format::seconds(time)));
    while start.elapsed() < time && !interrupt::asked() {
        if let Some(status) = child.0.try_wait().map_err(failed)? {
            return Err(ended(status));
        }
        thread::sleep(LOOK_EVERY.min(time.saturating_sub(start.elapsed())));
    }
    child.0.kill().map_err(failed)?;
    let played = start.elapsed();
    let status = child.0.wait().map_err(failed)?;
    if !was_killed(status) {
        return Err(ended(status));
    }
    view.note(&format!("killed process {} after {}", child.0.id(), format::seconds(played)));
    Ok(played)
}

/// A process that does not outlive this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // An error: it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(9)
}

#[cfg(not(unix))]
fn was_killed(status: ExitStatus) -> bool {
    !status.success()
}

/// Ends this process when the standard input does: whoever was to kill it is gone.
pub(crate) fn end_with_input() {
    let wait = || {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        process::exit(1);
    };
    // Without this thread it plays until its time is over.
    let _ = thread::Builder::new().name("input".into()).spawn(wait);
}

/// What the second process has left, and where.
pub(crate) struct Left<'a> {
    pub(crate) title: String,
    pub(crate) told: Told,
    pub(crate) played: Duration,
    /// The rows of the table before it began.
    pub(crate) base: HashMap<i64, i64>,
    pub(crate) table: &'a Table<i64>,
    pub(crate) journal: &'a Path,
    /// Whether the database is still there afterwards.
    pub(crate) kept: bool,
}

impl Crash {
    /// Looks at the table and the journal as they were left, opens a cache with `open`, drains it, and compares.
    pub(crate) fn look_into(
        left: Left<'_>,
        open: impl FnOnce() -> Result<Cache<i64, i64>, Failure>,
        patience: Duration,
        view: &mut View,
    ) -> Result<Self, Failure> {
        let Left { title, told, played, base: mut expected, table, journal, kept } = left;
        let behind = Behind::of(&expected, &told, &table.rows()?);
        let dirty = ClosedJournal::open(journal)?.read()?.entries().len();
        let cache = open()?;
        let recovery = cache.recovery().cloned().unwrap_or_default();
        let drain = drain::drain(&cache, patience, view);
        let rows = table.rows()?;
        let open = told.add_to(&mut expected, &rows);
        let comparison = Comparison::of(&expected, &rows);
        let database = table.path().to_owned();
        Ok(Self { title, told, played, behind, dirty, recovery, drain, open, comparison, database, kept })
    }

    /// Whether nothing is left in the journal.
    pub(crate) fn is_drained(&self) -> bool {
        self.drain.remaining.is_none()
    }

    /// Prints what happened, and returns the exit code.
    pub(crate) fn print(&self, json: bool) -> Result<u8, Failure> {
        if json {
            say(&self.summary());
            report::print(&self.json().to_string())?;
        } else {
            report::print(&self.summary())?;
        }
        for example in self.comparison.differences().1 {
            say(&format!("error: {}", example.escape_debug()));
        }
        Ok(match (&self.drain.remaining, self.comparison.matches()) {
            (Some(_), _) => 3,
            (None, true) => 0,
            (None, false) => 1,
        })
    }

    fn summary(&self) -> String {
        let Self { told, behind, recovery, drain, comparison, .. } = self;
        let mut lines = Lines::default();
        let rate = format::rate(told.acked, self.played);
        lines.add("writes", format::count(told.acked), format!("acknowledged before the kill, {rate}"));
        let points = format::signed(behind.points);
        let note = format!("players lacked {points} acknowledged points in the database then");
        lines.add("unflushed", format::count(behind.players), note);
        let note = format!("keys found dirty in the journal, read in {}", format::seconds(recovery.took));
        lines.add("recovered", format::count(recovery.entries as u64), note);
        let note = "writes were under way: in the database or not, nobody was told";
        lines.add("open", format::count(self.open as u64), note);
        lines.add(
            "time",
            format::seconds(self.played),
            format!("and {} to drain", format::seconds(drain.took)),
        );
        let mut text = format!("writeback demo --crash: {}\n\n{lines}\n\n  ", self.title);
        if comparison.matches() {
            let rows = format::plural(comparison.rows, "row holds", "rows hold");
            let sum = format::count(u64::try_from(comparison.sum).unwrap_or(0));
            text.push_str(&format!("✓ nothing was lost: {rows} what was acknowledged, {sum} points in all"));
        } else {
            let (what, _) = comparison.differences();
            text.push_str(&format!("✗ the table does not hold what was acknowledged: {what}"));
        }
        if let Some((dirty, cause)) = &drain.remaining {
            let entries = format::plural(*dirty as u64, "entry", "entries");
            text.push_str(&format!("\n  ✗ not drained: {entries} could not be written: {cause}"));
        }
        let place = match self.kept {
            true => self.database.display().to_string(),
            false => "a temporary database that is gone now; --db FILE keeps one".to_owned(),
        };
        text.push_str(&format!("\n    {place}"));
        text
    }

    fn json(&self) -> Value {
        json!({
            "command": "demo --crash",
            "writes": self.told.acked,
            "distinct_keys": self.told.points.len(),
            "seconds_writing": self.played.as_secs_f64(),
            "seconds_draining": self.drain.took.as_secs_f64(),
            "unflushed_keys": self.behind.players,
            "unflushed_points": self.behind.points,
            "journal_dirty": self.dirty,
            "recovered": self.recovery.entries,
            "seconds_recovering": self.recovery.took.as_secs_f64(),
            "damage": self.recovery.damage.len(),
            "open_writes": self.open,
            "drained": self.drain.remaining.is_none(),
            "dirty_left": self.drain.remaining.as_ref().map_or(0, |(dirty, _)| *dirty),
            "match": self.comparison.matches(),
            "rows": self.comparison.rows,
            "database": self.kept.then(|| self.database.to_string_lossy()),
        })
    }
}
