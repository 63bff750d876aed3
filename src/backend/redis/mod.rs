//! Redis behind the cache.
//!
//! From the outside in: [`Redis`] is a server with its `connections`, [`RedisMap`] the keys below a prefix, which implements the
//! backend trait; `cells` writes and reads keys and values; `error` sorts what Redis says.

mod cells;
mod connections;
mod error;
mod map;

use std::{fmt, sync::Arc, time::Duration};

use redis::{Client, ConnectionAddr, IntoConnectionInfo};

use crate::backend::sql::{Columns, Names, SqlKey, SqlValue};
use cells::Layout;
use connections::{Connections, Settings};

pub use error::{RedisBackendError, RedisOpenError};
pub use map::RedisMap;

/// A Redis or Valkey server, whose keys below a prefix are a backend.
///
/// A few connections write, a few others read. Needs Redis 6 or newer, or Valkey; one server (or a primary), not a cluster.
///
/// ```no_run
/// use writeback::{Cache, backend::Redis};
///
/// let scores = Cache::builder()
///     .capacity(10_000)
///     .backend(Redis::connect("redis://localhost/")?.map("score:")?)
///     .open::<u64, u64>()?;
/// scores.put(7, 100)?;
/// scores.flush()?; // SET score:7 100
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How values are stored
///
/// A key is the prefix and the key: numbers in decimal, texts and bytes as they are. Several columns stand with `:` between, and
/// `\` before a `:` or `\` that is a part of one.
///
/// A value of one column is a string: numbers in decimal, texts and bytes as they are. One of several columns, or an `Option`, is a
/// hash with a field for each column that is not `None`; fields that the cache does not know stay as they are. `()` is an empty string.
///
/// # Clones
///
/// A clone is the same server over the same connections, and so are the maps of one `Redis`: several caches may share it.
#[derive(Clone)]
pub struct Redis {
    connections: Arc<Connections>,
    place: Arc<str>,
}

impl Redis {
    /// Connects to the server at `address`, with the default [`RedisOptions`]. Blocks for at most the connect timeout.
    ///
    /// The address is a URL: `redis://user:password@host:port/database`, or `redis+unix:///path`. For TLS (`rediss://`) enable the feature
    /// `tls-rustls` or `tls-native-tls` of the crate `redis` in your own `Cargo.toml`.
    ///
    /// # Errors
    ///
    /// The address makes no sense, the server cannot be reached or refuses the user, or the user may not use
    /// `CLIENT ID`, `CLIENT KILL` and `INFO`.
    ///
    /// ```
    /// use writeback::backend::{Redis, RedisOpenError};
    ///
    /// let refused = Redis::connect("redis://127.0.0.1:1/");
    /// assert!(matches!(refused, Err(RedisOpenError::CannotConnect { .. })));
    /// ```
    pub fn connect(address: &str) -> Result<Self, RedisOpenError> {
        Self::options().connect(address)
    }

    /// Options to connect with.
    pub fn options() -> RedisOptions {
        RedisOptions::default()
    }

    /// The keys that begin with `prefix`, which should be the cache's alone. `K` and `V` follow from the cache that the map is
    /// given to. Does not ask the server.
    ///
    /// # Errors
    ///
    /// The columns of the key and the value are not all different, or a part of the key may be NULL.
    pub fn map<K: SqlKey, V: SqlValue>(&self, prefix: &str) -> Result<RedisMap<K, V>, RedisOpenError> {
        let string = match V::COLUMNS {
            [] => true,
            [column] => !column.nullable,
            _ => false,
        };
        self.layout(prefix, Columns::new(), !string, None)
    }

    /// The keys that begin with `prefix` like [`map`](Self::map), but each value is a hash, with these names for its fields.
    ///
    /// # Errors
    ///
    /// Those of [`map`](Self::map), and the names are not one for each column.
    pub fn hashes<K: SqlKey, V: SqlValue>(
        &self,
        prefix: &str,
        fields: Columns,
    ) -> Result<RedisMap<K, V>, RedisOpenError> {
        self.layout(prefix, fields, true, None)
    }

    /// Hashes like [`hashes`](Self::hashes), with a version guard: something older is never written over something newer, however late
    /// it comes. A small script on the server compares and writes.
    ///
    /// One more field, called `version`, holds the number of the cache that has written the entry and the version that it gave it. The
    /// numbers come from the key `writeback:runs:` and the prefix, one for each map value that is made or cloned: give each cache one of
    /// its own.
    ///
    /// What an operation meets decides its answer:
    ///
    /// - an older version, an earlier cache, or no entry: it is carried out;
    /// - the same version or a newer one, of the same cache: stored already, `Ok`;
    /// - an entry of a cache that was opened later: [`ErrorClass::Conflict`](crate::ErrorClass::Conflict).
    ///
    /// A delete takes the version away with the entry. So the guard does not keep a late upsert from bringing back an entry that was
    /// deleted meanwhile; for connections of one `Redis` that are given up, see [`RedisMap`], which covers that too.
    ///
    /// # Errors
    ///
    /// Those of [`hashes`](Self::hashes), and the field of the version is one of the value.
    pub fn guarded_hashes<K: SqlKey, V: SqlValue>(
        &self,
        prefix: &str,
        fields: Columns,
        version: &str,
    ) -> Result<RedisMap<K, V>, RedisOpenError> {
        self.layout(prefix, fields, true, Some(version))
    }

    fn layout<K: SqlKey, V: SqlValue>(
        &self,
        prefix: &str,
        fields: Columns,
        hash: bool,
        version: Option<&str>,
    ) -> Result<RedisMap<K, V>, RedisOpenError> {
        let wrong = |reason: String| RedisOpenError::Fields { prefix: prefix.to_owned(), reason };
        let Names { key, value } = Names::of::<K, V>(fields).map_err(wrong)?;
        if let Some(version) =
            version.filter(|version| version.is_empty() || value.iter().any(|name| name == version))
        {
            return Err(wrong(format!(
                "`{version}` cannot be the field of the version; choose another name"
            )));
        }
        let marker = hash && V::COLUMNS.iter().all(|column| column.nullable);
        let version = version.map(str::to_owned);
        let prefix = prefix.to_owned();
        let layout = Layout { prefix, key, value, columns: V::COLUMNS, hash, marker, version };
        Ok(RedisMap::new(self.connections.clone(), Arc::new(layout), self.place.clone()))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("place", &self.place).finish_non_exhaustive()
    }
}

/// How a server is connected to.
///
/// ```no_run
/// use std::time::Duration;
/// use writeback::backend::Redis;
///
/// let sessions = Redis::options().answer_timeout(Duration::from_secs(2)).connect("redis://cache.example/3")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "options connect to nothing until `connect` is called"]
pub struct RedisOptions {
    settings: Settings,
}

impl RedisOptions {
    /// How long a connection may take to be made (5 seconds).
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.settings.connect_timeout = connect_timeout;
        self
    }

    /// How long the server may say nothing while it is waited for (10 seconds; zero: as long as it likes). After that the
    /// connection is given up, and the answer is a transient error.
    pub fn answer_timeout(mut self, answer_timeout: Duration) -> Self {
        self.settings.answer_timeout = answer_timeout;
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

    /// Connects to the server at `address`.
    ///
    /// # Errors
    ///
    /// Those of [`Redis::connect`].
    pub fn connect(self, address: &str) -> Result<Redis, RedisOpenError> {
        let wrong = |error: redis::RedisError| RedisOpenError::Address { reason: error.to_string() };
        let info = address.into_connection_info().map_err(wrong)?;
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let host = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                format!("{host}:{port}")
            }
            ConnectionAddr::Unix(path) => path.display().to_string(),
            other => other.to_string(),
        };
        let place = format!("{host}/{}", info.redis_settings().db());
        let client = Client::open(info).map_err(wrong)?;
        let connections = Connections::new(client, self.settings);
        // One at once: the first batch should not be the first to hear that the password is wrong.
        let connected = connections.writer().map(drop);
        connected.map_err(|source| RedisOpenError::CannotConnect { place: place.clone(), source })?;
        let may = connections.may_end_connections();
        may.map_err(|source| RedisOpenError::CannotEndConnections { place: place.clone(), source })?;
        Ok(Redis { connections: Arc::new(connections), place: place.into() })
    }
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            settings: Settings {
                connect_timeout: Duration::from_secs(5),
                answer_timeout: Duration::from_secs(10),
                readers: 4,
                writers: 4,
            },
        }
    }
}
