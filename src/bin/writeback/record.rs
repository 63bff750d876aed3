//! What the writers of a process were told, in a file that outlives the process.
//!
//! Each writer has a page of its own in mapped memory: what it is about to add, and what was acknowledged. A kill loses no store
//! to such memory; so whoever reads the file afterwards knows of every acknowledged write, and of at most one for each
//! writer whose answer nobody has seen.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    path::Path,
    sync::atomic::{Ordering, fence},
};

use memmap2::{Mmap, MmapMut};

/// How many writes were begun.
const BEGUN: usize = 0;
/// How many of them have an answer.
const ANSWERED: usize = 1;
/// How many of those are acknowledged.
const ACKED: usize = 2;
/// Of the last one that was begun.
const PLAYER: usize = 3;
const POINTS: usize = 4;
/// The words before the acknowledged points of each player.
const HEAD: usize = 8;

/// The mapped file, for the process that writes it.
pub(crate) struct Record {
    map: MmapMut,
    page: usize,
}

/// The page of one writer.
pub(crate) struct Page<'a>(&'a mut [u8]);

impl Record {
    /// Makes an empty file with a page for each writer.
    pub(crate) fn create(path: &Path, writers: usize, players: usize) -> io::Result<()> {
        File::create_new(path)?.set_len((writers * page_bytes(players)) as u64)
    }

    pub(crate) fn open(path: &Path, players: usize) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        // SAFETY: the file was made for this process by the one that started it, in a folder of its own, and is read by that
        // one only when this process is gone.
        let map = unsafe { MmapMut::map_mut(&file) }?;
        Ok(Self { map, page: page_bytes(players) })
    }

    pub(crate) fn pages(&mut self) -> impl Iterator<Item = Page<'_>> {
        self.map.chunks_exact_mut(self.page).map(Page)
    }
}

impl Page<'_> {
    /// These points are about to be added.
    pub(crate) fn begin(&mut self, place: usize, points: i64) {
        self.put(PLAYER, place as i64);
        self.put(POINTS, points);
        self.add(BEGUN, 1);
    }

    /// The last ones were acknowledged.
    pub(crate) fn acked(&mut self, place: usize, points: i64) {
        self.add(HEAD + place, points);
        self.add(ACKED, 1);
        self.add(ANSWERED, 1);
    }

    /// The last ones were refused.
    pub(crate) fn refused(&mut self) {
        self.add(ANSWERED, 1);
    }

    fn put(&mut self, word: usize, n: i64) {
        if let Some(bytes) = self.0.get_mut(word * 8..word * 8 + 8) {
            bytes.copy_from_slice(&n.to_le_bytes());
        }
        // Each store before all that follows, the cache's own work included: whoever is killed has stored them in this order.
        fence(Ordering::SeqCst);
    }

    fn add(&mut self, word: usize, n: i64) {
        self.put(word, word_of(self.0, word).saturating_add(n));
    }
}

/// What a record says when its process is gone.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) acked: u64,
    /// The acknowledged points of each player, from 1 on.
    pub(crate) points: HashMap<i64, i64>,
    /// Writes that may have happened although nobody has seen an answer: the points for each player.
    pub(crate) open: HashMap<i64, Vec<i64>>,
}

impl Told {
    pub(crate) fn read(path: &Path, players: usize) -> io::Result<Self> {
        // SAFETY: the process that has written the file is gone, and nobody else knows of it.
        let map = unsafe { Mmap::map(&File::open(path)?) }?;
        let mut told = Self::default();
        for page in map.chunks_exact(page_bytes(players)) {
            told.acked += word_of(page, ACKED).unsigned_abs();
            for place in 0..players {
                let points = word_of(page, HEAD + place);
                if points > 0 {
                    *told.points.entry(place as i64 + 1).or_insert(0) += points;
                }
            }
            if word_of(page, BEGUN) != word_of(page, ANSWERED) {
                told.open.entry(word_of(page, PLAYER) + 1).or_default().push(word_of(page, POINTS));
            }
        }
        Ok(told)
    }

    /// Adds the acknowledged points to what the rows held before, and of the open ones those that the rows of now have. Returns
    /// how many writes are open.
    pub(crate) fn add_to(&self, expected: &mut HashMap<i64, i64>, rows: &HashMap<i64, i64>) -> usize {
        for (player, won) in &self.points {
            let sum = expected.entry(*player).or_insert(0);
            *sum = sum.saturating_add(*won);
        }
        for (player, open) in &self.open {
            let Some(&found) = rows.get(player) else { continue };
            let sure = expected.get(player).copied().unwrap_or(0);
            if found != sure && sums(open).contains(&(found.saturating_sub(sure))) {
                expected.insert(*player, found);
            }
        }
        self.open.values().map(Vec::len).sum()
    }
}

/// What some of `parts` add up to.
fn sums(parts: &[i64]) -> HashSet<i64> {
    parts.iter().fold(HashSet::from([0]), |sums, part| {
        sums.iter().flat_map(|sum| [*sum, sum.saturating_add(*part)]).collect()
    })
}

fn page_bytes(players: usize) -> usize {
    ((HEAD + players) * 8).next_multiple_of(4096)
}

fn word_of(page: &[u8], word: usize) -> i64 {
    let bytes = page.get(word * 8..word * 8 + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, i64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_counts_only_if_the_database_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("record");
        Record::create(&path, 2, 3).expect("a record");
        let mut record = Record::open(&path, 3).expect("a record");
        let mut pages: Vec<_> = record.pages().collect();
        pages[0].begin(0, 5);
        pages[0].acked(0, 5);
        pages[0].begin(1, 7);
        pages[0].refused();
        pages[0].begin(0, 2);
        pages[1].begin(0, 4);
        drop(pages);
        let told = Told::read(&path, 3).expect("a record");
        assert_eq!((told.acked, &told.points), (1, &HashMap::from([(1, 5)])));
        for (found, expected) in [(5, 5), (7, 7), (9, 9), (11, 11), (6, 5), (4, 5), (12, 5)] {
            let mut sums = HashMap::new();
            assert_eq!(told.add_to(&mut sums, &HashMap::from([(1, found)])), 2);
            assert_eq!(sums, HashMap::from([(1, expected)]), "the database has {found}");
        }
    }
}
