//! What happens to a cache in the background, told to whoever wants to hear it.
//!
//! The engine never waits for a listener. It puts events into a [`Mailbox`] of bounded size, and a thread that does nothing
//! else takes them out and calls the listener, while nobody holds anything: so a listener may call the cache, may be slow,
//! and may panic. What does not fit is counted, and the listener is told how much it has missed.

mod mailbox;

use std::time::Duration;

use crate::{BackendError, Damage, ErrorClass};

pub(crate) use mailbox::Mailbox;

/// What a cache calls with its events.
pub(crate) type Listener = Box<dyn FnMut(&Event) + Send>;

/// Something that happened in the background of a cache; see [`Builder::listener`](crate::Builder::listener).
///
/// Events come in the order in which they happened, after the statistics that they are about were written. An event tells of
/// a moment; how things stand when it arrives is in [`Stats`](crate::Stats).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The backend has stored operations of a batch. The sum of them is
    /// [`Stats::backend_writes`](crate::Stats::backend_writes).
    #[non_exhaustive]
    Flushed {
        /// How many of the batch it has stored.
        operations: usize,
        /// How long its call took, in real time.
        took: Duration,
        /// Why the batch was sent.
        trigger: FlushTrigger,
    },
    /// The backend has refused operations of a batch; one event for each class of errors in it. The entries stay dirty.
    #[non_exhaustive]
    Failed {
        /// How many it has refused with this class.
        operations: usize,
        /// What the engine does about it: tries again later, or parks.
        class: ErrorClass,
        /// The first error of this class in the batch.
        error: BackendError,
        /// How often the most often tried one of them was tried, this time included.
        attempt: u32,
    },
    /// Entries were parked: the backend has refused them for good. They stay in the cache, dirty, and are tried again when
    /// they change or a flush is asked for.
    #[non_exhaustive]
    Parked {
        /// How many were parked together.
        entries: usize,
        /// Why the first of them was.
        error: BackendError,
        /// How often the most often tried one of them was tried.
        attempt: u32,
    },
    /// Clean entries have left the cache because room was needed, since the last such event. Counted about once in a second,
    /// not told one by one: evictions happen on the threads of writers and readers.
    #[non_exhaustive]
    Evicted {
        /// How many.
        entries: u64,
    },
    /// A journal had writes in it that were not in the backend, or was damaged. The first event of a cache; at that time
    /// [`open`](crate::Builder::open) may not have returned yet.
    #[non_exhaustive]
    Recovered {
        /// How many keys have such a write. They are in the cache, dirty.
        entries: usize,
        /// What was damaged.
        damage: Vec<Damage>,
    },
    /// The oldest dirty entry is older than [`Builder::stall_limit`](crate::Builder::stall_limit): the backend does not keep
    /// up, hangs, or fails. Told once, until it is over.
    #[non_exhaustive]
    Stalled {
        /// How long it has been dirty, by the cache's clock.
        oldest_dirty_age: Duration,
        /// The limit.
        limit: Duration,
    },
    /// What [`Event::Stalled`] told of is over.
    #[non_exhaustive]
    Resumed {
        /// How long after it that is, by the cache's clock.
        after: Duration,
    },
    /// The backend takes nothing for the time being, and is only probed now; see
    /// [`Stats::backend_down`](crate::Stats::backend_down). Told once, until it is over.
    #[non_exhaustive]
    BackendDown {
        /// Its first error.
        error: BackendError,
    },
    /// The backend stores operations again.
    #[non_exhaustive]
    BackendUp {
        /// How long after [`Event::BackendDown`] that is, by the cache's clock.
        after: Duration,
    },
    /// The listener was too slow: so many events were dropped between the last one and the next.
    #[non_exhaustive]
    Missed {
        /// How many.
        events: u64,
    },
}

/// Why a batch was sent to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlushTrigger {
    /// An entry had been dirty for [`max_delay`](crate::Builder::max_delay), or was due for a retry.
    Timer,
    /// [`flush_at`](crate::Builder::flush_at) entries were dirty.
    Threshold,
    /// Room was needed.
    Pressure,
    /// Somebody asked: `flush`, `Ack::Backend`, `close`.
    Explicit,
}
