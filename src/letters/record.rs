//! One dead letter, as bytes.

use crate::ErrorClass;

/// What has become of a dead letter. Times are milliseconds since the Unix epoch, by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The backend has not got it.
    Open,
    /// The very same bytes reached the backend later, as this version.
    #[non_exhaustive]
    Stored {
        /// The version that the backend has.
        version: u64,
        /// When.
        when: u64,
    },
    /// The backend has a newer version of the key.
    #[non_exhaustive]
    Superseded {
        /// The version that the backend has.
        version: u64,
        /// When.
        when: u64,
    },
    /// Somebody has said that it is not wanted any more.
    #[non_exhaustive]
    Discarded {
        /// When.
        when: u64,
    },
}

/// A refused write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) id: u64,
    pub(crate) version: u64,
    pub(crate) key: Box<[u8]>,
    /// `None`: the key was removed.
    pub(crate) value: Option<Box<[u8]>>,
    pub(crate) class: ErrorClass,
    pub(crate) error: String,
    /// How often it was tried, before and after it became a letter.
    pub(crate) attempts: u32,
    /// When it became dirty, and when it was refused last: milliseconds since the Unix epoch.
    pub(crate) first_dirty: u64,
    pub(crate) refused: u64,
    pub(crate) state: State,
}

impl Letter {
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it is a write of just this.
    pub(crate) fn says(&self, value: Option<&[u8]>) -> bool {
        self.value.as_deref() == value
    }
}
