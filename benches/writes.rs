//! Writes by acknowledgement, and operations by number of threads.
//!
//! `cargo bench --bench writes`. The journal lies on the disk that the crate is built on; the backend costs nothing.

mod common;

use std::{
    hint::black_box,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use writeback::{Ack, Cache};

use common::{TAKES_ALL, folder, key, zipf};

const KEYS: usize = 100_000;

/// Each acknowledgement of the same cache with a journal; and that from memory of one without.
fn acknowledgements(criterion: &mut Criterion) {
    let folder = folder();
    let builder = || Cache::builder().capacity(KEYS + KEYS / 8).backend(TAKES_ALL);
    let plain = builder().open::<u64, u64>().expect("opens");
    let journaled = builder().journal(folder.path().join("acks.journal")).open::<u64, u64>().expect("opens");
    let sequence = zipf(KEYS, 1 << 16);
    let mut group = criterion.benchmark_group("put, by acknowledgement");
    group.throughput(Throughput::Elements(1));
    for ack in [Ack::Memory, Ack::Journal, Ack::Synced, Ack::Backend] {
        let cache = if ack == Ack::Memory { &plain } else { &journaled };
        let handle = cache.handle().expect("a lane");
        (0..KEYS as u64).for_each(|rank| assert!(handle.put(key(rank), rank).is_ok()));
        let mut keys = sequence.iter().cycle();
        group.bench_function(format!("Ack::{ack:?}"), |bencher| {
            bencher.iter(|| handle.put_acked(*keys.next().expect("endless"), 7, black_box(ack)));
        });
    }
    group.finish();
}

/// All threads at once, each with a handle; the time for one operation of each of them.
fn threads(criterion: &mut Criterion) {
    let cache =
        Cache::builder().capacity(KEYS + KEYS / 8).backend(TAKES_ALL).open::<u64, u64>().expect("opens");
    (0..KEYS as u64).for_each(|rank| assert!(cache.put(key(rank), rank).is_ok()));
    let sequence = zipf(KEYS, 1 << 16);
    for (name, writes_of_hundred) in [("get", 0), ("mixed: one put in two", 50), ("put", 100)] {
        let mut group = criterion.benchmark_group(format!("{name}, by threads"));
        for count in [1, 2, 4] {
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter_custom(|rounds| together(&cache, &sequence, count, rounds, writes_of_hundred));
            });
        }
        group.finish();
    }
}

/// From when all have begun until the last has ended.
fn together(cache: &Cache<u64, u64>, sequence: &[u64], threads: usize, rounds: u64, writes: u64) -> Duration {
    let begin = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for thread in 0..threads {
            let begin = &begin;
            scope.spawn(move || {
                let handle = cache.handle().expect("a lane");
                let keys = sequence.iter().cycle().skip(thread * sequence.len() / threads);
                begin.wait();
                for (turn, key) in (0..rounds).zip(keys) {
                    if turn * 50 % 100 < writes {
                        drop(black_box(handle.put(*key, turn)));
                    } else {
                        drop(black_box(handle.get(key)));
                    }
                }
            });
        }
        begin.wait();
        Instant::now()
    })
    .elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = acknowledgements, threads
}
criterion_main!(benches);
