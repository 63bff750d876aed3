//! Embedded databases.

use std::{fs, path::Path};

use heed::{CommitOrAbort, EnvFlags, EnvOpenOptions, types::Bytes};
use rusqlite::{Connection, params};

use super::{Promise, Store};
use crate::AnyError;

pub(super) fn stores<const N: usize>(
    promise: Promise,
    folder: &Path,
) -> Result<Vec<Box<dyn Store<N>>>, AnyError> {
    Ok(vec![
        Box::new(Fjall::new(promise, folder)?),
        Box::new(Lmdb::new(promise, folder)?),
        Box::new(Redb::new(promise, folder)?),
        Box::new(Sql::new(promise, folder)?),
    ])
}

struct Fjall {
    promise: Promise,
    database: fjall::Database,
    table: fjall::Keyspace,
}

impl Fjall {
    fn new(promise: Promise, folder: &Path) -> Result<Self, AnyError> {
        let database = fjall::Database::builder(folder.join("fjall")).open()?;
        let table = database.keyspace("entries", fjall::KeyspaceCreateOptions::default)?;
        Ok(Fjall { promise, database, table })
    }
}

impl<const N: usize> Store<N> for Fjall {
    fn name(&self) -> String {
        match self.promise {
            Promise::Crash => "fjall, no sync".to_owned(),
            Promise::Power => "fjall, persist(SyncData)".to_owned(),
        }
    }

    fn put(&mut self, key: u64, value: [u8; N]) -> Result<(), AnyError> {
        self.table.insert(key.to_be_bytes(), value)?;
        if self.promise == Promise::Power {
            self.database.persist(fjall::PersistMode::SyncData)?;
        }
        Ok(())
    }
}

struct Lmdb {
    promise: Promise,
    env: heed::Env,
    table: heed::Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    fn new(promise: Promise, folder: &Path) -> Result<Self, AnyError> {
        let folder = folder.join("lmdb");
        fs::create_dir_all(&folder)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(4 << 30);
        if promise == Promise::Crash {
            // SAFETY: a loss of power may damage it, which is what is asked for here; the end of the process does not.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: nobody else has the files of this folder.
        let env = unsafe { options.open(&folder)? };
        let transaction = env.write_txn()?;
        let table = env
            .create_databases_and_commit(transaction, |creator, transaction| -> Result<_, heed::Error> {
                let table = creator.create_database::<Bytes, Bytes>(transaction, None)?;
                Ok(CommitOrAbort::<_, ()>::Commit(table))
            })?
            .unwrap_commit();
        Ok(Lmdb { promise, env, table })
    }
}

impl<const N: usize> Store<N> for Lmdb {
    fn name(&self) -> String {
        match self.promise {
            Promise::Crash => "LMDB, NO_SYNC".to_owned(),
            Promise::Power => "LMDB".to_owned(),
        }
    }

    fn put(&mut self, key: u64, value: [u8; N]) -> Result<(), AnyError> {
        let mut transaction = self.env.write_txn()?;
        self.table.put(&mut transaction, &key.to_be_bytes(), &value)?;
        transaction.commit()?;
        Ok(())
    }
}

const REDB: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("entries");

struct Redb {
    promise: Promise,
    database: redb::Database,
}

impl Redb {
    fn new(promise: Promise, folder: &Path) -> Result<Self, AnyError> {
        Ok(Redb { promise, database: redb::Database::create(folder.join("redb"))? })
    }
}

impl<const N: usize> Store<N> for Redb {
    fn name(&self) -> String {
        match self.promise {
            // It has nothing between this and a sync.
            Promise::Crash => "redb, Durability::None (does not survive)".to_owned(),
            Promise::Power => "redb".to_owned(),
        }
    }

    fn put(&mut self, key: u64, value: [u8; N]) -> Result<(), AnyError> {
        let mut transaction = self.database.begin_write()?;
        if self.promise == Promise::Crash {
            transaction.set_durability(redb::Durability::None)?;
        }
        transaction.open_table(REDB)?.insert(key, value.as_slice())?;
        transaction.commit()?;
        Ok(())
    }
}

struct Sql {
    promise: Promise,
    connection: Connection,
}

impl Sql {
    fn new(promise: Promise, folder: &Path) -> Result<Self, AnyError> {
        let connection = Connection::open(folder.join("direct.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = if promise == Promise::Crash { "NORMAL" } else { "FULL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.execute("CREATE TABLE entries (key INTEGER PRIMARY KEY, value BLOB NOT NULL)", [])?;
        Ok(Sql { promise, connection })
    }
}

impl<const N: usize> Store<N> for Sql {
    fn name(&self) -> String {
        match self.promise {
            Promise::Crash => "SQLite, WAL, synchronous=NORMAL".to_owned(),
            Promise::Power => "SQLite, WAL, synchronous=FULL".to_owned(),
        }
    }

    fn put(&mut self, key: u64, value: [u8; N]) -> Result<(), AnyError> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO entries (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )?;
        statement.execute(params![key.cast_signed(), value.as_slice()])?;
        Ok(())
    }
}
