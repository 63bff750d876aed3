//! The way to the backend: how fast dirty entries drain, and what coalescing saves.
//!
//! `cargo bench --bench flush`

use std::{sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use writeback::{Cache, backend::Memory};

fn drain(criterion: &mut Criterion) {
    let count = 20_000u64;
    let mut group = criterion.benchmark_group("flush");
    group.throughput(Throughput::Elements(count));
    group.bench_function("20,000 dirty entries into a hash map", |bencher| {
        let rows = Arc::new(Memory::unrecorded());
        let builder = Cache::builder()
            .capacity(2 * count as usize)
            .flush_at(usize::MAX)
            .max_delay(Duration::from_secs(3600));
        let cache = builder.backend(rows).open::<u64, u64>().expect("opens");
        let fill = || (0..count).for_each(|key| assert!(cache.put(key, key).is_ok()));
        bencher.iter_batched(
            fill,
            |()| cache.flush().expect("the map takes everything"),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("20,000 writes of 100 keys into a hash map", |bencher| {
        let rows = Arc::new(Memory::unrecorded());
        let builder =
            Cache::builder().capacity(1_000).flush_at(usize::MAX).max_delay(Duration::from_secs(3600));
        let cache = builder.backend(rows).open::<u64, u64>().expect("opens");
        bencher.iter(|| {
            (0..count).for_each(|turn| assert!(cache.put(turn % 100, turn).is_ok()));
            cache.flush().expect("the map takes everything");
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    targets = drain
}
criterion_main!(benches);
