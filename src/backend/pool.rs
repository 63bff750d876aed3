//! A few connections of one kind, for callers that wait for them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Connections of one kind.
pub(super) struct Pool<C> {
    places: Mutex<Places<C>>,
    returned: Condvar,
    most: usize,
}

struct Places<C> {
    idle: Vec<C>,
    in_use: usize,
}

impl<C> Pool<C> {
    /// A pool of at least one connection; none is made yet.
    pub(super) fn of(most: usize) -> Self {
        let places = Mutex::new(Places { idle: Vec::new(), in_use: 0 });
        Self { places, returned: Condvar::new(), most: most.max(1) }
    }

    /// Waits until fewer connections are in use than there may be.
    pub(super) fn permit(&self) -> Permit<'_, C> {
        let places = self.returned.wait_while(self.places(), |places| places.in_use >= self.most);
        places.unwrap_or_else(PoisonError::into_inner).in_use += 1;
        Permit(self)
    }

    /// A connection that nobody uses; for whoever has a permit.
    pub(super) fn take(&self) -> Option<C> {
        self.places().idle.pop()
    }

    /// Gives a connection back.
    pub(super) fn put(&self, connection: C) {
        self.places().idle.push(connection);
    }

    fn places(&self) -> MutexGuard<'_, Places<C>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to use one connection, given back also when the thread panics.
pub(super) struct Permit<'a, C>(&'a Pool<C>);

impl<C> Drop for Permit<'_, C> {
    fn drop(&mut self) {
        self.0.places().in_use -= 1;
        self.0.returned.notify_one();
    }
}
