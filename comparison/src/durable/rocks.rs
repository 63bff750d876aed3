//! RocksDB, behind a feature: it needs libclang, and takes long to compile.

use std::path::Path;

use super::{Promise, Store};
use crate::AnyError;

pub(super) struct Rocks {
    promise: Promise,
    options: rocksdb::WriteOptions,
    database: rocksdb::DB,
}

impl Rocks {
    pub(super) fn new(promise: Promise, folder: &Path) -> Result<Self, AnyError> {
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(promise == Promise::Power);
        Ok(Rocks { promise, options, database: rocksdb::DB::open_default(folder.join("rocksdb"))? })
    }
}

impl<const N: usize> Store<N> for Rocks {
    fn name(&self) -> String {
        match self.promise {
            Promise::Crash => "RocksDB, no sync".to_owned(),
            Promise::Power => "RocksDB, sync".to_owned(),
        }
    }

    fn put(&mut self, key: u64, value: [u8; N]) -> Result<(), AnyError> {
        self.database.put_opt(key.to_be_bytes(), value, &self.options)?;
        Ok(())
    }
}
