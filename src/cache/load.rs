//! Read-through: a miss loads once for everyone, and never covers a write.
//!
//! The first to miss a key installs a placeholder in the table and asks the backend; everyone else who meets the
//! placeholder waits for its flight. What was loaded replaces *that* placeholder by compare-and-swap, so a put, a remove
//! or an invalidation in between wins, however late the backend answers.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    engine::Engine,
    flights::{Flight, Landing},
};
use crate::{
    Error,
    backend::BackendError,
    context::Context,
    store::{Installed, Placeholder, Seen},
};

/// A load that this thread has to carry out.
struct Led<K, V> {
    key: K,
    placeholder: Placeholder,
    flight: Arc<Flight<V>>,
}

/// Where a missing key stands.
enum Missing<K, V> {
    /// It is not missing any more.
    Here(Option<V>),
    Led(Led<K, V>),
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
        loop {
            let (landing, is_cached) = match self.begin(cx, hash, key)? {
                Missing::Here(value) => return Ok(Loaded { value, is_cached: true }),
                Missing::Joined(flight) => (flight.wait(), true),
                Missing::Led(led) => {
                    let answer = self.ask_backend(cx, std::slice::from_ref(&led.key));
                    let answer = answer.map(|mut values| values.pop().flatten());
                    (self.land(cx, led, answer, keep_absent)?, true)
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

    fn begin<Q>(&self, cx: &Context, hash: u64, key: &Q) -> Result<Missing<K, V>, Error>
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
                        None => std::hint::spin_loop(),
                    },
                    Seen::Absent => break,
                }
            }
            let Some(credit) = self.store.credit_by_force(writer, &guard) else {
                return Missing::Around(owned);
            };
            let Some(slot) = self.store.placeholder_slot(writer, owned.clone()) else {
                return Missing::Around(owned);
            };
            let id = slot.id();
            let flight = self.flights.take_off(id);
            let mut slot = Some(slot);
            let missing = match self.store.install(&mut slot, hash, credit, &guard) {
                Installed::Ours(placeholder) => return Missing::Led(Led { key: owned, placeholder, flight }),
                Installed::Seen(Seen::Value { value, .. }) => Missing::Here(Some(value.clone())),
                Installed::Seen(Seen::Tombstone { .. }) => Missing::Here(None),
                Installed::Seen(Seen::Loading(other)) => match self.flights.find(other) {
                    Some(other) => Missing::Joined(other),
                    None => Missing::Around(owned),
                },
                Installed::Seen(Seen::Absent) | Installed::NoRoom => Missing::Around(owned),
            };
            self.flights.forget(id);
            if let Some(slot) = slot {
                writer.give_back(slot, &self.store.slab);
            }
            missing
        })?;
        Ok(begun)
    }

    /// Asks the backend for some keys. One answer for each key, or an error.
    fn ask_backend(&self, cx: &Context, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
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

    /// Puts what was loaded in place of the placeholder, and tells everyone who waits.
    fn land(
        &self,
        cx: &Context,
        led: Led<K, V>,
        answer: Result<Option<V>, BackendError>,
        keep_absent: bool,
    ) -> Result<Landing<V>, Error> {
        let Led { key, placeholder, flight } = led;
        // Too heavy to be cached, or a weigher that panics: the value is still the answer.
        let weigh = |value: &V| catch_unwind(AssertUnwindSafe(|| self.store.weigh(&key, value))).ok()?.ok();
        let content = match &answer {
            Ok(Some(value)) => weigh(value).map(|weight| (key.clone(), Some(value.clone()), weight)),
            Ok(None) if keep_absent => Some((key, None, 0)),
            _ => None,
        };
        let slot = placeholder.slot();
        let landed = cx.with_writer(|writer| {
            let guard = cx.pin();
            let fulfilled = self.store.fulfil(writer, placeholder, content, &guard);
            // Still pinned, so the placeholder's slot is not in use again, and this is still its flight.
            self.flights.forget(slot);
            self.store.trim_weight(writer, &guard);
            fulfilled
        });
        let landing = match (answer, &landed) {
            (Err(error), _) => Landing::Failed(error),
            (Ok(value), Ok(true)) => Landing::Loaded(value),
            (Ok(_), _) => Landing::Overtaken,
        };
        flight.land(landing.clone());
        self.store.room.notify();
        landed?;
        Ok(landing)
    }

    pub(super) fn get_many(&self, cx: &Context, keys: &[K]) -> Result<Vec<Option<V>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let hit = self.hit(cx, self.store.hash(key), key, V::clone)?;
            if hit.is_none() {
                missing.push(index);
            }
            values.push(hit.flatten());
        }
        cx.counters.misses.add(missing.len() as u64);
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
                match self.land(cx, led, answer, self.policies.cache_absent) {
                    Ok(Landing::Loaded(value)) => values[index] = value,
                    Ok(Landing::Overtaken) => later.push(index),
                    Ok(Landing::Failed(error)) => failure = Some(Error::Load(error)),
                    Err(error) => failure = Some(error),
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
        Ok(values)
    }
}
