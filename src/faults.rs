//! For tests of the journal: the tape of what is written into it, and recovery of any bytes. Not a public interface.

use crate::journal::{
    format::Identity,
    recover::{self, Scan},
};

pub use crate::{
    fault::{CONTRACT_RULES, POINTS, RULES, fail_syncs},
    journal::tape::{Event, Tape, mark, start, stop},
};

/// What recovery would bring back of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, as its codec wrote it.
    pub key: Vec<u8>,
    /// The version of the newest record that counts.
    pub version: u64,
    /// The value; `None`: the key was removed.
    pub value: Option<Vec<u8>>,
}

/// What a journal says of itself.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The newest write of each key.
    pub entries: Vec<Entry>,
    /// Records of earlier epochs are dead.
    pub retired: u64,
    /// Whether a cache would refuse it although the machine was rebooted since.
    pub is_damaged: bool,
    /// How much was damaged, tails and holes included.
    pub damages: usize,
    /// What the parts need that are read by themselves.
    pub outline: Outline,
}

/// The superblock, as far as the reading of a segment depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// Bytes of a segment.
    pub segment_bytes: usize,
    /// How many there are.
    pub segments: usize,
    /// Bytes before the first.
    pub superblock: usize,
    salt: u64,
    /// Records of earlier epochs are dead.
    pub retired: u64,
    /// Whether the superblock alone is reason to refuse the file.
    pub is_damaged: bool,
}

fn outline(scan: &Scan<'_>) -> Outline {
    Outline {
        segment_bytes: scan.identity.segment_bytes,
        segments: scan.segments,
        superblock: crate::journal::format::SUPERBLOCK,
        salt: scan.identity.salt,
        retired: scan.retired,
        is_damaged: scan.is_damaged(true),
    }
}

/// Reads a whole journal as a cache would that opens it after a loss of power. `Err`: it would not open.
pub fn recover(bytes: &[u8]) -> Result<Recovered, String> {
    let outline = self::superblock(bytes)?;
    let scan = recover::scan(bytes).map_err(|unreadable| format!("{unreadable:?}"))?;
    let entry = |record: &crate::journal::format::Record<'_>| Entry {
        key: record.key.to_vec(),
        version: record.version,
        value: record.value.map(<[u8]>::to_vec),
    };
    Ok(Recovered {
        entries: scan.live.records().iter().map(entry).collect(),
        retired: scan.retired,
        is_damaged: scan.is_damaged(true),
        damages: scan.damage.len(),
        outline,
    })
}

/// Reads the superblock alone.
pub fn superblock(bytes: &[u8]) -> Result<Outline, String> {
    recover::begin(bytes).map(|scan| outline(&scan)).map_err(|unreadable| format!("{unreadable:?}"))
}

/// Reads one segment alone: calls `found` for the newest write of each key in it. Returns whether a cache would refuse
/// the file for it, and whether anything at all was damaged in it.
pub fn segment(
    outline: &Outline,
    index: usize,
    bytes: &[u8],
    mut found: impl FnMut(&[u8], u64, Option<&[u8]>),
) -> (bool, bool) {
    let identity = Identity {
        salt: outline.salt,
        segment_bytes: outline.segment_bytes,
        capacity: 0,
        key: String::new(),
        value: String::new(),
        backend: String::new(),
    };
    let mut scan = Scan::empty(identity, outline.retired, outline.segments);
    scan.segment(index as u32, (outline.superblock + index * outline.segment_bytes) as u64, bytes);
    for record in scan.live.records() {
        found(record.key, record.version, record.value);
    }
    (scan.is_damaged(true), !scan.damage.is_empty())
}
