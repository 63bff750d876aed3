//! What outlives a kill: the rows, and what every thread has done and been told. Words in mapped memory, written without a system call.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use memmap2::{MmapOptions, MmapRaw};

use super::history::{Attempt, Event, Pending, What};

pub(crate) const KEYS: u64 = 48;
pub(crate) const THREADS: usize = 4;
/// The most operations that a thread records in one life.
pub(crate) const MOST: u64 = 60_000;

const ROWS: usize = 64;
const OPENING: usize = ROWS + KEYS as usize;
const FIRST_THREAD: usize = OPENING + 3 * KEYS as usize;
/// The operation that is under way: begin, what, old value, new value; then how many have ended.
const HEAD: usize = 8;
const DONE: usize = 4;
/// Begin, end, what, version, old value, new value.
const EVENT: usize = 6;
const THREAD: usize = HEAD + EVENT * MOST as usize;
const WORDS: usize = FIRST_THREAD + THREADS * THREAD;

/// What is counted in a life.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    Ready,
    Loads,
    FailedLoads,
    Batches,
    FailedBatches,
    LostAnswers,
    FailedOperations,
    Flushes,
    Invalidations,
    Refused,
    Evictions,
    Copies,
    Retired,
}

pub(crate) const COUNTS: [(&str, Count); 12] = [
    ("loads", Count::Loads),
    ("failed loads", Count::FailedLoads),
    ("batches", Count::Batches),
    ("failed batches", Count::FailedBatches),
    ("batches whose answer was lost", Count::LostAnswers),
    ("operations that the backend refused", Count::FailedOperations),
    ("flushes", Count::Flushes),
    ("invalidations", Count::Invalidations),
    ("operations that the cache refused", Count::Refused),
    ("evictions", Count::Evictions),
    ("records copied", Count::Copies),
    ("epochs retired", Count::Retired),
];

/// An operation with its key, and the round that it belongs to.
pub(crate) struct Done {
    pub(crate) key: u64,
    pub(crate) round: u64,
    pub(crate) event: Event,
}

#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Kind {
    Put = 1,
    Remove,
    Update,
    Get,
}

pub(crate) struct Board(MmapRaw);

/// No value is zero.
fn some(word: u64) -> Option<u64> {
    (word > 0).then_some(word)
}

impl Board {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(WORDS as u64 * 8)?;
        Ok(Board(MmapOptions::new().map_raw(&file)?))
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the map has this many words, begins with a page, and is only ever used as atomic words, by all processes.
        unsafe { std::slice::from_raw_parts(self.0.as_mut_ptr().cast::<AtomicU64>(), WORDS) }
    }

    pub(crate) fn count(&self, count: Count) -> &AtomicU64 {
        &self.words()[count as usize]
    }

    pub(crate) fn add(&self, count: Count, more: u64) {
        self.count(count).fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn row(&self, key: u64) -> Option<u64> {
        some(self.words()[ROWS + key as usize].load(Ordering::Acquire))
    }

    pub(crate) fn set_row(&self, key: u64, value: Option<u64>) {
        self.words()[ROWS + key as usize].store(value.unwrap_or(0), Ordering::Release);
    }

    /// What a life has found of a key before it began to work.
    pub(crate) fn set_opening(&self, key: u64, read: Event) {
        let What::Get { value } = read.what else { return };
        let words = &self.words()[OPENING + 3 * key as usize..];
        for (word, value) in words.iter().zip([read.begin, read.end, value.unwrap_or(0)]) {
            word.store(value, Ordering::Release);
        }
    }

    pub(crate) fn opening(&self, key: u64) -> Event {
        let word = |at: usize| self.words()[OPENING + 3 * key as usize + at].load(Ordering::Acquire);
        Event { begin: word(0), end: word(1), what: What::Get { value: some(word(2)) } }
    }

    /// Forgets what the last life has done, but not the rows.
    pub(crate) fn begin_life(&self) {
        self.words()[..ROWS].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        for thread in 0..THREADS {
            let page = self.page(thread);
            page.words[..HEAD].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    pub(crate) fn page(&self, thread: usize) -> Page<'_> {
        let begin = FIRST_THREAD + thread * THREAD;
        Page { words: &self.words()[begin..begin + THREAD] }
    }
}

/// What one thread has done.
pub(crate) struct Page<'a> {
    words: &'a [AtomicU64],
}

impl Page<'_> {
    fn set(&self, at: usize, value: u64) {
        // Release, though a kill needs no ordering between processes: a compiler must not move these stores around a call.
        self.words[at].store(value, Ordering::Release);
    }

    fn get(&self, at: usize) -> u64 {
        self.words[at].load(Ordering::Acquire)
    }

    pub(crate) fn done(&self) -> u64 {
        self.get(DONE)
    }

    pub(crate) fn begin(&self, kind: Kind, key: u64, value: u64, now: u64) {
        self.set(1, kind as u64 | key << 8);
        self.set(2, 0);
        self.set(3, value);
        self.set(0, now);
    }

    /// The operation is being made from this value.
    pub(crate) fn saw(&self, old: Option<u64>) {
        self.set(2, old.unwrap_or(0));
    }

    /// The operation has not happened.
    pub(crate) fn give_up(&self) {
        self.set(0, 0);
    }

    pub(crate) fn end(&self, key: u64, round: u64, event: Event) {
        let (kind, version, old, value) = match event.what {
            What::Put { version, value } => (Kind::Put, version, None, Some(value)),
            What::Remove { version } => (Kind::Remove, version, None, None),
            What::Update { version, old, value } => (Kind::Update, version, old, Some(value)),
            What::Get { value } => (Kind::Get, 0, None, value),
        };
        let what = kind as u64 | key << 8 | round << 16;
        let words = [event.begin, event.end, what, version, old.unwrap_or(0), value.unwrap_or(0)];
        let (done, at) = (self.done(), HEAD + EVENT * self.done() as usize);
        words.iter().enumerate().for_each(|(word, value)| self.set(at + word, *value));
        self.set(DONE, done + 1);
        self.set(0, 0);
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = Done> {
        (0..self.done() as usize).map(|index| {
            let [begin, end, what, version, old, value] =
                std::array::from_fn(|word| self.get(HEAD + EVENT * index + word));
            let told = match what & 0xff {
                1 => What::Put { version, value },
                2 => What::Remove { version },
                3 => What::Update { version, old: some(old), value },
                _ => What::Get { value: some(value) },
            };
            Done { key: what >> 8 & 0xff, round: what >> 16, event: Event { begin, end, what: told } }
        })
    }

    /// The write that the kill has cut off, and its key.
    pub(crate) fn pending(&self) -> Option<(u64, Pending)> {
        let [begin, what, old, value] = std::array::from_fn(|word| self.get(word));
        let recorded = self.done().checked_sub(1).map(|last| self.get(HEAD + EVENT * last as usize));
        // Killed between the record and the mark that it ends.
        if begin == 0 || recorded == Some(begin) {
            return None;
        }
        let attempt = match what & 0xff {
            1 => Attempt::Put { value },
            2 => Attempt::Remove,
            3 => Attempt::Update { old: some(old), value },
            _ => return None,
        };
        Some((what >> 8, Pending { begin, what: attempt }))
    }
}
