//! A value that notices when it is used without permission.

use loom::cell::UnsafeCell;

/// Holds a number in a cell that loom watches: reading it before its making is visible, or beside or after its drop, is
/// a race that loom reports.
pub(super) struct Canary(UnsafeCell<u32>);

// SAFETY: loom finds every access that is not ordered; that is what this type is for.
unsafe impl Sync for Canary {}
// SAFETY: as above.
unsafe impl Send for Canary {}

impl Canary {
    pub(super) fn new(number: u32) -> Self {
        let canary = Canary(UnsafeCell::new(0));
        // Written once more, because loom does not count the making of a cell as a write.
        // SAFETY: it is not shared yet.
        canary.0.with_mut(|cell| unsafe { *cell = number });
        canary
    }

    pub(super) fn number(&self) -> u32 {
        // SAFETY: loom reports a concurrent write.
        self.0.with(|number| unsafe { *number })
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // SAFETY: loom reports a concurrent read.
        self.0.with_mut(|number| unsafe { *number = u32::MAX });
    }
}
