//! Single operations: get, put, update, remove, and mixtures, by size of value and of the cache.
//!
//! `cargo bench --bench operations`. The keys follow a Zipf distribution (exponent 0.99); the flusher runs, against a
//! backend that costs nothing.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use writeback::{Answers, Backend, BackendError, Batch, Cache, Handle};

/// A database that takes everything at once.
struct Nowhere;

impl<V: Send + Sync> Backend<u64, V> for Nowhere {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<V>>, BackendError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    fn apply(&self, batch: &Batch<u64, V>) -> Answers {
        batch.all_stored()
    }
}

/// A fixed sequence of Zipf-distributed keys below `keys`, by inversion of the distribution.
fn zipf(keys: usize, count: usize) -> Vec<u64> {
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-0.99);
            sum
        })
        .collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let point = (random >> 11) as f64 / (1u64 << 53) as f64 * sum;
            // Ranks are spread over the key space, so that hot keys are not neighbours.
            (cumulated.partition_point(|upto| *upto < point) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
        .collect()
}

fn filled<V: Clone + Send + Sync + 'static>(keys: usize, value: V) -> Cache<u64, V> {
    let cache = Cache::builder().capacity(keys + keys / 8).backend(Nowhere).open::<u64, V>().expect("opens");
    for rank in 0..keys as u64 {
        cache.put(rank.wrapping_mul(0x9e37_79b9_7f4a_7c15), value.clone()).expect("there is room");
    }
    cache.flush().expect("the backend takes everything");
    cache
}

/// Runs `operation` over the key sequence, round after round.
fn bench<V: Clone + Send + Sync + 'static>(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    keys: usize,
    value: &V,
    mut operation: impl FnMut(&Handle<u64, V>, u64, usize),
) {
    let cache = filled(keys, value.clone());
    let handle = cache.handle().expect("a lane is free");
    let sequence = zipf(keys, 1 << 18);
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(1));
    let mut next = 0;
    group.bench_with_input(BenchmarkId::new(name, keys), &keys, |bencher, _| {
        bencher.iter(|| {
            next = (next + 1) & (sequence.len() - 1);
            operation(&handle, sequence[next], next);
        });
    });
    group.finish();
}

fn by_value_size<V: Clone + Send + Sync + 'static>(criterion: &mut Criterion, name: &str, value: &V) {
    let keys = 100_000;
    bench(criterion, "get", name, keys, value, |cache, key, _| drop(black_box(cache.get(&key))));
    bench(criterion, "put", name, keys, value, |cache, key, _| {
        drop(black_box(cache.put(key, value.clone())))
    });
}

fn operations(criterion: &mut Criterion) {
    by_value_size(criterion, "8 B", &0u64);
    by_value_size(criterion, "100 B", &[0u8; 100]);
    by_value_size(criterion, "1 KiB", &[0u8; 1024]);
    // In the second-level cache, in the third, and beyond both.
    for keys in [4_000, 200_000, 2_000_000] {
        bench(criterion, "get by size of the cache", "8 B", keys, &0u64, |cache, key, _| {
            drop(black_box(cache.get(&key)))
        });
        bench(
            criterion,
            "half get, half put, by size of the cache",
            "8 B",
            keys,
            &0u64,
            |cache, key, turn| {
                if turn % 2 == 0 {
                    drop(black_box(cache.get(&key)));
                } else {
                    drop(black_box(cache.put(key, turn as u64)));
                }
            },
        );
    }
    let keys = 100_000;
    bench(criterion, "update", "8 B", keys, &0u64, |cache, key, _| {
        drop(black_box(cache.update(key, |old| old.copied().unwrap_or(0) + 1)));
    });
    bench(criterion, "remove, then put", "8 B", keys, &0u64, |cache, key, _| {
        drop(black_box(cache.remove(&key)));
        drop(black_box(cache.put(key, key)));
    });
    bench(criterion, "get_many of 64", "8 B", keys, &0u64, |cache, key, _| {
        let keys: [u64; 64] = std::array::from_fn(|_| key);
        drop(black_box(cache.get_many(&keys)));
    });
}

/// Every put needs the place of another entry.
fn eviction(criterion: &mut Criterion) {
    let cache = Cache::builder().capacity(50_000).backend(Nowhere).open::<u64, u64>().expect("opens");
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
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2))
        .sample_size(20);
    targets = operations, eviction
}
criterion_main!(benches);
