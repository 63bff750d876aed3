//! What is known of every key, without looking into the cache or the database.
//!
//! A key belongs to one writer, who numbers its writes; whether a number is a remove or a value, and which value, follows from
//! the number. So its owner knows what has to be there, and everyone else between which bounds it has to be. Beside these there
//! are counters, which all writers add one to: each write of a counter is its number.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use super::random::mix;

pub(crate) const WRITERS: usize = 8;

/// Keys that all writers update: 0, 1, and so on.
pub(crate) const COUNTERS: u64 = 24;

/// Keys of each writer.
pub(crate) const OWN: u64 = 1_500;

/// Of these, how many nearly all of its operations go to.
pub(crate) const HOT: u64 = 40;

pub(crate) const KEYS: u64 = COUNTERS + OWN * WRITERS as u64;

/// The number of a write, and a text that follows from key and number.
pub(crate) type Row = (u64, String);

pub(crate) type Rows = BTreeMap<u64, Row>;

/// The `nth` key of a writer.
pub(crate) fn own(writer: usize, nth: u64) -> u64 {
    COUNTERS + nth * WRITERS as u64 + writer as u64
}

/// Whether the write of this number removes the key.
pub(crate) fn is_remove(key: u64, number: u64) -> bool {
    key >= COUNTERS && (number == 0 || mix(key ^ mix(number)).is_multiple_of(8))
}

pub(crate) fn row(key: u64, number: u64) -> Row {
    let mixed = mix(key ^ mix(number.wrapping_mul(3)));
    // Of many lengths, some of which take a slot of the journal more than others.
    let length = 12 + (mixed % 97) as usize;
    let text = format!("{mixed:016x}");
    (number, text.chars().cycle().take(length).collect())
}

/// What the writes of one key have come to.
#[derive(Default)]
struct Cell {
    /// The newest number that was given to a write.
    issued: AtomicU64,
    /// The newest number of a write that has happened; of a counter, how many writes have.
    happened: AtomicU64,
    /// Of a counter: the largest number that somebody has seen.
    seen: AtomicU64,
}

pub(crate) struct Model(Vec<Cell>);

/// What a read may find: known before it begins.
pub(crate) struct Bound {
    key: u64,
    least: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Model((0..KEYS).map(|_| Cell::default()).collect())
    }

    fn cell(&self, key: u64) -> &Cell {
        &self.0[key as usize]
    }

    /// The next number for a write of an own key.
    pub(crate) fn issue(&self, key: u64) -> u64 {
        // Only the owner writes it.
        let number = self.cell(key).issued.load(Ordering::Relaxed) + 1;
        self.cell(key).issued.store(number, Ordering::SeqCst);
        number
    }

    /// The write of that number has happened.
    pub(crate) fn happened(&self, key: u64, number: u64) {
        self.cell(key).happened.store(number, Ordering::SeqCst);
    }

    /// What an own key has to be, for its owner: none if it was removed.
    pub(crate) fn current(&self, key: u64) -> Option<u64> {
        let number = self.cell(key).happened.load(Ordering::SeqCst);
        (!is_remove(key, number)).then_some(number)
    }

    /// A counter was raised to this number.
    pub(crate) fn raised(&self, counter: u64, number: u64) {
        self.cell(counter).happened.fetch_add(1, Ordering::SeqCst);
        self.cell(counter).seen.fetch_max(number, Ordering::SeqCst);
    }

    /// Before a read of any key.
    pub(crate) fn before(&self, key: u64) -> Bound {
        let cell = self.cell(key);
        let least = if key < COUNTERS { &cell.seen } else { &cell.happened };
        Bound { key, least: least.load(Ordering::SeqCst) }
    }

    /// After that read: what is wrong with what it has found.
    pub(crate) fn judge(&self, Bound { key, least }: &Bound, found: Option<&Row>) -> Result<(), String> {
        let (key, least) = (*key, *least);
        if let Some(found) = found
            && *found != row(key, found.0)
        {
            return Err(format!("key {key} has a value that nobody has written: {found:?}"));
        }
        let number = found.map(|(number, _)| *number);
        if key < COUNTERS {
            let number = number.unwrap_or(0);
            self.cell(key).seen.fetch_max(number, Ordering::SeqCst);
            if number < least {
                return Err(format!("counter {key} went back from {least} to {number}"));
            }
            return Ok(());
        }
        let most = self.cell(key).issued.load(Ordering::SeqCst);
        match number {
            Some(number) if number < least => Err(format!("key {key} went back from {least} to {number}")),
            Some(number) if number > most => {
                Err(format!("key {key} has write {number} of {most} that were begun"))
            }
            Some(_) => Ok(()),
            None if (least..=most).any(|number| is_remove(key, number)) => Ok(()),
            None => Err(format!("key {key} is absent, and none of its writes {least} to {most} removes it")),
        }
    }

    /// What the database has to hold when everything is flushed.
    pub(crate) fn rows(&self) -> Rows {
        let counters = (0..COUNTERS).map(|key| (key, self.cell(key).happened.load(Ordering::SeqCst)));
        let counters = counters.filter(|(_, number)| *number > 0);
        let own = (COUNTERS..KEYS).filter_map(|key| Some((key, self.current(key)?)));
        counters.chain(own).map(|(key, number)| (key, row(key, number))).collect()
    }
}

/// Row by row: how many differ, and the first few.
pub(crate) fn differences(expected: &Rows, found: &Rows) -> (usize, Vec<String>) {
    let keys: std::collections::BTreeSet<&u64> = expected.keys().chain(found.keys()).collect();
    let differing: Vec<&u64> = keys.into_iter().filter(|key| expected.get(key) != found.get(key)).collect();
    let tell = |key: &&u64| {
        let number = |rows: &Rows| rows.get(*key).map(|(number, _)| *number);
        format!("key {key}: the model has {:?}, the database {:?}", number(expected), number(found))
    };
    (differing.len(), differing.iter().take(5).map(tell).collect())
}
