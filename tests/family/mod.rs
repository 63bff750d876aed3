//! A table whose rows refer to each other, under writers who insert, move and remove, for databases that check references.

use std::{collections::BTreeMap, thread, time::Duration};

use writeback::{Backend, Cache};

/// The table. A row's value is the key of its parent; the key says in which generation it is, and the first refers to itself.
pub(crate) const SCHEMA: &str =
    "CREATE TABLE t (key bigint PRIMARY KEY, value bigint NOT NULL REFERENCES t (key))";

const GENERATION: u64 = 1_000;
const GENERATIONS: u64 = 3;

/// Numbers that look random, the same in every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// The database has to see so much of the storm.
const WRITES: u64 = 3_000;

/// Changes of rows that nobody else touches, none of which leaves a row without its parent.
fn live(cache: &Cache<u64, u64>, writer: u64) -> BTreeMap<u64, u64> {
    let (mut rng, mut rows) = (Rng(writer * 7_919 + 13), BTreeMap::new());
    for change in 0_u64.. {
        if change % 64 == 0 && cache.stats().backend_writes > WRITES {
            break;
        }
        let generation = rng.below(GENERATIONS);
        let key = generation * GENERATION + writer * 10 + rng.below(10);
        if rng.below(3) == 0 {
            let has_children = rows.iter().any(|(child, parent)| *child != key && *parent == key);
            if !has_children && rows.remove(&key).is_some() {
                cache.remove(&key).expect("a remove");
            }
            continue;
        }
        let parents: Vec<u64> = match generation {
            0 => vec![key],
            _ => rows.keys().copied().filter(|parent| parent / GENERATION + 1 == generation).collect(),
        };
        if !parents.is_empty() {
            let parent = parents[rng.below(parents.len() as u64) as usize];
            rows.insert(key, parent);
            cache.put(key, parent).expect("a put");
        }
    }
    rows
}

/// What the table has to hold after four writers, while batches of some size are carried by so many workers. Not one
/// operation may have been refused.
pub(crate) fn storm(
    backend: impl Backend<u64, u64> + 'static,
    workers: usize,
    batch: usize,
) -> BTreeMap<u64, u64> {
    let cache = Cache::builder()
        .capacity(100)
        .flush_workers(workers)
        .batch_size(batch)
        .max_delay(Duration::from_millis(2))
        .rank(|key: &u64, _: Option<&u64>| (key / GENERATION) as u32)
        .backend(backend)
        .open::<u64, u64>()
        .expect("a cache");
    let mut expected = BTreeMap::new();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let cache = &cache;
                scope.spawn(move || live(cache, writer))
            })
            .collect();
        for writer in writers {
            expected.extend(writer.join().expect("a writer"));
        }
    });
    cache.flush().expect("nothing is refused");
    let stats = cache.stats();
    assert_eq!((stats.backend_errors, stats.dirty, stats.parked), (0, 0, 0), "{stats:?}");
    expected
}

/// What `SELECT key, value FROM t ORDER BY key` has to say then.
pub(crate) fn told(rows: &BTreeMap<u64, u64>) -> String {
    rows.iter().map(|(key, value)| format!("{key}|{value}")).collect::<Vec<_>>().join(" ")
}
