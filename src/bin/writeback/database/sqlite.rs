//! A table of SQLite.

use std::{
    collections::HashMap,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use writeback::backend::{Columns, Sqlite, SqliteOpenError, SqliteTable};

use super::{Key, Rows, Shape, Store, is_plain};
use crate::failure::Failure;

/// How long another program may hold the database's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// A table of a known [`Shape`] in a database file.
pub(super) struct File<K> {
    path: PathBuf,
    name: String,
    shape: Shape,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> File<K> {
    /// The table `name` of the database at `path`, and what the cache writes it with; either is made if there is none.
    pub(super) fn open(path: &Path, name: &str, shape: Shape) -> Result<(Self, Store<K>), Failure> {
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
        let backend: Result<SqliteTable<K, i64>, _> =
            Sqlite::open(&path).and_then(|db| db.table_with(name, columns));
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
        Ok((Self { path, name: name.to_owned(), shape, key: PhantomData }, Arc::new(backend)))
    }

    fn connect(&self, mode: OpenFlags) -> Result<Connection, Failure> {
        connect(&self.path, mode).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &rusqlite::Error) -> Failure {
        Place { path: &self.path, table: &self.name }.failure(error)
    }
}

impl<K: Key> Rows<K> for File<K> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn row_count(&self) -> Result<u64, Failure> {
        let count = format!("SELECT count(*) FROM \"{}\"", self.name);
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let rows: i64 = db.query_row(&count, [], |row| row.get(0)).map_err(|error| self.failure(&error))?;
        Ok(rows.unsigned_abs())
    }

    fn clear(&self) -> Result<(), Failure> {
        let delete = format!("DELETE FROM \"{}\"", self.name);
        let db = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.execute(&delete, []).map(drop).map_err(|error| self.failure(&error))
    }

    fn rows(&self) -> Result<HashMap<K, i64>, Failure> {
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
