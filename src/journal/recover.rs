//! Reading a journal: what counts, what is damaged, and what a new life has to begin with.
//!
//! Everything here looks at bytes and changes none, so that recovery can be killed and begun again, and so that tools and
//! tests can try it on any bytes at all.

use std::collections::HashMap;

use super::format::{self, Identity, Record, SEGMENT_HEADER, SUPERBLOCK, Unreadable, live};
use crate::{epochs, fault};

/// Something in a journal that a crash of the process cannot have left there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// Where it begins, in bytes from the beginning of the file.
    pub offset: u64,
    /// What is damaged.
    pub kind: DamageKind,
}

/// What is damaged in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// The last record of a segment, or what came after it: no whole record follows. Cut off.
    Tail,
    /// Records that are followed by whole ones, which end or go on at this offset.
    Middle {
        /// Where whole records begin again.
        until: u64,
    },
    /// The mark at the beginning of a segment; its records may still be whole.
    Segment,
    /// The word that says which records are dead; its copy was used, if that is whole.
    Epoch {
        /// Whether the copy is whole.
        has_copy: bool,
    },
    /// A record that says neither that it counts nor that it does not.
    State,
    /// The file is shorter than it says.
    Missing {
        /// How many bytes are missing.
        bytes: u64,
    },
}

/// All that a journal says.
pub(crate) struct Scan<'a> {
    pub(crate) identity: Identity,
    /// Records of earlier epochs are dead.
    pub(crate) retired: u64,
    /// The newest epoch that anything in the file speaks of.
    pub(crate) newest_epoch: u64,
    pub(crate) segments: usize,
    pub(crate) owner: u64,
    pub(crate) boot: [u64; 2],
    /// The newest live record of each key.
    pub(crate) live: HashMap<&'a [u8], Record<'a>, foldhash::fast::RandomState>,
    /// Segments with records that are not dead, and the newest epoch in each.
    pub(crate) needed: Vec<(u32, u64)>,
    /// Whole records, dead and pending ones included.
    pub(crate) records: u64,
    /// Those of retired epochs.
    pub(crate) dead: u64,
    /// Those whose write may not have happened, of epochs that are not retired.
    pub(crate) pending: u64,
    pub(crate) damage: Vec<Damage>,
}

impl Scan<'_> {
    /// Whether something was lost that no tail explains. After a loss of power (`rebooted`) the disk may have kept later
    /// records and not earlier ones, none of them synced, so then a hole is as good as a tail.
    pub(crate) fn is_damaged(&self, rebooted: bool) -> bool {
        self.damage.iter().any(|damage| match damage.kind {
            DamageKind::Tail => false,
            // What was never synced: its state and the rest of it reached the disk at different times.
            DamageKind::Middle { .. } | DamageKind::State => !rebooted,
            DamageKind::Epoch { has_copy } => !has_copy,
            DamageKind::Segment | DamageKind::Missing { .. } => true,
        })
    }
}

/// Reads a whole journal.
pub(crate) fn scan(bytes: &[u8]) -> Result<Scan<'_>, Unreadable> {
    let mut scan = begin(bytes)?;
    for index in 0..scan.segments {
        let start = SUPERBLOCK + index * scan.identity.segment_bytes;
        let segment = &bytes[start..start + scan.identity.segment_bytes];
        scan.segment(index as u32, start as u64, segment);
    }
    Ok(scan)
}

/// Reads the superblock.
pub(crate) fn begin(bytes: &[u8]) -> Result<Scan<'_>, Unreadable> {
    let identity = Identity::read(bytes)?;
    let salt = identity.salt;
    let mut damage = Vec::new();
    let epoch_at = |word| format::word(bytes, word).and_then(|word| format::unchecked(word, salt));
    let (first, second) = (epoch_at(live::EPOCH), epoch_at(live::EPOCH_AGAIN));
    if first.is_none() || second.is_none() {
        let offset = if first.is_none() { live::EPOCH } else { live::EPOCH_AGAIN } as u64 * 8;
        let has_copy = first.or(second).is_some();
        damage.push(Damage { offset, kind: DamageKind::Epoch { has_copy } });
    }
    // Never larger than the truth, so nothing that counts is taken for dead.
    let retired = first.max(second).unwrap_or(0);
    let there = (bytes.len() - SUPERBLOCK) / identity.segment_bytes;
    let said = format::word(bytes, live::SEGMENTS).and_then(|word| format::unchecked(word, salt));
    let segments = match said.and_then(|said| usize::try_from(said).ok()) {
        Some(said) if said > there => {
            let missing = (SUPERBLOCK as u64)
                .saturating_add((said as u64).saturating_mul(identity.segment_bytes as u64))
                .saturating_sub(bytes.len() as u64);
            let kind = DamageKind::Missing { bytes: missing };
            damage.push(Damage { offset: bytes.len() as u64, kind });
            there
        }
        Some(said) => said,
        None => {
            damage.push(Damage { offset: live::SEGMENTS as u64 * 8, kind: DamageKind::Segment });
            there
        }
    };
    let word_or_zero = |index| format::word(bytes, index).unwrap_or(0);
    Ok(Scan {
        owner: word_or_zero(live::OWNER),
        boot: [word_or_zero(live::BOOT), word_or_zero(live::BOOT + 1)],
        damage,
        ..Scan::empty(identity, retired, segments)
    })
}

impl<'a> Scan<'a> {
    /// Before any segment is read.
    pub(crate) fn empty(identity: Identity, retired: u64, segments: usize) -> Self {
        Scan {
            retired,
            newest_epoch: retired,
            segments,
            owner: 0,
            boot: [0; 2],
            live: HashMap::default(),
            needed: Vec::new(),
            records: 0,
            dead: 0,
            pending: 0,
            damage: Vec::new(),
            identity,
        }
    }

    pub(crate) fn segment(&mut self, index: u32, start: u64, bytes: &'a [u8]) {
        if format::word(bytes, 0) != Some(format::segment_mark(u64::from(index), self.identity.salt)) {
            self.damage.push(Damage { offset: start, kind: DamageKind::Segment });
        }
        let (mut at, end) = (SEGMENT_HEADER, bytes.len() / 8);
        let mut newest = 0;
        while at < end {
            let Some(record) = self.record_at(start, bytes, at) else {
                // Nothing, or something that is no record: what an older lap has left is dead, so a live record behind it
                // says that something is missing here.
                let behind = (at + 1..end).find(|&at| {
                    format::may_begin(bytes, at)
                        && self.record_at(start, bytes, at).is_some_and(|record| record.epoch >= self.retired)
                });
                let offset = start + at as u64 * 8;
                match behind {
                    Some(again) => {
                        let kind = DamageKind::Middle { until: start + again as u64 * 8 };
                        self.damage.push(Damage { offset, kind });
                        at = again;
                        continue;
                    }
                    None if format::word(bytes, at) != Some(0) => {
                        self.damage.push(Damage { offset, kind: DamageKind::Tail });
                    }
                    None => {}
                }
                break;
            };
            at += record.words;
            self.records += 1;
            self.newest_epoch = self.newest_epoch.max(record.epoch).max(epochs::epoch_of(record.version));
            if record.epoch < self.retired && !fault::broken("dead-by-epoch") {
                self.dead += 1;
                continue;
            }
            newest = newest.max(record.epoch);
            if !record.has_state() {
                self.damage.push(Damage { offset: record.offset, kind: DamageKind::State });
            } else if record.is_live() || fault::broken("pending-is-nothing") {
                let known = self.live.entry(record.key).or_insert(record);
                if known.version < record.version || fault::broken("highest-version-wins") {
                    *known = record;
                }
            } else {
                self.pending += 1;
            }
        }
        if newest > 0 {
            self.needed.push((index, newest));
        }
    }

    fn record_at(&self, start: u64, bytes: &'a [u8], at: usize) -> Option<Record<'a>> {
        Record::read(bytes.get(at * 8..)?, start + at as u64 * 8, self.identity.salt)
    }
}
