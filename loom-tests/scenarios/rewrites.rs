//! Keys that are written all the time, by one thread and by several, while the backend fails.

use std::sync::Arc;

use super::{count, drain, explore, join, open, rows::Rows, spawn};
use crate::Error;

const SHARED: u64 = 9;
const COUNTED: u64 = 8;
const WRITES: u64 = 4;

/// Two writers, each with a key of its own, one that they share, and one in which they count together; one that reads, and one
/// that also writes and flushes: what that has written or seen is in the backend when a flush has ended well, reads never go
/// back, and in the end all of it is there.
#[test]
fn rewrites_reach_the_backend() {
    let waits_for = [
        "refusals",
        "flushes that failed",
        "flushes that held",
        "rewrites",
        "helps",
        "reads of what is dirty",
        "updates that met another",
    ];
    explore(&waits_for, || {
        let rows = Arc::new(Rows::new(4));
        let cache = open(16, &rows);
        let writers = [1, 2].map(|key| {
            let cache = Arc::clone(&cache);
            spawn(move || {
                for number in 1..=WRITES {
                    cache.put(key, number).expect("there is room");
                    assert_eq!(cache.get(&key).expect("a hit"), Some(number));
                    cache.put(SHARED, key * 100 + number).expect("there is room");
                    let mut tries = 0;
                    let one_more = |old: Option<&u64>| {
                        tries += 1;
                        old.map_or(1, |old| old + 1)
                    };
                    cache.update(COUNTED, one_more).expect("there is room");
                    count("updates that met another", tries - 1);
                }
            })
        });
        let readers = [false, true].map(|flushes| {
            let (cache, rows) = (Arc::clone(&cache), Arc::clone(&rows));
            spawn(move || {
                let mut last = [0; 2];
                for round in 0..6 {
                    let key = 1 + round % 2;
                    let seen = cache.peek(&key).unwrap_or(0);
                    let last = &mut last[round as usize % 2];
                    assert!(seen >= *last, "a read has gone back from {last} to {seen}");
                    *last = seen;
                    count("reads of what is dirty", u64::from(cache.is_dirty(&key)));
                    if !flushes {
                        continue;
                    }
                    let version = cache.put(SHARED, 300 + round).expect("there is room").get();
                    match cache.flush() {
                        Ok(()) => {
                            count("flushes that held", 1);
                            let stored = rows.row(SHARED).map_or(0, |(version, _)| version);
                            assert!(stored >= version, "written and flushed, and not in the backend");
                            assert!(rows.get(key).unwrap_or(0) >= seen, "flushed, and not in the backend");
                        }
                        Err(Error::NotFlushed { .. }) => count("flushes that failed", 1),
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        });
        writers.into_iter().chain(readers).for_each(join);
        let last = cache.peek(&SHARED).expect("it was written");
        assert!([100 + WRITES, 200 + WRITES, 305].contains(&last));
        let stats = drain(&cache, &rows);
        count("helps", stats.ring_overflows);
        count("rewrites", stats.backend_writes.saturating_sub(4));
        assert_eq!([1, 2, SHARED].map(|key| rows.get(key)), [Some(WRITES), Some(WRITES), Some(last)]);
        assert_eq!(rows.get(COUNTED), Some(2 * WRITES), "an update is lost");
    });
}
