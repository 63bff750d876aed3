//! The dirty journal: what makes an acknowledged write survive a crash, for the price of a copy into mapped memory.
//!
//! Every write of a cache with a journal appends a record to a segment of its lane before its compare-and-swap, and makes
//! it LIVE after. Space is used again when the *epoch* of its records is retired: one word in the file says which records
//! are dead, and moves only when each key that was dirty then is in the backend, or in a newer record.
//! `docs/design.md` has the protocol, `docs/journal-format.md` the bytes.

pub(crate) mod append;
pub(crate) mod area;
mod check;
pub(crate) mod commit;
mod error;
pub(crate) mod file;
pub(crate) mod format;
mod inspect;
mod newest;
pub(crate) mod note;
pub(crate) mod recover;
mod repair;
mod space;
pub(crate) mod tape;

use std::{io, sync::Arc, time::Duration};

use crate::{
    fault,
    signal::{Event, Signal},
    stats::JournalStats,
    sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

pub(crate) use append::{Appender, Unprepared};
pub(crate) use area::WordAddress;
pub use commit::JournalSync;
pub(crate) use commit::{Commits, SyncNumber};
pub use error::JournalError;
pub(crate) use format::Kind;
pub use inspect::{ClosedJournal, JournalContents, JournalEntry};
use recover::Needed;
pub use recover::{Damage, DamageKind};

use area::Words;
use format::{Identity, SEGMENT_HEADER, live, segment};
use space::Space;

/// How long the backend is kept waiting for a journal whose syncs fail.
const BATCH_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Journal {
    space: Space,
    pub(crate) commits: Arc<Commits>,
    superblock: Words,
    identity: Identity,
    policy: JournalSync,
    /// Whether the order of syncs has to be kept: from the first on that anybody relies on.
    is_durable: AtomicBool,
    /// Something was written since the last sync began.
    written: AtomicBool,
    /// Raised after a failed sync: everyone leaves the segments that it may have lost.
    generation: AtomicU64,
    /// The flusher should make room when fewer segments than this are free.
    low_mark: AtomicUsize,
    /// Bytes and records in the segments that were sealed, for an average.
    sealed: (AtomicU64, AtomicU64),
    max_segments: usize,
    /// How many segments somebody has asked for; at most the total: nobody has.
    wanted_segments: AtomicUsize,
    signal: Arc<Signal>,
    pub(crate) counters: JournalCounters,
    /// `None`: in memory, for models.
    file: Option<std::fs::File>,
    path: std::path::PathBuf,
}

/// What the journal counts.
#[derive(Default)]
pub(crate) struct JournalCounters {
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_errors: AtomicU64,
    pub(crate) copies: AtomicU64,
    pub(crate) retired: AtomicU64,
    pub(crate) growth_errors: AtomicU64,
    pub(crate) recovered: AtomicU64,
    pub(crate) damages: AtomicU64,
    pub(crate) is_inconsistent: AtomicBool,
}

impl Journal {
    pub(crate) fn stats(&self) -> JournalStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        JournalStats {
            bytes: self.bytes(),
            free_bytes: (self.space.free().saturating_sub(self.space.reserve()) * self.identity.segment_bytes)
                as u64,
            syncs: count(&counters.syncs),
            sync_errors: count(&counters.sync_errors),
            sync_running: self.commits.running_for(),
            sync_lag: self.commits.lag(self.written.load(Ordering::Relaxed)),
            is_poisoned: self.commits.is_poisoned(),
            copies: count(&counters.copies),
            retirements: count(&counters.retired),
            growth_errors: count(&counters.growth_errors),
            recovered: count(&counters.recovered),
            damages: count(&counters.damages),
            is_inconsistent: counters.is_inconsistent.load(Ordering::Relaxed),
        }
    }
}

/// How a journal is kept.
pub(crate) struct Keeping {
    pub(crate) policy: JournalSync,
    pub(crate) max_segments: usize,
    pub(crate) signal: Arc<Signal>,
}

impl Journal {
    /// Goes on with a file whose `needed` segments hold records that may count.
    pub(crate) fn open(
        file: std::fs::File,
        path: std::path::PathBuf,
        identity: Identity,
        segments: usize,
        needed: &[Needed],
        keeping: Keeping,
    ) -> io::Result<Self> {
        let area = area::Area::open(&file, segments, identity.segment_bytes)?;
        let needed = needed.iter().map(|needed| (needed.index, needed.newest)).collect();
        let journal = Self::over(area, identity, needed, keeping);
        Ok(Journal { file: Some(file), path, ..journal })
    }

    /// From now on the journal belongs to this backend, whoever it was made for. Durable when it returns.
    pub(crate) fn adopt(&self, backend: &str) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        // One write within one sector: a crash, or a loss of power, leaves the old name or the new one.
        file::write_at(file, &format::adoption(backend, self.salt()), format::ADOPTION as u64)?;
        file.sync_data()
    }

    /// Writes into the file who has it open, and that nobody writes any more into the segments that an earlier life has left.
    ///
    /// Holes that a loss of power has left (`excusing`) are noted where they are before the file says that this boot has
    /// written it. From then on they would count as damage.
    pub(crate) fn claim(&self, needed: &[Needed], excusing: bool) {
        let salt = self.salt();
        for needed in needed {
            let header = self.space.with_area(|area| area.segment(needed.index));
            // Release, all: each only after what makes it true, for whoever finds the file after a kill.
            let newest = format::checked(needed.newest, salt);
            if needed.has_holes && excusing {
                header.store(segment::EXCUSED, newest, Ordering::Release);
            }
            if !needed.is_sealed {
                header.store(segment::END, format::checked(needed.end as u64, salt), Ordering::Release);
                fault::point("recovery: end");
                header.store(segment::NEWEST, newest, Ordering::Release);
            }
        }
        let [first, second] = file::boot();
        self.superblock.store(live::BOOT, first, Ordering::Release);
        self.superblock.store(live::BOOT + 1, second, Ordering::Release);
        self.superblock.store(live::OWNER, u64::from(std::process::id()), Ordering::Relaxed);
    }

    /// A journal in memory, for models.
    #[cfg(crossbeam_loom)]
    pub(crate) fn for_model(segments: usize, words: usize, signal: Arc<Signal>) -> Self {
        let identity = Identity {
            salt: 7,
            segment_bytes: words * 8,
            capacity: 0,
            key: String::new(),
            value: String::new(),
            backend: String::new(),
        };
        let area = area::Area::for_model(segments, words);
        let keeping = Keeping { policy: JournalSync::Never, max_segments: segments, signal };
        Self::over(area, identity, Vec::new(), keeping)
    }

    fn over(area: area::Area, identity: Identity, needed: Vec<(u32, u64)>, keeping: Keeping) -> Self {
        let superblock = area.superblock();
        let total = area.segments();
        let reserve = if cfg!(crossbeam_loom) { 0 } else { total / 8 };
        Journal {
            space: Space::new(area, needed, reserve),
            commits: Arc::new(Commits::new()),
            superblock,
            identity,
            is_durable: AtomicBool::new(keeping.policy != JournalSync::Never),
            policy: keeping.policy,
            written: AtomicBool::new(true),
            generation: AtomicU64::new(0),
            low_mark: AtomicUsize::new(total / 2),
            sealed: (AtomicU64::new(0), AtomicU64::new(0)),
            max_segments: keeping.max_segments.max(total),
            wanted_segments: AtomicUsize::new(0),
            signal: keeping.signal,
            counters: JournalCounters::default(),
            file: None,
            path: std::path::PathBuf::new(),
        }
    }

    pub(crate) fn segment_words(&self) -> usize {
        self.identity.segment_bytes / 8
    }

    /// The most bytes that key and value of one record may have together.
    pub(crate) fn record_limit(&self) -> usize {
        (self.segment_words() - SEGMENT_HEADER - format::RECORD_HEADER) * 8
    }

    pub(crate) fn salt(&self) -> u64 {
        self.identity.salt
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        (format::SUPERBLOCK + self.space.total() * self.identity.segment_bytes) as u64
    }

    /// Where a word of a segment is in the file.
    pub(crate) fn offset(&self, segment: u32, word: usize) -> u64 {
        format::SUPERBLOCK as u64 + u64::from(segment) * self.identity.segment_bytes as u64 + word as u64 * 8
    }

    pub(crate) fn generation(&self) -> u64 {
        // Relaxed: the failed sync that raises it says nothing of what is written after it.
        self.generation.load(Ordering::Relaxed)
    }

    /// Nobody goes on writing where the last sync may have lost something.
    pub(crate) fn abandon_segments(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Stores once more how many segments there are, and so makes the superblock's page one that the next sync writes, with
    /// all that is in it: a sync that has failed may have dropped it, and the kernel may think that it is clean.
    pub(crate) fn restate(&self) {
        // With the lock under which the file grows, so that no older number goes over a newer one.
        self.space.with_area(|area| {
            let segments = format::checked(area.segments() as u64, self.salt());
            // Release: as in `file::adjoin`.
            self.superblock.store(live::SEGMENTS, segments, Ordering::Release);
        });
    }

    /// Something was written that the next sync should cover.
    pub(crate) fn note_written(&self) {
        // Relaxed: a hint for the interval. Looked at first, so that the line stays shared.
        if !self.written.load(Ordering::Relaxed) {
            self.written.store(true, Ordering::Relaxed);
        }
    }

    /// A lane has taken a free segment, after it has filled one with so many bytes and records.
    pub(crate) fn segment_taken(&self) {
        if self.is_low() {
            self.signal.wake();
        }
    }

    /// Counts what a full segment holds.
    pub(crate) fn note_sealed(&self, bytes: u64, records: u64) {
        // Relaxed: an average, which may lose a segment between two threads.
        let before = self.sealed.1.fetch_add(records, Ordering::Relaxed);
        self.sealed.0.fetch_add(bytes, Ordering::Relaxed);
        if before > 1 << 20 {
            // What was long ago counts less.
            self.sealed.0.store(self.sealed.0.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            self.sealed.1.store(before / 2, Ordering::Relaxed);
        }
    }

    /// How many segments the copies of so many records would take, more rather than less.
    fn segments_for(&self, records: usize) -> usize {
        let (bytes, count) = (self.sealed.0.load(Ordering::Relaxed), self.sealed.1.load(Ordering::Relaxed));
        let average = bytes.checked_div(count).unwrap_or(56);
        let each = average + average / 8 + 1;
        (records as u64).saturating_mul(each).div_ceil(self.identity.segment_bytes as u64) as usize + 1
    }

    /// Whether so little is free that the flusher should retire old records: at the latest when writers get nothing any more.
    pub(crate) fn is_low(&self) -> bool {
        let (free, mark) = (self.space.free(), self.low_mark.load(Ordering::Relaxed));
        // The reserve grows with what is dirty, also between two checkpoints, which set the mark.
        free < mark.max(self.space.reserve() + 2)
    }

    /// So many entries are dirty: keeps room for copies of them, and asks for a larger file if they are too many for this one.
    ///
    /// Copies are written while the old records are still needed, so the file is made three times as large as what is dirty.
    pub(crate) fn expect_dirty(&self, entries: usize) {
        let (need, total) = (self.segments_for(entries), self.space.total());
        self.space.set_reserve(need.clamp(2, (total / 2).max(2)));
        if total < need * 5 / 2 {
            self.ask_for(need * 3);
        }
    }

    /// There is not even room for copies.
    pub(crate) fn ask_for_more(&self) {
        let total = self.space.total();
        self.ask_for(total + (total / 4).max(1));
    }

    fn ask_for(&self, segments: usize) {
        let total = self.space.total();
        let segments = segments.min(self.max_segments);
        // Relaxed: the lock in `ask_for_growth` hands it over.
        if segments > total && self.wanted_segments.fetch_max(segments, Ordering::Relaxed) <= total {
            self.commits.ask_for_growth();
        }
    }

    /// A checkpoint has done what it could: says what counts as low from now on. `returning` segments are dead, but not
    /// free yet.
    ///
    /// If `all` that is dirty was written anew and writers get next to nothing of what that has freed, the file is too small,
    /// whatever the average record says: large ones leave much of a segment empty.
    pub(crate) fn retune(&self, returning: usize, all: bool) {
        if all && self.space.free() + returning < self.space.reserve() + 2 {
            self.ask_for_more();
        }
        let (free, total) = (self.space.free() + returning, self.space.total());
        let low = (free / 2).max(self.space.reserve() + 2).min(total / 2);
        self.low_mark.store(low, Ordering::Relaxed);
    }

    /// Whether every write waits for its sync.
    pub(crate) fn syncs_always(&self) -> bool {
        self.policy == JournalSync::Always
    }

    /// Whether syncs have to be kept in order with the backend and the epochs.
    pub(crate) fn is_durable(&self) -> bool {
        // SeqCst, with the store in `request_sync`: a checkpoint that still finds it off has made its copies before the
        // sync that switched it on began, so that sync covers them.
        self.is_durable.load(Ordering::SeqCst)
    }

    /// Asks for a sync of everything that is LIVE now.
    pub(crate) fn request_sync(&self) -> SyncNumber {
        if !self.is_durable() {
            // The first sync covers everything so far; what comes is kept in order.
            self.is_durable.store(true, Ordering::SeqCst);
        }
        self.commits.request()
    }

    /// The sync after which a retired epoch is so for good. Where syncs come by themselves and there is room, that one
    /// is waited for; else it is asked for.
    pub(crate) fn sync_of_retirement(&self) -> SyncNumber {
        match self.policy {
            JournalSync::Every(_) if !self.is_low() => self.commits.next_number(),
            _ => self.commits.request(),
        }
    }

    /// Before the backend is given something: no older value may come back over it after a loss of power.
    ///
    /// Also if nothing seems to have been written: what is in the batch may have been published a moment ago by somebody who
    /// has not got to saying so.
    ///
    /// Waits through failures until they are healed. A disk that stays broken must not keep the database from what is dirty,
    /// so that has an end, and with it this promise. `false`: the cache has ended meanwhile, and nothing may be given.
    pub(crate) fn sync_before_batch(&self) -> bool {
        if !self.is_durable() || fault::broken("sync-before-batch") {
            return true;
        }
        self.commits.wait_in_order(self.commits.request(), BATCH_PATIENCE)
    }

    /// Everything of epochs before `target` is dead: one store.
    pub(crate) fn retire(&self, target: u64) {
        let word = format::checked(target, self.salt());
        // Release: whoever finds this word after a kill also finds the copies that it relies on.
        self.superblock.store(live::EPOCH, word, Ordering::Release);
        fault::point("checkpoint: epoch");
        self.superblock.store(live::EPOCH_AGAIN, word, Ordering::Release);
        fault::point("checkpoint: epoch again");
        self.note_written();
        self.counters.retired.fetch_add(1, Ordering::Relaxed);
    }
}

impl Journal {
    /// The journal's thread: syncs, and grows the file. `room` hears of new segments.
    pub(crate) fn keep(&self, room: &Event) {
        let interval = match self.policy {
            JournalSync::Every(interval) => Some(interval.max(Duration::from_millis(1))),
            JournalSync::Never | JournalSync::Always => None,
        };
        let mut last_written = true;
        loop {
            match self.commits.next(interval) {
                commit::Duty::Stop => return,
                commit::Duty::Grow => {
                    if self.grow().is_err() {
                        self.counters.growth_errors.fetch_add(1, Ordering::Relaxed);
                    }
                    room.notify();
                }
                commit::Duty::Interval => {
                    // Once more after the last write was seen: one whose note came too early for its record.
                    let written = self.written.load(Ordering::Relaxed);
                    if written || last_written {
                        self.commits.request();
                    }
                    last_written = written;
                }
                commit::Duty::Sync(number) => {
                    // Before the sync begins: what is written from now on may not be in it.
                    self.written.store(false, Ordering::Relaxed);
                    let outcome = self.sync();
                    self.counters.syncs.fetch_add(1, Ordering::Relaxed);
                    if outcome.is_err() {
                        self.counters.sync_errors.fetch_add(1, Ordering::Relaxed);
                        self.note_written();
                    }
                    self.commits.finish(number, outcome, &self.signal);
                }
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        if fault::broken("sync") {
            return Ok(());
        }
        self.space.release_sealed();
        tape::sync_begins();
        let outcome = if fault::sync_fails() {
            Err(io::Error::other("a sync was told to fail"))
        } else {
            let flushed = self.space.with_area(area::Area::flush);
            flushed.and_then(|()| self.file.as_ref().map_or(Ok(()), std::fs::File::sync_data))
        };
        tape::sync_ended(outcome.is_ok());
        outcome
    }

    /// Makes the file as large as was asked for.
    fn grow(&self) -> io::Result<()> {
        let wanted = self.wanted_segments.swap(0, Ordering::Relaxed);
        self.grow_by(wanted.saturating_sub(self.space.total()))
    }

    /// Makes a segment whole of which the file had a part, with records that may count.
    pub(crate) fn complete(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file::complete(file, &self.identity, self.space.total())?;
        self.space.adjoin(|area| file::adjoin(file, area, &self.identity, 1))
    }

    /// Adds segments, also beyond the limit.
    pub(crate) fn grow_by(&self, more: usize) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| more > 0) else { return Ok(()) };
        // Slow, and without the lock: only this thread grows the file.
        file::lengthen(file, &self.identity, self.space.total(), more)?;
        self.space.grow(|area| file::adjoin(file, area, &self.identity, more))
    }
}
