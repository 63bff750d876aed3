//! The database behind the cache: what the engine asks of it, and what it may answer.
//!
//! This module knows nothing of the rest of the engine. A batch is an **ordered list** of operations, because a
//! map-shaped one could not express order, and the answer is **one per operation**, because an all-or-nothing
//! answer could not express partial success.

mod closures;
mod memory;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "tokio")]
mod runtime;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::{fmt, path::PathBuf, sync::Arc};

pub use closures::{Closures, from_fns};
pub use memory::{Call, Doing, Memory};
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresError, PostgresOpenError, PostgresOptions, PostgresTable};
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisBackendError, RedisMap, RedisOpenError, RedisOptions};
#[cfg(feature = "tokio")]
pub use runtime::{AsyncBackend, OnRuntime, OnRuntimeError};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
pub use sql::{CellError, Column, Columns, RowReader, RowWriter, SqlCell, SqlKey, SqlRef, SqlType, SqlValue};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteError, SqliteOpenError, SqliteOptions, SqliteTable};

/// A database, seen as a map from `K` to `V`.
///
/// Both methods are called from threads of the engine or of its users and may block. They may be called at the
/// same time, but the engine never has two operations for *one key* on their way at once. A method that panics
/// is treated as if it had answered [`ErrorClass::Transient`] for everything that it was asked.
///
/// ```
/// use std::{collections::HashMap, sync::Mutex};
/// use writeback::{Answers, Backend, BackendError, Batch, Change};
///
/// struct Table(Mutex<HashMap<u64, String>>);
///
/// impl Backend<u64, String> for Table {
///     fn load(&self, keys: &[u64]) -> Result<Vec<Option<String>>, BackendError> {
///         let rows = self.0.lock().unwrap();
///         Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
///     }
///
///     fn apply(&self, batch: &Batch<u64, String>) -> Answers {
///         let mut rows = self.0.lock().unwrap();
///         batch.answer_each(|op| {
///             match op.change() {
///                 Change::Upsert(value) => drop(rows.insert(*op.key(), value.clone())),
///                 Change::Delete => drop(rows.remove(op.key())),
///             }
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait Backend<K, V>: Send + Sync {
    /// Reads the values of `keys`, in the order of `keys`, `None` where there is no row.
    ///
    /// # Errors
    ///
    /// Whatever kept the database from answering; the caller of `get` receives it and nothing is cached. An
    /// answer of another length than `keys` is an error too.
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError>;

    /// Carries out the operations of `batch` in their order, and says of each whether it is now stored.
    ///
    /// `Ok` for an operation is a promise: the engine then forgets that the entry was dirty. Applying an
    /// operation again must be harmless, since an answer can get lost after the database has committed.
    fn apply(&self, batch: &Batch<K, V>) -> Answers;

    /// What tells this database, and the place in it, from others; stored in the journal, which refuses to be opened for
    /// another one. It should stay the same for as long as the data does, and hold no secrets.
    ///
    /// The default is the name of the backend's type, which tells only kinds of databases apart.
    fn identity(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// A file beside the database in which the engine may note that a journal has writes for it, so that a cache
    /// that is opened without that journal is told. `None`, the default: there is no such place.
    fn journal_note(&self) -> Option<PathBuf> {
        None
    }
}

impl<K, V, B: Backend<K, V> + ?Sized> Backend<K, V> for Arc<B> {
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        (**self).load(keys)
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        (**self).apply(batch)
    }

    fn identity(&self) -> String {
        (**self).identity()
    }

    fn journal_note(&self) -> Option<PathBuf> {
        (**self).journal_note()
    }
}

/// What one operation does to the row of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<V> {
    /// Insert the row, or replace it.
    Upsert(V),
    /// Delete the row; not an error if there is none.
    Delete,
}

impl<V> Change<V> {
    /// The value to be stored, or `None` for a delete.
    #[must_use]
    pub fn value(&self) -> Option<&V> {
        match self {
            Change::Upsert(value) => Some(value),
            Change::Delete => None,
        }
    }
}

/// One operation of a [`Batch`].
#[derive(Debug, Clone)]
pub struct Op<K, V> {
    key: K,
    change: Change<V>,
    version: u64,
    attempt: u32,
}

impl<K, V> Op<K, V> {
    /// An operation, for tests of a backend; the engine makes its own.
    #[must_use]
    pub fn new(key: K, change: Change<V>, version: u64, attempt: u32) -> Self {
        Self { key, change, version, attempt }
    }

    /// The key whose row is written.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// What happens to the row.
    #[must_use]
    pub fn change(&self) -> &Change<V> {
        &self.change
    }

    /// The version of the entry. Grows with every write of this key, so a backend may store it beside the row and
    /// refuse what is older.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// 1 on the first try of this version, 2 when an earlier answer was an error or did not arrive, and so on.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// An ordered list of operations, at most one for each key.
#[derive(Debug, Clone)]
pub struct Batch<K, V> {
    ops: Vec<Op<K, V>>,
}

impl<K, V> Batch<K, V> {
    /// A batch of the given operations, for tests of a backend; the engine makes its own.
    #[must_use]
    pub fn new(ops: Vec<Op<K, V>>) -> Self {
        Self { ops }
    }

    /// The operations, in the order in which they are to be applied.
    #[must_use]
    pub fn ops(&self) -> &[Op<K, V>] {
        &self.ops
    }

    /// How many operations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The answer "all of it is stored".
    pub fn all_stored(&self) -> Answers {
        Answers::new(vec![Ok(()); self.len()])
    }

    /// The answer "nothing of it is stored, for this reason", which may be that of a single operation, or of none.
    ///
    /// If the reason is there to stay ([`ErrorClass::Permanent`] or [`ErrorClass::Conflict`]), the engine tries parts of the
    /// batch, to find the operation that it is about. If it is transient, the engine takes the database to be down.
    /// A backend that knows better answers for each operation.
    pub fn none_stored(&self, error: BackendError) -> Answers {
        Answers { each: vec![Err(error); self.len()], is_whole: true }
    }

    /// Asks `apply_one` for each operation, in order, and collects its answers.
    pub fn answer_each(&self, apply_one: impl FnMut(&Op<K, V>) -> Result<(), BackendError>) -> Answers {
        Answers::new(self.ops.iter().map(apply_one).collect())
    }
}

/// What a backend says of a [`Batch`]: one answer for each operation, in their order.
///
/// If there are fewer answers than operations, the rest counts as a transient failure.
#[derive(Debug, Clone)]
#[must_use = "an answer that is not returned to the engine is an acknowledgement lost"]
pub struct Answers {
    each: Vec<Result<(), BackendError>>,
    /// The batch was refused as one, whatever operation it was for.
    is_whole: bool,
}

impl Answers {
    /// Answers in the order of the operations.
    pub fn new(answers: Vec<Result<(), BackendError>>) -> Self {
        Self { each: answers, is_whole: false }
    }

    /// The answers in the order of the operations.
    pub fn as_slice(&self) -> &[Result<(), BackendError>] {
        &self.each
    }

    /// The answers, and whether they are one for the batch as a whole.
    pub(crate) fn into_parts(self) -> (Vec<Result<(), BackendError>>, bool) {
        (self.each, self.is_whole)
    }
}

/// What the engine should do about an error of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The same operation may succeed later: connection lost, busy, timeout, deadlock. Tried again with a growing
    /// delay, for as long as it takes.
    Transient,
    /// The same operation will fail again: a constraint, a value that the column cannot hold. With a journal the write becomes a
    /// [dead letter](crate::Cache::dead_letters). Without one (and when there is no room for more letters) the entry is parked: it
    /// stays in the cache, dirty and visible, and is tried again when the key is rewritten or an explicit flush asks for
    /// it.
    Permanent,
    /// The row was changed by somebody else. Treated like `Permanent`.
    Conflict,
}

/// An error of the database, with what the engine should do about it.
///
/// Cheap to clone: an error that hits a whole batch is told to everyone who waits for a part of it.
#[derive(Clone)]
pub struct BackendError {
    class: ErrorClass,
    source: Arc<dyn std::error::Error + Send + Sync>,
}

impl BackendError {
    /// An error of the given class.
    pub fn new(class: ErrorClass, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { class, source: source.into().into() }
    }

    /// An error after which the same operation may succeed later.
    pub fn transient(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorClass::Transient, source)
    }

    /// An error that the same operation will meet again.
    pub fn permanent(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorClass::Permanent, source)
    }

    /// The row was changed by somebody else.
    pub fn conflict(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorClass::Conflict, source)
    }

    /// What the engine does about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

impl fmt::Debug for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendError").field("class", &self.class).field("source", &self.source).finish()
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            ErrorClass::Transient => "transient",
            ErrorClass::Permanent => "permanent",
            ErrorClass::Conflict => "conflict",
        };
        write!(f, "the backend failed ({class}): {}", self.source)
    }
}

impl std::error::Error for BackendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
