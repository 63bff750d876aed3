//! How old the oldest dirty place is. Parked ones do not count: nobody waits for them to be written on time.

use std::{collections::BTreeMap, time::Duration};

/// How many places have been dirty since when. Places that were found together have the same time, so there are only as many
/// times in it as there were drains of the rings with something left of them: in a healthy cache a dozen.
#[derive(Default)]
pub(super) struct Ages(BTreeMap<Duration, usize>);

impl Ages {
    /// A place has been dirty since then.
    pub(super) fn enter(&mut self, since: Duration) {
        *self.0.entry(since).or_insert(0) += 1;
    }

    /// One of those is not dirty any more, or not waited for.
    pub(super) fn leave(&mut self, since: Duration) {
        if let Some(count) = self.0.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&since);
            }
        }
    }

    /// Since when the oldest has been.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.0.first_key_value().map(|(since, _)| *since)
    }
}
