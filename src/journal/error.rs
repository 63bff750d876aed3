//! Why a journal could not be opened.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    format::{FORMAT, Unreadable},
    recover::Damage,
};

/// Why a journal could not be opened. Nothing in the file was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another cache has it open.
    #[error(
        "the journal {} is open in process {pid}: stop that process, or give this cache another journal",
        path.display()
    )]
    Locked {
        /// The journal.
        path: PathBuf,
        /// The process that has it open (this one, if both caches are in it); 0 if it is not known.
        pid: u64,
    },

    /// The file is something else.
    #[error("{} is not a journal: give a path where there is none yet, or that of a journal", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },

    /// It was written in a format that this version does not know.
    #[error(
        "the journal {} has format {found} and this version reads format {known}: open it with the version that \
         wrote it and close that cleanly, or update this one",
        path.display()
    )]
    OtherFormat {
        /// The journal.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The one that can be read.
        known: u64,
    },

    /// It holds writes for another database.
    #[error(
        "the journal {} holds {dirty} unflushed writes for the backend {journal:?}, not for {cache:?}: open the \
         cache over that backend and let it drain, or, if it is the same database under a new name, call \
         `journal_adopt(true)`",
        path.display()
    )]
    OtherBackend {
        /// The journal.
        path: PathBuf,
        /// How many keys have unflushed writes in it.
        dirty: usize,
        /// The backend that they are for.
        journal: String,
        /// The backend of this cache.
        cache: String,
    },

    /// It holds keys or values of other types.
    #[error(
        "the journal {} holds {dirty} unflushed writes of {journal}, not of {cache}: open it with those types and \
         codecs and let it drain",
        path.display()
    )]
    OtherCodec {
        /// The journal.
        path: PathBuf,
        /// How many keys have unflushed writes in it.
        dirty: usize,
        /// What the journal holds, as the codecs call it.
        journal: String,
        /// What this cache holds.
        cache: String,
    },

    /// A whole record could not be decoded although its checksum is right.
    #[error("the journal {} has a record at byte {offset} that cannot be decoded: {source}", path.display())]
    Undecodable {
        /// The journal.
        path: PathBuf,
        /// Where the record is.
        offset: u64,
        /// What the codec said.
        source: crate::codec::CodecError,
    },

    /// Records are missing or damaged where no crash can have done it.
    #[error(
        "the journal {} is damaged in {} places, the first at byte {}; the newest writes of {saved} keys can be \
         saved. Look at it with `writeback journal verify`, then cut the damage out with `writeback journal repair` \
         (which keeps a copy), or open it with `journal_salvage(true)`",
        path.display(), damage.len(), damage.first().map_or(0, |damage| damage.offset)
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// How many keys have writes that can be read.
        saved: usize,
        /// What is damaged.
        damage: Vec<Damage>,
    },

    /// Its first bytes are damaged, so that nothing can be said of the rest.
    #[error(
        "the superblock of the journal {} is damaged: restore the file from a copy, or move it away to begin anew \
         without what is in it",
        path.display()
    )]
    DamagedSuperblock {
        /// The journal.
        path: PathBuf,
    },

    /// The disk has no room for it.
    #[error("no room for {bytes} bytes of journal at {}: free some, or lower `journal_size`: {source}", path.display())]
    NoSpace {
        /// The journal.
        path: PathBuf,
        /// How many bytes were needed.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },

    /// The database has unflushed writes in a journal that this cache was not given.
    #[error(
        "the backend has unflushed writes in the journal {}: open the cache with `journal({path:?})`, or drain it with \
         `writeback journal drain`; if that file is lost for good, delete {}",
        path.display(), marker.display()
    )]
    Forgotten {
        /// The journal that was used before.
        path: PathBuf,
        /// The note beside the database that says so.
        marker: PathBuf,
    },

    /// More is dirty in it than fits into the cache, and the backend did not take the rest.
    #[error(
        "the journal {} has {excess} unflushed writes more than fit into the cache, and the backend did not take \
         them: raise `capacity` or `max_weight`, or try again when it does: {source}",
        path.display()
    )]
    TooMuch {
        /// The journal.
        path: PathBuf,
        /// How many did not fit.
        excess: usize,
        /// What the backend said.
        source: crate::BackendError,
    },

    /// The dead letters beside it could not be read, or not written.
    #[error(transparent)]
    DeadLetters(#[from] crate::DeadLetterError),

    /// The system refused something.
    #[error("{doing} the journal {} failed: {source}", path.display())]
    Io {
        /// The journal.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl JournalError {
    pub(crate) fn unreadable(path: &Path, unreadable: Unreadable) -> Self {
        let path = path.to_owned();
        match unreadable {
            Unreadable::NotAJournal => JournalError::NotAJournal { path },
            Unreadable::Format(found) => JournalError::OtherFormat { path, found, known: FORMAT },
            Unreadable::Damaged => JournalError::DamagedSuperblock { path },
        }
    }

    pub(crate) fn no_space(path: &Path, bytes: usize, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                JournalError::NoSpace { path, bytes, source }
            }
            _ => JournalError::Io { path, doing: "writing", source },
        }
    }
}
