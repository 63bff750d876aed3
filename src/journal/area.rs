//! The journal's memory: maps of the file, cut into segments of atomic words.

use std::io;
#[cfg(not(crossbeam_loom))]
use std::sync::Arc;

use super::{format::RECORD_HEADER, tape};
use crate::{
    memory::prefetch,
    sync::{AtomicU64, Ordering},
};

/// The words of one segment. Stays mapped, and at its place, for as long as the [`Area`] it came from.
#[derive(Clone, Copy)]
pub(crate) struct Words(*const [AtomicU64]);

// SAFETY: it is a shared reference to atomics whose lifetime is a promise of `Area` instead of the compiler's.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn all(&self) -> &[AtomicU64] {
        // SAFETY: made by `Area` from memory that it keeps mapped until it is dropped, and whoever holds a `Words` also
        // holds the journal that owns the area.
        unsafe { &*self.0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn store(&self, index: usize, word: u64, order: Ordering) {
        store(&self.all()[index], word, order);
    }

    /// The words of one record: `None` if they are not all there.
    pub(crate) fn record(&self, start: usize, len: usize) -> Option<RecordWords> {
        let words = self.all().get(start..start.checked_add(len)?)?;
        let (header, payload) = words.split_first_chunk()?;
        Some(RecordWords { header: std::ptr::from_ref(header), payload: std::ptr::from_ref(payload) })
    }

    #[cfg(crossbeam_loom)]
    pub(crate) fn load(&self, index: usize, order: Ordering) -> u64 {
        u64::from_le(self.all()[index].load(order))
    }

    /// Fetches the line of this word, if there is one, so that it can be written without waiting for it.
    #[inline]
    pub(crate) fn prefetch(&self, index: usize) {
        if let Some(cell) = self.all().get(index) {
            prefetch(cell);
        }
    }
}

/// The words of one record, found and checked once. Lives as long as the [`Words`] that it came from.
#[derive(Clone, Copy)]
pub(crate) struct RecordWords {
    header: *const [AtomicU64; RECORD_HEADER],
    payload: *const [AtomicU64],
}

// SAFETY: as for `Words`.
unsafe impl Send for RecordWords {}
// SAFETY: as above.
unsafe impl Sync for RecordWords {}

impl RecordWords {
    pub(crate) fn header(&self) -> &[AtomicU64; RECORD_HEADER] {
        // SAFETY: as in `Words::all`, of which this is a part.
        unsafe { &*self.header }
    }

    pub(crate) fn payload(&self) -> &[AtomicU64] {
        // SAFETY: as above.
        unsafe { &*self.payload }
    }
}

/// Makes a store into the journal.
#[inline]
pub(crate) fn store(cell: &AtomicU64, word: u64, order: Ordering) {
    tape::store(std::ptr::from_ref(cell).addr() as u64, word, || cell.store(word.to_le(), order));
}

/// The place of one word of the journal, as a number that fits into an atomic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WordAddress(pub(crate) u64);

impl WordAddress {
    pub(crate) fn of(cell: &AtomicU64) -> Self {
        WordAddress(std::ptr::from_ref(cell).addr() as u64)
    }

    /// Stores a word there.
    ///
    /// # Safety
    ///
    /// The address came from [`WordAddress::of`], the area that it is in is still there, and its record is not yet space
    /// for others: the caller was pinned when it read the address from a table word's slot whose flag was off.
    pub(crate) unsafe fn store(self, word: u64, order: Ordering) {
        let cell = std::ptr::with_exposed_provenance::<AtomicU64>(self.0 as usize);
        // SAFETY: the caller's promise; atomics may be stored to through a shared reference.
        store(unsafe { &*cell }, word, order);
    }
}

/// All maps of a journal. Grows by new maps; never shrinks or moves one.
pub(crate) struct Area {
    #[cfg(not(crossbeam_loom))]
    maps: Vec<Arc<memmap2::MmapRaw>>,
    #[cfg(crossbeam_loom)]
    maps: Vec<Box<[AtomicU64]>>,
    segments: Vec<Words>,
    superblock: Words,
}

/// A segment's pages. What is told to the system about them is only advice, and changes nothing of what they hold.
pub(crate) struct Pages {
    #[cfg(not(crossbeam_loom))]
    map: Arc<memmap2::MmapRaw>,
    #[cfg(not(crossbeam_loom))]
    start: usize,
    #[cfg(not(crossbeam_loom))]
    len: usize,
}

impl Pages {
    /// They are about to be written: all page faults at once, instead of one in the first store to each.
    pub(crate) fn populate(&self) {
        #[cfg(all(target_os = "linux", not(crossbeam_loom)))]
        let _ = self.map.advise_range(memmap2::Advice::PopulateWrite, self.start, self.len);
    }

    /// They will not be written soon: takes them out of the page table, all at once.
    pub(crate) fn release(&self) {
        #[cfg(all(target_os = "linux", not(crossbeam_loom)))]
        // SAFETY: the map is shared and backed by a file, so the pages' content stays in the system's cache, and the next
        // access finds it there.
        let _ = unsafe {
            self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.start, self.len)
        };
    }
}

#[cfg(not(crossbeam_loom))]
impl Area {
    /// Maps a file of a superblock and `segments` segments.
    pub(crate) fn open(file: &std::fs::File, segments: usize, segment_bytes: usize) -> io::Result<Self> {
        tape::opened(file);
        let map = map(file, 0, super::format::SUPERBLOCK)?;
        let superblock = cut(&map, 0, super::format::SUPERBLOCK);
        let mut area = Area { maps: vec![Arc::new(map)], segments: Vec::new(), superblock };
        area.extend(file, segments, segment_bytes)?;
        Ok(area)
    }

    /// Maps segments that were appended to the file.
    pub(crate) fn extend(
        &mut self,
        file: &std::fs::File,
        more: usize,
        segment_bytes: usize,
    ) -> io::Result<()> {
        if more == 0 {
            return Ok(());
        }
        let start = super::format::SUPERBLOCK + self.segments.len() * segment_bytes;
        let map = map(file, start as u64, more * segment_bytes)?;
        self.segments.extend((0..more).map(|index| cut(&map, index * segment_bytes, segment_bytes)));
        self.maps.push(Arc::new(map));
        Ok(())
    }

    /// The pages of a segment.
    pub(crate) fn pages(&self, index: u32) -> Option<Pages> {
        let words = self.segments.get(index as usize)?;
        let address = words.all().as_ptr().addr();
        let map = self.maps.iter().rev().find(|map| {
            let start = map.as_ptr().addr();
            (start..start + map.len()).contains(&address)
        })?;
        let start = address - map.as_ptr().addr();
        Some(Pages { map: Arc::clone(map), start, len: words.len() * 8 })
    }
}

#[cfg(not(crossbeam_loom))]
fn map(file: &std::fs::File, offset: u64, len: usize) -> io::Result<memmap2::MmapRaw> {
    let map = memmap2::MmapOptions::new().offset(offset).len(len).map_raw(file)?;
    // Page faults now instead of in the first write to each page. Only advice: old kernels do not know it.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::PopulateWrite);
    tape::mapped(map.as_ptr().addr() as u64, len, offset);
    Ok(map)
}

#[cfg(not(crossbeam_loom))]
fn cut(map: &memmap2::MmapRaw, offset: usize, len: usize) -> Words {
    debug_assert!(offset + len <= map.len() && offset.is_multiple_of(8));
    // SAFETY: within the map, as asserted.
    let start = unsafe { map.as_mut_ptr().add(offset) }.cast::<AtomicU64>();
    // Addresses of words are kept as numbers.
    let _ = start.expose_provenance();
    Words(std::ptr::slice_from_raw_parts(start, len / 8))
}

#[cfg(crossbeam_loom)]
impl Area {
    /// Memory instead of a file, for models.
    pub(crate) fn for_model(segments: usize, words: usize) -> Self {
        let make = |words| (0..words).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let maps: Vec<Box<[AtomicU64]>> =
            std::iter::once(make(512)).chain((0..segments).map(|_| make(words))).collect();
        let cut = |map: &Box<[AtomicU64]>| {
            let _ = map.as_ptr().expose_provenance();
            Words(std::ptr::from_ref(&**map))
        };
        let segments = maps[1..].iter().map(cut).collect();
        Area { superblock: cut(&maps[0]), segments, maps }
    }

    /// Nothing can be mapped under loom.
    pub(crate) fn open(_: &std::fs::File, _: usize, _: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn extend(&mut self, _: &std::fs::File, _: usize, _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn pages(&self, _: u32) -> Option<Pages> {
        None
    }
}

impl Area {
    pub(crate) fn superblock(&self) -> Words {
        self.superblock
    }

    pub(crate) fn segment(&self, index: u32) -> Words {
        self.segments[index as usize]
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Writes what is dirty to the file's storage where `fdatasync` alone does not.
    pub(crate) fn flush(&self) -> io::Result<()> {
        #[cfg(all(not(crossbeam_loom), not(target_os = "linux")))]
        self.maps.iter().try_for_each(|map| map.flush())?;
        let _ = &self.maps;
        Ok(())
    }
}
