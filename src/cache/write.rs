//! Writes: blind ones, and those that are computed from what is there.

use std::{
    hash::{BuildHasher, Hash},
    time::{Duration, Instant},
};

use super::{Ack, engine::Engine};
use crate::{
    Error, Version,
    context::Context,
    flusher::Request,
    signal::{Event, Listener},
    store::{Credit, Draft, Expect, Refused, Seen},
    table::Position,
};

/// While a writer waits for slots that pinned readers hold, nobody wakes it, so it looks again this often.
const SLOT_WAIT: Duration = Duration::from_millis(1);

/// How long a writer that waits for room sleeps before it asks for it again.
const ROOM_WAIT: Duration = Duration::from_millis(50);

/// A write on its way into the table.
enum Stage<K, V> {
    /// No slot yet.
    Parts(K, Option<V>, u64),
    Drafted(Draft),
}

/// What one attempt came to.
enum Attempt<K, V> {
    Written(Position, u64),
    Changed(Stage<K, V>),
    NoRoom(Stage<K, V>),
    NoSlot(Stage<K, V>),
    Closed(Stage<K, V>),
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// The acknowledgement for a write, if it can be given.
    fn check_ack(&self, cx: &Context, ack: Option<Ack>) -> Result<Ack, Error> {
        let ack = ack.unwrap_or(self.policies.ack);
        match ack {
            Ack::Memory => Ok(ack),
            Ack::Backend if cx.is_pinned() => Err(Error::Reentrant),
            Ack::Backend => Ok(ack),
            Ack::Journal | Ack::Synced => Err(Error::NoJournal { ack }),
        }
    }

    /// Waits for what `ack` promises beyond memory.
    fn acknowledge(&self, at: Position, version: u64, ack: Ack) -> Result<Version, Error> {
        if ack == Ack::Backend {
            self.ask(|reply| Request::Write { at, version, reply })?;
        }
        Ok(Version(version))
    }

    fn weigh(&self, key: &K, value: &V) -> Result<u64, Error> {
        self.store.weigh(key, value).map_err(|(weight, limit)| Error::TooHeavy { weight, limit })
    }

    pub(super) fn put(&self, cx: &Context, key: K, value: V, ack: Option<Ack>) -> Result<Version, Error> {
        let ack = self.check_ack(cx, ack)?;
        let (hash, weight) = (self.store.hash(&key), self.weigh(&key, &value)?);
        let (at, version) = self.write(cx, hash, Stage::Parts(key, Some(value), weight))?;
        cx.counters.puts.add(1);
        self.acknowledge(at, version, ack)
    }

    pub(super) fn remove(&self, cx: &Context, key: K) -> Result<Version, Error> {
        let ack = self.check_ack(cx, None)?;
        let hash = self.store.hash(&key);
        let (at, version) = self.write(cx, hash, Stage::Parts(key, None, 0))?;
        cx.counters.removes.add(1);
        self.acknowledge(at, version, ack)
    }

    pub(super) fn put_many(
        &self,
        cx: &Context,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<usize, Error> {
        let ack = self.check_ack(cx, None)?;
        let (mut count, mut written) = (0, Vec::new());
        for (key, value) in entries {
            let (hash, weight) = (self.store.hash(&key), self.weigh(&key, &value)?);
            let (at, version) = self.write(cx, hash, Stage::Parts(key, Some(value), weight))?;
            cx.counters.puts.add(1);
            count += 1;
            if ack == Ack::Backend {
                written.push((at, version));
            }
        }
        // All of them are on their way before the first is waited for, so they share batches.
        for (at, version) in written {
            self.acknowledge(at, version, ack)?;
        }
        Ok(count)
    }

    /// A blind write: goes over whatever is there.
    fn write(&self, cx: &Context, hash: u64, mut stage: Stage<K, V>) -> Result<(Position, u64), Error> {
        let mut patience = Patience::new();
        loop {
            match self.attempt(cx, hash, stage, Expect::Anything)? {
                Attempt::Written(at, version) => return Ok((at, version)),
                // A blind write expects nothing, so nothing can have changed.
                Attempt::Changed(again) => stage = again,
                Attempt::Closed(given_up) => return Err(self.give_up(cx, given_up, Error::Closed)),
                attempt => stage = self.wait(cx, attempt, &mut patience)?,
            }
        }
    }

    /// One attempt to write, under one pin.
    fn attempt(
        &self,
        cx: &Context,
        hash: u64,
        stage: Stage<K, V>,
        expect: Expect,
    ) -> Result<Attempt<K, V>, Error> {
        let attempt = cx.with_writer(|writer| {
            let mut draft = match stage {
                Stage::Drafted(draft) => draft,
                Stage::Parts(key, value, weight) => match self.store.draft(writer, key, value, weight) {
                    Ok(draft) => draft,
                    Err((key, value)) => {
                        // Lets retired slots of this thread age, in case it is the only one.
                        let guard = cx.pin();
                        writer.seal(&guard);
                        guard.flush();
                        return Attempt::NoSlot(Stage::Parts(key, value, weight));
                    }
                },
            };
            let guard = cx.pin();
            if self.store.is_overweight() && !self.store.trim_weight(writer, &guard) {
                return Attempt::NoRoom(Stage::Drafted(draft));
            }
            let mut credit: Option<Credit<'_>> = None;
            loop {
                match self.store.publish(writer, draft, hash, expect, &mut credit, &guard) {
                    Ok((at, version)) => return Attempt::Written(at, version),
                    Err((refused, Refused::Changed)) => return Attempt::Changed(Stage::Drafted(refused)),
                    Err((refused, Refused::Closed)) => return Attempt::Closed(Stage::Drafted(refused)),
                    Err((refused, Refused::NoRoom)) => {
                        draft = refused;
                        // With a place in hand, it is the key's range that has none.
                        let made_room = match &credit {
                            Some(_) => self.store.clear_range(writer, hash, &guard),
                            None => {
                                credit = self.store.credit_by_force(writer, &guard);
                                credit.is_some()
                            }
                        };
                        if !made_room {
                            return Attempt::NoRoom(Stage::Drafted(draft));
                        }
                    }
                }
            }
        })?;
        Ok(attempt)
    }

    fn give_up(&self, cx: &Context, stage: Stage<K, V>, error: Error) -> Error {
        if let Stage::Drafted(draft) = stage {
            // Re-entered: the slot stays out of use, and its content is dropped with the cache.
            let _ = cx.with_writer(|writer| self.store.discard(writer, draft));
        }
        error
    }

    /// Waits for room or for a slot, and gives the write back to be tried again.
    fn wait<'e>(
        &'e self,
        cx: &Context,
        attempt: Attempt<K, V>,
        patience: &mut Patience<'e>,
    ) -> Result<Stage<K, V>, Error> {
        let (stage, needs_room) = match attempt {
            Attempt::NoRoom(stage) => (stage, true),
            Attempt::NoSlot(stage) => (stage, false),
            Attempt::Written(..) | Attempt::Changed(_) | Attempt::Closed(_) => return Err(Error::Closed),
        };
        if cx.is_pinned() {
            // Its own pin may be what keeps the slots, and nobody may be kept waiting under a pin.
            return Err(self.give_up(cx, stage, Error::Reentrant));
        }
        let (since, is_first) = patience.since();
        if is_first {
            cx.counters.waits.add(1);
        }
        let Some(left) =
            self.policies.write_timeout.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
        else {
            return Err(self.give_up(cx, stage, self.backpressure(since)));
        };
        if !needs_room {
            std::thread::sleep(SLOT_WAIT.min(left));
        } else if let Some(listener) = patience.listen(&self.store.room) {
            // The attempt after `listen` has failed too, so the next notification is the one to wait for.
            self.store.press();
            listener.wait(ROOM_WAIT.min(left));
        }
        Ok(stage)
    }
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Computes a new value from the old one, outside of everything, and publishes it if the old one is still there.
    pub(super) fn update_if(
        &self,
        cx: &Context,
        key: K,
        mut change: impl FnMut(Option<&V>) -> Option<V>,
    ) -> Result<Option<Version>, Error> {
        let ack = self.check_ack(cx, None)?;
        let hash = self.store.hash(&key);
        let mut patience = Patience::new();
        let mut owner = Owner::Key(key);
        loop {
            let (old, expected) = match self.current(cx, hash, owner.key(self), &mut patience) {
                Ok(current) => current,
                Err(error) => return Err(self.abandon(cx, owner, error)),
            };
            let Some(value) = change(old.as_ref()) else {
                self.abandon(cx, owner, Error::Closed);
                return Ok(None);
            };
            let weight = match self.weigh(owner.key(self), &value) {
                Ok(weight) => weight,
                Err(error) => return Err(self.abandon(cx, owner, error)),
            };
            let mut stage = match owner {
                Owner::Key(key) => Stage::Parts(key, Some(value), weight),
                Owner::Draft(mut draft) => {
                    self.store.redraft(&mut draft, value, weight);
                    Stage::Drafted(draft)
                }
            };
            owner = loop {
                match self.attempt(cx, hash, stage, Expect::Version(expected))? {
                    Attempt::Written(at, version) => {
                        cx.counters.puts.add(1);
                        return self.acknowledge(at, version, ack).map(Some);
                    }
                    Attempt::Changed(Stage::Parts(key, ..)) => break Owner::Key(key),
                    Attempt::Changed(Stage::Drafted(draft)) => break Owner::Draft(draft),
                    Attempt::Closed(given_up) => return Err(self.give_up(cx, given_up, Error::Closed)),
                    attempt => stage = self.wait(cx, attempt, &mut patience)?,
                }
            };
        }
    }

    fn abandon(&self, cx: &Context, owner: Owner<K>, error: Error) -> Error {
        match owner {
            Owner::Key(_) => error,
            Owner::Draft(draft) => self.give_up(cx, Stage::Drafted(draft), error),
        }
    }

    /// The entry of a key as it is in the table, loaded into it if need be: its value (none: there is no row) and version.
    fn current<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        key: &K,
        patience: &mut Patience<'e>,
    ) -> Result<(Option<V>, u64), Error> {
        loop {
            self.check_open()?;
            {
                let guard = cx.pin();
                match self.store.look(hash, key, &guard) {
                    Seen::Value { at, value, version } => {
                        self.store.table.touch(at);
                        return Ok((Some(value.clone()), version));
                    }
                    Seen::Tombstone { version } => return Ok((None, version)),
                    Seen::Loading(_) | Seen::Absent => {}
                }
            }
            // That there is no row has to be in the table: as a version to compare with, it stands against every write
            // in between, also one that was flushed and evicted again.
            if !self.load(cx, hash, key, true)?.is_cached {
                let nothing_to_hold = Attempt::NoRoom(Stage::Parts(key.clone(), None, 0));
                self.wait(cx, nothing_to_hold, patience)?;
            }
        }
    }

    pub(super) fn get_or_put_with(&self, cx: &Context, key: K, make: impl FnOnce() -> V) -> Result<V, Error> {
        let (mut make, mut made, mut found) = (Some(make), None, None);
        self.update_if(cx, key, |old| match old {
            Some(value) => {
                found = Some(value.clone());
                None
            }
            None => {
                found = None;
                if let Some(make) = make.take() {
                    made = Some(make());
                }
                made.clone()
            }
        })?;
        // One of the two is there: either the closure saw a value, or it made one.
        found.or(made).ok_or(Error::Closed)
    }
}

/// Who holds the key of an update between its attempts.
enum Owner<K> {
    Key(K),
    Draft(Draft),
}

impl<K> Owner<K> {
    fn key<'a, V, S>(&'a self, engine: &'a Engine<K, V, S>) -> &'a K
    where
        K: Hash + Eq,
        S: BuildHasher,
    {
        match self {
            Owner::Key(key) => key,
            Owner::Draft(draft) => engine.store.draft_key(draft),
        }
    }
}

/// How long a write has been waiting.
struct Patience<'e> {
    /// Not known before the first wait: asking the clock costs more than a write.
    since: Option<Instant>,
    listener: Option<Listener<'e>>,
}

impl<'e> Patience<'e> {
    fn new() -> Self {
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
