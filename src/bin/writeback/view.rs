//! What can be seen while a command runs: a live block on a terminal, one plain line a second elsewhere.

use std::{
    convert::Infallible,
    io::{self, IsTerminal},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use writeback::Stats;

use crate::{
    format::{self, Lines},
    interrupt,
    latency::Percentiles,
    say,
};

const FRAME: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(1);

/// The state of a run at one moment.
pub(crate) struct Snapshot {
    /// What is going on: `writing`, `counting`, `draining`.
    pub(crate) phase: &'static str,
    /// What is written: `writes`, `events`.
    pub(crate) noun: &'static str,
    /// How far it got, and out of how much, where that is known.
    pub(crate) position: u64,
    pub(crate) length: Option<u64>,
    /// The same in words: `3.2 of 5.0 s`.
    pub(crate) progress: String,
    pub(crate) stats: Stats,
    pub(crate) latency: Option<Percentiles>,
}

/// Shows one [`Snapshot`] after the other.
pub(crate) struct View {
    mode: Mode,
    due: Instant,
    rate: Rate,
    hinted: bool,
}

enum Mode {
    Quiet,
    Lines { start: Instant },
    Live(ProgressBar),
}

impl View {
    pub(crate) fn new(quiet: bool) -> Self {
        let now = Instant::now();
        let (mode, due) = if quiet {
            (Mode::Quiet, now)
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(20));
            (Mode::Live(bar), now)
        } else {
            (Mode::Lines { start: now }, now + LINE)
        };
        Self { mode, due, rate: Rate { at: now, puts: 0, per_second: 0.0 }, hinted: false }
    }

    /// Shows what `snapshot` says until nobody holds a sender of `running` any more.
    pub(crate) fn watch(&mut self, running: &Receiver<Infallible>, snapshot: impl Fn() -> Snapshot) {
        loop {
            let ended = match running.recv_timeout(FRAME) {
                Ok(never) => match never {},
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if interrupt::asked() && !self.hinted {
                self.hinted = true;
                self.note(interrupt::HINT);
            }
            if ended {
                return;
            }
            let now = Instant::now();
            if now >= self.due && !matches!(self.mode, Mode::Quiet) {
                self.show(&snapshot(), now);
            }
        }
    }

    /// A line for the user that stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.mode {
            Mode::Live(bar) => bar.suspend(|| say(text)),
            Mode::Quiet | Mode::Lines { .. } => say(text),
        }
    }

    /// Takes the live block away.
    pub(crate) fn finish(self) {
        if let Mode::Live(bar) = self.mode {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, snapshot: &Snapshot, now: Instant) {
        let per_second = self.rate.update(snapshot.stats.puts, now);
        match &self.mode {
            Mode::Quiet => {}
            Mode::Lines { start } => {
                say(&plain(snapshot, per_second, now - *start));
                self.due = now + LINE;
            }
            Mode::Live(bar) => {
                bar.set_style(style(snapshot.length.is_some()));
                bar.set_length(snapshot.length.unwrap_or(1).max(1));
                bar.set_position(snapshot.position);
                bar.set_prefix(format!("{}  {}", snapshot.phase, snapshot.progress));
                bar.set_message(block(snapshot, per_second));
                self.due = now + FRAME;
            }
        }
    }
}

fn style(bounded: bool) -> ProgressStyle {
    let template =
        if bounded { "  {bar:40.cyan/dim}  {prefix}\n{msg}" } else { "  {spinner}  {prefix}\n{msg}" };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━╸─")
}

fn block(snapshot: &Snapshot, per_second: u64) -> String {
    let stats = &snapshot.stats;
    let mut lines = Lines::default();
    lines.add(snapshot.noun, format::count(stats.puts), format!("{}/s", format::count(per_second)));
    lines.add(
        "dirty",
        format::count(stats.dirty as u64),
        format!("of {} entries", format::count(stats.entries as u64)),
    );
    let note = format!("{} per backend write", snapshot.noun);
    lines.add("coalescing", coalescing(stats), note);
    lines.add("batches", format::count(stats.batches), triggers(stats, " · "));
    if let Some(Percentiles { p50, p99, p99_9, .. }) = snapshot.latency {
        let note = format!("p50 · {} p99 · {} p99.9", format::nanos(p99), format::nanos(p99_9));
        lines.add("ack latency", format::nanos(p50), note);
    }
    lines.to_string()
}

fn plain(snapshot: &Snapshot, per_second: u64, elapsed: Duration) -> String {
    let Snapshot { phase, noun, progress, stats, .. } = snapshot;
    let mut line = format!(
        "{:>5.1} s  {phase} ({progress}): {} {noun}, {}/s, {} dirty, {} {noun} per backend write, {} ({})",
        elapsed.as_secs_f64(),
        format::count(stats.puts),
        format::count(per_second),
        format::count(stats.dirty as u64),
        coalescing(stats),
        format::plural(stats.batches, "batch", "batches"),
        triggers(stats, ", "),
    );
    if let Some(Percentiles { p50, p99, p99_9, .. }) = snapshot.latency {
        let [p50, p99, p99_9] = [p50, p99, p99_9].map(format::nanos);
        line.push_str(&format!(", ack p50 {p50}, p99 {p99}, p99.9 {p99_9}"));
    }
    line
}

fn coalescing(stats: &Stats) -> String {
    format::ratio(stats.puts, stats.backend_writes).unwrap_or_else(|| "-".to_owned())
}

/// How many batches each trigger has sent off.
pub(crate) fn triggers(stats: &Stats, separator: &str) -> String {
    let counts = [
        ("timer", stats.flushes_timer),
        ("threshold", stats.flushes_threshold),
        ("pressure", stats.flushes_pressure),
        ("explicit", stats.flushes_explicit),
    ];
    counts.map(|(name, n)| format!("{name} {}", format::count(n))).join(separator)
}

/// A smoothed rate of acknowledged writes.
struct Rate {
    at: Instant,
    puts: u64,
    per_second: f64,
}

impl Rate {
    fn update(&mut self, puts: u64, now: Instant) -> u64 {
        let time = (now - self.at).as_secs_f64();
        if time > 0.0 {
            let current = puts.saturating_sub(self.puts) as f64 / time;
            // What is older than half a second has lost most of its weight.
            let weight = 1.0 - (-time / 0.25).exp();
            self.per_second =
                if self.puts == 0 { current } else { self.per_second + weight * (current - self.per_second) };
            (self.at, self.puts) = (now, puts);
        }
        self.per_second as u64
    }
}
