//! The box between those who have events and the thread that tells them. Bounded, and nobody waits to put something in.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::PoisonError,
};

use super::{Event, Listener};
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, lock};

/// So many events wait for a listener at most.
const ROOM: usize = 1024;

struct Letters {
    waiting: VecDeque<Event>,
    /// How many did not fit since the last one that did.
    missed: u64,
    is_closed: bool,
}

pub(crate) struct Mailbox {
    letters: Mutex<Letters>,
    filled: Condvar,
    dropped: AtomicU64,
    panics: AtomicU64,
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        let letters = Letters { waiting: VecDeque::new(), missed: 0, is_closed: false };
        Mailbox {
            letters: Mutex::new(letters),
            filled: Condvar::new(),
            dropped: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        }
    }

    /// Puts an event in, or drops it if there is no room. Never waits for the listener.
    pub(crate) fn post(&self, event: Event) {
        let mut letters = lock(&self.letters);
        let missed = letters.missed;
        // The gap takes a place of its own, before what comes after it.
        let needed = 1 + usize::from(missed > 0);
        if letters.is_closed || letters.waiting.len() + needed > ROOM {
            letters.missed += 1;
            drop(letters);
            // Relaxed: a count.
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return discard(event);
        }
        if missed > 0 {
            letters.missed = 0;
            letters.waiting.push_back(Event::Missed { events: missed });
        }
        letters.waiting.push_back(event);
        drop(letters);
        self.filled.notify_one();
    }

    /// There will be no more. What is in the box is still told.
    pub(crate) fn close(&self) {
        lock(&self.letters).is_closed = true;
        self.filled.notify_all();
    }

    /// How many events were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many times the listener has panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Tells `listener` everything, until the box is closed and empty. For a thread of its own.
    pub(crate) fn run(&self, mut listener: Listener) {
        while let Some(event) = self.next() {
            if catch_unwind(AssertUnwindSafe(|| listener(&event))).is_err() {
                self.panics.fetch_add(1, Ordering::Relaxed);
            }
            discard(event);
        }
        // What it owns is the user's; it may hold the last reference to the cache.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(listener)));
    }

    fn next(&self) -> Option<Event> {
        let mut letters = lock(&self.letters);
        loop {
            if let Some(event) = letters.waiting.pop_front() {
                return Some(event);
            }
            if letters.missed > 0 {
                // Told also if nothing comes after it.
                return Some(Event::Missed { events: std::mem::take(&mut letters.missed) });
            }
            if letters.is_closed {
                return None;
            }
            letters = self.filled.wait(letters).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Errors are the user's, and so are their destructors.
fn discard(event: Event) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(event)));
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn evicted(entries: u64) -> Event {
        Event::Evicted { entries }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told() {
        let mailbox = Mailbox::new();
        (0..ROOM as u64 + 5).for_each(|number| mailbox.post(evicted(number)));
        assert_eq!((mailbox.dropped(), lock(&mailbox.letters).waiting.len()), (5, ROOM));
        mailbox.close();
        mailbox.post(evicted(0));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        mailbox.run(Box::new(move |event| notes.lock().unwrap().push(format!("{event:?}"))));
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), ROOM + 1);
        assert_eq!(heard.last().unwrap(), &format!("{:?}", Event::Missed { events: 6 }));
    }

    #[test]
    fn a_gap_is_told_where_it_is() {
        let mailbox = Mailbox::new();
        (0..ROOM as u64 + 3).for_each(|number| mailbox.post(evicted(number)));
        assert!(matches!(mailbox.next(), Some(Event::Evicted { entries: 0 })));
        // The gap needs a place too, so this one belongs to it.
        mailbox.post(evicted(7));
        assert!(matches!(mailbox.next(), Some(Event::Evicted { entries: 1 })));
        mailbox.post(evicted(8));
        let rest: Vec<_> = (2..ROOM + 2).map_while(|_| mailbox.next()).collect();
        assert!(matches!(
            rest[rest.len() - 2..],
            [Event::Missed { events: 4 }, Event::Evicted { entries: 8 }]
        ));
        assert_eq!(mailbox.dropped(), 4);
    }

    #[test]
    fn a_panic_is_counted_and_the_next_event_is_told() {
        let mailbox = Mailbox::new();
        (0..4).for_each(|number| mailbox.post(evicted(number)));
        mailbox.close();
        mailbox.run(Box::new(|_| panic!("a listener's own")));
        assert_eq!((mailbox.panics(), mailbox.dropped()), (4, 0));
    }
}
