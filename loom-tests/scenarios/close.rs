//! The end of a cache that is in use.

use std::sync::Arc;

use super::{PATIENCE, count, explore, join, let_go_on, open, rows::Rows, spawn};
use crate::{Closed, Error};

/// Three writers that go on until they are refused, and two who close: every write that was acknowledged is in the backend when
/// either close says so.
#[test]
fn close_loses_nothing() {
    explore(&["refused writes", "accepted writes", "refusals"], || {
        let rows = Arc::new(Rows::new(2));
        let cache = open(16, &rows);
        let writers = [1, 2, 3].map(|key| {
            let cache = Arc::clone(&cache);
            spawn(move || {
                let mut last = None;
                for number in 1..=6 {
                    match cache.put(key, number) {
                        Ok(_) => last = Some(number),
                        Err(Error::Closed) => {
                            count("refused writes", 1);
                            break;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                last
            })
        });
        let closing = {
            let cache = Arc::clone(&cache);
            spawn(move || {
                let_go_on();
                cache.close(PATIENCE)
            })
        };
        let_go_on();
        assert!(matches!(cache.close(PATIENCE), Closed::Drained));
        let there = [1, 2, 3].map(|key| rows.get(key));
        assert!(matches!(join(closing), Closed::Drained));
        let accepted = writers.map(join);
        count("accepted writes", accepted.iter().flatten().count() as u64);
        count("refusals", cache.stats().backend_errors);
        rows.check();
        assert_eq!(there, accepted, "acknowledged, and not in the backend");
    });
}
