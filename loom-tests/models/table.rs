//! Inserts: who wins, and what helpers may make visible.
//!
//! Two buckets of two places. A slot's number divided by ten is its key; a hash is made of a home and a key.

use std::sync::Arc;

use super::{explore, join, spawn, unpinned};
use crate::{
    sync::{AtomicU64, Ordering},
    table::{Kind, Position, Probe, SlotId, Table, Word},
};

fn two_buckets() -> Arc<Table> {
    Arc::new(Table::new(6).expect("a small table"))
}

fn hash(home: u64, key: u32) -> u64 {
    home << 63 | u64::from(key)
}

fn key_of(slot: SlotId) -> u32 {
    slot.0 / 10
}

fn word(slot: u32) -> Word {
    Word::new(Kind::Value, Table::tag(hash(0, slot / 10)), SlotId(slot))
}

fn find(table: &Table, home: u64, key: u32) -> Option<(Position, Word)> {
    table.find(hash(home, key), unpinned(), |slot| key_of(slot) == key)
}

/// Inserts the slot's key, unless it is there (`Err`: this is the slot that is).
fn insert(table: &Table, home: u64, slot: u32) -> Result<Position, SlotId> {
    let key = slot / 10;
    loop {
        match table.probe(hash(home, key), unpinned(), |slot| key_of(slot) == key) {
            Probe::Found(_, found) => return Err(found.slot()),
            Probe::Full => panic!("the range is never full in these models"),
            Probe::Vacant(vacancy) => {
                if let Ok(at) = table.insert(&vacancy, word(slot), unpinned()) {
                    return Ok(at);
                }
            }
        }
    }
}

fn evict(table: &Table, home: u64, key: u32) -> bool {
    find(table, home, key).is_some_and(|(at, word)| table.vacate(at, word, false, unpinned()).is_ok())
}

/// Asserts that exactly one of the inserts of a key has won, that the others saw the winner, and that it is there once.
fn assert_one_winner(table: &Table, inserts: &[(u32, Result<Position, SlotId>)]) {
    let winners: Vec<_> = inserts.iter().filter(|(_, result)| result.is_ok()).collect();
    let [(winner, Ok(at))] = winners[..] else { panic!("{} winners", winners.len()) };
    for (_, result) in inserts {
        assert!(result.is_ok() || *result == Err(SlotId(*winner)));
    }
    let words = table.audit();
    let found: Vec<_> = words.iter().filter(|(_, word)| key_of(word.slot()) == winner / 10).collect();
    assert!(matches!(found[..], [(place, word)] if place == at && word.slot().0 == *winner), "{found:?}");
}

/// Two inserts of one key into an empty table.
#[test]
fn table_one_winner() {
    explore(Some(3), || {
        let table = two_buckets();
        let other = spawn({
            let table = Arc::clone(&table);
            move || insert(&table, 0, 11)
        });
        let mine = insert(&table, 0, 10);
        let other = join(other);
        assert_one_winner(&table, &[(10, mine), (11, other)]);
    });
}

/// Two inserts of one key while the home is full and one of its entries leaves: they may choose different buckets.
#[test]
fn table_one_winner_in_different_buckets() {
    explore(Some(3), || {
        let table = two_buckets();
        (1..=2).for_each(|key| assert!(insert(&table, 0, key * 10).is_ok()));
        let evictor = spawn({
            let table = Arc::clone(&table);
            move || assert!(evict(&table, 0, 1))
        });
        let other = spawn({
            let table = Arc::clone(&table);
            move || insert(&table, 0, 41)
        });
        let mine = insert(&table, 0, 40);
        let other = join(other);
        join(evictor);
        assert!(find(&table, 0, 1).is_none() && find(&table, 0, 2).is_some());
        assert_one_winner(&table, &[(40, mine), (41, other)]);
    });
}

/// A key is inserted, evicted and inserted again while others of its home are inserted: what was acknowledged and not
/// evicted is there once.
#[test]
fn table_evict_and_insert_again() {
    explore(Some(2), || {
        let table = two_buckets();
        let again = spawn({
            let table = Arc::clone(&table);
            move || {
                let evicted = evict(&table, 0, 1);
                (evicted, insert(&table, 0, 11).is_ok())
            }
        });
        let helper = spawn({
            let table = Arc::clone(&table);
            move || assert!(insert(&table, 0, 20).is_ok())
        });
        let first = insert(&table, 0, 10).is_ok();
        let (evicted, second) = join(again);
        join(helper);
        assert_eq!(first as usize + second as usize - evicted as usize, 1);
        let mut keys: Vec<_> = table.audit().iter().map(|(_, word)| key_of(word.slot())).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 2]);
    });
}

/// An evictor stalls after it has read its word; meanwhile that entry is evicted and its key is inserted again, at the same
/// place. The evictor must not take that insert's PENDING away before it is visible, or the key is inserted twice.
#[test]
fn table_stale_evictor_meets_another_insert() {
    explore(Some(3), || {
        let table = two_buckets();
        assert!(insert(&table, 0, 10).is_ok());
        let (at, old) = find(&table, 0, 1).expect("inserted");
        assert!(table.vacate(at, old, false, unpinned()).is_ok());
        let stale = spawn({
            let table = Arc::clone(&table);
            move || assert!(table.vacate(at, old, false, unpinned()).is_err())
        });
        let rival = spawn({
            let table = Arc::clone(&table);
            move || insert(&table, 0, 11)
        });
        let mine = insert(&table, 0, 12);
        let theirs = join(rival);
        join(stale);
        assert_one_winner(&table, &[(11, theirs), (12, mine)]);
    });
}

/// Whoever sees a word of `key` that is not tentative sees its decision: the `decided`-th insert of home 1. Looks at the
/// place itself, because a search may pass by an entry that is not counted yet.
fn assert_decided(table: &Table, at: usize, key: u32, decided: u32) {
    let word = table.word(Position::from_index(at), unpinned());
    if !word.is_tentative() && !word.is_empty() && key_of(word.slot()) == key {
        assert!(table.inserts(hash(1, key)) >= decided, "visible, but not decided");
    }
}

/// A helper that stalls between reading the pending insert and its place, while the place is emptied and taken by an
/// insert of another home, must not make that one visible.
#[test]
fn table_helper_meets_another_insert() {
    explore(Some(3), || {
        let table = two_buckets();
        // Bucket 1 is full, so that home 1 goes on to bucket 0.
        (1..=2).for_each(|key| assert!(insert(&table, 1, key * 10).is_ok()));
        let evictor = spawn({
            let table = Arc::clone(&table);
            move || evict(&table, 0, 3).then(|| insert(&table, 1, 40))
        });
        let helper = spawn({
            let table = Arc::clone(&table);
            move || {
                let probe = table.probe(hash(0, 5), unpinned(), |slot| key_of(slot) == 5);
                assert!(matches!(probe, Probe::Vacant(_)));
                // The place that key 3 had: the first of bucket 0.
                assert_decided(&table, 0, 4, 3);
            }
        });
        assert!(insert(&table, 0, 30).is_ok());
        join(helper);
        let inserted = join(evictor);
        assert_eq!(find(&table, 1, 4).is_some(), inserted.is_some());
        table.audit();
    });
}

/// As above, but the place is taken, given back undecided, and taken again before the helper looks: the helper must
/// still see that the insert it came to finish is long settled.
#[test]
fn table_helper_meets_a_withdrawn_place() {
    explore(Some(3), || {
        let table = two_buckets();
        let vacancy = |home, key| match table.probe(hash(home, key), unpinned(), |_| false) {
            Probe::Vacant(vacancy) => vacancy,
            _ => panic!("there is room"),
        };
        // Bucket 0 is full, so that key 3 of home 0 goes to bucket 1.
        (1..=2).for_each(|key| assert!(insert(&table, 0, key * 10).is_ok()));
        // One insert at the first place of bucket 1 that will have to be taken back: others of its home come first.
        let overtaken = vacancy(1, 7);
        (8..=9).for_each(|key| assert!(insert(&table, 1, key * 10).is_ok()));
        assert!(evict(&table, 1, 8));
        let (three, five) = (vacancy(0, 3), vacancy(1, 5));
        assert!([overtaken.at(), three.at(), five.at()].iter().all(|at| at.index() == 8));
        let other = spawn({
            let table = Arc::clone(&table);
            move || {
                let _ = table.insert(&five, word(50), unpinned());
            }
        });
        let helper = spawn({
            let table = Arc::clone(&table);
            move || {
                let _ = table.probe(hash(0, 6), unpinned(), |slot| key_of(slot) == 6);
                assert_decided(&table, 8, 5, 3);
            }
        });
        if let Ok(at) = table.insert(&three, word(30), unpinned()) {
            assert!(table.vacate(at, table.word(at, unpinned()), false, unpinned()).is_ok());
            assert!(table.insert(&overtaken, word(70), unpinned()).is_err());
        }
        join(other);
        join(helper);
        table.audit();
    });
}

/// As above, but another thread than the evictor takes the place: what the evictor knew has to come with it.
#[test]
fn table_helper_meets_a_place_that_another_left() {
    explore(Some(2), || {
        let table = two_buckets();
        // Bucket 1 is full, so that home 1 goes on to bucket 0.
        (1..=2).for_each(|key| assert!(insert(&table, 1, key * 10).is_ok()));
        let taker = spawn({
            let table = Arc::clone(&table);
            move || assert!(insert(&table, 1, 40).is_ok())
        });
        let helper = spawn({
            let table = Arc::clone(&table);
            move || {
                let _ = table.probe(hash(0, 5), unpinned(), |slot| key_of(slot) == 5);
                assert_decided(&table, 0, 4, 3);
            }
        });
        assert!(insert(&table, 0, 30).is_ok());
        assert!(evict(&table, 0, 3));
        join(taker);
        join(helper);
        table.audit();
    });
}

/// Whoever finds a key absent has seen what its evictor saw, also if the key lived far from its home.
#[test]
fn table_absent_is_known_with_its_reason() {
    explore(None, || {
        let table = two_buckets();
        // Bucket 0 is full, so that key 3 goes to bucket 1.
        (1..=3).for_each(|key| assert!(insert(&table, 0, key * 10).is_ok()));
        let retired = Arc::new(AtomicU64::new(0));
        let prober = spawn({
            let (table, retired) = (Arc::clone(&table), Arc::clone(&retired));
            move || {
                if let Probe::Vacant(_) = table.probe(hash(0, 3), unpinned(), |slot| key_of(slot) == 3) {
                    assert_eq!(retired.load(Ordering::Relaxed), 1, "absent, and nobody knows why");
                }
            }
        });
        retired.store(1, Ordering::Relaxed);
        assert!(evict(&table, 0, 3));
        join(prober);
        table.audit();
    });
}
