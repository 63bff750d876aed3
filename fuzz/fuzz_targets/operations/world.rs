//! What is true outside of the cache: the model, and what may be done to the cache at any moment.

use std::{
    hash::{BuildHasherDefault, DefaultHasher},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use arbitrary::Arbitrary;
use writeback::{Cache, Error, Invalidated, WeakCache};

use crate::{backend::Moody, life};

/// The same hash in every execution, so that an input does the same every time.
pub(crate) type Fixed = BuildHasherDefault<DefaultHasher>;

/// Few, so that operations meet.
pub(crate) const KEYS: u8 = 24;

/// Kills in one input: reading a journal takes longer than all else together.
const MOST_KILLS: u32 = 4;

/// What is done to the cache, also while its backend is called.
#[derive(Debug, Arbitrary)]
pub(crate) enum Deed {
    Put {
        key: u8,
        value: u16,
    },
    Update {
        key: u8,
        add: u16,
    },
    /// A compare-and-swap: only from this value.
    Swap {
        key: u8,
        from: Option<u16>,
        to: u16,
    },
    Remove {
        key: u8,
    },
    Get {
        key: u8,
    },
    GetMany {
        keys: [u8; 3],
    },
    Peek {
        key: u8,
    },
    Invalidate {
        key: u8,
    },
    /// What a kill at this moment would leave is opened, looked at, and thrown away.
    Kill,
}

/// The model, and the way to the cache from inside of its backend.
pub(crate) struct World {
    state: Mutex<State>,
    /// Outlives the caches.
    pub(crate) path: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    values: [Option<u16>; KEYS as usize],
    /// Every write, in its order.
    log: Vec<(u8, Option<u16>)>,
    /// Keys whose loads are under way further up on the stack.
    loading: Vec<u8>,
    cache: Option<WeakCache<u8, u16, Fixed>>,
    backend: Weak<Moody>,
    kills: u32,
}

impl World {
    /// With the path of its journal, if its caches have one.
    pub(crate) fn new(path: Option<PathBuf>) -> Arc<Self> {
        Arc::new(World { state: Mutex::default(), path })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn meet(&self, cache: &Cache<u8, u16, Fixed>, backend: &Arc<Moody>) {
        let mut state = self.state();
        (state.cache, state.backend) = (Some(cache.downgrade()), Arc::downgrade(backend));
    }

    pub(crate) fn backend(&self) -> Option<Arc<Moody>> {
        self.state().backend.upgrade()
    }

    pub(crate) fn cache(&self) -> Option<Cache<u8, u16, Fixed>> {
        self.state().cache.as_ref()?.upgrade()
    }

    /// Whether this is to be killed, and may be once more.
    pub(crate) fn may_be_killed(&self) -> bool {
        let mut state = self.state();
        state.kills += 1;
        self.path.is_some() && state.kills <= MOST_KILLS
    }

    pub(crate) fn value(&self, key: u8) -> Option<u16> {
        self.state().values[usize::from(key)]
    }

    fn write(&self, key: u8, value: Option<u16>) {
        let mut state = self.state();
        state.values[usize::from(key)] = value;
        state.log.push((key, value));
    }

    /// Marks keys as being loaded while `load` runs. All that are asked for, since the backend is not asked for those that have
    /// dead letters, and they have placeholders, too.
    fn loading<R>(&self, keys: &[u8], load: impl FnOnce() -> R) -> R {
        self.state().loading.extend(keys);
        let loaded = load();
        let mut state = self.state();
        let left = state.loading.len() - keys.len();
        state.loading.truncate(left);
        loaded
    }

    pub(crate) fn now(&self) -> Moment {
        let state = self.state();
        Moment { at: state.log.len(), values: state.values }
    }

    /// Whether the key has had this value between `since` and now.
    fn had(&self, since: &Moment, key: u8, value: Option<u16>) -> bool {
        since.values[usize::from(key)] == value || self.state().log[since.at..].contains(&(key, value))
    }

    /// Whether nothing was written to the key since.
    pub(crate) fn is_untouched(&self, since: &Moment, key: u8) -> bool {
        self.state().log[since.at..].iter().all(|(written, _)| *written != key)
    }

    /// Does something to the cache, and to the model what it has done.
    pub(crate) fn perform(&self, cache: &Cache<u8, u16, Fixed>, deed: &Deed) {
        // Would wait for themselves.
        let is_loading = |key: u8| self.state().loading.contains(&key);
        let begin = self.now();
        match *deed {
            Deed::Put { key, value } => {
                if succeeded(cache.put(key % KEYS, value)) {
                    self.write(key % KEYS, Some(value));
                }
            }
            Deed::Remove { key } => {
                if succeeded(cache.remove(&(key % KEYS))) {
                    self.write(key % KEYS, None);
                }
            }
            Deed::Update { key, add } => {
                self.change(cache, key % KEYS, |old| Some(old.unwrap_or(0).wrapping_add(add)))
            }
            Deed::Swap { key, from, to } => self.change(cache, key % KEYS, |old| (old == from).then_some(to)),
            Deed::Get { key } => {
                let key = key % KEYS;
                if !is_loading(key) {
                    match self.loading(&[key], || cache.get(&key)) {
                        Ok(value) => assert!(self.had(&begin, key, value), "key {key} is {value:?}"),
                        Err(error) => assert!(matches!(error, Error::Load(_)), "{error}"),
                    }
                }
            }
            Deed::GetMany { keys } => {
                let keys = keys.map(|key| key % KEYS);
                if !keys.iter().any(|key| is_loading(*key)) {
                    match self.loading(&keys, || cache.get_many(&keys)) {
                        Ok(values) => {
                            let mut found = keys.iter().zip(values);
                            assert!(found.all(|(key, value)| self.had(&begin, *key, value)), "{keys:?}");
                        }
                        Err(error) => assert!(matches!(error, Error::Load(_)), "{error}"),
                    }
                }
            }
            Deed::Peek { key } => {
                if let Some(value) = cache.peek(&(key % KEYS)) {
                    assert_eq!(Some(value), self.value(key % KEYS));
                }
            }
            Deed::Invalidate { key } => {
                let is_dirty = cache.is_dirty(&(key % KEYS));
                match cache.invalidate(&(key % KEYS)) {
                    Ok(Invalidated::Dirty) => assert!(is_dirty),
                    Ok(_) => assert!(cache.peek(&(key % KEYS)).is_none()),
                    Err(error) => assert!(matches!(error, Error::Backpressure { .. }), "{error}"),
                }
            }
            Deed::Kill if self.may_be_killed() => life::look_at_what_a_kill_leaves(self),
            Deed::Kill => {}
        }
        assert!(cache.len() <= cache.capacity());
    }

    fn change(&self, cache: &Cache<u8, u16, Fixed>, key: u8, change: impl Fn(Option<u16>) -> Option<u16>) {
        if self.state().loading.contains(&key) {
            return;
        }
        let mut seen = None;
        let done = self.loading(&[key], || {
            cache.update_if(key, |old| {
                seen = old.copied();
                change(seen)
            })
        });
        match done {
            Ok(Some(_)) => {
                assert_eq!(seen, self.value(key), "an update was computed from another value than the last");
                self.write(key, change(seen));
            }
            Ok(None) => assert_eq!(seen, self.value(key)),
            Err(Error::Load(_)) => {}
            Err(error) => assert!(has_no_room(&error), "{error}"),
        }
    }
}

/// The model at some moment.
pub(crate) struct Moment {
    at: usize,
    values: [Option<u16>; KEYS as usize],
}

fn has_no_room(error: &Error) -> bool {
    matches!(error, Error::Backpressure { .. } | Error::JournalFull { .. })
}

fn succeeded<T>(written: Result<T, Error>) -> bool {
    match written {
        Ok(_) => true,
        Err(error) => {
            assert!(has_no_room(&error), "{error}");
            false
        }
    }
}
