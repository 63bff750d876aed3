//! What all threads of one run write down: what they have done, what they are doing, and what they have found to be wrong.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::model::WRITERS;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Check {
    /// At the end the database equals the model, row by row.
    Rows,
    /// A read finds its own writes, and never goes back.
    Reads,
    /// The backend is given the writes of a key in their order, and never two at once.
    Order,
    /// What was acknowledged as stored is stored.
    Acks,
    /// An operation fails only for a reason that there is.
    Errors,
    /// When all is well again, a flush stores everything, and so does closing.
    Flush,
    /// Nothing was refused for good.
    Letters,
    /// The statistics agree with each other, with the writers' own counts and with the backend's.
    Stats,
    /// Cache, journal and process keep to their bounds.
    Memory,
    /// No operation blocks for ever.
    Progress,
    /// Everything that a run is to try has happened.
    Happened,
}

#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}

/// What a writer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doing {
    Read,
    Write,
    Update,
    Synced,
    Backend,
    Ticket,
    Flush,
}

impl Doing {
    pub(crate) const ALL: [Doing; 7] = [
        Doing::Read,
        Doing::Write,
        Doing::Update,
        Doing::Synced,
        Doing::Backend,
        Doing::Ticket,
        Doing::Flush,
    ];
}

#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(crate) enum Count {
    /// Writes that have happened, by what the engine counts them as.
    Puts,
    Removes,
    /// Of the puts: those by `update`, and of these the counters'.
    Updates,
    Increments,
    /// Keys that were read, whether or not they could be.
    Reads,
    Synced,
    Backend,
    Tickets,
    Flushes,
    /// What was told instead of an acknowledgement: the write is in the cache.
    NotFlushed,
    NotSynced,
    /// And the write is not.
    NoRoom,
    NotLoaded,
    ReadsFailed,
    Last,
}

struct Beat {
    /// In microseconds since the start; 0: at nothing.
    since: AtomicU64,
    doing: AtomicU64,
}

pub(crate) struct Ledger {
    start: Instant,
    counts: [AtomicU64; Count::Last as usize],
    slowest: [AtomicU64; Doing::ALL.len()],
    beats: [Beat; WRITERS],
    findings: Mutex<Vec<Finding>>,
    over: AtomicBool,
}

/// More of one kind say nothing new.
const MOST_FINDINGS: usize = 4;

impl Ledger {
    pub(crate) fn new() -> Self {
        let beat = || Beat { since: AtomicU64::new(0), doing: AtomicU64::new(0) };
        Ledger {
            start: Instant::now(),
            counts: Default::default(),
            slowest: Default::default(),
            beats: std::array::from_fn(|_| beat()),
            findings: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    pub(crate) fn count(&self, what: Count, more: u64) {
        self.counts[what as usize].fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        (self.start.elapsed().as_micros() as u64).max(1)
    }

    /// Does something that may take its time, with the watchdog looking.
    pub(crate) fn timed<R>(&self, writer: usize, doing: Doing, job: impl FnOnce() -> R) -> R {
        let (beat, begun) = (&self.beats[writer], self.now());
        beat.doing.store(doing as u64, Ordering::Relaxed);
        beat.since.store(begun, Ordering::Relaxed);
        let done = job();
        beat.since.store(0, Ordering::Relaxed);
        self.slowest[doing as usize].fetch_max(self.now() - begun, Ordering::Relaxed);
        done
    }

    pub(crate) fn slowest(&self, doing: Doing) -> Duration {
        Duration::from_micros(self.slowest[doing as usize].load(Ordering::Relaxed))
    }

    /// What each writer is at, and for how long.
    pub(crate) fn at_work(&self) -> Vec<(usize, Doing, Duration)> {
        let now = self.now();
        let at = |(writer, beat): (usize, &Beat)| {
            let since = beat.since.load(Ordering::Relaxed);
            let doing = Doing::ALL[beat.doing.load(Ordering::Relaxed) as usize];
            (since > 0).then(|| (writer, doing, Duration::from_micros(now.saturating_sub(since))))
        };
        self.beats.iter().enumerate().filter_map(at).collect()
    }

    pub(crate) fn find(&self, check: Check, what: String) {
        let mut findings = self.lock();
        if findings.iter().filter(|finding| finding.check == check).count() < MOST_FINDINGS {
            findings.push(Finding { check, what });
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Finding>> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writers have done enough.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
