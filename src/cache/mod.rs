//! The public face: a cache, how it is built, and handles for hot threads.

mod builder;
mod engine;
mod flights;
mod flushing;
mod handle;
mod journaled;
mod letters;
mod load;
mod observe;
mod opening;
mod options;
mod pressure;
mod ticket;
mod write;

use std::{
    borrow::Borrow,
    fmt,
    hash::{BuildHasher, Hash},
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{Error, HandleError, Stats, Version, backend::BackendError, context::Context};

pub use builder::{Builder, ByWeight, Weigh};
pub use handle::Handle;
pub use journaled::{Journaled, WithJournal};
pub use letters::{DeadLetter, DeadLetterId, Retried};
pub use opening::Recovery;
pub use options::{OnFull, WriteOptions};
pub use ticket::Ticket;

use engine::Engine;

/// The hash function that a cache uses unless it is given another one: fast, and seeded at random for each cache.
pub(crate) type DefaultHasher = foldhash::fast::RandomState;

/// When a write counts as done.
///
/// This is the whole trade between write-back and write-through, made anew with every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Ack {
    /// It is in the cache. Fastest; lost if the process dies before the flusher has written it. In a cache with a journal
    /// every write is in the journal, so there this is the same as [`Ack::Journal`].
    #[default]
    Memory,
    /// It is in the journal, and survives a crash of the process at any point. Needs a journal.
    Journal,
    /// It is in the journal on stable storage, and survives a loss of power. Needs a journal. Waits for one `fdatasync`,
    /// which all writes that wait at the same time share.
    Synced,
    /// It is in the backend: write-through. Waits for a flush; many such writes at once share one batch.
    Backend,
}

/// How [`Cache::close`] ended.
#[derive(Debug, Clone)]
#[must_use = "`Remaining` means that not everything is in the backend"]
#[non_exhaustive]
pub enum Closed {
    /// Everything that was acknowledged is in the backend, or in a durable [dead letter](Cache::dead_letters), which
    /// [`Stats::dead_letters`] counts.
    Drained,
    /// Not everything could be written in time. The rest is still in memory, and the flusher goes on trying until the
    /// cache is dropped; `close` may be called again to wait longer.
    Remaining {
        /// How many entries are not in the backend.
        dirty: usize,
        /// The backend's last error, if its last answer was one.
        cause: Option<BackendError>,
        /// The journal that keeps them, if there is one: a cache that is opened with it goes on with them.
        journal: Option<PathBuf>,
    },
}

impl Closed {
    /// Whether everything is in the backend.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        matches!(self, Closed::Drained)
    }
}

/// What [`Cache::invalidate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a dirty entry is not invalidated"]
#[non_exhaustive]
pub enum Invalidated {
    /// The entry (or the load that was about to bring it) is gone from the cache.
    Removed,
    /// There was nothing to remove.
    Absent,
    /// The entry has not been written to the backend yet, so it stays. Call [`Cache::flush`] first.
    Dirty,
}

/// A lock-free write-back cache in front of a [`Backend`](crate::Backend).
///
/// A write is acknowledged from memory, its entry is marked dirty, and a background thread writes it to the backend
/// later, coalesced with other writes of the same key and batched with other keys. A read is answered from memory, or
/// loads the value once for everyone who waits for it.
///
/// Cloning a `Cache` makes another reference to the same one. Dropping the last reference closes it, see
/// [`Cache::close`].
///
/// # Blocking
///
/// Reads of cached keys never block. A read of a missing key blocks for the backend's `load`. A write of a key that
/// is in the cache never blocks, unless [`max_dirty`](Builder::max_dirty) or [`max_dirty_bytes`](Builder::max_dirty_bytes) limit what may be
/// dirty and it would make more dirty. A write of a new key blocks only there, or if the cache is full of entries that the backend has
/// not taken; at most for [`Builder::write_timeout`], or not at all: [`OnFull`]. No operation holds a lock while the backend is called.
///
/// # Panics
///
/// No method panics by itself. A panic in `Hash`, `Eq`, `Clone` or `Drop` of a key or value, or in a closure, reaches
/// the caller and leaves the cache usable.
pub struct Cache<K, V, S = DefaultHasher> {
    engine: Arc<Engine<K, V, S>>,
}

impl Cache<(), ()> {
    /// Begins to build a cache. Types of keys and values are given to [`Builder::open`].
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use writeback::{Cache, backend::Memory};
    ///
    /// let cache = Cache::builder()
    ///     .capacity(10_000)
    ///     .max_delay(Duration::from_millis(100))
    ///     .backend(Memory::new())
    ///     .open::<String, u64>()?;
    /// cache.put("apples".to_owned(), 3)?;
    /// assert_eq!(cache.get("apples")?, Some(3));
    /// assert!(cache.close(Duration::from_secs(5)).is_drained());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    pub(crate) fn from_engine(engine: Arc<Engine<K, V, S>>) -> Self {
        Cache { engine }
    }

    fn run<R>(&self, operation: impl FnOnce(&Engine<K, V, S>, &Context) -> R) -> R {
        let context = self.engine.current_context();
        operation(&self.engine, &context)
    }

    /// The value of a key: from the cache, or loaded from the backend and then cached.
    ///
    /// While a key is being loaded, everyone else who asks for it waits for that one load. A write of the key in the
    /// meantime wins over what the load brings. That there is no row is not remembered, unless
    /// [`Builder::cache_absent`] asks for it.
    ///
    /// A hit takes no lock, makes no system call, and costs about one cache line of the table and one of the entry.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] if the backend could not answer, [`Error::Closed`] after `close`.
    pub fn get<Q>(&self, key: &Q) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.run(|engine, context| engine.get(context, key))
    }

    /// Like [`get`](Cache::get), but hands a reference to `look` instead of cloning the value.
    ///
    /// `look` keeps memory from being used again while it runs: keep it short, and do not block in it. Calling the
    /// cache from inside is allowed; a call that would have to wait answers [`Error::Reentrant`].
    ///
    /// # Errors
    ///
    /// As for [`get`](Cache::get).
    pub fn read<Q, R>(&self, key: &Q, look: impl FnOnce(&V) -> R) -> Result<Option<R>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.run(|engine, context| engine.read(context, key, look))
    }

    /// The value of a key if it is in the cache. Never asks the backend, and does not count as a use.
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.run(|engine, context| engine.peek(context, key))
    }

    /// Whether the cache holds a value for the key. Never asks the backend.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.run(|engine, context| engine.contains(context, key))
    }

    /// Whether the key has a write, or a remove, that is not in the backend yet.
    pub fn is_dirty<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.run(|engine, context| engine.is_dirty(context, key))
    }

    /// Stores a value, acknowledged as the builder's [`ack`](Builder::ack) says.
    ///
    /// # Errors
    ///
    /// [`Error::Backpressure`] if the cache was full of entries that the backend did not take in time,
    /// [`Error::TooHeavy`] if the entry alone is over the weight limit, [`Error::Closed`] after `close`; with a journal also
    /// [`Error::JournalFull`], [`Error::RecordTooLarge`] and [`Error::Codec`]; in all these nothing was written. With
    /// `Ack::Backend` also [`Error::NotFlushed`], with `Ack::Synced` [`Error::NotSynced`], and then the write *is* in the
    /// cache.
    pub fn put(&self, key: K, value: V) -> Result<Version, Error> {
        self.run(|engine, context| engine.put(context, key, value, &WriteOptions::new()))
    }

    /// Stores a value, and returns when `ack` holds for it.
    ///
    /// # Errors
    ///
    /// As for [`put`](Cache::put), and [`Error::NoJournal`] if `ack` needs a journal and there is none.
    pub fn put_acked(&self, key: K, value: V, ack: Ack) -> Result<Version, Error> {
        self.run(|engine, context| engine.put(context, key, value, &ack.into()))
    }

    /// Stores a value with options of its own: an [`Ack`], an [`OnFull`], or several things in [`WriteOptions`].
    ///
    /// ```
    /// # use writeback::{Cache, Error, OnFull, backend::Memory};
    /// # let cache = Cache::builder().capacity(100).max_dirty(50).backend(Memory::new()).open::<u64, u64>()?;
    /// match cache.put_with(1, 10, OnFull::Error) {
    ///     Ok(_) => {}
    ///     Err(Error::Backpressure { .. }) => { /* tell the client to come back later */ }
    ///     Err(other) => return Err(other.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`put_acked`](Cache::put_acked).
    pub fn put_with(&self, key: K, value: V, options: impl Into<WriteOptions>) -> Result<Version, Error> {
        let options = options.into();
        self.run(|engine, context| engine.put(context, key, value, &options))
    }

    /// Stores a value, and returns at once with a ticket that is redeemed when the acknowledgement that is asked for holds: one thread can keep thousands of
    /// durable writes in the air, and they share their syncs and batches.
    ///
    /// ```
    /// # use writeback::{Ack, Cache, backend::Memory};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("orders.journal");
    /// # let orders = Cache::builder().capacity(100).journal(path).backend(Memory::new()).open::<u64, u64>()?;
    /// let tickets = (0..50).map(|id| orders.put_ticket(id, 1, Ack::Synced)).collect::<Result<Vec<_>, _>>()?;
    /// for ticket in tickets {
    ///     ticket.wait()?; // the first waits for a sync, the others find it done
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`put_acked`](Cache::put_acked), but for what is only known later: that is the ticket's answer.
    pub fn put_ticket(&self, key: K, value: V, options: impl Into<WriteOptions>) -> Result<Ticket, Error> {
        let options = options.into();
        self.run(|engine, context| engine.put_ticket(context, key, value, &options))
    }

    /// Replaces the value of a key by what `change` makes of it, atomically. Loads a missing key first; `None` means
    /// that the backend has no row either.
    ///
    /// `change` runs outside of everything and may run several times if others write the same key: it should have no
    /// side effects.
    ///
    /// # Errors
    ///
    /// As for [`put`](Cache::put), and [`Error::Load`].
    pub fn update(&self, key: K, mut change: impl FnMut(Option<&V>) -> V) -> Result<Version, Error> {
        // `Some` on every path, so the version is there; written this way because it must not be able to panic.
        let mut version = Version(0);
        if let Some(written) = self.update_if(key, |old| Some(change(old)))? {
            version = written;
        }
        Ok(version)
    }

    /// As [`update`](Cache::update), and returns when `ack` holds.
    ///
    /// # Errors
    ///
    /// As there, and [`Error::NoJournal`] if `ack` needs a journal and there is none.
    pub fn update_acked(
        &self,
        key: K,
        mut change: impl FnMut(Option<&V>) -> V,
        ack: Ack,
    ) -> Result<Version, Error> {
        let written =
            self.run(|engine, context| engine.update_if(context, key, |old| Some(change(old)), &ack.into()))?;
        Ok(written.unwrap_or(Version(0)))
    }

    /// As [`update`](Cache::update), with options of its own; see [`put_with`](Cache::put_with).
    ///
    /// # Errors
    ///
    /// As for [`update_acked`](Cache::update_acked).
    pub fn update_with(
        &self,
        key: K,
        mut change: impl FnMut(Option<&V>) -> V,
        options: impl Into<WriteOptions>,
    ) -> Result<Version, Error> {
        let options = options.into();
        let written =
            self.run(|engine, context| engine.update_if(context, key, |old| Some(change(old)), &options))?;
        Ok(written.unwrap_or(Version(0)))
    }

    /// Like [`update`](Cache::update), but leaves the entry as it is if `change` returns `None`: compare-and-swap, and
    /// every other condition.
    ///
    /// ```
    /// # use writeback::{Cache, backend::Memory};
    /// let stock = Cache::builder().capacity(100).backend(Memory::new()).open::<&str, u32>()?;
    /// stock.put("apples", 1)?;
    /// let take_one = |left: Option<&u32>| left?.checked_sub(1);
    /// assert!(stock.update_if("apples", take_one)?.is_some());
    /// assert!(stock.update_if("apples", take_one)?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`update`](Cache::update).
    pub fn update_if(
        &self,
        key: K,
        change: impl FnMut(Option<&V>) -> Option<V>,
    ) -> Result<Option<Version>, Error> {
        self.run(|engine, context| engine.update_if(context, key, change, &WriteOptions::new()))
    }

    /// The value of a key, or, if neither cache nor backend has one, the value of `make`, which is then stored.
    ///
    /// `make` is called at most once.
    ///
    /// # Errors
    ///
    /// As for [`update`](Cache::update).
    pub fn get_or_put_with(&self, key: K, make: impl FnOnce() -> V) -> Result<V, Error> {
        self.run(|engine, context| engine.get_or_put_with(context, key, make))
    }

    /// Removes a key, from the cache at once and from the backend with the next flush; until then a tombstone keeps
    /// reads from finding the old row.
    ///
    /// # Errors
    ///
    /// As for [`put`](Cache::put): a remove is a write.
    pub fn remove<Q>(&self, key: &Q) -> Result<Version, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.run(|engine, context| engine.remove(context, key.to_owned(), &WriteOptions::new()))
    }

    /// As [`remove`](Cache::remove), and returns when `ack` holds.
    ///
    /// # Errors
    ///
    /// As for [`put_acked`](Cache::put_acked).
    pub fn remove_acked<Q>(&self, key: &Q, ack: Ack) -> Result<Version, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.run(|engine, context| engine.remove(context, key.to_owned(), &ack.into()))
    }

    /// As [`remove`](Cache::remove), with options of its own; see [`put_with`](Cache::put_with).
    ///
    /// # Errors
    ///
    /// As for [`put_acked`](Cache::put_acked).
    pub fn remove_with<Q>(&self, key: &Q, options: impl Into<WriteOptions>) -> Result<Version, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let options = options.into();
        self.run(|engine, context| engine.remove(context, key.to_owned(), &options))
    }

    /// The values of several keys, in their order. Those that are missing are loaded with one call of the backend.
    ///
    /// # Errors
    ///
    /// As for [`get`](Cache::get); the first error is returned.
    pub fn get_many(&self, keys: &[K]) -> Result<Vec<Option<V>>, Error> {
        self.run(|engine, context| engine.get_many(context, keys))
    }

    /// Stores several values, in their order, and returns how many.
    ///
    /// # Errors
    ///
    /// As for [`put`](Cache::put); what came before the failing one is stored.
    pub fn put_many(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<usize, Error> {
        self.run(|engine, context| engine.put_many(context, entries, &WriteOptions::new()))
    }

    /// As [`put_many`](Cache::put_many), and returns when `ack` holds for all of them: they share one sync, or the
    /// backend's batches.
    ///
    /// # Errors
    ///
    /// As for [`put_acked`](Cache::put_acked); what came before the failing one is stored.
    pub fn put_many_acked(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
        ack: Ack,
    ) -> Result<usize, Error> {
        self.run(|engine, context| engine.put_many(context, entries, &ack.into()))
    }

    /// As [`put_many`](Cache::put_many), with options for each of them; see [`put_with`](Cache::put_with).
    ///
    /// # Errors
    ///
    /// As for [`put_acked`](Cache::put_acked); what came before the failing one is stored.
    pub fn put_many_with(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
        options: impl Into<WriteOptions>,
    ) -> Result<usize, Error> {
        let options = options.into();
        self.run(|engine, context| engine.put_many(context, entries, &options))
    }

    /// What was in the journal when the cache was opened; `None` without a journal.
    #[must_use]
    pub fn recovery(&self) -> Option<&Recovery> {
        self.engine.recovery()
    }

    /// Waits until everything that was acknowledged before is in the journal on stable storage: what
    /// [`Ack::Synced`] does for one write.
    ///
    /// # Errors
    ///
    /// [`Error::NoJournal`] without a journal, [`Error::NotSynced`] if the disk does not take it in time, [`Error::Closed`]
    /// after `close`.
    pub fn sync(&self) -> Result<(), Error> {
        self.run(|engine, context| engine.sync(context))
    }

    /// Waits until everything that was acknowledged before is in the backend, or is a [dead letter](Cache::dead_letters) that an
    /// earlier flush has told of. Entries that are dirty because the backend has refused them are tried again at once.
    ///
    /// # Errors
    ///
    /// [`Error::NotFlushed`] if the backend refused some of it, now or since the last flush; those entries stay dirty and are
    /// tried again in the background, or are dead letters. [`Error::Closed`] after `close`, [`Error::Reentrant`] from inside `read`.
    pub fn flush(&self) -> Result<(), Error> {
        self.run(|engine, context| engine.flush(context))
    }

    /// As [`flush`](Cache::flush), but waits at most for `time`. What it has asked for goes on in the background after that.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use writeback::{Cache, Error, backend::Memory};
    /// # let cache = Cache::builder().capacity(100).backend(Memory::new()).open::<u64, u64>()?;
    /// # cache.put(1, 10)?;
    /// match cache.flush_within(Duration::from_secs(5)) {
    ///     Ok(()) => {}
    ///     Err(Error::FlushTimedOut { remaining, .. }) => eprintln!("{remaining} are still to be written"),
    ///     Err(other) => return Err(other.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`flush`](Cache::flush), and [`Error::FlushTimedOut`] with how much remains.
    pub fn flush_within(&self, time: Duration) -> Result<(), Error> {
        self.run(|engine, context| engine.flush_within(context, time))
    }

    /// Waits until the newest version of a key, as of now, is in the backend: a write or a remove. Returns at once if it is. Other
    /// keys are not waited for; a version that the backend has refused earlier is tried again at once. How long it blocks is
    /// up to the backend.
    ///
    /// ```
    /// # use writeback::{Cache, backend::Memory};
    /// let rows = std::sync::Arc::new(Memory::new());
    /// let cache = Cache::builder().capacity(100).backend(rows.clone()).open::<&str, u32>()?;
    /// cache.put("order", 1)?;
    /// cache.flush_key("order")?;
    /// assert_eq!(rows.get(&"order"), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFlushed`] if the backend refuses it; it stays dirty and is tried again in the background.
    /// [`Error::Closed`] after `close`, [`Error::Reentrant`] from inside `read`.
    pub fn flush_key<Q>(&self, key: &Q) -> Result<(), Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.run(|engine, context| engine.flush_key(context, key))
    }

    /// Waits until those dirty entries are in the backend that `wanted` says yes to, as they are now, and returns how many those
    /// are. No value: the key was removed.
    ///
    /// Looks at the whole table once. `wanted` runs on this thread, on copies, and holds nothing up: it may call the cache and take its
    /// time. An entry that becomes dirty meanwhile may be missed. However many there are, other keys are still written in
    /// time.
    ///
    /// ```
    /// # use writeback::{Cache, backend::Memory};
    /// # let cache = Cache::builder().capacity(100).backend(Memory::new()).open::<u64, u64>()?;
    /// (0..10).try_for_each(|key| cache.put(key, key).map(drop))?;
    /// assert_eq!(cache.flush_if(|key, _| *key < 4)?, 4);
    /// assert_eq!(cache.stats().dirty, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`flush`](Cache::flush), about the chosen entries.
    pub fn flush_if(&self, wanted: impl FnMut(&K, Option<&V>) -> bool) -> Result<usize, Error> {
        self.run(|engine, context| engine.flush_if(context, wanted))
    }

    /// Waits until a ticket's version, or a newer one of its key, is in the backend, whatever acknowledgement the ticket was made for;
    /// the ticket can still be waited for. Does not wait for other keys.
    ///
    /// ```
    /// # use writeback::{Ack, Cache, backend::Memory};
    /// # let cache = Cache::builder().capacity(100).backend(Memory::new()).open::<u64, u64>()?;
    /// let ticket = cache.put_ticket(1, 10, Ack::Memory)?;
    /// cache.wait_flushed(&ticket)?;
    /// assert!(!cache.is_dirty(&1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`flush_key`](Cache::flush_key); also if the version was stored long ago, and a newer one is refused now.
    /// [`Error::ForeignTicket`] if another cache made the ticket.
    pub fn wait_flushed(&self, ticket: &Ticket) -> Result<Version, Error> {
        self.run(|engine, context| engine.wait_flushed(context, ticket))
    }

    /// Takes a clean entry out of the cache, so that the next read loads it again: for rows that somebody else has
    /// changed. A load of the key that is under way is not cached. Never drops a write that is not in the backend.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after `close`; [`Error::Backpressure`] if a stalled writer kept the entry from being forgotten.
    pub fn invalidate<Q>(&self, key: &Q) -> Result<Invalidated, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.run(|engine, context| engine.invalidate(context, key))
    }

    /// Refuses all further operations, writes everything that is dirty, and waits for that at most for `timeout`.
    ///
    /// Calling it again waits again. Dropping the last reference to a cache that was not closed does the same, for as
    /// long as [`Builder::drain_on_drop`] says, and complains on standard error if something is left.
    pub fn close(&self, timeout: Duration) -> Closed {
        self.engine.close(timeout)
    }

    /// Leases a lane to this thread: the fastest path for a thread that uses the cache a lot.
    ///
    /// # Errors
    ///
    /// [`HandleError::NoLane`] if all are leased; the cache itself then still works from every thread.
    pub fn handle(&self) -> Result<Handle<K, V, S>, HandleError> {
        self.engine.lease(None).map(|context| Handle::new(self.clone(), context))
    }

    /// Pins this thread to a core, and leases that core's lane to it: for services with one thread for each core. The
    /// thread stays pinned when the handle is dropped.
    ///
    /// # Errors
    ///
    /// [`HandleError::NoSuchCore`], [`HandleError::Leased`] if another thread has that lane, [`HandleError::NotPinned`]
    /// if the system refuses.
    pub fn handle_on(&self, core: usize) -> Result<Handle<K, V, S>, HandleError> {
        self.engine.lease(Some(core)).map(|context| Handle::new(self.clone(), context))
    }

    /// How many entries the cache holds, tombstones and running loads included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.engine.len()
    }

    /// Whether the cache holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most entries that the cache holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.engine.capacity()
    }

    /// What it is called: see [`Builder::name`].
    #[must_use]
    pub fn name(&self) -> &str {
        self.engine.name()
    }

    /// What the cache has done so far, and what it holds. Costs a few microseconds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }
}

impl<K, V, S> Clone for Cache<K, V, S> {
    fn clone(&self) -> Self {
        Cache { engine: Arc::clone(&self.engine) }
    }
}

impl<K, V, S> Cache<K, V, S> {
    /// A reference that does not keep the cache open: for a [listener](Builder::listener), or whoever else the cache itself
    /// keeps alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakCache<K, V, S> {
        WeakCache { engine: Arc::downgrade(&self.engine) }
    }
}

/// A reference to a cache that does not keep it open; made by [`Cache::downgrade`].
pub struct WeakCache<K, V, S = DefaultHasher> {
    engine: Weak<Engine<K, V, S>>,
}

impl<K, V, S> WeakCache<K, V, S> {
    /// The cache, if its last reference was not dropped yet. What this returns counts as one: if it is the last, its drop
    /// closes the cache, and waits for that.
    #[must_use]
    pub fn upgrade(&self) -> Option<Cache<K, V, S>> {
        self.engine.upgrade().map(|engine| Cache { engine })
    }
}

impl<K, V, S> Clone for WeakCache<K, V, S> {
    fn clone(&self) -> Self {
        WeakCache { engine: Weak::clone(&self.engine) }
    }
}

impl<K, V, S> fmt::Debug for WeakCache<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakCache").finish_non_exhaustive()
    }
}

impl<K, V, S> fmt::Debug for Cache<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.engine.name()).finish_non_exhaustive()
    }
}
