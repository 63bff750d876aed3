//! Writes: blind ones, and those that are computed from what is there.

use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use super::{
    Ack, OnFull, Ticket, WriteOptions,
    engine::Engine,
    pressure::{Lack, Patience, Terms},
    ticket::WaitsOn,
};
use crate::{
    Error, Version,
    context::Context,
    flusher::{Ended, Reply, Request},
    journal::Unprepared,
    store::{Credit, Draft, Expect, Overdraft, Published, Refused, Seen},
    table::Position,
};

/// A write on its way into the table.
enum Stage<'s, K, V, S> {
    /// No slot yet.
    Parts(K, Option<V>, u64),
    Drafted(Draft<'s, K, V, S>),
}

/// A write that was made.
#[derive(Clone, Copy)]
struct Written {
    at: Position,
    version: u64,
    /// More is dirty than before.
    grew: bool,
    /// It went over a dirty limit, so it has to be in the backend before it returns.
    went_through: bool,
}

/// A write that was made; or the write itself, because what it expected was not there.
type Outcome<'s, K, V, S> = Result<Written, Stage<'s, K, V, S>>;

/// What one attempt came to. Small, and nothing in it needs to be dropped: it is on the way of every write, and what is returned
/// through memory, in pieces of other sizes than it is read in, costs more than the write. Whatever else there is, is left beside
/// it, in [`Left`].
#[derive(Clone, Copy)]
enum Attempt {
    Written(Written),
    /// Nothing is lacking: to be tried again at once.
    Again,
    Changed,
    Lacks(Lack),
    /// It can never be made; the error is left.
    Never,
}

/// What an attempt leaves beside its outcome.
struct Left<'e, K, V, S> {
    /// The write, unless it was made, or can never be.
    stage: Option<Stage<'e, K, V, S>>,
    /// The right by which it went over a dirty limit.
    overdraft: Option<Overdraft<'e>>,
    error: Option<Error>,
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// What a write may count on, if it can be given.
    fn terms(&self, cx: &Context, options: &WriteOptions) -> Result<Terms, Error> {
        let policies = &self.policies;
        Ok(Terms {
            ack: self.check_ack(cx, options.ack.unwrap_or(policies.ack))?,
            on_full: options.on_full.unwrap_or(policies.on_full),
            timeout: options.timeout.unwrap_or(policies.write_timeout),
        })
    }

    /// The acknowledgement for a write, if it can be given.
    fn check_ack(&self, cx: &Context, ack: Ack) -> Result<Ack, Error> {
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

    /// Asks for what was promised beyond what the write has done.
    fn request_ack(&self, written: Written, hash: u64, terms: &Terms) -> Result<Ticket, Error> {
        let Written { at, version, went_through, .. } = written;
        let ack = if went_through { Ack::Backend } else { terms.ack };
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
                        // Somebody who asked for the backend waits for it, somebody who met a limit only so long.
                        let is_limited = went_through && terms.ack != Ack::Backend;
                        WaitsOn::Backend(reply, is_limited)
                    }
                    // Everything is in the backend, also this.
                    Err(Ended::Drained) => WaitsOn::Nothing,
                    Err(Ended::Stopped) => return Err(Error::Closed),
                }
            }
            _ => WaitsOn::Nothing,
        };
        Ok(Ticket::new(self.id, (at, hash), version, on, terms.timeout))
    }

    /// Waits for what was promised beyond what the write has done.
    fn acknowledge(&self, written: Written, hash: u64, terms: &Terms) -> Result<Version, Error> {
        match terms.ack {
            // The common case, without a ticket.
            Ack::Memory | Ack::Journal if !written.went_through => Ok(Version(written.version)),
            _ => self.request_ack(written, hash, terms)?.wait(),
        }
    }

    fn weigh(&self, key: &K, value: &V) -> Result<u64, Error> {
        self.store.weigh(key, value).map_err(|(weight, limit)| Error::TooHeavy { weight, limit })
    }

    pub(super) fn put(
        &self,
        cx: &Context,
        key: K,
        value: V,
        options: &WriteOptions,
    ) -> Result<Version, Error> {
        let terms = self.terms(cx, options)?;
        let (hash, weight) = (self.store.hash(&key), self.weigh(&key, &value)?);
        let written = self.write(cx, hash, Stage::Parts(key, Some(value), weight), &terms)?;
        cx.counters.puts.add(1);
        self.acknowledge(written, hash, &terms)
    }

    pub(super) fn put_ticket(
        &self,
        cx: &Context,
        key: K,
        value: V,
        options: &WriteOptions,
    ) -> Result<Ticket, Error> {
        let terms = self.terms(cx, options)?;
        let (hash, weight) = (self.store.hash(&key), self.weigh(&key, &value)?);
        let written = self.write(cx, hash, Stage::Parts(key, Some(value), weight), &terms)?;
        cx.counters.puts.add(1);
        self.request_ack(written, hash, &terms)
    }

    pub(super) fn remove(&self, cx: &Context, key: K, options: &WriteOptions) -> Result<Version, Error> {
        let terms = self.terms(cx, options)?;
        let hash = self.store.hash(&key);
        let written = self.write(cx, hash, Stage::Parts(key, None, 0), &terms)?;
        cx.counters.removes.add(1);
        self.acknowledge(written, hash, &terms)
    }

    pub(super) fn put_many(
        &self,
        cx: &Context,
        entries: impl IntoIterator<Item = (K, V)>,
        options: &WriteOptions,
    ) -> Result<usize, Error> {
        let terms = self.terms(cx, options)?;
        let (mut count, mut in_backend, mut last) = (0, Vec::new(), None);
        for (key, value) in entries {
            let (hash, weight) = (self.store.hash(&key), self.weigh(&key, &value)?);
            let written = self.write(cx, hash, Stage::Parts(key, Some(value), weight), &terms)?;
            cx.counters.puts.add(1);
            count += 1;
            if terms.ack == Ack::Backend || written.went_through {
                in_backend.push((written, hash));
            } else if terms.ack == Ack::Synced {
                // A sync that covers the last covers all.
                last = Some((written, hash));
            }
        }
        // All of them are on their way before the first is waited for, so they share batches.
        for (written, hash) in in_backend.into_iter().chain(last) {
            self.acknowledge(written, hash, &terms)?;
        }
        Ok(count)
    }

    /// A blind write: goes over whatever is there.
    #[inline]
    fn write<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        stage: Stage<'e, K, V, S>,
        terms: &Terms,
    ) -> Result<Written, Error> {
        // On its way while the draft is made and its record prepared.
        self.store.table.prefetch(hash);
        let mut patience = Patience::new();
        let mut stage = stage;
        loop {
            stage = match self.write_over(cx, hash, stage, Expect::Anything, terms, &mut patience)? {
                Ok(written) => return Ok(written),
                // It expects nothing, so nothing can have changed.
                Err(again) => again,
            };
        }
    }

    /// Writes over what is expected, and waits for what it takes. The inner `Err`: it is not there.
    #[inline(always)]
    fn write_over<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        stage: Stage<'e, K, V, S>,
        expect: Expect,
        terms: &Terms,
        patience: &mut Patience<'e>,
    ) -> Result<Outcome<'e, K, V, S>, Error> {
        let mut left = Left { stage: None, overdraft: None, error: None };
        match self.attempt(cx, hash, stage, expect, &mut left) {
            Attempt::Written(written) if !written.grew && !written.went_through => Ok(Ok(written)),
            attempt => self.insist(cx, hash, attempt, left, expect, terms, patience),
        }
    }

    /// Goes on after a first attempt, until the write is made or nothing helps.
    #[cold]
    #[expect(clippy::too_many_arguments)]
    fn insist<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        mut attempt: Attempt,
        mut left: Left<'e, K, V, S>,
        expect: Expect,
        terms: &Terms,
        patience: &mut Patience<'e>,
    ) -> Result<Outcome<'e, K, V, S>, Error> {
        loop {
            let lack = match attempt {
                Attempt::Written(written) => {
                    if let Some(overdraft) = left.overdraft {
                        overdraft.spend();
                    } else if written.grew {
                        self.slow_down(cx, terms);
                    }
                    return Ok(Ok(written));
                }
                Attempt::Again | Attempt::Changed | Attempt::Never => None,
                Attempt::Lacks(lack) => Some(lack),
            };
            let Some(mut stage) = left.stage.take() else {
                return Err(left.error.unwrap_or(Error::Closed));
            };
            if let Attempt::Changed = attempt {
                return Ok(Err(stage));
            }
            let mut is_granted = false;
            if let (Some(Lack::Budget), Stage::Drafted(draft)) = (lack, &mut stage)
                && terms.on_full == OnFull::WriteThrough
                && !cx.is_pinned()
                && let Some(budget) = &self.store.budget
            {
                draft.overdraft = budget.overdraw(self.census.living());
                is_granted = draft.overdraft.is_some();
            }
            if let Some(lack) = lack
                && !is_granted
            {
                self.wait(cx, lack, terms, patience)?;
            }
            attempt = self.attempt(cx, hash, stage, expect, &mut left);
        }
    }

    /// One attempt to write, under one pin.
    #[inline(always)]
    fn attempt<'e>(
        &'e self,
        cx: &Context,
        hash: u64,
        stage: Stage<'e, K, V, S>,
        expect: Expect,
        left: &mut Left<'e, K, V, S>,
    ) -> Attempt {
        if let Err(error) = self.check_open() {
            left.error = Some(error);
            return Attempt::Never;
        }
        let attempt = cx.with_writer(|writer| {
            let mut draft = match stage {
                Stage::Drafted(draft) => draft,
                Stage::Parts(key, value, weight) => match self.store.draft(writer, key, value, weight) {
                    Ok(draft) => draft,
                    Err((key, value)) => {
                        // So that others find them, and we, when their moment is over.
                        writer.seal();
                        left.stage = Some(Stage::Parts(key, value, weight));
                        return Attempt::Lacks(Lack::Slot);
                    }
                },
            };
            // Before the pin: it may wait for the disk, and runs the codec.
            if let Err(unprepared) = self.store.prepare(writer, &mut draft) {
                left.error = Some(match unprepared {
                    Unprepared::Full => {
                        left.stage = Some(Stage::Drafted(draft));
                        return Attempt::Lacks(Lack::Journal);
                    }
                    Unprepared::TooLarge { bytes, limit } => Error::RecordTooLarge { bytes, limit },
                    Unprepared::Codec(error) => Error::Codec(error),
                });
                return Attempt::Never;
            }
            let guard = cx.pin();
            let mut credit: Option<Credit<'_>> = None;
            loop {
                let why = match self.store.publish(writer, draft, hash, expect, &mut credit, &guard) {
                    Ok(Published { at, version, grew, overdraft }) => {
                        let went_through = overdraft.is_some();
                        if went_through {
                            left.overdraft = overdraft;
                        }
                        return Attempt::Written(Written { at, version, grew, went_through });
                    }
                    Err((refused, why)) => {
                        draft = refused;
                        why
                    }
                };
                let made_room = match why {
                    Refused::Closed => {
                        left.error = Some(Error::Closed);
                        return Attempt::Never;
                    }
                    Refused::TooMuch(weight) => self.store.make_weight(writer, weight, &guard),
                    // With a place in hand, it is the key's range that has none.
                    Refused::NoRoom if credit.is_some() => self.store.clear_range(writer, hash, &guard),
                    Refused::NoRoom => {
                        credit = self.store.credit_by_force(writer, &guard);
                        credit.is_some()
                    }
                    Refused::Changed | Refused::Unsound | Refused::TooDirty => false,
                };
                if !made_room {
                    left.stage = Some(Stage::Drafted(draft));
                    return match why {
                        Refused::Changed => Attempt::Changed,
                        Refused::Unsound => Attempt::Again,
                        Refused::TooDirty => Attempt::Lacks(Lack::Budget),
                        Refused::NoRoom | Refused::TooMuch(_) | Refused::Closed => Attempt::Lacks(Lack::Room),
                    };
                }
            }
        });
        attempt.unwrap_or_else(|reentered| {
            left.error = Some(reentered.into());
            Attempt::Never
        })
    }
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
        options: &WriteOptions,
    ) -> Result<Option<Version>, Error> {
        let terms = self.terms(cx, options)?;
        let hash = self.store.hash(&key);
        let mut patience = Patience::new();
        let mut owner: Owner<'e, K, V, S> = Owner::Key(key);
        loop {
            let (old, expected) = self.current(cx, hash, owner.key(), &terms, &mut patience)?;
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
            owner =
                match self.write_over(cx, hash, stage, Expect::Version(expected), &terms, &mut patience)? {
                    Ok(written) => {
                        cx.counters.puts.add(1);
                        return self.acknowledge(written, hash, &terms).map(Some);
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
        let terms = self.terms(cx, &WriteOptions::new())?;
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
                (key.clone(), self.current(cx, hash, key, &terms, &mut patience)?.1)
            };
            if !may(&key) {
                return Ok(None);
            }
            let expect = Expect::Version(expected);
            stage = match self.write_over(cx, hash, stage, expect, &terms, &mut patience)? {
                Ok(Written { at, version, .. }) => return Ok(Some((at, version))),
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
        terms: &Terms,
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
                self.wait(cx, Lack::Room, terms, patience)?;
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
        self.update_if(cx, key, look_or_make, &WriteOptions::new())?;
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
