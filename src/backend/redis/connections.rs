//! The connections to one server: some that write, some that read.
//!
//! # Connections that were given up
//!
//! When a connection is lost, or the server does not answer in time, the server may yet carry out what it was sent, after
//! something newer came over the next connection. So connections that wrote are remembered, and nothing is written before the
//! server has ended them (`CLIENT KILL`): what it has not carried out by then, it never will.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{Client, Connection, ConnectionLike, RedisError, RedisResult, Value, cmd};

use crate::backend::pool::{Permit, Pool};

/// How many bytes of commands are sent at a time.
const AT_ONCE: usize = 16 << 10;

/// How connections are set up.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) connect_timeout: Duration,
    /// Zero: none.
    pub(super) answer_timeout: Duration,
    pub(super) readers: usize,
    pub(super) writers: usize,
}

/// The connections to one server.
pub(super) struct Connections {
    client: Client,
    settings: Settings,
    readers: Pool<Link>,
    writers: Pool<Link>,
    /// Connections that wrote and were given up. Invariant: nothing is written while one of them may be alive.
    lost: Mutex<Vec<Identity>>,
}

/// Which connection of the server it is: numbers begin anew with each start of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    number: i64,
    server: String,
}

struct Link {
    connection: Connection,
    identity: Identity,
}

impl Connections {
    pub(super) fn new(client: Client, settings: Settings) -> Self {
        let (readers, writers) = (Pool::of(settings.readers), Pool::of(settings.writers));
        Self { client, settings, readers, writers, lost: Mutex::default() }
    }

    /// A connection to write with, while none that was given up can still write. Waits while all are in use.
    pub(super) fn writer(&self) -> RedisResult<Lease<'_>> {
        let mut lease = self.lease(&self.writers, true)?;
        let lost = self.lost().clone();
        if !lost.is_empty() {
            lease.end_connections(&lost)?;
            self.lost().retain(|link| !lost.contains(link));
        }
        Ok(lease)
    }

    /// A connection to read with. Waits while all are in use, never for one that writes.
    pub(super) fn reader(&self) -> RedisResult<Lease<'_>> {
        self.lease(&self.readers, false)
    }

    /// Whether the user may end connections.
    pub(super) fn may_end_connections(&self) -> RedisResult<()> {
        let none = i64::MAX;
        self.writer()?.ask(|connection| {
            cmd("CLIENT").arg("KILL").arg("ID").arg(none).query::<i64>(connection).map(drop)
        })
    }

    fn lease<'a>(&'a self, pool: &'a Pool<Link>, writes: bool) -> RedisResult<Lease<'a>> {
        let permit = pool.permit();
        let link = std::iter::from_fn(|| pool.take()).find(|link| link.connection.is_open());
        let link = match link {
            Some(link) => link,
            None => self.connect()?,
        };
        Ok(Lease { connections: self, link: Some(link), writes, sound: true, _permit: permit })
    }

    fn connect(&self) -> RedisResult<Link> {
        let Settings { connect_timeout, answer_timeout, .. } = self.settings;
        // The library does not take zero for a time.
        let mut connection =
            self.client.get_connection_with_timeout(connect_timeout.max(Duration::from_millis(1)))?;
        let answer_timeout = Some(answer_timeout).filter(|timeout| !timeout.is_zero());
        connection.set_read_timeout(answer_timeout)?;
        connection.set_write_timeout(answer_timeout)?;
        let (number, about): (i64, String) =
            redis::pipe().cmd("CLIENT").arg("ID").cmd("INFO").arg("server").query(&mut connection)?;
        let server =
            about.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or("").trim().to_owned();
        Ok(Link { connection, identity: Identity { number, server } })
    }

    fn lost(&self) -> MutexGuard<'_, Vec<Identity>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use, given back on drop if it is still good for anything.
pub(super) struct Lease<'a> {
    connections: &'a Connections,
    /// Taken on drop.
    link: Option<Link>,
    writes: bool,
    /// Whether all that was asked is answered.
    sound: bool,
    _permit: Permit<'a, Link>,
}

impl Lease<'_> {
    /// Asks the server something. After an error of the connection, or a panic, it is given up, for an answer may yet come.
    pub(super) fn ask<R>(&mut self, ask: impl FnOnce(&mut Connection) -> RedisResult<R>) -> RedisResult<R> {
        let Some(link) = self.link.as_mut().filter(|_| self.sound) else {
            return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::NotConnected)));
        };
        self.sound = false;
        let answer = ask(&mut link.connection);
        self.sound =
            link.connection.is_open() && answer.as_ref().err().is_none_or(|error| error.code().is_some());
        answer
    }

    /// Sends what `next` adds to a buffer, for as long as it says how many commands that is, and takes as many answers: one that
    /// is an error is no error of the connection. The server works on the first commands while the last ones are made.
    pub(super) fn send(
        &mut self,
        mut next: impl FnMut(&mut Vec<u8>) -> Option<usize>,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        self.ask(|connection| {
            let (mut buffer, mut count) = (Vec::with_capacity(2 * AT_ONCE), 0);
            loop {
                let new = next(&mut buffer);
                count += new.unwrap_or(0);
                if buffer.len() >= AT_ONCE || (new.is_none() && !buffer.is_empty()) {
                    connection.send_packed_command(&buffer)?;
                    buffer.clear();
                }
                if new.is_none() {
                    break;
                }
            }
            let mut replies = Vec::with_capacity(count);
            for _ in 0..count {
                replies.push(match connection.recv_response() {
                    Ok(Value::ServerError(error)) => Err(error.into()),
                    Err(error) if error.code().is_none() => return Err(error),
                    reply => reply,
                });
            }
            Ok(replies)
        })
    }

    fn end_connections(&mut self, lost: &[Identity]) -> RedisResult<()> {
        let server = self.link.as_ref().map(|link| link.identity.server.clone());
        // Those of a server that was started anew are gone with it.
        let numbers =
            lost.iter().filter(|link| Some(&link.server) == server.as_ref()).map(|link| link.number);
        let numbers: Vec<i64> = numbers.collect();
        if numbers.is_empty() {
            return Ok(());
        }
        self.ask(|connection| {
            let mut kill = redis::pipe();
            for number in numbers {
                kill.cmd("CLIENT").arg("KILL").arg("ID").arg(number);
            }
            kill.query::<Vec<Value>>(connection).map(drop)
        })
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        if self.sound {
            let pool = if self.writes { &self.connections.writers } else { &self.connections.readers };
            pool.put(link);
        } else if self.writes {
            self.connections.lost().push(link.identity);
        }
    }
}
