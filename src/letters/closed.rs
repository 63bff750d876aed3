//! Dead letters of a journal that no cache has open, for tools.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Damage, DeadLetterError, Letter, State,
    area::{Area, Stored, beside},
    format::Identity,
    wall_clock,
};
use crate::{ClosedJournal, ErrorClass};

/// The dead letters of a [`ClosedJournal`]. Borrowed from it, so that no cache opens both meanwhile.
///
/// ```
/// # use writeback::{BackendError, Cache, ClosedDeadLetters, ClosedJournal, backend::Memory};
/// # use std::{sync::Arc, time::Duration};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("scores.journal");
/// # let rows = Arc::new(Memory::<u64, u64>::new());
/// # rows.set_fault(|_| Err(BackendError::permanent("out of range")));
/// # let cache = Cache::builder().capacity(10).journal(&path).journal_size(1 << 20).backend(rows).open::<u64, u64>()?;
/// # cache.put(7, 100)?;
/// # assert!(cache.flush().is_err());
/// # drop(cache);
/// let journal = ClosedJournal::open(&path)?;
/// let letters = ClosedDeadLetters::open(&journal)?;
/// for letter in letters.entries().filter(|letter| letter.is_open()) {
///     println!("{:?} -> {:?}: {}", letter.key, letter.value, letter.error);
/// #   assert_eq!((letter.key, letter.value), (&7_u64.to_le_bytes()[..], Some(&100_u64.to_le_bytes()[..])));
/// }
/// # assert_eq!(letters.entries().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ClosedDeadLetters<'j> {
    path: PathBuf,
    /// `None`: there is no such file.
    content: Option<(Area, Identity)>,
    damage: Vec<Damage>,
    _journal: &'j ClosedJournal,
}

/// A dead letter as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterEntry<'a> {
    /// Its number. No other letter of this journal has had it, or will have it.
    pub id: u64,
    /// The key, as its codec has written it.
    pub key: &'a [u8],
    /// The value, as its codec has written it; `None`: the key was removed.
    pub value: Option<&'a [u8]>,
    /// Grows with every write of the key.
    pub version: u64,
    /// What the backend said.
    pub error: &'a str,
    /// What kind of error that was.
    pub class: ErrorClass,
    /// How often the write was tried.
    pub attempts: u32,
    /// When it became dirty, in milliseconds since the Unix epoch.
    pub first_dirty: u64,
    /// When it was refused last, in milliseconds since the Unix epoch.
    pub refused: u64,
    /// What has become of it.
    pub state: State,
}

impl DeadLetterEntry<'_> {
    /// Whether it still waits for somebody to decide about it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }
}

impl<'a> From<&'a Letter> for DeadLetterEntry<'a> {
    fn from(letter: &'a Letter) -> Self {
        DeadLetterEntry {
            id: letter.id,
            key: &letter.key,
            value: letter.value.as_deref(),
            version: letter.version,
            error: &letter.error,
            class: letter.class,
            attempts: letter.attempts,
            first_dirty: letter.first_dirty,
            refused: letter.refused,
            state: letter.state,
        }
    }
}

impl<'j> ClosedDeadLetters<'j> {
    /// Reads the dead letters of a journal; there may be none. Blocks for reading the file.
    ///
    /// # Errors
    ///
    /// The file beside the journal cannot be read, is something else, or its first bytes are damaged. Other damage is no
    /// error, but in [`damage`](Self::damage).
    pub fn open(journal: &'j ClosedJournal) -> Result<Self, DeadLetterError> {
        let path = beside(journal.path());
        let (content, damage) = match Area::read(&path)? {
            Some((area, identity, damage)) => (Some((area, identity)), damage),
            None => (None, Vec::new()),
        };
        Ok(ClosedDeadLetters { path, content, damage, _journal: journal })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file, as far as it holds whole letters; 0 if there is none.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.content.as_ref().map_or(0, |(area, _)| area.bytes())
    }

    /// The identity of the backend that has refused the writes; empty if there is no file.
    #[must_use]
    pub fn backend(&self) -> &str {
        self.content.as_ref().map_or("", |(_, identity)| &identity.backend)
    }

    /// The fingerprint of the codec of the keys; empty if there is no file.
    #[must_use]
    pub fn key_codec(&self) -> &str {
        self.content.as_ref().map_or("", |(_, identity)| &identity.key)
    }

    /// The fingerprint of the codec of the values; empty if there is no file.
    #[must_use]
    pub fn value_codec(&self) -> &str {
        self.content.as_ref().map_or("", |(_, identity)| &identity.value)
    }

    /// What is damaged. A tail is cut off with the next letter that is written.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// All letters that are still known, in the order of their ids: open ones, and settled ones whose room was not needed yet.
    pub fn entries(&self) -> impl Iterator<Item = DeadLetterEntry<'_>> {
        self.content.iter().flat_map(|(area, _)| area.letters()).map(DeadLetterEntry::from)
    }

    /// How many are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.entries().filter(DeadLetterEntry::is_open).count()
    }

    /// Whether this version of a key, given by its bytes, or a newer one, is a letter, whatever has become of it. A journal's
    /// record of it is not an unflushed write.
    #[must_use]
    pub fn covers(&self, key: &[u8], version: u64) -> bool {
        self.content.as_ref().is_some_and(|(area, _)| area.covers(key, version))
    }

    /// Notes that the backend has this version of a key: letters of the key that are not newer are open no longer. Durable
    /// when it returns; says how many there were. Blocks for a sync, if there were any.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn note_stored<'a>(
        &mut self,
        stored: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>, u64)>,
    ) -> Result<usize, DeadLetterError> {
        let Some((area, _)) = &mut self.content else { return Ok(0) };
        let stored: Vec<_> =
            stored.into_iter().map(|(key, value, version)| Stored { key, value, version }).collect();
        area.resolve(&stored, wall_clock()).map_err(DeadLetterError::io(&self.path, "writing"))
    }
}

impl fmt::Debug for ClosedDeadLetters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosedDeadLetters")
            .field("path", &self.path)
            .field("open", &self.open_count())
            .finish()
    }
}
