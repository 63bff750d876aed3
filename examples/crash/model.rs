//! Which keys there are, who writes them, and what stands in their values.
//!
//! Every write has a number: each writer counts its writes of each key. Whether a write is a remove follows from its
//! number, so an absent value has one too, or at least a lower bound for it.

/// Threads that write.
pub(crate) const WRITERS: usize = 3;
/// Keys with one writer each: exact expectations.
pub(crate) const OWN: usize = 96;
/// Keys that all writers change with read-modify-write: each has a field of its own in the value.
pub(crate) const SHARED: usize = 4;
/// Keys that all writers overwrite blindly: the version says who was last.
pub(crate) const RACING: usize = 4;
/// All keys.
pub(crate) const KEYS: usize = OWN + SHARED + RACING;
/// One for each key with one writer, and one for each writer of the others.
pub(crate) const CELLS: usize = OWN + (SHARED + RACING) * WRITERS;
/// Bytes of the longest value.
pub(crate) const MAX_VALUE: usize = 40 + 40;

/// What kind of key this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Own,
    Shared,
    Racing,
}

pub(crate) fn sort(key: u64) -> Sort {
    match key as usize {
        key if key < OWN => Sort::Own,
        key if key < OWN + SHARED => Sort::Shared,
        _ => Sort::Racing,
    }
}

/// The cell of what this writer has done with this key.
pub(crate) fn cell(key: u64, writer: usize) -> usize {
    match (key as usize).checked_sub(OWN) {
        None => key as usize,
        Some(other) => OWN + other * WRITERS + writer,
    }
}

/// Whether the write of this number is a remove. Nothing was ever written: that is one too.
pub(crate) fn is_remove(key: u64, number: u64) -> bool {
    number == 0 || mix(key << 40 ^ number).is_multiple_of(6)
}

/// The first remove that is not before `from`.
pub(crate) fn next_remove(key: u64, from: u64) -> u64 {
    (from..).find(|number| is_remove(key, *number)).unwrap_or(u64::MAX)
}

pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A generator for everything that is random here.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Three numbers: of one's own keys the number of the write; of shared ones that of each writer; of racing ones the writer
/// and its number.
pub(crate) type Fields = [u64; WRITERS];

/// A value says which key it belongs to, and is of a length that follows from its content.
pub(crate) fn encode(key: u64, fields: Fields) -> Vec<u8> {
    let check = check(key, fields);
    let mut bytes = Vec::with_capacity(MAX_VALUE);
    for word in [key, fields[0], fields[1], fields[2], check] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.resize(40 + padding(check), check as u8);
    bytes
}

/// `None`: this is no value of this key.
pub(crate) fn decode(key: u64, bytes: &[u8]) -> Option<Fields> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at * 8..at * 8 + 8)?.try_into().ok()?));
    let fields = [word(1)?, word(2)?, word(3)?];
    let check = check(key, fields);
    let whole = word(0)? == key
        && word(4)? == check
        && bytes.len() == 40 + padding(check)
        && bytes[40..].iter().all(|byte| *byte == check as u8);
    whole.then_some(fields)
}

fn check(key: u64, fields: Fields) -> u64 {
    fields.iter().fold(mix(key), |sum, field| mix(sum ^ *field))
}

fn padding(check: u64) -> usize {
    (check >> 32) as usize % (MAX_VALUE - 40 + 1)
}
