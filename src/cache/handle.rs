//! A leased lane, as its thread holds it.

use std::{
    borrow::Borrow,
    fmt,
    hash::{BuildHasher, Hash},
};

use crate::{Ack, Cache, Error, Ticket, Version, WriteOptions, context::Context};

/// A cache with a lane of its own: no look-up of the thread's context, and nobody else in the ring.
///
/// Made by [`Cache::handle`] and [`Cache::handle_on`]; belongs to the thread that made it. The lane goes back when the
/// handle is dropped. Its methods do what those of [`Cache`] do; [`Handle::cache`] has the others.
pub struct Handle<K, V, S = super::DefaultHasher> {
    // Before the cache: the lane goes back first.
    context: Context,
    cache: Cache<K, V, S>,
}

impl<K, V, S> Handle<K, V, S>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    pub(super) fn new(cache: Cache<K, V, S>, context: Context) -> Self {
        Handle { context, cache }
    }

    /// The cache that this is a handle of.
    #[must_use]
    pub fn cache(&self) -> &Cache<K, V, S> {
        &self.cache
    }

    /// See [`Cache::get`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn get<Q>(&self, key: &Q) -> Result<Option<V>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.cache.engine.get(&self.context, key)
    }

    /// See [`Cache::read`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read<Q, R>(&self, key: &Q, look: impl FnOnce(&V) -> R) -> Result<Option<R>, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.cache.engine.read(&self.context, key, look)
    }

    /// See [`Cache::put`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put(&self, key: K, value: V) -> Result<Version, Error> {
        self.cache.engine.put(&self.context, key, value, &WriteOptions::new())
    }

    /// See [`Cache::put_acked`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_acked(&self, key: K, value: V, ack: Ack) -> Result<Version, Error> {
        self.cache.engine.put(&self.context, key, value, &ack.into())
    }

    /// See [`Cache::put_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_with(&self, key: K, value: V, options: impl Into<WriteOptions>) -> Result<Version, Error> {
        self.cache.engine.put(&self.context, key, value, &options.into())
    }

    /// See [`Cache::put_ticket`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_ticket(&self, key: K, value: V, options: impl Into<WriteOptions>) -> Result<Ticket, Error> {
        self.cache.engine.put_ticket(&self.context, key, value, &options.into())
    }

    /// See [`Cache::update`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn update(&self, key: K, mut change: impl FnMut(Option<&V>) -> V) -> Result<Version, Error> {
        let options = WriteOptions::new();
        let written = self.cache.engine.update_if(&self.context, key, |old| Some(change(old)), &options)?;
        Ok(written.unwrap_or(Version(0)))
    }

    /// See [`Cache::remove`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove<Q>(&self, key: &Q) -> Result<Version, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.cache.engine.remove(&self.context, key.to_owned(), &WriteOptions::new())
    }

    /// See [`Cache::get_many`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn get_many(&self, keys: &[K]) -> Result<Vec<Option<V>>, Error> {
        self.cache.engine.get_many(&self.context, keys)
    }

    /// See [`Cache::put_many`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_many(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<usize, Error> {
        self.cache.engine.put_many(&self.context, entries, &WriteOptions::new())
    }
}

impl<K, V, S> fmt::Debug for Handle<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
