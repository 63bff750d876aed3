//! Hit ratios on real traces, beside those of other policies: `cargo test --release --test hit_ratio -- --nocapture`.
//!
//! The traces lie in a folder beside the checkout, `../shared/data/hit-ratio`, as little-endian `u32` keys; without it
//! the test says so and passes. The figures of the other policies were simulated with libCacheSim 0.3.5, every miss
//! inserted, capacity in entries.

use std::path::{Path, PathBuf};

use writeback::{Answers, Backend, BackendError, Batch, Cache};

/// A database that has a row for every key.
struct Everything;

impl Backend<u32, u32> for Everything {
    fn load(&self, keys: &[u32]) -> Result<Vec<Option<u32>>, BackendError> {
        Ok(keys.iter().map(|key| Some(*key)).collect())
    }

    fn apply(&self, batch: &Batch<u32, u32>) -> Answers {
        batch.all_stored()
    }
}

struct Row {
    trace: &'static str,
    capacity: usize,
    lru: f64,
    clock: f64,
    s3_fifo: f64,
    /// The best of LRU, CLOCK, SIEVE, ARC, 2Q, S3-FIFO and adaptive W-TinyLFU.
    best: f64,
}

const fn row(trace: &'static str, capacity: usize, lru: f64, clock: f64, s3_fifo: f64, best: f64) -> Row {
    Row { trace, capacity, lru, clock, s3_fifo, best }
}

const ROWS: [Row; 9] = [
    row("oltp", 250, 16.47, 16.88, 21.68, 24.73),
    row("oltp", 500, 23.45, 24.08, 32.42, 33.70),
    row("oltp", 1000, 32.83, 33.27, 40.86, 40.86),
    row("oltp", 2000, 42.47, 43.03, 47.03, 47.03),
    row("cluster52", 1435, 66.24, 66.29, 69.69, 70.38),
    row("cluster52", 14354, 79.32, 79.26, 81.24, 81.24),
    row("sprite", 100, 21.58, 21.89, 29.16, 29.16),
    row("sprite", 600, 83.19, 83.17, 83.26, 83.26),
    row("gli", 1000, 11.21, 11.31, 44.34, 50.57),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/hit-ratio")
}

fn trace(name: &str) -> Vec<u32> {
    let file =
        std::fs::File::open(folder().join(format!("{name}.u32.zst"))).expect("the trace can be opened");
    let bytes = zstd::decode_all(file).expect("the trace can be decompressed");
    bytes.chunks_exact(4).map(|key| u32::from_le_bytes([key[0], key[1], key[2], key[3]])).collect()
}

fn replay(requests: &[u32], capacity: usize) -> f64 {
    let cache = Cache::builder().capacity(capacity).backend(Everything).open::<u32, u32>().expect("opens");
    let handle = cache.handle().expect("a lane is free");
    for key in requests {
        assert_eq!(handle.get(key).expect("loads"), Some(*key));
    }
    let stats = cache.stats();
    assert_eq!(stats.hits + stats.misses, requests.len() as u64);
    assert!(stats.entries <= capacity && stats.evictions > 0);
    100.0 * stats.hit_ratio()
}

#[test]
fn hit_ratio_on_real_traces_stands_beside_the_best_policies() {
    if !folder().is_dir() {
        println!("skipped: there are no traces in {}", folder().display());
        return;
    }
    println!(
        "{:10} {:>8} | {:>7} | {:>6} {:>6} {:>7} {:>6}",
        "trace", "capacity", "this", "LRU", "CLOCK", "S3-FIFO", "best"
    );
    let mut loaded = ("", Vec::new());
    for row in &ROWS {
        if loaded.0 != row.trace {
            loaded = (row.trace, trace(row.trace));
        }
        let ours = replay(&loaded.1, row.capacity);
        let Row { trace, capacity, lru, clock, s3_fifo, best } = row;
        println!(
            "{trace:10} {capacity:>8} | {ours:>7.2} | {lru:>6.2} {clock:>6.2} {s3_fifo:>7.2} {best:>6.2}"
        );
        // The hash is seeded anew for each cache, which moves the figures by a few hundredths.
        assert!(
            ours >= s3_fifo.min(*clock) - 0.1,
            "{trace} at {capacity}: {ours:.2} is below both CLOCK and S3-FIFO"
        );
        assert!(
            ours >= best - 0.5,
            "{trace} at {capacity}: {ours:.2} is more than half a point below the best, {best:.2}"
        );
    }
}
