//! What can go wrong, and which errors are worth another try.

use std::{error::Error, path::PathBuf, time::Duration};

use rusqlite::ErrorCode;

use crate::backend::{BackendError, CellError, ErrorClass};

type Source = Box<dyn Error + Send + Sync>;

/// Why a database or a table of it cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteOpenError {
    /// The file cannot be opened or created.
    #[error(
        "cannot open the database `{}`: {source}; check that its directory exists and that this process may write \
         there",
        path.display()
    )]
    CannotOpen {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: Source,
    },

    /// The file holds something else, or is damaged.
    #[error(
        "`{}` is not an SQLite database, or it is encrypted or damaged; nothing was changed: use another path, or \
         restore the file",
        path.display()
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },

    /// The database can be read but not written.
    #[error(
        "the database `{}` is read-only; make the file and its directory writable for this process",
        path.display()
    )]
    ReadOnly {
        /// The database.
        path: PathBuf,
    },

    /// Another connection kept the database locked.
    #[error(
        "the database `{}` was locked by another connection for longer than {waited:?}; end that connection, or \
         raise `busy_timeout`",
        path.display()
    )]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },

    /// The file system cannot hold a write-ahead log, without which loads would wait for writes.
    #[error(
        "the database `{}` cannot use a write-ahead log (its journal mode stays `{mode}`); move it to a local file \
         system",
        path.display()
    )]
    NoWriteAheadLog {
        /// The database.
        path: PathBuf,
        /// The journal mode that SQLite offers instead.
        mode: String,
    },

    /// The name of a table or of a column is not a plain identifier.
    #[error(
        "`{name}` cannot name a {what}; use letters, digits and `_`, not beginning with a digit or with `sqlite_`"
    )]
    Name {
        /// What the name is for: a table or a column.
        what: &'static str,
        /// The name.
        name: String,
    },

    /// The columns of the key and of the value make no table together.
    #[error("the columns of the table `{table}` make no sense: {reason}")]
    Columns {
        /// The table.
        table: String,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// There is a table of that name, and it is not the one that the cache needs.
    #[error(
        "the table `{table}` does not fit: {difference}; found {found}, expected {expected}. Choose another table, \
         name its columns with `table_with`, or migrate it; nothing was changed"
    )]
    Shape {
        /// The table.
        table: String,
        /// The first difference.
        difference: String,
        /// The table as it is.
        found: String,
        /// The table as the types of key and value need it.
        expected: String,
    },

    /// SQLite refused to look at the table or to create it.
    #[error("cannot prepare the table `{table}`: {source}")]
    Table {
        /// The table.
        table: String,
        /// What SQLite says.
        source: Source,
    },
}

impl SqliteOpenError {
    /// Sorts what SQLite says while it opens `path`.
    pub(super) fn opening(path: PathBuf, waited: Duration, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::NotADatabase { path },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, waited },
            _ => Self::CannotOpen { path, source: error.into() },
        }
    }
}

/// Why a row could not be stored or read: the source of the [`BackendError`]s of this backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// SQLite refused.
    #[error("table `{table}`: {source}{}", advice(source))]
    Sql {
        /// The table.
        table: String,
        /// What SQLite says.
        source: Source,
    },

    /// A key or a value does not go with its column.
    #[error("table `{table}`: {source}")]
    Cell {
        /// The table.
        table: String,
        /// What does not fit, and in which column.
        source: CellError,
    },

    /// A trigger kept the row from being stored.
    #[error(
        "table `{table}`: a trigger left the row out; change the trigger, or remove the key from the cache"
    )]
    LeftOut {
        /// The table.
        table: String,
    },
}

fn advice(source: &Source) -> &'static str {
    let code = source.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => " (another connection is writing)",
        Some(ErrorCode::DiskFull) => " (make room on its disk)",
        Some(ErrorCode::ReadOnly) => " (make the file and its directory writable)",
        Some(ErrorCode::ConstraintViolation) => " (change the value, or the constraint)",
        Some(ErrorCode::TooBig) => " (SQLite's limit is a thousand million bytes)",
        _ => "",
    }
}

/// The error of something that one row cannot be blamed for.
pub(super) fn unavailable(table: &str, error: rusqlite::Error) -> BackendError {
    BackendError::transient(SqliteError::Sql { table: table.to_owned(), source: error.into() })
}

/// The error of a statement that was carried out. `sound` tells whether the statement itself is all right: SQLite
/// has one code for a table that is gone and for a row on which an expression of the schema fails.
pub(super) fn refused(table: &str, error: rusqlite::Error, sound: impl FnOnce() -> bool) -> BackendError {
    let class = match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            ErrorClass::Permanent
        }
        Some(ErrorCode::Unknown) if sound() => ErrorClass::Permanent,
        _ => ErrorClass::Transient,
    };
    BackendError::new(class, SqliteError::Sql { table: table.to_owned(), source: error.into() })
}

/// The error of a key or a value that does not go with its column.
pub(super) fn unfit(table: &str, source: CellError) -> BackendError {
    BackendError::permanent(SqliteError::Cell { table: table.to_owned(), source })
}

/// The error of a row that a trigger left out.
pub(super) fn left_out(table: &str) -> BackendError {
    BackendError::permanent(SqliteError::LeftOut { table: table.to_owned() })
}
