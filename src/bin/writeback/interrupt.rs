//! Ctrl-C, SIGTERM and SIGHUP: the first one asks for a clean end, the second one ends the process at once.

use std::{
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{failure::Failure, say};

/// What the first signal makes the running command say.
pub(crate) const HINT: &str =
    "stopping: what was acknowledged is being written; interrupt again to quit at once";

static ASKED: AtomicBool = AtomicBool::new(false);

/// A folder that must not outlive the process, not even when it ends at once.
static SCRATCH: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Starts to listen.
pub(crate) fn listen() -> Result<(), Failure> {
    // Relaxed everywhere: the flag is all that is communicated.
    let heard = || {
        if ASKED.swap(true, Ordering::Relaxed) {
            remove_scratch();
            say("quitting at once: what had not yet reached the database is lost");
            process::exit(130);
        }
    };
    ctrlc::set_handler(heard)
        .map_err(|error| Failure::Setting { setting: "the handler for Ctrl-C", reason: error.to_string() })
}

/// Whether a clean end was asked for.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Has `folder` removed when the process ends at once.
pub(crate) fn guard_scratch(folder: &Path) {
    *SCRATCH.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_owned());
}

/// Removes the guarded folder, if there is one. Leaving it behind is no reason to fail.
pub(crate) fn remove_scratch() {
    if let Some(folder) = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = std::fs::remove_dir_all(folder);
    }
}
