//! Durable writes: what a user would take who must not lose what was acknowledged, each with the promise that it is asked for.

mod engines;
mod ours;
#[cfg(feature = "rocksdb")]
mod rocks;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    AnyError,
    quantile::{median, quantile},
    report::{
        Plot, Section, Table,
        plot::{Shape, short, time},
    },
    tail,
    traces::progress,
    workload::{Random, Zipf, key},
};

/// What to measure.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// How many different keys are written, Zipf-distributed.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) keys: u64,
    /// How often each has its turn, for each promise.
    #[arg(long, default_value_t = 15)]
    pub(crate) rounds: usize,
    /// How long a turn is, in milliseconds, where nothing waits for a disk; four times that where it does.
    #[arg(long, default_value_t = 50)]
    pub(crate) slice: u64,
}

/// What a write that has returned survives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// The end of the process at any moment, not a loss of power.
    Crash,
    /// A loss of power too.
    Power,
}

/// A store of values of `N` bytes, written to by one thread, one write after the other.
trait Store<const N: usize> {
    /// With the setting that keeps the promise.
    fn name(&self) -> String;
    fn put(&mut self, key: u64, value: [u8; N]) -> Result<(), AnyError>;

    /// Its turn begins, and is over: see [`door`](crate::door).
    fn enter(&self, _slice: Duration) {}
    fn leave(&self) {}

    /// What it says of itself after the run.
    fn account(&mut self) -> Result<Option<String>, AnyError> {
        Ok(None)
    }
}

pub(crate) fn run(options: &Options, folder: &Path) -> Result<Section, AnyError> {
    let mut section = Section::new("Durable writes", "cargo run --release -- durable");
    section.text(format!(
        "One thread, a write at a time, {} keys of 8 bytes, Zipf-distributed, all of them there before where nothing waits for a disk; turns as above, on one file system. Everybody with default \
         settings but for those that are named. This engine writes what is dirty to SQLite in the background, in its own turns; what \
         others do in the background they do whenever they like. In the last column how many times as fast this engine is, in the same rounds.",
        options.keys
    ));
    for (promise, meaning) in [
        (Promise::Crash, "**What is acknowledged survives `kill -9`**, not a loss of power"),
        (Promise::Power, "**What is acknowledged survives a loss of power**"),
    ] {
        let mut accounts = Vec::new();
        compare::<8>(&mut section, options, promise, meaning, folder, &mut accounts)?;
        compare::<100>(&mut section, options, promise, meaning, folder, &mut accounts)?;
        section.text(format!("Of the last tables:\n\n- {}", accounts.join("\n- ")));
    }
    Ok(section)
}

/// All that can keep a promise, this engine first.
fn stores<const N: usize>(
    promise: Promise,
    capacity: usize,
    folder: &Path,
) -> Result<Vec<Box<dyn Store<N>>>, AnyError> {
    let mut stores = ours::stores(promise, capacity, folder)?;
    stores.extend(engines::stores(promise, folder)?);
    #[cfg(feature = "rocksdb")]
    stores.push(Box::new(rocks::Rocks::new(promise, folder)?));
    Ok(stores)
}

/// What came of a store's turns.
struct Written {
    /// Writes per second in each round.
    rates: Vec<f64>,
    latencies: Histogram<u64>,
}

fn compare<const N: usize>(
    section: &mut Section,
    options: &Options,
    promise: Promise,
    meaning: &str,
    folder: &Path,
    accounts: &mut Vec<String>,
) -> Result<(), AnyError> {
    let folder = tempfile::tempdir_in(folder)?;
    let keys = Zipf::new(options.keys).keys(1 << 20, 5);
    let mut stores = stores::<N>(promise, options.keys as usize * 9 / 8, folder.path())?;
    let slice = match promise {
        Promise::Crash => Duration::from_millis(options.slice),
        Promise::Power => Duration::from_millis(options.slice * 4),
    };
    let mut written: Vec<Written> =
        stores.iter().map(|_| Written { rates: Vec::new(), latencies: tail::histogram() }).collect();
    let mut order: Vec<usize> = (0..stores.len()).collect();
    let mut random = Random::new(3);
    progress(&format!("durable writes, {N} bytes"));
    // Where nothing waits for a disk, everybody begins with all keys.
    if promise == Promise::Crash {
        for store in &mut stores {
            store.enter(slice);
            (0..options.keys).try_for_each(|rank| store.put(key(rank), [0; N]))?;
            store.leave();
        }
    }
    for round in 0..=options.rounds {
        random.shuffle(&mut order);
        let place = random.next() as usize % keys.len();
        for &number in &order {
            let (store, written) = (&mut *stores[number], &mut written[number]);
            store.enter(slice);
            let keys = keys[place..].iter().chain(&keys[..place]).cycle();
            let rate = turn(store, keys, slice, &mut written.latencies)?;
            store.leave();
            // The first one makes files and warms up.
            match round {
                0 => written.latencies.reset(),
                _ => written.rates.push(rate),
            }
        }
    }
    let caption = format!("{meaning}; values of {N} bytes");
    let head = ["", "writes/s"].map(str::to_owned).into_iter().chain(tail::part_names());
    let mut table = Table::new(caption, head.chain(["writeback: times as fast".to_owned()]));
    let mut series = Vec::new();
    for (store, Written { rates, latencies }) in stores.iter().zip(&written) {
        let times =
            written[0].rates.iter().zip(rates).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>();
        let (least, most) = (quantile(&times, 0.1), quantile(&times, 0.9));
        let times = format!("{} ({}…{})", short(median(&times)), short(least), short(most));
        let cells = [store.name(), count(median(rates))].into_iter();
        table.row(cells.chain(tail::parts(latencies).map(time)).chain([times]));
        series.push((store.name(), tail::parts(latencies).collect()));
    }
    section.table(table);
    if N == 100 {
        section.plot(Plot {
            file: if promise == Promise::Crash { "durable-crash" } else { "durable-power" },
            title: format!("Latency of a durable write of {N} bytes, one thread"),
            y_label: "latency",
            places: tail::part_names().collect(),
            series,
            shape: Shape::LogLines,
        });
    }
    for store in &mut stores {
        store.enter(slice);
        accounts.extend(store.account()?.map(|account| format!("{account} ({N} bytes)")));
    }
    Ok(())
}

/// Half of the time for throughput, half for single latencies, so that looking at the clock slows nobody down.
fn turn<'k, const N: usize>(
    store: &mut dyn Store<N>,
    mut keys: impl Iterator<Item = &'k u64>,
    slice: Duration,
    latencies: &mut Histogram<u64>,
) -> Result<f64, AnyError> {
    let mut value = [7; N];
    let (start, mut count, half) = (Instant::now(), 0_u64, slice / 2);
    let took = loop {
        // Few, because a write may take milliseconds.
        for key in keys.by_ref().take(16) {
            value[..8].copy_from_slice(&count.to_le_bytes());
            store.put(*key, value)?;
            count += 1;
        }
        let took = start.elapsed();
        if took >= half {
            break took;
        }
    };
    let begin = Instant::now();
    for key in keys {
        let start = Instant::now();
        store.put(*key, value)?;
        let end = Instant::now();
        tail::record(latencies, end - start);
        if end - begin >= half {
            break;
        }
    }
    Ok(count as f64 / took.as_secs_f64())
}

/// A rate, with the digits that mean something.
fn count(rate: f64) -> String {
    match rate {
        _ if rate >= 1e6 => format!("{} M", short(rate / 1e6)),
        _ if rate >= 1e3 => format!("{} k", short(rate / 1e3)),
        _ => short(rate),
    }
}
