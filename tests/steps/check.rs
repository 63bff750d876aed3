//! What a kill may leave, and whether it did.

use std::{path::Path, sync::atomic::Ordering::SeqCst};

use writeback::steps::Outcome;

use crate::{
    life::{self, USUAL},
    page::{ACKED, Image, KEYS, Page, stamp, stamp_of, value_of},
};

/// What a recovery found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Found {
    /// For each key the stamp of its value (0: none), and its version.
    pub(crate) keys: [(u64, u64); KEYS],
    /// Keys that the journal had something of, and whole records in it.
    pub(crate) dirty: usize,
    pub(crate) records: u64,
    /// The operation under test had happened.
    pub(crate) is_after: bool,
}

/// Recovers the journal at `path` beside the database and the knowledge in `image`, on `scratch`. `Err`: what is wrong.
pub(crate) fn check(path: &Path, image: &Image, scratch: &'static Page) -> Result<Found, String> {
    scratch.set(image);
    scratch.is_down.store(0, SeqCst);
    let mut steps = life::open(path, scratch, USUAL).map_err(|error| format!("refused: {error}"))?;
    let recovery = steps.cache().recovery().cloned().ok_or("no recovery")?;
    if let Some(damage) = recovery.damage.first() {
        return Err(format!("damage: {damage:?}"));
    }
    let mut found = Found { dirty: recovery.entries, records: recovery.records, ..Found::default() };
    for key in 0..KEYS {
        let value = steps.cache().get(&(key as u64)).map_err(|error| format!("get: {error}"))?;
        found.keys[key].0 = match value {
            None => 0,
            Some(value) => stamp_of(&value).ok_or_else(|| format!("torn: key {key} has {value:02x?}"))?,
        };
    }
    if !matches!(steps.flush(), Outcome::Done) {
        return Err("stuck: what was recovered does not reach the database".into());
    }
    if scratch.wrongs.load(SeqCst) != 0 {
        return Err("back in time: the database was given an older version".into());
    }
    for (key, known) in scratch.keys.iter().enumerate() {
        let (version, in_row) = scratch.row(key);
        let stamp = found.keys[key].0;
        found.keys[key].1 = version;
        if in_row != stamp {
            return Err(format!("key {key}: the cache says {stamp:#x}, the database {in_row:#x}"));
        }
        let (old, next) = (known.stamp.load(SeqCst), known.next.load(SeqCst));
        let before = known.version.load(SeqCst);
        if old != next && stamp == next {
            found.is_after = true;
            if version <= before {
                return Err(format!("key {key}: version {version:#x} after {before:#x}"));
            }
        } else if stamp != old {
            return Err(format!("lost: key {key} has {stamp:#x}, acknowledged was {old:#x}"));
        } else if old != next && scratch.phase.load(SeqCst) == ACKED {
            return Err(format!("lost: key {key} has {stamp:#x}, acknowledged was {next:#x}"));
        } else if version != before {
            return Err(format!("key {key}: version {version:#x} instead of {before:#x}"));
        }
    }
    // The next life's writes are newer than all that there was.
    for key in 0..KEYS {
        let put = steps.cache().put(key as u64, value_of(stamp(1_000_000, 8)));
        let version = put.map_err(|error| format!("put: {error}"))?.get();
        if version <= found.keys[key].1 {
            return Err(format!("key {key}: a new version {version:#x} after {:#x}", found.keys[key].1));
        }
    }
    Ok(found)
}
