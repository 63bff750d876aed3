//! How writers are slowed down, wait, and give up when there is no room. All of it happens outside of every pin, window,
//! lane and lock, so that nobody waits for them.

use std::{
    hash::{BuildHasher, Hash},
    time::Duration,
};

use super::{Ack, OnFull, engine::Engine};
use crate::{
    Error,
    context::Context,
    signal::{Event, Listener},
    sync::{Instant, thread},
};

/// While a writer waits for slots that pinned readers hold, nobody wakes it, so it looks again this often.
const SLOT_WAIT: Duration = Duration::from_millis(1);

/// How long a writer that waits for room sleeps before it asks for it again.
const ROOM_WAIT: Duration = Duration::from_millis(50);

/// How long a writer that does not want to wait lets the cache tidy up.
const TIDY_UP: Duration = Duration::from_millis(5);

/// What one write was promised, and what it accepts.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) ack: Ack,
    pub(super) on_full: OnFull,
    pub(super) timeout: Duration,
}

/// What a write waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// A place, or weight.
    Room,
    /// That less is dirty.
    Budget,
    /// A slot that no reader can still see.
    Slot,
    /// A segment of the journal.
    Journal,
}

/// How long a write has been waiting.
pub(super) struct Patience<'e> {
    /// Not known before the first wait: asking the clock costs more than a write.
    since: Option<Instant>,
    listener: Option<Listener<'e>>,
}

impl<'e> Patience<'e> {
    pub(super) fn new() -> Self {
        Patience { since: None, listener: None }
    }

    /// Since when the write waits, and whether this is its first wait.
    fn since(&mut self) -> (Instant, bool) {
        let is_first = self.since.is_none();
        (*self.since.get_or_insert_with(Instant::now), is_first)
    }

    /// Every first time a listener is set up, and the caller looks again; every second time it is there to wait with.
    fn listen(&mut self, event: &'e Event) -> Option<Listener<'e>> {
        let ready = self.listener.take();
        if ready.is_none() {
            self.listener = Some(event.listen());
        }
        ready
    }
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Asks for what a write lacks.
    fn press_for(&self, lack: Lack) {
        match lack {
            // What was cleaned is followed by a checkpoint anyway; and while the backend takes nothing, one frees no place.
            Lack::Budget | Lack::Room => self.store.press_to_flush(),
            Lack::Journal => self.store.press_to_retire(),
            Lack::Slot => {}
        }
    }

    /// Waits until there may be what a write lacks. `Err`: it has waited long enough, or must not wait.
    pub(super) fn wait<'e>(
        &'e self,
        cx: &Context,
        lack: Lack,
        terms: &Terms,
        patience: &mut Patience<'e>,
    ) -> Result<(), Error> {
        let at_once = terms.on_full == OnFull::Error && matches!(lack, Lack::Budget | Lack::Journal);
        if cx.is_pinned() && !at_once {
            // Its own pin may be what keeps the slots, and nobody may be kept waiting under a pin.
            return Err(Error::Reentrant);
        }
        let (since, is_first) = patience.since();
        if is_first && !at_once {
            cx.counters.waits.add(1);
        }
        let limit = match terms.on_full {
            OnFull::Error if at_once => Duration::ZERO,
            OnFull::Error => TIDY_UP,
            _ => terms.timeout,
        };
        let Some(left) = limit.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) else {
            // For the next one.
            self.press_for(lack);
            return Err(match lack {
                Lack::Room | Lack::Slot | Lack::Budget => self.backpressure(since),
                Lack::Journal => self.journal_full(since),
            });
        };
        let began = Instant::now();
        if lack == Lack::Slot {
            thread::sleep(SLOT_WAIT.min(left));
        } else if let Some(listener) = patience.listen(&self.store.room) {
            // The attempt after `listen` has failed too, so the next notification is the one to wait for.
            self.press_for(lack);
            listener.wait(ROOM_WAIT.min(left));
        }
        cx.counters.throttled_nanos.add(began.elapsed().as_nanos() as u64);
        Ok(())
    }

    /// Slows a writer down that has just made more dirty, the more the nearer the limit is. The write is made; only its
    /// return is late.
    pub(super) fn slow_down(&self, cx: &Context, terms: &Terms) {
        let Some(budget) = &self.store.budget else { return };
        if budget.level() == 0.0 {
            return;
        }
        let longest = self.policies.longest_throttle.min(terms.timeout);
        if terms.on_full == OnFull::Error || longest.is_zero() || cx.is_pinned() {
            return self.store.press_to_flush();
        }
        let began = Instant::now();
        loop {
            let listener = self.store.room.listen();
            self.store.press_to_flush();
            // What has become clean meanwhile shortens the delay.
            let delay = longest.mul_f64(budget.level());
            let left = delay.checked_sub(began.elapsed()).filter(|left| !left.is_zero());
            match left {
                Some(left) if !self.store.is_closed() => listener.wait(ROOM_WAIT.min(left)),
                _ => break,
            }
        }
        cx.counters.throttled.add(1);
        cx.counters.throttled_nanos.add(began.elapsed().as_nanos() as u64);
    }
}
