//! A damaged journal, written anew with all that is whole in it.
//!
//! The new file has the newest live record of each key, as a copy in the newest epoch that the old one knew, which is also
//! the one from which on records count: what the flusher does with records that stand in its way, done to all at once. So
//! versions and epochs go on where they were. It takes the old one's place by a rename; a kill before it leaves the old one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    ClosedJournal, JournalError, file,
    format::{
        self, Draft, Identity, Kind, RECORD_HEADER, Record, SEGMENT_HEADER, SUPERBLOCK, Shape, live, state,
    },
    recover::{self, Scan},
};

impl ClosedJournal {
    /// Cuts the damage out, so that a cache opens the journal as it is: all that [`read`](Self::read) returns as entries
    /// stays. A copy of the damaged file is kept at `backup`, or at the first free of `<path>.damaged-1`, `-2`, and so on; returns
    /// where. Killed at any time, it leaves the damaged file or the repaired one.
    ///
    /// # Errors
    ///
    /// The journal cannot be read; there is a file at `backup`; the disk is full or refuses something. The journal is then
    /// as it was.
    pub fn repair(self, backup: Option<&Path>) -> Result<PathBuf, JournalError> {
        let failed = |doing, source| JournalError::Io { path: self.path.clone(), doing, source };
        let contents = self.read()?;
        let backup = match backup {
            Some(path) if path.symlink_metadata().is_ok() => {
                let source =
                    io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display()));
                return Err(failed("keeping a copy of", source));
            }
            Some(path) => path.to_owned(),
            None => free_name(&self.path),
        };
        keep(&self.opened.bytes, &backup).map_err(|source| failed("keeping a copy of", source))?;
        let temporary = beside(&self.path, ".repaired");
        let written = self.write_whole(contents.scan(), &temporary).and_then(|_locked| {
            fs::rename(&temporary, &self.path)
                .and_then(|()| file::sync_folder(&self.path))
                .map_err(|source| failed("putting the repaired file in the place of", source))
        });
        match written {
            Ok(()) => Ok(backup),
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }

    /// Writes the repaired journal, and reads it back.
    fn write_whole(&self, scan: &Scan<'_>, temporary: &Path) -> Result<File, JournalError> {
        let failed = |doing, source| JournalError::Io { path: self.path.clone(), doing, source };
        let mut records = scan.live.records().to_vec();
        records.sort_unstable_by_key(|record| record.offset);
        let bytes = whole(scan, &records);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(temporary);
        let mut file = file.map_err(|source| failed("writing a repaired copy of", source))?;
        // Before it gets its name: whoever opens it there waits for us.
        file::lock(&file, &self.path)?;
        let full = |source| JournalError::no_space(&self.path, bytes.len(), source);
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(full)?;
        let back = fs::read(temporary).map_err(|source| failed("reading the repaired copy of", source))?;
        if !is_same(&back, scan) {
            let source = io::Error::new(io::ErrorKind::InvalidData, "it does not read as it was written");
            return Err(failed("repairing", source));
        }
        Ok(file)
    }
}

/// The bytes of a journal with these records and no others.
fn whole(scan: &Scan<'_>, records: &[Record<'_>]) -> Vec<u8> {
    let Scan { identity, newest_epoch: epoch, .. } = scan;
    let mut bytes = vec![0; SUPERBLOCK];
    let mut draft = Draft::new();
    for record in records {
        let left = identity.segment_bytes - (bytes.len() - SUPERBLOCK) % identity.segment_bytes;
        let fits = left < identity.segment_bytes && record.words * 8 <= left;
        if !fits {
            // The rest of the segment stays zero: no record begins there.
            let end = (bytes.len() - SUPERBLOCK).next_multiple_of(identity.segment_bytes);
            bytes.resize(SUPERBLOCK + end, 0);
            begin_segment(&mut bytes, identity);
        }
        append(&mut bytes, &mut draft, identity.salt, record, *epoch);
    }
    let filled = (bytes.len() - SUPERBLOCK).div_ceil(identity.segment_bytes);
    bytes.resize(SUPERBLOCK + filled * identity.segment_bytes, 0);
    let segments = scan.segments.max(filled + 1);
    for _ in filled..segments {
        let end = bytes.len() + identity.segment_bytes;
        begin_segment(&mut bytes, identity);
        bytes.resize(end, 0);
    }
    let superblock = identity.superblock(segments as u64);
    bytes[..SUPERBLOCK].copy_from_slice(&superblock);
    let retired = format::checked(*epoch, identity.salt);
    let words = [
        (live::EPOCH, retired),
        (live::EPOCH_AGAIN, retired),
        (live::OWNER, scan.owner),
        (live::BOOT, scan.boot[0]),
        (live::BOOT + 1, scan.boot[1]),
    ];
    for (index, word) in words {
        bytes[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn begin_segment(bytes: &mut Vec<u8>, identity: &Identity) {
    let index = (bytes.len() - SUPERBLOCK) / identity.segment_bytes;
    bytes.extend(format::segment_mark(index as u64, identity.salt).to_le_bytes());
    bytes.resize(bytes.len() + (SEGMENT_HEADER - 1) * 8, 0);
}

fn append(bytes: &mut Vec<u8>, draft: &mut Draft, salt: u64, record: &Record<'_>, epoch: u64) {
    let payload = draft.restart();
    payload.extend_from_slice(record.key);
    payload.extend_from_slice(record.value.unwrap_or_default());
    let (words, padding) = draft.pad();
    let kind = if record.value.is_some() { Kind::Value } else { Kind::Tombstone };
    // Not cut off: the key was read from a record, which has 32 bits for its length.
    let shape = Shape::new(record.key.len() as u32, padding, kind);
    let check = format::begin_check(salt, bytes.len() as u64, words, shape, draft.words());
    let check = format::finish_check(check, record.version, epoch);
    let mut header = [0; RECORD_HEADER];
    header[format::record::HEAD] = format::head(check, words);
    header[format::record::VERSION] = record.version;
    header[format::record::EPOCH] = epoch;
    header[format::record::STATE] = state::live(record.version);
    header[format::record::SHAPE] = shape.0;
    header.into_iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes.extend_from_slice(draft.words().as_flattened());
}

/// Whether a repaired journal has no damage and exactly the entries that it should have.
fn is_same(bytes: &[u8], scan: &Scan<'_>) -> bool {
    let Ok(back) = recover::scan(bytes) else { return false };
    let same = |record: &Record<'_>| {
        let found = back.live.get(record.key);
        found.is_some_and(|found| (found.value, found.version) == (record.value, record.version))
    };
    back.damage.is_empty()
        && back.identity == scan.identity
        && back.newest_epoch == scan.newest_epoch
        && back.live.len() == scan.live.len()
        && scan.live.records().iter().all(same)
}

/// Writes a copy under another name, and gives it its own when it is whole and on stable storage.
fn keep(bytes: &[u8], backup: &Path) -> io::Result<()> {
    let temporary = beside(backup, ".new");
    let copy = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, backup)?;
        file::sync_folder(backup)
    };
    copy().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

fn free_name(path: &Path) -> PathBuf {
    let mut names = (1_u64..).map(|n| beside(path, &format!(".damaged-{n}")));
    // One of so many is free.
    names.find(|name| name.symlink_metadata().is_err()).unwrap_or_else(|| beside(path, ".damaged"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
