//! What can go wrong, and which errors are worth another try.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::backend::{BackendError, CellError, ErrorClass};

/// Why a server or a place in it cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisOpenError {
    /// The address of the server makes no sense.
    #[error(
        "the address of the server makes no sense: {reason}; write redis://user:password@host:port/database"
    )]
    Address {
        /// What is wrong with it.
        reason: String,
    },

    /// The server cannot be reached, or does not let this process in.
    #[error(
        "cannot connect to Redis at {place}: {source}; check that the server runs, and the user, the password and the \
         number of the database"
    )]
    CannotConnect {
        /// Host, port and number of the database.
        place: String,
        /// What the server or the network says.
        source: RedisError,
    },

    /// The user may not end connections, without which a connection that was lost could write something older over something
    /// newer.
    #[error("the user of Redis at {place} may not use CLIENT KILL ({source}): grant it with ACL SETUSER")]
    CannotEndConnections {
        /// Host, port and number of the database.
        place: String,
        /// What the server says.
        source: RedisError,
    },

    /// Key and value make no hash, or no string, together.
    #[error("the fields below `{prefix}` make no sense: {reason}")]
    Fields {
        /// What every key begins with.
        prefix: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// Why an entry could not be stored or read: the source of the [`BackendError`]s of this backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisBackendError {
    /// Redis refused, or the connection to it was lost.
    #[error("keys `{prefix}*`: {source}{}", advice(source))]
    Redis {
        /// What every key begins with.
        prefix: String,
        /// What Redis says.
        source: RedisError,
    },

    /// Redis answered what no such command answers.
    #[error("keys `{prefix}*`: an answer that makes no sense; is the server really Redis?")]
    Answer {
        /// What every key begins with.
        prefix: String,
    },

    /// A key or a value cannot be stored, or what is stored is none.
    #[error("keys `{prefix}*`: {source}")]
    Cell {
        /// What every key begins with.
        prefix: String,
        /// What does not fit, and in which field.
        source: CellError,
    },

    /// The version guard found an entry that was written by a cache which was opened later than this one.
    #[error(
        "keys `{prefix}*`: the entry was written by a cache that was opened later than this one; only one cache may \
         write it at a time"
    )]
    Overtaken {
        /// What every key begins with.
        prefix: String,
    },
}

/// Everything is worth another try but what the entry itself is to blame for.
fn class(error: &RedisError) -> ErrorClass {
    match error.kind() {
        // A script that fails, a string that is too long. Other servers say so when they are full.
        ErrorKind::Server(ServerErrorKind::ResponseError) => ErrorClass::Permanent,
        ErrorKind::Extension if error.code() == Some("WRONGTYPE") => ErrorClass::Permanent,
        _ => ErrorClass::Transient,
    }
}

/// The error of one command.
pub(super) fn refused(prefix: &str, source: RedisError) -> BackendError {
    BackendError::new(class(&source), RedisBackendError::Redis { prefix: prefix.to_owned(), source })
}

/// The error of something that no entry can be blamed for.
pub(super) fn unavailable(prefix: &str, source: RedisError) -> BackendError {
    BackendError::transient(RedisBackendError::Redis { prefix: prefix.to_owned(), source })
}

/// The error of an answer that is none.
pub(super) fn senseless(prefix: &str) -> BackendError {
    BackendError::transient(RedisBackendError::Answer { prefix: prefix.to_owned() })
}

/// The error of a key or a value that cannot be stored or read.
pub(super) fn unfit(prefix: &str, source: CellError) -> BackendError {
    BackendError::permanent(RedisBackendError::Cell { prefix: prefix.to_owned(), source })
}

/// The error of an entry that a later cache has written.
pub(super) fn overtaken(prefix: &str) -> BackendError {
    BackendError::conflict(RedisBackendError::Overtaken { prefix: prefix.to_owned() })
}

fn advice(error: &RedisError) -> &'static str {
    match error.code() {
        Some("OOM") => "; raise maxmemory of the server",
        Some("WRONGTYPE") => "; the key holds something else: use another prefix",
        Some("READONLY") => "; connect to the primary server",
        Some("MOVED" | "ASK" | "CROSSSLOT") => "; clusters are not supported",
        Some("NOPERM" | "NOAUTH") => "; grant the right to the user",
        None if error.is_io_error() => "; check the server and the network to it",
        _ => "",
    }
}
