//! The store's side of the journal: which record belongs to which slot, and how an entry becomes bytes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{Draft, JournalParts, Store};
use crate::{
    codec::{Codec, CodecError},
    epochs::{self, Window},
    grace::Guard,
    journal::{Appender, Journal, Kind, Unprepared, format::state},
    lane::Writer,
    sync::Ordering,
    table::SlotId,
};

/// The codecs of keys and values, as the engine uses them.
pub(crate) trait EntryCodec<K, V>: Send + Sync {
    /// Appends the key and then the value; returns the length of the key.
    fn encode(&self, key: &K, value: Option<&V>, out: &mut Vec<u8>) -> Result<usize, CodecError>;

    fn decode(&self, key: &[u8], value: Option<&[u8]>) -> Result<(K, Option<V>), CodecError>;
}

/// A codec for keys and one for values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codecs<C, D>(pub(crate) C, pub(crate) D);

impl<K, V, C: Codec<K>, D: Codec<V>> EntryCodec<K, V> for Codecs<C, D> {
    #[inline]
    fn encode(&self, key: &K, value: Option<&V>, out: &mut Vec<u8>) -> Result<usize, CodecError> {
        let start = out.len();
        self.0.encode(key, out)?;
        // A codec that takes away what it was given would otherwise have a negative length.
        let length = out.len().saturating_sub(start);
        if let Some(value) = value {
            self.1.encode(value, out)?;
        }
        Ok(length)
    }

    fn decode(&self, key: &[u8], value: Option<&[u8]>) -> Result<(K, Option<V>), CodecError> {
        Ok((self.0.decode(key)?, value.map(|value| self.1.decode(value)).transpose()?))
    }
}

pub(crate) struct Journaling<K, V> {
    pub(crate) journal: Arc<Journal>,
    codec: Box<dyn EntryCodec<K, V>>,
}

impl<K, V> Journaling<K, V> {
    pub(super) fn new((journal, codec): JournalParts<K, V>) -> Self {
        Journaling { journal, codec }
    }

    fn prepare(&self, appender: &mut Appender, key: &K, value: Option<&V>) -> Result<(), Unprepared> {
        let kind = if value.is_some() { Kind::Value } else { Kind::Tombstone };
        appender.prepare(&self.journal, kind, |out| self.codec.encode(key, value, out))
    }
}

impl<K, V, S> Store<K, V, S> {
    /// Takes space in the journal for a draft and writes key and value there. Not while pinned: it may wait for the disk.
    pub(crate) fn prepare(
        &self,
        writer: &mut Writer<'_>,
        draft: &mut Draft<'_, K, V, S>,
    ) -> Result<(), Unprepared> {
        let Some(journaling) = &self.journal else { return Ok(()) };
        let slot = draft.spare.slot();
        let (key, value) = (self.slab.owned_key(slot), self.slab.owned_value(slot));
        journaling.prepare(writer.appender(), key, value)
    }

    /// Whether the record that was prepared may be used in this window.
    ///
    /// Not if a sync has failed since: that sync may have lost the key and the value, which nobody stores again, while the
    /// rest of the record is yet to be written. If the window's epoch is older than the one that heals, the record would be
    /// copied; in a newer one it has to be whole. Who has opened a window in that epoch finds the generation raised: it is
    /// raised before the epoch.
    pub(super) fn may_pend(&self, writer: &mut Writer<'_>) -> bool {
        match &self.journal {
            Some(journaling) => writer.appender().is_current(&journaling.journal),
            None => true,
        }
    }

    /// Writes the record of an attempt to publish `slot` as this version.
    pub(super) fn pend(&self, writer: &mut Writer<'_>, window: &mut Window<'_>, slot: SlotId, version: u64) {
        if self.journal.is_none() {
            return;
        }
        let mut epoch = epochs::epoch_of(version);
        if crate::fault::broken("epoch-follows-version") {
            epoch = window.epoch;
        }
        if let Some(record) = writer.appender().pend(version, epoch) {
            window.publishes(slot, record);
        }
    }

    /// Makes the record of a published slot count, for its writer, which may have stalled.
    ///
    /// The slot was not announced when the caller, under `guard`, read its name from a table word.
    pub(super) fn make_live(&self, slot: SlotId, guard: &Guard) {
        if self.journal.is_none() {
            return;
        }
        // Its lane named the slot before the word did. If none does any more, the writer was faster than we.
        let Some(record) = self.lanes.record_of(slot) else { return };
        crate::fault::point("help: found");
        // SAFETY: it is the address of this slot's record: no slot's name is used again while `guard` is pinned, so the lane
        // that has it published it. The record's space is not used again before its epoch is retired, which its writer's
        // window holds up, and a grace period after that, which `guard` holds up. The area lives as long as the journal.
        //
        // Release: as in `Appender::make_live`.
        unsafe { record.store(state::live(self.slab.version(slot, guard)), Ordering::Release) };
    }

    /// Writes a second record of an entry: same version, newer epoch, live at once.
    pub(super) fn copy_record(
        &self,
        appender: &mut Appender,
        key: &K,
        value: Option<&V>,
        version: u64,
        epoch: u64,
    ) -> Result<(), Unprepared> {
        let Some(journaling) = &self.journal else { return Ok(()) };
        // On the flusher's thread the codec is somebody else's code.
        catch_unwind(AssertUnwindSafe(|| journaling.prepare(appender, key, value)))
            .unwrap_or_else(|_| Err(Unprepared::Codec(CodecError::custom("the codec panicked"))))?;
        crate::fault::point("copy: prepared");
        appender.pend(version, epoch);
        crate::fault::point("copy: pending");
        appender.make_live();
        crate::fault::point("copy: live");
        appender.advance();
        crate::fault::point("copy: noted");
        journaling.journal.note_written();
        Ok(())
    }

    /// The bytes of a key, or of a key and its value, as they are in the journal, and how many are the key's. `None`: there is no
    /// journal.
    pub(crate) fn encode(&self, key: &K, value: Option<&V>) -> Option<Result<(Vec<u8>, usize), CodecError>> {
        let journaling = self.journal.as_ref()?;
        let mut bytes = Vec::new();
        Some(journaling.codec.encode(key, value, &mut bytes).map(|length| (bytes, length)))
    }

    /// Decodes what was recovered.
    pub(crate) fn decode(&self, key: &[u8], value: Option<&[u8]>) -> Result<(K, Option<V>), CodecError> {
        match &self.journal {
            Some(journaling) => journaling.codec.decode(key, value),
            None => Err(CodecError::Truncated),
        }
    }
}
