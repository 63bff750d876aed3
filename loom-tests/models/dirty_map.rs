//! The dirty map: marks against a sweep.

use std::sync::Arc;

use super::{explore, join, spawn};
use crate::{
    dirty_map::DirtyMap,
    sync::{AtomicU32, Ordering},
    table::Position,
};

/// Each mark is found, at the latest by the sweep after it; and who finds it sees what came before it.
#[test]
fn dirty_map_loses_no_mark() {
    explore(None, || {
        let map = Arc::new(DirtyMap::new(2));
        let written: Arc<[AtomicU32; 2]> = Arc::new(std::array::from_fn(|_| AtomicU32::new(0)));
        let markers: Vec<_> = (0..2)
            .map(|index| {
                let (map, written) = (Arc::clone(&map), Arc::clone(&written));
                spawn(move || {
                    written[index].store(1, Ordering::Relaxed);
                    map.mark(Position::from_index(index));
                })
            })
            .collect();
        let mut found = [false; 2];
        let mut sweep = || {
            map.sweep(|at| {
                assert_eq!(written[at.index()].load(Ordering::Relaxed), 1, "found before it was written");
                found[at.index()] = true;
            });
        };
        sweep();
        markers.into_iter().for_each(join);
        sweep();
        assert!(!map.has_marks());
        assert_eq!(found, [true; 2], "a mark was lost");
    });
}
