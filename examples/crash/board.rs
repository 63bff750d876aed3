//! What outlives a child: expectations, counts and violations in a file that parent and children have mapped.
//!
//! A store into it needs no system call, and is there for whoever looks after a kill, like one into the journal.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use super::model::{CELLS, KEYS, MAX_VALUE};

/// What is known of the writes of one key by one writer.
#[repr(C, align(64))]
pub(crate) struct Cell {
    /// The highest number that was given to a write.
    pub(crate) issued: AtomicU64,
    /// The write that was begun last; the same as `acked`: none is in progress.
    pub(crate) pending: AtomicU64,
    /// The last write that was acknowledged, or found after a kill.
    pub(crate) acked: AtomicU64,
    /// The version that it got.
    pub(crate) version: AtomicU64,
    /// The highest number that any reader has seen.
    pub(crate) seen: AtomicU64,
}

impl Cell {
    pub(crate) fn is_in_progress(&self) -> bool {
        self.pending.load(Ordering::Acquire) != self.acked.load(Ordering::Acquire)
    }
}

/// A row of the table backend: two copies and a word that says which one counts, so that a kill leaves the old or the new.
#[repr(C, align(64))]
pub(crate) struct Row {
    pub(crate) which: AtomicU64,
    pub(crate) copies: [Copy; 2],
}

/// A value's length plus one (zero: no row), and its bytes in words.
#[repr(C)]
pub(crate) struct Copy {
    pub(crate) length: AtomicU64,
    pub(crate) words: [AtomicU64; MAX_VALUE / 8],
}

/// What is counted on the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Count {
    Opened,
    Acks,
    Removes,
    Updates,
    Refused,
    KeysChecked,
    SeenChecked,
    PendingFound,
    LiveReads,
    Recovered,
    WrittenThrough,
    BackendErrors,
    LostAnswers,
    BackendOps,
    // Of the cache's own statistics: overwritten in a life, taken off the board after it.
    Evictions,
    Copies,
    CopiesDown,
    Retirements,
    Overflows,
    JournalBytes,
}

pub(crate) const COUNTS: usize = Count::JournalBytes as usize + 1;

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Violation {
    Lost = 1,
    RolledBack,
    Ghost,
    Garbled,
    StaleRead,
    WrongOld,
    Regression,
    OldVersion,
    Damage,
    NotFlushed,
    NoAnswer,
}

impl Violation {
    pub(crate) fn name(code: u64) -> &'static str {
        match code {
            1 => "an acknowledged write was lost",
            2 => "a read was rolled back",
            3 => "a write came back that was never to be",
            4 => "a value does not belong to its key",
            5 => "a read was older than an acknowledged write or than an earlier read",
            6 => "an update was computed from another value than the last one",
            7 => "the backend was given an older version after a newer one",
            8 => "a version was not newer than that of an earlier write",
            9 => "a kill left what counts as damage",
            10 => "what was drained is not in the backend, or still in the journal",
            11 => "a read failed",
            _ => "an unknown violation",
        }
    }
}

#[repr(C)]
pub(crate) struct Finding {
    pub(crate) what: AtomicU64,
    pub(crate) details: [AtomicU64; 4],
}

pub(crate) const FINDINGS: usize = 16;

/// How far a child has come.
pub(crate) mod phase {
    pub(crate) const OPENING: u64 = 1;
    pub(crate) const CHECKING: u64 = 2;
    pub(crate) const WORKING: u64 = 3;
}

#[repr(C)]
pub(crate) struct Layout {
    pub(crate) phase: AtomicU64,
    /// How many violations there were; the first ones are told.
    pub(crate) violations: AtomicU64,
    pub(crate) findings: [Finding; FINDINGS],
    pub(crate) counts: [AtomicU64; COUNTS],
    /// The newest version of each key that the backend was given.
    pub(crate) handed: [AtomicU64; KEYS],
    pub(crate) cells: [Cell; CELLS],
    pub(crate) rows: [Row; KEYS],
}

/// A mapped board.
pub(crate) struct Board {
    map: memmap2::MmapRaw,
}

impl Board {
    /// Opens the board at a path, or makes an empty one.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(size_of::<Layout>() as u64)?;
        Ok(Board { map: memmap2::MmapOptions::new().len(size_of::<Layout>()).map_raw(&file)? })
    }

    pub(crate) fn count(&self, what: Count, more: u64) {
        self.counts[what as usize].fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn violation(&self, what: Violation, details: [u64; 4]) {
        let index = self.violations.fetch_add(1, Ordering::SeqCst) as usize;
        if let Some(finding) = self.findings.get(index) {
            for (to, detail) in finding.details.iter().zip(details) {
                to.store(detail, Ordering::Relaxed);
            }
            finding.what.store(what as u64, Ordering::Release);
        }
    }

    /// The first violations, in words.
    pub(crate) fn findings(&self) -> Vec<String> {
        let total = self.violations.load(Ordering::SeqCst) as usize;
        let tell = |finding: &Finding| {
            let details: Vec<u64> =
                finding.details.iter().map(|detail| detail.load(Ordering::Relaxed)).collect();
            format!("{} {details:?}", Violation::name(finding.what.load(Ordering::Acquire)))
        };
        self.findings.iter().take(total).map(tell).collect()
    }

    /// Whether a write was in progress when the child died.
    pub(crate) fn is_mid_write(&self) -> bool {
        self.cells.iter().any(Cell::is_in_progress)
    }
}

impl std::ops::Deref for Board {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        // SAFETY: the map is as large as a `Layout`, page-aligned, lives as long as `self`, and nobody shortens the file.
        // A layout is all atomics, for which any bytes are valid and which others may change.
        unsafe { &*self.map.as_ptr().cast::<Layout>() }
    }
}
