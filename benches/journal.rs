//! The journal: what a put costs more with it, how many synced writes a disk takes, and how fast a journal is read again.
//!
//! `cargo bench --bench journal`. Machines drift, so everything that is compared is measured in one process, in slices that
//! take turns, and what is printed is the median of the slices' ratios, with the tenth and the ninetieth percentile.

use std::{
    collections::VecDeque,
    fs::File,
    hint::black_box,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use writeback::{Ack, Answers, Backend, BackendError, Batch, Cache, Handle, JournalSync, codec::PlainBytes};

/// A database that takes everything at once, or nothing at all.
struct Nowhere {
    is_down: bool,
}

impl<V: Send + Sync> Backend<u64, V> for Nowhere {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<V>>, BackendError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    fn apply(&self, batch: &Batch<u64, V>) -> Answers {
        if self.is_down { batch.none_stored(BackendError::transient("down")) } else { batch.all_stored() }
    }

    fn identity(&self) -> String {
        "nowhere".to_owned()
    }
}

const TAKES_ALL: Nowhere = Nowhere { is_down: false };

/// A folder on the disk that the crate is built on: not in memory, where a sync costs nothing.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// A fixed sequence of Zipf-distributed keys (exponent 0.99), by inversion of the distribution.
fn zipf(keys: usize, count: usize) -> Vec<u64> {
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-0.99);
            sum
        })
        .collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as f64 / (1_u64 << 53) as f64 * sum
    };
    (0..count)
        .map(|_| {
            let draw = draw();
            key(cumulated.partition_point(|upto| *upto < draw) as u64)
        })
        .collect()
}

/// Spreads ranks over the numbers.
fn key(rank: u64) -> u64 {
    rank.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Tenth percentile, median and ninetieth percentile.
fn spread(mut numbers: Vec<f64>) -> [f64; 3] {
    numbers.sort_by(f64::total_cmp);
    [1, 5, 9].map(|tenth| numbers[numbers.len() * tenth / 10])
}

/// A cache that holds all keys, without and with a journal.
fn pair<V: Clone + Send + Sync + PlainBytes + 'static>(
    folder: &Path,
    keys: usize,
    value: &V,
) -> [Handle<u64, V>; 2] {
    let builder = || Cache::builder().capacity(keys + keys / 8).backend(TAKES_ALL);
    let without = builder().open().expect("opens");
    let with = builder().journal(folder.join("bench.journal")).open().expect("opens");
    [without, with].map(|cache| {
        let handle = cache.handle().expect("a lane");
        (0..keys as u64).for_each(|rank| assert!(handle.put(key(rank), value.clone()).is_ok()));
        handle
    })
}

fn puts<V: Clone + Send + Sync + PlainBytes + 'static>(criterion: &mut Criterion, name: &str, value: &V) {
    for keys in [100_000, 1_000_000] {
        let folder = folder();
        let handles = pair(folder.path(), keys, value);
        let sequence = zipf(keys, 1 << 18);
        let mut group = criterion.benchmark_group(format!("put, {name}, {keys} keys"));
        group.throughput(Throughput::Elements(1));
        for (handle, ack) in handles.iter().zip(["Ack::Memory", "Ack::Journal"]) {
            group.bench_function(ack, |bencher| {
                let mut sequence = sequence.iter().cycle();
                bencher.iter(|| handle.put(black_box(*sequence.next().expect("endless")), value.clone()));
            });
        }
        group.finish();
        let slice = 1 << 12;
        let (mut ratios, mut each) = (Vec::new(), [Vec::new(), Vec::new()]);
        for keys in sequence.chunks_exact(slice).cycle().take(3_000) {
            let [memory, journal] = [0, 1].map(|which| {
                let start = Instant::now();
                keys.iter().for_each(|key| assert!(handles[which].put(*key, value.clone()).is_ok()));
                let nanos = start.elapsed().as_nanos() as f64 / slice as f64;
                each[which].push(nanos);
                nanos
            });
            ratios.push(memory / journal);
        }
        let [low, ratio, high] = spread(ratios);
        let [memory, journal] = each.map(|nanos| spread(nanos)[1]);
        println!(
            "put, {name}, {keys} keys, in turns: Ack::Memory {memory:.0} ns, Ack::Journal {journal:.0} ns, throughput with \
             the journal {ratio:.2} of that without ({low:.2} to {high:.2})\n"
        );
    }
}

fn put(criterion: &mut Criterion) {
    puts(criterion, "8-byte values", &7_u64);
    puts(criterion, "100-byte values", &[7_u8; 100]);
}

/// How long writing and syncing one word of a file takes.
fn fdatasync(file: &File, times: u32) -> io::Result<Duration> {
    use std::os::unix::fs::FileExt;
    let start = Instant::now();
    for turn in 0..times {
        file.write_all_at(&turn.to_le_bytes(), u64::from(turn % 16) * 4096)?;
        file.sync_data()?;
    }
    Ok(start.elapsed() / times)
}

fn synced(_: &mut Criterion) {
    let folder = folder();
    let file = File::create(folder.path().join("file")).expect("a file");
    file.set_len(1 << 16).expect("space");
    let cache = Cache::builder()
        .capacity(100_000)
        .backend(TAKES_ALL)
        .journal(folder.path().join("bench.journal"))
        .journal_sync(JournalSync::Never)
        .open::<u64, u64>()
        .expect("opens");
    let handle = cache.handle().expect("a lane");
    let mut tickets = VecDeque::new();
    let (mut ratios, mut single, mut many) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = 0_u64;
    for _ in 0..60 {
        let alone = fdatasync(&file, 20).expect("syncs");
        let (start, count) = (Instant::now(), 10_000_u32);
        for _ in 0..count {
            if tickets.len() == 64 {
                let oldest: writeback::Ticket = tickets.pop_front().expect("64");
                oldest.wait().expect("synced");
            }
            tickets.push_back(handle.put_ticket(next % 50_000, next, Ack::Synced).expect("written"));
            next += 1;
        }
        let each = start.elapsed() / count;
        ratios.push(alone.as_secs_f64() / each.as_secs_f64());
        single.push(1.0 / alone.as_secs_f64());
        many.push(1.0 / each.as_secs_f64());
    }
    let [low, ratio, high] = spread(ratios);
    println!(
        "Ack::Synced with 64 tickets in the air: {:.0} writes/s, {ratio:.0} times the {:.0}/s of a single fdatasync \
         ({low:.0} to {high:.0})\n",
        spread(many)[1],
        spread(single)[1],
    );
}

/// A journal of `count` writes to `keys` keys that no backend has taken.
fn left_behind(folder: &Path, keys: u64, count: u64) -> PathBuf {
    let path = folder.join("left.journal");
    let cache = Cache::builder()
        .capacity(keys as usize)
        .backend(Nowhere { is_down: true })
        .drain_on_drop(Duration::ZERO)
        .max_delay(Duration::from_secs(3600))
        .flush_at(usize::MAX)
        .journal(&path)
        .journal_size(1 << 30)
        .open::<u64, u64>()
        .expect("opens");
    let handle = cache.handle().expect("a lane");
    (0..count).for_each(|turn| assert!(handle.put(key(turn % keys), turn).is_ok()));
    cache.sync().expect("synced");
    assert!(!cache.close(Duration::ZERO).is_drained());
    path
}

fn recovery(_: &mut Criterion) {
    let keys = 1_000_000_u64;
    for count in [keys, 4 * keys] {
        let folder = folder();
        let left = left_behind(folder.path(), keys, count);
        let (mut rates, mut firsts) = (Vec::new(), Vec::new());
        for round in 0..7 {
            let path = folder.path().join(format!("{round}.journal"));
            std::fs::copy(&left, &path).expect("a copy");
            let start = Instant::now();
            let cache = Cache::builder()
                .capacity(keys as usize)
                .backend(Nowhere { is_down: true })
                .drain_on_drop(Duration::ZERO)
                .max_delay(Duration::from_secs(3600))
                .flush_at(usize::MAX)
                .journal(&path)
                .open::<u64, u64>()
                .expect("opens");
            let opened = start.elapsed();
            assert_eq!(cache.get(&key(7)).expect("there"), Some(count - keys + 7));
            firsts.push(start.elapsed().as_secs_f64());
            assert_eq!(cache.recovery().expect("it has recovered").entries as u64, keys);
            assert_eq!(cache.stats().backend_writes, 0, "the first get is served before the first flush");
            rates.push(count as f64 / opened.as_secs_f64());
            drop(cache);
            std::fs::remove_file(path).expect("removed");
        }
        let [low, rate, high] = spread(rates);
        println!(
            "recovery of {count} records of {keys} keys: {:.2} M records/s ({:.2} to {:.2}), first get after {:.2} s\n",
            rate / 1e6,
            low / 1e6,
            high / 1e6,
            spread(firsts)[1],
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = put, synced, recovery
}
criterion_main!(benches);
