//! How a cache is put together and set going, once it is known what it is to be like.

use std::{
    hash::{BuildHasher, Hash},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    Ack, Builder, Cache, Rank, Recovery, Weigh,
    engine::{Engine, Policies, Thread},
    flights::Flights,
    journaled::Journaled,
    opening::{self, Begun, Contents},
};
use crate::{
    Backend, OpenError,
    context::{CacheId, Census},
    epochs::Epochs,
    events::{Event, Listener, Mailbox},
    flusher::{Courier, Desk, Flusher, Ranker, Settings},
    lane::Lanes,
    letters::Letters,
    recycle::Slots,
    ring::Consumer,
    signal::Signal,
    store::{DirtyLimits, Shape, Store},
    sync::thread::{self, JoinHandle},
};

impl<B, W, S, J, R> Builder<B, W, S, J, R> {
    /// Opens the cache: reserves its memory and starts the flusher. With a journal, what is in it and not yet in the
    /// backend is in the cache, dirty, when this returns; [`Cache::recovery`] tells of it.
    ///
    /// # Blocking
    ///
    /// For reading the journal: about a second for a few million records. If more is dirty in it than the cache may hold,
    /// the rest is written to the backend first.
    ///
    /// # Errors
    ///
    /// [`OpenError`] for settings that make no sense, and where memory or a thread is not to be had; with a journal
    /// [`OpenError::Journal`], and then no file was changed. Also without one, if the backend has unflushed writes in a journal
    /// that it was used with before.
    pub fn open<K, V>(self) -> Result<Cache<K, V, S>, OpenError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        B: Backend<K, V> + 'static,
        W: Weigh<K, V>,
        S: BuildHasher + Send + Sync + 'static,
        J: Journaled<K, V>,
        R: Rank<K, V>,
    {
        let (parts, mut crew) = self.assemble()?;
        let keeper = match &parts.store.journal {
            None => None,
            Some(journaling) => {
                let (journal, room) = (Arc::clone(&journaling.journal), Arc::clone(&parts.store.room));
                let keep = move || journal.keep(&room);
                let named = thread::Builder::new().name("writeback-journal".into());
                Some(named.spawn(keep).map_err(OpenError::Spawn)?)
            }
        };
        let couriers = crew.couriers.clone();
        let named = |name: &str| thread::Builder::new().name(name.into());
        let (events, listener) = (parts.desk.events.clone(), crew.listener.take());
        let telling = events.clone().zip(listener).map(|(events, listener)| {
            // Nobody joins it: a listener may never come back.
            named("writeback-listener").spawn(move || events.run(listener))
        });
        let spawned = telling.transpose().and_then(|_| {
            let carry = |courier: &Arc<Courier<K, V>>| {
                let courier = Arc::clone(courier);
                named("writeback-courier").spawn(move || courier.run())
            };
            let carriers = couriers.iter().map(carry).collect::<Result<Vec<_>, _>>()?;
            let flusher = named("writeback-flusher").spawn(move || crew.flusher().run())?;
            Ok((carriers, flusher))
        });
        let (carriers, flusher) = spawned.map_err(|error| {
            couriers.iter().for_each(|courier| courier.close());
            events.iter().for_each(|events| events.close());
            if let Some(journaling) = &parts.store.journal {
                journaling.journal.commits.stop();
            }
            OpenError::Spawn(error)
        })?;
        Ok(parts.into_cache(keeper, carriers, Some(flusher)))
    }

    /// All of a cache but its threads.
    pub(crate) fn assemble<K, V>(self) -> Result<Assembled<K, V, S>, OpenError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        B: Backend<K, V> + 'static,
        W: Weigh<K, V>,
        S: BuildHasher + Send + Sync + 'static,
        J: Journaled<K, V>,
        R: Rank<K, V>,
    {
        self.check()?;
        // Under shuttle a schedule must not depend on the machine.
        let cores = if cfg!(shuttle_models) { None } else { core_affinity::get_core_ids() };
        let cores = cores.unwrap_or_default();
        let ring = self.capacity.clamp(64, 8192);
        let (lanes, rings, slots) = Lanes::new(cores.len(), self.lanes, ring);
        let limits = DirtyLimits {
            entries: self.max_dirty.map(|entries| entries as u64),
            bytes: self.max_dirty_bytes,
            slow_from: self.throttle.0,
        };
        // Before anybody is slowed down.
        let early = self
            .max_dirty
            .map_or(usize::MAX, |limit| ((limit as f64 * self.throttle.0 / 2.0) as usize).max(limit / 8));
        let flush_at = self.flush_at.unwrap_or((self.capacity / 2).min(early)).max(1);
        let weigher = self.weigher.into_weigher().map(|weigher| (weigher, self.max_weight));
        let bytes = Store::<K, V, S>::bytes(self.capacity, &lanes);
        let backend: Arc<dyn Backend<K, V>> = Arc::new(self.backend);
        let signal = Arc::new(Signal::new(self.clock.clone()));
        self.clock.register(&signal);
        let wanted = self.journal.into_journal();
        let ack = match (self.ack, &wanted) {
            (Some(ack @ (Ack::Journal | Ack::Synced)), None) => return Err(OpenError::NoJournal { ack }),
            (Some(ack), _) => ack,
            (None, Some(_)) => Ack::Journal,
            (None, None) => Ack::Memory,
        };
        let (capacity, batch_size, hasher, writers) =
            (self.capacity, self.batch_size, self.hasher, lanes.writers());
        let make_store = |begun: Option<Begun<'_, K, V>>| {
            let (journal, contents, area) = match begun {
                Some(Begun { journal, codec, contents, letters }) => {
                    (Some((journal, codec)), Some(contents), Some(letters))
                }
                None => (None, None, None),
            };
            let letters = Letters::new(area);
            let epochs = contents.as_ref().map_or_else(Epochs::new, Contents::epochs);
            let signal = Arc::clone(&signal);
            let shape = Shape { capacity, flush_at, weigher, limits, signal, journal, epochs };
            let store =
                Store::new(shape, lanes, hasher).map_err(|source| OpenError::Memory { bytes, source })?;
            let restore = |contents| opening::restore(contents, &store, &*backend, batch_size, &letters);
            let recovery = contents.map(restore).transpose()?;
            Ok((store, recovery, letters))
        };
        let (store, recovery, letters) = match wanted {
            None => {
                opening::check_note(&*backend, None)?;
                make_store(None)?
            }
            Some(wanted) => opening::with_journal(wanted, capacity, writers, &*backend, &signal, |begun| {
                make_store(Some(begun))
            })?,
        };
        let events = self.listener.is_some().then(|| Arc::new(Mailbox::new()));
        if let (Some(events), Some(recovery)) = (&events, &recovery)
            && (recovery.entries > 0 || !recovery.damage.is_empty())
        {
            let (entries, damage) = (recovery.entries, recovery.damage.clone());
            events.post(Event::Recovered { entries, damage });
        }
        let (store, desk): (_, Arc<Desk>) = (Arc::new(store), Arc::new(Desk::new(letters, events)));
        let note = opening::leave_note(&store, &*backend)?;
        let settings = Settings {
            max_delay: self.max_delay,
            flush_at,
            batch_size,
            first_retry: self.retry.0,
            retry_cap: self.retry.1,
            pin_to: self.pin_flusher.and_then(|core| cores.get(core)).map(|core| core.id),
            name: Arc::clone(&self.name),
            stall_limit: self
                .stall_limit
                .unwrap_or_else(|| self.max_delay.saturating_add(self.max_delay.max(Duration::from_secs(1)))),
            opened_at: self.clock.now(),
            clock: self.clock,
        };
        let policies = Policies {
            ack,
            write_timeout: self.write_timeout,
            on_full: self.on_full,
            longest_throttle: self.throttle.1,
            cache_absent: self.cache_absent,
            drain_on_drop: self.drain_on_drop,
            name: self.name,
            cores,
        };
        let journal = store.journal.as_ref().map(|journaling| Arc::clone(&journaling.journal));
        let crew = Crew {
            store: Arc::clone(&store),
            couriers: (0..self.flush_workers.max(1))
                .map(|_| Courier::new(Arc::clone(&backend), journal.clone(), Arc::clone(&signal)))
                .collect(),
            ranker: self.ranks.into_ranker(),
            desk: Arc::clone(&desk),
            settings,
            rings,
            slots,
            listener: self.listener,
        };
        Ok((Parts { store, backend, desk, policies, recovery, note }, crew))
    }
}

/// A cache without threads, and what one of them needs.
pub(crate) type Assembled<K, V, S> = (Parts<K, V, S>, Crew<K, V, S>);

/// A cache that has no threads yet.
pub(crate) struct Parts<K, V, S> {
    store: Arc<Store<K, V, S>>,
    backend: Arc<dyn Backend<K, V>>,
    pub(crate) desk: Arc<Desk>,
    policies: Policies,
    recovery: Option<Recovery>,
    note: Option<PathBuf>,
}

impl<K, V, S> Parts<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    pub(crate) fn into_cache(
        self,
        keeper: Option<JoinHandle<()>>,
        couriers: Vec<JoinHandle<()>>,
        flusher: Option<JoinHandle<()>>,
    ) -> Cache<K, V, S> {
        Cache::from_engine(Arc::new(Engine {
            id: CacheId::next(),
            store: self.store,
            backend: self.backend,
            desk: self.desk,
            census: Census::new(),
            flights: Flights::new(),
            policies: self.policies,
            recovery: self.recovery,
            note: self.note,
            flusher: Thread::new(flusher),
            couriers: couriers.into_iter().map(|courier| Thread::new(Some(courier))).collect(),
            keeper: Thread::new(keeper),
            was_closed: false.into(),
        }))
    }
}

/// What becomes the flusher, on the thread that runs it.
pub(crate) struct Crew<K, V, S> {
    store: Arc<Store<K, V, S>>,
    pub(crate) couriers: Vec<Arc<Courier<K, V>>>,
    ranker: Option<Ranker<K, V>>,
    desk: Arc<Desk>,
    settings: Settings,
    rings: Vec<Consumer>,
    slots: Slots,
    /// Not the flusher's: for a thread of its own.
    listener: Option<Listener>,
}

impl<K, V, S> Crew<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    pub(crate) fn flusher(self) -> Flusher<K, V, S> {
        let (rings, slots) = (self.rings, self.slots);
        Flusher::new(self.store, self.couriers, self.ranker, self.desk, self.settings, rings, slots)
    }
}
