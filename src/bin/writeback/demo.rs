//! `writeback demo`: a leaderboard under fire, and the proof that the database ends up with every point.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, value_parser};
use hdrhistogram::CreationError;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, Zipf};
use writeback::Cache;

use crate::{
    database::{Shape, Table},
    drain::drain,
    failure::Failure,
    format, interrupt,
    latency::{Published, Recorder},
    options::{Common, seconds, threads},
    report::{Report, Trouble, top},
    verify::Comparison,
    view::{Snapshot, View},
    writer::{Writer, may_pass},
};

const TABLE: &str = "leaderboard";
const SHAPE: Shape = Shape { key: "player", key_type: "INTEGER", value: "points" };

/// A writer looks after its histogram and for a reason to stop once in so many writes.
const LOOK_UP_EVERY: u32 = 64;

const EXAMPLES: &str = "\
Examples:
  writeback demo
  writeback demo --threads 4 --seconds 20 --players 1000000 --db board.db
  writeback demo --json --quiet | jq .latency_ns.p99

Then look at the board:
  sqlite3 board.db 'SELECT player, points FROM leaderboard ORDER BY points DESC LIMIT 10'";

/// Update a leaderboard as fast as it goes, then check every row of the database.
///
/// Writer threads add points to the scores of players, a few of whom play most of the time (a Zipf
/// distribution), in a cache in front of SQLite. Each writer keeps a ledger of the points that were acknowledged.
/// At the end the cache is drained, the database is read back without it, and each row must be the sum of the
/// ledgers.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Demo {
    /// How long to play
    #[arg(long, short, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    seconds: Duration,

    /// Players on the board
    #[arg(long, short, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = value_parser!(u64).range(1..=20_000_000))]
    players: u64,

    /// How unequally they play: 0 is all alike, 1 gives the n-th player one n-th of the first one's updates
    #[arg(long, value_name = "S", default_value_t = 0.99, value_parser = skew)]
    skew: f64,

    /// SQLite database to keep the board in; an existing board is played on [default: a temporary file]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,

    /// Entries that the cache may hold [default: as many as there are players]
    #[arg(long, value_name = "N")]
    capacity: Option<usize>,

    /// Seed of the random numbers [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    #[command(flatten)]
    common: Common,
}

impl Demo {
    pub(crate) fn json(&self) -> bool {
        self.common.json
    }

    pub(crate) fn run(self) -> Result<Report, Failure> {
        let threads = threads(self.common.threads);
        let place = Place::new(self.db.clone())?;
        let table = Table::<i64>::open(place.path(), TABLE, SHAPE)?;
        let mut expected = table.rows()?;
        let capacity = self.capacity.unwrap_or(self.players as usize);
        let builder = Cache::builder().capacity(capacity).lanes(threads.max(16));
        let cache = self.common.tune(builder).backend(table.backend()).open::<i64, i64>()?;

        let title = format!(
            "{}, {}, skew {}{}",
            format::plural(threads as u64, "writer", "writers"),
            format::plural(self.players, "player", "players"),
            self.skew,
            match expected.len() as u64 {
                0 => String::new(),
                rows => format!(", on top of {}", format::plural(rows, "row", "rows")),
            }
        );
        let mut view = View::new(self.common.quiet);
        let start = Instant::now();
        let published =
            (0..threads).map(|_| Published::new()).collect::<Result<Vec<_>, _>>().map_err(histogram)?;
        let ledgers = self.play(&cache, &published, start, &mut view)?;
        let writing = start.elapsed();
        // Before the draining, which an interrupt does not cut short.
        let interrupted = interrupt::asked();
        let drain = drain(&cache, self.common.patience(), &mut view);
        view.finish();

        let (mut acked, mut refused, mut trouble) = (0, 0, None);
        let mut points: HashMap<i64, i64> = HashMap::new();
        for ledger in ledgers {
            acked += ledger.acked;
            refused += ledger.refused;
            trouble = trouble.or(ledger.stopped);
            let scored = (1..).zip(ledger.points).filter(|(_, won)| *won > 0);
            scored.for_each(|(player, won)| *points.entry(player).or_insert(0) += won);
        }
        let distinct = points.len() as u64;
        for (player, won) in points {
            let sum = expected.entry(player).or_insert(0);
            *sum = sum.saturating_add(won);
        }
        let rows = table.rows()?;
        let comparison = Comparison::of(&expected, &rows);
        Ok(Report {
            command: "demo",
            title,
            noun: "writes",
            keys: "players",
            unit: "points",
            acked,
            refused,
            distinct,
            writing,
            drain,
            stats: cache.stats(),
            latency: Published::percentiles(&published),
            comparison,
            top: top(rows).into_iter().map(|(player, points)| (format!("player {player}"), points)).collect(),
            database: table.path().to_owned(),
            table: table.name().to_owned(),
            kept: self.db.is_some(),
            interrupted,
            trouble: trouble.map(Trouble::Refused),
        })
    }

    fn play(
        &self,
        cache: &Cache<i64, i64>,
        published: &[Published],
        start: Instant,
        view: &mut View,
    ) -> Result<Vec<Ledger>, Failure> {
        let seed = self.seed.unwrap_or_else(rand::random);
        let end = start + self.seconds;
        let snapshot = || {
            let played = start.elapsed().min(self.seconds);
            Snapshot {
                phase: "playing",
                noun: "writes",
                position: played.as_millis() as u64,
                length: Some(self.seconds.as_millis() as u64),
                progress: format!("{:.1} of {:.1} s", played.as_secs_f64(), self.seconds.as_secs_f64()),
                stats: cache.stats(),
                latency: Published::percentiles(published),
            }
        };
        let rank = Zipf::new(self.players as f64, self.skew)
            .map_err(|error| Failure::Setting { setting: "--skew", reason: error.to_string() })?;
        thread::scope(|scope| {
            let (running, is_running) = mpsc::channel::<Infallible>();
            let mut writers = Vec::with_capacity(published.len());
            for (i, published) in published.iter().enumerate() {
                let running = running.clone();
                let rng = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add(i as u64));
                let players = self.players as usize;
                let work = move || {
                    let _running = running;
                    score(cache, players, rank, rng, end, published)
                };
                match thread::Builder::new().name(format!("writer {i}")).spawn_scoped(scope, work) {
                    Ok(writer) => writers.push(writer),
                    Err(error) => return Err(Failure::Spawn(error)),
                }
            }
            drop(running);
            view.watch(&is_running, snapshot);
            writers.into_iter().map(|writer| writer.join().unwrap_or(Err(Failure::Panicked))).collect()
        })
    }
}

/// What one writer was told, and nothing that it only hopes.
struct Ledger {
    /// The acknowledged points of each player, from player 1 on.
    points: Vec<i64>,
    acked: u64,
    refused: u64,
    /// Why it stopped early, if the cache was the reason.
    stopped: Option<String>,
}

/// Adds points until `end`, or until an interrupt.
fn score(
    cache: &Cache<i64, i64>,
    players: usize,
    rank: Zipf<f64>,
    mut rng: Xoshiro256PlusPlus,
    end: Instant,
    published: &Published,
) -> Result<Ledger, Failure> {
    let writer = Writer::new(cache);
    let mut latency = Recorder::new(published).map_err(histogram)?;
    let mut ledger = Ledger { points: vec![0; players], acked: 0, refused: 0, stopped: None };
    loop {
        for _ in 0..LOOK_UP_EVERY {
            let place = (rank.sample(&mut rng) as usize).clamp(1, players) - 1;
            let won = rng.random_range(1..=100);
            let asked = Instant::now();
            match writer.add(place as i64 + 1, won) {
                Ok(()) => {
                    latency.record(asked.elapsed());
                    ledger.points[place] += won;
                    ledger.acked += 1;
                }
                Err(error) if may_pass(&error) => {
                    ledger.refused += 1;
                    break;
                }
                Err(error) => {
                    ledger.stopped = Some(error.to_string());
                    return Ok(ledger);
                }
            }
        }
        let now = Instant::now();
        latency.publish(now);
        if now >= end || interrupt::asked() {
            return Ok(ledger);
        }
    }
}

/// Where the board is kept.
enum Place {
    Given(PathBuf),
    /// A folder of our own with the database in it, removed on drop.
    Temporary(PathBuf),
}

impl Place {
    fn new(given: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(path) = given {
            return Ok(Place::Given(path));
        }
        let base = std::env::temp_dir();
        // One that exists is somebody else's, or was left behind by a process that was killed.
        for attempt in 0..100 {
            let folder = base.join(format!("writeback-demo-{}-{attempt}", process::id()));
            match fs::create_dir(&folder) {
                Ok(()) => {
                    interrupt::guard_scratch(&folder);
                    return Ok(Place::Temporary(folder.join("leaderboard.db")));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Failure::Temporary { path: folder, source }),
            }
        }
        Err(Failure::Temporary { path: base, source: io::ErrorKind::AlreadyExists.into() })
    }

    fn path(&self) -> &Path {
        match self {
            Place::Given(path) | Place::Temporary(path) => path,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Place::Temporary(_) = self {
            interrupt::remove_scratch();
        }
    }
}

fn histogram(error: CreationError) -> Failure {
    Failure::Setting { setting: "the histogram of latencies", reason: error.to_string() }
}

fn skew(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(skew) if (0.0..=10.0).contains(&skew) => Ok(skew),
        _ => Err("give a number from 0 (all alike) to 10".to_owned()),
    }
}
