//! Why the dead letters of a journal could not be read or written.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    Damage,
    format::{FORMAT, Unreadable},
};

/// Why the dead letters beside a journal could not be read or written. No letter was lost or changed by it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// The file is something else.
    #[error("{} does not hold dead letters: move it away, that place belongs to the journal beside it", path.display())]
    NotLetters {
        /// The file.
        path: PathBuf,
    },

    /// It was written in a format that this version does not know.
    #[error(
        "the dead letters {} have format {found} and this version reads format {known}: open them with the version \
         that wrote them, or update this one",
        path.display()
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The one that can be read.
        known: u64,
    },

    /// They are writes for another database, or of other types.
    #[error(
        "{} holds {open} dead letters for {letters}, not for {cache}: open the cache over that backend with those types \
         and retry or discard them; if it is the same database under a new name, call `journal_adopt(true)`",
        path.display()
    )]
    Others {
        /// The file.
        path: PathBuf,
        /// How many of them are open.
        open: usize,
        /// Backend, key and value that they are for.
        letters: String,
        /// Those of this cache.
        cache: String,
    },

    /// Letters are missing in its middle, where no crash can have done it.
    #[error(
        "the dead letters {} are damaged in {} places, the first at byte {}; {saved} open ones can be read: open them \
         with `journal_salvage(true)`, which keeps a copy of the file beside it",
        path.display(), damage.len(), damage.first().map_or(0, |damage| damage.offset)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How many open letters can be read.
        saved: usize,
        /// What is damaged.
        damage: Vec<Damage>,
    },

    /// Its first bytes are damaged, so that nothing can be said of the rest.
    #[error(
        "the header of the dead letters {} is damaged: restore the file from a copy, or move it away to go on without \
         them",
        path.display()
    )]
    DamagedHeader {
        /// The file.
        path: PathBuf,
    },

    /// The system refused something.
    #[error("{doing} the dead letters {} failed: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl DeadLetterError {
    pub(super) fn unreadable(path: &Path, unreadable: Unreadable) -> Self {
        let path = path.to_owned();
        match unreadable {
            Unreadable::NotLetters => DeadLetterError::NotLetters { path },
            Unreadable::Format(found) => {
                DeadLetterError::OtherFormat { path, found, known: u64::from(FORMAT) }
            }
            Unreadable::Damaged => DeadLetterError::DamagedHeader { path },
        }
    }

    pub(super) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| DeadLetterError::Io { path: path.to_owned(), doing, source }
    }
}
