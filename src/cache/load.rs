//! Read-through: a miss loads once for everyone, and never covers a write.
//!
//! The first to miss a key installs a placeholder in the table and asks the backend; everyone else who meets the
//! placeholder waits for its flight. What was loaded replaces *that* placeholder by compare-and-swap, so a put, a remove
//! or an invalidation in between wins, however late the backend answers.

use std::{
    borrow::Borrow,
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    engine::Engine,
    flights::{Flight, Flights, Landing},
};
use crate::{
    Error,
    backend::BackendError,
    context::Context,
    store::{Fulfilled, Installed, Placeholder, Seen},
    table::SlotId,
};

/// A load that this thread has to carry out. Its flight lands in any case: dropped without an answer, also by a panic, it
/// gives its placeholder up and sends everyone who waits to look again.
struct Led<'e, K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    engine: &'e Engine<K, V, S>,
    cx: &'e Context,
    key: K,
    /// Invariant: `Some` until it has landed.
    placeholder: Option<Placeholder>,
    flight: Arc<Flight<V>>,
}

impl<K, V, S> Led<'_, K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Puts what was loaded in place of the placeholder, and tells everyone who waits. Says whether it is cached.
    fn land(mut self, answer: Result<Option<V>, BackendError>, keep_absent: bool) -> (Landing<V>, bool) {
        let content = match &answer {
            // Too heavy to be cached, or a weigher or a clone that panics: the value is still the answer.
            Ok(Some(value)) => catch_unwind(AssertUnwindSafe(|| {
                let weight = self.engine.store.weigh(&self.key, value).ok()?;
                Some((self.key.clone(), Some(value.clone()), weight))
            }))
            .unwrap_or(None),
            Ok(None) if keep_absent => Some((self.key.clone(), None, 0)),
            _ => None,
        };
        let fulfilled = self.replace_placeholder(content);
        let landing = match answer {
            Err(error) => Landing::Failed(error),
            Ok(_) if fulfilled == Fulfilled::Overtaken => Landing::Overtaken,
            Ok(value) => Landing::Loaded(value),
        };
        self.flight.land(landing);
        // Everyone else has been told: a clone that panics is only ours.
        (self.flight.wait(), fulfilled == Fulfilled::Cached)
    }

    fn replace_placeholder(&mut self, content: Option<(K, Option<V>, u64)>) -> Fulfilled {
        let Some(placeholder) = self.placeholder.take() else { return Fulfilled::Overtaken };
        let (store, slot) = (&self.engine.store, placeholder.slot());
        let has_content = content.is_some();
        let fulfilled = self.cx.with_writer(|writer| {
            let guard = self.cx.pin();
            // Room is made before the entry is in a queue of the policy: it must not be its own victim.
            let content = content.filter(|(_, _, weight)| store.make_weight(writer, *weight, &guard));
            let fulfilled = store.fulfil(writer, placeholder, content, &guard);
            // Still pinned, so the placeholder's slot is not in use again, and this is still its flight.
            self.engine.flights.forget(slot);
            fulfilled
        });
        // A place that became free may be what somebody waits for. Not if it is only free because there was no room for
        // the weight: those who wait for that would wake each other for ever.
        if !has_content {
            store.room.notify();
        }
        // The lane was free when the placeholder was made, and this is the same call.
        fulfilled.unwrap_or(Fulfilled::Overtaken)
    }
}

impl<K, V, S> Drop for Led<'_, K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    fn drop(&mut self) {
        if self.placeholder.is_some() {
            self.replace_placeholder(None);
            self.flight.land(Landing::Overtaken);
        }
    }
}

/// A flight that is registered, but whose placeholder is not in the table yet.
struct Boarding<'e, V> {
    flights: &'e Flights<V>,
    slot: SlotId,
    is_aboard: bool,
}

impl<V> Drop for Boarding<'_, V> {
    fn drop(&mut self) {
        if !self.is_aboard {
            self.flights.forget(self.slot);
        }
    }
}

/// Where a missing key stands.
enum Missing<'e, K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// It is not missing any more.
    Here(Option<V>),
    Led(Led<'e, K, V, S>),
    Joined(Arc<Flight<V>>),
    /// There is no room for a placeholder: the value can be loaded, but not cached.
    Around(K),
}

/// What a load brought, and whether it is in the cache.
pub(super) struct Loaded<V> {
    pub(super) value: Option<V>,
    pub(super) is_cached: bool,
}

impl<K, V, S> Engine<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Loads a key that was not found.
    pub(super) fn load_one<Q>(&self, cx: &Context, hash: u64, key: &Q) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        cx.counters.misses.add(1);
        self.load(cx, hash, key, self.policies.cache_absent).map(|loaded| loaded.value)
    }

    /// Loads a key; `keep_absent`: that there is no row is worth a place in the cache.
    pub(super) fn load<Q>(
        &self,
        cx: &Context,
        hash: u64,
        key: &Q,
        keep_absent: bool,
    ) -> Result<Loaded<V>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if cx.is_pinned() {
            // The backend may take its time, and nobody may wait for it under a pin.
            return Err(Error::Reentrant);
        }
        loop {
            let (landing, is_cached) = match self.begin(cx, hash, key)? {
                Missing::Here(value) => return Ok(Loaded { value, is_cached: true }),
                Missing::Joined(flight) => (flight.wait(), true),
                Missing::Led(led) => {
                    let answer = self.ask_backend(cx, std::slice::from_ref(&led.key));
                    let answer = answer.map(|mut values| values.pop().flatten());
                    led.land(answer, keep_absent)
                }
                Missing::Around(key) => {
                    let answer = self.ask_backend(cx, &[key]);
                    (
                        answer.map_or_else(Landing::Failed, |mut values| {
                            Landing::Loaded(values.pop().flatten())
                        }),
                        false,
                    )
                }
            };
            match landing {
                Landing::Loaded(value) => return Ok(Loaded { value, is_cached }),
                Landing::Failed(error) => return Err(Error::Load(error)),
                Landing::Overtaken => self.check_open()?,
            }
        }
    }

    fn begin<'e, Q>(&'e self, cx: &'e Context, hash: u64, key: &Q) -> Result<Missing<'e, K, V, S>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let begun = cx.with_writer(|writer| {
            // Owned before the pin: making it is the user's code.
            let owned = key.to_owned();
            let guard = cx.pin();
            loop {
                match self.store.look(hash, key, &guard) {
                    Seen::Value { value, .. } => return Missing::Here(Some(value.clone())),
                    Seen::Tombstone { .. } => return Missing::Here(None),
                    // Looked up under the pin under which its slot was seen, so it is this key's flight. None: it has
                    // landed, so another look finds something else.
                    Seen::Loading(slot) => match self.flights.find(slot) {
                        Some(flight) => return Missing::Joined(flight),
                        None => crate::sync::spin(),
                    },
                    Seen::Absent => break,
                }
            }
            let Some(mut spare) = self.store.placeholder_slot(writer, owned.clone()) else {
                return Missing::Around(owned);
            };
            let flight = self.flights.take_off(spare.id());
            let mut boarding = Boarding { flights: &self.flights, slot: spare.id(), is_aboard: false };
            loop {
                let Some(credit) = self.store.credit_by_force(writer, &guard) else {
                    return Missing::Around(owned);
                };
                spare = match self.store.install(spare, hash, credit, &guard) {
                    Installed::Ours(placeholder) => {
                        boarding.is_aboard = true;
                        let placeholder = Some(placeholder);
                        return Missing::Led(Led { engine: self, cx, key: owned, placeholder, flight });
                    }
                    Installed::Seen(Seen::Value { value, .. }, _) => {
                        return Missing::Here(Some(value.clone()));
                    }
                    Installed::Seen(Seen::Tombstone { .. }, _) => return Missing::Here(None),
                    Installed::Seen(Seen::Loading(other), spare) => match self.flights.find(other) {
                        Some(other) => return Missing::Joined(other),
                        // Landed already.
                        None => spare,
                    },
                    Installed::Seen(Seen::Absent, spare) => spare,
                    // Places are free, but not in this key's range.
                    Installed::NoRoom(spare) if self.store.clear_range(writer, hash, &guard) => spare,
                    Installed::NoRoom(_) => return Missing::Around(owned),
                };
            }
        })?;
        Ok(begun)
    }

    /// The newest that is known of some keys: what a dead letter says, else what the backend has.
    ///
    /// The letters are looked up first. Their keys have placeholders by now, so what becomes of a letter from here on (its key
    /// is written, or the letter discarded) overtakes the load.
    fn ask_backend(&self, cx: &Context, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        let mut letters = self.letters_of(keys)?;
        if letters.is_empty() {
            return self.ask_rows(cx, keys);
        }
        let others: Vec<K> =
            (0..keys.len()).filter(|at| !letters.contains_key(at)).map(|at| keys[at].clone()).collect();
        let mut rows = if others.is_empty() { Vec::new() } else { self.ask_rows(cx, &others)? }.into_iter();
        Ok((0..keys.len()).map(|at| letters.remove(&at).unwrap_or_else(|| rows.next().flatten())).collect())
    }

    /// Asks the backend for some keys. One answer for each key, or an error.
    fn ask_rows(&self, cx: &Context, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        cx.counters.loads.add(keys.len() as u64);
        let answer = catch_unwind(AssertUnwindSafe(|| self.backend.load(keys)))
            .unwrap_or_else(|_| Err(BackendError::transient("the backend panicked in `load`")))
            .and_then(|values| {
                let complete = values.len() == keys.len();
                if complete {
                    Ok(values)
                } else {
                    Err(BackendError::transient("the backend's `load` answered for another number of keys"))
                }
            });
        if answer.is_err() {
            cx.counters.load_errors.add(keys.len() as u64);
        }
        answer
    }

    pub(super) fn get_many(&self, cx: &Context, keys: &[K]) -> Result<Vec<Option<V>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        // A key that is given twice is looked up twice, but loaded once.
        let (mut first, mut repeated) = (HashMap::new(), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            let hit = self.hit(cx, self.store.hash(key), key, V::clone)?;
            if hit.is_none() {
                match first.entry(key) {
                    Entry::Occupied(first) => repeated.push((index, *first.get())),
                    Entry::Vacant(vacant) => {
                        vacant.insert(index);
                        missing.push(index);
                    }
                }
            }
            values.push(hit.flatten());
        }
        if !missing.is_empty() && cx.is_pinned() {
            return Err(Error::Reentrant);
        }
        cx.counters.misses.add((missing.len() + repeated.len()) as u64);
        // All that nobody else loads goes into one call; only then is anyone waited for.
        let (mut led, mut later) = (Vec::new(), Vec::new());
        for index in missing {
            match self.begin(cx, self.store.hash(&keys[index]), &keys[index]) {
                Ok(Missing::Here(value)) => values[index] = value,
                Ok(Missing::Led(leader)) => led.push((index, leader)),
                Ok(Missing::Joined(_) | Missing::Around(_)) | Err(_) => later.push(index),
            }
        }
        if !led.is_empty() {
            let wanted: Vec<K> = led.iter().map(|(_, led)| led.key.clone()).collect();
            let mut answers = self.ask_backend(cx, &wanted).map(Vec::into_iter);
            let mut failure = None;
            for (index, led) in led {
                let answer = match &mut answers {
                    Ok(values) => Ok(values.next().flatten()),
                    Err(error) => Err(error.clone()),
                };
                match led.land(answer, self.policies.cache_absent) {
                    (Landing::Loaded(value), _) => values[index] = value,
                    (Landing::Overtaken, _) => later.push(index),
                    (Landing::Failed(error), _) => failure = Some(Error::Load(error)),
                }
            }
            // Only now: every flight has landed.
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        for index in later {
            let hash = self.store.hash(&keys[index]);
            values[index] = self.load(cx, hash, &keys[index], self.policies.cache_absent)?.value;
        }
        for (index, first) in repeated {
            values[index] = values[first].clone();
        }
        Ok(values)
    }
}
