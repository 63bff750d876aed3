//! The journal: what a put costs more with it, how many synced writes a disk takes, and how fast a journal is read again.
//!
//! `cargo bench --bench journal`. Machines drift, so everything that is compared is measured in one process, in slices that
//! take turns, and what is printed is the median of the slices' ratios, with the tenth and the ninetieth percentile.

mod common;

use std::{
    collections::VecDeque,
    fs::File,
    hint::black_box,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use writeback::{Ack, Cache, Handle, JournalSync, codec::PlainBytes};

use common::{Nowhere, TAKES_ALL, folder, key, uniform, zipf};

/// Tenth percentile, median and ninetieth percentile.
fn spread(mut numbers: Vec<f64>) -> [f64; 3] {
    numbers.sort_by(f64::total_cmp);
    [1, 5, 9].map(|tenth| numbers[numbers.len() * tenth / 10])
}

/// What is compared: no journal, one that survives crashes of the process, and one that is also synced every second.
const SUBJECTS: [&str; 3] =
    ["Ack::Memory", "Ack::Journal, never synced", "Ack::Journal, synced every second"];

/// Caches that hold all keys.
fn subjects<V: Clone + Send + Sync + PlainBytes + 'static>(
    folder: &Path,
    keys: usize,
    value: &V,
) -> [Handle<u64, V>; 3] {
    let builder = || Cache::builder().capacity(keys + keys / 8).backend(TAKES_ALL);
    let journal = |name| builder().journal(folder.join(name)).journal_size(512 << 20);
    let caches = [
        builder().open().expect("opens"),
        journal("never").journal_sync(JournalSync::Never).open().expect("opens"),
        journal("second").journal_sync(JournalSync::Every(Duration::from_secs(1))).open().expect("opens"),
    ];
    caches.map(|cache| {
        let handle = cache.handle().expect("a lane");
        (0..keys as u64).for_each(|rank| assert!(handle.put(key(rank), value.clone()).is_ok()));
        handle
    })
}

/// Puts of one thread, with the keys in this sequence.
fn puts<V: Clone + Send + Sync + PlainBytes + 'static>(
    criterion: &mut Criterion,
    name: &str,
    keys: usize,
    sequence: &[u64],
    value: &V,
) {
    let folder = folder();
    let handles = subjects(folder.path(), keys, value);
    let mut group = criterion.benchmark_group(format!("put, {name}"));
    group.throughput(Throughput::Elements(1));
    for (handle, subject) in handles.iter().zip(SUBJECTS) {
        group.bench_function(subject, |bencher| {
            let mut sequence = sequence.iter().cycle();
            bencher.iter(|| handle.put(black_box(*sequence.next().expect("endless")), value.clone()));
        });
    }
    group.finish();
    let slice = 1 << 12;
    let (mut each, mut ratios) = ([Vec::new(), Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for keys in sequence.chunks_exact(slice).cycle().take(3_000) {
        let nanos: [f64; 3] = std::array::from_fn(|subject| {
            let start = Instant::now();
            keys.iter().for_each(|key| assert!(handles[subject].put(*key, value.clone()).is_ok()));
            start.elapsed().as_nanos() as f64 / slice as f64
        });
        each.iter_mut().zip(nanos).for_each(|(all, nanos)| all.push(nanos));
        ratios.iter_mut().zip(&nanos[1..]).for_each(|(all, journal)| all.push(nanos[0] / journal));
    }
    println!("put, {name}, in turns: {} {:.0} ns", SUBJECTS[0], spread(std::mem::take(&mut each[0]))[1]);
    for ((subject, nanos), ratios) in SUBJECTS.iter().zip(each).skip(1).zip(ratios) {
        let [low, ratio, high] = spread(ratios);
        println!(
            "    {subject} {:.0} ns: {ratio:.2} of the throughput without a journal ({low:.2} to {high:.2})",
            spread(nanos)[1],
        );
    }
    println!();
}

fn put(criterion: &mut Criterion) {
    let zipf = zipf(100_000, 1 << 18);
    puts(criterion, "8-byte values, Zipf over 100,000 keys", 100_000, &zipf, &7_u64);
    puts(criterion, "100-byte values, Zipf over 100,000 keys", 100_000, &zipf, &[7_u8; 100]);
    let uniform = uniform(1_000_000, 1 << 22);
    puts(criterion, "8-byte values, uniform over 1,000,000 keys", 1_000_000, &uniform, &7_u64);
    puts(criterion, "100-byte values, uniform over 1,000,000 keys", 1_000_000, &uniform, &[7_u8; 100]);
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

/// A cache that writes nothing to its backend.
fn unflushed(path: &Path, keys: u64, bytes: u64) -> Cache<u64, u64> {
    Cache::builder()
        .capacity(keys as usize)
        .backend(Nowhere { is_down: true })
        .drain_on_drop(Duration::ZERO)
        .max_delay(Duration::from_secs(3600))
        .flush_at(usize::MAX)
        .journal(path)
        .journal_size(bytes)
        .open()
        .expect("opens")
}

/// A journal of `count` writes to `keys` keys that no backend has taken.
fn left_behind(folder: &Path, keys: u64, count: u64) -> PathBuf {
    let path = folder.join("left.journal");
    let cache = unflushed(&path, keys, 1 << 30);
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
            let cache = unflushed(&path, keys, 64 << 20);
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
