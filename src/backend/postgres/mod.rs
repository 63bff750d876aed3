//! Postgres behind the cache.
//!
//! From the outside in: [`Postgres`] is a database with its connections (`driver`), [`PostgresTable`] a table of it, which
//! implements the backend trait with its `statements`; `layout` decides the columns and checks those that are there; `cells` writes
//! and reads them; `error` sorts what Postgres says.

mod cells;
mod driver;
mod error;
mod layout;
mod statements;
mod table;

use std::{fmt, sync::Arc, time::Duration};

use tokio_postgres::{
    Config, Socket,
    config::Host,
    tls::{MakeTlsConnect, TlsConnect},
};

use crate::backend::sql::{Columns, SqlKey, SqlValue};
use driver::{Connections, Connector, Settings};
use layout::Layout;

pub use error::{PostgresError, PostgresOpenError};
pub use table::PostgresTable;

/// A Postgres database, whose tables are backends.
///
/// A few connections write, a few others read, so that loads do not wait for batches; one thread drives them all. Needs
/// Postgres 12 or newer. Behind a pooler, it has to be one that keeps a session for each connection.
///
/// ```no_run
/// use writeback::{Cache, backend::Postgres};
///
/// let scores = Cache::builder()
///     .capacity(10_000)
///     .backend(Postgres::connect("postgres://app@localhost/game")?.table("scores")?)
///     .open::<u64, u64>()?; // scores (key bigint PRIMARY KEY, value bigint)
/// scores.put(7, 100)?;
/// scores.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How values are stored
///
/// | Rust | a new table | a table that is there may have |
/// |---|---|---|
/// | integers, `bool` | `bigint`; for numbers above `i64::MAX` see [`RowWriter::unsigned`](super::RowWriter::unsigned) | `integer`, `smallint`, and in a value `boolean` |
/// | `f32`, `f64` | `double precision` | |
/// | `String`, `Box<str>`, `Arc<str>` | `text`; NUL is refused | `varchar`, `uuid`, and in a value whatever has a text form: `jsonb`, `numeric`, `timestamptz`, an enum |
/// | `Vec<u8>`, `Box<[u8]>`, `Arc<[u8]>`, `[u8; N]` | `bytea` | |
/// | `Option` | the same, or `NULL` | |
///
/// Structs have a column for each field that [`SqlValue`] names. Every column except that of an `Option` is
/// `NOT NULL`.
///
/// # Clones
///
/// A clone is the same database over the same connections, and so are the tables of one `Postgres`: several caches may
/// share it.
#[derive(Clone)]
pub struct Postgres {
    connections: Arc<Connections>,
    place: Arc<Place>,
}

impl Postgres {
    /// Connects to the database at `address`, with the default [`PostgresOptions`]. Blocks for at most the connect timeout.
    ///
    /// The address is a URL (`postgres://user:password@host:port/name`) or a list of `key=value`, with everything that
    /// [`tokio_postgres::Config`] knows: several hosts, sockets, keepalive, application name.
    ///
    /// # Errors
    ///
    /// The address makes no sense, or the server cannot be reached or refuses the user.
    ///
    /// ```
    /// use writeback::backend::{Postgres, PostgresOpenError};
    ///
    /// let refused = Postgres::connect("postgres://nobody@127.0.0.1:1/nothing");
    /// assert!(matches!(refused, Err(PostgresOpenError::CannotConnect { .. })));
    /// ```
    pub fn connect(address: &str) -> Result<Self, PostgresOpenError> {
        Self::options().connect(address)
    }

    /// Options to connect with.
    pub fn options() -> PostgresOptions {
        PostgresOptions::default()
    }

    /// The table `name` (or `schema.name`), with the columns that the types of key and value bring along; for a plain number,
    /// string or byte string they are called `key` and `value`.
    ///
    /// It is created if there is none. One that is there must have these columns, of types that hold these values, and a primary
    /// key or a unique index on exactly the columns of the key; it may have others that are nullable, computed, or have a
    /// default. `K` and `V` follow from the cache that the table is given to. Blocks for a few exchanges with the server.
    ///
    /// # Errors
    ///
    /// The name is not a plain identifier, the table that is there has another shape, or Postgres cannot create it or be reached.
    pub fn table<K: SqlKey, V: SqlValue>(
        &self,
        name: &str,
    ) -> Result<PostgresTable<K, V>, PostgresOpenError> {
        self.table_with(name, Columns::new())
    }

    /// The table `name` like [`table`](Self::table), but with other names for its columns.
    ///
    /// # Errors
    ///
    /// Those of [`table`](Self::table), and [`PostgresOpenError::Columns`] if the names are not one for each column, or not
    /// all different.
    pub fn table_with<K: SqlKey, V: SqlValue>(
        &self,
        name: &str,
        columns: Columns,
    ) -> Result<PostgresTable<K, V>, PostgresOpenError> {
        self.prepare(Layout::of::<K, V>(name, columns, None)?)
    }

    /// The table `name` like [`table_with`](Self::table_with), with a version guard: something older is never written over
    /// something newer, however late it comes.
    ///
    /// Two more columns, both `bigint NOT NULL`, hold the version of the row (called `version`), and the number of the cache that has
    /// written it (called `version` and `_run`; versions of different caches cannot be compared). The numbers come from a sequence, one for each
    /// table value that is made or cloned: give each cache one of its own.
    ///
    /// What an operation meets decides its answer:
    ///
    /// - an older version, an earlier cache, or no row: it is carried out;
    /// - the same version or a newer one, of the same cache: stored already, `Ok`;
    /// - a row of a cache that was opened later: [`ErrorClass::Conflict`](crate::ErrorClass::Conflict).
    ///
    /// A delete takes the version away with the row. So the guard does not keep a late upsert from bringing back a row that was
    /// deleted meanwhile; for sessions of one `Postgres` that are given up, see [`PostgresTable`], which covers that too. It
    /// also does not see what other programs write without raising the version.
    ///
    /// # Errors
    ///
    /// Those of [`table_with`](Self::table_with).
    pub fn guarded_table<K: SqlKey, V: SqlValue>(
        &self,
        name: &str,
        columns: Columns,
        version: &str,
    ) -> Result<PostgresTable<K, V>, PostgresOpenError> {
        self.prepare(Layout::of::<K, V>(name, columns, Some(version))?)
    }

    fn prepare<K: SqlKey, V: SqlValue>(
        &self,
        mut layout: Layout,
    ) -> Result<PostgresTable<K, V>, PostgresOpenError> {
        let mut server = self.connections.writer().map_err(|trouble| PostgresOpenError::CannotConnect {
            place: self.place.to_string(),
            source: trouble.into(),
        })?;
        layout.prepare(&mut server)?;
        drop(server);
        Ok(PostgresTable::new(self.connections.clone(), layout, self.place.clone()))
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("place", &self.place.to_string()).finish_non_exhaustive()
    }
}

/// Where a database is, without secrets.
struct Place {
    hosts: String,
    name: String,
}

impl Place {
    fn of(config: &Config) -> Result<Self, PostgresOpenError> {
        let host = |(at, host): (usize, &Host)| {
            let ports = config.get_ports();
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        };
        let hosts: Vec<_> = config.get_hosts().iter().enumerate().map(host).collect();
        let addresses = config.get_hostaddrs();
        if hosts.is_empty() && addresses.is_empty() {
            return Err(PostgresOpenError::Address { reason: "it names no host".to_owned() });
        }
        let hosts = match hosts.is_empty() {
            true => addresses.iter().map(ToString::to_string).collect(),
            false => hosts,
        };
        // Without a name, it is that of the user.
        let name = config.get_dbname().or(config.get_user()).unwrap_or("").to_owned();
        Ok(Self { hosts: hosts.join(","), name })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hosts, self.name)
    }
}

/// How a database is connected to.
///
/// ```no_run
/// use std::time::Duration;
/// use writeback::backend::Postgres;
///
/// let orders = Postgres::options()
///     .statement_timeout(Duration::from_secs(3))
///     .readers(8)
///     .connect("postgres://app@db.example/orders")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "options connect to nothing until `connect` is called"]
pub struct PostgresOptions {
    settings: Settings,
}

impl PostgresOptions {
    /// How long a connection may take to be made, for each address of the server (5 seconds).
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.settings.connect_timeout = connect_timeout;
        self
    }

    /// How long one statement may take on the server (30 seconds; zero: as long as it likes). After that, `apply` stores nothing
    /// and answers a transient error. If the server does not answer for a few seconds longer, the connection is given up.
    pub fn statement_timeout(mut self, statement_timeout: Duration) -> Self {
        self.settings.statement_timeout = statement_timeout;
        self
    }

    /// How long a statement may wait for a lock that another session holds (10 seconds; zero: as long as the statement may
    /// take). After that, `apply` stores nothing and answers a transient error.
    pub fn lock_timeout(mut self, lock_timeout: Duration) -> Self {
        self.settings.lock_timeout = lock_timeout;
        self
    }

    /// How many connections there are at most for loads (4, at least 1): so many loads run at the same time, and
    /// others wait for one of them to end. They are opened when they are first needed.
    pub fn readers(mut self, readers: usize) -> Self {
        self.settings.readers = readers;
        self
    }

    /// How many connections there are at most for batches (4, at least 1). A cache uses as many as it writes batches at
    /// the same time. They are opened when they are first needed.
    pub fn writers(mut self, writers: usize) -> Self {
        self.settings.writers = writers;
        self
    }

    /// Encrypts the connections with `connector`: that of `tokio-postgres-rustls`, `postgres-native-tls`, or any other for
    /// `tokio-postgres` 0.7. Whether TLS is needed says `sslmode` in the address; without a connector, `sslmode=require` fails.
    pub fn tls<T>(mut self, connector: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.settings.connector = Connector::with(connector);
        self
    }

    /// Connects to the database at `address`.
    ///
    /// # Errors
    ///
    /// Those of [`Postgres::connect`].
    pub fn connect(self, address: &str) -> Result<Postgres, PostgresOpenError> {
        let config: Config = address
            .parse()
            .map_err(|error: tokio_postgres::Error| PostgresOpenError::Address { reason: reason(&error) })?;
        let place = Arc::new(Place::of(&config)?);
        let connections = Connections::new(config, self.settings).map_err(PostgresOpenError::Spawn)?;
        // One at once: the first batch should not be the first to hear that the password is wrong.
        let connected = connections.writer().map(drop);
        connected.map_err(|trouble| PostgresOpenError::CannotConnect {
            place: place.to_string(),
            source: trouble.into(),
        })?;
        Ok(Postgres { connections: Arc::new(connections), place })
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            settings: Settings {
                connect_timeout: Duration::from_secs(5),
                statement_timeout: Duration::from_secs(30),
                lock_timeout: Duration::from_secs(10),
                readers: 4,
                writers: 4,
                connector: Connector::plain(),
            },
        }
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { connect_timeout, statement_timeout, lock_timeout, readers, writers, .. } =
            &self.settings;
        f.debug_struct("PostgresOptions")
            .field("connect_timeout", connect_timeout)
            .field("statement_timeout", statement_timeout)
            .field("lock_timeout", lock_timeout)
            .field("readers", readers)
            .field("writers", writers)
            .finish_non_exhaustive()
    }
}

fn reason(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
