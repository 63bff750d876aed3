//! Recorded histories of many threads, checked for each key.
//!
//! Every write returns a version, and every value is unique, so that each operation can be given the version that it
//! wrote or saw. In the order of versions, no operation may begin after a later one has ended.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use writeback::BackendError;

use crate::common::{Audit, Rng, quiet, scaled};

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Put {
        version: u64,
        value: u64,
    },
    Remove {
        version: u64,
    },
    /// Saw `old`, and made it `value`.
    Update {
        version: u64,
        old: Option<u64>,
        value: u64,
    },
    Get {
        value: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Event {
    begin: u64,
    end: u64,
    what: What,
}

/// Checks the history of one key, which was absent at first. Says what is wrong.
fn check(events: &[Event]) -> Result<(), String> {
    // What each version wrote: a value, or nothing. Version 0 is the absence at first.
    let mut writes: Vec<(u64, Option<u64>)> = vec![(0, None)];
    writes.extend(events.iter().filter_map(|event| match event.what {
        What::Put { version, value } | What::Update { version, value, .. } => Some((version, Some(value))),
        What::Remove { version } => Some((version, None)),
        What::Get { .. } => None,
    }));
    writes.sort_unstable();
    if let Some(twice) = writes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("one version for two writes: {twice:?}"));
    }
    let wrote: HashMap<u64, u64> =
        writes.iter().filter_map(|&(version, value)| Some((value?, version))).collect();
    let absent: BTreeSet<u64> =
        writes.iter().filter(|write| write.1.is_none()).map(|write| write.0).collect();

    // Version, read or not, begin, end; reads of an absence come later, since they have no version of their own.
    let mut ordered = vec![(0, false, 0, 0)];
    for event in events {
        let (version, reads) = match event.what {
            What::Put { version, .. } | What::Remove { version } => (version, false),
            What::Update { version, old, .. } => {
                let at = writes.partition_point(|write| write.0 < version);
                if writes[at - 1].1 != old {
                    return Err(format!("{event:?} was made from another value than {:?}", writes[at - 1]));
                }
                (version, false)
            }
            What::Get { value: None } => continue,
            What::Get { value: Some(value) } => (
                *wrote.get(&value).ok_or_else(|| format!("{event:?} saw what was never acknowledged"))?,
                true,
            ),
        };
        ordered.push((version, reads, event.begin, event.end));
    }
    ordered.sort_unstable();
    let mut latest_begin = 0;
    for group in ordered.chunk_by(|a, b| a.0 == b.0) {
        let first_end = group.iter().map(|op| op.3).min().unwrap_or(u64::MAX);
        let written = group.iter().filter(|op| !op.1).map(|op| op.2).max().unwrap_or(0);
        if latest_begin.max(written) > first_end && group[0].0 > 0 {
            return Err(format!(
                "something older than version {} began after it was seen: {group:?}",
                group[0].0
            ));
        }
        latest_begin = group.iter().map(|op| op.2).fold(latest_begin, u64::max);
    }

    // An absence that was read has to lie between what had ended before the read, and what began after it.
    let mut by_end: Vec<_> = ordered.iter().map(|op| (op.3, op.0)).collect();
    let mut by_begin: Vec<_> = ordered.iter().map(|op| (op.2, op.0)).collect();
    by_end.sort_unstable();
    by_begin.sort_unstable();
    let mut newest = 0;
    by_end.iter_mut().for_each(|op| (newest, op.1) = (newest.max(op.1), newest.max(op.1)));
    let mut oldest = u64::MAX;
    by_begin.iter_mut().rev().for_each(|op| (oldest, op.1) = (oldest.min(op.1), oldest.min(op.1)));
    for event in events.iter().filter(|event| event.what == What::Get { value: None }) {
        let ended = by_end.partition_point(|op| op.0 < event.begin);
        let lower = if ended == 0 { 0 } else { by_end[ended - 1].1 };
        let upper =
            by_begin.get(by_begin.partition_point(|op| op.0 <= event.end)).map_or(u64::MAX, |op| op.1);
        if lower > upper || absent.range(lower..=upper).next().is_none() {
            return Err(format!("{event:?}: the key was never absent between versions {lower} and {upper}"));
        }
    }
    Ok(())
}

fn event(begin: u64, end: u64, what: What) -> Event {
    Event { begin, end, what }
}

/// Catches: a checker that accepts everything, or that refuses what is right.
#[test]
fn the_checker_knows_good_histories_from_bad_ones() {
    let put = |begin, end, version| event(begin, end, What::Put { version, value: version * 10 });
    let get = |begin, end, value| event(begin, end, What::Get { value });
    let remove = |begin, end, version| event(begin, end, What::Remove { version });
    let update =
        |begin, end, version, old| event(begin, end, What::Update { version, old, value: version * 10 });
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
    for history in good {
        assert_eq!(check(&history), Ok(()), "{history:?}");
    }
    let bad = [
        ("stale read", vec![put(1, 2, 1), put(3, 4, 2), get(5, 6, Some(10))]),
        ("reads go back", vec![put(1, 2, 1), put(3, 20, 2), get(4, 5, Some(20)), get(6, 7, Some(10))]),
        ("read from the future", vec![get(1, 2, Some(10)), put(3, 4, 1)]),
        ("value from nowhere", vec![put(1, 2, 1), get(3, 4, Some(11))]),
        ("lost", vec![put(1, 2, 1), get(3, 4, None)]),
        ("came back", vec![put(1, 2, 1), remove(3, 4, 2), get(5, 6, Some(10))]),
        ("absent too late", vec![put(1, 2, 1), remove(3, 4, 2), put(5, 6, 3), get(7, 8, None)]),
        ("versions against time", vec![put(1, 2, 2), put(3, 4, 1)]),
        ("one version twice", vec![put(1, 2, 1), put(3, 4, 1)]),
        ("lost update", vec![put(1, 2, 1), update(3, 6, 2, Some(10)), update(3, 6, 3, Some(10))]),
        ("update over a remove", vec![put(1, 2, 1), remove(3, 6, 2), update(3, 6, 3, Some(10))]),
    ];
    for (name, history) in bad {
        assert!(check(&history).is_err(), "{name} was not found in {history:?}");
    }
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
        if let Err(wrong) = check(history) {
            panic!("key {key}: {wrong}");
        }
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
