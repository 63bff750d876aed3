//! Keys and values that misbehave: colliding hashes, panics in their own methods.

use std::{
    hash::{BuildHasherDefault, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::{Cache, backend::Memory};

use crate::common::{Audit, PATIENCE, Rng, eventually, quiet};

#[derive(Default)]
struct Same;

impl Hasher for Same {
    fn finish(&self) -> u64 {
        42
    }

    fn write(&mut self, _: &[u8]) {}
}

#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

fn works_with<H: Hasher + Default + 'static>(capacity: usize, keys: u64) {
    let rows = Audit::unrecorded();
    let cache = quiet()
        .capacity(capacity)
        .hasher(BuildHasherDefault::<H>::new())
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    thread::scope(|scope| {
        for thread in 0..3 {
            let cache = &cache;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for n in 0..2_000 {
                    let key = rng.below(keys) * 3 + thread;
                    cache.put(key, n).unwrap();
                    assert_eq!(
                        cache.get(&key).unwrap(),
                        Some(n),
                        "{key} of thread {thread}: {:?}",
                        cache.stats()
                    );
                    if rng.one_in(5) {
                        cache.remove(&key).unwrap();
                        assert_eq!(cache.get(&key).unwrap(), None);
                    }
                    cache.update(key, |old| old.unwrap_or(&0) + 1).unwrap();
                }
            });
        }
    });
    cache.flush().unwrap();
    rows.rows().iter().for_each(|(key, value)| assert_eq!(cache.get(key).unwrap(), Some(*value)));
    rows.check();
}

/// Catches: keys with equal hashes being taken for each other, or finding no place.
#[test]
fn keys_that_all_collide_are_told_apart() {
    works_with::<Same>(200, 60);
    works_with::<Same>(20, 60);
}

/// Catches: a hash without spread breaking more than the speed.
#[test]
fn a_hash_that_is_the_key_itself_works() {
    works_with::<Identity>(500, 100);
    works_with::<Identity>(50, 100);
}

/// A value whose clone or drop panics on request, in the thread that is asked for.
struct Mine {
    value: u64,
    armed: Arc<Armed>,
}

#[derive(Default)]
struct Armed {
    clone: AtomicBool,
    drop: AtomicBool,
    flusher: AtomicBool,
    fired: AtomicU64,
}

impl Armed {
    fn fire(&self, trigger: &AtomicBool) {
        let in_flusher = thread::current().name() == Some("writeback-flusher");
        if in_flusher == self.flusher.load(Ordering::SeqCst)
            && trigger.load(Ordering::SeqCst)
            && !thread::panicking()
        {
            self.fired.fetch_add(1, Ordering::SeqCst);
            panic!("a panic that the test wants");
        }
    }
}

impl Clone for Mine {
    fn clone(&self) -> Self {
        self.armed.fire(&self.armed.clone);
        Mine { value: self.value, armed: Arc::clone(&self.armed) }
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        if self.value % 10 == 3 {
            self.armed.fire(&self.armed.drop);
        }
    }
}

type Mined = (Arc<Armed>, Arc<Memory<u64, Mine>>, Cache<u64, Mine>);

fn mined() -> Mined {
    let (armed, rows) = (Arc::new(Armed::default()), Arc::new(Memory::<u64, Mine>::unrecorded()));
    let cache =
        quiet().capacity(32).write_timeout(Duration::from_secs(2)).backend(Arc::clone(&rows)).open().unwrap();
    (armed, rows, cache)
}

/// Catches: a panic in a value's `clone` that reaches nobody, or breaks the cache.
#[test]
fn c01_a_clone_that_panics_reaches_the_caller_and_nothing_else() {
    let (armed, rows, cache) = mined();
    let value = |value| Mine { value, armed: Arc::clone(&armed) };
    cache.put(1, value(10)).unwrap();
    armed.clone.store(true, Ordering::SeqCst);
    assert!(catch_unwind(AssertUnwindSafe(|| cache.get(&1).map(drop))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| cache.get_many(&[1]).map(drop))).is_err());
    assert_eq!(cache.read(&1, |mine| mine.value).unwrap(), Some(10));
    armed.clone.store(false, Ordering::SeqCst);
    (2..500).for_each(|key| drop(cache.put(key, value(key * 10)).unwrap()));
    cache.flush().unwrap();
    assert_eq!(rows.len(), 499);
}

/// Catches: a panic in a value's `clone` on the flusher's thread that ends the flusher.
#[test]
fn c01_a_clone_that_panics_in_the_flusher_loses_nothing() {
    let (armed, rows, cache) = mined();
    armed.flusher.store(true, Ordering::SeqCst);
    armed.clone.store(true, Ordering::SeqCst);
    (0..10)
        .for_each(|key| drop(cache.put(key, Mine { value: key * 10, armed: Arc::clone(&armed) }).unwrap()));
    thread::scope(|scope| {
        let flush = scope.spawn(|| cache.flush());
        // Whether the flusher clones at all is its own business.
        eventually("it met the panic, or did not need the clone", || {
            armed.fired.load(Ordering::SeqCst) > 0 || flush.is_finished()
        });
        armed.clone.store(false, Ordering::SeqCst);
        eventually("the flush came back", || flush.is_finished());
    });
    eventually("everything was stored", || cache.flush().is_ok() && rows.len() == 10);
    assert!(cache.close(PATIENCE).is_drained());
}

/// Catches: a panic in a value's `drop` that ends the flusher, or takes other writes with it.
fn survives_panicking_drops(in_flusher: bool) {
    let (armed, rows, cache) = mined();
    let value = |value| Mine { value, armed: Arc::clone(&armed) };
    armed.flusher.store(in_flusher, Ordering::SeqCst);
    armed.drop.store(true, Ordering::SeqCst);
    for n in 0..300 {
        // A caller may meet the panic of a value that was replaced; an error would mean that the flusher is gone.
        for key in [n % 20, 1_000 + n % 100] {
            if let Ok(answer) = catch_unwind(AssertUnwindSafe(|| cache.put(key, value(n)).map(drop))) {
                answer.unwrap();
            }
        }
        if n % 50 == 0 {
            let cache = cache.clone();
            let flush = thread::spawn(move || drop(catch_unwind(AssertUnwindSafe(|| cache.flush()))));
            eventually("the flush came back", || flush.is_finished());
        }
    }
    armed.drop.store(false, Ordering::SeqCst);
    (0..20).for_each(|key| drop(cache.put(key, value(50_000 + key)).unwrap()));
    eventually("everything was stored", || cache.flush().is_ok());
    for key in 0..20 {
        assert_eq!(rows.get(&key).map(|mine| mine.value), Some(50_000 + key));
    }
    assert!(in_flusher || armed.fired.load(Ordering::SeqCst) > 0, "no drop ever panicked");
}

/// Catches: a panicking `drop` in a caller's thread that breaks the cache.
#[test]
fn c01_a_drop_that_panics_in_a_caller_loses_nothing() {
    survives_panicking_drops(false);
}

/// Catches: a panicking `drop` on the flusher's thread that ends the flusher.
#[test]
fn c01_a_drop_that_panics_in_the_flusher_loses_nothing() {
    survives_panicking_drops(true);
}
