//! How a cache is set up.

use std::{fmt, sync::Arc, time::Duration};

use super::{Ack, DefaultHasher, OnFull, journaled::WithJournal};
use crate::{Clock, OpenError, events::Listener, flusher::Ranker, store::Weigher, table::Table};

/// Each lane has slots of its own, and a slot's name has 32 bits.
const MAX_LANES: usize = 4096;

/// More would not make any backend faster.
const MAX_WORKERS: usize = 64;

/// The settings of a cache; made by [`Cache::builder`](crate::Cache::builder).
///
/// Required are [`capacity`](Builder::capacity) and [`backend`](Builder::backend); without a backend there is no
/// `open` to call.
#[must_use = "a builder does nothing before `open`"]
pub struct Builder<B = (), W = (), S = DefaultHasher, J = (), R = ()> {
    pub(super) capacity: usize,
    pub(super) max_weight: u64,
    pub(super) weigher: W,
    pub(super) backend: B,
    pub(super) hasher: S,
    pub(super) journal: J,
    pub(super) ack: Option<Ack>,
    pub(super) max_delay: Duration,
    pub(super) flush_at: Option<usize>,
    pub(super) batch_size: usize,
    pub(super) flush_workers: usize,
    pub(super) ranks: R,
    pub(super) write_timeout: Duration,
    pub(super) on_full: OnFull,
    pub(super) max_dirty: Option<usize>,
    pub(super) max_dirty_bytes: Option<u64>,
    pub(super) throttle: (f64, Duration),
    pub(super) retry: (Duration, Duration),
    pub(super) cache_absent: bool,
    pub(super) lanes: usize,
    pub(super) pin_flusher: Option<usize>,
    pub(super) drain_on_drop: Duration,
    pub(super) clock: Clock,
    pub(super) name: Arc<str>,
    pub(super) stall_limit: Option<Duration>,
    pub(super) listener: Option<Listener>,
}

/// What an entry weighs: nothing, or what a closure says.
pub trait Weigh<K, V>: sealed::Sealed {
    #[doc(hidden)]
    fn into_weigher(self) -> Option<Weigher<K, V>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<F> Sealed for super::ByWeight<F> {}
    impl<F> Sealed for super::ByRank<F> {}
}

impl<K, V> Weigh<K, V> for () {
    fn into_weigher(self) -> Option<Weigher<K, V>> {
        None
    }
}

/// A weigher that was given to [`Builder::max_weight`].
#[derive(Clone, Copy)]
pub struct ByWeight<F>(F);

impl<K, V, F: Fn(&K, &V) -> u64 + Send + Sync + 'static> Weigh<K, V> for ByWeight<F> {
    fn into_weigher(self) -> Option<Weigher<K, V>> {
        Some(Box::new(self.0))
    }
}

/// In which order entries of different kinds reach the backend: in any, or as a closure says.
pub trait Rank<K, V>: sealed::Sealed {
    #[doc(hidden)]
    fn into_ranker(self) -> Option<Ranker<K, V>>;
}

impl<K, V> Rank<K, V> for () {
    fn into_ranker(self) -> Option<Ranker<K, V>> {
        None
    }
}

/// The ranks that were given to [`Builder::rank`].
#[derive(Clone, Copy)]
pub struct ByRank<F>(F);

impl<K, V, F: Fn(&K, Option<&V>) -> u32 + Send + 'static> Rank<K, V> for ByRank<F> {
    fn into_ranker(self) -> Option<Ranker<K, V>> {
        Some(Box::new(self.0))
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder {
            capacity: 0,
            max_weight: u64::MAX,
            weigher: (),
            backend: (),
            hasher: DefaultHasher::default(),
            journal: (),
            ack: None,
            max_delay: Duration::from_millis(500),
            flush_at: None,
            batch_size: 1_000,
            flush_workers: 1,
            ranks: (),
            write_timeout: Duration::from_secs(10),
            on_full: OnFull::Wait,
            max_dirty: None,
            max_dirty_bytes: None,
            throttle: (0.5, Duration::from_millis(10)),
            retry: (Duration::from_millis(50), Duration::from_secs(30)),
            cache_absent: false,
            lanes: 16,
            pin_flusher: None,
            drain_on_drop: Duration::from_secs(30),
            clock: Clock::system(),
            name: "default".into(),
            stall_limit: None,
            listener: None,
        }
    }
}

impl<B, W, S, J, R> Builder<B, W, S, J, R> {
    pub(super) fn map<B2, W2, S2, J2, R2>(
        self,
        change: impl FnOnce(B, W, S, J, R) -> (B2, W2, S2, J2, R2),
    ) -> Builder<B2, W2, S2, J2, R2> {
        let (backend, weigher, hasher, journal, ranks) =
            change(self.backend, self.weigher, self.hasher, self.journal, self.ranks);
        Builder {
            capacity: self.capacity,
            max_weight: self.max_weight,
            weigher,
            backend,
            hasher,
            journal,
            ack: self.ack,
            max_delay: self.max_delay,
            flush_at: self.flush_at,
            batch_size: self.batch_size,
            flush_workers: self.flush_workers,
            ranks,
            write_timeout: self.write_timeout,
            on_full: self.on_full,
            max_dirty: self.max_dirty,
            max_dirty_bytes: self.max_dirty_bytes,
            throttle: self.throttle,
            retry: self.retry,
            cache_absent: self.cache_absent,
            lanes: self.lanes,
            pin_flusher: self.pin_flusher,
            drain_on_drop: self.drain_on_drop,
            clock: self.clock,
            name: self.name,
            stall_limit: self.stall_limit,
            listener: self.listener,
        }
    }

    /// The most entries that the cache holds, at least 1. The memory for them is reserved when the cache is opened:
    /// about 29 bytes for each, and the size of an entry (key, value, 8 bytes); the system provides most of it on first use.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.capacity = entries;
        self
    }

    /// Bounds what the entries weigh in all, in whatever unit `weigh` uses, beside their number. Called once for each
    /// write and load; tombstones weigh nothing.
    ///
    /// ```
    /// # use writeback::{Cache, Error, backend::Memory};
    /// let pages = Cache::builder()
    ///     .capacity(10_000)
    ///     .max_weight(1 << 20, |url: &String, page: &Vec<u8>| (url.len() + page.len()) as u64)
    ///     .backend(Memory::new())
    ///     .open::<String, Vec<u8>>()?;
    /// assert!(matches!(pages.put("/".into(), vec![0; 2 << 20]), Err(Error::TooHeavy { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_weight<F>(mut self, total: u64, weigh: F) -> Builder<B, ByWeight<F>, S, J, R> {
        self.max_weight = total;
        self.map(|backend, _, hasher, journal, ranks| (backend, ByWeight(weigh), hasher, journal, ranks))
    }

    /// What an entry weighs, without a limit on what all of them do: for
    /// [`max_dirty_bytes`](Builder::max_dirty_bytes). As [`max_weight`](Builder::max_weight) with `u64::MAX`.
    pub fn weigher<F>(self, weigh: F) -> Builder<B, ByWeight<F>, S, J, R> {
        self.max_weight(u64::MAX, weigh)
    }

    /// The database behind the cache. An `Arc` of a backend is a backend, for those who want to keep a hold of it.
    pub fn backend<B2>(self, backend: B2) -> Builder<B2, W, S, J, R> {
        self.map(|_, weigher, hasher, journal, ranks| (backend, weigher, hasher, journal, ranks))
    }

    /// The hash function; by default a fast one, seeded at random for each cache. With another one, equal hashes in the
    /// upper 32 bits share a bucket, so they should be good.
    pub fn hasher<S2>(self, hasher: S2) -> Builder<B, W, S2, J, R> {
        self.map(|backend, weigher, _, journal, ranks| (backend, weigher, hasher, journal, ranks))
    }

    /// How writes are acknowledged that do not say so themselves. Default: [`Ack::Journal`] with a
    /// [`journal`](Builder::journal), [`Ack::Memory`] without.
    pub fn ack(mut self, ack: Ack) -> Self {
        self.ack = Some(ack);
        self
    }

    /// How long an entry may be dirty before it is written, counted from the moment when it *first* became dirty: a key
    /// that is rewritten all the time is still written on time. Default: 500 ms.
    ///
    /// A longer delay saves backend writes, a shorter one loses less when the process dies.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// How many dirty entries start a flush before anything is due. Default: half of the capacity, or half of the number of dirty
    /// entries from which on [`throttle`](Builder::throttle) slows writers down, if that is less.
    pub fn flush_at(mut self, dirty: usize) -> Self {
        self.flush_at = Some(dirty);
        self
    }

    /// The most operations in one call of the backend. Default: 1,000.
    pub fn batch_size(mut self, operations: usize) -> Self {
        self.batch_size = operations;
        self
    }

    /// How many batches may be on their way to the backend at once, each on a thread of its own. Default: 1.
    ///
    /// More of them help with a backend that answers late and takes several calls at once, such as a server far away; SQLite
    /// takes one at a time. A key is never in two batches at once, so its writes arrive in their order however many there are.
    pub fn flush_workers(mut self, workers: usize) -> Self {
        self.flush_workers = workers;
        self
    }

    /// Keeps an order across keys, for a database that checks references between rows: `rank` says how far down a row is
    /// in the tree of its table, 0 for what refers to nothing, 1 for what refers to rows of rank 0, and so on. It is given the
    /// value that is to be written, or `None` for a remove, and has to say the same for a key at all times.
    ///
    /// Then a row is written only after all rows of lower rank that were written to the cache before it, and removed only
    /// after all changes of rows of higher rank from before the remove: parents before children, and the other way round when
    /// they go. So an application that never has a child without its parent in the cache never sees a foreign key
    /// refused by the database, however its writes were coalesced, and with any number of
    /// [`flush_workers`](Builder::flush_workers). Rows of the same rank may not refer to each other. A remove also goes
    /// before later writes of the same rank, so that a value that has to be unique can pass from one row to another; with
    /// several ranks that may take a second attempt.
    ///
    /// A flush of one entry may have to take others along, and an order costs round trips: one for each rank. What the
    /// database refuses while others were on their way is tried again up to three times before it is taken for good.
    ///
    /// ```
    /// # use writeback::{Cache, backend::Memory};
    /// #[derive(Clone, PartialEq, Eq, Hash)]
    /// enum Row { Customer(u64), Order(u64) }
    ///
    /// let rows = Cache::builder()
    ///     .capacity(10_000)
    ///     .rank(|row: &Row, _: Option<&String>| match row {
    ///         Row::Customer(_) => 0,
    ///         Row::Order(_) => 1, // has a column that refers to a customer
    ///     })
    ///     .backend(Memory::new())
    ///     .open::<Row, String>()?;
    /// rows.put(Row::Customer(1), "Ada".into())?;
    /// rows.put(Row::Order(1), "customer 1: an engine".into())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rank<F>(self, rank: F) -> Builder<B, W, S, J, ByRank<F>> {
        self.map(|backend, weigher, hasher, journal, _| (backend, weigher, hasher, journal, ByRank(rank)))
    }

    /// The most entries that may be dirty at once, those that are on their way to the backend included. A write that would
    /// make one more dirty does what [`on_full`](Builder::on_full) says; one of an entry that is dirty already goes
    /// on. Default: no limit but the capacity.
    ///
    /// This bounds what is lost without a journal, and how long it takes to drain. Writers are slowed down before they are
    /// stopped, see [`throttle`](Builder::throttle). A cache that finds more than this in its journal starts above the limit.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use writeback::{BackendError, Cache, Error, OnFull, backend::Memory};
    /// let rows = std::sync::Arc::new(Memory::new());
    /// rows.set_fault(|_| Err(BackendError::transient("the database is away")));
    /// let orders = Cache::builder()
    ///     .capacity(10_000)
    ///     .max_dirty(100)
    ///     .on_full(OnFull::Error)
    ///     .backend(rows.clone())
    ///     .open::<u64, u64>()?;
    /// let taken = (0..500).filter(|&id| orders.put(id, 1).is_ok()).count();
    /// assert_eq!(taken, 100);
    /// orders.put(7, 2)?; // is dirty already
    /// rows.clear_fault();
    /// orders.flush()?;
    /// orders.put(300, 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_dirty(mut self, entries: usize) -> Self {
        self.max_dirty = Some(entries);
        self
    }

    /// The most that the dirty entries may take, those that are on their way to the backend included: in the unit of the weigher
    /// given to [`max_weight`](Builder::max_weight) or [`weigher`](Builder::weigher), where a remove takes nothing. Without a weigher an
    /// entry takes `size_of` its key and value, and a remove that of its key: what they own on the heap is not counted
    /// then. A write that would take more does what [`on_full`](Builder::on_full) says; one of a dirty entry that does not
    /// become larger goes on. One entry that is larger than the limit has room when nothing else is dirty. Default: no limit.
    ///
    /// While the backend works on an older version of a dirty entry, that copy is in memory beside what is counted, in
    /// at most one batch (with a journal that is synced: a few).
    pub fn max_dirty_bytes(mut self, bytes: u64) -> Self {
        self.max_dirty_bytes = Some(bytes);
        self
    }

    /// What a write does that finds no room: it waits, fails at once, or goes through to the backend. Default:
    /// [`OnFull::Wait`]. For one write: [`WriteOptions`](crate::WriteOptions).
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }

    /// From which share of [`max_dirty`](Builder::max_dirty) and [`max_dirty_bytes`](Builder::max_dirty_bytes) on (0 to 1) writes that
    /// make more dirty are slowed down, and by how much at the limit. In between the delay grows in proportion; it ends sooner
    /// when the backend catches up, and the flusher starts at once. The write is made before its delay, so nobody waits for
    /// it, and reads are never slowed down. Default: 0.5 and 10 ms; `Duration::ZERO` turns it off.
    pub fn throttle(mut self, from: f64, longest: Duration) -> Self {
        self.throttle = (from, longest);
        self
    }

    /// How long a write waits for room (in the cache, in its journal, or below a dirty limit) before it fails with
    /// [`Error::Backpressure`](crate::Error::Backpressure). Default: 10 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// The delay before the first retry of an operation that the backend could not carry out, and the longest one; in
    /// between it doubles, with jitter. Default: 50 ms and 30 s.
    pub fn retry(mut self, first: Duration, longest: Duration) -> Self {
        self.retry = (first, longest);
        self
    }

    /// Whether the answer "there is no such row" takes a place in the cache, so that the next read of that key does not
    /// ask the backend again. Default: no.
    pub fn cache_absent(mut self, yes: bool) -> Self {
        self.cache_absent = yes;
        self
    }

    /// How many threads can have a lane of their own beside one for each core. More threads may write, sharing a lane
    /// under a mutex. Default: 16.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes;
        self
    }

    /// Pins the flusher's thread to a core. Default: it is not pinned.
    pub fn pin_flusher(mut self, core: usize) -> Self {
        self.pin_flusher = Some(core);
        self
    }

    /// How long the drop of the last reference to a cache that was not closed waits for the backend. Default: 30 s.
    pub fn drain_on_drop(mut self, timeout: Duration) -> Self {
        self.drain_on_drop = timeout;
        self
    }

    /// The clock that deadlines and retries go by; for tests. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let bad = |setting, value: String, hint| Err(OpenError::BadSetting { setting, value, hint });
        if self.capacity == 0 {
            return Err(OpenError::ZeroCapacity);
        }
        if self.capacity > Table::MAX_ENTRIES {
            return Err(OpenError::CapacityTooLarge { capacity: self.capacity, max: Table::MAX_ENTRIES });
        }
        if self.max_weight == 0 {
            return Err(OpenError::ZeroWeight);
        }
        if !(1..=MAX_WORKERS).contains(&self.flush_workers) {
            return bad("flush_workers", self.flush_workers.to_string(), "1 to 64; each is a thread");
        }
        if self.lanes > MAX_LANES {
            return bad("lanes", self.lanes.to_string(), "at most 4096; further threads share a lane");
        }
        if self.batch_size == 0 {
            return bad("batch_size", "0".into(), "a batch needs room for at least one operation");
        }
        if self.flush_at == Some(0) {
            return bad(
                "flush_at",
                "0".into(),
                "give a number of dirty entries, or use Ack::Backend to write through",
            );
        }
        if self.max_delay.is_zero() {
            return bad(
                "max_delay",
                "0".into(),
                "give a time to collect writes in, or use Ack::Backend to write through",
            );
        }
        if let Some(limit) = self.stall_limit
            && limit <= self.max_delay
        {
            return bad(
                "stall_limit",
                format!("{limit:?}"),
                "more than max_delay: until then an entry may be dirty",
            );
        }
        if self.max_dirty == Some(0) || self.max_dirty_bytes == Some(0) {
            let setting = if self.max_dirty == Some(0) { "max_dirty" } else { "max_dirty_bytes" };
            return bad(setting, "0".into(), "give what may be dirty, or use Ack::Backend to write through");
        }
        if !(0.0..=1.0).contains(&self.throttle.0) {
            let value = self.throttle.0.to_string();
            return bad(
                "throttle",
                value,
                "give the share of the limit from which on writes are slowed down",
            );
        }
        let (first, longest) = self.retry;
        if first.is_zero() || longest < first {
            let value = format!("{first:?}, {longest:?}");
            return bad("retry", value, "the first delay must be more than zero and at most the longest");
        }
        Ok(())
    }
}

impl<B, W, S, R> Builder<B, W, S, (), R> {
    /// Gives the cache a journal: a file in which every write is noted before it is acknowledged, so that it survives a crash
    /// of the process, and, with [`Ack::Synced`], a loss of power. The file is made if there is none; if it holds writes
    /// that are not in the backend, they are in the cache when it opens.
    ///
    /// Keys and values need a [`Codec`](crate::Codec): numbers, strings, byte strings, tuples and arrays have one
    /// ([`Plain`](crate::Plain)); for others see [`codecs`](Builder::codecs). Put the file on a local disk (or on `tmpfs`, if
    /// it need only survive crashes of the process), and use it for one cache only.
    ///
    /// ```
    /// # use writeback::{Ack, Cache, backend::Memory};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("scores.journal");
    /// let scores = Cache::builder()
    ///     .capacity(10_000)
    ///     .journal(&path)
    ///     .backend(Memory::new())
    ///     .open::<u64, u64>()?;
    /// scores.put(7, 100)?; // survives `kill -9` from here on
    /// scores.put_acked(8, 200, Ack::Synced)?; // and this one a loss of power
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn journal(self, path: impl AsRef<std::path::Path>) -> Builder<B, W, S, WithJournal, R> {
        let journal = WithJournal::at(path.as_ref());
        self.map(|backend, weigher, hasher, (), ranks| (backend, weigher, hasher, journal, ranks))
    }
}

impl<B, W, S, J, R> fmt::Debug for Builder<B, W, S, J, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("capacity", &self.capacity)
            .field("max_delay", &self.max_delay)
            .field("flush_at", &self.flush_at)
            .field("batch_size", &self.batch_size)
            .field("ack", &self.ack)
            .finish_non_exhaustive()
    }
}
