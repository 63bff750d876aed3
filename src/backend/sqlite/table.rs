//! A table as a backend: batches in, rows out.

use std::{fmt, marker::PhantomData, path::PathBuf, sync::Arc};

use rusqlite::{Connection, Statement, Transaction, TransactionBehavior};

use super::{
    cells::{Answer, Parameters},
    connections::Connections,
    error::{left_out, refused, unavailable, unfit},
    layout::Layout,
    statements::Statements,
};
use crate::backend::{
    Answers, Backend, BackendError, Batch, ErrorClass, Op,
    sql::{RowReader, RowWriter, SqlKey, SqlValue, sort_by_key},
};

/// A table of a [`Sqlite`](super::Sqlite) database, as the [`Backend`] of a cache from `K` to `V`.
///
/// Made by [`Sqlite::table`](super::Sqlite::table). A clone writes to the same table over the same connections.
///
/// # What an answer means
///
/// A batch is one transaction, in the order of its operations; only upserts that follow each other, and deletes that do, are
/// carried out in the order of their keys. If a row is refused (a constraint, a value that does
/// not fit its column), that row alone is answered with a permanent error and the others are stored: the batch is
/// done again row by row, strictly in the order of its operations, and if only a commit shows what is wrong, in a transaction for each row. While the database
/// is busy, full, out of reach or damaged, nothing is stored and all is answered with a transient error; so it is
/// when the table is gone.
///
/// A row that is replaced keeps the columns that the cache does not know. What the table says about conflicts
/// (`ON CONFLICT IGNORE` and its like) does not count: a row is stored or refused.
///
/// # Blocking
///
/// `apply` waits for other writers of the database for as long as the busy timeout. `load` answers from one snapshot,
/// all keys of one call alike, and does not wait for writers, except in memory.
pub struct SqliteTable<K, V> {
    connections: Arc<Connections>,
    layout: Arc<Layout>,
    statements: Arc<Statements>,
    rows: PhantomData<fn(K) -> V>,
}

impl<K: SqlKey, V: SqlValue> SqliteTable<K, V> {
    pub(super) fn new(connections: Arc<Connections>, layout: Layout) -> Self {
        let statements = Arc::new(Statements::of(&layout));
        Self { connections, layout: Arc::new(layout), statements, rows: PhantomData }
    }

    /// The whole batch, as many rows in a statement as they come: fast, and undone by the first row that is refused.
    fn apply_all(&self, connection: &Connection, ops: &[Op<K, V>]) -> Result<(), BackendError> {
        self.transaction(connection, |connection| {
            ops.chunk_by(|one, next| is_upsert(one) == is_upsert(next)).try_for_each(|run| {
                let mut run: Vec<_> = run.iter().collect();
                // Neighbours in the tree one after the other: measured, a third faster.
                sort_by_key(&mut run, |op| op.key());
                self.write(connection, &run)
            })
        })
    }

    /// The batch row by row: one that is refused leaves nothing behind, and the others are stored.
    fn apply_each(
        &self,
        connection: &Connection,
        ops: &[Op<K, V>],
    ) -> Result<Vec<Result<(), BackendError>>, BackendError> {
        self.transaction(connection, |connection| {
            let mut answers = Vec::with_capacity(ops.len());
            for op in ops {
                self.execute(connection, "SAVEPOINT one_row")?;
                let answer = self.write(connection, &[op]);
                match &answer {
                    Ok(()) => {}
                    Err(error) if error.class() == ErrorClass::Permanent && !connection.is_autocommit() => {
                        self.execute(connection, "ROLLBACK TO one_row")?;
                    }
                    // Either nothing can be stored now, or the schema undoes the whole transaction for one row.
                    Err(error) => return Err(error.clone()),
                }
                self.execute(connection, "RELEASE one_row")?;
                answers.push(answer);
            }
            Ok(answers)
        })
    }

    /// Each row in a transaction of its own: for rows that are refused when they are committed, and for schemas that
    /// undo a whole transaction.
    fn apply_apart(&self, connection: &Connection, ops: &[Op<K, V>]) -> Vec<Result<(), BackendError>> {
        let mut unavailable: Option<BackendError> = None;
        let apply_one = |op| {
            if let Some(error) = &unavailable {
                return Err(error.clone());
            }
            let answer = self.transaction(connection, |connection| self.write(connection, &[op]));
            unavailable =
                answer.as_ref().err().filter(|error| error.class() != ErrorClass::Permanent).cloned();
            answer
        };
        ops.iter().map(apply_one).collect()
    }

    /// Does `job` in a transaction: committed if the answer is `Ok`, else gone without a trace.
    fn transaction<R>(
        &self,
        connection: &Connection,
        job: impl FnOnce(&Connection) -> Result<R, BackendError>,
    ) -> Result<R, BackendError> {
        // Immediate: a transaction that began by reading could not wait for its turn to write.
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
        let transaction = transaction.map_err(|error| self.unavailable(error))?;
        let answer = job(&transaction)?;
        transaction.commit().map_err(|error| refused(&self.layout.table, error, || false))?;
        Ok(answer)
    }

    /// Carries out operations of one kind.
    fn write(&self, connection: &Connection, mut run: &[&Op<K, V>]) -> Result<(), BackendError> {
        let upsert = run.first().is_some_and(|op| is_upsert(op));
        while !run.is_empty() {
            let statements = self.statements.up_to(run.len());
            let sql = if upsert { &statements.upsert } else { &statements.delete };
            let mut statement = connection.prepare_cached(sql).map_err(|error| self.unavailable(error))?;
            let mut chunks = run.chunks_exact(statements.rows);
            for ops in &mut chunks {
                self.bind(&mut statement, ops)?;
                let stored = statement.raw_execute();
                let stored = stored.map_err(|error| {
                    refused(&self.layout.table, error, || connection.prepare(sql).is_ok())
                })?;
                if upsert && stored < ops.len() {
                    return Err(left_out(&self.layout.table));
                }
            }
            run = chunks.remainder();
        }
        Ok(())
    }

    fn bind(&self, statement: &mut Statement<'_>, ops: &[&Op<K, V>]) -> Result<(), BackendError> {
        let mut parameter = 1;
        for op in ops {
            parameter = self.bind_key(statement, op.key(), parameter)?;
            if let Some(value) = op.change().value() {
                let mut cells = Parameters { statement, first: parameter, row_id: false };
                let mut row = RowWriter::new(&mut cells, &self.layout.value);
                let written = value.write(&mut row).and_then(|()| row.finish());
                written.map_err(|error| unfit(&self.layout.table, error))?;
                parameter += self.layout.value.len();
            }
        }
        Ok(())
    }

    /// Writes a key from a parameter on, and answers the number of the next parameter.
    fn bind_key(
        &self,
        statement: &mut Statement<'_>,
        key: &K,
        parameter: usize,
    ) -> Result<usize, BackendError> {
        let mut cells = Parameters { statement, first: parameter, row_id: self.layout.row_id() };
        let mut row = RowWriter::new(&mut cells, &self.layout.key);
        let written = key.write(&mut row).and_then(|()| row.finish());
        written.map_err(|error| unfit(&self.layout.table, error))?;
        Ok(parameter + self.layout.key.len())
    }

    /// Reads the rows of `keys` into as many `values`.
    fn read(
        &self,
        connection: &Connection,
        mut keys: &[K],
        mut values: &mut [Option<V>],
    ) -> Result<(), BackendError> {
        let failed = |error| self.unavailable(error);
        while !keys.is_empty() {
            let statements = self.statements.up_to(keys.len());
            let mut statement = connection.prepare_cached(&statements.select).map_err(failed)?;
            let mut some_keys = keys.chunks_exact(statements.rows);
            let mut some_values = values.chunks_exact_mut(statements.rows);
            for (keys, values) in (&mut some_keys).zip(&mut some_values) {
                let mut parameter = 1;
                for key in keys {
                    parameter = self.bind_key(&mut statement, key, parameter)?;
                }
                let mut rows = statement.raw_query();
                while let Some(row) = rows.next().map_err(failed)? {
                    let place: isize = row.get(0).map_err(failed)?;
                    let answer = Answer { row, first: 1 };
                    let mut cells = RowReader::new(&answer, &self.layout.value);
                    let value = V::read(&mut cells).map_err(|error| unfit(&self.layout.table, error))?;
                    if let Some(slot) = values.get_mut(place.cast_unsigned()) {
                        *slot = Some(value);
                    }
                }
            }
            (keys, values) = (some_keys.remainder(), some_values.into_remainder());
        }
        Ok(())
    }

    fn execute(&self, connection: &Connection, sql: &str) -> Result<(), BackendError> {
        let statement = connection.prepare_cached(sql);
        statement
            .and_then(|mut statement| statement.raw_execute())
            .map(drop)
            .map_err(|error| self.unavailable(error))
    }

    fn unavailable(&self, error: rusqlite::Error) -> BackendError {
        unavailable(&self.layout.table, error)
    }
}

impl<K: SqlKey, V: SqlValue> Backend<K, V> for SqliteTable<K, V> {
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut values: Vec<Option<V>> = keys.iter().map(|_| None).collect();
        let read = self.connections.read(|connection| {
            // A single statement has one snapshot anyway.
            let single = self.statements.up_to(keys.len()).rows >= keys.len();
            let snapshot = (!single).then(|| connection.unchecked_transaction()).transpose();
            let _snapshot = snapshot.map_err(|error| self.unavailable(error))?;
            self.read(connection, keys, &mut values)
        });
        read.map_err(|error| self.unavailable(error))??;
        Ok(values)
    }

    fn identity(&self) -> String {
        let path = self.connections.path().map_or(":memory:".into(), |path| path.to_string_lossy());
        format!("sqlite:{path}#{}", self.layout.table)
    }

    fn journal_note(&self) -> Option<PathBuf> {
        let path = self.connections.path()?;
        let mut name = path.file_name()?.to_owned();
        name.push(format!(".{}.journal", self.layout.table));
        Some(path.with_file_name(name))
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        if batch.is_empty() {
            return batch.all_stored();
        }
        let writer = match self.connections.writer() {
            Ok(writer) => writer,
            Err(error) => return batch.none_stored(self.unavailable(error)),
        };
        match self.apply_all(&writer, batch.ops()) {
            Ok(()) => return batch.all_stored(),
            Err(error) if error.class() != ErrorClass::Permanent => return batch.none_stored(error),
            Err(error) if batch.len() == 1 => return batch.none_stored(error),
            Err(_) => {}
        }
        match self.apply_each(&writer, batch.ops()) {
            Ok(answers) => Answers::new(answers),
            Err(error) if error.class() != ErrorClass::Permanent => batch.none_stored(error),
            Err(_) => Answers::new(self.apply_apart(&writer, batch.ops())),
        }
    }
}

impl<K, V> Clone for SqliteTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            connections: self.connections.clone(),
            layout: self.layout.clone(),
            statements: self.statements.clone(),
            rows: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for SqliteTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTable")
            .field("table", &self.layout.table)
            .field("key", &self.layout.key)
            .field("value", &self.layout.value)
            .finish()
    }
}

fn is_upsert<K, V>(op: &Op<K, V>) -> bool {
    op.change().value().is_some()
}
