//! Workloads on a real cache, recorded: writers at every level of acknowledgement over a small journal, with a backend and
//! a disk that fail for a while.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{
    Ack, Answers, Backend, BackendError, Batch, Cache, JournalSync, Op, Version,
    faults::{self, Event, Tape},
};

pub(crate) const KEYS: usize = 16;

/// What a mark on the tape says. The low byte of its first word; the key is above it, then come version and value.
pub(crate) mod marks {
    /// A write has returned, or its ticket was handed out.
    pub(crate) const WROTE: u64 = 1;
    /// It was acknowledged at `Ack::Synced`.
    pub(crate) const SYNCED: u64 = 2;
    /// The backend has stored it.
    pub(crate) const STORED: u64 = 3;
}

fn mark(what: u64, key: u64, version: u64, nonce: u64) {
    faults::mark([what | key << 8, version, nonce]);
}

/// A small generator of random numbers; the same numbers for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// The value of a write: its number, and bytes that follow from it, so that a torn one is noticed.
pub(crate) fn value(nonce: u64, longest: usize) -> Vec<u8> {
    let length = (nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % longest.max(1);
    let mut value = nonce.to_le_bytes().to_vec();
    value.extend((0..length).map(|index| (nonce.wrapping_mul(31) as usize + index) as u8));
    value
}

/// The number of a value that is whole.
pub(crate) fn nonce(value: &[u8], longest: usize) -> Option<u64> {
    let nonce = u64::from_le_bytes(value.get(..8)?.try_into().ok()?);
    (value == self::value(nonce, longest)).then_some(nonce)
}

/// What a workload does.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) writers: usize,
    pub(crate) operations: usize,
    pub(crate) capacity: usize,
    pub(crate) sync: JournalSync,
    /// Of 100 writes, how many are at `Ack::Synced`, by tickets, and at `Ack::Backend`; the rest is at `Ack::Journal`.
    pub(crate) synced: usize,
    pub(crate) tickets: usize,
    pub(crate) through: usize,
    /// Whether all writes go to one key, and none removes: records of one size, and attempts that lose.
    pub(crate) is_contended: bool,
    /// How long writes are collected for the backend.
    pub(crate) delay: Duration,
    /// The longest value.
    pub(crate) longest: usize,
    /// The backend refuses everything half of the time.
    pub(crate) is_down: bool,
    /// Syncs fail now and then.
    pub(crate) fails: bool,
}

const PLAIN: Plan = Plan {
    name: "mixed",
    writers: 3,
    operations: 120,
    capacity: 64,
    sync: JournalSync::Every(Duration::from_millis(3)),
    synced: 15,
    tickets: 10,
    through: 3,
    longest: 200,
    is_contended: false,
    delay: Duration::from_millis(2),
    is_down: false,
    fails: false,
};

/// All workloads.
pub(crate) const PLANS: [Plan; 11] = [
    PLAIN,
    Plan { name: "synced", synced: 70, tickets: 0, ..PLAIN },
    Plan { name: "tickets", synced: 0, tickets: 60, ..PLAIN },
    Plan { name: "laps", operations: 500, synced: 2, tickets: 1, longest: 400, ..PLAIN },
    Plan {
        name: "contended",
        operations: 700,
        synced: 1,
        tickets: 0,
        through: 0,
        longest: 1,
        is_contended: true,
        ..PLAIN
    },
    Plan {
        name: "reuse",
        operations: 900,
        synced: 1,
        tickets: 0,
        through: 0,
        longest: 400,
        sync: JournalSync::Every(Duration::from_secs(1)),
        delay: Duration::from_millis(15),
        ..PLAIN
    },
    Plan { name: "evictions", capacity: 8, ..PLAIN },
    Plan { name: "copies", is_down: true, through: 0, operations: 300, synced: 5, ..PLAIN },
    Plan { name: "growth", is_down: true, through: 0, operations: 120, longest: 2_500, ..PLAIN },
    Plan { name: "failing sync", fails: true, operations: 80, ..PLAIN },
    Plan { name: "always", sync: JournalSync::Always, operations: 60, ..PLAIN },
];

/// Without syncs until somebody wants one.
pub(crate) const NEVER: Plan =
    Plan { name: "never, then synced", sync: JournalSync::Never, synced: 5, ..PLAIN };

/// The database: survives everything, and notes on the tape what it has stored.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) rows: Mutex<HashMap<u64, Option<Vec<u8>>>>,
    pub(crate) is_down: AtomicBool,
    longest: usize,
}

impl Rows {
    pub(crate) fn new(rows: HashMap<u64, Option<Vec<u8>>>, longest: usize) -> Self {
        Rows { rows: Mutex::new(rows), is_down: AtomicBool::new(false), longest }
    }
}

impl Backend<u64, Vec<u8>> for Rows {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
        let rows = self.rows.lock().unwrap();
        Ok(keys.iter().map(|key| rows.get(key).cloned().flatten()).collect())
    }

    fn apply(&self, batch: &Batch<u64, Vec<u8>>) -> Answers {
        if self.is_down.load(Ordering::Relaxed) {
            return batch.none_stored(BackendError::transient("down"));
        }
        batch.answer_each(|op: &Op<u64, Vec<u8>>| {
            let mut rows = self.rows.lock().unwrap();
            let value = op.change().value();
            rows.insert(*op.key(), value.cloned());
            let nonce =
                value.map_or(0, |value| nonce(value, self.longest).expect("a torn value was flushed"));
            mark(marks::STORED, *op.key(), op.version(), nonce);
            Ok(())
        })
    }
}

/// What came of a workload.
pub(crate) struct Run {
    pub(crate) tape: Tape,
    /// For each key and version, the number of the value that was written as it (0: the key was removed).
    pub(crate) happened: Vec<HashMap<u64, u64>>,
    /// Copies, retired epochs, lost attempts of updates, failed syncs, growths.
    pub(crate) counts: [u64; 5],
}

/// Numbers of values; zero is none.
static NONCE: AtomicU64 = AtomicU64::new(1);

fn fresh() -> u64 {
    NONCE.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn open(
    plan: &Plan,
    path: &Path,
    rows: &Arc<Rows>,
) -> Result<Cache<u64, Vec<u8>>, writeback::OpenError> {
    Cache::builder()
        .capacity(plan.capacity)
        .lanes(1)
        .journal(path)
        .journal_size(1)
        .journal_sync(plan.sync)
        .max_delay(plan.delay)
        .batch_size(if plan.delay > PLAIN.delay { 64 } else { 4 })
        .retry(Duration::from_millis(1), Duration::from_millis(4))
        .write_timeout(Duration::from_secs(5))
        .drain_on_drop(Duration::ZERO)
        .backend(Arc::clone(rows))
        .open()
}

/// Runs a workload over the journal at `path`, and records it.
pub(crate) fn run(plan: &Plan, seed: u64, path: &Path, rows: &Arc<Rows>) -> Run {
    faults::start();
    let cache = open(plan, path, rows).expect("the journal opens");
    let lost = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..plan.writers {
            let (cache, lost, rows) = (&cache, &lost, &**rows);
            scope.spawn(move || write(plan, seed, writer, cache, rows, lost));
        }
    });
    rows.is_down.store(false, Ordering::Relaxed);
    let stats = cache.stats().journal.unwrap();
    let _ = cache.close(Duration::from_secs(5));
    let grown = cache.stats().journal.unwrap().bytes;
    drop(cache);
    let tape = faults::stop();
    let mut happened = vec![HashMap::new(); KEYS];
    for event in &tape.events {
        if let Event::Mark([what, version, nonce]) = event
            && what & 0xff == marks::WROTE
        {
            let other = happened[(what >> 8) as usize].insert(*version, *nonce);
            assert!(other.is_none_or(|other| other == *nonce), "two writes have one version");
        }
    }
    let grown = u64::from(grown > tape.base.len() as u64);
    let counts = [stats.copies, stats.retirements, lost.into_inner(), stats.sync_errors, grown];
    Run { tape, happened, counts }
}

fn write(plan: &Plan, seed: u64, writer: usize, cache: &Cache<u64, Vec<u8>>, rows: &Rows, lost: &AtomicU64) {
    let mut random = Random::new(seed * 31 + writer as u64 + 1);
    let mut tickets = VecDeque::new();
    let wrote = |key: u64, version: Version, nonce: u64, ack: Ack| {
        mark(marks::WROTE, key, version.get(), nonce);
        if ack == Ack::Synced || (plan.sync == JournalSync::Always && ack == Ack::Journal) {
            mark(marks::SYNCED, key, version.get(), nonce);
        }
    };
    for n in 0..plan.operations {
        if writer == 0 && plan.is_down && n.is_multiple_of(20) {
            rows.is_down.store(n / 20 % 4 != 3, Ordering::Relaxed);
        }
        if writer == 0 && plan.fails && n % 20 == 10 {
            faults::fail_syncs(1);
        }
        let hot = plan.is_contended || random.below(3) == 0;
        let few = if plan.is_contended { 1 } else { 2 };
        let key = random.below(if hot { few } else { KEYS }) as u64;
        let chance = random.below(100);
        if chance < plan.tickets {
            let nonce = fresh();
            let ticket = cache.put_ticket(key, value(nonce, plan.longest), Ack::Synced).unwrap();
            mark(marks::WROTE, key, ticket.version().get(), nonce);
            tickets.push_back((key, nonce, ticket));
            if tickets.len() > 6 {
                let (key, nonce, ticket) = tickets.pop_front().unwrap();
                mark(marks::SYNCED, key, ticket.wait().unwrap().get(), nonce);
            }
            continue;
        }
        let ack = match chance - plan.tickets {
            chance if chance < plan.synced => Ack::Synced,
            chance if chance < plan.synced + plan.through => Ack::Backend,
            _ => Ack::Journal,
        };
        match random.below(10) {
            0 if !plan.is_contended => wrote(key, cache.remove_acked(&key, ack).unwrap(), 0, ack),
            1..5 if hot => {
                let (mut nonce, mut attempts) = (0, 0);
                let change = |_: Option<&Vec<u8>>| {
                    (nonce, attempts) = (fresh(), attempts + 1);
                    value(nonce, plan.longest)
                };
                let version = cache.update_acked(key, change, ack).unwrap();
                lost.fetch_add(attempts - 1, Ordering::Relaxed);
                wrote(key, version, nonce, ack);
            }
            _ => {
                let nonce = fresh();
                wrote(
                    key,
                    cache
                        .put_acked(key, value(nonce, plan.longest), ack)
                        .unwrap_or_else(|error| panic!("{error:?} {:#?}", cache.stats())),
                    nonce,
                    ack,
                );
            }
        }
    }
    for (key, nonce, ticket) in tickets {
        mark(marks::SYNCED, key, ticket.wait().unwrap().get(), nonce);
    }
}
