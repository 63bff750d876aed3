//! `writeback count`: real events, counted in a table of a database through the cache.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use clap::{ArgGroup, Args, builder::NonEmptyStringValueParser};
use writeback::{Cache, Error};

use crate::{
    database::{Place, Shape, Table},
    drain::drain,
    failure::Failure,
    feed::{Events, Feed},
    format,
    input::Input,
    interrupt,
    options::{Common, threads},
    report::{Report, Trouble, top},
    verify::Comparison,
    view::{Snapshot, View},
    writer::{Writer, may_pass},
};

const SHAPE: Shape = Shape { key: "key", key_type: "TEXT", value: "n" };

/// How long a writer waits before it offers the cache a refused event again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  writeback count --input bible.txt.zst --db counts.db --words
  writeback count --input flights.csv --db counts.db --column origin --table airports
  writeback count --input bible.txt --backend postgres://me@localhost/test --words
  tail -n +1 -f access.log | writeback count --input - --db counts.db --words --add

Then ask the table whatever you like:
  sqlite3 counts.db 'SELECT key, n FROM counts ORDER BY n DESC LIMIT 10'

Without --add or --replace, a table that already has rows is left alone and the command refuses to run.
After an interrupt the table holds what was counted until then, and the exit code is 130.";

/// Count the words of a text, or the values of a CSV column, into a table.
///
/// Each event is one `update(key, +1)` on the cache; what reaches the database are the sums, coalesced and in
/// batches. At the end all rows are read back and compared with an exact tally, kept beside the cache.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("events").required(true).args(["words", "column"]))]
pub(crate) struct Count {
    /// File to read, plain or compressed with Zstandard; - reads the standard input
    #[arg(long, short, value_name = "FILE", value_parser = NonEmptyStringValueParser::new())]
    input: String,

    /// SQLite database to count into; made if there is none
    #[arg(long, value_name = "FILE", required_unless_present = "backend", conflicts_with = "backend")]
    db: Option<PathBuf>,

    /// Database to count into: postgres://…, redis://… or sqlite:FILE
    #[arg(long, value_name = "URL")]
    backend: Option<Place>,

    /// Count words: [a-z]+('[a-z]+)? in the lower-cased text (ASCII)
    #[arg(long)]
    words: bool,

    /// Count the values of this column; the input is CSV and its first line names the columns
    #[arg(long, value_name = "NAME")]
    column: Option<String>,

    /// Table to count into, with the columns `key TEXT PRIMARY KEY` and `n INTEGER`; in Redis the beginning of the keys
    #[arg(long, value_name = "NAME", default_value = "counts")]
    table: String,

    /// Count on top of the rows that the table already has
    #[arg(long, conflicts_with = "replace")]
    add: bool,

    /// Delete the rows that the table already has
    #[arg(long)]
    replace: bool,

    /// Entries that the cache may hold; fewer than there are distinct keys means evictions and loads
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    capacity: usize,

    #[command(flatten)]
    common: Common,
}

impl Count {
    pub(crate) fn json(&self) -> bool {
        self.common.json
    }

    pub(crate) fn run(self) -> Result<Report, Failure> {
        let threads = threads(self.common.threads);
        let input = Input::from(self.input.as_str());
        let (events, title, keys) = match self.column {
            Some(column) => {
                let title = format!("the values of `{column}` in {}", input.name());
                (Events::Column(column), title, "values")
            }
            None => (Events::Words, format!("the words of {}", input.name()), "words"),
        };
        // The input first: one that cannot be read must not cost anybody the rows that are to be replaced.
        let feed = Feed::start(input, events)?;
        let place =
            self.backend.or(self.db.map(Place::Sqlite)).unwrap_or_else(|| Place::Sqlite(PathBuf::new()));
        let table = Table::<String>::open(&place, &self.table, SHAPE)?;
        let mut view = View::new(self.common.quiet);
        // Before anyone looks at the rows: an earlier run may have left some of them in the journal.
        let make = || Cache::builder().capacity(self.capacity).lanes(threads.max(16));
        let cache = self.common.open(make, &table.backend(), &mut view)?;
        if self.replace {
            table.clear()?;
        } else if !self.add {
            refuse_rows(&table)?;
        }
        let mut expected = table.rows()?;
        let start = Instant::now();
        let Counted { tally, stopped } =
            count_all(&cache, &feed, threads, self.common.patience(), &mut view)?;
        let writing = start.elapsed();
        let drain = drain(&cache, self.common.patience(), &mut view);
        view.finish();

        let interrupted = stopped.is_none() && !feed.has_ended();
        let trouble = match stopped {
            Some(reason) => Some(Trouble::Refused(reason)),
            None if interrupted => None,
            None => feed.finish().err().map(Trouble::Input),
        };
        let (distinct, acked) = (tally.len() as u64, tally.values().sum());
        for (key, n) in tally {
            let sum = expected.entry(key).or_insert(0);
            *sum = sum.saturating_add_unsigned(n);
        }
        let rows = table.rows()?;
        let comparison = Comparison::of(&expected, &rows);
        Ok(Report {
            command: "count",
            title,
            noun: "events",
            keys,
            unit: "events",
            acked,
            refused: 0,
            distinct,
            writing,
            drain,
            stats: cache.stats(),
            latency: None,
            comparison,
            top: top(rows),
            database: table.path().to_owned(),
            table: table.name().to_owned(),
            kept: true,
            interrupted,
            trouble,
        })
    }
}

fn refuse_rows(table: &Table<String>) -> Result<(), Failure> {
    match table.row_count()? {
        0 => Ok(()),
        rows => Err(Failure::TableInUse {
            path: table.path().to_owned(),
            table: table.name().to_owned(),
            rows: format::plural(rows, "row", "rows"),
        }),
    }
}

/// How often each key was counted, according to the acknowledgements alone.
type Tally = HashMap<String, u64>;

/// What all threads together have counted.
struct Counted {
    tally: Tally,
    /// Why they stopped early, if the cache was the reason.
    stopped: Option<String>,
}

fn count_all(
    cache: &Cache<String, i64>,
    feed: &Feed,
    threads: usize,
    patience: Duration,
    view: &mut View,
) -> Result<Counted, Failure> {
    let pace = Pace { patience, ..Pace::default() };
    let snapshot = || {
        let (read, size) = (feed.bytes_read(), feed.size());
        let mut progress = match size {
            Some(size) => format!("{} of {}", format::bytes(read), format::bytes(size)),
            None => format!("{} read", format::bytes(read)),
        };
        if let Some(reason) = *pace.waiting() {
            progress.push_str(", waiting for ");
            progress.push_str(reason);
        }
        Snapshot {
            phase: "counting",
            noun: "events",
            position: read,
            length: size,
            progress,
            stats: cache.stats(),
            latency: None,
        }
    };
    thread::scope(|scope| {
        let (running, is_running) = mpsc::channel::<Infallible>();
        let mut workers = Vec::with_capacity(threads);
        for i in 0..threads {
            let running = running.clone();
            let pace = &pace;
            let work = move || {
                let _running = running;
                count_some(cache, feed, pace)
            };
            match thread::Builder::new().name(format!("counter {i}")).spawn_scoped(scope, work) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    pace.stop.store(true, Ordering::Relaxed);
                    return Err(Failure::Spawn(error));
                }
            }
        }
        drop(running);
        view.watch(&is_running, snapshot);
        let mut all = Counted { tally: Tally::new(), stopped: None };
        for worker in workers {
            let some = worker.join().map_err(|_| Failure::Panicked)?;
            for (key, n) in some.tally {
                *all.tally.entry(key).or_insert(0) += n;
            }
            all.stopped = all.stopped.or(some.stopped);
        }
        Ok(all)
    })
}

fn count_some(cache: &Cache<String, i64>, feed: &Feed, pace: &Pace) -> Counted {
    let writer = Writer::new(cache);
    let mut tally = Tally::new();
    while let Some(batch) = feed.next() {
        for key in batch {
            let mut refused_since = None;
            while let Err(error) = writer.add(key.clone(), 1) {
                if interrupt::asked() {
                    return Counted { tally, stopped: None };
                }
                let since: Instant = *refused_since.get_or_insert_with(Instant::now);
                if !may_pass(&error) || since.elapsed() > pace.patience || pace.stop.load(Ordering::Relaxed) {
                    pace.stop.store(true, Ordering::Relaxed);
                    return Counted { tally, stopped: Some(error.to_string()) };
                }
                *pace.waiting() = Some(match error {
                    Error::Load(_) => "the database to answer",
                    _ => "room in the cache",
                });
                thread::sleep(RETRY_AFTER);
            }
            match tally.get_mut(&key) {
                Some(n) => *n += 1,
                None => drop(tally.insert(key, 1)),
            }
        }
        *pace.waiting() = None;
        if pace.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Counted { tally, stopped: None }
}

/// What the threads tell each other and the view.
#[derive(Default)]
struct Pace {
    /// The cache has refused an event for good: there is no point in going on.
    stop: AtomicBool,
    /// How long the cache may refuse an event that it may yet take.
    patience: Duration,
    /// What an event has to wait for.
    waiting: Mutex<Option<&'static str>>,
}

impl Pace {
    fn waiting(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
