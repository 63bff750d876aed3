#![doc = include_str!("../README.md")]
#![deny(unsafe_op_in_unsafe_fn)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
pub mod codec;
#[cfg(feature = "metrics")]
pub mod metrics;

mod barrier;
mod cache;
mod clock;
mod context;
mod dirty_map;
mod epochs;
mod error;
mod events;
mod fault;
#[cfg(all(feature = "faults", not(crossbeam_loom)))]
#[doc(hidden)]
pub mod faults;
mod flusher;
mod grace;
mod journal;
mod lane;
mod letters;
mod memory;
mod policy;
mod recycle;
mod ring;
mod signal;
mod slab;
mod stats;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod steps;
mod store;
mod sync;
mod table;

pub use backend::{Answers, Backend, BackendError, Batch, Change, ErrorClass, Op};
pub use cache::{
    Ack, Builder, ByRank, ByWeight, Cache, Closed, DeadLetter, DeadLetterId, DefaultHasher, Handle,
    Invalidated, Journaled, OnFull, Rank, Recovery, Retried, Ticket, WeakCache, Weigh, WithJournal,
    WriteOptions,
};
pub use clock::{Clock, ManualClock};
#[cfg(feature = "serde")]
pub use codec::Postcard;
pub use codec::{Codec, CodecError, Plain, PlainBytes};
pub use epochs::Version;
pub use error::{Error, HandleError, OpenError};
pub use events::{Event, FlushTrigger};
pub use journal::{ClosedJournal, JournalContents, JournalEntry};
pub use journal::{Damage, DamageKind, JournalError, JournalSync};
pub use letters::{
    ClosedDeadLetters, Damage as DeadLetterDamage, DeadLetterEntry, DeadLetterError, State as DeadLetterState,
};
pub use stats::{BatchSizes, JournalStats, Stats};

/// A journal without its file, for the fuzzer.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::journal::recover::{Found, found as scan};
}

/// Models of the lock-free parts, of the code as it is in this crate; see `loom-tests/README.md`.
#[cfg(all(test, crossbeam_loom))]
#[path = "../loom-tests/models/mod.rs"]
mod loom_tests;

/// Scenarios with whole caches, for shuttle; see the same file.
#[cfg(all(test, shuttle_models))]
#[path = "../loom-tests/scenarios/mod.rs"]
mod scenarios;
