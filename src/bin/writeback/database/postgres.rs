//! A table of Postgres.

use std::{
    collections::HashMap,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
};

use postgres::{Client, NoTls};
use writeback::backend::{Columns, Postgres, PostgresOpenError, PostgresTable};

use super::{Key, Rows, Shape, Store, is_plain, place_of, problem};
use crate::failure::Failure;

/// A table of a known [`Shape`] on a server.
pub(super) struct Server<K> {
    address: String,
    place: PathBuf,
    name: String,
    shape: Shape,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> Server<K> {
    /// The table `name` on the server at `address`, and what the cache writes it with; it is made if there is none.
    pub(super) fn open(address: &str, name: &str, shape: Shape) -> Result<(Self, Store<K>), Failure> {
        let unknown = Path::new("postgres");
        if !is_plain(name) {
            return Err(problem(
                unknown,
                format!("`{name}` cannot name a table: use letters, digits and _, and begin with a letter"),
            ));
        }
        let server = Postgres::connect(address).map_err(|error| problem(unknown, error))?;
        let columns = Columns::new().key([shape.key]).value([shape.value]);
        let table: Result<PostgresTable<K, i64>, _> = server.table_with(name, columns);
        let table = table.map_err(|error| match error {
            PostgresOpenError::Shape { difference, found, .. } => Failure::TableShape {
                path: unknown.to_owned(),
                table: name.to_owned(),
                difference,
                found,
                wanted: shape.to_string(),
            },
            other => problem(unknown, other),
        })?;
        let (address, place) = (address.to_owned(), place_of(&table));
        Ok((Self { address, place, name: name.to_owned(), shape, key: PhantomData }, Arc::new(table)))
    }

    fn ask<R>(&self, ask: impl FnOnce(&mut Client) -> Result<R, postgres::Error>) -> Result<R, Failure> {
        let answer = Client::connect(&self.address, NoTls).and_then(|mut client| ask(&mut client));
        answer.map_err(|error| {
            let told = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            problem(&self.place, format!("the table `{}` cannot be used: {told}", self.name))
        })
    }
}

impl<K: Key> Rows<K> for Server<K> {
    fn path(&self) -> &Path {
        &self.place
    }

    fn row_count(&self) -> Result<u64, Failure> {
        let count = format!("SELECT count(*) FROM \"{}\"", self.name);
        self.ask(|client| client.query_one(&count, &[])?.try_get::<_, i64>(0)).map(i64::unsigned_abs)
    }

    fn clear(&self) -> Result<(), Failure> {
        let delete = format!("DELETE FROM \"{}\"", self.name);
        self.ask(|client| client.execute(&delete, &[])).map(drop)
    }

    fn rows(&self) -> Result<HashMap<K, i64>, Failure> {
        let Shape { key, value, .. } = self.shape;
        let select = format!("SELECT \"{key}\", \"{value}\" FROM \"{}\"", self.name);
        self.ask(|client| {
            client.query(&select, &[])?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })
    }
}
