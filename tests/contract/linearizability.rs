//! Recorded histories of many threads, checked for each key; and the checkers themselves.
//!
//! These histories have no journal and no crash. Those of `tests/linearizability.rs` have both.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use writeback::BackendError;

use crate::common::{Audit, Rng, quiet, scaled};

#[path = "../linearizability/history.rs"]
mod history;
#[path = "../linearizability/search.rs"]
mod search;
#[path = "../linearizability/versions.rs"]
mod versions;

use history::{Attempt, Event, History, Pending, What};

fn event(begin: u64, end: u64, what: What) -> Event {
    Event { begin, end, what }
}

/// The history of a key that was absent at first, and of which everything has ended.
fn crash_free(events: Vec<Event>) -> History {
    History { events, ..History::default() }
}

fn put(begin: u64, end: u64, version: u64) -> Event {
    event(begin, end, What::Put { version, value: version * 10 })
}

fn get(begin: u64, end: u64, value: Option<u64>) -> Event {
    event(begin, end, What::Get { value })
}

fn remove(begin: u64, end: u64, version: u64) -> Event {
    event(begin, end, What::Remove { version })
}

fn update(begin: u64, end: u64, version: u64, old: Option<u64>) -> Event {
    event(begin, end, What::Update { version, old, value: version * 10 })
}

fn cut_off(begin: u64, what: Attempt) -> Pending {
    Pending { begin, what }
}

/// Both checkers accept it.
#[track_caller]
fn is_good(history: &History) {
    assert_eq!(versions::check(history), Ok(()), "{history:?}");
    assert_eq!(search::check(history), Ok(()), "{history:?}");
}

/// Both checkers find it.
#[track_caller]
fn is_bad(name: &str, history: &History) {
    assert!(versions::check(history).is_err(), "by versions, {name} was not found in {history:?}");
    assert!(search::check(history).is_err(), "by search, {name} was not found in {history:?}");
}

/// Catches: a checker that accepts everything, or that refuses what is right.
#[test]
fn the_checkers_know_good_histories_from_bad_ones() {
    let good = [
        vec![
            get(1, 2, None),
            put(3, 6, 1),
            get(4, 5, None),
            get(4, 5, Some(10)),
            put(7, 8, 2),
            get(9, 10, Some(20)),
        ],
        vec![put(1, 2, 1), put(3, 10, 2), get(4, 5, Some(20)), get(4, 6, Some(10)), get(7, 8, Some(20))],
        vec![put(1, 2, 1), remove(3, 4, 2), get(5, 6, None), put(7, 8, 3), update(9, 10, 4, Some(30))],
        vec![put(1, 9, 2), put(2, 8, 1), update(1, 9, 3, Some(20)), get(10, 11, Some(30))],
    ];
    good.into_iter().for_each(|events| is_good(&crash_free(events)));
    let bad = [
        ("stale read", vec![put(1, 2, 1), put(3, 4, 2), get(5, 6, Some(10))]),
        ("reads go back", vec![put(1, 2, 1), put(3, 20, 2), get(4, 5, Some(20)), get(6, 7, Some(10))]),
        ("read from the future", vec![get(1, 2, Some(10)), put(3, 4, 1)]),
        ("value from nowhere", vec![put(1, 2, 1), get(3, 4, Some(11))]),
        ("lost", vec![put(1, 2, 1), get(3, 4, None)]),
        ("came back", vec![put(1, 2, 1), remove(3, 4, 2), get(5, 6, Some(10))]),
        ("absent too late", vec![put(1, 2, 1), remove(3, 4, 2), put(5, 6, 3), get(7, 8, None)]),
        ("lost update", vec![put(1, 2, 1), update(3, 6, 2, Some(10)), update(3, 6, 3, Some(10))]),
    ];
    bad.into_iter().for_each(|(name, events)| is_bad(name, &crash_free(events)));
    // What only versions show: values alone have an order here.
    let only_by_versions = [
        ("versions against time", vec![put(1, 2, 2), put(3, 4, 1)]),
        ("one version twice", vec![put(1, 2, 1), put(3, 4, 1)]),
        ("update over a remove", vec![put(1, 2, 1), remove(3, 6, 2), update(3, 6, 3, Some(10))]),
    ];
    for (name, events) in only_by_versions {
        let history = crash_free(events);
        assert!(versions::check(&history).is_err(), "{name} was not found in {history:?}");
        assert_eq!(search::check(&history), Ok(()), "{history:?}");
    }
}

/// Catches: a checker that lets a crash take what was acknowledged, or that demands what was not.
#[test]
fn the_checkers_know_what_a_crash_may_do() {
    let pending = || vec![cut_off(5, Attempt::Put { value: 77 })];
    let crashed = |events, pending| History { version: 0, value: None, events, pending };
    // It has happened, or not; also where others have seen it, or have written after it.
    is_good(&crashed(vec![put(1, 2, 1), get(100, 101, Some(10))], pending()));
    is_good(&crashed(vec![put(1, 2, 1), get(100, 101, Some(77))], pending()));
    is_good(&crashed(
        vec![put(1, 2, 1), get(6, 7, Some(77)), put(8, 9, 2), get(100, 101, Some(20))],
        pending(),
    ));
    is_good(&crashed(vec![put(1, 2, 1), update(6, 9, 2, Some(77)), get(100, 101, Some(20))], pending()));
    is_good(&crashed(vec![put(1, 2, 1), get(100, 101, None)], vec![cut_off(5, Attempt::Remove)]));
    let raise = |old| vec![cut_off(5, Attempt::Update { old, value: 77 })];
    is_good(&crashed(vec![put(1, 2, 1), get(100, 101, Some(77))], raise(Some(10))));
    let two = || {
        vec![cut_off(5, Attempt::Put { value: 77 }), cut_off(5, Attempt::Update { old: Some(77), value: 78 })]
    };
    is_good(&crashed(vec![put(1, 2, 1), get(6, 7, Some(77)), get(100, 101, Some(78))], two()));
    is_good(&History { version: 9, value: Some(3), events: vec![get(1, 2, Some(3))], pending: vec![] });

    is_bad("a write lost in the crash", &crashed(vec![put(1, 2, 1), get(100, 101, None)], pending()));
    let older = vec![put(1, 2, 1), put(3, 4, 2), get(100, 101, Some(10))];
    is_bad("an older write after the crash", &crashed(older, pending()));
    let seen = vec![put(1, 2, 1), get(6, 7, Some(77)), get(100, 101, Some(10))];
    is_bad("a read that the crash has taken back", &crashed(seen, pending()));
    let over = vec![put(1, 2, 1), get(6, 7, Some(77)), put(8, 9, 2), get(100, 101, Some(77))];
    is_bad("an attempt over a later write", &crashed(over, pending()));
    is_bad(
        "an attempt before it began",
        &crashed(vec![get(1, 2, Some(77)), get(100, 101, Some(77))], pending()),
    );
    let lost = vec![put(1, 2, 1), put(3, 4, 2), get(100, 101, Some(77))];
    is_bad("an attempt over what it has not seen", &crashed(lost, raise(Some(10))));
    let back = vec![put(1, 2, 1), get(6, 7, Some(78)), get(100, 101, Some(77))];
    is_bad("an attempt under the one that has seen it", &crashed(back, two()));
    let early = vec![put(1, 2, 1), get(3, 4, None), get(100, 101, None)];
    is_bad("absent before the remove began", &crashed(early, vec![cut_off(5, Attempt::Remove)]));
    let old = History { version: 9, value: Some(3), events: vec![put(1, 2, 9)], pending: vec![] };
    assert!(versions::check(&old).is_err(), "a version of an earlier life was not found in {old:?}");
}

/// Catches: every kind of stale, lost or torn operation that shows in a history.
fn histories_are_linearizable(capacity: usize, keys: u64, seed: u64) {
    let rows = Audit::unrecorded();
    let mut rng = Rng::new(seed);
    rows.set_fault(move |_| if rng.one_in(50) { Err(BackendError::transient("busy")) } else { Ok(()) });
    rows.set_gate(|_| thread::yield_now());
    let cache = quiet()
        .capacity(capacity)
        .max_delay(Duration::from_millis(1))
        .batch_size(16)
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    let (threads, each) = (4, scaled(10_000, 130_000));
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64 + 1;
    let run = |thread: u64| {
        let mut rng = Rng::new(seed * 100 + thread);
        let mut mine = Vec::with_capacity(each as usize);
        for n in 0..each {
            let (key, value) = (rng.below(keys), (thread << 40) | n);
            let dice = rng.below(1_000);
            let begin = now();
            let what = match dice {
                0..2 => {
                    // Has no part in the history.
                    let _ = cache.flush();
                    continue;
                }
                2..20 => {
                    let _ = cache.invalidate(&key).unwrap();
                    continue;
                }
                20..202 => What::Put { version: cache.put(key, value).unwrap().get(), value },
                202..260 => What::Remove { version: cache.remove(&key).unwrap().get() },
                260..360 => {
                    let mut seen = None;
                    let version = cache.update(key, |old| {
                        // Long enough for others to come in between, now and then.
                        if n % 8 == 0 {
                            thread::yield_now();
                        }
                        seen = old.copied();
                        value
                    });
                    What::Update { version: version.unwrap().get(), old: seen, value }
                }
                360..400 => What::Get { value: cache.get_many(&[key]).unwrap()[0] },
                400..450 => What::Get { value: cache.read(&key, |value| *value).unwrap() },
                _ => What::Get { value: cache.get(&key).unwrap() },
            };
            mine.push((key, event(begin, now(), what)));
        }
        mine
    };
    let recorded: Vec<(u64, Event)> = thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    rows.clear_fault();
    cache.flush().unwrap();
    let mut histories: HashMap<u64, Vec<Event>> = HashMap::new();
    recorded.iter().for_each(|(key, event)| histories.entry(*key).or_default().push(*event));
    let mut overlaps = 0;
    for (key, history) in &mut histories {
        // What the backend has in the end is the last read.
        let end = now();
        history.push(event(end, end, What::Get { value: rows.get(key) }));
        let checked = crash_free(std::mem::take(history));
        if let Err(wrong) = versions::check(&checked) {
            panic!("key {key}: {wrong}");
        }
        *history = checked.events;
        history.sort_unstable_by_key(|event| event.begin);
        overlaps += history.windows(2).filter(|pair| pair[0].end > pair[1].begin).count();
    }
    rows.check();
    let stats = cache.stats();
    assert!(overlaps > 20, "only {overlaps} operations overlapped");
    assert!(
        stats.loads > 0 && stats.removes > 0 && stats.batches > 10 && stats.backend_errors > 0,
        "{stats:?}"
    );
    assert!(capacity as u64 > keys || stats.evictions > 100, "{stats:?}");
}

/// Catches: stale reads through eviction and load.
#[test]
fn c04_c06_histories_with_evictions_and_loads_are_linearizable() {
    histories_are_linearizable(16, 48, 1);
}

/// Catches: stale reads where all threads fight for a few keys.
#[test]
fn c04_c06_histories_of_few_hot_keys_are_linearizable() {
    histories_are_linearizable(64, 4, 2);
}

/// Catches: stale reads in a cache that is smaller than the number of its threads.
#[test]
fn c04_c06_histories_in_a_tiny_cache_are_linearizable() {
    histories_are_linearizable(3, 12, 3);
}
