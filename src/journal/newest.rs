//! For each key of a journal the record that counts: the newest one.
//!
//! There may be millions, and most of what it costs to find them is waiting for memory. So the table holds one word for
//! each key, and the records are beside it in a row, in the order in which their keys were met. Whoever goes over them
//! reads the file from its beginning to its end.

use std::hash::BuildHasher;

use super::format::Record;
use crate::{fault, memory::prefetch};

/// So many records are best kept at once.
pub(crate) const AHEAD: usize = 32;

/// A word of the table has the place of a record in its low bits, plus one, and a part of its key's hash in the others.
const PLACE: u64 = (1 << 40) - 1;

#[derive(Default)]
pub(crate) struct Newest<'a> {
    records: Vec<Record<'a>>,
    /// A power of two of them, or none. Zero: free.
    table: Vec<u64>,
    hasher: foldhash::fast::RandomState,
}

impl<'a> Newest<'a> {
    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The newest record of each key.
    pub(crate) fn records(&self) -> &[Record<'a>] {
        &self.records
    }

    /// The newest record of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Record<'a>> {
        if self.is_empty() {
            return None;
        }
        let at = self.find(self.hash(key), key);
        place(self.table[at]).map(|place| &self.records[place])
    }

    /// Takes these records, and keeps each that is newer than what there is of its key.
    pub(crate) fn keep(&mut self, records: &mut Vec<Record<'a>>) {
        self.make_room(records.len());
        let mut hashes = [0; AHEAD];
        for records in records.chunks(AHEAD) {
            for (hash, record) in hashes.iter_mut().zip(records) {
                *hash = self.hash(record.key);
                prefetch(&self.table[*hash as usize & (self.table.len() - 1)]);
            }
            for (hash, record) in hashes.iter().zip(records) {
                self.keep_one(*hash, *record);
            }
        }
        records.clear();
    }

    fn keep_one(&mut self, hash: u64, record: Record<'a>) {
        let at = self.find(hash, record.key);
        match place(self.table[at]).map(|place| &mut self.records[place]) {
            Some(known) => {
                if known.version < record.version || fault::broken("highest-version-wins") {
                    *known = record;
                }
            }
            None => {
                self.records.push(record);
                self.table[at] = word(hash, self.records.len() - 1);
            }
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Where the word of a key is in the table, or where it belongs.
    fn find(&self, hash: u64, key: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(place) = place(self.table[at]) {
            if (self.table[at] ^ hash) & !PLACE == 0 && self.records[place].key == key {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    /// Makes the table so large that a third of it is free after so many more keys.
    fn make_room(&mut self, more: usize) {
        let least = (self.records.len() + more) / 2 * 3;
        if least < self.table.len() {
            return;
        }
        let len = (least * 2).next_power_of_two().max(64);
        self.table = vec![0; len];
        for index in 0..self.records.len() {
            let hash = self.hash(self.records[index].key);
            let mut at = hash as usize & (len - 1);
            while self.table[at] != 0 {
                at = (at + 1) & (len - 1);
            }
            self.table[at] = word(hash, index);
        }
    }
}

fn word(hash: u64, place: usize) -> u64 {
    hash & !PLACE | (place as u64 + 1)
}

fn place(word: u64) -> Option<usize> {
    (word & PLACE).checked_sub(1).map(|place| place as usize)
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn record((key, version): &([u8; 8], u64)) -> Record<'_> {
        Record { offset: 0, words: 0, version: *version, epoch: 0, state: 0, key, value: None }
    }

    #[test]
    fn the_newest_of_each_key_is_kept() {
        // Keys that meet each other again and again, versions in no order.
        let numbers = (0..40_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
        let keyed: Vec<_> = numbers.map(|n| ((n % 7_000).to_le_bytes(), n)).collect();
        let (mut newest, mut model) = (Newest::default(), HashMap::new());
        assert!(newest.is_empty() && newest.get(&[]).is_none());
        for some in keyed.chunks(AHEAD + 1) {
            newest.keep(&mut some.iter().map(record).collect());
            for (key, version) in some {
                let known = model.entry(&key[..]).or_insert(*version);
                *known = (*known).max(*version);
            }
        }
        assert_eq!(newest.len(), model.len());
        for record in newest.records() {
            assert_eq!(model.get(record.key), Some(&record.version));
            assert_eq!(newest.get(record.key).map(|record| record.version), Some(record.version));
        }
        assert!(newest.get(&7_000_u64.to_le_bytes()).is_none());
    }
}
