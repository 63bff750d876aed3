//! An asymmetric fence: one half that costs nothing, for those who pass it often, and one that costs a system call.
//!
//! Each half orders like a SeqCst fence towards the *other* half, and towards SeqCst fences the heavy one does; two light halves
//! do not order anything between each other. (P1202, *Asymmetric fences*, is what C++ has of it; Linux makes it with
//! [`membarrier`](https://man7.org/linux/man-pages/man2/membarrier.2.html).)

use crate::sync::{Ordering, fence};

#[cfg(all(target_os = "linux", not(crossbeam_loom), not(shuttle_models), not(miri)))]
mod kernel {
    use std::sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering as Order, compiler_fence},
    };

    /// Whether the kernel makes the heavy half. Relaxed: it is decided before anything is made whose users pass a fence, and
    /// never changes.
    static IS_THERE: AtomicBool = AtomicBool::new(false);

    fn call(command: libc::c_int) -> bool {
        // SAFETY: `membarrier` reads and writes no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub(super) fn prepare() {
        static ONCE: OnceLock<()> = OnceLock::new();
        ONCE.get_or_init(|| {
            let registered = call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
            IS_THERE.store(registered && call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED), Order::Relaxed);
        });
    }

    #[inline(always)]
    pub(super) fn is_there() -> bool {
        IS_THERE.load(Order::Relaxed)
    }

    /// Keeps the compiler from reordering; the processor is up to the other half.
    #[inline(always)]
    pub(super) fn keep_order() {
        compiler_fence(Order::SeqCst);
    }

    /// `false`: the kernel does not do it any more; in a process that has forbidden it to itself, say. A child after a fork may have to
    /// register again.
    pub(super) fn interrupt_all() -> bool {
        let barrier = || call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        barrier() || call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && barrier()
    }
}

#[cfg(not(all(target_os = "linux", not(crossbeam_loom), not(shuttle_models), not(miri))))]
mod kernel {
    pub(super) fn prepare() {}

    #[inline(always)]
    pub(super) fn is_there() -> bool {
        false
    }

    pub(super) fn keep_order() {}

    pub(super) fn interrupt_all() -> bool {
        true
    }
}

/// Decides what the halves are. To be called, and to have returned, before either is passed.
pub(crate) fn prepare() {
    kernel::prepare();
}

/// The half for those who pass often.
#[inline(always)]
pub(crate) fn light() {
    if kernel::is_there() {
        kernel::keep_order();
    } else {
        fence(Ordering::SeqCst);
    }
}

/// The other half. `false`: it could not be made, and nothing is ordered.
#[must_use]
pub(crate) fn heavy() -> bool {
    fence(Ordering::SeqCst);
    if kernel::is_there() {
        let made = kernel::interrupt_all();
        fence(Ordering::SeqCst);
        made
    } else {
        true
    }
}
