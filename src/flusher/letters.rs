//! The flusher's side of dead letters: what is refused for good becomes one, what is stored makes older ones obsolete.
//!
//! The order is what matters. A letter is durable before its entry is clean, so that the write is in the journal or in a
//! letter at any time. And what the backend has taken is noted in the letters of its key before *that* entry is clean:
//! an old letter must not come back over a newer row that nobody remembers writing.

use std::{
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::{Flusher, pending::Taken, request::Reply};
use crate::{
    backend::{BackendError, Batch, ErrorClass, Op},
    letters::{Letter, Parked, State, Stored, Unkept, WallTime, wall_clock},
    store::Cleaned,
    table::Position,
};

/// Which operations of a batch were refused for good, and why.
pub(super) fn refused(answers: &[Result<(), BackendError>]) -> Vec<(usize, BackendError)> {
    let refused = |(index, answer): (usize, &Result<(), BackendError>)| match answer {
        Err(error) if error.class() != ErrorClass::Transient => Some((index, error.clone())),
        _ => None,
    };
    answers.iter().enumerate().filter_map(refused).collect()
}

/// What an error says of itself: that is the user's code.
fn words(error: &BackendError) -> String {
    // What is behind the words that every error has.
    let said = || std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    catch_unwind(AssertUnwindSafe(said))
        .unwrap_or_else(|_| "an error that panicked when it was asked what it says".to_owned())
}

impl<K, V, S> Flusher<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// What an operation says, in bytes, and how many of them are the key's.
    fn letter_bytes(&self, op: &Op<K, V>) -> Result<(Vec<u8>, usize), BackendError> {
        // On this thread the codec is somebody else's code.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.store.encode(op.key(), op.change().value())))
            .ok()
            .flatten();
        let failed = || BackendError::transient("the codec panicked on a key that has a dead letter");
        encoded.ok_or_else(failed)?.map_err(BackendError::transient)
    }

    /// Before what the backend has taken is clean: its keys have no open letters any more. Where that cannot be noted, the
    /// operation is tried again, which is harmless.
    pub(super) fn resolve_letters(
        &self,
        taken: &[Taken],
        batch: &Batch<K, V>,
        mut answers: Vec<Result<(), BackendError>>,
    ) -> Vec<Result<(), BackendError>> {
        let letters = &self.desk.letters;
        let stored = |answers: &[Result<(), BackendError>]| -> Vec<usize> {
            answers.iter().enumerate().filter(|(_, answer)| answer.is_ok()).map(|(index, _)| index).collect()
        };
        letters
            .unpark(stored(&answers).into_iter().filter_map(|index| taken.get(index)).map(|taken| taken.at));
        if letters.open() == 0 {
            return answers;
        }
        let mut told = Vec::new();
        for index in stored(&answers) {
            let Some(op) = batch.ops().get(index) else { continue };
            match self.letter_bytes(op) {
                Ok((bytes, length)) => told.push((index, bytes, length, op)),
                Err(error) => answers[index] = Err(error),
            }
        }
        let stored: Vec<_> = told
            .iter()
            .map(|(_, bytes, length, op)| {
                let (key, value) = bytes.split_at((*length).min(bytes.len()));
                Stored { key, value: op.change().value().map(|_| value), version: op.version() }
            })
            .collect();
        if let Err(error) = letters.resolve(&stored) {
            let error = BackendError::transient(format!("the dead letters could not be written: {error}"));
            told.iter().for_each(|(index, ..)| answers[*index] = Err(error.clone()));
        }
        answers
    }

    /// After it was noted in the book: what was refused for good becomes a letter, and is dirty no longer. What cannot be one
    /// stays parked.
    pub(super) fn write_letters(
        &mut self,
        taken: &[Taken],
        batch: &Batch<K, V>,
        refused: Vec<(usize, BackendError)>,
        now: Duration,
    ) {
        let Some((_, cause)) = refused.first() else { return };
        let times = WallTime { now, wall: wall_clock() };
        let cause = cause.clone();
        let mut noted = Vec::new();
        let mut letters = Vec::new();
        for (index, error) in &refused {
            let (Some(Taken { at, .. }), Some(op)) = (taken.get(*index), batch.ops().get(*index)) else {
                continue;
            };
            // A newer version has taken its place, and will be tried: nobody has to be asked about this one.
            if self.store.dirty_version(*at, &self.local.pin()) != Some(op.version()) {
                continue;
            }
            let parked = Parked {
                id: 0,
                at: *at,
                version: op.version(),
                class: error.class(),
                error: words(error),
                attempts: op.attempt(),
                first_dirty: times.of(self.pending.since(*at).unwrap_or(now)),
                refused: times.wall,
            };
            let bytes = if self.desk.letters.has_area() { self.letter_bytes(op).ok() } else { None };
            match bytes {
                Some((mut bytes, length)) => {
                    let value = bytes.split_off(length.min(bytes.len()));
                    letters.push(Letter {
                        id: 0,
                        version: parked.version,
                        key: bytes.into(),
                        value: op.change().value().map(|_| value.into()),
                        class: parked.class,
                        error: parked.error.clone(),
                        attempts: parked.attempts,
                        first_dirty: parked.first_dirty,
                        refused: parked.refused,
                        state: State::Open,
                    });
                    noted.push(parked);
                }
                None => self.desk.letters.park(parked),
            }
        }
        if letters.is_empty() {
            return;
        }
        let epochs = &self.store.epochs;
        let written = self.desk.letters.with(|area| area.add(letters, |version| epochs.may_forget(version)));
        let (mut kept, mut unkept) = (0, 0);
        for (parked, written) in noted.into_iter().zip(written.unwrap_or_default()) {
            match written {
                Ok(_) => {
                    kept += 1;
                    self.bury_letter(parked.at, parked.version);
                }
                Err(why) => {
                    unkept += 1;
                    if let (Unkept::Io(error), 1) = (&why, unkept) {
                        tracing::error!(%error, "a dead letter could not be written; its entry stays in the cache");
                    }
                    self.desk.letters.park(parked);
                }
            }
        }
        self.desk.letters.count_unkept(unkept);
        if kept > 0 {
            self.desk.letters.tell_later(kept, &cause);
        }
    }

    /// The letter of this version is durable, so its entry is clean, unless it has been written again.
    fn bury_letter(&mut self, at: Position, version: u64) {
        let cleaned = self.store.mark_clean(at, version, &self.local.pin());
        if cleaned == Cleaned::Superseded {
            // It holds another version than the one that was refused, so it will be tried.
            return;
        }
        self.pending.settled(at);
        self.desk.letters.unpark([at]);
        self.has_cleaned = true;
        if cleaned == Cleaned::Tombstone {
            self.graves.push_back((at, version));
        }
    }

    /// Somebody has decided that a parked write is not wanted: the entry is clean. It is still in the cache; who has asked
    /// takes it out. `Ok` also if it was gone before.
    pub(super) fn discard_parked(&mut self, at: Position, version: u64, reply: Arc<Reply>) {
        let is_it = self.store.dirty_version(at, &self.local.pin()) == Some(version);
        if is_it && !self.pending.is_parked(at) {
            // On its way to the backend, or about to be.
            let error = BackendError::transient("it is being tried again at this moment");
            return reply.answer(Err((1, error)));
        }
        if is_it {
            self.bury_letter(at, version);
            self.desk.counters.parked.set(self.pending.parked() as u64);
        }
        reply.answer(Ok(()));
    }
}
