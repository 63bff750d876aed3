//! Every acknowledged write reaches the backend: through storms, panics, dying threads and long outages.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::{Answers, BackendError, Cache, Clock, backend::Doing};

use crate::common::{Audit, Rng, eventually, lock, quiet, scaled};

/// A backend with every misbehaviour that passes: 10 % errors, panics, answers that get lost, slowness.
fn unreliable(seed: u64) -> Arc<Audit> {
    let rows = Audit::unrecorded();
    let mut rng = Rng::new(seed);
    rows.set_fault(move |_| if rng.one_in(10) { Err(BackendError::transient("busy")) } else { Ok(()) });
    let rng = Mutex::new(Rng::new(seed + 1));
    rows.set_gate(move |doing| {
        if let Doing::Apply(_) = doing {
            let fate = lock(&rng).below(100);
            if fate < 5 {
                thread::sleep(Duration::from_micros(500));
            }
            assert!(fate < 98, "a panic that the test wants");
        }
    });
    let mut rng = Rng::new(seed + 2);
    rows.set_answer_hook(move |answers| {
        let mut answers = answers.as_slice().to_vec();
        if rng.one_in(10) {
            answers.truncate(rng.below(answers.len() as u64 + 1) as usize);
        }
        Answers::new(answers)
    });
    rows
}

fn recover(rows: &Audit) {
    rows.clear_fault();
    rows.clear_gate();
    rows.clear_answer_hook();
}

/// Writers with keys of their own; each remembers its last acknowledged value of each key.
fn storm(cache: &Cache<u64, u64>, writers: u64, writes: u64, keys: u64) -> Vec<(u64, Option<u64>)> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                scope.spawn(move || {
                    let mut rng = Rng::new(writer + 100);
                    let mut last: Vec<Option<Option<u64>>> = vec![None; keys as usize];
                    for n in 0..writes {
                        let (own, value) = (rng.below(keys), writer << 32 | n);
                        let key = own * 1_000 + writer;
                        let now = match rng.below(10) {
                            0 => cache.remove(&key).map(|_| None),
                            1 => cache.update(key, |_| value).map(|_| Some(value)),
                            _ => cache.put(key, value).map(|_| Some(value)),
                        };
                        last[own as usize] = Some(now.unwrap());
                        if rng.one_in(4) {
                            let other = rng.below(keys);
                            if let Some(expected) = last[other as usize] {
                                assert_eq!(cache.get(&(other * 1_000 + writer)).unwrap(), expected);
                            }
                        }
                    }
                    let last = last
                        .into_iter()
                        .zip(0..)
                        .filter_map(|(last, own)| Some((own * 1_000 + writer, last?)));
                    last.collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

#[track_caller]
fn all_arrived(rows: &Audit, last: &[(u64, Option<u64>)]) {
    assert!(!last.is_empty());
    for (key, value) in last {
        assert_eq!(rows.get(key), *value, "key {key}");
    }
    rows.check();
}

/// Catches: writes that are lost between eviction, retry and flush.
#[test]
fn c01_every_acked_write_arrives_through_a_tiny_cache_and_an_unreliable_backend() {
    let rows = unreliable(1);
    let cache = quiet()
        .capacity(24)
        .flush_at(8)
        .batch_size(6)
        .max_delay(Duration::from_millis(2))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let last = storm(&cache, 4, scaled(800, 4_000), 60);
    let stats = cache.stats();
    assert!(stats.evictions > 0 && stats.retries > 0 && stats.backend_panics > 0, "{stats:?}");
    assert!(stats.writer_waits > 0, "no writer ever waited for room: {stats:?}");
    recover(&rows);
    cache.flush().unwrap();
    all_arrived(&rows, &last);
    assert_eq!(cache.stats().dirty, 0);
}

/// Catches: writes that are lost where more threads write than there are lanes, or where rings run full.
#[test]
fn c01_more_writers_than_lanes_lose_nothing() {
    let rows = Audit::unrecorded();
    let cache = quiet()
        .capacity(20_000)
        .lanes(1)
        .flush_at(500)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let last = storm(&cache, 24, scaled(500, 3_000), 200);
    cache.flush().unwrap();
    all_arrived(&rows, &last);
    let stats = cache.stats();
    assert_eq!(stats.puts + stats.removes, 24 * scaled(500, 3_000));
    assert_eq!(stats.backend_writes + stats.coalesced, stats.puts + stats.removes);
}

/// Catches: dirty entries that die with the thread that wrote them; lanes that never come back.
#[test]
fn c01_writes_of_threads_that_died_arrive() {
    let rows = Audit::unrecorded();
    let cache = quiet().capacity(5_000).lanes(2).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for generation in 0..40 {
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let cache = cache.clone();
                thread::spawn(move || {
                    let handle = cache.handle();
                    for key in 0..10 {
                        let key = generation * 100 + n * 10 + key;
                        match &handle {
                            Ok(handle) => drop(handle.put(key, key).unwrap()),
                            Err(_) => drop(cache.put(key, key).unwrap()),
                        }
                    }
                    assert!(n != 3, "a panic that the test wants");
                })
            })
            .collect();
        let died = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        assert_eq!(died, 1);
    }
    assert_eq!(cache.stats().dirty, 2_400);
    cache.flush().unwrap();
    assert_eq!(rows.len(), 2_400);
    assert!((0..4_000).all(|key| rows.get(&key) == (key % 100 < 60).then_some(key)));
    assert_eq!(cache.stats().puts, 2_400, "counts died with their threads");
    rows.check();
}

/// Catches: a panic in a closure that loses a write, or leaves the key locked.
#[test]
fn c01_a_panic_in_a_closure_leaves_the_entry_as_it_was() {
    let rows = Audit::new();
    let cache = quiet().backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    let boom = || -> u64 { panic!("a panic that the test wants") };
    for key in [1, 2] {
        assert!(catch_unwind(AssertUnwindSafe(|| cache.update(key, |_| boom()))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| cache.update_if(key, |_| Some(boom())))).is_err());
    }
    assert!(catch_unwind(AssertUnwindSafe(|| cache.read(&1, |_| boom()))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| cache.get_or_put_with(2, boom))).is_err());
    let half = (10..20).map(|key| (key, if key == 15 { boom() } else { key }));
    assert!(catch_unwind(AssertUnwindSafe(|| cache.put_many(half))).is_err());
    assert_eq!((cache.get(&1).unwrap(), cache.get(&2).unwrap()), (Some(1), None));
    thread::scope(|scope| {
        scope.spawn(|| cache.update(1, |old| old.unwrap() + 1).unwrap());
        scope.spawn(|| cache.update(2, |old| old.unwrap_or(&20) + 1).unwrap());
    });
    cache.flush().unwrap();
    assert_eq!((rows.get(&1), rows.get(&2)), (Some(2), Some(21)));
    assert_eq!((rows.get(&14), rows.get(&15), rows.get(&16)), (Some(14), None, None));
    evict_all(&cache);
    rows.check();
}

/// Whoever died inside `read` must not keep memory from being used again.
fn evict_all(cache: &Cache<u64, u64>) {
    for key in 100_000..103_000 {
        cache.put(key, key).unwrap();
    }
    assert!(cache.stats().evictions > 0);
}

/// Catches: giving up, parking or dropping after many retries.
#[test]
fn f08_a_day_of_transient_errors_loses_nothing() {
    let rows = Audit::unrecorded();
    let tries = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&tries);
    rows.set_fault(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Err(BackendError::transient("the database is away"))
    });
    let (clock, time) = Clock::manual();
    let cache = quiet()
        .clock(clock)
        .max_delay(Duration::from_secs(1))
        .retry(Duration::from_millis(50), Duration::from_secs(30))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    (0..50).for_each(|key| drop(cache.put(key, key + 1).unwrap()));
    let quarter = Duration::from_secs(15 * 60);
    for _ in 0..24 * 4 {
        let before = tries.load(Ordering::SeqCst);
        eventually("it was tried again", || {
            time.advance(quarter);
            tries.load(Ordering::SeqCst) > before
        });
    }
    let stats = cache.stats();
    assert_eq!((stats.parked, stats.dirty), (0, 50), "something was given up");
    // The operations of one batch are tried one after the other, so one batch may answer for two quarters.
    assert!(stats.retries > 24 * 2, "{}", stats.retries);
    (0..50).for_each(|key| assert_eq!(cache.get(&key).unwrap(), Some(key + 1)));
    rows.clear_fault();
    eventually("all was stored", || {
        time.advance(quarter);
        cache.stats().dirty == 0
    });
    (0..50).for_each(|key| assert_eq!(rows.get(&key), Some(key + 1)));
    rows.check();
}

/// Catches: retries at a fixed pace, without a cap, or that never come.
#[test]
fn f36_retries_back_off_up_to_the_cap() {
    let rows = Audit::unrecorded();
    let tries = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&tries);
    rows.set_fault(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Err(BackendError::transient("the database is away"))
    });
    let (clock, time) = Clock::manual();
    let (first, cap) = (Duration::from_millis(100), Duration::from_secs(10));
    let cache = quiet()
        .clock(clock)
        .max_delay(Duration::from_millis(10))
        .retry(first, cap)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    cache.put(1, 1).unwrap();
    let tried = || tries.load(Ordering::SeqCst);
    let pass = |span: Duration, step: Duration| {
        let before = tried();
        for _ in 0..(span.as_millis() / step.as_millis()) {
            time.advance(step);
            thread::sleep(Duration::from_micros(700));
        }
        tried() - before
    };
    eventually("the first attempt", || {
        time.advance(first / 10);
        tried() > 0
    });
    let early = pass(Duration::from_secs(2), Duration::from_millis(20));
    assert!((2..=12).contains(&early), "{early} retries in the first two seconds");
    pass(Duration::from_secs(60), Duration::from_millis(500));
    let late = pass(Duration::from_secs(100), Duration::from_millis(500));
    assert!((6..=45).contains(&late), "{late} retries in a hundred seconds with a cap of ten");
    rows.clear_fault();
    pass(cap * 3, Duration::from_millis(500));
    eventually("it was stored", || rows.get(&1) == Some(1));
    // After a success the next failure begins with short delays again.
    let counter = Arc::clone(&tries);
    rows.set_fault(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Err(BackendError::transient("away again"))
    });
    cache.put(1, 2).unwrap();
    let again = pass(Duration::from_secs(2), Duration::from_millis(20));
    assert!((2..=13).contains(&again), "{again} attempts in the two seconds after a new write");
}
