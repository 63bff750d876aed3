//! The SQLite table that a command writes through the cache and reads back without it.
//!
//! Whatever is here uses the database directly, so that the verdict of a command does not rest on the code that it
//! judges; only [`Table::backend`] makes what the cache writes with.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, types::FromSql};
use writeback::backend::{Columns, Sqlite, SqliteTable};

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
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    name: String,
    shape: Shape,
}

impl Table {
    /// The table `name` of the database at `path`; either is made if there is none.
    pub(crate) fn open(path: &Path, name: &str, shape: Shape) -> Result<Self, Failure> {
        let table = Self { path: whole_path(path)?, name: name.to_owned(), shape };
        if name.is_empty() {
            return Err(table.problem("a table needs a name: give one with --table"));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let db = table.connect(flags)?;
        let columns = table.columns(&db).map_err(|error| table.failure(&error))?;
        if columns.is_empty() {
            let Shape { key, key_type, value } = shape;
            let name = quoted(name);
            let create = format!(
                "CREATE TABLE {name} ({key} {key_type} PRIMARY KEY NOT NULL, {value} INTEGER NOT NULL) {}",
                if key_type == "TEXT" { "WITHOUT ROWID" } else { "" }
            );
            db.execute(&create, []).map_err(|error| table.failure(&error))?;
        } else if !shape.is_of(&columns) {
            let columns: Vec<_> = columns.iter().map(ToString::to_string).collect();
            let found = format!("({})", columns.join(", "));
            let wanted = shape.to_string();
            return Err(Failure::TableShape { path: table.path, table: table.name, found, wanted });
        }
        Ok(table)
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
        let count = format!("SELECT count(*) FROM {}", quoted(&self.name));
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let rows: i64 = db.query_row(&count, [], |row| row.get(0)).map_err(|error| self.failure(&error))?;
        Ok(rows.unsigned_abs())
    }

    /// Deletes all rows.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        let delete = format!("DELETE FROM {}", quoted(&self.name));
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.execute(&delete, []).map(drop).map_err(|error| self.failure(&error))
    }

    /// All rows.
    pub(crate) fn rows<K: FromSql + Eq + Hash>(&self) -> Result<HashMap<K, i64>, Failure> {
        let Shape { key, value, .. } = self.shape;
        let select = format!("SELECT {key}, {value} FROM {}", quoted(&self.name));
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let read = || {
            let mut statement = db.prepare(&select)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// What the cache writes to the table with.
    pub(crate) fn backend(&self) -> Result<SqliteTable, Failure> {
        let columns = Columns::new(self.shape.key, self.shape.value);
        Sqlite::open(&self.path)
            .and_then(|db| db.table_with(&self.name, columns))
            .map_err(|error| self.problem(error.to_string()))
    }

    fn connect(&self, mode: OpenFlags) -> Result<Connection, Failure> {
        let db = Connection::open_with_flags(&self.path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .and_then(|db| db.busy_timeout(PATIENCE).map(|()| db));
        db.map_err(|error| self.failure(&error))
    }

    /// The columns of the table, none if there is no table.
    fn columns(&self, db: &Connection) -> rusqlite::Result<Vec<Found>> {
        let mut statement = db.prepare("SELECT name, type, pk FROM pragma_table_info(?1)")?;
        let columns = statement.query_map([&self.name], |row| {
            Ok(Found { name: row.get(0)?, kind: row.get(1)?, primary_key: row.get::<_, i64>(2)? > 0 })
        })?;
        columns.collect()
    }

    fn problem(&self, reason: impl Into<String>) -> Failure {
        Failure::Database { path: self.path.clone(), reason: reason.into() }
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
                    self.name,
                    found.to_string().to_lowercase()
                ),
                other => format!("the table `{}` cannot be used: {other}", self.name),
            },
        };
        self.problem(advice)
    }
}

impl Shape {
    fn is_of(&self, columns: &[Found]) -> bool {
        let [key, value] = columns else { return false };
        let same = |found: &str, wanted: &str| found.eq_ignore_ascii_case(wanted);
        let key_fits = same(&key.name, self.key) && same(&key.kind, self.key_type) && key.primary_key;
        key_fits && same(&value.name, self.value) && same(&value.kind, "INTEGER") && !value.primary_key
    }
}

/// A column as the database describes it.
struct Found {
    name: String,
    kind: String,
    primary_key: bool,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.kind.is_empty() {
            write!(f, " {}", self.kind)?;
        }
        if self.primary_key { f.write_str(" PRIMARY KEY") } else { Ok(()) }
    }
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

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
