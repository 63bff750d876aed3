//! How many writes the backend is spared: replays of traces with reads and writes.

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lru::LruCache;
use writeback::{Answers, Backend, BackendError, Batch, Cache, Clock};

use crate::{
    AnyError,
    report::{Section, Table},
    traces::{self, Event},
};

/// What to replay.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Traces: lines of `time,op,key,...` with a head, `.zst` or not. Default: those in the folder beside the checkout.
    files: Vec<PathBuf>,
    /// Capacities in entries. Default: a tenth of the different keys.
    #[arg(long, value_delimiter = ',')]
    capacity: Vec<usize>,
}

/// The traces beside the checkout, and the capacity for which a plain LRU's figure is known.
const KNOWN: [(&str, usize, u64); 3] =
    [("hp_ajw_1week", 485, 4_614), ("cloudphysics_w92_sample", 4_897, 48_535), ("ms_dtrs", 9_372, 13_694)];

/// A database with a row for every key, which counts what is written to it.
struct Counter(AtomicU64);

impl Backend<u64, u64> for Counter {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        Ok(keys.iter().map(|key| Some(*key)).collect())
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.all_stored()
    }
}

/// How long entries may be dirty in a replay, and how many of them.
struct Setting {
    name: &'static str,
    max_delay: Duration,
    /// Half of the capacity if not given.
    flush_at: Option<usize>,
}

/// Longer than any trace.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

const SETTINGS: [Setting; 4] = [
    Setting { name: "no limit", max_delay: FOR_EVER, flush_at: Some(usize::MAX) },
    Setting { name: "half dirty", max_delay: FOR_EVER, flush_at: None },
    Setting { name: "30 s", max_delay: Duration::from_secs(30), flush_at: None },
    Setting { name: "500 ms", max_delay: Duration::from_millis(500), flush_at: None },
];

pub(crate) fn run(options: &Options, data: &Path) -> Result<Section, AnyError> {
    let mut section = Section::new("Write-back", "cargo run --release -- write-back [FILE...]");
    section.text(
        "Writes that reach the backend, of all writes of the trace, the final flush included. *LRU*: a plain one that writes a dirty entry when it \
         evicts it. This engine: *no limit*: nothing is due before it is in the way; *half dirty*: a flush begins when half of the entries are dirty \
         (the default); *30 s*, *500 ms*: besides, nothing is dirty for longer than that, by the time of the trace. An LRU that \
         writes only what it evicts keeps its entries dirty for hours: what is gained by that is lost in a crash.",
    );
    let head = ["trace", "capacity", "writes", "LRU"].map(str::to_owned);
    let ours = SETTINGS.iter().map(|setting| format!("writeback, {}", setting.name));
    let mut table = Table::new("Backend writes", head.into_iter().chain(ours));
    for path in &options.files {
        let events = traces::events(path)?;
        let tenth = [traces::distinct(events.iter().map(|event| event.key)).div_ceil(10)];
        let capacities = if options.capacity.is_empty() { &tenth } else { &options.capacity[..] };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for capacity in capacities {
            table.row(row(&name, *capacity, &events, None)?);
        }
    }
    if options.files.is_empty() {
        let folder = traces::folder(data, "write-back")?;
        for (trace, capacity, lru) in KNOWN {
            let events = traces::events(&folder.join(format!("{trace}.csv.zst")))?;
            table.row(row(trace, capacity, &events, Some(lru))?);
        }
    }
    section.table(table);
    Ok(section)
}

fn row(trace: &str, capacity: usize, events: &[Event], known: Option<u64>) -> Result<Vec<String>, AnyError> {
    let writes = events.iter().filter(|event| event.writes).count() as u64;
    let share = |part: u64| format!("{part} ({:.1} %)", 100.0 * part as f64 / writes as f64);
    let simulated = lru(capacity, events);
    let lru = match known {
        Some(known) if known != simulated => format!("{}, published {known}", share(simulated)),
        _ => share(simulated),
    };
    let mut row = vec![trace.to_owned(), capacity.to_string(), writes.to_string(), lru];
    for setting in &SETTINGS {
        traces::progress(&format!("{trace}, {}", setting.name));
        row.push(share(replay(capacity, events, setting)?));
    }
    Ok(row)
}

fn replay(capacity: usize, events: &[Event], setting: &Setting) -> Result<u64, AnyError> {
    let (clock, hand) = Clock::manual();
    let backend = Arc::new(Counter(AtomicU64::new(0)));
    let builder = Cache::builder().capacity(capacity).max_delay(setting.max_delay).clock(clock);
    let builder = match setting.flush_at {
        Some(dirty) => builder.flush_at(dirty),
        None => builder,
    };
    let cache = builder.backend(Arc::clone(&backend)).open::<u64, u64>()?;
    let handle = cache.handle()?;
    // By how much the trace is ahead of the cache's clock.
    let mut shown = 0;
    let tick = (setting.max_delay / 8).as_nanos() as u64;
    for (number, event) in events.iter().enumerate() {
        if event.at - shown >= tick {
            hand.advance(Duration::from_nanos(event.at - shown));
            shown = event.at;
            let is_overdue = || cache.stats().oldest_dirty_age.is_some_and(|age| age > setting.max_delay);
            wait_while(is_overdue);
        }
        if event.writes {
            handle.put(event.key, number as u64)?;
        } else {
            handle.get(&event.key)?;
        }
    }
    cache.flush()?;
    Ok(backend.0.load(Ordering::Relaxed))
}

/// The flusher works on a thread of its own, and a replay is much faster than the time that it replays.
fn wait_while(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while condition() && start.elapsed() < Duration::from_millis(20) {
        thread::yield_now();
    }
}

fn lru(capacity: usize, events: &[Event]) -> u64 {
    let mut cache = LruCache::new(NonZero::new(capacity).unwrap_or(NonZero::<usize>::MIN));
    let mut written = 0;
    for event in events {
        let is_dirty = cache.get(&event.key).copied().unwrap_or(false) || event.writes;
        if let Some((evicted, true)) = cache.push(event.key, is_dirty)
            && evicted != event.key
        {
            written += 1;
        }
    }
    written + cache.iter().filter(|(_, is_dirty)| **is_dirty).count() as u64
}
