//! Writes: blind ones, and those that are computed from what is there.

use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Ack, Ticket, engine::Engine, ticket::WaitsOn};
use crate::{
    Error, Version,
    context::Context,
    flusher::{Ended, Reply, Request},
    journal::Unprepared,
    signal::{Event, Listener},
    store::{Credit, Draft, Expect, Refused, Seen},
    table::Position,
};

/// While a writer waits for slots that pinned readers hold, nobody wakes it, so it looks again this often.
const SLOT_WAIT: Duration = Duration::from_millis(1);

/// How long a writer that waits for room sleeps before it asks for it again.
const ROOM_WAIT: Duration = Duration::from_millis(50);

/// A write on its way into the table.
enum Stage<'s, K, V, S> {
    /// No slot yet.
    Parts(K, Option<V>, u64),
    Drafted(Draft<'s, K, V, S>),
}

/// Where a write went, and its version; or the write itself, because what it expected was not there.
type Outcome<'s, K, V, S> = Result<(Position, u64), Stage<'s, K, V, S>>;

/// What one attempt came to.
enum Attempt<'s, K, V, S> {
    Written(Position, u64),
    Changed(Stage<'s, K, V, S>),
    NoRoom(Stage<'s, K, V, S>),
    NoSlot(Stage<'s, K, V, S>),
    NoJournalSpace(Stage<'s, K, V, S>),
    /// Nothing is lacking: to be tried again at once.
    Again(Stage<'s, K, V, S>),
    /// It can never be in the journal.
    NoRecord(Error),
    Closed,
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
        let ack = match (ack, self.journal()) {
            (Ack::Journal | Ack::Synced, None) => return Err(Error::NoJournal { ack }),
            // With a journal, every write is in it.
            (Ack::Memory | Ack::Journal, Some(journal)) if journal.syncs_always() => Ack::Synced,
            _ => ack,
        };
        if matches!(ack, Ack::Synced | Ack::Backend) && cx.is_pinned() {
            // Nobody may be kept waiting under a pin.
            return Err(Error::Reentrant);
        }
        Ok(ack)
    }

    /// Asks for what `ack` promises beyond what the write has done.
    fn request_ack(&self, at: Position, version: u64, ack: Ack) -> Result<Ticket, Error> {
        let on = match (ack, self.journal()) {
            (Ack::Synced, Some(journal)) => {
                WaitsOn::Sync(Arc::clone(&journal.commits), journal.request_sync())
            }
            (Ack::Backend, _) => {
                let reply = Reply::new();
                let request = Request::Write { at, version, reply: Arc::clone(&reply) };
                match self.desk.requests.post(request) {
                    Ok(()) => {
                        self.store.signal.wake();
                        WaitsOn::Backend(reply)
                    }
                    // Everything is in the backend, also this.
                    Err(Ended::Drained) => WaitsOn::Nothing,
                    Err(Ended::Stopped) => return Err(Error::Closed),
                }
            }
            _ => WaitsOn::Nothing,
        };
        Ok(Ticket::new(version, on, self.policies.write_timeout))
    }

    /// Waits for what `ack` promises beyond what the write has done.
    fn acknowledge(&self, at: Position, version: u64, ack: Ack) -> Result<Version, Error> {
        match ack {
            // The common case, without a ticket.
            Ack::Memory | Ack::Journal => Ok(Version(version)),
            Ack::Synced | Ack::Backend => self.request_ack(at, version, ack)?.wait(),
        }
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

    pub(super) fn put_ticket(&self, cx: &Context, key: K, value: V, ack: Ack) -> Result<Ticket, Error> {
        let ack = self.check_ack(cx, Some(ack))?;
        let (hash, weight) = (self.store.hash(&key), self.weigh(&key, &value)?);
        let (at, version) = self.write(cx, hash, Stage::Parts(key, Some(value), weight))?;
        cx.counters.puts.add(1);
        self.request_ack(at, version, ack)
    }

    pub(super) fn remove(&self, cx: &Context, key: K, ack: Option<Ack>) -> Result<Version, Error> {
        let ack = self.check_ack(cx, ack)?;
        let hash = self.store.hash(&key);
        let (at, version) = self.write(cx, hash, Stage::Parts(key, None, 0))?;
        cx.counters.removes.add(1);
        self.acknowledge(at, version, ack)
    }

    pub(super) fn put_many(
        &self,
        cx: &Context,
        entries: impl IntoIterator<Item = (K, V)>,
        ack: Option<Ack>,
    ) -> Result<usize, Error> {
        let ack = self.check_ack(cx, ack)?;
        let (mut count, mut written) = (0, Vec::new());
        for (key, value) in entries {
            let (hash, weight) = (self.store.hash(&key), self.weigh(&key, &value)?);
            let (at, version) = self.write(cx, hash, Stage::Parts(key, Some(value), weight))?;
            cx.counters.puts.add(1);
            count += 1;
            match ack {
                Ack::Backend => written.push((at, version)),
                // A sync that covers the last covers all.
                Ack::Synced => written = vec![(at, version)],
                Ack::Memory | Ack::Journal => {}
            }
        }
        // All of them are on their way before the first is waited for, so they share batches.
        for (at, version) in written {
            self.acknowledge(at, version, ack)?;
        }
        Ok(count)
    }

    /// A blind write: goes over whatever is there.
    fn write<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        stage: Stage<'e, K, V, S>,
    ) -> Result<(Position, u64), Error> {
        let mut patience = Patience::new();
        let mut stage = stage;
        loop {
            stage = match self.write_over(cx, hash, stage, Expect::Anything, &mut patience)? {
                Ok(written) => return Ok(written),
                // It expects nothing, so nothing can have changed.
                Err(again) => again,
            };
        }
    }

    /// Writes over what is expected, and waits for what it takes. The inner `Err`: it is not there.
    fn write_over<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        mut stage: Stage<'e, K, V, S>,
        expect: Expect,
        patience: &mut Patience<'e>,
    ) -> Result<Outcome<'e, K, V, S>, Error> {
        loop {
            let lack;
            (stage, lack) = match self.attempt(cx, hash, stage, expect)? {
                Attempt::Written(at, version) => return Ok(Ok((at, version))),
                Attempt::Changed(stage) => return Ok(Err(stage)),
                Attempt::Closed => return Err(Error::Closed),
                Attempt::NoRoom(stage) => (stage, Lack::Room),
                Attempt::NoSlot(stage) => (stage, Lack::Slot),
                Attempt::NoJournalSpace(stage) => (stage, Lack::Journal),
                Attempt::Again(again) => {
                    stage = again;
                    continue;
                }
                Attempt::NoRecord(error) => return Err(error),
            };
            self.wait(cx, lack, patience)?;
        }
    }

    /// One attempt to write, under one pin.
    fn attempt<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        stage: Stage<'e, K, V, S>,
        expect: Expect,
    ) -> Result<Attempt<'e, K, V, S>, Error> {
        self.check_open()?;
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
            // Before the pin: it may wait for the disk, and runs the codec.
            match self.store.prepare(writer, &mut draft) {
                Ok(()) => {}
                Err(Unprepared::Full) => return Attempt::NoJournalSpace(Stage::Drafted(draft)),
                Err(Unprepared::TooLarge { bytes, limit }) => {
                    return Attempt::NoRecord(Error::RecordTooLarge { bytes, limit });
                }
                Err(Unprepared::Codec(error)) => return Attempt::NoRecord(Error::Codec(error)),
            }
            let guard = cx.pin();
            let mut credit: Option<Credit<'_>> = None;
            loop {
                let (refused, why) =
                    match self.store.publish(writer, draft, hash, expect, &mut credit, &guard) {
                        Ok((at, version)) => return Attempt::Written(at, version),
                        Err(refused) => refused,
                    };
                draft = refused;
                let made_room = match why {
                    Refused::Changed => return Attempt::Changed(Stage::Drafted(draft)),
                    Refused::Closed => return Attempt::Closed,
                    Refused::Unsound => return Attempt::Again(Stage::Drafted(draft)),
                    Refused::TooMuch(weight) => self.store.make_weight(writer, weight, &guard),
                    // With a place in hand, it is the key's range that has none.
                    Refused::NoRoom if credit.is_some() => self.store.clear_range(writer, hash, &guard),
                    Refused::NoRoom => {
                        credit = self.store.credit_by_force(writer, &guard);
                        credit.is_some()
                    }
                };
                if !made_room {
                    return Attempt::NoRoom(Stage::Drafted(draft));
                }
            }
        })?;
        Ok(attempt)
    }

    /// Waits until there may be what a write lacks. `Err`: it has waited long enough, or must not wait.
    fn wait<'e>(&'e self, cx: &Context, lack: Lack, patience: &mut Patience<'e>) -> Result<(), Error> {
        if cx.is_pinned() {
            // Its own pin may be what keeps the slots, and nobody may be kept waiting under a pin.
            return Err(Error::Reentrant);
        }
        let (since, is_first) = patience.since();
        if is_first {
            cx.counters.waits.add(1);
        }
        let left = self.policies.write_timeout.checked_sub(since.elapsed()).filter(|left| !left.is_zero());
        let left = left.ok_or_else(|| match lack {
            Lack::Room | Lack::Slot => self.backpressure(since),
            Lack::Journal => self.journal_full(since),
        })?;
        match lack {
            Lack::Slot => std::thread::sleep(SLOT_WAIT.min(left)),
            Lack::Room | Lack::Journal => {
                if let Some(listener) = patience.listen(&self.store.room) {
                    // The attempt after `listen` has failed too, so the next notification is the one to wait for.
                    self.store.press();
                    listener.wait(ROOM_WAIT.min(left));
                }
            }
        }
        Ok(())
    }
}

/// What a write waits for.
#[derive(Clone, Copy)]
enum Lack {
    /// A place, or weight.
    Room,
    /// A slot that no reader can still see.
    Slot,
    /// A segment of the journal.
    Journal,
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Computes a new value from the old one, outside of everything, and publishes it if the old one is still there.
    pub(super) fn update_if<'e>(
        &'e self,
        cx: &Context,
        key: K,
        mut change: impl FnMut(Option<&V>) -> Option<V>,
        ack: Option<Ack>,
    ) -> Result<Option<Version>, Error> {
        let ack = self.check_ack(cx, ack)?;
        let hash = self.store.hash(&key);
        let mut patience = Patience::new();
        let mut owner: Owner<'e, K, V, S> = Owner::Key(key);
        loop {
            let (old, expected) = self.current(cx, hash, owner.key(), &mut patience)?;
            let Some(value) = change(old.as_ref()) else {
                if old.is_none() && !self.policies.cache_absent {
                    // The tombstone was only there to compare with. If it stays, it does no harm.
                    cx.with_writer(|writer| self.store.invalidate(writer, hash, owner.key(), &cx.pin()))?;
                }
                return Ok(None);
            };
            let weight = self.weigh(owner.key(), &value)?;
            let stage = match owner {
                Owner::Key(key) => Stage::Parts(key, Some(value), weight),
                Owner::Draft(mut draft) => {
                    self.store.redraft(&mut draft, value, weight);
                    Stage::Drafted(draft)
                }
            };
            owner = match self.write_over(cx, hash, stage, Expect::Version(expected), &mut patience)? {
                Ok((at, version)) => {
                    cx.counters.puts.add(1);
                    return self.acknowledge(at, version, ack).map(Some);
                }
                Err(Stage::Parts(key, ..)) => Owner::Key(key),
                Err(Stage::Drafted(draft)) => Owner::Draft(draft),
            };
        }
    }

    /// Writes over what is there as long as `may` says so of it. `None`: it did not.
    pub(super) fn write_again(
        &self,
        cx: &Context,
        key: K,
        value: Option<V>,
        may: impl Fn(&K) -> bool,
    ) -> Result<Option<(Position, u64)>, Error> {
        let hash = self.store.hash(&key);
        let weight = value.as_ref().map_or(Ok(0), |value| self.weigh(&key, value))?;
        let mut patience = Patience::new();
        let mut stage = Stage::Parts(key, value, weight);
        loop {
            let (key, expected) = {
                let key = match &stage {
                    Stage::Parts(key, ..) => key,
                    Stage::Drafted(draft) => draft.key(),
                };
                (key.clone(), self.current(cx, hash, key, &mut patience)?.1)
            };
            if !may(&key) {
                return Ok(None);
            }
            stage = match self.write_over(cx, hash, stage, Expect::Version(expected), &mut patience)? {
                Ok(written) => return Ok(Some(written)),
                Err(stage) => stage,
            };
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
            let loaded = self.load(cx, hash, key, true)?;
            if !loaded.is_cached {
                // A row that the cache may never hold cannot be updated through it.
                if let Some(value) = &loaded.value {
                    self.weigh(key, value)?;
                }
                self.wait(cx, Lack::Room, patience)?;
            }
        }
    }

    pub(super) fn get_or_put_with(&self, cx: &Context, key: K, make: impl FnOnce() -> V) -> Result<V, Error> {
        // A row that is there is an answer, whether or not there is room to keep it.
        if let Some(value) = self.get(cx, &key)? {
            return Ok(value);
        }
        let (mut make, mut made, mut found) = (Some(make), None, None);
        let look_or_make = |old: Option<&V>| match old {
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
        };
        self.update_if(cx, key, look_or_make, None)?;
        // One of the two is there: either the closure saw a value, or it made one.
        found.or(made).ok_or(Error::Closed)
    }
}

/// Who holds the key of an update between its attempts.
enum Owner<'e, K, V, S> {
    Key(K),
    Draft(Draft<'e, K, V, S>),
}

impl<K, V, S> Owner<'_, K, V, S> {
    fn key(&self) -> &K {
        match self {
            Owner::Key(key) => key,
            Owner::Draft(draft) => draft.key(),
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
