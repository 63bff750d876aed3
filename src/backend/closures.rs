//! A backend of two closures.

use std::fmt;

use super::{Answers, Backend, BackendError, Batch};

/// A [`Backend`] of two closures: one that reads the values of some keys, and one that carries out a batch.
///
/// What each must answer is what [`Backend::load`] and [`Backend::apply`] must; they may block, and are called from
/// several threads at once. The identity that a journal stores is that of the closures' types, and so tells nothing:
/// name the place with [`named`](Closures::named) if the cache has a journal.
///
/// ```
/// use std::{collections::BTreeMap, sync::{Arc, Mutex}};
/// use writeback::{Cache, Change, backend::from_fns};
///
/// let rows = Arc::new(Mutex::new(BTreeMap::new()));
/// let (reader, writer) = (rows.clone(), rows.clone());
/// let backend = from_fns(
///     move |keys: &[u64]| {
///         let rows = reader.lock().unwrap();
///         Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
///     },
///     move |batch| {
///         let mut rows = writer.lock().unwrap();
///         batch.answer_each(|op| {
///             match op.change() {
///                 Change::Upsert(value) => drop(rows.insert(*op.key(), String::clone(value))),
///                 Change::Delete => drop(rows.remove(op.key())),
///             }
///             Ok(())
///         })
///     },
/// );
/// let cache = Cache::builder().capacity(100).backend(backend.named("names")).open::<u64, String>()?;
/// cache.put(1, "Ada".to_owned())?;
/// cache.flush()?;
/// assert_eq!(rows.lock().unwrap()[&1], "Ada");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn from_fns<K, V, L, A>(load: L, apply: A) -> Closures<L, A>
where
    L: Fn(&[K]) -> Result<Vec<Option<V>>, BackendError> + Send + Sync,
    A: Fn(&Batch<K, V>) -> Answers + Send + Sync,
{
    Closures { load, apply, name: None }
}

/// The backend that [`from_fns`] makes.
pub struct Closures<L, A> {
    load: L,
    apply: A,
    name: Option<String>,
}

impl<L, A> Closures<L, A> {
    /// Names the database, and the place in it, for [`Backend::identity`]. It should stay the same for as long as the data
    /// does, and hold no secrets.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }
}

impl<K, V, L, A> Backend<K, V> for Closures<L, A>
where
    L: Fn(&[K]) -> Result<Vec<Option<V>>, BackendError> + Send + Sync,
    A: Fn(&Batch<K, V>) -> Answers + Send + Sync,
{
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        (self.load)(keys)
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        (self.apply)(batch)
    }

    fn identity(&self) -> String {
        match &self.name {
            Some(name) => format!("closures:{name}"),
            None => "closures".to_owned(),
        }
    }
}

impl<L, A> fmt::Debug for Closures<L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closures").field("name", &self.name).finish_non_exhaustive()
    }
}
