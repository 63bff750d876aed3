//! Hit ratios: replays of traces, all caches in the same run.

use std::path::{Path, PathBuf};

use lru::LruCache;
use writeback::{Answers, Backend, BackendError, Batch, Cache};

use crate::{
    AnyError,
    report::{Section, Table},
    subjects::{AnySubject, Foyer, Moka, Quick, TinyUfo},
    traces,
};

/// What to replay.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Traces: `.u32` and `.u64` are little-endian numbers, everything else text with a request in each line; either may be
    /// compressed (`.zst`). Default: those in the folder beside the checkout.
    files: Vec<PathBuf>,
    /// Capacities in entries. Default: a hundredth and a tenth of the different keys.
    #[arg(long, value_delimiter = ',')]
    capacity: Vec<usize>,
    /// Which field of a line is the key, from 1.
    #[arg(long, default_value_t = 1)]
    field: usize,
}

/// What others do on the traces beside the checkout: simulated with libCacheSim 0.3.5, every miss inserted, in percent.
struct Known {
    trace: &'static str,
    capacity: usize,
    /// LRU, S3-FIFO, the best of LRU, CLOCK, SIEVE, ARC, 2Q, S3-FIFO and adaptive W-TinyLFU, and OPT, which knows the future.
    others: [f64; 4],
}

const fn known(trace: &'static str, capacity: usize, others: [f64; 4]) -> Known {
    Known { trace, capacity, others }
}

const KNOWN: [Known; 9] = [
    known("oltp", 250, [16.47, 21.68, 24.73, 38.43]),
    known("oltp", 500, [23.45, 32.42, 33.70, 46.42]),
    known("oltp", 1000, [32.83, 40.86, 40.86, 53.61]),
    known("oltp", 2000, [42.47, 47.03, 47.03, 60.40]),
    known("cluster52", 1435, [66.24, 69.69, 70.38, 76.14]),
    known("cluster52", 14354, [79.32, 81.24, 81.24, 85.00]),
    known("sprite", 100, [21.58, 29.16, 29.16, 50.80]),
    known("sprite", 600, [83.19, 83.26, 83.26, 89.95]),
    known("gli", 1000, [11.21, 44.34, 50.57, 53.13]),
];

/// A database that has a row for every key.
struct Everything;

impl Backend<u64, u64> for Everything {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        Ok(keys.iter().map(|key| Some(*key)).collect())
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        batch.all_stored()
    }
}

pub(crate) fn run(options: &Options, data: &Path) -> Result<Section, AnyError> {
    let mut section = Section::new("Hit ratio", "cargo run --release -- hit-ratio [FILE...]");
    section.text(
        "Hits in percent of all requests, capacity in entries, every miss inserted. This engine is asked with `get` and loads what is missing; \
         the others are asked, and given what they did not have. Caches that divide themselves have one part here, and moka carries out \
         after each insertion what it has put off: at these capacities its queues would otherwise hold more than the cache. LRU is \
         simulated in the same run.",
    );
    let mut table = Table::new(
        "Hit ratio, %",
        [
            "trace",
            "capacity",
            "writeback",
            "moka",
            "quick_cache",
            "TinyUFO",
            "foyer",
            "LRU",
            "S3-FIFO ¹",
            "best of 7 ¹",
            "OPT ¹",
        ],
    );
    let dash = || "–".to_owned();
    for path in &options.files {
        let keys = traces::keys(path, options.field)?;
        let distinct = traces::distinct(keys.iter().copied());
        let shares = [distinct.div_ceil(100), distinct.div_ceil(10)];
        let capacities = if options.capacity.is_empty() { &shares } else { &options.capacity[..] };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for capacity in capacities {
            let known = std::array::from_fn::<_, 3, _>(|_| dash());
            table.row(row(&name, *capacity, &keys)?.into_iter().chain(known));
        }
    }
    if options.files.is_empty() {
        let folder = traces::folder(data, "hit-ratio")?;
        let mut loaded = ("", Vec::new());
        for Known { trace, capacity, others: [_, s3_fifo, best, opt] } in &KNOWN {
            if loaded.0 != *trace {
                loaded = (trace, traces::keys(&folder.join(format!("{trace}.u32.zst")), 1)?);
            }
            let known = [s3_fifo, best, opt].map(|ratio| format!("{ratio:.2}"));
            table.row(row(trace, *capacity, &loaded.1)?.into_iter().chain(known));
        }
    }
    section.table(table);
    section.text(
        "¹ Simulated earlier with libCacheSim 0.3.5; best of LRU, CLOCK, SIEVE, ARC, 2Q, S3-FIFO and adaptive W-TinyLFU; OPT knows the \
         future.",
    );
    Ok(section)
}

fn row(trace: &str, capacity: usize, keys: &[u64]) -> Result<Vec<String>, AnyError> {
    traces::progress(&format!("{trace} at {capacity}"));
    let subjects: [Box<dyn AnySubject>; 4] = [
        Box::new(Moka::new(capacity)),
        Box::new(Quick::unsharded(capacity)),
        Box::new(TinyUfo::new(capacity)),
        Box::new(Foyer::unsharded(capacity)),
    ];
    let percent = |hits: usize| format!("{:.2}", 100.0 * hits as f64 / keys.len() as f64);
    let mut row = vec![trace.to_owned(), capacity.to_string(), percent(ours(capacity, keys)?)];
    row.extend(subjects.iter().map(|subject| percent(peer(&**subject, keys))));
    row.push(percent(lru(capacity, keys)));
    Ok(row)
}

fn ours(capacity: usize, keys: &[u64]) -> Result<usize, AnyError> {
    let cache = Cache::builder().capacity(capacity).backend(Everything).open::<u64, u64>()?;
    let handle = cache.handle()?;
    for key in keys {
        handle.get(key)?;
    }
    Ok(cache.stats().hits as usize)
}

fn peer(subject: &dyn AnySubject, keys: &[u64]) -> usize {
    let mut worker = subject.worker();
    let mut hits = 0;
    for key in keys {
        if worker.get(*key).is_some() {
            hits += 1;
        } else {
            worker.put(*key, *key);
            subject.settle();
        }
    }
    hits
}

fn lru(capacity: usize, keys: &[u64]) -> usize {
    let mut cache = LruCache::new(capacity.try_into().unwrap_or(std::num::NonZero::<usize>::MIN));
    keys.iter().filter(|key| cache.put(**key, ()).is_some()).count()
}
