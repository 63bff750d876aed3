//! Which segments are free, which are full, and when a full one may be used again.
//!
//! A segment is free, open (it belongs to the lane that writes it), sealed, or dead and waiting: for the grace period
//! of those who may still flip a record's state, and for the retired epoch to be on stable storage.
//!
//! A sync makes each page that it writes read-only again: it interrupts the processors that have it in their page tables, and
//! the next store into it traps. That costs, for each page, as much as dozens of writes. So before a sync the full segments
//! leave the page table as a whole, which interrupts once, and whoever takes one has all its pages entered again at once.

use super::area::{Area, Pages, Words};
use std::collections::HashSet;

use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

/// A segment that its holder alone writes.
pub(crate) struct Segment {
    pub(crate) index: u32,
    pub(crate) words: Words,
    /// If its pages are not in the page table.
    pub(crate) released: Option<Pages>,
}

struct Pool {
    area: Area,
    free: Vec<u32>,
    /// Each with the newest epoch of its records.
    sealed: Vec<(u32, u64)>,
    /// Segments that were sealed since the last sync began.
    written: Vec<u32>,
    /// Segments that are not in the page table.
    released: HashSet<u32>,
}

pub(crate) struct Space {
    pool: Mutex<Pool>,
    /// How many are free, for a look without the lock.
    free: AtomicUsize,
    total: AtomicUsize,
    /// How many of the free ones only the flusher may take: without space for copies nothing would ever become free.
    reserve: AtomicUsize,
}

impl Space {
    /// `sealed`: the segments with records that may be needed; all others are free.
    pub(crate) fn new(area: Area, sealed: Vec<(u32, u64)>, reserve: usize) -> Self {
        let taken: std::collections::HashSet<u32> = sealed.iter().map(|(index, _)| *index).collect();
        let total = area.segments();
        // The low ones are taken first.
        let free: Vec<u32> = (0..total as u32).rev().filter(|index| !taken.contains(index)).collect();
        Space {
            free: AtomicUsize::new(free.len()),
            total: AtomicUsize::new(total),
            reserve: AtomicUsize::new(reserve),
            pool: Mutex::new(Pool { area, free, sealed, written: Vec::new(), released: HashSet::new() }),
        }
    }

    /// A free segment for a writer. `None`: there is none that writers may have.
    pub(crate) fn take(&self) -> Option<Segment> {
        // Relaxed, here and below: hints, the lock decides.
        self.take_above(self.reserve.load(Ordering::Relaxed))
    }

    /// A free segment for the flusher.
    pub(crate) fn take_reserved(&self) -> Option<Segment> {
        self.take_above(0)
    }

    fn take_above(&self, reserve: usize) -> Option<Segment> {
        let mut pool = lock(&self.pool);
        if pool.free.len() <= reserve {
            return None;
        }
        let index = pool.free.pop()?;
        self.free.store(pool.free.len(), Ordering::Relaxed);
        let released = if pool.released.remove(&index) { pool.area.pages(index) } else { None };
        Some(Segment { index, words: pool.area.segment(index), released })
    }

    /// Takes what was sealed since the last time out of the page table: it will be synced now.
    pub(crate) fn release_sealed(&self) {
        let pages: Vec<Pages> = {
            let mut pool = lock(&self.pool);
            let Pool { area, written, released, .. } = &mut *pool;
            released.extend(written.iter());
            written.drain(..).filter_map(|index| area.pages(index)).collect()
        };
        pages.iter().for_each(Pages::release);
    }

    /// A segment is full.
    pub(crate) fn seal(&self, index: u32, newest: u64) {
        if crate::fault::broken("sealed-until-retired") {
            return self.give(&[index]);
        }
        let mut pool = lock(&self.pool);
        pool.sealed.push((index, newest));
        pool.written.push(index);
    }

    /// The sealed segments in which every record is of an epoch before `retired`. They are the caller's to give back.
    pub(crate) fn retire(&self, retired: u64) -> Vec<u32> {
        let mut pool = lock(&self.pool);
        let (dead, kept): (Vec<_>, Vec<_>) = pool.sealed.drain(..).partition(|(_, newest)| *newest < retired);
        pool.sealed = kept;
        dead.into_iter().map(|(index, _)| index).collect()
    }

    /// Gives back what nobody can reach any more.
    pub(crate) fn give(&self, segments: &[u32]) {
        let mut pool = lock(&self.pool);
        pool.free.extend_from_slice(segments);
        self.free.store(pool.free.len(), Ordering::Relaxed);
    }

    /// Adds segments with `extend`, which returns how many it has added.
    pub(crate) fn grow<E>(&self, extend: impl FnOnce(&mut Area) -> Result<usize, E>) -> Result<(), E> {
        let mut pool = lock(&self.pool);
        let before = pool.area.segments();
        let more = extend(&mut pool.area)?;
        pool.free.extend((before as u32..(before + more) as u32).rev());
        self.free.store(pool.free.len(), Ordering::Relaxed);
        self.total.store(before + more, Ordering::Relaxed);
        Ok(())
    }

    /// Adds segments with `extend` that are among the sealed ones already.
    pub(crate) fn adjoin<E>(&self, extend: impl FnOnce(&mut Area) -> Result<usize, E>) -> Result<(), E> {
        let mut pool = lock(&self.pool);
        extend(&mut pool.area)?;
        self.total.store(pool.area.segments(), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    pub(crate) fn set_reserve(&self, segments: usize) {
        self.reserve.store(segments, Ordering::Relaxed);
    }

    pub(crate) fn reserve(&self) -> usize {
        self.reserve.load(Ordering::Relaxed)
    }

    /// Runs `body` with the maps.
    pub(crate) fn with_area<R>(&self, body: impl FnOnce(&Area) -> R) -> R {
        body(&lock(&self.pool).area)
    }
}
