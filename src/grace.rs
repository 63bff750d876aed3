//! Grace periods: how long what was taken out of everybody's reach may still be in somebody's hands.
//!
//! Whoever reads what others may take away is *pinned* meanwhile ([`Local::pin`]). Whoever has taken something away asks
//! for a [`Moment`], and may use it again when that [is over](Collector::is_over): nobody is pinned any more who was pinned
//! then. It is epoch-based reclamation (Fraser, *Practical lock-freedom*, 2004); the epochs are called *eras* here, because
//! [`epochs`](crate::epochs) are something else.
//!
//! # A pin without a fence
//!
//! A pin is on the way of each read, and has to be seen by others before the reader looks at anything. A fence does that, and
//! makes the processor wait for all that came before: a loop of reads, each of which waits for memory, then has one of them on its
//! way instead of five. So the fence is an asymmetric one: the reader's half only keeps the compiler from reordering, and the
//! other half, in [`Collector::advance`], makes the kernel interrupt every processor that runs a thread of this process
//! (`membarrier`, Linux 4.14). That costs a microsecond, once in several hundred writes. Where it does not exist both halves are
//! fences.
//!
//! # Why three eras
//!
//! Let W take something away, pass the fence F in [`Collector::now`], and read the era `s`. A reader R has seen it
//! before, and was pinned with the era `r` then. That moment is over in era `s + 3`:
//!
//! - Advancing from `s + 1` begins after somebody has read `s + 1`, which W did not yet see, so after F. It has a barrier B. What R
//!   reads after B is what W has left. So R's look, and its pin before it, came before B, and the look at all pins after B
//!   sees R's pin, or one that followed it.
//! - If `r <= s`, era `s + 2` is not reached before R unpins.
//! - If `r = s + 1`, era `s + 3` is not reached before R unpins: advancing from `s + 2` has a later barrier, and sees the pin too.
//! - `r >= s + 2` is impossible: R has read an era that was written after B, and would have seen what W has left.
//!
//! With a fence in each pin two eras would do, because `r = s + 1` were impossible too: R's fence, which comes before its look, would
//! come before F, and W would have read at least what R had read.

use std::{cell::Cell, marker::PhantomData, ptr, ptr::NonNull, sync::Arc};

use crossbeam_utils::CachePadded;

use crate::{
    barrier,
    sync::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence},
};

/// How many eras later nobody is pinned any more who was pinned in one.
const ERAS: u64 = if cfg!(mutant = "short_grace") { 1 } else { 3 };

/// Not pinned. Eras begin later.
const UNPINNED: u64 = 0;
const FIRST: u64 = ERAS + 1;

/// A point in time after which grace has to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Before anybody was pinned.
    pub(crate) const LONG_AGO: Moment = Moment(0);

    /// Which of `lists` lists belongs to it, where each has its turn.
    pub(crate) fn turn(self, lists: usize) -> usize {
        self.0 as usize % lists
    }
}

/// All who pin themselves to look at the same things.
#[derive(Clone)]
pub(crate) struct Collector(Arc<Registry>);

struct Registry {
    era: CachePadded<AtomicU64>,
    /// The first record of a list that only grows.
    pins: AtomicPtr<Pin>,
}

/// What others see of one thread. Never freed before the registry, used again by another thread.
struct Pin {
    /// The era in which the thread was pinned; 0: it is not.
    since: CachePadded<AtomicU64>,
    is_taken: AtomicBool,
    next: *mut Pin,
}

// SAFETY: `next` is written before the record is in the list, and never again.
unsafe impl Send for Pin {}
// SAFETY: as above.
unsafe impl Sync for Pin {}

impl Registry {
    fn pins(&self) -> impl Iterator<Item = &Pin> {
        // Acquire: pairs with the Release in `enlist`; the record's fields.
        let mut next = self.pins.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: records come from boxes, and live as long as `self`.
            let pin = unsafe { next.as_ref() }?;
            next = pin.next;
            Some(pin)
        })
    }

    fn enlist(&self) -> NonNull<Pin> {
        // Acquire: pairs with the Release in `Inner::leave`: who had it before is done with it.
        let take =
            |pin: &&Pin| !pin.is_taken.load(Ordering::Relaxed) && !pin.is_taken.swap(true, Ordering::Acquire);
        if let Some(pin) = self.pins().find(take) {
            return NonNull::from(pin);
        }
        let since = CachePadded::new(AtomicU64::new(UNPINNED));
        let pin =
            Box::into_raw(Box::new(Pin { since, is_taken: AtomicBool::new(true), next: ptr::null_mut() }));
        let mut first = self.pins.load(Ordering::Relaxed);
        loop {
            // SAFETY: it came from a box and is not in the list yet.
            unsafe { (*pin).next = first };
            // Release: pairs with the Acquire in `pins`. Nothing is ever taken out, so no record comes back between the load
            // and this.
            match self.pins.compare_exchange_weak(first, pin, Ordering::Release, Ordering::Relaxed) {
                // SAFETY: a box is not null.
                Ok(_) => return unsafe { NonNull::new_unchecked(pin) },
                Err(now) => first = now,
            }
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let mut next = self.pins.load(Ordering::Relaxed);
        while !next.is_null() {
            // SAFETY: it came from a box, and nobody is left who could know it: whoever has one holds the registry.
            next = unsafe { Box::from_raw(next) }.next;
        }
    }
}

impl Collector {
    pub(crate) fn new() -> Self {
        barrier::prepare();
        Collector(Arc::new(Registry {
            era: CachePadded::new(AtomicU64::new(FIRST)),
            pins: AtomicPtr::new(ptr::null_mut()),
        }))
    }

    /// The calling thread's way to pin itself.
    pub(crate) fn register(&self) -> Local {
        let inner = Inner {
            registry: Arc::clone(&self.0),
            pin: self.0.enlist(),
            depth: Cell::new(0),
            is_held: Cell::new(true),
        };
        Local(NonNull::from(Box::leak(Box::new(inner))))
    }

    /// This moment, for what the caller has just taken out of reach.
    pub(crate) fn now(&self) -> Moment {
        // SeqCst: F in the argument above. Pairs with the barrier in `advance`.
        if !cfg!(mutant = "now_fence") {
            fence(Ordering::SeqCst);
        }
        Moment(self.0.era.load(Ordering::Relaxed))
    }

    /// The last moment that is over for all.
    pub(crate) fn over(&self) -> Moment {
        // Acquire: pairs with the Release in `advance`; whoever was pinned is done.
        Moment(self.0.era.load(Ordering::Acquire) - ERAS)
    }

    /// Whether nobody is pinned any more who was pinned at that moment.
    pub(crate) fn is_over(&self, moment: Moment) -> bool {
        moment <= self.over()
    }

    /// Goes on to the next era if nobody is pinned in an earlier one. Costs a system call, and each processor an interruption that
    /// runs a thread of this process. `false`: not yet, or somebody else did.
    pub(crate) fn advance(&self) -> bool {
        let registry = &*self.0;
        // Acquire: what advanced to it comes before our barrier.
        let era = registry.era.load(Ordering::Acquire);
        // B in the argument above. Pairs with the light half in `pin` and the fence in `now`.
        if !barrier::heavy() {
            return false;
        }
        // Acquire: pairs with the Release stores of `pin` and of the guard's drop; what was read before comes before what
        // is done when the moment is over.
        let mut pinned = registry.pins().map(|pin| pin.since.load(Ordering::Acquire));
        if !pinned.all(|since| since == UNPINNED || since == era) {
            return false;
        }
        // AcqRel: hands on what we have seen of the others, and what those saw who advanced before.
        registry.era.compare_exchange(era, era + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A thread's part in a collector. Stays on its thread.
pub(crate) struct Local(NonNull<Inner>);

struct Inner {
    registry: Arc<Registry>,
    pin: NonNull<Pin>,
    /// How many guards there are.
    depth: Cell<usize>,
    /// Whether there is a `Local`. The last of it and all guards frees this.
    is_held: Cell<bool>,
}

impl Inner {
    fn pin(&self) -> &Pin {
        // SAFETY: the registry, which we hold, keeps it.
        unsafe { self.pin.as_ref() }
    }

    /// Frees what nobody holds any more.
    ///
    /// # Safety
    ///
    /// `this` came from `register`, and is not used by the caller any more.
    unsafe fn leave(this: NonNull<Inner>) {
        // SAFETY: nobody has freed it: that happens here, when the last of the holders, all on this thread, is gone.
        let inner = unsafe { Box::from_raw(this.as_ptr()) };
        // Release: pairs with the Acquire in `enlist`.
        inner.pin().is_taken.store(false, Ordering::Release);
    }
}

impl Local {
    fn inner(&self) -> &Inner {
        // SAFETY: not freed as long as there is a `Local`.
        unsafe { self.0.as_ref() }
    }

    /// Pins this thread until the guard is dropped. May be done again inside.
    #[inline]
    pub(crate) fn pin(&self) -> Guard {
        let inner = self.inner();
        let depth = inner.depth.get();
        inner.depth.set(depth + 1);
        if depth == 0 {
            // Acquire: see the argument above, `r >= s + 2`. Pairs with the Release in `advance`.
            let era = inner.registry.era.load(Ordering::Acquire);
            // Release: who sees this pin sees what we did before it; the store that ended the last one would no longer say
            // so.
            inner.pin().since.store(era, Ordering::Release);
            // Pairs with the heavy half in `advance`: it sees this pin, or we see what it has let others take away.
            if !cfg!(mutant = "pin_barrier") {
                barrier::light();
            }
        }
        Guard { inner: self.0.as_ptr(), _stays: PhantomData }
    }

    /// Whether this thread holds a guard.
    pub(crate) fn is_pinned(&self) -> bool {
        self.inner().depth.get() > 0
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.inner().is_held.set(false);
        if !self.is_pinned() {
            // SAFETY: it came from `register`; this was the `Local`, and there is no guard.
            unsafe { Inner::leave(self.0) };
        }
    }
}

/// This thread is pinned: what it reads stays as it is.
pub(crate) struct Guard {
    /// Null: it pins nothing (in models).
    inner: *const Inner,
    _stays: PhantomData<*const ()>,
}

impl Guard {
    /// A guard that pins nothing.
    #[cfg(all(test, crossbeam_loom))]
    pub(crate) fn of_nothing() -> &'static Guard {
        struct Nothing(Guard);
        // SAFETY: it has no thread that it belongs to.
        unsafe impl Sync for Nothing {}
        static NOTHING: Nothing = Nothing(Guard { inner: ptr::null(), _stays: PhantomData });
        &NOTHING.0
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: not freed as long as there is a guard.
        let Some(inner) = (unsafe { self.inner.as_ref() }) else { return };
        let depth = inner.depth.get() - 1;
        inner.depth.set(depth);
        if depth == 0 {
            // Release: pairs with the Acquire in `advance`; we are done with what we read.
            let order = if cfg!(mutant = "unpin_relaxed") { Ordering::Relaxed } else { Ordering::Release };
            inner.pin().since.store(UNPINNED, order);
            if !inner.is_held.get() {
                // SAFETY: it came from `register`; the `Local` is gone, and this was the last guard.
                unsafe { Inner::leave(NonNull::from(inner)) };
            }
        }
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    /// Goes on as far as it gets.
    fn advance(collector: &Collector) -> usize {
        (0..10).filter(|_| collector.advance()).count()
    }

    #[test]
    fn a_moment_is_over_when_nobody_is_pinned_who_was() {
        let collector = Collector::new();
        let (reader, other) = (collector.register(), collector.register());
        let guard = reader.pin();
        let moment = collector.now();
        assert_eq!(advance(&collector), 1);
        assert!(!collector.is_over(moment) && collector.is_over(Moment::LONG_AGO));
        // Who comes later holds it up only for a while.
        let later = other.pin();
        drop(guard);
        assert_eq!(advance(&collector), 1);
        drop(later);
        assert_eq!(advance(&collector), 10);
        assert!(collector.is_over(moment));
    }

    #[test]
    fn pins_nest_and_outlive_what_they_were_made_with() {
        let collector = Collector::new();
        let local = collector.register();
        let (outer, inner) = (local.pin(), local.pin());
        drop(outer);
        assert!(local.is_pinned());
        drop(local);
        assert_eq!(advance(&collector), 1);
        drop(inner);
        assert_eq!(advance(&collector), 10);
        // Its record is used again.
        let first = collector.register();
        drop(first);
        let second = collector.register();
        assert_eq!(collector.0.pins().count(), 1);
        drop(second);
    }
}
