//! The bytes of a journal file. `docs/journal-format.md` has the pictures, and what a crash can leave behind.
//!
//! Everything is made of little-endian words of 64 bits. A file is a superblock and a row of segments of one size; a
//! segment is a header and a run of records, which ends at a zero word or at the segment's end.

use std::borrow::Cow;

use super::check;

/// What a journal file begins with.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"wbackjnl");
/// The format that this code writes, and the only one that it reads.
pub(crate) const FORMAT: u64 = 1;

/// Bytes of the superblock. The first segment follows it.
pub(crate) const SUPERBLOCK: usize = 4096;
/// Words before a segment's first record.
pub(crate) const SEGMENT_HEADER: usize = 8;
/// Words of a record before its key.
pub(crate) const RECORD_HEADER: usize = 5;

const ADOPTION_MAGIC: u64 = u64::from_le_bytes(*b"wbackadp");
const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"wbacksgm");

/// The longest fingerprint or identity that is stored, in bytes; the rest is cut off.
pub(crate) const MAX_NAME: usize = 400;
const NAME_WORDS: usize = 1 + MAX_NAME / 8;

/// Words of the superblock that never change, their checksum among them.
mod fixed {
    pub(super) const MAGIC: usize = 0;
    pub(super) const FORMAT: usize = 1;
    pub(super) const CHECK: usize = 2;
    pub(super) const SALT: usize = 3;
    pub(super) const SEGMENT_BYTES: usize = 4;
    pub(super) const CAPACITY: usize = 5;
    pub(super) const KEY: usize = 8;
    pub(super) const VALUE: usize = KEY + super::NAME_WORDS;
    pub(super) const BACKEND: usize = VALUE + super::NAME_WORDS;
    pub(super) const END: usize = BACKEND + super::NAME_WORDS;
}

/// Words of the superblock that change while a cache is open: each is stored whole, with its own check bits, in a sector
/// of its own.
pub(crate) mod live {
    /// "Records of epochs below this one are dead."
    pub(crate) const EPOCH: usize = 256;
    /// The same, stored after it.
    pub(crate) const EPOCH_AGAIN: usize = 320;
    /// How many segments the file has.
    pub(crate) const SEGMENTS: usize = 384;
    /// The process that has the journal open, and the boot that it runs in (two words).
    pub(crate) const OWNER: usize = 448;
    pub(crate) const BOOT: usize = 449;
}

/// Words of the sector of the superblock that says who has adopted the journal. All zeros: nobody has.
mod adopted {
    pub(super) const MAGIC: usize = 192;
    /// Over what follows it, and the salt.
    pub(super) const CHECK: usize = 193;
    pub(super) const BACKEND: usize = 194;
    pub(super) const END: usize = 256;
}

const _: () = assert!(fixed::END <= adopted::MAGIC && adopted::BACKEND + NAME_WORDS <= adopted::END);
const _: () = assert!(adopted::END <= live::EPOCH && adopted::MAGIC.is_multiple_of(64));

/// What a record says about itself in the word that the checksum leaves out: one of two patterns, mixed with the record's
/// version. So what an older lap has left in this word, which after a loss of power may stand beside newer words, says
/// nothing: no later record at this place has its version.
pub(crate) mod state {
    const PENDING: u64 = 0x5045_4e44_a5c3_9669;
    const LIVE: u64 = 0x4c49_5645_5a3c_6996;

    /// What the pattern is mixed with.
    fn mixed(version: u64) -> u64 {
        let is_off = crate::fault::broken("state-of-version") || crate::fault::broken("pending-first");
        if is_off { 0 } else { version }
    }

    /// The write may not have happened.
    pub(crate) fn pending(version: u64) -> u64 {
        PENDING ^ mixed(version)
    }

    /// The write has happened.
    pub(crate) fn live(version: u64) -> u64 {
        LIVE ^ mixed(version)
    }
}

/// Places of words in a record.
pub(crate) mod record {
    /// Checksum (low half) and length in words (high half). Zero: no record here. Written last.
    pub(crate) const HEAD: usize = 0;
    pub(crate) const VERSION: usize = 1;
    pub(crate) const EPOCH: usize = 2;
    pub(crate) const STATE: usize = 3;
    pub(crate) const SHAPE: usize = 4;
}

/// What stands in a word, from the bytes of a file.
pub(crate) fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let at = index.checked_mul(8)?;
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// A number of at most 40 bits with check bits: one word, so that one store changes it, and a flipped bit is noticed.
pub(crate) fn checked(number: u64, salt: u64) -> u64 {
    number << 24 | check_bits(number, salt)
}

/// The number of a word made by [`checked`], if it is one.
pub(crate) fn unchecked(word: u64, salt: u64) -> Option<u64> {
    let number = word >> 24;
    (word & 0xff_ffff == check_bits(number, salt)).then_some(number)
}

fn check_bits(number: u64, salt: u64) -> u64 {
    u64::from(crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &salt.to_le_bytes())) >> 8
}

/// Words of a segment's header; the others are zero.
pub(crate) mod segment {
    /// Which segment it is.
    pub(crate) const MARK: usize = 0;
    /// Where its records end, in words. Says nothing without [`NEWEST`].
    pub(crate) const END: usize = 1;
    /// The newest epoch of its records. Stored last: from then on the segment is sealed, until this epoch is dead.
    pub(crate) const NEWEST: usize = 2;
    /// The same, if a loss of power has left holes among its records.
    pub(crate) const EXCUSED: usize = 3;
}

/// What the header of a full segment says of its records.
///
/// The seal is never taken off. The segment is used again when the newest epoch of its records is dead, and a seal of a dead
/// epoch says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    /// The word behind the last record.
    pub(crate) end: usize,
    pub(crate) newest: u64,
    /// Whether a loss of power explains what is missing before the end.
    pub(crate) is_excused: bool,
}

impl Seal {
    /// The seal of a segment of so many words that begins with `bytes`, if its records may count. An error: a crash has not
    /// left that.
    pub(crate) fn read(
        bytes: &[u8],
        words: usize,
        salt: u64,
        retired: u64,
    ) -> Result<Option<Self>, Unsealed> {
        let word = |index| word(bytes, index).ok_or(Unsealed);
        let newest = match word(segment::NEWEST)? {
            0 => return Ok(None),
            newest => unchecked(newest, salt).ok_or(Unsealed)?,
        };
        if newest < retired {
            return Ok(None);
        }
        let end = unchecked(word(segment::END)?, salt).and_then(|end| usize::try_from(end).ok());
        let end = end.filter(|end| (SEGMENT_HEADER..=words).contains(end)).ok_or(Unsealed)?;
        let is_excused = unchecked(word(segment::EXCUSED)?, salt) == Some(newest);
        Ok(Some(Seal { end, newest, is_excused }))
    }
}

/// The seal of a segment is not readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsealed;

/// The first word of a segment.
pub(crate) fn segment_mark(index: u64, salt: u64) -> u64 {
    SEGMENT_MAGIC ^ checked(index, salt)
}

/// The part of the superblock that does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) salt: u64,
    pub(crate) segment_bytes: usize,
    /// Of the cache that made the journal; only told.
    pub(crate) capacity: u64,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) backend: String,
}

/// Why the first bytes of a file are not those of a journal that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    NotAJournal,
    Format(u64),
    Damaged,
}

impl Identity {
    /// The superblock of a new journal: nothing is dead, nobody owns it.
    pub(crate) fn superblock(&self, segments: u64) -> Vec<u8> {
        let mut words = [0_u64; SUPERBLOCK / 8];
        words[fixed::MAGIC] = MAGIC;
        words[fixed::FORMAT] = FORMAT;
        words[fixed::SALT] = self.salt;
        words[fixed::SEGMENT_BYTES] = self.segment_bytes as u64;
        words[fixed::CAPACITY] = self.capacity;
        for (at, name) in
            [(fixed::KEY, &self.key), (fixed::VALUE, &self.value), (fixed::BACKEND, &self.backend)]
        {
            put_name(&mut words[at..at + NAME_WORDS], name);
        }
        words[live::EPOCH] = checked(1, self.salt);
        words[live::EPOCH_AGAIN] = checked(1, self.salt);
        words[live::SEGMENTS] = checked(segments, self.salt);
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let check = fixed_check(&bytes);
        bytes[fixed::CHECK * 8..][..8].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads what [`Identity::superblock`] has written.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let word = |index| word(bytes, index).ok_or(Unreadable::NotAJournal);
        if word(fixed::MAGIC)? != MAGIC {
            return Err(Unreadable::NotAJournal);
        }
        let format = word(fixed::FORMAT)?;
        if format != FORMAT {
            return Err(Unreadable::Format(format));
        }
        if bytes.len() < SUPERBLOCK || word(fixed::CHECK)? != fixed_check(bytes) {
            return Err(Unreadable::Damaged);
        }
        let name = |at| name_at(bytes, at).ok_or(Unreadable::Damaged);
        let segment_bytes = usize::try_from(word(fixed::SEGMENT_BYTES)?).map_err(|_| Unreadable::Damaged)?;
        if !segment_bytes.is_multiple_of(512) || segment_bytes < 1024 {
            return Err(Unreadable::Damaged);
        }
        Ok(Identity {
            salt: word(fixed::SALT)?,
            segment_bytes,
            capacity: word(fixed::CAPACITY)?,
            key: name(fixed::KEY)?,
            value: name(fixed::VALUE)?,
            backend: name(fixed::BACKEND)?,
        })
    }
}

/// A name as it is stored: whole if it is not too long, else its beginning and a checksum of all of it.
pub(crate) fn stored_name(name: &str) -> Cow<'_, str> {
    if name.len() <= MAX_NAME {
        return Cow::Borrowed(name);
    }
    let mut end = MAX_NAME - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}#{:08x}", &name[..end], crc32c::crc32c(name.as_bytes())))
}

fn put_name(words: &mut [u64], name: &str) {
    let name = stored_name(name);
    words[0] = name.len() as u64;
    for (word, bytes) in words[1..].iter_mut().zip(name.as_bytes().chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
}

fn name_at(bytes: &[u8], at: usize) -> Option<String> {
    let length = word(bytes, at).and_then(|length| usize::try_from(length).ok())?;
    let start = (at + 1) * 8;
    let name = bytes.get(start..start + length.min(MAX_NAME)).filter(|name| name.len() == length)?;
    String::from_utf8(name.to_vec()).ok()
}

/// Where [`adoption`] stands in the superblock, in bytes.
pub(crate) const ADOPTION: usize = adopted::MAGIC * 8;

/// The sector that says that the journal belongs to this backend from now on, whoever it was made for.
pub(crate) fn adoption(backend: &str, salt: u64) -> Vec<u8> {
    let mut words = [0; adopted::END - adopted::MAGIC];
    words[0] = ADOPTION_MAGIC;
    put_name(&mut words[adopted::BACKEND - adopted::MAGIC..], backend);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let check = adoption_check(&bytes, salt);
    bytes[(adopted::CHECK - adopted::MAGIC) * 8..][..8].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// Who has adopted the journal of this superblock, if anybody has. An error: it is not readable.
pub(crate) fn adopted_by(superblock: &[u8], salt: u64) -> Result<Option<String>, Unreadable> {
    let sector = superblock.get(ADOPTION..adopted::END * 8).ok_or(Unreadable::Damaged)?;
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let is_whole = word(superblock, adopted::MAGIC) == Some(ADOPTION_MAGIC)
        && word(superblock, adopted::CHECK) == Some(adoption_check(sector, salt));
    let name = name_at(superblock, adopted::BACKEND).filter(|_| is_whole);
    name.map(Some).ok_or(Unreadable::Damaged)
}

fn adoption_check(sector: &[u8], salt: u64) -> u64 {
    let named = &sector[(adopted::BACKEND - adopted::MAGIC) * 8..];
    u64::from(crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), named))
}

fn fixed_check(bytes: &[u8]) -> u64 {
    let (before, after) = (&bytes[..fixed::CHECK * 8], &bytes[(fixed::CHECK + 1) * 8..fixed::END * 8]);
    u64::from(crc32c::crc32c_append(crc32c::crc32c(before), after))
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Value,
    Tombstone,
}

/// The fifth word of a record: the length of the key, how many bytes of padding follow the value, and the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape(pub(crate) u64);

impl Shape {
    pub(crate) fn new(key_bytes: u32, padding: u8, kind: Kind) -> Self {
        let kind = match kind {
            Kind::Value => 0,
            Kind::Tombstone => 1,
        };
        Shape(u64::from(key_bytes) | u64::from(padding) << 32 | kind << 40)
    }

    fn key_bytes(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn padding(self) -> usize {
        (self.0 >> 32 & 0xff) as usize
    }

    fn kind(self) -> Option<Kind> {
        match self.0 >> 40 {
            0 => Some(Kind::Value),
            1 => Some(Kind::Tombstone),
            _ => None,
        }
    }
}

/// The head of a record: never zero, because no record has no length.
pub(crate) fn head(check: u32, words: usize) -> u64 {
    u64::from(check) | (words as u64) << 32
}

/// Key and value of a record, on their way into it.
pub(crate) struct Draft {
    bytes: Vec<u8>,
}

impl Draft {
    pub(crate) fn new() -> Self {
        Draft { bytes: Vec::with_capacity(256) }
    }

    /// Empties it; what is appended from now on is key and value.
    pub(crate) fn restart(&mut self) -> &mut Vec<u8> {
        self.bytes.clear();
        &mut self.bytes
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Pads key and value to whole words, and returns how many words the record takes, with its header, and the padding.
    pub(crate) fn pad(&mut self) -> (usize, u8) {
        let padding = self.bytes.len().wrapping_neg() % 8;
        self.bytes.extend_from_slice(&[0; 8][..padding]);
        (RECORD_HEADER + self.bytes.len() / 8, padding as u8)
    }

    /// The words, when it is padded.
    pub(crate) fn words(&self) -> &[[u8; 8]] {
        self.bytes.as_chunks().0
    }
}

/// The first half of a record's checksum: what is known before the write. It binds the record to its file and its place
/// in it, so that neither an older lap nor a value that looks like a record is mistaken for one.
pub(crate) fn begin_check(salt: u64, offset: u64, words: usize, shape: Shape, payload: &[[u8; 8]]) -> u32 {
    check::continued(0, &[salt, offset, words as u64, shape.0], payload)
}

/// The whole checksum of a record.
pub(crate) fn finish_check(check: u32, version: u64, epoch: u64) -> u32 {
    check::continued(check, &[version, epoch], &[])
}

/// A record as it stands in a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// From the beginning of the file, in bytes.
    pub(crate) offset: u64,
    pub(crate) words: usize,
    pub(crate) version: u64,
    pub(crate) epoch: u64,
    pub(crate) state: u64,
    pub(crate) key: &'a [u8],
    /// `None`: a tombstone.
    pub(crate) value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// The record at the beginning of `bytes`, which stand at `offset` in the file, if it is whole.
    pub(crate) fn read(bytes: &'a [u8], offset: u64, salt: u64) -> Option<Self> {
        let head = word(bytes, record::HEAD)?;
        let words = (head >> 32) as usize;
        let bytes = bytes.get(..words.checked_mul(8)?)?;
        if words < RECORD_HEADER {
            return None;
        }
        let (version, epoch) = (word(bytes, record::VERSION)?, word(bytes, record::EPOCH)?);
        let shape = Shape(word(bytes, record::SHAPE)?);
        let payload = &bytes[RECORD_HEADER * 8..];
        let check = begin_check(salt, offset, words, shape, payload.as_chunks().0);
        if finish_check(check, version, epoch) != head as u32 && !crate::fault::broken("checksum") {
            return None;
        }
        let key = payload.get(..shape.key_bytes())?;
        let value = payload.get(shape.key_bytes()..payload.len().checked_sub(shape.padding())?)?;
        let value = match shape.kind()? {
            Kind::Value => Some(value),
            Kind::Tombstone => None,
        };
        let state = word(bytes, record::STATE)?;
        Some(Record { offset, words, version, epoch, state, key, value })
    }

    /// Whether it may count: it is not a write that never came to be.
    pub(crate) fn is_live(&self) -> bool {
        self.state == state::live(self.version)
    }

    /// Whether its state is one that a record can have.
    pub(crate) fn has_state(&self) -> bool {
        self.is_live() || self.state == state::pending(self.version)
    }
}

/// The first word from this one on where a live or pending record might begin: cheap enough to ask of a whole segment.
pub(crate) fn may_begin(bytes: &[u8], from: usize) -> Option<usize> {
    let words = bytes.as_chunks::<8>().0.get(from..)?;
    let has_state = |words: &[[u8; 8]]| {
        let [version, state] = [record::VERSION, record::STATE].map(|index| u64::from_le_bytes(words[index]));
        state == state::live(version) || state == state::pending(version)
    };
    words.windows(record::STATE + 1).position(has_state).map(|distance| from + distance)
}
