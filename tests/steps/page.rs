//! What outlives a child: a page of memory that it shares with us, with what it was told was acknowledged, and with the
//! rows of a database.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use writeback::{Answers, Backend, BackendError, Batch};

pub(crate) const KEYS: usize = 8;

/// Before the operation under test.
pub(crate) const PREPARING: u64 = 0;
/// It has been called.
pub(crate) const BEGUN: u64 = 1;
/// It has returned.
pub(crate) const ACKED: u64 = 2;

/// A value is told by its stamp: a number (from 1) and, above it, a length. 0: no value.
pub(crate) fn stamp(number: u64, bytes: u64) -> u64 {
    bytes << 32 | number
}

/// The bytes of a stamp's value: no part of it is a part of another's.
pub(crate) fn value_of(stamp: u64) -> Vec<u8> {
    let mut value = stamp.to_le_bytes().to_vec();
    let mut state = stamp;
    while value.len() < (stamp >> 32) as usize {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        value.push((state >> 56) as u8);
    }
    value
}

/// The stamp of a value, if it is one, and whole.
pub(crate) fn stamp_of(value: &[u8]) -> Option<u64> {
    let stamp = u64::from_le_bytes(value.get(..8)?.try_into().ok()?);
    (value == value_of(stamp)).then_some(stamp)
}

/// What is known of a key. Written by the child.
#[derive(Default)]
pub(crate) struct Known {
    /// The stamp of its last acknowledged write, and the version of that.
    pub(crate) stamp: AtomicU64,
    pub(crate) version: AtomicU64,
    /// What the operation under test makes of it; equal to `stamp` if nothing.
    pub(crate) next: AtomicU64,
}

/// A row of the database. Like a transaction, a write is done by its last store: of which of the two halves counts.
#[derive(Default)]
struct Row {
    halves: [[AtomicU64; 2]; 2],
    current: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Page {
    pub(crate) phase: AtomicU64,
    /// The database refuses everything.
    pub(crate) is_down: AtomicU64,
    /// The database was given something that it must not be given.
    pub(crate) wrongs: AtomicU64,
    /// The child's statistics, at its end: copies, retirements, segments taken.
    pub(crate) notes: [AtomicU64; 3],
    pub(crate) keys: [Known; KEYS],
    rows: [Row; KEYS],
}

const WORDS: usize = size_of::<Page>() / 8;

/// What a page holds at one moment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Image([u64; WORDS]);

impl Image {
    /// That of a new page.
    pub(crate) fn zero() -> Self {
        Image([0; WORDS])
    }
}

impl Page {
    /// A page that children share.
    pub(crate) fn shared() -> &'static Page {
        // SAFETY: a new mapping of zeros, large enough, at a page's beginning, and never unmapped; zero is a value of
        // every part of a `Page`, which consists of atomics.
        unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
            let at = libc::mmap(std::ptr::null_mut(), size_of::<Page>(), protection, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED, "no memory for a page");
            &*at.cast::<Page>()
        }
    }

    fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: a `Page` consists of `AtomicU64`s and nothing else, so it is an array of them.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }

    pub(crate) fn image(&self) -> Image {
        Image(self.words().each_ref().map(|word| word.load(SeqCst)))
    }

    /// A page that knows this, and nothing else: each key with stamp and version.
    pub(crate) fn knowing(&self, image: &Image, keys: &[(u64, u64); KEYS]) -> Image {
        self.set(image);
        self.phase.store(PREPARING, SeqCst);
        self.is_down.store(0, SeqCst);
        for (known, (stamp, version)) in self.keys.iter().zip(keys) {
            known.stamp.store(*stamp, SeqCst);
            known.next.store(*stamp, SeqCst);
            known.version.store(*version, SeqCst);
        }
        self.image()
    }

    pub(crate) fn set(&self, image: &Image) {
        for (word, value) in self.words().iter().zip(image.0) {
            word.store(value, SeqCst);
        }
    }

    /// Whether it still holds exactly that.
    pub(crate) fn is(&self, image: &Image) -> bool {
        self.words().iter().zip(image.0).all(|(word, value)| word.load(SeqCst) == value)
    }

    /// Version and stamp of a row.
    pub(crate) fn row(&self, key: usize) -> (u64, u64) {
        let row = &self.rows[key];
        let half = &row.halves[row.current.load(SeqCst) as usize & 1];
        (half[0].load(SeqCst), half[1].load(SeqCst))
    }

    fn write_row(&self, key: usize, version: u64, stamp: u64) {
        let row = &self.rows[key];
        let other = (row.current.load(SeqCst) & 1) ^ 1;
        row.halves[other as usize][0].store(version, SeqCst);
        row.halves[other as usize][1].store(stamp, SeqCst);
        row.current.store(other, SeqCst);
    }
}

/// The database in a page.
pub(crate) struct Rows(pub(crate) &'static Page);

impl Backend<u64, Vec<u8>> for Rows {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
        let row = |key: &u64| {
            let (_, stamp) = self.0.row(*key as usize);
            (stamp != 0).then(|| value_of(stamp))
        };
        Ok(keys.iter().map(row).collect())
    }

    fn apply(&self, batch: &Batch<u64, Vec<u8>>) -> Answers {
        if self.0.is_down.load(SeqCst) != 0 {
            return batch.none_stored(BackendError::transient("down"));
        }
        batch.answer_each(|op| {
            let key = *op.key() as usize;
            let stamp = match op.change().value() {
                None => Some(0),
                Some(value) => stamp_of(value),
            };
            let (version, present) = self.0.row(key);
            // The same version may come twice, and is the same then.
            let is_newer = op.version() > version || (op.version() == version && stamp == Some(present));
            if !is_newer || stamp.is_none() {
                self.0.wrongs.fetch_add(1, SeqCst);
            }
            self.0.write_row(key, op.version(), stamp.unwrap_or(0));
            Ok(())
        })
    }
}
