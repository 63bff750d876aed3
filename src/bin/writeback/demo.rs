//! `writeback demo`: a leaderboard under fire, and the proof that the database ends up with every point.

use std::{
    collections::HashMap,
    convert::Infallible,
    ffi::OsString,
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
use writeback::{Builder, Cache};

use crate::{
    crash::{self, Crash, Left},
    database::{self, Shape, Table},
    drain::drain,
    failure::Failure,
    format, interrupt,
    latency::{Published, Recorder},
    options::{Common, seconds, threads},
    record::{Page, Record, Told},
    report::{self, Report, Trouble, top},
    say,
    verify::Comparison,
    view::{Snapshot, View},
    writer::{Writer, may_pass},
};

const TABLE: &str = "leaderboard";
const SHAPE: Shape = Shape { key: "player", key_type: "INTEGER", value: "points" };

/// A writer looks after its histogram and for a reason to stop once in so many writes.
const LOOK_UP_EVERY: u32 = 64;

/// How much longer than asked the second process plays if nobody kills it.
const LIFE_AFTER_DEATH: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  writeback demo
  writeback demo --crash
  writeback demo --threads 4 --seconds 20 --players 1000000 --db board.db
  writeback demo --backend postgres://me@localhost/test
  writeback demo --json --quiet | jq .latency_ns.p99

Then look at the board:
  sqlite3 board.db 'SELECT player, points FROM leaderboard ORDER BY points DESC LIMIT 10'";

/// Update a leaderboard as fast as it goes, then check every row of the database.
///
/// Writer threads add points to the scores of players, a few of whom play most of the time (a Zipf
/// distribution), in a cache in front of SQLite, Postgres or Redis. Each writer keeps a ledger of the points that were acknowledged.
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

    /// Database to keep the board in: postgres://…, redis://… or sqlite:FILE; an existing board is played on
    #[arg(long, value_name = "URL", conflicts_with = "db")]
    backend: Option<database::Place>,

    /// Entries that the cache may hold [default: as many as there are players]
    #[arg(long, value_name = "N")]
    capacity: Option<usize>,

    /// Seed of the random numbers [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Let a second process play, kill it in the middle, and look after what it was promised
    ///
    /// It has a journal. When it is killed, its cache is opened again and drained, and each row must be what was
    /// acknowledged until the kill, according to a record that the process kept in shared memory.
    #[arg(long)]
    crash: bool,

    /// Play until killed, and keep this record (what `--crash` starts)
    #[arg(long, value_name = "RECORD", hide = true, requires_all = ["backend", "journal"], conflicts_with = "crash")]
    victim: Option<PathBuf>,

    #[command(flatten)]
    common: Common,
}

impl Demo {
    /// Runs whatever was asked for, and returns the exit code.
    pub(crate) fn start(self) -> Result<u8, Failure> {
        if let Some(record) = &self.victim {
            return self.suffer(record);
        }
        let json = self.common.json;
        if self.crash {
            return self.survive()?.print(json);
        }
        let report = self.run()?;
        report.print(json)?;
        Ok(report.exit_code())
    }

    /// The database that was asked for.
    fn place(&self) -> Option<database::Place> {
        self.backend.clone().or_else(|| self.db.clone().map(database::Place::Sqlite))
    }

    fn builder(&self, threads: usize) -> Builder {
        let capacity = self.capacity.unwrap_or(self.players as usize);
        Cache::builder().capacity(capacity).lanes(threads.max(16))
    }

    fn rank(&self) -> Result<Zipf<f64>, Failure> {
        Zipf::new(self.players as f64, self.skew)
            .map_err(|error| Failure::Setting { setting: "--skew", reason: error.to_string() })
    }

    fn title(&self, threads: usize, rows: usize) -> String {
        format!(
            "{}, {}, skew {}{}",
            format::plural(threads as u64, "writer", "writers"),
            format::plural(self.players, "player", "players"),
            self.skew,
            match rows as u64 {
                0 => String::new(),
                rows => format!(", on top of {}", format::plural(rows, "row", "rows")),
            }
        )
    }

    /// Starts a second process, kills it, and opens what it has left.
    fn survive(self) -> Result<Crash, Failure> {
        let (threads, players) = (threads(self.common.threads), self.players as usize);
        self.rank()?;
        let place = Place::new(self.place())?;
        // For the record, which nobody needs afterwards.
        let (own, folder);
        match &place {
            Place::Temporary(scratch, _) => folder = &scratch.0,
            Place::Given(_) => {
                own = Scratch::new()?;
                folder = &own.0;
            }
        }
        let table = Table::<i64>::open(place.database(), TABLE, SHAPE)?;
        let journal = self.common.journal.clone().unwrap_or_else(|| match place.database() {
            database::Place::Sqlite(_) => beside(table.path()),
            _ => folder.join("journal"),
        });
        let mut common = self.common.clone();
        common.journal = Some(journal.clone());
        let mut view = View::new(common.quiet);
        // What an earlier crash has left goes to the database first.
        drop(common.open(|| self.builder(threads), &table.backend(), &mut view)?);
        let base = table.rows()?;
        let record = folder.join("record");
        let unusable = |source| Failure::Temporary { path: record.clone(), source };
        Record::create(&record, threads, players).map_err(unusable)?;

        let mut arguments: Vec<OsString> = vec!["demo".into(), "--victim".into(), (&record).into()];
        let database = match place.database() {
            database::Place::Sqlite(_) => database::Place::Sqlite(table.path().to_owned()),
            server => server.clone(),
        };
        arguments.extend(["--backend".into(), database.argument(), "--journal".into(), (&journal).into()]);
        arguments.extend(["--players".into(), self.players.to_string().into()]);
        arguments.extend(["--skew".into(), self.skew.to_string().into()]);
        arguments.extend(["--seconds".into(), self.seconds.as_secs_f64().to_string().into()]);
        arguments.extend(["--threads".into(), threads.to_string().into()]);
        let capacity = self.capacity.unwrap_or(players);
        arguments.extend(["--capacity".into(), capacity.to_string().into()]);
        arguments.extend(self.seed.iter().flat_map(|seed| ["--seed".into(), seed.to_string().into()]));
        arguments.extend(common.arguments());
        let played = crash::play_and_kill(arguments, self.seconds, &view)?;

        let told = Told::read(&record, players).map_err(unusable)?;
        let title = self.title(threads, base.len());
        let kept = self.place().is_some();
        let left = Left { title, told, played, base, table: &table, journal: &journal, kept };
        let builder = || common.tune(self.builder(threads)).backend(table.backend()).journal(&journal);
        let open = || Ok(builder().open::<i64, i64>()?);
        let crash = Crash::look_into(left, open, common.patience(), &mut view)?;
        view.finish();
        if self.common.journal.is_none() && crash.is_drained() {
            // Nothing is in it, and nobody has asked for it.
            let _ = fs::remove_file(&journal);
        }
        Ok(crash)
    }

    /// The second process: plays until it is killed.
    fn suffer(&self, record: &Path) -> Result<u8, Failure> {
        let (threads, players) = (threads(self.common.threads), self.players as usize);
        let place = self.place().unwrap_or_else(|| database::Place::Sqlite(PathBuf::new()));
        let table = Table::<i64>::open(&place, TABLE, SHAPE)?;
        let mut view = View::new(true);
        let cache = self.common.open(|| self.builder(threads), &table.backend(), &mut view)?;
        let unusable = |source| Failure::Temporary { path: record.to_owned(), source };
        let mut record = Record::open(record, players).map_err(unusable)?;
        let (rank, seed) = (self.rank()?, self.seed.unwrap_or_else(rand::random));
        crash::end_with_input();
        report::print(crash::PLAYING)?;
        let end = Instant::now() + self.seconds + LIFE_AFTER_DEATH;
        thread::scope(|scope| {
            for (i, page) in record.pages().enumerate() {
                let rng = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add(i as u64));
                let cache = &cache;
                let work = move || score_on_record(cache, players, rank, rng, end, page);
                let writer = thread::Builder::new().name(format!("writer {i}"));
                writer.spawn_scoped(scope, work).map_err(Failure::Spawn)?;
            }
            Ok::<(), Failure>(())
        })?;
        Ok(2)
    }

    fn run(self) -> Result<Report, Failure> {
        let threads = threads(self.common.threads);
        let place = Place::new(self.place())?;
        let table = Table::<i64>::open(place.database(), TABLE, SHAPE)?;
        let mut view = View::new(self.common.quiet);
        let cache = self.common.open(|| self.builder(threads), &table.backend(), &mut view)?;
        // After the cache was opened: a journal may have had some of them.
        let mut expected = table.rows()?;

        let title = self.title(threads, expected.len());
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
            kept: self.place().is_some(),
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
        let rank = self.rank()?;
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

/// Adds points until `end`, or until the process is killed, and puts on record what was acknowledged.
fn score_on_record(
    cache: &Cache<i64, i64>,
    players: usize,
    rank: Zipf<f64>,
    mut rng: Xoshiro256PlusPlus,
    end: Instant,
    mut page: Page<'_>,
) {
    let writer = Writer::new(cache);
    while Instant::now() < end {
        for _ in 0..LOOK_UP_EVERY {
            let place = (rank.sample(&mut rng) as usize).clamp(1, players) - 1;
            let won = rng.random_range(1..=100);
            page.begin(place, won);
            match writer.add(place as i64 + 1, won) {
                Ok(()) => page.acked(place, won),
                Err(error) if may_pass(&error) => page.refused(),
                Err(error) => {
                    page.refused();
                    return say(&format!("error: {error}"));
                }
            }
        }
    }
}

/// Where the journal of a database is that was not given one.
fn beside(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".writeback");
    path.into()
}

/// A folder of our own, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let base = std::env::temp_dir();
        // One that exists is somebody else's, or was left behind by a process that was killed.
        for attempt in 0..100 {
            let folder = base.join(format!("writeback-demo-{}-{attempt}", process::id()));
            match fs::create_dir(&folder) {
                Ok(()) => {
                    interrupt::guard_scratch(&folder);
                    return Ok(Self(folder));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Failure::Temporary { path: folder, source }),
            }
        }
        Err(Failure::Temporary { path: base, source: io::ErrorKind::AlreadyExists.into() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        interrupt::remove_scratch();
    }
}

/// Where the board is kept.
enum Place {
    Given(database::Place),
    /// In a folder of our own.
    Temporary(Scratch, database::Place),
}

impl Place {
    fn new(given: Option<database::Place>) -> Result<Self, Failure> {
        match given {
            Some(place) => Ok(Place::Given(place)),
            None => Scratch::new().map(|folder| {
                let path = folder.0.join("leaderboard.db");
                Place::Temporary(folder, database::Place::Sqlite(path))
            }),
        }
    }

    fn database(&self) -> &database::Place {
        match self {
            Place::Given(place) | Place::Temporary(_, place) => place,
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
