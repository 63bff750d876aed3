//! An SQLite file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use writeback::{
    Answers, Backend, BackendError, Batch,
    backend::{Sqlite, SqliteTable},
};

use super::{Misfortune, SHORTEST, Subject, Trouble};
use crate::harness::{
    gate::Table,
    model::{Row, Rows},
    random::Random,
};

/// Shorter than most locks, so that calls fail because of one; longer than some, so that others only wait.
const BUSY: Duration = Duration::from_millis(200);

/// How long it may take to open it again.
const REOPENING: Duration = Duration::from_secs(10);

pub(crate) struct File {
    path: PathBuf,
    table: Arc<Reopened>,
}

impl File {
    pub(crate) fn at(path: &Path) -> Result<Self, Trouble> {
        let table = open(path)?;
        let (identity, note) = (table.identity(), table.journal_note());
        let table = Arc::new(Reopened { table: RwLock::new(Some(table)), identity, note });
        let file = File { path: path.to_owned(), table };
        match file.rows()?.len() {
            0 => Ok(file),
            rows => {
                Err(format!("{} has {rows} entries already: give the name of a new file", path.display())
                    .into())
            }
        }
    }
}

/// The last reader may not have closed it yet.
fn reopen(path: &Path) -> Result<SqliteTable<u64, Row>, Trouble> {
    let begun = Instant::now();
    loop {
        match open(path) {
            Err(_) if begun.elapsed() < REOPENING => thread::sleep(Duration::from_millis(10)),
            opened => return opened,
        }
    }
}

fn open(path: &Path) -> Result<SqliteTable<u64, Row>, Trouble> {
    Ok(Sqlite::options().busy_timeout(BUSY).open(path)?.table("entries")?)
}

/// A table that can be closed and opened again while it is in use.
struct Reopened {
    /// None: it is closed.
    table: RwLock<Option<SqliteTable<u64, Row>>>,
    identity: String,
    note: Option<PathBuf>,
}

impl Reopened {
    fn is_closed() -> BackendError {
        BackendError::transient("the database is closed")
    }

    /// Waits for the calls that are under way, and does something while there are no others.
    fn alone<R>(&self, job: impl FnOnce(&mut Option<SqliteTable<u64, Row>>) -> R) -> R {
        job(&mut self.table.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Backend<u64, Row> for Reopened {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Row>>, BackendError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.as_ref().ok_or_else(Self::is_closed)?.load(keys)
    }

    fn apply(&self, batch: &Batch<u64, Row>) -> Answers {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match &*table {
            Some(table) => table.apply(batch),
            None => batch.none_stored(Self::is_closed()),
        }
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn journal_note(&self) -> Option<PathBuf> {
        self.note.clone()
    }
}

impl Subject for File {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    fn table(&self) -> Result<Box<Table>, Trouble> {
        Ok(Box::new(Arc::clone(&self.table)))
    }

    fn misfortunes(&self) -> Vec<Misfortune> {
        vec![Misfortune::Restart, Misfortune::Hang, Misfortune::Stall]
    }

    fn strike(&self, what: Misfortune, random: &mut Random, longest: Duration) -> Result<u64, Trouble> {
        let time = random.time(SHORTEST, longest);
        match what {
            Misfortune::Restart => {
                self.table.alone(drop_table);
                thread::sleep(time);
                let table = reopen(&self.path)?;
                self.table.alone(|place| *place = Some(table));
            }
            Misfortune::Hang => self.table.alone(|_| thread::sleep(time)),
            Misfortune::Stall => {
                let other = Connection::open(&self.path)?;
                other.busy_timeout(Duration::from_secs(5))?;
                other.execute_batch("BEGIN EXCLUSIVE")?;
                thread::sleep(time);
                other.execute_batch("COMMIT")?;
            }
            _ => return Err(format!("SQLite knows no such thing: {what}").into()),
        }
        Ok(1)
    }

    fn rows(&self) -> Result<Rows, Trouble> {
        let connection = Connection::open(&self.path)?;
        let mut statement = connection.prepare("SELECT key, value_1, value_2 FROM entries")?;
        let rows = statement.query_map([], |row| {
            let (key, number): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok((key as u64, (number as u64, row.get(2)?)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn drop_table(place: &mut Option<SqliteTable<u64, Row>>) {
    *place = None;
}
