//! Large arrays that start as zeros, in anonymous pages, huge ones where the system has them; and a hint for those who use
//! them.

use std::{io, ops::Deref};

/// Fetches the line at the beginning of a value, so that it can be read and written soon without waiting for it.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(crossbeam_loom), not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: only a hint; it reads and writes nothing, and a processor that does not know it ignores it.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(std::ptr::from_ref(value).cast()) };
    }
    let _ = value;
}

/// Types for which a run of zero bytes is a value.
///
/// # Safety
///
/// All-zero memory must be a valid value of the type, and the type must not need to be dropped.
pub(crate) unsafe trait Zeroable {
    /// The same value, for where memory cannot be mapped.
    #[cfg(crossbeam_loom)]
    fn zero() -> Self;
}

/// A boxed slice of zero values that the kernel hands out page by page on first touch.
pub(crate) struct ZeroedArray<T> {
    #[cfg(not(crossbeam_loom))]
    map: memmap2::MmapMut,
    #[cfg(not(crossbeam_loom))]
    len: usize,
    #[cfg(not(crossbeam_loom))]
    _owns: std::marker::PhantomData<T>,
    #[cfg(crossbeam_loom)]
    values: Box<[T]>,
}

#[cfg(not(crossbeam_loom))]
impl<T: Zeroable> ZeroedArray<T> {
    /// Maps `len` zero values. Blocks only as long as the kernel takes to reserve the addresses.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?.max(1);
        // A mapping starts at a page, which satisfies every alignment used here.
        const { assert!(align_of::<T>() <= 4096) };
        let map = memmap2::MmapMut::map_anon(bytes)?;
        // Random access over many small pages is bounded by address translation; huge pages lift that. It is only
        // advice: without them everything works, slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, len, _owns: std::marker::PhantomData })
    }
}

#[cfg(crossbeam_loom)]
impl<T: Zeroable> ZeroedArray<T> {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        Ok(Self { values: (0..len).map(|_| T::zero()).collect() })
    }
}

impl<T> Deref for ZeroedArray<T> {
    type Target = [T];

    #[cfg(not(crossbeam_loom))]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is at least `len * size_of::<T>()` bytes, page-aligned, lives as long as `self`, and was
        // zero when it was made, which `Zeroable` makes a valid `T`. Nobody holds a `&mut` to it: the map is private
        // to this type, which only ever hands out shared references.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<T>(), self.len) }
    }

    #[cfg(crossbeam_loom)]
    fn deref(&self) -> &[T] {
        &self.values
    }
}

// SAFETY: the array owns its values like a `Box<[T]>` does.
unsafe impl<T: Send> Send for ZeroedArray<T> {}
// SAFETY: as above, it only hands out `&[T]`.
unsafe impl<T: Sync> Sync for ZeroedArray<T> {}

// SAFETY: an atomic integer of zero bytes is the integer zero.
unsafe impl Zeroable for crate::sync::AtomicU64 {
    #[cfg(crossbeam_loom)]
    fn zero() -> Self {
        Self::new(0)
    }
}
// SAFETY: an atomic integer of zero bytes is the integer zero.
unsafe impl Zeroable for crate::sync::AtomicU32 {
    #[cfg(crossbeam_loom)]
    fn zero() -> Self {
        Self::new(0)
    }
}
