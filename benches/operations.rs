//! Single operations of one thread: get, put, mixed, update, remove, many at once, by size of value and of the cache.
//!
//! `cargo bench --bench operations`. The keys follow a Zipf distribution (exponent 0.99); the flusher runs, against a
//! backend that costs nothing.

mod common;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use writeback::{Cache, Handle};

use common::{TAKES_ALL, key, zipf};

/// A cache with all keys in it, none of them dirty.
fn filled<V: Clone + Send + Sync + 'static>(keys: usize, value: &V) -> Handle<u64, V> {
    let cache =
        Cache::builder().capacity(keys + keys / 8).backend(TAKES_ALL).open::<u64, V>().expect("opens");
    for rank in 0..keys as u64 {
        cache.put(key(rank), value.clone()).expect("there is room");
    }
    cache.flush().expect("the backend takes everything");
    cache.handle().expect("a lane is free")
}

/// The same operation with each key of a sequence in turn.
struct Bench<'a, V> {
    name: &'a str,
    handle: Handle<u64, V>,
    sequence: Vec<u64>,
    keys: usize,
}

impl<'a, V: Clone + Send + Sync + 'static> Bench<'a, V> {
    fn new(name: &'a str, keys: usize, value: &V) -> Self {
        Bench { name, handle: filled(keys, value), sequence: zipf(keys, 1 << 18), keys }
    }

    /// One operation with `each` keys, called `operation` in the report.
    fn run(
        &self,
        criterion: &mut Criterion,
        operation: &str,
        each: usize,
        mut carry_out: impl FnMut(&Handle<u64, V>, &[u64], usize),
    ) {
        let mut group = criterion.benchmark_group(operation);
        group.throughput(Throughput::Elements(each as u64));
        let mut next = 0;
        group.bench_function(BenchmarkId::new(self.name, self.keys), |bencher| {
            bencher.iter(|| {
                next = (next + each) & (self.sequence.len() - 1);
                carry_out(&self.handle, &self.sequence[next..next + each], next);
            });
        });
        group.finish();
    }
}

/// Everything that is done with a key.
fn all<V: Clone + Send + Sync + 'static>(criterion: &mut Criterion, name: &str, keys: usize, value: &V) {
    let bench = Bench::new(name, keys, value);
    bench.run(criterion, "get", 1, |cache, keys, _| drop(black_box(cache.get(&keys[0]))));
    bench.run(criterion, "put", 1, |cache, keys, _| drop(black_box(cache.put(keys[0], value.clone()))));
    bench.run(criterion, "mixed: one put in two", 1, |cache, keys, turn| {
        if turn % 2 == 0 {
            drop(black_box(cache.get(&keys[0])));
        } else {
            drop(black_box(cache.put(keys[0], value.clone())));
        }
    });
    bench.run(criterion, "update", 1, |cache, keys, _| {
        drop(black_box(cache.update(keys[0], |old| old.unwrap_or(value).clone())));
    });
    bench.run(criterion, "remove, then put", 1, |cache, keys, _| {
        drop(black_box(cache.remove(&keys[0])));
        drop(black_box(cache.put(keys[0], value.clone())));
    });
}

fn operations(criterion: &mut Criterion) {
    let keys = 100_000;
    all(criterion, "8 B", keys, &0_u64);
    all(criterion, "100 B", keys, &[0_u8; 100]);
    all(criterion, "1 KiB", keys, &[0_u8; 1024]);
    // In the second-level cache, in the third, and beyond both; what lies between is above.
    for keys in [4_000, 400_000, 4_000_000] {
        let bench = Bench::new("8 B", keys, &0_u64);
        bench.run(criterion, "get", 1, |cache, keys, _| drop(black_box(cache.get(&keys[0]))));
        bench.run(criterion, "put", 1, |cache, keys, turn| drop(black_box(cache.put(keys[0], turn as u64))));
    }
    let bench = Bench::new("8 B", keys, &0_u64);
    bench.run(criterion, "get_many of 64", 64, |cache, keys, _| drop(black_box(cache.get_many(keys))));
    bench.run(criterion, "put_many of 64", 64, |cache, keys, turn| {
        drop(black_box(cache.put_many(keys.iter().map(|key| (*key, turn as u64)))));
    });
}

/// Every put needs the place of another entry.
fn eviction(criterion: &mut Criterion) {
    let cache = Cache::builder().capacity(50_000).backend(TAKES_ALL).open::<u64, u64>().expect("opens");
    let handle = cache.handle().expect("a lane is free");
    let mut key = 0;
    criterion.bench_function("put of a new key into a full cache", |bencher| {
        bencher.iter(|| {
            key += 1;
            handle.put(key, key).expect("the flusher makes room")
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = operations, eviction
}
criterion_main!(benches);
