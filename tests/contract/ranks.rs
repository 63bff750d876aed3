//! Order across keys: a backend that checks references and uniqueness sees no violation, however writes are coalesced, and
//! however many workers carry them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::{Ack, Answers, Backend, BackendError, Batch, Builder, Cache, Change, DefaultHasher, Op};

use crate::common::{NEVER, PATIENCE, Rng, lock, quiet, scaled};

/// A row of one of three tables, each of which refers to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    table: u32,
    id: u64,
}

const fn key(table: u32, id: u64) -> Key {
    Key { table, id }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// In the table before.
    parent: Option<u64>,
    /// No other row of the table may have it.
    name: Option<u64>,
    value: u64,
}

const fn row(parent: Option<u64>, value: u64) -> Row {
    Row { parent, name: None, value }
}

/// Tables with enforced references and unique names.
#[derive(Default)]
struct Tables {
    rows: Mutex<BTreeMap<Key, Row>>,
    orphans: AtomicU64,
    widows: AtomicU64,
    namesakes: AtomicU64,
    calls: AtomicU64,
    /// Every so many operations fail for now.
    flaky: AtomicU64,
    under_way: Mutex<HashMap<Key, u64>>,
    overlaps: AtomicU64,
}

impl Tables {
    fn apply_one(&self, op: &Op<Key, Row>, call: u64) -> Result<(), BackendError> {
        let flaky = self.flaky.load(Ordering::Relaxed);
        if flaky > 0 && (op.version().wrapping_mul(31) + call + op.key().id).is_multiple_of(flaky) {
            return Err(BackendError::transient("busy"));
        }
        let mut rows = lock(&self.rows);
        let count = |violations: &AtomicU64, what: &str| {
            violations.fetch_add(1, Ordering::Relaxed);
            Err(BackendError::permanent(format!("{what}: {:?}", op.key())))
        };
        match op.change() {
            Change::Upsert(row) => {
                let parent = row.parent.map(|id| key(op.key().table - 1, id));
                if parent.is_some_and(|parent| !rows.contains_key(&parent)) {
                    return count(&self.orphans, "no parent");
                }
                let is_namesake = |(other, theirs): (&Key, &Row)| {
                    other.table == op.key().table && other != op.key() && theirs.name == row.name
                };
                if row.name.is_some() && rows.iter().any(is_namesake) {
                    return count(&self.namesakes, "not unique");
                }
                rows.insert(*op.key(), row.clone());
            }
            Change::Delete => {
                let is_child = |(other, row): (&Key, &Row)| {
                    other.table == op.key().table + 1 && row.parent == Some(op.key().id)
                };
                if rows.iter().any(is_child) {
                    return count(&self.widows, "has children");
                }
                rows.remove(op.key());
            }
        }
        Ok(())
    }

    fn violations(&self) -> [u64; 3] {
        [&self.orphans, &self.widows, &self.namesakes].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Backend<Key, Row> for Tables {
    fn load(&self, keys: &[Key]) -> Result<Vec<Option<Row>>, BackendError> {
        let rows = lock(&self.rows);
        Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
    }

    fn apply(&self, batch: &Batch<Key, Row>) -> Answers {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        for op in batch.ops() {
            let other = lock(&self.under_way).insert(*op.key(), call);
            self.overlaps.fetch_add(u64::from(other.is_some()), Ordering::Relaxed);
        }
        // Others may come in between any two operations.
        let answers = batch.answer_each(|op| {
            if call.is_multiple_of(3) {
                thread::yield_now();
            }
            self.apply_one(op, call)
        });
        for op in batch.ops() {
            lock(&self.under_way).remove(op.key());
        }
        answers
    }
}

/// What one writer has in the tables; nobody else writes its rows.
struct Family {
    rng: Rng,
    first: u64,
    ids: u64,
    known: BTreeMap<Key, Row>,
}

impl Family {
    fn new(writer: u64) -> Self {
        Family { rng: Rng::new(writer), first: writer * 1_000, ids: 12, known: BTreeMap::new() }
    }

    fn some_id(&mut self) -> u64 {
        self.first + self.rng.below(self.ids)
    }

    fn some_parent(&mut self, table: u32) -> Option<u64> {
        let ids: Vec<u64> =
            self.known.keys().filter(|key| key.table + 1 == table).map(|key| key.id).collect();
        (!ids.is_empty()).then(|| ids[self.rng.below(ids.len() as u64) as usize])
    }

    /// One change that leaves no row without its parent.
    fn step(&mut self, cache: &Cache<Key, Row>, value: u64) {
        let (table, id) = (self.rng.below(3) as u32, self.some_id());
        let at = key(table, id);
        if self.rng.one_in(3) {
            let has_children =
                self.known.iter().any(|(key, row)| key.table == table + 1 && row.parent == Some(id));
            if !has_children && self.known.remove(&at).is_some() {
                cache.remove(&at).unwrap();
            }
            return;
        }
        let parent = self.some_parent(table);
        if table > 0 && parent.is_none() {
            return;
        }
        let row = row(parent, value);
        self.known.insert(at, row.clone());
        cache.put(at, row).unwrap();
    }
}

type ByTable = writeback::ByRank<fn(&Key, Option<&Row>) -> u32>;

fn ranked() -> Builder<(), (), DefaultHasher, (), ByTable> {
    quiet().rank(|key: &Key, _: Option<&Row>| key.table)
}

/// Three tables under four writers, who insert, move and delete, while flushes come at any time.
fn storm(seed: u64, workers: usize, batch: usize, flaky: u64) {
    let tables = Arc::new(Tables::default());
    tables.flaky.store(flaky, Ordering::Relaxed);
    let cache = ranked()
        .capacity(120)
        .flush_workers(workers)
        .batch_size(batch)
        .max_delay(Duration::from_millis(1))
        .flush_at(40)
        .backend(Arc::clone(&tables))
        .open::<Key, Row>()
        .unwrap();
    let mut expected = BTreeMap::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let cache = &cache;
                scope.spawn(move || {
                    let mut family = Family::new(seed * 4 + writer);
                    for value in 0..scaled(1_000, 6_000) {
                        family.step(cache, value);
                        if family.rng.one_in(500) {
                            let _ = cache.flush();
                        }
                    }
                    family.known
                })
            })
            .collect();
        for writer in writers {
            expected.extend(writer.join().unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
    tables.flaky.store(0, Ordering::Relaxed);
    // The first may be told of what was refused a moment ago.
    let _ = cache.flush();
    cache.flush().unwrap();
    assert_eq!(tables.violations(), [0; 3], "orphans, widows, namesakes; seed {seed}, {workers} workers");
    assert_eq!(tables.overlaps.load(Ordering::Relaxed), 0, "a key was in two batches at once");
    assert!(*lock(&tables.rows) == expected, "seed {seed}, {workers} workers");
    let stats = cache.stats();
    assert_eq!((stats.dirty, stats.parked, stats.in_flight), (0, 0, 0));
    assert!(cache.close(PATIENCE).is_drained());
}

/// Catches: children before their parents, parents gone before their children, and whatever coalescing makes of it.
#[test]
fn f16_no_reference_is_ever_refused_with_any_number_of_workers() {
    for (seed, workers) in [1, 2, 3, 4, 6, 8].into_iter().enumerate() {
        storm(seed as u64, workers, [50, 7, 1, 20, 3, 1_000][seed], 0);
    }
}

/// Catches: an order that ends with the first operation that has to be tried again.
#[test]
fn f16_no_reference_is_refused_while_operations_fail() {
    storm(100, 1, 20, 20);
    storm(101, 4, 5, 10);
}

/// Catches: a copy of a child that outlives the parent it refers to.
#[test]
fn f16_coalesced_moves_keep_the_order() {
    let tables = Arc::new(Tables::default());
    let cache = ranked().backend(Arc::clone(&tables)).open::<Key, Row>().unwrap();
    cache.put(key(0, 1), row(None, 1)).unwrap();
    cache.put(key(1, 1), row(Some(1), 1)).unwrap();
    cache.flush().unwrap();
    // The child moves to a new parent, and the old one goes: new parent, child, old parent.
    cache.put(key(1, 1), row(Some(1), 2)).unwrap();
    cache.put(key(0, 2), row(None, 1)).unwrap();
    cache.put(key(1, 1), row(Some(2), 3)).unwrap();
    cache.remove(&key(0, 1)).unwrap();
    cache.flush().unwrap();
    // Everything goes, leaves last by the time of their first change.
    cache.put(key(0, 2), row(None, 2)).unwrap();
    cache.remove(&key(1, 1)).unwrap();
    cache.remove(&key(0, 2)).unwrap();
    cache.flush().unwrap();
    assert_eq!((tables.violations(), lock(&tables.rows).len()), ([0; 3], 0));
}

/// Catches: an insert that comes before the delete that makes room for it.
#[test]
fn f16_a_unique_name_passes_from_one_row_to_another() {
    for workers in [1, 4] {
        let tables = Arc::new(Tables::default());
        let cache = ranked()
            .flush_workers(workers)
            .batch_size(3)
            .max_delay(Duration::from_millis(1))
            .backend(Arc::clone(&tables))
            .open::<Key, Row>()
            .unwrap();
        let named = |name| Row { parent: None, name: Some(name), value: 0 };
        let mut rng = Rng::new(7);
        // Who has which of ten names.
        let mut owners: Vec<u64> = (0..10).collect();
        for (name, owner) in owners.iter().enumerate() {
            cache.put(key(0, *owner), named(name as u64)).unwrap();
        }
        for next in 10..scaled(500, 3_000) {
            let name = rng.below(10) as usize;
            let before = std::mem::replace(&mut owners[name], next);
            cache.remove(&key(0, before)).unwrap();
            cache.put(key(0, next), named(name as u64)).unwrap();
        }
        cache.flush().unwrap();
        assert_eq!((tables.violations(), cache.stats().parked), ([0; 3], 0));
        let found: BTreeMap<u64, u64> =
            lock(&tables.rows).iter().map(|(key, row)| (row.name.unwrap(), key.id)).collect();
        assert!(owners.iter().enumerate().all(|(name, owner)| found[&(name as u64)] == *owner));
    }
}

/// Catches: a cycle that the rules see, and the rows do not have, and that stops everything.
#[test]
fn f16_a_name_passes_on_between_parents_while_children_move() {
    let tables = Arc::new(Tables::default());
    let cache = ranked().backend(Arc::clone(&tables)).open::<Key, Row>().unwrap();
    let named = |value| Row { parent: None, name: Some(1), value };
    cache.put(key(0, 1), named(1)).unwrap();
    cache.put(key(1, 1), row(Some(1), 1)).unwrap();
    cache.flush().unwrap();
    // The old parent waits for all children, the new one for the old one, and the new child for the new parent.
    cache.remove(&key(1, 1)).unwrap();
    cache.remove(&key(0, 1)).unwrap();
    cache.put(key(0, 2), named(2)).unwrap();
    cache.put(key(1, 2), row(Some(2), 2)).unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.stats().parked, 0);
    let rows = lock(&tables.rows).clone();
    assert_eq!(rows, BTreeMap::from([(key(0, 2), named(2)), (key(1, 2), row(Some(2), 2))]));
}

/// Catches: an order that stops for good at a row that the backend will never take, or that parks more than depends on it.
#[test]
fn f07_a_refused_parent_holds_up_nothing_but_its_children() {
    let tables = Arc::new(Tables::default());
    let cache = ranked().backend(Arc::clone(&tables)).open::<Key, Row>().unwrap();
    // It refers to nothing that exists, and so does its own child.
    cache.put(key(1, 1), row(Some(99), 1)).unwrap();
    cache.put(key(2, 1), row(Some(1), 1)).unwrap();
    for id in 2..50 {
        cache.put(key(0, id), row(None, id)).unwrap();
        cache.put(key(1, id), row(Some(id), id)).unwrap();
        cache.put(key(2, id), row(Some(id), id)).unwrap();
    }
    let _ = cache.flush();
    let _ = cache.flush();
    let stats = cache.stats();
    assert_eq!((stats.parked, stats.dirty, lock(&tables.rows).len()), (2, 2, 48 * 3));
    // Once its parent is there, both go.
    cache.put(key(0, 99), row(None, 1)).unwrap();
    let _ = cache.flush();
    cache.flush().unwrap();
    assert_eq!((cache.stats().dirty, lock(&tables.rows).len()), (0, 49 * 3));
}

/// Catches: a child that is rewritten all the time and never reaches the backend, because parents come all the time too.
#[test]
fn f40_a_busy_child_is_written_while_parents_come() {
    let tables = Arc::new(Tables::default());
    let cache = ranked()
        .max_delay(Duration::from_millis(1))
        .flush_workers(2)
        .backend(Arc::clone(&tables))
        .open::<Key, Row>()
        .unwrap();
    cache.put_acked(key(0, 1), row(None, 0), Ack::Backend).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for id in 2.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                cache.put(key(0, id % 5_000 + 2), row(None, id)).unwrap();
            }
        });
        let mut stored = Vec::new();
        let end = std::time::Instant::now() + PATIENCE;
        for value in 0.. {
            cache.put(key(1, 1), row(Some(1), value)).unwrap();
            let seen = lock(&tables.rows).get(&key(1, 1)).map(|row| row.value);
            if stored.last() != Some(&seen) {
                stored.push(seen);
            }
            if stored.len() > 10 {
                break;
            }
            assert!(std::time::Instant::now() < end, "it was stored {} times", stored.len() - 1);
        }
        done.store(true, Ordering::Relaxed);
    });
    cache.flush().unwrap();
    assert_eq!(tables.violations(), [0; 3]);
}

/// Catches: a closure of the user's that takes the flusher with it.
#[test]
fn c12_a_rank_that_panics_is_a_rank() {
    let tables = Arc::new(Tables::default());
    let cache = quiet()
        .max_delay(NEVER)
        .rank(|key: &Key, _: Option<&Row>| if key.id == 13 { panic!("unlucky") } else { key.table })
        .backend(Arc::clone(&tables))
        .open::<Key, Row>()
        .unwrap();
    (0..20).for_each(|id| drop(cache.put(key(0, id), row(None, id)).unwrap()));
    cache.flush().unwrap();
    assert_eq!(lock(&tables.rows).len(), 20);
}
