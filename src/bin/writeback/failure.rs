//! Everything that stops a command before it has a verdict. Each message says what to do about it.

use std::{io, path::PathBuf};

use thiserror::Error;
use writeback::{DeadLetterError, JournalError, OpenError};

/// Why a command could not do its work; the process ends with [`Failure::exit_code`].
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error(
        "cannot read {input}: {source}; check the path given to --input, or use - for the standard input"
    )]
    Unreadable { input: String, source: io::Error },

    #[error("{input} is a directory: give --input a file, or - for the standard input")]
    InputIsDirectory { input: String },

    #[error("{input} is damaged after {at} bytes: {source}; fetch or compress it again")]
    Damaged { input: String, at: String, source: io::Error },

    #[error(
        "{input} is compressed with {format}, which is not understood here: decompress it first, for example \
         with `{with} -dc`"
    )]
    Compression { input: String, format: &'static str, with: &'static str },

    #[error("{input} is not text: it has more than {letters} letters without a break; give --words a text")]
    NotText { input: String, letters: usize },

    #[error("{input} has no column `{column}`: its columns are {available}")]
    NoSuchColumn { input: String, column: String, available: String },

    #[error("{input} has {times} columns called `{column}`: rename all but one of them")]
    AmbiguousColumn { input: String, column: String, times: usize },

    #[error("{input} is empty: a CSV file needs a first line with the names of its columns")]
    NoHeader { input: String },

    #[error(
        "{input} is not the CSV that its first line promises: {reason}; correct it, or leave the line out"
    )]
    BadCsv { input: String, reason: String },

    #[error("{path}: {reason}")]
    Database { path: PathBuf, reason: String },

    #[error(
        "{path}: the table `{table}` is of another shape: {difference}; it is {found} where {wanted} is \
         needed: use another table or another --db"
    )]
    TableShape { path: PathBuf, table: String, difference: String, found: String, wanted: String },

    #[error(
        "{path}: the table `{table}` already has {rows}; use --add to count on top of them, --replace to start \
         from nothing, or --table for another table"
    )]
    TableInUse { path: PathBuf, table: String, rows: String },

    #[error("{path}: {source}")]
    Temporary { path: PathBuf, source: io::Error },

    #[error("the cache could not be opened: {0}")]
    Cache(#[from] OpenError),

    #[error(transparent)]
    Journal(#[from] JournalError),

    #[error(transparent)]
    DeadLetters(#[from] DeadLetterError),

    #[error(
        "the journal {path} has no open dead letter with the number {id}: see `writeback dead-letters list`"
    )]
    NoSuchLetter { path: PathBuf, id: u64 },

    #[error(
        "the journal {path} is for {backend:?}, which names no SQLite table: say where to write with {missing}, or \
         drain it with the application"
    )]
    JournalPlace { path: PathBuf, backend: String, missing: String },

    #[error(
        "the journal {path} is for {backend:?}, not for {place:?}: leave --db and --table out, or, if it is the same \
         data in another place, repeat this with --force"
    )]
    OtherDatabase { path: PathBuf, backend: String, place: String },

    #[error(
        "the table `{table}` of {path} has unflushed writes in another journal, {other}: drain that one, or repeat \
         this with --force if it is lost for good"
    )]
    OtherJournal { path: PathBuf, table: String, other: PathBuf },

    #[error(
        "the journal {path} has {what} of the type {name:?}, which only the application can store as it does: open \
         the journal with it, or repeat this with --raw to store the bytes as they are"
    )]
    JournalTypes { path: PathBuf, what: &'static str, name: String },

    #[error(
        "the journal {path} has a record at byte {offset} that is none of its type: it was written by a codec that \
         only has the same name; open it with the application, or repeat this with --raw"
    )]
    Undecodable { path: PathBuf, offset: u64 },

    #[error(
        "the journal {path} has {writes} of an earlier run, and the database did not take them: {cause}; mend that and \
         try again"
    )]
    NotRecovered { path: PathBuf, writes: String, cause: String },

    #[error("the demo's second process {reason}")]
    Victim { reason: String },

    #[error("{setting}: {reason}")]
    Setting { setting: &'static str, reason: String },

    #[error("a thread could not be started: {0}; use fewer with --threads")]
    Spawn(io::Error),

    #[error(
        "a thread of this program panicked, which is a mistake in the program: please report what you ran"
    )]
    Panicked,

    #[error("the summary could not be written to the standard output: {0}")]
    Output(io::Error),

    #[error("interrupted before anything was written")]
    Interrupted,
}

impl Failure {
    /// 2 for what the caller can mend, 130 for an interrupt.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Interrupted => 130,
            _ => 2,
        }
    }
}
