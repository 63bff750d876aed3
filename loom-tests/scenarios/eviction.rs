//! More keys than fit.

use std::sync::Arc;

use super::{count, drain, draw, explore, join, open, rows::Rows, spawn};

/// Two writers with four keys each, in a cache of four, and two who only read and forget: nothing that is dirty is evicted, what
/// comes back is never older than what was there, and no version falls.
#[test]
fn eviction_forgets_nothing() {
    let waits_for = ["refusals", "evictions", "loads", "evictors that found only what is dirty", "removes"];
    explore(&waits_for, || {
        let rows = Arc::new(Rows::new(2));
        let cache = open(4, &rows);
        let writers = [0, 10].map(|first| {
            let cache = Arc::clone(&cache);
            spawn(move || {
                let mut mine = [None; 4];
                for number in 1..=8 {
                    let key = draw(4) as usize;
                    if draw(4) == 0 {
                        count("removes", 1);
                        cache.remove(&(first + key as u64)).expect("there is room");
                        mine[key] = None;
                    } else {
                        cache.put(first + key as u64, number).expect("there is room");
                        mine[key] = Some(number);
                    }
                    let other = draw(4) as usize;
                    assert_eq!(cache.get(&(first + other as u64)).expect("the backend loads"), mine[other]);
                }
                mine
            })
        });
        let readers = [0, 10].map(|first| {
            let cache = Arc::clone(&cache);
            spawn(move || {
                let mut last = [0; 4];
                for _ in 0..6 {
                    let key = draw(4) as usize;
                    // A key that was removed says nothing.
                    if let Some(seen) = cache.get(&(first + key as u64)).expect("the backend loads") {
                        assert!(seen >= last[key], "a read has gone back");
                        last[key] = seen;
                    }
                    let _ = cache.invalidate(&(first + draw(4)));
                }
            })
        });
        let mine = writers.map(join);
        readers.into_iter().for_each(join);
        let stats = drain(&cache, &rows);
        count("evictions", stats.evictions);
        count("loads", stats.loads);
        count("evictors that found only what is dirty", stats.flushes_pressure);
        for (first, mine) in [0, 10].into_iter().zip(mine) {
            assert_eq!([0, 1, 2, 3].map(|key| rows.get(first + key)), mine);
        }
    });
}
