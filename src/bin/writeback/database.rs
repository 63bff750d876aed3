//! The SQLite table that a command writes through the cache and reads back without it.
//!
//! Whatever reads here uses the database directly, so that the verdict of a command does not rest on the code
//! that it judges; only [`Table::open`] uses that code, to make the table and the backend.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, types::FromSql};
use writeback::backend::{Columns, SqlKey, Sqlite, SqliteOpenError, SqliteTable};

use crate::failure::Failure;

/// How long another program may hold the database's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The columns of a table of two: a primary key, and a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) key: &'static str,
    pub(crate) key_type: &'static str,
    pub(crate) value: &'static str,
}

/// `(key TEXT PRIMARY KEY, n INTEGER)`, as messages write it.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} {} PRIMARY KEY, {} INTEGER)", self.key, self.key_type, self.value)
    }
}

/// A table of a known [`Shape`] in a database file.
pub(crate) struct Table<K> {
    path: PathBuf,
    name: String,
    shape: Shape,
    backend: SqliteTable<K, i64>,
}

impl<K: SqlKey + FromSql + Eq + Hash> Table<K> {
    /// The table `name` of the database at `path`; either is made if there is none.
    pub(crate) fn open(path: &Path, name: &str, shape: Shape) -> Result<Self, Failure> {
        let path = whole_path(path)?;
        let at = Place { path: &path, table: name };
        // Touched directly first: what is wrong with a file is best said in the words of its user.
        let touch = |db: Connection| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        if !is_plain(name) {
            return Err(at.problem(format!(
                "`{name}` cannot name a table: use letters, digits and _, and begin with a letter (not with sqlite_)"
            )));
        }
        connect(&path, create).and_then(touch).map_err(|error| at.failure(&error))?;
        let columns = Columns::new().key([shape.key]).value([shape.value]);
        let backend = Sqlite::open(&path).and_then(|db| db.table_with(name, columns));
        let backend = backend.map_err(|error| match error {
            SqliteOpenError::Shape { difference, found, .. } => Failure::TableShape {
                path: path.clone(),
                table: name.to_owned(),
                difference,
                found,
                wanted: shape.to_string(),
            },
            other => at.problem(other.to_string()),
        })?;
        Ok(Self { path, name: name.to_owned(), shape, backend })
    }

    /// What messages call the database.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What messages call the table.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many rows there are.
    pub(crate) fn row_count(&self) -> Result<u64, Failure> {
        let count = format!("SELECT count(*) FROM \"{}\"", self.name);
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let rows: i64 = db.query_row(&count, [], |row| row.get(0)).map_err(|error| self.failure(&error))?;
        Ok(rows.unsigned_abs())
    }

    /// Deletes all rows.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        let delete = format!("DELETE FROM \"{}\"", self.name);
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.execute(&delete, []).map(drop).map_err(|error| self.failure(&error))
    }

    /// All rows.
    pub(crate) fn rows(&self) -> Result<HashMap<K, i64>, Failure> {
        let Shape { key, value, .. } = self.shape;
        let select = format!("SELECT {key}, {value} FROM \"{}\"", self.name);
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let read = || {
            let mut statement = db.prepare(&select)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// What the cache writes to the table with.
    pub(crate) fn backend(&self) -> SqliteTable<K, i64> {
        self.backend.clone()
    }

    fn connect(&self, mode: OpenFlags) -> Result<Connection, Failure> {
        connect(&self.path, mode).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &rusqlite::Error) -> Failure {
        Place { path: &self.path, table: &self.name }.failure(error)
    }
}

fn connect(path: &Path, mode: OpenFlags) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(PATIENCE)?;
    Ok(db)
}

/// What an error is about.
struct Place<'a> {
    path: &'a Path,
    table: &'a str,
}

impl Place<'_> {
    fn problem(&self, reason: impl Into<String>) -> Failure {
        Failure::Database { path: self.path.to_owned(), reason: reason.into() }
    }

    fn failure(&self, error: &rusqlite::Error) -> Failure {
        let advice = match error.sqlite_error_code() {
            Some(ErrorCode::CannotOpen) => {
                "the database cannot be opened: --db must name a file in a folder that you may write to"
                    .to_owned()
            }
            Some(ErrorCode::NotADatabase) => {
                "this is not an SQLite database: give --db another file".to_owned()
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another program holds the lock of the database: close it and try again".to_owned()
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                "the database may only be read: change its permissions, or give --db another file".to_owned()
            }
            Some(ErrorCode::DiskFull) => "the disk is full: make room and try again".to_owned(),
            Some(ErrorCode::DatabaseCorrupt) => {
                format!("the database is damaged ({error}): restore it, or give --db another file")
            }
            _ => match error {
                rusqlite::Error::InvalidColumnType(_, column, found) => format!(
                    "in the table `{}` a `{column}` is {}, which does not belong there: correct the row, or use \
                     another table",
                    self.table,
                    found.to_string().to_lowercase()
                ),
                other => format!("the table `{}` cannot be used: {other}", self.table),
            },
        };
        self.problem(advice)
    }
}

/// Whether the backend takes `name` for a table.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let reserved = name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
    name.bytes().all(plain) && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit()) && !reserved
}

/// An absolute path, which SQLite cannot take for one of its special names.
fn whole_path(path: &Path) -> Result<PathBuf, Failure> {
    let problem = |reason: &str| Failure::Database { path: path.to_owned(), reason: reason.to_owned() };
    if path.as_os_str().is_empty() || path == Path::new(":memory:") {
        return Err(problem("a database that outlives the command needs a file: give --db the path of one"));
    }
    let whole = std::path::absolute(path).map_err(|error| problem(&error.to_string()))?;
    if whole.is_dir() {
        return Err(problem("this is a directory: give --db the path of a file"));
    }
    match whole.parent() {
        Some(folder) if !folder.is_dir() => {
            let reason =
                format!("there is no folder {}: make it first, or give another --db", folder.display());
            Err(problem(&reason))
        }
        _ => Ok(whole),
    }
}
