//! The databases that are made to suffer, and what can befall each of them.

mod postgres;
mod redis;
mod sqlite;

use std::{error::Error, fmt, path::Path, process::Command, time::Duration};

use writeback::BackendError;

use super::{gate::Table, model::Rows, random::Random};

pub(crate) use self::{
    postgres::Server as PostgresServer, redis::Server as RedisServer, sqlite::File as SqliteFile,
};

pub(crate) type Trouble = Box<dyn Error + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfortune {
    /// The server is killed, and started again. SQLite: closed, and opened again after a while.
    Restart,
    /// Nobody gets through to it for a while, and who was connected is cut off.
    Outage,
    /// It ends the connections.
    Kick,
    /// Nothing comes through in either direction for a while, and then all of it.
    Hang,
    /// Somebody else locks it, or pauses it.
    Stall,
    /// Somebody else locks rows in another order.
    Deadlock,
    /// Connections are reset in the middle of a message.
    Reset,
}

impl Misfortune {
    pub(crate) const ALL: [Misfortune; 7] = [
        Misfortune::Restart,
        Misfortune::Outage,
        Misfortune::Kick,
        Misfortune::Hang,
        Misfortune::Stall,
        Misfortune::Deadlock,
        Misfortune::Reset,
    ];
}

impl fmt::Display for Misfortune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Misfortune::Restart => "killed and started again",
            Misfortune::Outage => "out of reach",
            Misfortune::Kick => "connections ended by the server",
            Misfortune::Hang => "hung",
            Misfortune::Stall => "locked or paused by somebody else",
            Misfortune::Deadlock => "deadlocks with somebody else's transaction",
            Misfortune::Reset => "connections reset in the middle of a message",
        })
    }
}

/// A database.
pub(crate) trait Subject: Send + Sync {
    fn name(&self) -> &'static str;

    /// As the cache uses it: by a way on which things can go wrong.
    fn table(&self) -> Result<Box<Table>, Trouble>;

    fn misfortunes(&self) -> Vec<Misfortune>;

    /// Lets it happen, and returns when it is over: how many were hit.
    fn strike(&self, what: Misfortune, random: &mut Random, longest: Duration) -> Result<u64, Trouble>;

    /// Whether an error says that a transaction was ended because of a deadlock.
    fn is_deadlock(&self) -> fn(&BackendError) -> bool {
        |_| false
    }

    /// How many transactions of somebody else were, so far.
    fn rivals_ended(&self) -> u64 {
        0
    }

    /// What is stored, by a way of one's own.
    fn rows(&self) -> Result<Rows, Trouble>;
}

/// The shortest that anything takes.
const SHORTEST: Duration = Duration::from_millis(50);

/// Whether the servers are ours to kill: those that `.ci/servers` has started.
fn can_restart() -> bool {
    std::env::var_os("WRITEBACK_SERVERS").is_some()
}

/// Kills a server that `.ci/servers` has started, and starts it again.
fn restart(server: &str) -> Result<u64, Trouble> {
    let folder = std::env::var("WRITEBACK_SERVERS")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/servers");
    let done = Command::new(script).args(["restart", &folder, server]).output()?;
    if done.status.success() { Ok(1) } else { Err(String::from_utf8_lossy(&done.stderr).into()) }
}

/// Another run of this process has another name for what it stores.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("chaos_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
