//! A journal that no cache has open, for tools: what is in it, what is damaged, and an end of it.
//!
//! Nothing is read here that recovery reads otherwise: both use the same scan.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Damage, DamageKind, JournalError,
    file::{self, Opened},
    format::{self, FORMAT, SUPERBLOCK, live, stored_name},
    note,
    recover::Scan,
};

/// A journal that no cache has open. While this lives, none can open it.
///
/// ```
/// # use writeback::{BackendError, Cache, ClosedJournal, backend::Memory};
/// # use std::{sync::Arc, time::Duration};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("scores.journal");
/// # let rows = Arc::new(Memory::<u64, u64>::new());
/// # rows.set_fault(|_| Err(BackendError::transient("down")));
/// # let cache = Cache::builder().capacity(10).journal(&path).journal_size(1 << 20).backend(rows).open::<u64, u64>()?;
/// # cache.put(7, 100)?;
/// # cache.close(Duration::from_millis(10));
/// # drop(cache);
/// let journal = ClosedJournal::open(&path)?;
/// let contents = journal.read()?;
/// assert_eq!((contents.key_codec(), contents.value_codec()), ("u64", "u64"));
/// assert!(contents.damage().is_empty());
/// for entry in contents.entries() {
///     println!("{:?} -> {:?}", entry.key, entry.value);
/// #   assert_eq!((entry.key, entry.value), (&7_u64.to_le_bytes()[..], Some(&100_u64.to_le_bytes()[..])));
/// }
/// # assert_eq!(contents.entries().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ClosedJournal {
    pub(super) path: PathBuf,
    pub(crate) opened: Opened,
}

/// A key with a write that is not in the backend, as far as the journal knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalEntry<'a> {
    /// The key, as its codec has written it.
    pub key: &'a [u8],
    /// The value, as its codec has written it; `None`: the key was removed.
    pub value: Option<&'a [u8]>,
    /// Grows with every write of the key.
    pub version: u64,
    /// The epoch of the record. It is needed until this one is retired.
    pub epoch: u64,
    /// Where the record is in the file, in bytes.
    pub offset: u64,
    /// How many bytes it takes there.
    pub bytes: u64,
}

/// What is in a [`ClosedJournal`].
pub struct JournalContents<'a> {
    scan: Scan<'a>,
    entries: Vec<JournalEntry<'a>>,
    file_bytes: u64,
}

impl ClosedJournal {
    /// Opens the journal at `path` and locks it against caches. Changes nothing in it.
    ///
    /// # Errors
    ///
    /// [`JournalError::Locked`] if a cache has it open, [`JournalError::Io`] if there is none or it may not be used.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        Ok(Self { path: path.to_owned(), opened: file::open_closed(path)? })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was last written, as far as the file system knows. The records themselves have no times.
    #[must_use]
    pub fn modified(&self) -> Option<SystemTime> {
        self.opened.file.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// The file is no journal, of a format that this version does not know, or its first bytes are damaged. Other damage
    /// is no error, but in [`JournalContents::damage`].
    pub fn read(&self) -> Result<JournalContents<'_>, JournalError> {
        let scan = self.opened.scan(&self.path)?;
        let mut entries: Vec<_> = scan
            .live
            .records()
            .iter()
            .map(|record| JournalEntry {
                key: record.key,
                value: record.value,
                version: record.version,
                epoch: record.epoch,
                offset: record.offset,
                bytes: record.words as u64 * 8,
            })
            .collect();
        entries.sort_unstable_by_key(|entry| (entry.version, entry.offset));
        Ok(JournalContents { scan, entries, file_bytes: self.opened.bytes.len() as u64 })
    }

    /// Declares all that is in it dead, on stable storage, and removes the `note` beside the database that says that this
    /// journal is needed. For whoever has brought the entries to the database, durably.
    ///
    /// # Errors
    ///
    /// The journal cannot be read or written, or the note not removed.
    pub fn retire(self, note: Option<&Path>) -> Result<(), JournalError> {
        let (retired, salt) = {
            let scan = self.opened.scan(&self.path)?;
            (scan.newest_epoch + 1, scan.identity.salt)
        };
        let Self { path, opened: Opened { file, bytes } } = self;
        // No map of ours is left when the file changes.
        drop(bytes);
        let word = format::checked(retired, salt).to_le_bytes();
        // The copy after the word itself has arrived: at least one of the two is whole at any time.
        let write = |index: usize| {
            file::write_at(&file, &word, index as u64 * 8)?;
            file.sync_data()
        };
        let failed = |source| JournalError::Io { path: path.clone(), doing: "retiring what is in", source };
        write(live::EPOCH).and_then(|()| write(live::EPOCH_AGAIN)).map_err(failed)?;
        let Some(marker) = note else { return Ok(()) };
        let is_ours = |marker| Ok(note::read(marker)?.is_some_and(|note| note.salt == Some(salt)));
        is_ours(marker).and_then(|ours| if ours { std::fs::remove_file(marker) } else { Ok(()) }).map_err(
            |source: io::Error| JournalError::Io {
                path: marker.to_owned(),
                doing: "removing the note about",
                source,
            },
        )
    }
}

impl JournalContents<'_> {
    /// The format that it is written in.
    #[must_use]
    pub fn format(&self) -> u64 {
        // The only one that can be read.
        FORMAT
    }

    /// The fingerprint of the codec of its keys.
    #[must_use]
    pub fn key_codec(&self) -> &str {
        &self.scan.identity.key
    }

    /// The fingerprint of the codec of its values.
    #[must_use]
    pub fn value_codec(&self) -> &str {
        &self.scan.identity.value
    }

    /// The identity of the backend that its writes are for. One that is very long ends in `#` and a checksum.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.scan.identity.backend
    }

    /// Whether its writes are for the backend of this [identity](crate::Backend::identity).
    #[must_use]
    pub fn is_for(&self, identity: &str) -> bool {
        self.scan.identity.backend == stored_name(identity)
    }

    /// The capacity of the cache that made it.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.scan.identity.capacity
    }

    /// The size of each segment in bytes. A segment becomes free as a whole.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.scan.identity.segment_bytes as u64
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.scan.segments
    }

    /// Records of epochs before this one are dead: their writes are in the backend, or in newer records.
    #[must_use]
    pub fn retired_epoch(&self) -> u64 {
        self.scan.retired
    }

    /// The newest epoch that anything in it speaks of.
    #[must_use]
    pub fn newest_epoch(&self) -> u64 {
        self.scan.newest_epoch
    }

    /// The process that had it open last; 0 if none has said so.
    #[must_use]
    pub fn last_owner(&self) -> u64 {
        self.scan.owner
    }

    /// Records of writes that have happened and are not dead, superseded ones included.
    #[must_use]
    pub fn live_records(&self) -> u64 {
        let stateless = self.scan.damage.iter().filter(|damage| damage.kind == DamageKind::State).count();
        self.scan.records - self.scan.dead - self.scan.pending - stateless as u64
    }

    /// Records of retired epochs whose space was not used again.
    #[must_use]
    pub fn dead_records(&self) -> u64 {
        self.scan.dead
    }

    /// Records of writes that were under way: nobody was told that they happened. They do not count.
    #[must_use]
    pub fn pending_records(&self) -> u64 {
        self.scan.pending
    }

    /// The newest write of each key that is not in the backend, the oldest version first.
    #[must_use]
    pub fn entries(&self) -> &[JournalEntry<'_>] {
        &self.entries
    }

    /// The size of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// How many bytes are in segments with records that are not dead.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.scan.needed.len() as u64 * self.segment_bytes()
    }

    /// How many bytes are in segments that may be written anew.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.scan.segments.saturating_sub(self.scan.needed.len()) as u64 * self.segment_bytes()
    }

    /// What is damaged.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.scan.damage
    }

    /// Whether a cache opens it only with [`journal_salvage`](crate::Builder::journal_salvage): something is damaged that
    /// a crash, or a loss of power since then, does not explain.
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        self.scan.is_damaged(file::rebooted_since(self.scan.boot))
    }

    /// The journal that the `note` beside a database names, if it is another one than this.
    ///
    /// # Errors
    ///
    /// The note cannot be read.
    pub fn other_journal(&self, note: &Path) -> io::Result<Option<PathBuf>> {
        let note = note::read(note)?;
        Ok(note.filter(|note| note.salt != Some(self.scan.identity.salt)).map(|note| note.path))
    }

    pub(super) fn scan(&self) -> &Scan<'_> {
        &self.scan
    }
}

impl fmt::Debug for ClosedJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosedJournal").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for JournalContents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalContents")
            .field("key_codec", &self.key_codec())
            .field("value_codec", &self.value_codec())
            .field("backend", &self.backend())
            .field("entries", &self.entries.len())
            .field("damage", &self.damage())
            .finish_non_exhaustive()
    }
}

impl Damage {
    /// What was found, in words.
    #[must_use]
    pub fn meaning(&self) -> String {
        match self.kind {
            DamageKind::Tail => {
                "a tail: what stands here is no whole record, and none follows in its segment".to_owned()
            }
            DamageKind::Middle { until } => {
                format!(
                    "a hole of {} bytes: no whole record, but others were written after it",
                    until - self.offset
                )
            }
            DamageKind::Segment if self.offset < SUPERBLOCK as u64 => {
                "the number of segments is not readable".to_owned()
            }
            DamageKind::Segment => {
                "the mark or the seal at the beginning of a segment is not readable".to_owned()
            }
            DamageKind::Epoch { has_copy: true } => {
                "one of the two copies of the retired epoch is not readable".to_owned()
            }
            DamageKind::Epoch { has_copy: false } => "the retired epoch is not readable".to_owned(),
            DamageKind::Backend => {
                "the name of the backend that has adopted the journal is not readable".to_owned()
            }
            DamageKind::State => {
                "a whole record that says neither that it counts nor that it does not".to_owned()
            }
            DamageKind::Missing { bytes } => format!("the file ends here; {bytes} bytes are missing"),
        }
    }

    /// What is lost by it, in words.
    #[must_use]
    pub fn loss(&self) -> &'static str {
        match self.kind {
            DamageKind::Tail => "the last writes of this segment, which were never synced if power was lost",
            DamageKind::Middle { .. } => {
                "the writes that stood here; an older one of the same key counts in their place"
            }
            DamageKind::Segment if self.offset < SUPERBLOCK as u64 => {
                "nothing: every segment of the file was read"
            }
            DamageKind::Segment => "nothing that can be told: its whole records were read all the same",
            DamageKind::Epoch { has_copy: true } => "nothing: the copy was used",
            DamageKind::Epoch { has_copy: false } => {
                "nothing, but writes that the backend already has, or has newer ones of, may be taken for unflushed"
            }
            DamageKind::Backend => {
                "nothing, but the journal passes for one of the backend that it was made for"
            }
            DamageKind::State => {
                "this write, if it had happened; an older one of the same key counts in its place"
            }
            DamageKind::Missing { .. } => "the writes that stood there",
        }
    }

    /// Whether it is the end of a segment rather than a hole in it.
    #[must_use]
    pub fn is_tail(&self) -> bool {
        matches!(self.kind, DamageKind::Tail)
    }
}
