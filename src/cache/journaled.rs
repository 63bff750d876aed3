//! The settings of a journal.

use std::path::{Path, PathBuf};

use super::builder::Builder;
use crate::{
    Codec, JournalSync, Plain,
    store::{Codecs, EntryCodec},
};

/// Whether a cache has a journal, and how its keys and values become bytes.
pub trait Journaled<K, V>: sealed::Sealed {
    #[doc(hidden)]
    fn into_journal(self) -> Option<Wanted<K, V>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<C, D> Sealed for super::WithJournal<C, D> {}
}

/// What is asked of a journal.
#[doc(hidden)]
pub struct Wanted<K, V> {
    pub(super) settings: Settings,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) codec: Box<dyn EntryCodec<K, V>>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) limit: Option<u64>,
    pub(super) sync: JournalSync,
    pub(super) adopt: bool,
    pub(super) salvage: bool,
    pub(super) dead_letters: u64,
}

/// A journal with codecs for keys and values; made by [`Builder::journal`].
#[derive(Debug, Clone)]
pub struct WithJournal<C = Plain, D = Plain> {
    settings: Settings,
    key: C,
    value: D,
}

impl WithJournal {
    pub(super) fn at(path: &Path) -> Self {
        let settings = Settings {
            path: path.to_owned(),
            bytes: 64 << 20,
            limit: None,
            sync: JournalSync::Every(std::time::Duration::from_secs(1)),
            adopt: false,
            salvage: false,
            dead_letters: 16 << 20,
        };
        WithJournal { settings, key: Plain, value: Plain }
    }
}

impl<K, V> Journaled<K, V> for () {
    fn into_journal(self) -> Option<Wanted<K, V>> {
        None
    }
}

impl<K: 'static, V: 'static, C: Codec<K>, D: Codec<V>> Journaled<K, V> for WithJournal<C, D> {
    fn into_journal(self) -> Option<Wanted<K, V>> {
        let (key, value) = (self.key.fingerprint(), self.value.fingerprint());
        Some(Wanted { settings: self.settings, key, value, codec: Box::new(Codecs(self.key, self.value)) })
    }
}

impl<B, W, S, C, D, R> Builder<B, W, S, WithJournal<C, D>, R> {
    /// How keys and values become bytes in the journal, where [`Plain`] will not do.
    ///
    /// ```
    /// # #[cfg(feature = "serde")] fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # use writeback::{Cache, Plain, Postcard, backend::Memory};
    /// #[derive(Clone, serde::Serialize, serde::Deserialize)]
    /// struct Score { points: u64, level: u8 }
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("scores.journal");
    /// let scores = Cache::builder()
    ///     .capacity(10_000)
    ///     .journal(&path)
    ///     .codecs(Plain, Postcard)
    ///     .backend(Memory::new())
    ///     .open::<u64, Score>()?;
    /// # Ok(()) }
    /// ```
    pub fn codecs<C2, D2>(self, key: C2, value: D2) -> Builder<B, W, S, WithJournal<C2, D2>, R> {
        self.map(|backend, weigher, hasher, journal, ranks| {
            let journal = WithJournal { settings: journal.settings, key, value };
            (backend, weigher, hasher, journal, ranks)
        })
    }

    /// How large the journal is made, in bytes; rounded up to what the lanes need, at least some 200 KiB. Default: 64 MiB.
    ///
    /// A larger one lets the flusher declare old records dead less often, and has larger segments: key and value of one
    /// entry may take about one sixty-fourth of this, at most 4 MiB. It should be a few times what is dirty at a time, and grows if it
    /// is less.
    pub fn journal_size(mut self, bytes: u64) -> Self {
        self.journal.settings.bytes = bytes;
        self
    }

    /// How large the journal may grow, in bytes, when so much is dirty that it is too small; the file never shrinks. Where it
    /// may not grow, or the disk is full, writes wait, and fail with [`Error::JournalFull`](crate::Error::JournalFull) after
    /// the [`write_timeout`](Builder::write_timeout). Default: no limit but that which the cache's capacity sets.
    pub fn journal_limit(mut self, bytes: u64) -> Self {
        self.journal.settings.limit = Some(bytes);
        self
    }

    /// When the journal is synced beside what writes with [`Ack::Synced`](crate::Ack::Synced) ask for. Default: every second.
    pub fn journal_sync(mut self, sync: JournalSync) -> Self {
        self.journal.settings.sync = sync;
        self
    }

    /// Opens the journal although it holds unflushed writes of another backend, and writes them to this one: for a database
    /// that was moved or renamed. Default: no. [`JournalStats::is_inconsistent`](crate::JournalStats::is_inconsistent) says so
    /// afterwards.
    pub fn journal_adopt(mut self, yes: bool) -> Self {
        self.journal.settings.adopt = yes;
        self
    }

    /// How large the file of dead letters beside the journal (`<journal>.dead`) may become, in bytes: writes that the backend
    /// has refused for good are kept there until somebody decides about them, see
    /// [`Cache::dead_letters`](crate::Cache::dead_letters). What is in it is in memory too. Default: 16 MiB; 0: there are none.
    ///
    /// When it is full, nothing is dropped: further ones stay in cache and journal, dirty, which
    /// [`Stats::parked`](crate::Stats::parked) counts, and become letters when there is room and the next
    /// [`flush`](crate::Cache::flush) has tried them once more.
    pub fn dead_letter_limit(mut self, bytes: u64) -> Self {
        self.journal.settings.dead_letters = bytes;
        self
    }

    /// Opens the journal although records are missing in its middle, with all that can be read; likewise the
    /// dead letters beside it. Default: no. [`Recovery::damage`](crate::Recovery::damage) and
    /// [`Recovery::dead_letter_damage`](crate::Recovery::dead_letter_damage) say what was missing.
    pub fn journal_salvage(mut self, yes: bool) -> Self {
        self.journal.settings.salvage = yes;
        self
    }
}
