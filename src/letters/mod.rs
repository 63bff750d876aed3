//! Dead letters: writes that the backend has refused for good, kept until somebody decides about them.
//!
//! With a journal they are in a file beside it ([`area`]), which says all of each (its bytes, the error, when, how
//! often), and are not dirty any more: they take no place in cache and journal, and hold up neither a flush nor `close`.
//! A letter is durable before its entry stops being dirty. Without a journal, and when the file is full or cannot be
//! written, the entry stays where it is, dirty and *parked*, and only what the backend said of it is noted here.
//!
//! Everything here is bytes and places; the cache's own module `letters` speaks of keys and values.

mod area;
mod closed;
mod error;
mod format;
mod record;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    BackendError, ErrorClass,
    sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock},
    table::Position,
};

pub(crate) use area::{Area, Stored, Unkept, Wanted, beside};
pub use closed::{ClosedDeadLetters, DeadLetterEntry};
pub use error::DeadLetterError;
pub(crate) use format::Identity;
pub(crate) use record::Letter;
pub use record::State;

/// Something in a file of dead letters that nobody has written like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// Where it begins, in bytes from the beginning of the file.
    pub offset: u64,
    /// How many bytes are no whole letter.
    pub bytes: u64,
    /// Whether no whole letter follows: what a crash in the middle of an append leaves. Cut off.
    pub is_tail: bool,
}

/// The time by the wall clock, in milliseconds since the Unix epoch; 0 before that.
pub(crate) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Ids of parked entries are above this, so that they are never those of letters. They are good for one life of a cache.
const PARKED: u64 = 1 << 63;

/// What is known of a parked entry, beside what the table holds.
#[derive(Debug, Clone)]
pub(crate) struct Parked {
    pub(crate) id: u64,
    pub(crate) at: Position,
    pub(crate) version: u64,
    pub(crate) class: ErrorClass,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) first_dirty: u64,
    pub(crate) refused: u64,
}

/// The parked entries, by their ids and by their places.
#[derive(Default)]
struct Lot {
    entries: BTreeMap<u64, Parked>,
    by_place: HashMap<Position, u64>,
    last_id: u64,
}

/// Everything that was refused for good.
pub(crate) struct Letters {
    /// `None`: there is no journal.
    area: Option<Mutex<Area>>,
    lot: Mutex<Lot>,
    /// How many letters are open: a load looks for one of its key only if there are any.
    open: AtomicUsize,
    bytes: AtomicU64,
    /// Letters that could not be written, for want of room, or because the disk refused.
    unkept: AtomicU64,
    /// Refusals that no `flush` has been told of yet.
    untold: Mutex<Option<(usize, BackendError)>>,
}

impl Letters {
    pub(crate) fn new(area: Option<Area>) -> Self {
        let letters = Letters {
            area: area.map(Mutex::new),
            lot: Mutex::new(Lot::default()),
            open: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            unkept: AtomicU64::new(0),
            untold: Mutex::new(None),
        };
        letters.with(|_| ());
        letters
    }

    /// Whether letters are durable here.
    pub(crate) fn has_area(&self) -> bool {
        self.area.is_some()
    }

    /// Does something with the area, under its lock, and counts what is in it then. May wait for the disk.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Area) -> R) -> Option<R> {
        let mut area = lock(self.area.as_ref()?);
        let done = act(&mut area);
        // Release: whoever finds a letter counted finds it in the area, and whoever evicts its entry has seen it cleaned, which
        // comes after this.
        self.open.store(area.open_letters().count(), Ordering::Release);
        self.bytes.store(area.bytes(), Ordering::Relaxed);
        Some(done)
    }

    /// How many letters are open.
    pub(crate) fn open(&self) -> usize {
        // Acquire: pairs with the Release in `with`.
        self.open.load(Ordering::Acquire)
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many could not be written.
    pub(crate) fn unkept(&self) -> u64 {
        self.unkept.load(Ordering::Relaxed)
    }

    pub(crate) fn count_unkept(&self, more: usize) {
        self.unkept.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// What a reader of this key is to see in place of the backend's row, if that is anything: the outer `Option`.
    pub(crate) fn overlay(&self, key: &[u8]) -> Option<Option<Box<[u8]>>> {
        let area = lock(self.area.as_ref()?);
        area.newest_open(key).map(|letter| letter.value.clone())
    }

    /// Whether this version of a key, or a newer one, has been a letter.
    pub(crate) fn covers(&self, key: &[u8], version: u64) -> bool {
        self.area.as_ref().is_some_and(|area| lock(area).covers(key, version))
    }

    /// The backend has these: notes it in the letters of their keys, durably when this returns.
    pub(crate) fn resolve(&self, stored: &[Stored<'_>]) -> std::io::Result<()> {
        if self.open() == 0 {
            return Ok(());
        }
        self.with(|area| area.resolve(stored, wall_clock())).unwrap_or(Ok(0)).map(drop)
    }

    /// Notes that the entry at this place was refused and stays there. `noted.id` does not matter.
    pub(crate) fn park(&self, noted: Parked) {
        let mut lot = lock(&self.lot);
        let id = match lot.by_place.get(&noted.at) {
            Some(id) => *id,
            None => {
                lot.last_id += 1;
                lot.last_id | PARKED
            }
        };
        let before = lot.entries.get(&id).filter(|before| before.version == noted.version);
        let first_dirty =
            before.map_or(noted.first_dirty, |before| before.first_dirty.min(noted.first_dirty));
        lot.by_place.insert(noted.at, id);
        lot.entries.insert(id, Parked { id, first_dirty, ..noted });
    }

    /// Nothing is parked at these places any more.
    pub(crate) fn unpark(&self, places: impl IntoIterator<Item = Position>) {
        let mut lot = lock(&self.lot);
        if lot.entries.is_empty() {
            return;
        }
        for at in places {
            if let Some(id) = lot.by_place.remove(&at) {
                lot.entries.remove(&id);
            }
        }
    }

    /// All notes of parked entries. Some may be out of date: what counts is the version at the place.
    pub(crate) fn parked(&self) -> Vec<Parked> {
        lock(&self.lot).entries.values().cloned().collect()
    }

    pub(crate) fn parked_with(&self, id: u64) -> Option<Parked> {
        lock(&self.lot).entries.get(&id).cloned()
    }

    /// The next flush will tell of so many refusals.
    pub(crate) fn tell_later(&self, count: usize, cause: &BackendError) {
        let mut untold = lock(&self.untold);
        let before = untold.take().map_or(0, |(count, _)| count);
        *untold = Some((before + count, cause.clone()));
    }

    /// One of the refusals that a flush would tell of has been told of otherwise.
    pub(crate) fn untell(&self) {
        let mut untold = lock(&self.untold);
        *untold = untold.take().and_then(|(count, cause)| (count > 1).then(|| (count - 1, cause)));
    }

    /// What no flush has told of yet.
    pub(crate) fn take_untold(&self) -> Option<(usize, BackendError)> {
        lock(&self.untold).take()
    }
}

/// Moments of the flusher's clock as times of the wall clock.
#[derive(Clone, Copy)]
pub(crate) struct WallTime {
    /// The same moment by both.
    pub(crate) now: Duration,
    pub(crate) wall: u64,
}

impl WallTime {
    pub(crate) fn of(self, moment: Duration) -> u64 {
        self.wall.saturating_sub(self.now.saturating_sub(moment).as_millis() as u64)
    }
}
