//! What one thread needs for one cache: its pins, its counters, and, once it writes, its lane.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    grace::{Guard, Local},
    lane::{Lanes, Lease, Writer},
    stats::Counters,
    sync::{Mutex, lock, thread_local},
};

/// Tells caches apart in the table of a thread's contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheId(u64);

impl CacheId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        CacheId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The counters of all threads of a cache.
pub(crate) struct Census {
    living: Mutex<Vec<Arc<Counters>>>,
    /// What threads that have ended had counted. Written under the lock of `living`.
    departed: Counters,
}

impl Census {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Census { living: Mutex::new(Vec::new()), departed: Counters::default() })
    }

    fn enter(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        lock(&self.living).push(Arc::clone(&counters));
        counters
    }

    fn leave(&self, counters: &Arc<Counters>) {
        let mut living = lock(&self.living);
        self.departed.absorb(counters);
        living.retain(|other| !Arc::ptr_eq(other, counters));
    }

    /// How many threads use the cache; a handle counts like a thread.
    pub(crate) fn living(&self) -> usize {
        lock(&self.living).len()
    }

    /// The sum of all counters.
    pub(crate) fn sum(&self) -> Counters {
        let sum = Counters::default();
        let living = lock(&self.living);
        sum.absorb(&self.departed);
        living.iter().for_each(|counters| sum.absorb(counters));
        sum
    }
}

/// A thread's way into a cache.
pub(crate) struct Context {
    cache: CacheId,
    lanes: Arc<Lanes>,
    local: Local,
    census: Arc<Census>,
    pub(crate) counters: Arc<Counters>,
    lease: RefCell<Option<Lease>>,
}

/// The lane is in use further up on this thread's stack.
#[derive(Debug)]
pub(crate) struct Reentered;

impl Context {
    pub(crate) fn new(cache: CacheId, lanes: Arc<Lanes>, census: Arc<Census>, lease: Option<Lease>) -> Self {
        let counters = census.enter();
        let local = lanes.collector().register();
        Context { cache, lanes, local, census, counters, lease: RefCell::new(lease) }
    }

    pub(crate) fn pin(&self) -> Guard {
        self.local.pin()
    }

    /// Whether this thread is inside a `read` of the same cache, or inside a method of a key or value.
    pub(crate) fn is_pinned(&self) -> bool {
        self.local.is_pinned()
    }

    /// Runs `write` with this thread's lane, leasing one first if it has none; without any, with the shared one.
    #[inline(always)]
    pub(crate) fn with_writer<R>(&self, write: impl FnOnce(&mut Writer<'_>) -> R) -> Result<R, Reentered> {
        let mut lease = self.lease.try_borrow_mut().map_err(|_| Reentered)?;
        if lease.is_none() {
            *lease = self.lanes.lease();
        }
        if let Some(mut writer) = lease.as_mut().and_then(Lease::writer) {
            return Ok(write(&mut writer));
        }
        let mut shared = self.lanes.shared();
        let mut writer = shared.writer().ok_or(Reentered)?;
        Ok(write(&mut writer))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.census.leave(&self.counters);
    }
}

thread_local! {
    /// The contexts of the caches that this thread has used. Short, so it is searched from the front.
    static CONTEXTS: RefCell<Vec<Rc<Context>>> = const { RefCell::new(Vec::new()) };
}

/// This thread's context for a cache, made by `make` on first use. Goes when the thread ends, or, at the latest, when the
/// thread first uses another cache after this one is gone.
pub(crate) fn current(cache: CacheId, make: impl FnOnce() -> Context) -> Rc<Context> {
    let known = CONTEXTS
        .try_with(|contexts| contexts.borrow().iter().find(|context| context.cache == cache).map(Rc::clone));
    match known {
        Ok(Some(context)) => context,
        Ok(None) => {
            let context = Rc::new(make());
            // Dropped outside the borrow: a context that goes gives slots back, and may run a user's destructors.
            let gone = CONTEXTS.with(|contexts| {
                let mut contexts = contexts.borrow_mut();
                let (kept, gone): (Vec<_>, _) =
                    contexts.drain(..).partition(|context| !context.lanes.is_abandoned());
                *contexts = kept;
                contexts.push(Rc::clone(&context));
                gone
            });
            drop::<Vec<_>>(gone);
            context
        }
        // The thread is ending and its table is gone: for this one call.
        Err(_) => Rc::new(make()),
    }
}
