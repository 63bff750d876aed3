//! How a cache with a flusher takes turns with others.
//!
//! The flusher must neither rest while its cache is measured nor work while others are. So the cache's clock only goes during its own
//! turns, and between them its backend does not answer: over all its turns together the cache is in the state of one
//! that is used without a break, and writes each dirty entry half a second of its own time after the first write, as
//! it does by default.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use writeback::{Answers, Backend, BackendError, Batch, Clock, ManualClock};

/// The default of the library.
pub(crate) const MAX_DELAY: Duration = Duration::from_millis(500);
/// How often the flusher looks at its clock by itself.
const TICK: Duration = Duration::from_nanos(MAX_DELAY.as_nanos() as u64 / 8);

/// Lets calls of a backend through while it is open.
#[derive(Default)]
struct Door {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    fn set_open(&self, open: bool) {
        *self.is_open.lock().expect("nobody panics with it") = open;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let open = self.is_open.lock().expect("nobody panics with it");
        drop(self.opened.wait_while(open, |open| !*open).expect("nobody panics with it"));
    }
}

/// A backend that writes only while its cache has its turn.
pub(crate) struct Behind<B> {
    door: Arc<Door>,
    backend: B,
}

impl<K, V, B: Backend<K, V>> Backend<K, V> for Behind<B> {
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        self.backend.load(keys)
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        self.door.pass();
        self.backend.apply(batch)
    }

    fn identity(&self) -> String {
        self.backend.identity()
    }

    fn journal_note(&self) -> Option<PathBuf> {
        self.backend.journal_note()
    }
}

/// The turns of a cache: its door, and the hand of its clock.
pub(crate) struct Turns {
    door: Arc<Door>,
    hand: ManualClock,
    /// By how much the clock is behind.
    owed: Mutex<Duration>,
}

impl Turns {
    /// Also the clock and the backend for the cache.
    pub(crate) fn new<B>(backend: B) -> (Self, Clock, Behind<B>) {
        let (clock, hand) = Clock::manual();
        let door = Arc::<Door>::default();
        let behind = Behind { door: Arc::clone(&door), backend };
        (Turns { door, hand, owed: Mutex::default() }, clock, behind)
    }

    /// A turn begins that takes about so long.
    pub(crate) fn enter(&self, slice: Duration) {
        self.door.set_open(true);
        let mut owed = self.owed.lock().expect("nobody panics with it");
        *owed += slice;
        if *owed >= TICK {
            self.hand.advance(std::mem::take(&mut owed));
        }
    }

    /// A turn is over.
    pub(crate) fn leave(&self) {
        self.door.set_open(false);
    }
}

impl Drop for Turns {
    /// A cache writes what it has left when it is dropped.
    fn drop(&mut self) {
        self.door.set_open(true);
    }
}
