//! Putting back what a journal remembers, before anybody else uses the store.

use std::hash::{BuildHasher, Hash};

use super::{Store, budget::Charge};
use crate::{
    grace::Guard,
    lane::Writer,
    table::{Probe, Table, Word},
};

impl<K, V, S> Store<K, V, S>
where
    K: Hash + Eq,
    S: BuildHasher,
{
    /// The hash of a key that is about to be restored; what that needs of the table is on its way from here on.
    pub(crate) fn foresee(&self, key: &K) -> u64 {
        let hash = self.hash(key);
        self.table.prefetch(hash);
        hash
    }

    /// Puts a recovered entry, with the hash of its key, into the table: dirty, with the version that it had, and known to the
    /// flusher. `false`: there is no room for it.
    ///
    /// Its record is LIVE in the journal already, so it counts as announced.
    #[must_use]
    pub(crate) fn restore(
        &self,
        writer: &mut Writer<'_>,
        (key, value, hash): (K, Option<V>, u64),
        version: u64,
        guard: &Guard,
    ) -> bool {
        let weight = match value.as_ref().map_or(Ok(0), |value| self.weigh(&key, value)) {
            Ok(weight) if self.too_much(weight, None).is_none() => weight,
            _ => return false,
        };
        let Ok(mut draft) = self.draft(writer, key, value, weight) else { return false };
        self.slab.set_version(draft.spare.slot(), version, true);
        // Another vacancy each time that the insert fails; it cannot, as long as nobody else inserts.
        loop {
            let vacancy = match self.table.probe(hash, guard, self.holds(draft.key(), guard)) {
                Probe::Vacant(vacancy) => vacancy,
                // Full; or a key that is equal to one with other bytes, which a codec must not allow. It is dealt with like
                // one that does not fit.
                Probe::Full | Probe::Found(..) => return false,
            };
            let Some(credit) = self.try_credit() else { return false };
            let word = Word::new(draft.kind, Table::tag(hash), draft.spare.id());
            let Ok(at) = self.table.insert(&vacancy, word.with_dirty(true).with_listed(true), guard) else {
                continue;
            };
            credit.spend();
            if !vacancy.is_listed() {
                self.policy.admit_first(at, self.len() >= self.capacity);
            }
            let kind = draft.kind;
            let _ = draft.spare.into_owned().release();
            self.add_weight(weight);
            if let Some(budget) = &self.budget {
                // Over the limit if need be: new writes wait until it is not.
                budget.charge(Charge { entries: 1, bytes: self.dirty_bytes(kind, weight) });
            }
            writer.count_dirtied();
            self.dirty_map.mark(at);
            return true;
        }
    }
}
