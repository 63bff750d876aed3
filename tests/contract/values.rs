//! Keys and values that own memory: all of it is given back, once, and not too late.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::{Answers, Backend, BackendError, Batch, Cache, Change, backend::Memory};

use crate::common::{PATIENCE, Rng, eventually, quiet, scaled};

/// A key or value that counts its living copies, and notices a second drop.
pub(crate) struct Counted {
    pub(crate) id: u64,
    alive: Arc<AtomicI64>,
    guard: Box<u64>,
}

const ALIVE: u64 = 0xA11F_E000_1234_5678;

impl Counted {
    pub(crate) fn new(id: u64, alive: &Arc<AtomicI64>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Counted { id, alive: Arc::clone(alive), guard: Box::new(ALIVE) }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        assert_eq!(*self.guard, ALIVE, "cloned after it was dropped");
        Counted::new(self.id, &self.alive)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        assert_eq!(*self.guard, ALIVE, "dropped twice");
        *self.guard = 0;
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        assert_eq!((*self.guard, *other.guard), (ALIVE, ALIVE), "compared after it was dropped");
        self.id == other.id
    }
}

impl Eq for Counted {}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// Catches: leaks and double drops of keys and values, on every path that replaces or removes them.
#[test]
fn everything_is_dropped_once_after_storms() {
    let alive = Arc::new(AtomicI64::new(0));
    let rows = Arc::new(Memory::<Counted, Counted>::unrecorded());
    let mut rng = Rng::new(5);
    rows.set_fault(move |_| if rng.one_in(20) { Err(BackendError::transient("busy")) } else { Ok(()) });
    let cache = quiet()
        .capacity(32)
        .flush_at(16)
        .max_delay(Duration::from_millis(1))
        .backend(Arc::clone(&rows))
        .open::<Counted, Counted>()
        .unwrap();
    thread::scope(|scope| {
        for thread in 0..3 {
            let (cache, alive) = (&cache, &alive);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for n in 0..scaled(4_000, 30_000) {
                    let key = Counted::new(rng.below(100), alive);
                    let value = || Counted::new(n, alive);
                    match rng.below(10) {
                        0 => drop(cache.remove(&key).unwrap()),
                        1 => drop(cache.invalidate(&key)),
                        2 => drop(cache.update(key, |_| value()).unwrap()),
                        3 => drop(cache.get_or_put_with(key, value).unwrap()),
                        4 => drop(cache.update_if(key, |old| old.is_none().then(value)).unwrap()),
                        5 => drop(cache.get_many(&[key.clone(), key]).unwrap()),
                        6 | 7 => assert!(cache.get(&key).unwrap().is_none_or(|value| value.id < 1 << 40)),
                        _ => drop(cache.put(key, value()).unwrap()),
                    }
                }
            });
        }
    });
    rows.clear_fault();
    let stats = cache.stats();
    assert!(stats.evictions > 0 && stats.retries > 0 && stats.loads > 0, "{stats:?}");
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    let stored = rows.len() as i64;
    eventually("the cache gave everything back", || alive.load(Ordering::SeqCst) == 2 * stored);
    drop(rows);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

/// Catches: a cache that is dropped with dirty, parked and loaded entries in it and leaks them.
#[test]
fn a_cache_that_could_not_drain_gives_its_memory_back() {
    let alive = Arc::new(AtomicI64::new(0));
    let rows = Arc::new(Memory::<Counted, Counted>::unrecorded());
    (1_000..1_010).for_each(|id| drop(rows.insert(Counted::new(id, &alive), Counted::new(id, &alive))));
    rows.set_fault(|op| match op.key().id % 2 {
        0 => Err(BackendError::permanent("no")),
        _ => Err(BackendError::transient("away")),
    });
    let wait = Duration::from_millis(20);
    let cache = quiet().drain_on_drop(wait).backend(Arc::clone(&rows)).open::<Counted, Counted>().unwrap();
    for id in 0..50 {
        cache.put(Counted::new(id, &alive), Counted::new(id, &alive)).unwrap();
    }
    (1_000..1_010).for_each(|id| assert!(cache.get(&Counted::new(id, &alive)).unwrap().is_some()));
    cache.remove(&Counted::new(1_000, &alive)).unwrap();
    assert!(cache.flush().is_err());
    drop(cache);
    eventually("only the rows are left", || alive.load(Ordering::SeqCst) == 20);
}

/// Catches: old values that pile up while a key is overwritten.
#[test]
fn c09_old_values_do_not_pile_up() {
    let alive = Arc::new(AtomicI64::new(0));
    let rows = Arc::new(Memory::<u64, Counted>::unrecorded());
    let cache = quiet().capacity(64).flush_at(16).backend(Arc::clone(&rows)).open::<u64, Counted>().unwrap();
    let most = AtomicI64::new(0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, alive, most) = (&cache, &alive, &most);
            scope.spawn(move || {
                for n in 0..scaled(30_000, 300_000) {
                    cache.put((n + thread) % 8, Counted::new(n, alive)).unwrap();
                    most.fetch_max(alive.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            });
        }
    });
    let most = most.into_inner();
    assert!(most < 6_000, "{most} values were alive at once for 8 keys");
}

/// A backend of its own for types without `Memory`'s needs.
struct Sink(AtomicU64);

impl<V: Send + Sync> Backend<u64, V> for Sink {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<V>>, BackendError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    fn apply(&self, batch: &Batch<u64, V>) -> Answers {
        batch.answer_each(|op| {
            self.0.fetch_add(u64::from(matches!(op.change(), Change::Upsert(_))), Ordering::SeqCst);
            Ok(())
        })
    }
}

/// Catches: values shared by `Arc` being copied deeply, torn or leaked.
#[test]
fn shared_values_stay_shared_and_come_back() {
    let sink = Arc::new(Sink(AtomicU64::new(0)));
    let cache: Cache<u64, Arc<String>> = quiet().capacity(8).backend(Arc::clone(&sink)).open().unwrap();
    let value = Arc::new("shared".to_owned());
    (0..8).for_each(|key| drop(cache.put(key, Arc::clone(&value)).unwrap()));
    assert!(Arc::ptr_eq(&cache.get(&3).unwrap().unwrap(), &value));
    assert_eq!(cache.read(&3, |held| held.len()).unwrap(), Some(6));
    assert!(Arc::strong_count(&value) >= 9);
    cache.flush().unwrap();
    (100..200).for_each(|key| drop(cache.put(key, Arc::new(String::new())).unwrap()));
    drop(cache);
    assert_eq!(sink.0.load(Ordering::SeqCst), 108);
    eventually("nobody else holds it", || Arc::strong_count(&value) == 1);
}
