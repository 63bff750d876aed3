//! The one place that switches between the real primitives, loom's, and shuttle's.
//!
//! Under `--cfg crossbeam_loom` every atomic is loom's. Loom 0.7 prunes interleavings in which a thread loads an
//! atomic and then writes the same one; `--cfg strong_atomics` turns each load into a `fetch_or(0)` and each store
//! into a `swap`, which brings them back. The weak mode checks orderings, the strong mode interleavings.
//!
//! Under `--cfg shuttle_models` threads, locks and time are shuttle's, and each atomic has a point before it at which another
//! thread may go on: for scenarios that are too large for loom.

#[cfg(shuttle_models)]
mod shuttle;

#[cfg(not(any(crossbeam_loom, shuttle_models)))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(not(shuttle_models))]
pub(crate) use std::{thread, thread_local, time::Instant};

#[cfg(shuttle_models)]
pub(crate) use shuttle::*;

#[cfg(crossbeam_loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(crossbeam_loom)]
pub(crate) use model::*;

/// Whether an exclusive access to plain memory is being modelled; loom has no say in it, the slots carry canaries.
pub(crate) use std::cell::UnsafeCell;

/// Locks a mutex whose data stays valid when a holder panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Once round a loop that waits for another thread's next step.
pub(crate) fn spin() {
    if cfg!(shuttle_models) { thread::yield_now() } else { std::hint::spin_loop() }
}

/// A number that nobody can foresee; under shuttle, where a seed determines everything, always the same.
pub(crate) fn unforeseen() -> u64 {
    use std::hash::BuildHasher;

    if cfg!(shuttle_models) { 1 } else { std::collections::hash_map::RandomState::new().hash_one(0) }
}

#[cfg(crossbeam_loom)]
mod model {
    use loom::sync::atomic as inner;
    pub(crate) use loom::sync::atomic::{AtomicU8, Ordering, fence};

    macro_rules! strong_or_weak {
        ($($name:ident: $int:ty),*) => {$(
            #[derive(Debug, Default)]
            pub(crate) struct $name(inner::$name);

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn new(value: $int) -> Self {
                    Self(inner::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $int {
                    if cfg!(strong_atomics) {
                        self.0.fetch_or(<$int>::default(), Ordering::AcqRel)
                    } else {
                        self.0.load(order)
                    }
                }

                pub(crate) fn store(&self, value: $int, order: Ordering) {
                    if cfg!(strong_atomics) {
                        self.0.swap(value, Ordering::AcqRel);
                    } else {
                        self.0.store(value, order);
                    }
                }
            }

            impl std::ops::Deref for $name {
                type Target = inner::$name;

                fn deref(&self) -> &inner::$name {
                    &self.0
                }
            }
        )*};
    }

    #[derive(Debug)]
    pub(crate) struct AtomicPtr<T>(inner::AtomicPtr<T>);

    impl<T> AtomicPtr<T> {
        pub(crate) fn new(pointer: *mut T) -> Self {
            Self(inner::AtomicPtr::new(pointer))
        }

        pub(crate) fn load(&self, order: Ordering) -> *mut T {
            if cfg!(strong_atomics) {
                let null = std::ptr::null_mut();
                self.0
                    .compare_exchange(null, null, Ordering::AcqRel, Ordering::Acquire)
                    .unwrap_or_else(|now| now)
            } else {
                self.0.load(order)
            }
        }
    }

    impl<T> std::ops::Deref for AtomicPtr<T> {
        type Target = inner::AtomicPtr<T>;

        fn deref(&self) -> &inner::AtomicPtr<T> {
            &self.0
        }
    }

    strong_or_weak!(AtomicBool: bool, AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize);
}
