//! A table as a backend: batches in, rows out.

use std::{
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::{
    Place,
    cells::{Answer, Array, Rows},
    driver::{Connections, Lease, Parameter, Parameters, Query, Work},
    error::{Trouble, unfit},
    layout::Layout,
    statements::Statements,
};
use crate::backend::{
    Answers, Backend, BackendError, Batch, CellError, ErrorClass, Op,
    sql::{RowReader, RowWriter, SqlKey, SqlRef, SqlType, SqlValue, sort_by_key},
};

/// The most bytes in one statement: a message of the protocol has at most a thousand million, and a server has to hold it.
const MOST_BYTES: usize = 16 << 20;

/// A table of a [`Postgres`](super::Postgres) database, as the [`Backend`] of a cache from `K` to `V`.
///
/// Made by [`Postgres::table`](super::Postgres::table). A clone writes to the same table over the same connections.
///
/// # What an answer means
///
/// A batch is one transaction, in the order of its operations: a stretch of upserts is one statement, and so is a stretch of
/// deletes. Inside a statement the rows are sorted by key, so that batches of different processes do not wait for each other in
/// a circle. If a row is refused (a constraint, an exception of a trigger, a value that does not fit its column), it is looked
/// for by halving the batch, in the order of the operations; it alone is answered with a permanent error, and the others are
/// stored, in the same transaction unless only a commit shows what is wrong (deferred constraints). While the server is busy, out of
/// reach, starting or stopping, when a lock or the statement takes too long, after a deadlock, a serialization failure, and when
/// the table is gone, nothing is stored and all is answered with a transient error.
///
/// A row that is replaced keeps the columns that the cache does not know.
///
/// # Lost connections
///
/// The next call connects again; nothing sleeps or tries twice inside of a call. A session that was given up in the middle of a
/// batch is ended before the next batch begins, so that what it still has under way never comes after something newer.
///
/// # Blocking
///
/// `apply` and `load` wait for a free connection of their kind, and for the server: at most the connect timeout, and the statement
/// timeout for each statement. They may be called from threads of an async runtime, which they block.
pub struct PostgresTable<K, V> {
    connections: Arc<Connections>,
    layout: Arc<Layout>,
    statements: Arc<Statements>,
    place: Arc<Place>,
    /// With a guard: the number of this cache, taken with the first batch.
    run: OnceLock<i64>,
    rows: PhantomData<fn(K) -> V>,
}

/// The operations of a batch that can be written, with their places in it.
type Ops<'a, K, V> = Vec<(usize, &'a Op<K, V>)>;

type Answered = Vec<Option<Result<(), BackendError>>>;

/// Whether a half of a batch that is refused is undone alone, or each half is a transaction of its own.
#[derive(Clone, Copy, PartialEq)]
enum Halves {
    Together,
    Apart,
}

impl<K: SqlKey, V: SqlValue> PostgresTable<K, V> {
    pub(super) fn new(connections: Arc<Connections>, layout: Layout, place: Arc<Place>) -> Self {
        let statements = Arc::new(Statements::of(&layout));
        Self {
            connections,
            layout: Arc::new(layout),
            statements,
            place,
            run: OnceLock::new(),
            rows: PhantomData,
        }
    }

    fn try_apply(&self, ops: &mut Ops<'_, K, V>, answers: &mut Answered) -> Result<(), Trouble> {
        let run = self.run.get().copied();
        // Before a connection is taken: this is code of the user.
        let work = self.encode(ops, run, true, answers);
        if ops.is_empty() {
            return Ok(());
        }
        let mut server = self.connections.writer()?;
        let work = match (run, self.layout.next_run()) {
            (None, Some(next)) => {
                let number: i64 = match server.query(next, Vec::new())?.first() {
                    Some(row) => row.try_get(0)?,
                    None => return Err(Trouble::Closed),
                };
                let number = *self.run.get_or_init(|| number);
                self.encode(ops, Some(number), true, answers)
            }
            _ => work,
        };
        let run = self.run.get().copied();
        match self.transaction(&mut server, "BEGIN", work, "COMMIT") {
            Ok(()) => {
                answer(answers, ops, Ok(()));
                return Ok(());
            }
            Err(trouble) if is_transient(&trouble) => return Err(trouble),
            Err(trouble) if ops.len() == 1 => {
                answer(answers, ops, Err(trouble.about(&self.layout.table)));
                return Ok(());
            }
            Err(_) => {}
        }
        match self.halve(&mut server, ops, run, Halves::Together, answers) {
            Err(trouble) if !is_transient(&trouble) => {
                answers.iter_mut().zip(0..).for_each(|(answer, at)| {
                    if ops.iter().any(|(place, _)| *place == at) {
                        *answer = None;
                    }
                });
                self.halve(&mut server, ops, run, Halves::Apart, answers)
            }
            other => other,
        }
    }

    /// Looks for the operations that are refused, and stores the others. What has no answer afterwards was not stored, for the
    /// reason in the error.
    fn halve(
        &self,
        server: &mut Lease<'_>,
        ops: &Ops<'_, K, V>,
        run: Option<i64>,
        halves: Halves,
        answers: &mut Answered,
    ) -> Result<(), Trouble> {
        let (begin, end) = match halves {
            Halves::Together => ("SAVEPOINT half", "RELEASE SAVEPOINT half"),
            Halves::Apart => ("BEGIN", "COMMIT"),
        };
        if halves == Halves::Together {
            server.control("BEGIN")?;
        }
        let mut sure: Answered = answers.iter().map(|_| None).collect();
        let mut todo: VecDeque<Range<usize>> = std::iter::once(0..ops.len()).collect();
        while let Some(range) = todo.pop_front() {
            let mut some: Ops<'_, K, V> = ops.get(range.clone()).unwrap_or_default().to_vec();
            // In the order of the batch: sorted, a row might come before the one that makes way for it.
            let work = self.encode(&mut some, run, false, answers);
            match self.part(server, begin, work, end, halves) {
                Ok(()) => answer(&mut sure, &some, Ok(())),
                Err(trouble) if is_transient(&trouble) => {
                    if halves == Halves::Together {
                        self.undo(server, "ROLLBACK");
                    } else {
                        merge(answers, sure);
                    }
                    return Err(trouble);
                }
                Err(trouble) if range.len() <= 1 => {
                    answer(&mut sure, &some, Err(trouble.about(&self.layout.table)));
                }
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    todo.push_front(middle..range.end);
                    todo.push_front(range.start..middle);
                }
            }
        }
        if halves == Halves::Together
            && let Err(trouble) = server.control("COMMIT")
        {
            self.undo(server, "ROLLBACK");
            return Err(trouble);
        }
        merge(answers, sure);
        Ok(())
    }

    fn part(
        &self,
        server: &mut Lease<'_>,
        begin: &'static str,
        work: Work,
        end: &'static str,
        halves: Halves,
    ) -> Result<(), Trouble> {
        if halves == Halves::Apart {
            return self.transaction(server, begin, work, end);
        }
        let done = self.carry_out(server, begin, work, end);
        if done.as_ref().is_err_and(|trouble| !is_transient(trouble)) {
            server.control("ROLLBACK TO SAVEPOINT half; RELEASE SAVEPOINT half")?;
        }
        done
    }

    /// Committed if the answer is `Ok`, else gone without a trace, as far as the server can still be reached.
    fn transaction(
        &self,
        server: &mut Lease<'_>,
        begin: &'static str,
        work: Work,
        end: &'static str,
    ) -> Result<(), Trouble> {
        let done = self.carry_out(server, begin, work, end);
        if done.is_err() {
            self.undo(server, "ROLLBACK");
        }
        done
    }

    fn undo(&self, server: &mut Lease<'_>, sql: &'static str) {
        // An error: the connection is gone, and the transaction with it.
        if server.control(sql).is_err() {
            server.discard();
        }
    }

    fn carry_out(
        &self,
        server: &mut Lease<'_>,
        begin: &'static str,
        work: Work,
        end: &'static str,
    ) -> Result<(), Trouble> {
        let least = work.iter().map(|(query, parameters)| self.rows_of(query, parameters)).collect();
        let done = server.execute(begin, work, least, end)?;
        if done.short.is_empty() {
            return Ok(());
        }
        for (query, parameters) in done.short {
            match &self.statements.look {
                Some(look) => {
                    self.look(server, look, parameters, query.sql == self.statements.upsert.sql)?;
                }
                None => return Err(Trouble::LeftOut),
            }
        }
        server.control(end)
    }

    /// How many rows a statement was given; a delete without a guard may find fewer.
    fn rows_of(&self, query: &Query, parameters: &Parameters) -> u64 {
        let counts = query.sql == self.statements.upsert.sql || self.statements.look.is_some();
        match parameters.first() {
            Some(Parameter::Array(array)) if counts => array.rows(),
            _ => 0,
        }
    }

    /// Why rows were not written: they are there in a newer version, which is as good; or a later cache has written them.
    fn look(
        &self,
        server: &mut Lease<'_>,
        look: &Query,
        mut parameters: Parameters,
        is_upsert: bool,
    ) -> Result<(), Trouble> {
        let keys = self.layout.key.len();
        if is_upsert {
            parameters.drain(keys..self.layout.columns.len());
        }
        let rows = server.query(look.clone(), parameters)?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (overtaken, missing): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        match (overtaken, missing) {
            (1.., _) => Err(Trouble::Overtaken),
            (_, 1..) if is_upsert => Err(Trouble::LeftOut),
            _ => Ok(()),
        }
    }

    /// The statements for `ops`; those that do not fit their columns are answered, and taken out.
    fn encode(
        &self,
        ops: &mut Ops<'_, K, V>,
        run: Option<i64>,
        sorted: bool,
        answers: &mut Answered,
    ) -> Work {
        let mut work = Work::new();
        let mut unfit_places: Vec<usize> = Vec::new();
        for stretch in ops.chunk_by(|(_, one), (_, next)| is_upsert(one) == is_upsert(next)) {
            let mut stretch = stretch.to_vec();
            if sorted {
                // As every batch of every process does.
                sort_by_key(&mut stretch, |(_, op)| op.key());
            }
            let upsert = stretch.first().is_some_and(|(_, op)| is_upsert(op));
            let (query, columns) = match upsert {
                true => (&self.statements.upsert, &self.layout.columns[..]),
                false => (&self.statements.delete, &self.layout.columns[..self.layout.key.len()]),
            };
            let mut rows = Rows::of(columns);
            let mut versions = Array::of(SqlType::Integer);
            for (place, op) in stretch {
                rows.begin();
                match self.write(&mut rows, op, &mut versions) {
                    Ok(()) => {}
                    Err(error) => {
                        rows.undo();
                        answers[place] = Some(Err(unfit(&self.layout.table, error)));
                        unfit_places.push(place);
                    }
                }
                if rows.bytes() > MOST_BYTES {
                    work.extend(self.statement(query, &mut rows, &mut versions, run, columns));
                }
            }
            work.extend(self.statement(query, &mut rows, &mut versions, run, columns));
        }
        if !unfit_places.is_empty() {
            ops.retain(|(place, _)| !unfit_places.contains(place));
        }
        work
    }

    fn write(&self, rows: &mut Rows, op: &Op<K, V>, versions: &mut Array) -> Result<(), CellError> {
        let version = match &self.layout.guard {
            Some(guard) => i64::try_from(op.version()).map_err(|_| {
                CellError::new(format!(
                    "the column `{}` cannot hold the version {}",
                    guard.version,
                    op.version()
                ))
            })?,
            None => 0,
        };
        let mut row = RowWriter::new(rows, &self.layout.key);
        op.key().write(&mut row).and_then(|()| row.finish())?;
        if let Some(value) = op.change().value() {
            rows.first = self.layout.key.len();
            let mut row = RowWriter::new(rows, &self.layout.value);
            value.write(&mut row).and_then(|()| row.finish())?;
        }
        // Last: a row that is left out has no version.
        versions.push(SqlRef::Integer(version))
    }

    /// Takes the rows that were written, if there are any.
    fn statement(
        &self,
        query: &Query,
        rows: &mut Rows,
        versions: &mut Array,
        run: Option<i64>,
        columns: &[super::layout::TypedColumn],
    ) -> Option<(Query, Parameters)> {
        let rows = std::mem::replace(rows, Rows::of(columns));
        let versions = std::mem::replace(versions, Array::of(SqlType::Integer));
        if versions.rows() == 0 {
            return None;
        }
        let mut parameters: Parameters = rows.arrays.into_iter().map(Parameter::Array).collect();
        if self.layout.guard.is_some() {
            parameters.push(Parameter::Array(versions));
            parameters.push(Parameter::Number(run.unwrap_or(0)));
        }
        Some((query.clone(), parameters))
    }

    fn try_load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        let table = &self.layout.table;
        let mut rows = Rows::of(&self.layout.columns[..self.layout.key.len()]);
        for key in keys {
            rows.begin();
            let mut row = RowWriter::new(&mut rows, &self.layout.key);
            key.write(&mut row).and_then(|()| row.finish()).map_err(|error| unfit(table, error))?;
        }
        let parameters = rows.arrays.into_iter().map(Parameter::Array).collect();
        let found = self
            .connections
            .reader()
            .and_then(|mut server| server.query(self.statements.select.clone(), parameters))
            .map_err(|trouble| trouble.about(table))?;
        let mut values: Vec<Option<V>> = keys.iter().map(|_| None).collect();
        let columns = &self.layout.columns[self.layout.key.len()..];
        for row in &found {
            let place: i64 = row.try_get(0).map_err(|error| Trouble::Sql(error).about(table))?;
            let answer = Answer { row, columns, first: 1 };
            let mut cells = RowReader::new(&answer, &self.layout.value);
            let value = V::read(&mut cells).map_err(|error| unfit(table, error))?;
            let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
            if let Some(slot) = place.and_then(|place| values.get_mut(place)) {
                *slot = Some(value);
            }
        }
        Ok(values)
    }
}

impl<K: SqlKey, V: SqlValue> Backend<K, V> for PostgresTable<K, V> {
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.try_load(keys)
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        let mut answers: Answered = batch.ops().iter().map(|_| None).collect();
        let mut ops: Ops<'_, K, V> = batch.ops().iter().enumerate().collect();
        let done = self.try_apply(&mut ops, &mut answers);
        let rest = match done {
            Ok(()) => Ok(()),
            Err(trouble) => Err(trouble.about(&self.layout.table)),
        };
        Answers::new(answers.into_iter().map(|answer| answer.unwrap_or_else(|| rest.clone())).collect())
    }

    fn identity(&self) -> String {
        format!("postgres://{}#{}", self.place, self.layout.table)
    }
}

/// A clone is for another cache: with a version guard it counts as one that was opened later.
impl<K, V> Clone for PostgresTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            connections: self.connections.clone(),
            layout: self.layout.clone(),
            statements: self.statements.clone(),
            place: self.place.clone(),
            run: OnceLock::new(),
            rows: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for PostgresTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTable")
            .field("place", &self.place.to_string())
            .field("table", &self.layout.table)
            .field("key", &self.layout.key)
            .field("value", &self.layout.value)
            .finish()
    }
}

fn is_upsert<K, V>(op: &Op<K, V>) -> bool {
    op.change().value().is_some()
}

fn is_transient(trouble: &Trouble) -> bool {
    trouble.class() == ErrorClass::Transient
}

fn answer<K, V>(answers: &mut Answered, ops: &Ops<'_, K, V>, with: Result<(), BackendError>) {
    for (place, _) in ops {
        if let Some(answer) = answers.get_mut(*place) {
            answer.get_or_insert_with(|| with.clone());
        }
    }
}

fn merge(answers: &mut Answered, more: Answered) {
    for (answer, more) in answers.iter_mut().zip(more) {
        if answer.is_none() {
            *answer = more;
        }
    }
}
