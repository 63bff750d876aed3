//! What was done to one key, and when.

/// An operation that has ended, with what it was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum What {
    Put {
        version: u64,
        value: u64,
    },
    Remove {
        version: u64,
    },
    /// Saw `old`, and made it `value`: an update, or a compare-and-swap that has succeeded.
    Update {
        version: u64,
        old: Option<u64>,
        value: u64,
    },
    /// A read, or a compare-and-swap that has failed over what it saw.
    Get {
        value: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) what: What,
}

/// A write that a crash has cut off. Nobody was told anything, so it has happened or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pending {
    pub(crate) begin: u64,
    pub(crate) what: Attempt,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Attempt {
    Put { value: u64 },
    Remove,
    Update { old: Option<u64>, value: u64 },
}

/// The history of one key. Every value that is written is another one.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// No write before it had a newer version.
    pub(crate) version: u64,
    /// What the key was before.
    pub(crate) value: Option<u64>,
    pub(crate) events: Vec<Event>,
    /// Of the crash in its end. What the next life has found is among the events.
    pub(crate) pending: Vec<Pending>,
}
