//! Acknowledgements that are waited for later.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    BackendError, Error, Version,
    context::CacheId,
    flusher::Reply,
    journal::{Commits, SyncNumber},
    sync::Instant,
    table::Position,
};

/// A write that was made, and whose acknowledgement is on its way; see [`Cache::put_ticket`](crate::Cache::put_ticket).
///
/// Dropping it does not take the write back; only nobody waits for it.
#[must_use = "the write is not acknowledged before `wait` says so"]
pub struct Ticket {
    pub(super) cache: CacheId,
    /// Where the write went, and the hash of its key.
    pub(super) place: (Position, u64),
    version: Version,
    on: WaitsOn,
    patience: Duration,
}

pub(super) enum WaitsOn {
    Nothing,
    Sync(Arc<Commits>, SyncNumber),
    /// `true`: not longer than the patience.
    Backend(Arc<Reply>, bool),
}

impl Ticket {
    pub(super) fn new(
        cache: CacheId,
        place: (Position, u64),
        version: u64,
        on: WaitsOn,
        patience: Duration,
    ) -> Self {
        Ticket { cache, place, version: Version(version), on, patience }
    }

    /// The version that was written.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether [`wait`](Ticket::wait) would return at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.on {
            WaitsOn::Nothing => true,
            WaitsOn::Sync(commits, number) => matches!(commits.outcome(*number), Some(Ok(()))),
            WaitsOn::Backend(reply, _) => reply.is_answered(),
        }
    }

    /// Waits until the write has what was asked for it. Blocks for a sync of the journal, or a batch of the backend.
    ///
    /// # Errors
    ///
    /// [`Error::NotSynced`] if the journal's disk does not take it within the cache's
    /// [`write_timeout`](crate::Builder::write_timeout) (failed syncs are healed and tried again in that time),
    /// [`Error::NotFlushed`] if the backend refuses it. In both the write *is* in the cache.
    pub fn wait(self) -> Result<Version, Error> {
        match self.on {
            WaitsOn::Nothing => {}
            WaitsOn::Sync(commits, number) => {
                // So far away that it is never.
                let deadline = Instant::now().checked_add(self.patience);
                commits.wait_until(number, deadline).map_err(|cause| Error::NotSynced { cause })?;
            }
            WaitsOn::Backend(reply, is_limited) => {
                let deadline = is_limited.then(|| Instant::now().checked_add(self.patience)).flatten();
                let answer = match deadline {
                    Some(deadline) => reply.wait_until(deadline).unwrap_or_else(|| {
                        Err((1, BackendError::transient("the backend did not answer in time")))
                    }),
                    None => reply.wait(),
                };
                answer.map_err(|(failed, cause)| Error::NotFlushed { failed, cause })?;
            }
        }
        Ok(self.version)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("version", &self.version)
            .field("is_ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}
