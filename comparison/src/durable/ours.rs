//! This engine with a journal, in front of SQLite.

use std::{collections::VecDeque, path::Path, time::Duration};

use writeback::{Ack, Cache, Handle, Ticket, backend::Sqlite};

use super::{Promise, Store};
use crate::{
    AnyError,
    door::{MAX_DELAY, Turns},
};

/// How a write is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It returns when the acknowledgement holds.
    Waiting(Ack),
    /// It returns at once with a ticket, and so many of them may be open.
    Tickets(Ack, usize),
}

pub(super) fn stores<const N: usize>(
    promise: Promise,
    capacity: usize,
    folder: &Path,
) -> Result<Vec<Box<dyn Store<N>>>, AnyError> {
    let ways = match promise {
        Promise::Crash => vec![Way::Waiting(Ack::Journal)],
        Promise::Power => vec![Way::Waiting(Ack::Synced), Way::Tickets(Ack::Synced, 64)],
    };
    ways.into_iter().map(|way| Ok(Box::new(Ours::new(way, capacity, folder)?) as Box<dyn Store<N>>)).collect()
}

struct Ours<const N: usize> {
    // Before the cache: its drop lets the cache write what is left.
    turns: Turns,
    way: Way,
    tickets: VecDeque<Ticket>,
    handle: Handle<u64, [u8; N]>,
}

impl<const N: usize> Ours<N> {
    fn new(way: Way, capacity: usize, folder: &Path) -> Result<Self, AnyError> {
        let name = match way {
            Way::Waiting(_) => "waiting",
            Way::Tickets(..) => "tickets",
        };
        let database = Sqlite::open(folder.join(name).with_extension("db"))?;
        let (turns, clock, backend) = Turns::new(database.table::<u64, [u8; N]>("entries")?);
        let cache = Cache::builder()
            .capacity(capacity)
            .max_delay(MAX_DELAY)
            .clock(clock)
            .backend(backend)
            .journal(folder.join(name).with_extension("journal"))
            .journal_size((120 + N as u64) * capacity as u64)
            .open::<u64, [u8; N]>()?;
        Ok(Ours { turns, way, tickets: VecDeque::new(), handle: cache.handle()? })
    }
}

impl<const N: usize> Store<N> for Ours<N> {
    fn name(&self) -> String {
        match self.way {
            Way::Waiting(ack) => format!("writeback, Ack::{ack:?}"),
            Way::Tickets(ack, count) => format!("writeback, Ack::{ack:?}, {count} tickets"),
        }
    }

    fn put(&mut self, key: u64, value: [u8; N]) -> Result<(), AnyError> {
        match self.way {
            Way::Waiting(ack) => {
                self.handle.put_acked(key, value, ack)?;
            }
            Way::Tickets(ack, count) => {
                if self.tickets.len() == count
                    && let Some(oldest) = self.tickets.pop_front()
                {
                    oldest.wait()?;
                }
                self.tickets.push_back(self.handle.put_ticket(key, value, ack)?);
            }
        }
        Ok(())
    }

    fn enter(&self, slice: Duration) {
        self.turns.enter(slice);
    }

    fn leave(&self) {
        self.turns.leave();
    }

    fn account(&mut self) -> Result<Option<String>, AnyError> {
        let before = self.handle.cache().stats();
        let closed = self.handle.cache().close(Duration::from_secs(120));
        let journal = before.journal.as_ref();
        Ok(Some(format!(
            "{}: {} writes, {} rows written to SQLite before the end of the run and {} entries still dirty then, {} syncs of the \
             journal, {} MiB of it; after `close` {}",
            Store::name(self),
            before.puts,
            before.backend_writes,
            before.dirty,
            journal.map_or(0, |journal| journal.syncs),
            journal.map_or(0, |journal| journal.bytes) >> 20,
            if closed.is_drained() { "all is in SQLite" } else { "not all is in SQLite" },
        )))
    }
}
