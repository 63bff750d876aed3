//! The keys of Redis that begin with the name of a table and a colon.

use std::{
    collections::HashMap,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
};

use redis::{Client, Connection, RedisResult, cmd};
use writeback::backend::{Redis, RedisMap};

use super::{Key, Rows, Store, is_plain, place_of, problem};
use crate::failure::Failure;

/// How many keys are asked for at once.
const AT_ONCE: usize = 10_000;

/// The keys of a table on a server.
pub(super) struct Server<K> {
    client: Client,
    place: PathBuf,
    prefix: String,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> Server<K> {
    /// The keys of the table `name` on the server at `address`, and what the cache writes them with.
    pub(super) fn open(address: &str, name: &str) -> Result<(Self, Store<K>), Failure> {
        let unknown = Path::new("redis");
        if !is_plain(name) {
            return Err(problem(
                unknown,
                format!("`{name}` cannot name a table: use letters, digits and _, and begin with a letter"),
            ));
        }
        let prefix = format!("{name}:");
        let map: Result<RedisMap<K, i64>, _> = Redis::connect(address).and_then(|server| server.map(&prefix));
        let map = map.map_err(|error| problem(unknown, error))?;
        let client = Client::open(address).map_err(|error| problem(unknown, error))?;
        Ok((Self { client, place: place_of(&map), prefix, key: PhantomData }, Arc::new(map)))
    }

    fn ask<R>(&self, ask: impl FnOnce(&mut Connection) -> RedisResult<R>) -> Result<R, Failure> {
        let answer = self.client.get_connection().and_then(|mut connection| ask(&mut connection));
        answer.map_err(|error| {
            problem(&self.place, format!("the keys `{}*` cannot be used: {error}", self.prefix))
        })
    }

    /// All keys of the table. Redis may name one twice.
    fn keys(&self, connection: &mut Connection) -> RedisResult<Vec<String>> {
        let mut keys = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", self.prefix)).arg("COUNT").arg(AT_ONCE);
            let (next, some): (u64, Vec<String>) = scan.query(connection)?;
            keys.extend(some);
            cursor = next;
            if cursor == 0 {
                keys.sort_unstable();
                keys.dedup();
                return Ok(keys);
            }
        }
    }
}

impl<K: Key> Rows<K> for Server<K> {
    fn path(&self) -> &Path {
        &self.place
    }

    fn row_count(&self) -> Result<u64, Failure> {
        self.ask(|connection| self.keys(connection)).map(|keys| keys.len() as u64)
    }

    fn clear(&self) -> Result<(), Failure> {
        self.ask(|connection| {
            let keys = self.keys(connection)?;
            keys.chunks(AT_ONCE).try_for_each(|some| cmd("UNLINK").arg(some).query(connection))
        })
    }

    fn rows(&self) -> Result<HashMap<K, i64>, Failure> {
        let found: Vec<(String, Option<i64>)> = self.ask(|connection| {
            let keys = self.keys(connection)?;
            let mut values = Vec::with_capacity(keys.len());
            for some in keys.chunks(AT_ONCE) {
                values.extend(cmd("MGET").arg(some).query::<Vec<Option<i64>>>(connection)?);
            }
            Ok(keys.into_iter().zip(values).collect())
        })?;
        let mut rows = HashMap::with_capacity(found.len());
        for (key, value) in found {
            let parsed = key.strip_prefix(&self.prefix).and_then(|key| key.parse().ok());
            match (parsed, value) {
                (Some(parsed), Some(value)) => drop(rows.insert(parsed, value)),
                (_, None) => {}
                (None, _) => return Err(problem(&self.place, format!("`{key}` is no key of such a table"))),
            }
        }
        Ok(rows)
    }
}
