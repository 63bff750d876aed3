//! The table that a command writes through the cache and reads back without it.
//!
//! Whatever reads here uses the database directly, so that the verdict of a command does not rest on the code
//! that it judges; only what opens a table uses that code, to make the table and the backend.

mod postgres;
mod redis;
mod sqlite;

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use writeback::{Backend, PlainBytes, backend::SqlKey};

use crate::failure::Failure;

/// A database, as `--backend` names it.
#[derive(Clone)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    Postgres(String),
    Redis(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let begins = |schemes: &[&str]| schemes.iter().any(|scheme| text.starts_with(scheme));
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Place::Sqlite(path.into())),
            None if begins(&["postgres://", "postgresql://"]) => Ok(Place::Postgres(text.to_owned())),
            None if begins(&["redis://", "rediss://", "redis+unix://", "valkey://"]) => {
                Ok(Place::Redis(text.to_owned()))
            }
            _ => Err("give postgres://…, redis://… or sqlite:FILE".to_owned()),
        }
    }
}

/// Nothing of the address of a server, which may hold a password.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Place::Postgres(_) => f.write_str("Postgres"),
            Place::Redis(_) => f.write_str("Redis"),
        }
    }
}

impl Place {
    /// As `--backend` takes it.
    pub(crate) fn argument(&self) -> std::ffi::OsString {
        match self {
            Place::Sqlite(path) => {
                let mut argument = std::ffi::OsString::from("sqlite:");
                argument.push(path);
                argument
            }
            Place::Postgres(address) | Place::Redis(address) => address.into(),
        }
    }
}

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

/// A key of a table in any of the databases.
pub(crate) trait Key:
    SqlKey
    + rusqlite::types::FromSql
    + ::postgres::types::FromSqlOwned
    + FromStr
    + PlainBytes
    + Hash
    + Eq
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl Key for i64 {}
impl Key for String {}

/// What a cache writes a table with.
pub(crate) type Store<K> = Arc<dyn Backend<K, i64>>;

/// The rows of a table, past the cache.
trait Rows<K> {
    fn path(&self) -> &Path;
    fn row_count(&self) -> Result<u64, Failure>;
    fn clear(&self) -> Result<(), Failure>;
    fn rows(&self) -> Result<HashMap<K, i64>, Failure>;
}

/// A table of a known [`Shape`].
pub(crate) struct Table<K> {
    name: String,
    rows: Box<dyn Rows<K>>,
    backend: Store<K>,
}

impl<K: Key> Table<K> {
    /// The table `name` of the database at `place`; it is made if there is none.
    pub(crate) fn open(place: &Place, name: &str, shape: Shape) -> Result<Self, Failure> {
        let (rows, backend): (Box<dyn Rows<K>>, _) = match place {
            Place::Sqlite(path) => {
                let (file, backend) = sqlite::File::open(path, name, shape)?;
                (Box::new(file), backend)
            }
            Place::Postgres(address) => {
                let (server, backend) = postgres::Server::open(address, name, shape)?;
                (Box::new(server), backend)
            }
            Place::Redis(address) => {
                let (server, backend) = redis::Server::open(address, name)?;
                (Box::new(server), backend)
            }
        };
        Ok(Self { name: name.to_owned(), rows, backend })
    }

    /// What messages call the database.
    pub(crate) fn path(&self) -> &Path {
        self.rows.path()
    }

    /// What messages call the table.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many rows there are.
    pub(crate) fn row_count(&self) -> Result<u64, Failure> {
        self.rows.row_count()
    }

    /// Deletes all rows.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        self.rows.clear()
    }

    /// All rows.
    pub(crate) fn rows(&self) -> Result<HashMap<K, i64>, Failure> {
        self.rows.rows()
    }

    /// What the cache writes to the table with.
    pub(crate) fn backend(&self) -> Store<K> {
        self.backend.clone()
    }
}

/// Whether the backend takes `name` for a table.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let reserved = name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
    name.bytes().all(plain) && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit()) && !reserved
}

/// What went wrong with a database that is not a file.
fn problem(place: &Path, reason: impl ToString) -> Failure {
    Failure::Database { path: place.to_owned(), reason: reason.to_string() }
}

/// The name of a backend's database, without that of the table.
fn place_of<K, V>(backend: &impl Backend<K, V>) -> PathBuf {
    let identity = backend.identity();
    identity.rsplit_once('#').map_or(&*identity, |(place, _)| place).into()
}
