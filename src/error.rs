//! Every way in which the engine says no. Each message says what happened and what to do about it.

use std::{io, sync::Arc, time::Duration};

use thiserror::Error;

use crate::{Ack, CodecError, JournalError, backend::BackendError};

/// Why an operation on an open cache failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// The cache was closed; nothing was read or written.
    #[error("the cache is closed: open a new one, or do not call `close` before the last operation")]
    Closed,

    /// The asked-for durability needs a journal and this cache has none; nothing was written.
    #[error(
        "{ack:?} needs a journal and this cache has none: give it one with `journal(path)`, or use Ack::Memory or \
         Ack::Backend"
    )]
    NoJournal {
        /// The acknowledgement that was asked for.
        ack: Ack,
    },

    /// The entry weighs more than the whole cache may hold; nothing was written.
    #[error(
        "the entry weighs {weight} and the cache may hold {limit} in all: raise `max_weight` or store less"
    )]
    TooHeavy {
        /// What the weigher said.
        weight: u64,
        /// The cache's limit.
        limit: u64,
    },

    /// No room became free in time: the cache is full of entries that the backend has not yet taken, or as much is dirty as
    /// [`max_dirty`](crate::Builder::max_dirty) or [`max_dirty_bytes`](crate::Builder::max_dirty_bytes) allow. Nothing
    /// was written.
    #[error(
        "no room after {waited:?}: the backend does not take dirty entries fast enough (last error: {}); \
         try again later, raise `capacity` or `max_dirty`, or raise `write_timeout`",
        .cause.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    )]
    Backpressure {
        /// How long the call had waited.
        waited: Duration,
        /// The backend's last error, if its last answer was one.
        cause: Option<BackendError>,
    },

    /// An `Ack::Backend` write, a write-through at a limit, or a `flush`, met an error of the backend. The data is safe: in
    /// the cache, dirty, and tried again in the background; or, refused for good, in a
    /// [dead letter](crate::Cache::dead_letters).
    #[error(
        "{failed} dirty entries could not be written; they stay in the cache and are tried again, or are dead letters: \
         {cause}"
    )]
    NotFlushed {
        /// How many of the entries that were waited for could not be written.
        failed: usize,
        /// What the backend said about one of them.
        cause: BackendError,
    },

    /// A [`flush_within`](crate::Cache::flush_within) has run out of time. What remains is dirty, and goes on being written in the
    /// background.
    #[error(
        "{remaining} dirty entries were not in the backend after {waited:?} (its last error: {}): give it more time, or \
         look at why the backend is slow",
        .cause.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    )]
    FlushTimedOut {
        /// How many of the entries that the flush waits for are not in the backend, those that it has refused included.
        remaining: usize,
        /// How long the call had waited.
        waited: Duration,
        /// The backend's last error, if its last answer was one.
        cause: Option<BackendError>,
    },

    /// The ticket was made by another cache.
    #[error("the ticket belongs to another cache: ask the one that made it")]
    ForeignTicket,

    /// The journal had no room for the write in time: it is as large as it may be and full of writes that the backend has
    /// not yet taken, or its disk is full. Nothing was written.
    #[error(
        "no room in the journal of {bytes} bytes after {waited:?} (the backend's last error: {}): try again later, \
         raise `journal_limit`, free disk space, or raise `write_timeout`",
        .cause.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    )]
    JournalFull {
        /// How large the journal is.
        bytes: u64,
        /// How long the call had waited.
        waited: Duration,
        /// The backend's last error, if its last answer was one.
        cause: Option<BackendError>,
    },

    /// Key and value are larger than one record of the journal may be; nothing was written.
    #[error(
        "the entry takes {bytes} bytes in the journal and a record may have {limit}: raise `journal_size`, of which \
         that is a share, or store less"
    )]
    RecordTooLarge {
        /// What key and value take.
        bytes: usize,
        /// What they may take.
        limit: usize,
    },

    /// The journal could not be made durable in time. The write *is* in the cache and in the journal (so it survives a crash
    /// of the process), and its sync is tried again in the background.
    #[error(
        "the journal could not be synced: {cause}; the write is in the cache and survives a crash of the process, \
         but not yet a loss of power: check the disk"
    )]
    NotSynced {
        /// What the system said.
        cause: Arc<io::Error>,
    },

    /// The codec refused the key or the value; nothing was written.
    #[error("the entry could not be encoded for the journal: {0}")]
    Codec(#[from] CodecError),

    /// What was decided about a dead letter could not be written down; the letter is as it was.
    #[error(
        "the dead letters could not be written: {source}; free disk space or check the disk, and try again"
    )]
    DeadLetters {
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The read-through failed; nothing was cached.
    #[error("loading a missing key failed: {0}")]
    Load(#[source] BackendError),

    /// A closure, `Eq`, `Hash`, `Clone` or `Drop` of a key or value called the cache in a place where it must not.
    #[error(
        "the cache was called from inside itself (from `read`'s closure, or from a key's or value's own methods) \
         and could not go on without waiting for itself: move the call out"
    )]
    Reentrant,
}

/// Why a cache could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// `capacity` was not given, or given as zero.
    #[error(
        "capacity is zero: call `capacity(entries)` with how many entries the cache may hold, at least 1"
    )]
    ZeroCapacity,

    /// More entries than a position of 32 bits can name.
    #[error("a capacity of {capacity} is more than this version can hold: at most {max}")]
    CapacityTooLarge {
        /// The asked-for number of entries.
        capacity: usize,
        /// The largest one possible.
        max: usize,
    },

    /// `max_weight` was given as zero.
    #[error("max_weight is zero, so no entry would fit: give the total weight that the cache may hold")]
    ZeroWeight,

    /// A setting that would make the flusher never or always run.
    #[error("{setting} is {value}: {hint}")]
    BadSetting {
        /// The builder's method.
        setting: &'static str,
        /// What it was given.
        value: String,
        /// What it needs.
        hint: &'static str,
    },

    /// The default acknowledgement needs a journal and this cache has none.
    #[error(
        "the default acknowledgement {ack:?} needs a journal: give the cache one with `journal(path)`, or use \
         Ack::Memory or Ack::Backend"
    )]
    NoJournal {
        /// The acknowledgement that was asked for.
        ack: Ack,
    },

    /// The memory for table and entries could not be reserved.
    #[error("no memory for {bytes} bytes of table and entries: lower `capacity`: {source}")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },

    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),

    /// The flusher's thread could not be started.
    #[error("the thread of the flusher or of the journal could not be started: {0}")]
    Spawn(#[source] io::Error),
}

/// Why a handle for a certain core could not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The cache was closed.
    #[error("the cache is closed: open a new one")]
    Closed,

    /// The machine (or the set of cores that this process may use) has no such core.
    #[error("there is no core {core}: this process may use {cores} cores, numbered from 0")]
    NoSuchCore {
        /// The asked-for core.
        core: usize,
        /// How many there are.
        cores: usize,
    },

    /// Another thread has leased that core's lane.
    #[error("the lane of core {core} is leased to another thread: drop its handle first, or use `handle()`")]
    Leased {
        /// The asked-for core.
        core: usize,
    },

    /// All lanes are leased.
    #[error("all {lanes} lanes are leased: drop a handle, use the cache directly, or raise `lanes`")]
    NoLane {
        /// How many lanes there are.
        lanes: usize,
    },

    /// The system did not let the thread be pinned.
    #[error("the thread could not be pinned to core {core}: use `handle()`, which does not pin")]
    NotPinned {
        /// The asked-for core.
        core: usize,
    },
}
