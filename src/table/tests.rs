//! The table alone: slots are their own keys.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU32, AtomicUsize},
};

use super::*;
use crate::grace::Collector;

fn hash(key: u32) -> u64 {
    let mixed = (u64::from(key) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 29
}

fn insert(table: &Table, key: u32, guard: &Guard) -> Option<Position> {
    loop {
        match table.probe(hash(key), guard, |slot| slot.0 == key) {
            Probe::Found(at, _) => return Some(at),
            Probe::Full => return None,
            Probe::Vacant(vacancy) => {
                let word = Word::new(Kind::Value, Table::tag(hash(key)), SlotId(key));
                if let Ok(at) = table.insert(&vacancy, word, guard) {
                    return Some(at);
                }
            }
        }
    }
}

#[test]
fn agrees_with_a_map_through_inserts_and_removals() {
    let collector = Collector::new();
    let local = collector.register();
    let table = Table::new(400).expect("memory");
    let mut model: HashMap<u32, Position> = HashMap::new();
    let mut random = 12345u64;
    for _ in 0..100_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = (random % 700) as u32;
        let guard = local.pin();
        let found = table.find(hash(key), &guard, |slot| slot.0 == key);
        assert_eq!(found.map(|(at, _)| at), model.get(&key).copied());
        match found {
            Some((at, word)) => {
                assert_eq!(table.vacate(at, word, false, &guard), Ok(()));
                assert!(table.vacate(at, word, false, &guard).is_err());
                model.remove(&key);
            }
            None if model.len() < 400 => {
                let at = insert(&table, key, &guard).expect("a range does not fill up");
                assert!(model.values().all(|other| *other != at));
                model.insert(key, at);
            }
            None => {}
        }
    }
    assert!(model.len() > 100);
}

#[test]
fn a_range_does_not_fill_up_before_the_table_does() {
    // Random keys come and go at full capacity; the hash is a good one.
    let local = Collector::new().register();
    for capacity in [10, 50, 100, 1_000, 300_000u32] {
        let table = Table::new(capacity as usize).expect("memory");
        let (mut full, mut far, mut entries) = (0, 0, Vec::new());
        for key in 0..2 * capacity {
            let guard = local.pin();
            if key >= capacity {
                let (at, word): (Position, Word) = entries.swap_remove(key as usize * 7919 % entries.len());
                table.vacate(at, word, false, &guard).expect("unchanged");
            }
            match insert(&table, key, &guard) {
                Some(at) => {
                    let word = table.word(at, &guard);
                    far += usize::from(word.distance() > 0);
                    entries.push((at, word));
                }
                None => full += 1,
            }
        }
        assert_eq!(full, 0, "of {} at capacity {capacity}, {far} live away from home", 2 * capacity);
    }
}

#[test]
fn a_full_range_says_so() {
    let local = Collector::new().register();
    let guard = local.pin();
    let table = Table::new(1).expect("memory");
    let inserted = (0..100).filter(|key| insert(&table, *key, &guard).is_some()).count();
    assert_eq!(inserted, PLACES);
    assert_eq!(table.range(hash(1)).count(), PLACES);
}

#[test]
fn heat_is_counted_to_three_and_belongs_to_one_entry() {
    let local = Collector::new().register();
    let guard = local.pin();
    let table = Table::new(10).expect("memory");
    let at = insert(&table, 1, &guard).expect("room");
    let other = insert(&table, 2, &guard).expect("room");
    for expected in [0, 1, 2, 3, 3] {
        assert_eq!((table.heat(at), table.heat(other)), (expected, 0));
        table.touch(at);
    }
    table.set_heat(at, 1);
    assert_eq!(table.heat(at), 1);
    // Whoever comes after it is cold.
    let word = table.word(at, &guard);
    table.vacate(at, word, true, &guard).expect("unchanged");
    assert!(table.word(at, &guard).is_listed());
    assert_eq!(insert(&table, 1, &guard), Some(at));
    assert_eq!(table.heat(at), 0);
}

#[test]
fn threads_that_insert_the_same_keys_agree_on_their_places() {
    // Few buckets: all threads meet in the same homes, help each other, and remove each other's entries.
    let collector = Collector::new();
    let table = Table::new(24).expect("memory");
    let (inserts, removals) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let present: Vec<AtomicU32> = (0..16).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (collector, table, present) = (&collector, &table, &present);
            let (inserts, removals) = (&inserts, &removals);
            scope.spawn(move || {
                let local = collector.register();
                let mut random = thread + 1;
                for _ in 0..50_000 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let key = (random % 16) as u32;
                    let guard = local.pin();
                    let probe = table.probe(hash(key), &guard, |slot| slot.0 == key);
                    match probe {
                        Probe::Found(at, word) => {
                            if table.vacate(at, word, false, &guard).is_ok() {
                                present[key as usize].fetch_sub(1, Ordering::SeqCst);
                                removals.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        Probe::Vacant(vacancy) => {
                            let word = Word::new(Kind::Value, Table::tag(hash(key)), SlotId(key));
                            if table.insert(&vacancy, word, &guard).is_ok() {
                                present[key as usize].fetch_add(1, Ordering::SeqCst);
                                inserts.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        Probe::Full => panic!("24 entries fit"),
                    }
                }
            });
        }
    });
    assert!(removals.into_inner() > 1_000 && inserts.into_inner() > 1_000);
    let local = collector.register();
    let guard = local.pin();
    let mut places = HashSet::new();
    for key in 0..16u32 {
        let entries = table.range(hash(key)).filter(|at| {
            let word = table.word(*at, &guard);
            assert!(!word.is_tentative());
            !word.is_empty() && word.slot().0 == key
        });
        let entries: Vec<_> = entries.collect();
        assert_eq!(entries.len() as u32, present[key as usize].load(Ordering::SeqCst), "key {key}");
        assert!(entries.len() <= 1 && entries.iter().all(|at| places.insert(*at)));
    }
}
