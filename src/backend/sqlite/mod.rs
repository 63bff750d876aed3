//! SQLite behind the cache.
//!
//! From the outside in: [`Sqlite`] is a database with its `connections`, [`SqliteTable`] a table of it, which
//! implements the backend trait with its `statements`; `layout` decides the columns and checks those that are there;
//! `cells` writes and reads them; `error` sorts what SQLite says.

mod cells;
mod connections;
mod error;
mod layout;
mod statements;
mod table;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use connections::{Connections, Settings};
use layout::Layout;

use crate::backend::sql::{Columns, SqlKey, SqlValue};
pub use error::{SqliteError, SqliteOpenError};
pub use table::SqliteTable;

/// An SQLite database, whose tables are backends.
///
/// The library is compiled in; nothing needs to be installed. The database is an ordinary file, and other programs
/// may read and write it at the same time. One connection writes, a few others read, and a write-ahead log keeps
/// the readers from waiting for the writer.
///
/// ```
/// use writeback::{Cache, backend::Sqlite};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("scores.db");
/// let scores = Cache::builder()
///     .capacity(10_000)
///     .backend(Sqlite::open(path)?.table("scores")?) // scores (key INTEGER PRIMARY KEY, value INTEGER)
///     .open::<u64, u64>()?;
/// scores.put(7, 100)?;
/// scores.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How values are stored
///
/// | Rust | SQLite |
/// |---|---|
/// | integers, `bool` | `INTEGER`; for numbers above `i64::MAX` see [`RowWriter::unsigned`](super::RowWriter::unsigned) |
/// | `f32`, `f64` | `REAL`; NaN is refused |
/// | `String`, `Box<str>`, `Arc<str>` | `TEXT` |
/// | `Vec<u8>`, `Box<[u8]>`, `Arc<[u8]>`, `[u8; N]` | `BLOB` |
/// | `Option` | the same, or `NULL` |
///
/// Structs have a column for each field that [`SqlValue`] names. Every column except that of an `Option` is
/// `NOT NULL`.
///
/// # Clones
///
/// A clone is the same database over the same connections, and so are the tables of one `Sqlite`: several caches may
/// share it, and their batches take turns.
#[derive(Clone)]
pub struct Sqlite {
    connections: Arc<Connections>,
}

impl Sqlite {
    /// Opens the database at `path`, which is created if there is none, with the default [`SqliteOptions`].
    ///
    /// The path `:memory:` is a database in memory, see [`in_memory`](Self::in_memory).
    ///
    /// # Errors
    ///
    /// The file cannot be opened, is not a database, is read-only, is locked by somebody else, or its file system
    /// cannot hold a write-ahead log.
    ///
    /// ```
    /// use writeback::backend::{Sqlite, SqliteOpenError};
    ///
    /// let refused = Sqlite::open("no/such/directory/scores.db");
    /// assert!(matches!(refused, Err(SqliteOpenError::CannotOpen { .. })));
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteOpenError> {
        Self::options().open(path)
    }

    /// A database in memory: for tests and experiments. It is gone when the last clone and the last table are.
    ///
    /// Loads wait for a running `apply`, since no other connection can see the database.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub fn in_memory() -> Result<Self, SqliteOpenError> {
        Ok(Self { connections: Arc::new(Connections::in_memory()?) })
    }

    /// Options to open a database with.
    pub fn options() -> SqliteOptions {
        SqliteOptions::default()
    }

    /// The table `name`, with the columns that the types of key and value bring along; for a plain number, string or
    /// byte string they are called `key` and `value`.
    ///
    /// It is created if there is none. One that is there must have these columns, of these types and with this
    /// primary key, and may have others that are nullable, computed, or have a default. `K` and `V` follow from the
    /// cache that the table is given to.
    ///
    /// # Errors
    ///
    /// The name is not a plain identifier, the table that is there has another shape, or SQLite cannot create it.
    pub fn table<K: SqlKey, V: SqlValue>(&self, name: &str) -> Result<SqliteTable<K, V>, SqliteOpenError> {
        self.table_with(name, Columns::new())
    }

    /// The table `name` like [`table`](Self::table), but with other names for its columns.
    ///
    /// # Errors
    ///
    /// Those of [`table`](Self::table), and [`SqliteOpenError::Columns`] if the names are not one for each column,
    /// or not all different.
    pub fn table_with<K: SqlKey, V: SqlValue>(
        &self,
        name: &str,
        columns: Columns,
    ) -> Result<SqliteTable<K, V>, SqliteOpenError> {
        let layout = Layout::of::<K, V>(name, columns)?;
        let failed = |source: rusqlite::Error| SqliteOpenError::Table {
            table: name.to_owned(),
            source: source.into(),
        };
        layout.prepare(&*self.connections.writer().map_err(failed)?)?;
        Ok(SqliteTable::new(self.connections.clone(), layout))
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

/// How a database is opened.
///
/// ```
/// use std::time::Duration;
/// use writeback::backend::Sqlite;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("orders.db");
/// let orders = Sqlite::options().full_sync(true).busy_timeout(Duration::from_millis(200)).open(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "options open nothing until `open` is called"]
pub struct SqliteOptions {
    settings: Settings,
}

impl SqliteOptions {
    /// Whether each batch is on the disk before it is answered (`PRAGMA synchronous = FULL`).
    ///
    /// Without it, the default (`NORMAL`), what was answered survives the end of this process at any point; a loss of
    /// power may take the last batches with it, and never leaves half of one, or a damaged database.
    pub fn full_sync(mut self, full_sync: bool) -> Self {
        self.settings.full_sync = full_sync;
        self
    }

    /// How long a call waits while another connection keeps the database locked (1 second). After that, `apply`
    /// stores nothing and answers a transient error.
    pub fn busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.settings.busy_timeout = busy_timeout;
        self
    }

    /// How many connections there are at most for loads (4, at least 1): so many loads run at the same time, and
    /// others wait for one of them to end. They are opened when they are first needed.
    pub fn readers(mut self, readers: usize) -> Self {
        self.settings.readers = readers;
        self
    }

    /// Opens the database at `path`, which is created if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Sqlite::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Sqlite, SqliteOpenError> {
        let path = path.as_ref();
        if path == ":memory:" {
            return Sqlite::in_memory();
        }
        Ok(Sqlite { connections: Arc::new(Connections::open(path, &self.settings)?) })
    }
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { settings: Settings { busy_timeout: Duration::from_secs(1), full_sync: false, readers: 4 } }
    }
}
