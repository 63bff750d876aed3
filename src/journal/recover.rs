//! Reading a journal: what counts, what is damaged, and what a new life has to begin with.
//!
//! Everything here looks at bytes and changes none, so that recovery can be killed and begun again, and so that tools and
//! tests can try it on any bytes at all.

use super::{
    format::{self, Identity, Record, SEGMENT_HEADER, SUPERBLOCK, Seal, Unreadable, live},
    newest::{AHEAD, Newest},
};
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
    /// Records that are followed by whole ones, or by others into another segment.
    Middle {
        /// Where whole records begin again, or the segment's records end.
        until: u64,
    },
    /// The mark or the seal at the beginning of a segment; its records may still be whole.
    Segment,
    /// The word that says which records are dead; its copy was used, if that is whole.
    Epoch {
        /// Whether the copy is whole.
        has_copy: bool,
    },
    /// The name of the backend that has adopted the journal; that of the one before was used.
    Backend,
    /// A record that says neither that it counts nor that it does not.
    State,
    /// The file is shorter than it says.
    Missing {
        /// How many bytes are missing.
        bytes: u64,
    },
}

/// A segment with records that may count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needed {
    pub(crate) index: u32,
    /// The newest epoch that it speaks of.
    pub(crate) newest: u64,
    /// The word behind its last record.
    pub(crate) end: usize,
    /// Whether something is missing before that.
    pub(crate) has_holes: bool,
    pub(crate) is_sealed: bool,
}

/// All that a journal says.
pub(crate) struct Scan<'a> {
    pub(crate) identity: Identity,
    /// Records of earlier epochs are dead.
    pub(crate) retired: u64,
    /// The newest epoch that anything in the file speaks of.
    pub(crate) newest_epoch: u64,
    /// How many are there as a whole.
    pub(crate) segments: usize,
    pub(crate) owner: u64,
    pub(crate) boot: [u64; 2],
    /// The newest live record of each key.
    pub(crate) live: Newest<'a>,
    /// Segments with records that may count.
    pub(crate) needed: Vec<Needed>,
    /// Holes that are not known to have been left by a loss of power.
    holes: usize,
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
    /// records and not earlier ones, none of them synced, so then a hole is as good as a tail; and it stays so for those who
    /// open the journal after the first one.
    pub(crate) fn is_damaged(&self, rebooted: bool) -> bool {
        if fault::broken("damage-is-refused") {
            return false;
        }
        let has_holes = self.holes > 0 && !rebooted;
        has_holes
            || self.damage.iter().any(|damage| match damage.kind {
                // What was never synced: its parts, or its state and the rest of it, reached the disk at different times.
                DamageKind::Middle { .. } | DamageKind::State => false,
                DamageKind::Tail => false,
                DamageKind::Epoch { has_copy } => !has_copy,
                DamageKind::Segment | DamageKind::Backend | DamageKind::Missing { .. } => true,
            })
    }
}

impl Scan<'_> {
    /// Whether the file is shorter than it says.
    fn is_cut(&self) -> bool {
        self.damage.iter().any(|damage| matches!(damage.kind, DamageKind::Missing { .. }))
    }

    /// The segment in which the file ends, if there are records in it that may count.
    pub(crate) fn part(&self) -> Option<&Needed> {
        self.needed.last().filter(|needed| needed.index as usize == self.segments)
    }

    /// Whether the file has to be told that it belongs to this backend.
    pub(crate) fn is_anothers(&self, backend: &str) -> bool {
        let is_unreadable = self.damage.iter().any(|damage| damage.kind == DamageKind::Backend);
        is_unreadable || self.identity.backend != format::stored_name(backend)
    }
}

/// Reads a whole journal, and of a segment that is there in part all that is there.
pub(crate) fn scan(bytes: &[u8]) -> Result<Scan<'_>, Unreadable> {
    let mut scan = begin(bytes)?;
    for index in 0..scan.segments {
        let start = SUPERBLOCK + index * scan.identity.segment_bytes;
        let segment = &bytes[start..start + scan.identity.segment_bytes];
        scan.segment(index as u32, start as u64, segment);
    }
    let start = SUPERBLOCK + scan.segments * scan.identity.segment_bytes;
    let part = &bytes[start..];
    if scan.is_cut() && part.len() >= SEGMENT_HEADER * 8 {
        scan.segment(scan.segments as u32, start as u64, part);
    }
    Ok(scan)
}

/// Reads the superblock.
pub(crate) fn begin(bytes: &[u8]) -> Result<Scan<'_>, Unreadable> {
    let mut identity = Identity::read(bytes)?;
    let salt = identity.salt;
    let mut damage = Vec::new();
    match format::adopted_by(bytes, salt) {
        Ok(Some(backend)) => identity.backend = backend,
        Ok(None) => {}
        Err(_) => damage.push(Damage { offset: format::ADOPTION as u64, kind: DamageKind::Backend }),
    }
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
            live: Newest::default(),
            needed: Vec::new(),
            holes: 0,
            records: 0,
            dead: 0,
            pending: 0,
            damage: Vec::new(),
            identity,
        }
    }

    pub(crate) fn segment(&mut self, index: u32, start: u64, bytes: &'a [u8]) {
        let (salt, words) = (self.identity.salt, self.identity.segment_bytes / 8);
        let seal = Seal::read(bytes, words, salt, self.retired);
        let mark = format::word(bytes, format::segment::MARK);
        if mark != Some(format::segment_mark(u64::from(index), salt)) || seal.is_err() {
            self.damage.push(Damage { offset: start, kind: DamageKind::Segment });
        }
        let seal = seal.unwrap_or(None);
        let before = self.damage.len();
        let (mut at, end) = (SEGMENT_HEADER, bytes.len() / 8);
        let sealed_end = seal.map_or(at, |seal| seal.end.min(end));
        let mut newest = seal.map_or(0, |seal| seal.newest);
        self.newest_epoch = self.newest_epoch.max(newest);
        let mut counting = Vec::with_capacity(AHEAD);
        while at < end {
            let Some(record) = self.record_at(start, bytes, at) else {
                // Nothing, or something that is no record: what an older lap has left is dead, so a live record behind it
                // says that something is missing here, and so does a seal with a later end.
                let behind = self.find_behind(start, bytes, at);
                let offset = start + at as u64 * 8;
                match behind.or((at < sealed_end).then_some(sealed_end)) {
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
                counting.push(record);
                if counting.len() == AHEAD {
                    self.live.keep(&mut counting);
                }
            } else {
                self.pending += 1;
            }
        }
        self.live.keep(&mut counting);
        if fault::broken("damage-is-told") {
            self.damage.truncate(before);
        }
        if newest == 0 {
            return;
        }
        let is_hole = |damage: &&Damage| matches!(damage.kind, DamageKind::Middle { .. } | DamageKind::State);
        let holes = self.damage[before..].iter().filter(is_hole).count();
        if !seal.is_some_and(|seal| seal.is_excused) {
            self.holes += holes;
        }
        self.needed.push(Needed {
            index,
            newest,
            end: seal.map_or(at, |seal| seal.end),
            has_holes: holes > 0,
            is_sealed: seal.is_some(),
        });
    }

    /// Where the first whole record behind this word begins that is not dead.
    fn find_behind(&self, start: u64, bytes: &'a [u8], mut at: usize) -> Option<usize> {
        loop {
            at = format::may_begin(bytes, at + 1)?;
            if self.record_at(start, bytes, at).is_some_and(|record| record.epoch >= self.retired) {
                return Some(at);
            }
        }
    }

    fn record_at(&self, start: u64, bytes: &'a [u8], at: usize) -> Option<Record<'a>> {
        Record::read(bytes.get(at * 8..)?, start + at as u64 * 8, self.identity.salt)
    }
}

/// What a fuzzer is told of a journal.
#[cfg(fuzzing)]
#[derive(Debug)]
pub struct Found {
    /// Keys, and values if they are not removed.
    pub live: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Damaged places.
    pub damages: usize,
}

/// Reads a journal from its bytes; `None` if there is no reading it.
#[cfg(fuzzing)]
pub fn found(bytes: &[u8]) -> Option<Found> {
    let scan = scan(bytes).ok()?;
    let live = scan
        .live
        .records()
        .iter()
        .map(|record| (record.key.to_vec(), record.value.map(<[u8]>::to_vec)))
        .collect();
    Some(Found { live, damages: scan.damage.len() })
}
