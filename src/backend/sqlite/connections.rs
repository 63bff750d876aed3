//! The connections to one database: one that writes, and a few that read.

use std::{
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::SqliteOpenError;

/// How connections are set up.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) busy_timeout: Duration,
    pub(super) full_sync: bool,
    pub(super) readers: usize,
}

/// The connections to one database.
#[derive(Debug)]
pub(super) struct Connections {
    // Dropped before the writer, which then is the last one, and folds the write-ahead log into the database.
    readers: Option<Readers>,
    writer: Mutex<Connection>,
    /// Of the file; `None`: a database in memory.
    path: Option<PathBuf>,
}

impl Connections {
    pub(super) fn open(path: &Path, settings: &Settings) -> Result<Self, SqliteOpenError> {
        let path = std::path::absolute(path)
            .map_err(|error| SqliteOpenError::CannotOpen { path: path.to_owned(), source: error.into() })?;
        let failed = |error| SqliteOpenError::opening(path.clone(), settings.busy_timeout, error);
        let writer = connect(&path, OpenFlags::SQLITE_OPEN_CREATE, settings).map_err(failed)?;
        // SQLite falls back to reading, without a word, when it cannot write.
        if writer.is_readonly(rusqlite::MAIN_DB).map_err(failed)? {
            return Err(SqliteOpenError::ReadOnly { path });
        }
        let mode: String =
            writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
        if !mode.eq_ignore_ascii_case("wal") {
            return Err(SqliteOpenError::NoWriteAheadLog { path, mode });
        }
        let synchronous = if settings.full_sync { "FULL" } else { "NORMAL" };
        writer.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
        writer.pragma_update(None, "wal_autocheckpoint", LOG_PAGES).map_err(failed)?;
        let readers = Readers {
            pool: Mutex::default(),
            returned: Condvar::new(),
            settings: settings.clone(),
            path: path.clone(),
        };
        // One at once: the first load should not be the first to hear that there is no file handle left.
        readers.read(|_| ()).map_err(failed)?;
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        Ok(Self { readers: Some(readers), writer: Mutex::new(writer), path: Some(path) })
    }

    /// A database in memory is seen by one connection only, so loads take their turn with writes.
    pub(super) fn in_memory() -> Result<Self, SqliteOpenError> {
        let path = Path::new(":memory:");
        let writer = Connection::open_in_memory();
        let writer =
            writer.map_err(|error| SqliteOpenError::opening(path.to_owned(), Duration::ZERO, error))?;
        writer.set_prepared_statement_cache_capacity(PREPARED);
        Ok(Self { readers: None, writer: Mutex::new(writer), path: None })
    }

    /// Where the database is; `None`: in memory.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The connection that writes, outside any transaction.
    pub(super) fn writer(&self) -> rusqlite::Result<MutexGuard<'_, Connection>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // A roll-back can fail, too. What it left open would become a part of the next transaction.
        if !writer.is_autocommit() {
            writer.execute_batch("ROLLBACK")?;
        }
        Ok(writer)
    }

    /// Does `job` with a connection to read with: waits while all are in use, never for a writer of the same file.
    pub(super) fn read<R>(&self, job: impl FnOnce(&Connection) -> R) -> rusqlite::Result<R> {
        match &self.readers {
            Some(readers) => readers.read(job),
            None => Ok(job(&*self.writer()?)),
        }
    }
}

/// How many pages the write-ahead log holds before it is folded into the database: 16 MiB, four times the default.
/// Measured, it makes batches of scattered rows a tenth faster, and of neighbours a third.
const LOG_PAGES: i64 = 4_000;

/// How many prepared statements a connection keeps: those of six tables.
const PREPARED: usize = 128;

fn connect(path: &Path, flags: OpenFlags, settings: &Settings) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // The library panics on more than this.
    let longest = Duration::from_millis(i32::MAX.unsigned_abs().into());
    connection.busy_timeout(settings.busy_timeout.min(longest))?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(connection)
}

/// Connections that read, opened when they are first needed.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    settings: Settings,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Connection>,
    in_use: usize,
}

impl Readers {
    fn read<R>(&self, job: impl FnOnce(&Connection) -> R) -> rusqlite::Result<R> {
        let permit = self.permit();
        let idle = self.pool().idle.pop();
        let connection = match idle {
            Some(connection) => connection,
            // Not created: if the file is gone, an empty one in its place would answer that no row was ever there.
            None => connect(&self.path, OpenFlags::empty(), &self.settings)?,
        };
        let answer = job(&connection);
        if connection.is_autocommit() {
            self.pool().idle.push(connection);
        }
        drop(permit);
        Ok(answer)
    }

    /// Waits until fewer connections are in use than there may be.
    fn permit(&self) -> Permit<'_> {
        let most = self.settings.readers.max(1);
        let pool = self.returned.wait_while(self.pool(), |pool| pool.in_use >= most);
        pool.unwrap_or_else(PoisonError::into_inner).in_use += 1;
        Permit(self)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to use one connection, given back also when the thread panics.
struct Permit<'a>(&'a Readers);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.pool().in_use -= 1;
        self.0.returned.notify_one();
    }
}
