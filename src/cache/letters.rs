//! Dead letters, as keys and values: what the backend has refused for good, and what can be done about it.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Cache, engine::Engine};
use crate::{
    BackendError, Change, Error, ErrorClass, Version,
    context::Context,
    flusher::Request,
    letters::{Letter, Parked, State, wall_clock},
};

/// The number of a dead letter.
///
/// No other letter of the same journal has had it, or will have it. That of a write that is only parked (see
/// [`DeadLetter::is_durable`]) is good until the cache is closed, or the write becomes a letter with a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId(pub(crate) u64);

impl DeadLetterId {
    /// The number itself.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for DeadLetterId {
    fn from(id: u64) -> Self {
        DeadLetterId(id)
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DeadLetterId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(DeadLetterId)
    }
}

/// A write that was acknowledged, and that the backend has refused for good.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter<K, V> {
    /// Its number.
    pub id: DeadLetterId,
    /// The key.
    pub key: K,
    /// What was to be done with its row.
    pub change: Change<V>,
    /// The version of the write.
    pub version: Version,
    /// What the backend said, in words.
    pub error: String,
    /// What kind of error that was.
    pub class: ErrorClass,
    /// How often it was tried, retries of the letter included.
    pub attempts: u32,
    /// When the entry became dirty, by the wall clock.
    pub first_dirty: SystemTime,
    /// When it was refused last, by the wall clock.
    pub refused: SystemTime,
    /// Whether it is in the file of dead letters, and survives whatever the journal survives. `false`: there is no journal,
    /// or no room in that file; then the entry is still in the cache, dirty and *parked*.
    pub is_durable: bool,
    /// The backend has got a newer version of the key since. The letter is kept for whoever wants to know what was lost on the
    /// way; it is dropped when it is discarded, or when its room is needed.
    pub is_superseded: bool,
}

/// What became of a retry.
#[derive(Debug, Clone)]
#[must_use = "the backend may have refused it again"]
#[non_exhaustive]
pub enum Retried {
    /// The backend has it now, and it is no dead letter any more.
    Stored,
    /// The backend has refused it again; it stays a dead letter, with one more attempt and the new error.
    Refused(BackendError),
    /// The backend could not be reached. The write is dirty in the cache, and is tried again until there is an answer.
    Pending(BackendError),
    /// There is a newer write of the key, so this one was not tried.
    Newer,
    /// There is no such letter.
    Gone,
}

fn time(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(UNIX_EPOCH)
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// What dead letters say of some of these keys, by their place among them.
    pub(super) fn letters_of(&self, keys: &[K]) -> Result<HashMap<usize, Option<V>>, BackendError> {
        let mut found = HashMap::new();
        if self.desk.letters.open() == 0 {
            return Ok(found);
        }
        for (at, key) in keys.iter().enumerate() {
            let coded = catch_unwind(AssertUnwindSafe(|| {
                let (bytes, _) = self.store.encode(key, None)?.ok()?;
                let value = self.desk.letters.overlay(&bytes)?;
                Some(self.store.decode(&bytes, value.as_deref()))
            }));
            match coded {
                Ok(None) => {}
                Ok(Some(Ok((_, value)))) => drop(found.insert(at, value)),
                Ok(Some(Err(error))) => return Err(BackendError::permanent(error)),
                Err(_) => return Err(BackendError::permanent("the codec panicked on a dead letter")),
            }
        }
        Ok(found)
    }

    /// Whether the backend has refused a key of this hash for good, at this version or a newer one, so that a letter has it.
    pub(super) fn check_letters(&self, hash: u64, version: u64) -> Result<(), Error> {
        if self.desk.letters.open() == 0 {
            return Ok(());
        }
        let is_meant = |letter: &&Letter| letter.is_open() && letter.version >= version;
        let open: Option<Vec<Letter>> =
            self.desk.letters.with(|area| area.letters().filter(is_meant).cloned().collect());
        for letter in open.unwrap_or_default() {
            let (key, _) = self.store.decode(&letter.key, None)?;
            if self.store.hash(&key) == hash {
                let cause = BackendError::new(letter.class, letter.error);
                return Err(Error::NotFlushed { failed: 1, cause });
            }
        }
        Ok(())
    }

    fn letter(&self, letter: &Letter) -> Result<DeadLetter<K, V>, Error> {
        let (key, value) = self.store.decode(&letter.key, letter.value.as_deref())?;
        Ok(DeadLetter {
            id: DeadLetterId(letter.id),
            key,
            change: value.map_or(Change::Delete, Change::Upsert),
            version: Version(letter.version),
            error: letter.error.clone(),
            class: letter.class,
            attempts: letter.attempts,
            first_dirty: time(letter.first_dirty),
            refused: time(letter.refused),
            is_durable: true,
            is_superseded: !letter.is_open(),
        })
    }

    /// `None`: it is not parked any more, or it is another version by now.
    fn parked_letter(&self, cx: &Context, parked: &Parked) -> Option<DeadLetter<K, V>> {
        let entry = self.store.copy_dirty(parked.at, &cx.pin())?;
        (entry.version == parked.version).then(|| DeadLetter {
            id: DeadLetterId(parked.id),
            key: entry.key,
            change: entry.value.map_or(Change::Delete, Change::Upsert),
            version: Version(entry.version),
            error: parked.error.clone(),
            class: parked.class,
            attempts: parked.attempts,
            first_dirty: time(parked.first_dirty),
            refused: time(parked.refused),
            is_durable: false,
            is_superseded: false,
        })
    }

    fn dead_letters(&self, cx: &Context) -> Result<Vec<DeadLetter<K, V>>, Error> {
        let is_listed = |letter: &&Letter| matches!(letter.state, State::Open | State::Superseded { .. });
        let letters: Vec<Letter> = self
            .desk
            .letters
            .with(|area| area.letters().filter(is_listed).cloned().collect())
            .unwrap_or_default();
        let mut all: Vec<_> = letters.iter().map(|letter| self.letter(letter)).collect::<Result<_, _>>()?;
        all.extend(self.desk.letters.parked().iter().filter_map(|parked| self.parked_letter(cx, parked)));
        Ok(all)
    }

    fn retry_dead_letter(&self, cx: &Context, id: u64) -> Result<Retried, Error> {
        self.check_open()?;
        if cx.is_pinned() {
            return Err(Error::Reentrant);
        }
        let letters = &self.desk.letters;
        if let Some(parked) = letters.parked_with(id) {
            if self.store.dirty_version(parked.at, &cx.pin()) != Some(parked.version) {
                return Ok(Retried::Newer);
            }
            let (at, version) = (parked.at, parked.version);
            return Self::outcome(self.ask(|reply| Request::Write { at, version, reply }));
        }
        let Some(letter) = letters.with(|area| area.get(id).cloned()).flatten() else {
            return Ok(Retried::Gone);
        };
        match letter.state {
            State::Open => {}
            State::Superseded { .. } => return Ok(Retried::Newer),
            State::Stored { .. } | State::Discarded { .. } => return Ok(Retried::Gone),
        }
        let (key, value) = self.store.decode(&letter.key, letter.value.as_deref())?;
        let hash = self.store.hash(&key);
        // Dirty is asked first: what is seen clean then has been noted in the letters before, if it was stored since.
        let is_newest = |key: &K| {
            let is_dirty = self.store.is_dirty(hash, key, &cx.pin());
            let newest = letters.with(|area| area.newest_open(&letter.key).map(|newest| newest.id)).flatten();
            !is_dirty && newest == Some(id)
        };
        match self.write_again(cx, key, value, is_newest)? {
            Some((at, version)) => {
                let outcome = self.ask(|reply| Request::Write { at, version, reply });
                // This call tells of it.
                if outcome.is_err() {
                    letters.untell();
                }
                Self::outcome(outcome)
            }
            None => Ok(Retried::Newer),
        }
    }

    fn outcome(asked: Result<(), Error>) -> Result<Retried, Error> {
        match asked {
            Ok(()) => Ok(Retried::Stored),
            Err(Error::NotFlushed { cause, .. }) if cause.class() == ErrorClass::Transient => {
                Ok(Retried::Pending(cause))
            }
            Err(Error::NotFlushed { cause, .. }) => Ok(Retried::Refused(cause)),
            Err(error) => Err(error),
        }
    }

    fn discard_dead_letter(&self, cx: &Context, id: u64) -> Result<bool, Error> {
        self.check_open()?;
        if cx.is_pinned() {
            return Err(Error::Reentrant);
        }
        let letters = &self.desk.letters;
        if let Some(parked) = letters.parked_with(id) {
            let Some(letter) = self.parked_letter(cx, &parked) else { return Ok(false) };
            let (at, version) = (parked.at, parked.version);
            self.ask(|reply| Request::Discard { at, version, reply })?;
            let _ = self.invalidate(cx, &letter.key)?;
            return Ok(true);
        }
        let found = letters.with(|area| area.get(id).cloned());
        let Some(letter) = found.flatten() else { return Ok(false) };
        let discarded = letters.with(|area| area.discard(id, wall_clock())).unwrap_or(Ok(false));
        if !discarded.map_err(|source| Error::DeadLetters { source: source.into() })? {
            return Ok(false);
        }
        if letter.is_open() {
            let (key, _) = self.store.decode(&letter.key, None)?;
            // Readers are to see the backend's row from now on. A newer write of the key stays.
            let _ = self.invalidate(cx, &key)?;
        }
        Ok(true)
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// The writes that the backend has refused for good ([`ErrorClass::Permanent`], [`ErrorClass::Conflict`]), the oldest
    /// first: first those in the file beside the journal, then those that are only parked.
    ///
    /// Until somebody decides about them, readers of the cache go on seeing what was written, also after the entry was
    /// evicted and in the next cache that is opened with the journal; other readers of the database do not. They are not
    /// tried again by themselves: [`retry_dead_letter`](Cache::retry_dead_letter) does, and a newer write of the key that the
    /// backend takes makes them obsolete.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use writeback::{BackendError, Cache, Retried, backend::Memory};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("scores.journal");
    /// # let rows = Arc::new(Memory::<u64, u64>::new());
    /// # rows.set_fault(|op| match op.key() { 7 => Err(BackendError::permanent("out of range")), _ => Ok(()) });
    /// let scores = Cache::builder().capacity(100).journal(&path).backend(Arc::clone(&rows)).open::<u64, u64>()?;
    /// scores.put(7, 1 << 40)?;
    /// scores.put(8, 1)?;
    /// assert!(scores.flush().is_err()); // 8 is stored, 7 is not
    /// for letter in scores.dead_letters()? {
    ///     println!("{} {}: {} after {} attempts", letter.id, letter.key, letter.error, letter.attempts);
    ///     // Once the cause is mended:
    /// #   rows.clear_fault();
    ///     assert!(matches!(scores.retry_dead_letter(letter.id)?, Retried::Stored));
    /// }
    /// assert!(scores.dead_letters()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    ///
    /// For as long as a letter is being written, which is one sync. Copies all of them.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if one cannot be decoded.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter<K, V>>, Error> {
        self.run(|engine, context| engine.dead_letters(context))
    }

    /// Writes a dead letter once more, as a new write of its key, unless there is a newer one, and waits for the backend's
    /// answer.
    ///
    /// # Errors
    ///
    /// As for [`put_acked`](Cache::put_acked) but for the backend's refusal, which is an answer here, and [`Error::Load`].
    /// The letter is as it was.
    pub fn retry_dead_letter(&self, id: DeadLetterId) -> Result<Retried, Error> {
        self.run(|engine, context| engine.retry_dead_letter(context, id.0))
    }

    /// Writes all dead letters once more, the oldest first, and says what became of each. See
    /// [`retry_dead_letter`](Cache::retry_dead_letter).
    ///
    /// # Errors
    ///
    /// As there; those before it were retried.
    pub fn retry_dead_letters(&self) -> Result<Vec<(DeadLetterId, Retried)>, Error> {
        let letters = self.dead_letters()?;
        let retry = |letter: DeadLetter<K, V>| Ok((letter.id, self.retry_dead_letter(letter.id)?));
        letters.into_iter().filter(|letter| !letter.is_superseded).map(retry).collect()
    }

    /// Gives a dead letter up: its write is forgotten, by a decision of the caller, and readers see the backend's row again.
    /// `false`: there is no such letter (any more).
    ///
    /// # Blocking
    ///
    /// For a sync, and for a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::DeadLetters`] if it cannot be noted; [`Error::NotFlushed`] if the write is being tried at this moment;
    /// [`Error::Backpressure`] if old values cannot be forgotten in time: then the letter is gone, but readers may see its value
    /// until it is evicted.
    pub fn discard_dead_letter(&self, id: DeadLetterId) -> Result<bool, Error> {
        self.run(|engine, context| engine.discard_dead_letter(context, id.0))
    }
}
