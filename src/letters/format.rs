//! The bytes of a dead-letter file: a header, and behind it records, each with a checksum over itself and its place.
//!
//! All numbers are little-endian. `docs/journal-format.md` has the table.

use super::{Damage, State, record::Letter};
use crate::ErrorClass;

/// How a dead-letter file begins.
const MAGIC: &[u8; 8] = b"wb-dead\n";

/// The only format so far.
pub(super) const FORMAT: u32 = 1;

/// Length and checksum of a record.
const HEAD: usize = 8;

/// The fixed part of a letter, and that of a verdict.
const LETTER: usize = 56;
const VERDICT: usize = 32;

/// More than any header has.
const MAX_HEADER: usize = 1 << 20;

/// The longest text of an error that is kept.
const MAX_ERROR: usize = 4096;

/// For which cache the letters are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) backend: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// A write was refused; a later one with the same id stands for both.
    Letter(Letter),
    /// What has become of a letter.
    Verdict { id: u64, state: State },
}

/// Why nothing can be said of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    NotLetters,
    Format(u64),
    Damaged,
}

/// All that a file says.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) identity: Identity,
    /// No letter in the file, and none that was in it, has this id or a later one; more may be known from the records.
    pub(super) next_id: u64,
    pub(super) records: Vec<Record>,
    /// The byte behind the last whole record.
    pub(super) end: u64,
    pub(super) damage: Vec<Damage>,
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The header of a new file.
pub(super) fn header(identity: &Identity, next_id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&next_id.to_le_bytes());
    for name in [&identity.backend, &identity.key, &identity.value] {
        put_bytes(&mut out, name.as_bytes());
    }
    let length = out.len() as u32 + 4;
    out[12..16].copy_from_slice(&length.to_le_bytes());
    let sum = crc32c::crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Reads numbers and byte strings off the front; `None` where they end too soon.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        self.0.split_off(..length)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

/// Reads the header: whose letters they are, the first id that is free, and how long it is.
fn read_header(bytes: &[u8]) -> Result<(Identity, u64, usize), Unreadable> {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len()) != Some(MAGIC) {
        return Err(Unreadable::NotLetters);
    }
    let format = reader.u32().ok_or(Unreadable::Damaged)?;
    let length = reader.u32().ok_or(Unreadable::Damaged)? as usize;
    if format != FORMAT {
        return Err(Unreadable::Format(u64::from(format)));
    }
    let whole = bytes.get(..length).filter(|_| (28..MAX_HEADER).contains(&length));
    let (content, sum) = whole.ok_or(Unreadable::Damaged)?.split_at(length - 4);
    if crc32c::crc32c(content).to_le_bytes() != sum {
        return Err(Unreadable::Damaged);
    }
    let mut read = || {
        let next_id = reader.u64()?;
        let identity = Identity { backend: reader.string()?, key: reader.string()?, value: reader.string()? };
        Some((identity, next_id, length))
    };
    read().ok_or(Unreadable::Damaged)
}

/// The checksum of a record at this place: bytes of a value that look like a record are not taken for one.
fn checksum(at: u64, body: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&at.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &(body.len() as u32).to_le_bytes());
    crc32c::crc32c_append(sum, body)
}

/// The text of an error, cut to what is kept of it.
pub(super) fn kept_error(text: &str) -> String {
    let mut end = text.len().min(MAX_ERROR);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn class_code(class: ErrorClass) -> u8 {
    match class {
        ErrorClass::Transient => 0,
        ErrorClass::Permanent => 1,
        ErrorClass::Conflict => 2,
    }
}

/// Appends a record that will stand at the byte `at` of its file.
pub(super) fn put_record(record: &Record, at: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    match record {
        Record::Letter(letter) => {
            out.extend_from_slice(&[1, u8::from(letter.value.is_some()), class_code(letter.class), 0]);
            out.extend_from_slice(&letter.attempts.to_le_bytes());
            for number in [letter.id, letter.version, letter.first_dirty, letter.refused] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            let value = letter.value.as_deref().unwrap_or_default();
            for part in [&letter.key, value, letter.error.as_bytes()] {
                out.extend_from_slice(&(part.len() as u32).to_le_bytes());
            }
            out.extend_from_slice(&[0; 4]);
            for part in [&letter.key, value, letter.error.as_bytes()] {
                out.extend_from_slice(part);
            }
        }
        Record::Verdict { id, state } => {
            let (code, version, when) = match *state {
                State::Open => (0, 0, 0),
                State::Stored { version, when } => (1, version, when),
                State::Superseded { version, when } => (2, version, when),
                State::Discarded { when } => (3, 0, when),
            };
            out.extend_from_slice(&[2, code, 0, 0, 0, 0, 0, 0]);
            for number in [*id, version, when] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
    let body = start + HEAD;
    let length = (out.len() - body) as u32;
    let sum = checksum(at, &out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..body].copy_from_slice(&sum.to_le_bytes());
}

/// How many bytes a record takes.
pub(super) fn size(record: &Record) -> u64 {
    let body = match record {
        Record::Letter(letter) => {
            LETTER
                + letter.key.len()
                + letter.value.as_ref().map_or(0, |value| value.len())
                + letter.error.len()
        }
        Record::Verdict { .. } => VERDICT,
    };
    (HEAD + body) as u64
}

/// The record at the byte `at`, and where the next one begins.
fn read_record(bytes: &[u8], at: usize) -> Option<(Record, usize)> {
    let mut head = Reader(bytes.get(at..)?);
    let (length, sum) = (head.u32()? as usize, head.u32()?);
    // Looked at before the checksum, which would otherwise be computed for every byte of a hole.
    if length < VERDICT || !matches!(head.0.first(), Some(1 | 2)) {
        return None;
    }
    let body = head.take(length)?;
    if checksum(at as u64, body) != sum {
        return None;
    }
    Some((parse(body)?, at + HEAD + length))
}

fn parse(body: &[u8]) -> Option<Record> {
    let mut reader = Reader(body);
    let &[kind, code, class, _] = reader.take(4)? else { return None };
    let count = reader.u32()?;
    let id = reader.u64()?;
    let record = match kind {
        1 => {
            let (version, first_dirty, refused) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let lengths = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
            let mut part = |at: usize| reader.take(lengths[at] as usize);
            let (key, value, error) = (part(0)?, part(1)?, part(2)?);
            Record::Letter(Letter {
                id,
                version,
                key: key.into(),
                value: (code & 1 == 1).then(|| value.into()),
                class: match class {
                    0 => ErrorClass::Transient,
                    2 => ErrorClass::Conflict,
                    _ => ErrorClass::Permanent,
                },
                error: String::from_utf8_lossy(error).into_owned(),
                attempts: count,
                first_dirty,
                refused,
                state: State::Open,
            })
        }
        2 => {
            let (version, when) = (reader.u64()?, reader.u64()?);
            let state = match code {
                1 => State::Stored { version, when },
                2 => State::Superseded { version, when },
                3 => State::Discarded { when },
                _ => return None,
            };
            Record::Verdict { id, state }
        }
        _ => return None,
    };
    reader.0.is_empty().then_some(record)
}

/// Reads a whole file; what is damaged is stepped over, and said.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan, Unreadable> {
    let (identity, next_id, mut at) = read_header(bytes)?;
    let mut scan = Scan { identity, next_id, records: Vec::new(), end: at as u64, damage: Vec::new() };
    while at < bytes.len() {
        if let Some((record, next)) = read_record(bytes, at) {
            scan.records.push(record);
            at = next;
            scan.end = at as u64;
            continue;
        }
        let behind = (at + 1..bytes.len()).find(|start| read_record(bytes, *start).is_some());
        let end = behind.unwrap_or(bytes.len());
        let is_tail = behind.is_none();
        scan.damage.push(Damage { offset: at as u64, bytes: (end - at) as u64, is_tail });
        at = end;
    }
    Ok(scan)
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    fn letter(id: u64, key: &[u8], value: Option<&[u8]>) -> Record {
        Record::Letter(Letter {
            id,
            version: id << 28,
            key: key.into(),
            value: value.map(Into::into),
            class: ErrorClass::Conflict,
            error: "no such column".to_owned(),
            attempts: 3,
            first_dirty: 1_000,
            refused: 2_000,
            state: State::Open,
        })
    }

    fn file() -> (Vec<u8>, Vec<Record>) {
        let identity =
            Identity { backend: "sqlite:a#t".to_owned(), key: "u64".to_owned(), value: "str".to_owned() };
        let mut bytes = header(&identity, 1);
        let verdict = Record::Verdict { id: 1, state: State::Superseded { version: 7, when: 9 } };
        let records =
            vec![letter(1, b"a", Some(b"")), letter(2, b"", None), verdict, letter(3, b"c", Some(b"d"))];
        for record in &records {
            let before = bytes.len();
            put_record(record, before as u64, &mut bytes);
            assert_eq!((bytes.len() - before) as u64, size(record));
        }
        (bytes, records)
    }

    #[test]
    fn what_is_written_is_read() {
        let (bytes, records) = file();
        let scan = scan(&bytes).expect("a header");
        assert_eq!((scan.records, scan.end, scan.damage.len()), (records, bytes.len() as u64, 0));
    }

    /// Cut anywhere, and each bit flipped: never a panic, and never another record than those that were written.
    #[test]
    fn damage_is_found_and_nothing_else_is_lost() {
        let (bytes, records) = file();
        let first = read_header(&bytes).expect("a header").2;
        for end in 0..bytes.len() {
            match scan(&bytes[..end]) {
                Err(_) => assert!(end < first, "{end}"),
                Ok(scan) => assert_eq!(scan.records, records[..scan.records.len()]),
            }
        }
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            match scan(&bytes) {
                Err(_) => assert!(at / 8 < first),
                Ok(scan) => {
                    assert_eq!((scan.records.len(), scan.damage.len()), (3, 1), "{at}");
                    assert!(scan.records.iter().all(|record| records.contains(record)));
                }
            }
        }
    }
}
