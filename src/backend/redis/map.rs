//! The keys below a prefix as a backend: batches in, values out.

use std::{
    fmt,
    io::Write as _,
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

use redis::{Pipeline, RedisError, RedisResult, Script, ServerErrorKind, Value, cmd};

use super::{
    cells::{Found, Layout},
    connections::{Connections, Lease},
    error::{overtaken, refused, senseless, unavailable, unfit},
};
use crate::backend::{
    Answers, Backend, BackendError, Batch, CellError, Op,
    sql::{RowReader, SqlKey, SqlValue},
};

/// The most bytes that are sent before answers are waited for.
const MOST_BYTES: usize = 16 << 20;

/// A field that is in a hash only so that there is a hash.
const MARKER: &str = "";

/// Writes or deletes a hash unless it is as new already. Answers 0: done, 1: stored already, 2: written by a later cache.
///
/// A version is the number of the cache and that of the write, with twenty digits each: texts compare as numbers do, and numbers
/// of Lua are not exact.
const GUARD: &str = "\
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and old >= ARGV[2] then
  if string.sub(old, 1, 20) > string.sub(ARGV[2], 1, 20) then return 2 end
  return 1
end
local last = tonumber(ARGV[3])
if last == 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], unpack(ARGV, 4, last))
if #ARGV > last then redis.call('HDEL', KEYS[1], unpack(ARGV, last + 1)) end
return 0";

/// The keys below a prefix on a [`Redis`](super::Redis) server, as the [`Backend`] of a cache from `K` to `V`.
///
/// Made by [`Redis::map`](super::Redis::map). A clone writes to the same keys over the same connections.
///
/// # What an answer means
///
/// A batch is one pipeline, sent at once and carried out in its order; each command has an answer of its own, so that what
/// is refused (a key that holds another type, a script that fails) keeps nothing else from being stored. It is not a transaction: others
/// may see a part of it. While the server is out of reach, loading, out of memory, read-only or busy, the answer is a transient error.
///
/// `Ok` means that the server has it in memory. What it keeps after a crash of its own, `appendonly` and `appendfsync` of its
/// configuration say.
///
/// # Lost connections
///
/// The next call connects again; nothing sleeps or tries twice inside of a call. A connection that was given up in the middle of a
/// batch is ended on the server before the next batch is sent, so that what it still has under way never comes after something newer.
/// That does not reach over to a replica that was made the primary meanwhile.
///
/// # Blocking
///
/// `apply` and `load` wait for a free connection of their kind, and for the server: at most the connect timeout, and the answer timeout
/// for each answer.
pub struct RedisMap<K, V> {
    connections: Arc<Connections>,
    layout: Arc<Layout>,
    place: Arc<str>,
    /// With a guard: the number of this cache, taken with the first batch.
    run: OnceLock<u64>,
    entries: PhantomData<fn(K) -> V>,
}

impl<K: SqlKey, V: SqlValue> RedisMap<K, V> {
    pub(super) fn new(connections: Arc<Connections>, layout: Arc<Layout>, place: Arc<str>) -> Self {
        Self { connections, layout, place, run: OnceLock::new(), entries: PhantomData }
    }

    /// Adds the commands for an operation, and answers how many they are.
    fn commands(
        &self,
        op: &Op<K, V>,
        run: u64,
        script: &Script,
        out: &mut Commands<'_>,
    ) -> Result<usize, CellError> {
        let key = self.layout.key(op.key())?;
        let cells = op.change().value().map(|value| self.layout.value(value)).transpose()?;
        let (nulls, fields) = match &cells {
            Some(cells) => {
                let nulls = cells.iter().filter(|cell| cell.is_none()).count();
                (nulls, cells.len() - nulls + usize::from(self.layout.marker))
            }
            None => (0, 0),
        };
        if let Some(version) = &self.layout.version {
            let last = if cells.is_some() { 3 + 2 * fields } else { 0 };
            out.begin(7 + 2 * fields + nulls);
            let token = format!("{run:020}.{:020}", op.version());
            let last = last.to_string();
            let head = ["EVALSHA", script.get_hash(), "1"].map(str::as_bytes);
            let tail = [&key[..], version.as_bytes(), token.as_bytes(), last.as_bytes()];
            head.iter().chain(&tail).for_each(|argument| out.argument(argument));
            if let Some(cells) = &cells {
                self.fields(cells, out);
                self.nulls(cells).for_each(|name| out.argument(name.as_bytes()));
            }
            return Ok(1);
        }
        let Some(cells) = cells else {
            out.command(&[b"DEL", &key]);
            return Ok(1);
        };
        if !self.layout.hash {
            out.command(&[b"SET", &key, cells.first().and_then(Option::as_deref).unwrap_or_default()]);
            return Ok(1);
        }
        out.begin(2 + 2 * fields);
        out.argument(b"HSET");
        out.argument(&key);
        self.fields(&cells, out);
        if nulls == 0 {
            return Ok(1);
        }
        out.begin(2 + nulls);
        out.argument(b"HDEL");
        out.argument(&key);
        self.nulls(&cells).for_each(|name| out.argument(name.as_bytes()));
        Ok(2)
    }

    fn fields(&self, cells: &[Option<Vec<u8>>], out: &mut Commands<'_>) {
        if self.layout.marker {
            out.argument(MARKER.as_bytes());
            out.argument(b"1");
        }
        for (name, cell) in self.layout.value.iter().zip(cells) {
            if let Some(cell) = cell {
                out.argument(name.as_bytes());
                out.argument(cell);
            }
        }
    }

    fn nulls<'a>(&'a self, cells: &'a [Option<Vec<u8>>]) -> impl Iterator<Item = &'a String> {
        self.layout.value.iter().zip(cells).filter(|(_, cell)| cell.is_none()).map(|(name, _)| name)
    }

    /// Carries out operations, and answers each that has no answer yet.
    fn send(
        &self,
        server: &mut Lease<'_>,
        ops: &[Op<K, V>],
        run: u64,
        answers: &mut [Option<Result<(), BackendError>>],
    ) -> Result<(), RedisError> {
        let script = Script::new(GUARD);
        let mut unknown = self.send_once(server, ops, run, &script, answers)?;
        if unknown {
            // The server was started anew, or has been told to forget its scripts.
            server.ask(|connection| cmd("SCRIPT").arg("LOAD").arg(GUARD).query::<Value>(connection))?;
            unknown = self.send_once(server, ops, run, &script, answers)?;
        }
        if unknown {
            for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
                *answer = Some(Err(senseless(&self.layout.prefix)));
            }
        }
        Ok(())
    }

    /// Answers whether there are operations without an answer, because the server does not know the script.
    fn send_once(
        &self,
        server: &mut Lease<'_>,
        ops: &[Op<K, V>],
        run: u64,
        script: &Script,
        answers: &mut [Option<Result<(), BackendError>>],
    ) -> Result<bool, RedisError> {
        let prefix = &self.layout.prefix;
        let mut unknown = false;
        let mut todo = ops.iter().zip(answers).filter(|(_, answer)| answer.is_none()).peekable();
        while todo.peek().is_some() {
            let mut sent = Vec::with_capacity(todo.size_hint().1.unwrap_or(0));
            let mut bytes = 0;
            let replies = server.send(|buffer| {
                let (op, answer) = todo.next_if(|_| bytes < MOST_BYTES)?;
                let before = buffer.len();
                match self.commands(op, run, script, &mut Commands(buffer)) {
                    Ok(commands) => {
                        bytes += buffer.len() - before;
                        sent.push((answer, commands));
                        Some(commands)
                    }
                    Err(error) => {
                        *answer = Some(Err(unfit(prefix, error)));
                        Some(0)
                    }
                }
            });
            let mut replies = replies?.into_iter();
            for (answer, commands) in sent {
                let guarded = self.layout.version.is_some();
                let fine = |reply: &RedisResult<Value>| match reply {
                    Ok(Value::Okay) => true,
                    // How many fields were new or are gone; or what the script says.
                    Ok(Value::Int(number)) => !guarded || *number < 2,
                    _ => false,
                };
                // All of them are taken, whatever the first one says.
                let wrong = replies
                    .by_ref()
                    .take(commands)
                    .fold(None, |wrong, reply| wrong.or((!fine(&reply)).then_some(reply)));
                *answer = match wrong {
                    None => Some(Ok(())),
                    Some(Ok(Value::Int(_))) => Some(Err(overtaken(prefix))),
                    Some(Ok(_)) => Some(Err(senseless(prefix))),
                    Some(Err(error)) if error.kind() == ServerErrorKind::NoScript.into() => {
                        unknown = true;
                        None
                    }
                    Some(Err(error)) => Some(Err(refused(prefix, error))),
                };
            }
        }
        Ok(unknown)
    }

    fn try_apply(
        &self,
        ops: &[Op<K, V>],
        answers: &mut [Option<Result<(), BackendError>>],
    ) -> Result<(), RedisError> {
        let mut server = self.connections.writer()?;
        let run = match (&self.layout.version, self.run.get()) {
            (None, _) => 0,
            (Some(_), Some(run)) => *run,
            (Some(_), None) => {
                let counter = format!("writeback:runs:{}", self.layout.prefix);
                let run = server.ask(|connection| cmd("INCR").arg(counter).query(connection))?;
                *self.run.get_or_init(|| run)
            }
        };
        self.send(&mut server, ops, run, answers)
    }

    fn read_strings(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<V>>, BackendError> {
        let prefix = &self.layout.prefix;
        let cells: Vec<Option<Vec<u8>>> = self.ask(|connection| cmd("MGET").arg(keys).query(connection))?;
        if cells.len() != keys.len() {
            return Err(senseless(prefix));
        }
        let read =
            |cell: &Option<Vec<u8>>| cell.as_ref().map(|cell| self.read([Some(&cell[..])])).transpose();
        cells.iter().map(read).collect()
    }

    fn read_hashes(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<V>>, BackendError> {
        let prefix = &self.layout.prefix;
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            let mut get = cmd("HMGET");
            get.arg(key);
            if self.layout.marker {
                get.arg(MARKER);
            }
            get.arg(&self.layout.value);
            pipeline.add_command(get);
        }
        pipeline.ignore_errors();
        let rows: Vec<RedisResult<Vec<Option<Vec<u8>>>>> =
            self.ask(|connection| pipeline.query(connection))?;
        let rows =
            rows.into_iter().collect::<RedisResult<Vec<_>>>().map_err(|error| refused(prefix, error))?;
        if rows.len() != keys.len() {
            return Err(senseless(prefix));
        }
        let read = |cells: &Vec<Option<Vec<u8>>>| {
            if cells.iter().all(Option::is_none) {
                return Ok(None);
            }
            let cells = cells.iter().skip(usize::from(self.layout.marker));
            self.read(cells.map(Option::as_deref)).map(Some)
        };
        rows.iter().map(read).collect()
    }

    fn read<'a>(&self, cells: impl IntoIterator<Item = Option<&'a [u8]>>) -> Result<V, BackendError> {
        let found = Found::of(self.layout.columns, cells);
        V::read(&mut RowReader::new(&found, &self.layout.value))
            .map_err(|error| unfit(&self.layout.prefix, error))
    }

    fn ask<R>(&self, ask: impl FnOnce(&mut redis::Connection) -> RedisResult<R>) -> Result<R, BackendError> {
        let prefix = &self.layout.prefix;
        let mut server = self.connections.reader().map_err(|error| unavailable(prefix, error))?;
        server.ask(ask).map_err(|error| refused(prefix, error))
    }
}

/// Commands as the protocol has them.
struct Commands<'a>(&'a mut Vec<u8>);

impl Commands<'_> {
    /// A command of so many arguments, its name included.
    fn begin(&mut self, arguments: usize) {
        self.head(b'*', arguments);
    }

    fn argument(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
    }

    fn command(&mut self, arguments: &[&[u8]]) {
        self.begin(arguments.len());
        arguments.iter().for_each(|argument| self.argument(argument));
    }

    fn head(&mut self, kind: u8, number: usize) {
        self.0.push(kind);
        // Writing to a vector cannot fail.
        let _ = write!(self.0, "{number}\r\n");
    }
}

impl<K: SqlKey, V: SqlValue> Backend<K, V> for RedisMap<K, V> {
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys = keys.iter().map(|key| self.layout.key(key)).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|error| unfit(&self.layout.prefix, error))?;
        if self.layout.hash { self.read_hashes(&keys) } else { self.read_strings(&keys) }
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        if batch.is_empty() {
            return batch.all_stored();
        }
        let mut answers: Vec<_> = batch.ops().iter().map(|_| None).collect();
        let rest = match self.try_apply(batch.ops(), &mut answers) {
            Ok(()) => senseless(&self.layout.prefix),
            Err(error) => unavailable(&self.layout.prefix, error),
        };
        Answers::new(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(rest.clone()))).collect())
    }

    fn identity(&self) -> String {
        format!("redis://{}#{}", self.place, self.layout.prefix)
    }
}

/// A clone is for another cache: with a version guard it counts as one that was opened later.
impl<K, V> Clone for RedisMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            connections: self.connections.clone(),
            layout: self.layout.clone(),
            place: self.place.clone(),
            run: OnceLock::new(),
            entries: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for RedisMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisMap").field("place", &self.place).field("prefix", &self.layout.prefix).finish()
    }
}
