//! The journal's file: made whole or not at all, locked by one process, grown by real blocks.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    hash::BuildHasher,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    JournalError,
    area::Area,
    format::{self, Identity, SUPERBLOCK, live},
    recover::{self, Scan},
    tape,
};

/// How long an open waits for a cache of the same process to let go.
const OWN_LOCK_WAIT: Duration = Duration::from_secs(2);

/// What a cache asks of its journal.
pub(crate) struct Wanted {
    pub(crate) path: PathBuf,
    pub(crate) capacity: u64,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) backend: String,
    pub(crate) segment_bytes: usize,
    pub(crate) min_segments: usize,
    /// Open it for this backend although it belongs to another.
    pub(crate) adopt: bool,
    /// Open it although records are missing in its middle.
    pub(crate) salvage: bool,
}

/// A locked file and what is in it.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) bytes: memmap2::Mmap,
}

impl Opened {
    /// Reads all of it.
    pub(crate) fn scan(&self, path: &Path) -> Result<Scan<'_>, JournalError> {
        recover::scan(&self.bytes).map_err(|unreadable| JournalError::unreadable(path, unreadable))
    }
}

/// Opens the file at a path and locks it, or makes a new journal there.
pub(crate) fn open(wanted: &Wanted) -> Result<Opened, JournalError> {
    let path = &wanted.path;
    let failed = |doing, source| JournalError::Io { path: path.clone(), doing, source };
    loop {
        // A new journal begins as an empty file that is locked, so that of all who make one here only one goes on.
        let (file, is_new) = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
                    Ok(file) => (file, true),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !is_dangling(path) => {
                        continue;
                    }
                    Err(error) => return Err(failed("creating", error)),
                }
            }
            Err(error) => return Err(failed("opening", error)),
        };
        let about = file.metadata().map_err(|error| failed("looking at", error))?;
        if !about.is_file() {
            // A device or a pipe has no length either, and is not to be replaced.
            return Err(JournalError::NotAJournal { path: path.clone() });
        }
        lock(&file, path)?;
        if !is_at(&file, path) {
            // Replaced between opening and locking.
            continue;
        }
        if file.metadata().map_err(|error| failed("looking at", error))?.len() == 0 {
            return create(wanted).inspect_err(|_| {
                if is_new {
                    // Still locked, so nobody else has it.
                    let _ = fs::remove_file(path);
                }
            });
        }
        return read(file, path);
    }
}

/// Opens a journal that no cache has open, for tools.
pub(crate) fn open_closed(path: &Path) -> Result<Opened, JournalError> {
    let failed = |source| JournalError::Io { path: path.to_owned(), doing: "opening", source };
    loop {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        lock(&file, path)?;
        if is_at(&file, path) {
            return read(file, path);
        }
        // Replaced between opening and locking.
    }
}

fn read(file: File, path: &Path) -> Result<Opened, JournalError> {
    // SAFETY: the file is locked against other caches, and nothing of ours writes it before the map is gone. Somebody who
    // ignores the lock and cuts the file could make reads fault; no map of a file is safe from that.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|source| JournalError::Io {
        path: path.to_owned(),
        doing: "mapping",
        source,
    })?;
    Ok(Opened { file, bytes })
}

/// Whether a readable journal is the one that this cache may go on with. `false`: it is empty and of another shape, so a
/// new one may take its place.
pub(crate) fn fits(scan: &Scan<'_>, wanted: &Wanted) -> Result<bool, JournalError> {
    let path = wanted.path.clone();
    let rebooted = rebooted_since(scan.boot);
    if scan.is_damaged(rebooted) && !wanted.salvage {
        return Err(JournalError::Damaged { path, saved: scan.live.len(), damage: scan.damage.clone() });
    }
    let (found, dirty) = (&scan.identity, scan.live.len());
    let same_codec =
        found.key == format::stored_name(&wanted.key) && found.value == format::stored_name(&wanted.value);
    let same_backend = found.backend == format::stored_name(&wanted.backend);
    if dirty == 0 {
        return Ok(same_codec && same_backend && scan.damage.is_empty());
    }
    if !same_codec {
        let of = |key: &str, value: &str| format!("{key} -> {value}");
        return Err(JournalError::OtherCodec {
            path,
            dirty,
            journal: of(&found.key, &found.value),
            cache: of(&wanted.key, &wanted.value),
        });
    }
    if !same_backend && !wanted.adopt {
        let (journal, cache) = (found.backend.clone(), wanted.backend.clone());
        return Err(JournalError::OtherBackend { path, dirty, journal, cache });
    }
    Ok(true)
}

/// Makes a new journal beside its place and puts it there when it is whole.
pub(crate) fn create(wanted: &Wanted) -> Result<Opened, JournalError> {
    let path = &wanted.path;
    let failed = |doing, source| JournalError::Io { path: path.clone(), doing, source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let identity = Identity {
        salt: foldhash::fast::RandomState::default().hash_one(std::process::id()) | 1,
        segment_bytes: wanted.segment_bytes,
        capacity: wanted.capacity,
        key: wanted.key.clone(),
        value: wanted.value.clone(),
        backend: wanted.backend.clone(),
    };
    let make = || -> Result<File, JournalError> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|error| failed("creating", error))?;
        lock(&file, path)?;
        let bytes = SUPERBLOCK + wanted.min_segments * wanted.segment_bytes;
        let full = |source| JournalError::no_space(path, bytes, source);
        file.write_all(&identity.superblock(wanted.min_segments as u64)).map_err(full)?;
        append_segments(&file, &identity, 0, wanted.min_segments).map_err(full)?;
        file.sync_all().map_err(|error| failed("syncing", error))?;
        fs::rename(&temporary, path).map_err(|error| failed("naming", error))?;
        sync_folder(path).map_err(|error| failed("syncing the folder of", error))?;
        Ok(file)
    };
    match make() {
        Ok(file) => read(file, path),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Writes empty segments at the end of a file: zeros, so that their blocks are there before anyone writes through a map.
pub(crate) fn append_segments(file: &File, identity: &Identity, from: usize, more: usize) -> io::Result<()> {
    let mut segment = vec![0; identity.segment_bytes];
    for index in from..from + more {
        let mark = format::segment_mark(index as u64, identity.salt);
        segment[..8].copy_from_slice(&mark.to_le_bytes());
        let offset = (SUPERBLOCK + index * identity.segment_bytes) as u64;
        write_at(file, &segment, offset)?;
        tape::wrote(offset, &segment);
    }
    Ok(())
}

#[cfg(unix)]
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
pub(crate) fn write_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

/// Lengthens a file of so many segments. If that fails, the file is as it was.
pub(crate) fn lengthen(file: &File, identity: &Identity, before: usize, more: usize) -> io::Result<()> {
    let sync = || {
        tape::sync_begins();
        let outcome = file.sync_data();
        tape::sync_ended(outcome.is_ok());
        outcome
    };
    append_segments(file, identity, before, more).and_then(|()| sync()).inspect_err(|_| {
        // Gives back what the disk had left. A longer file than the superblock says does no harm.
        let _ = file.set_len((SUPERBLOCK + before * identity.segment_bytes) as u64);
    })
}

/// Writes zeros behind the part of a segment that is there, so that all of it is. If that fails, the file is as it was.
pub(crate) fn complete(file: &File, identity: &Identity, index: usize) -> io::Result<()> {
    let there = file.metadata()?.len();
    let end = (SUPERBLOCK + (index + 1) * identity.segment_bytes) as u64;
    let zeros = vec![0; usize::try_from(end.saturating_sub(there)).unwrap_or(0)];
    write_at(file, &zeros, there).and_then(|()| file.sync_data()).inspect_err(|_| {
        let _ = file.set_len(there);
    })
}

/// Maps the segments that a file was lengthened by, and makes them part of the journal.
pub(crate) fn adjoin(file: &File, area: &mut Area, identity: &Identity, more: usize) -> io::Result<usize> {
    area.extend(file, more, identity.segment_bytes)?;
    let count = format::checked(area.segments() as u64, identity.salt);
    // Release: the segments are there before the file says so.
    area.superblock().store(live::SEGMENTS, count, crate::sync::Ordering::Release);
    Ok(more)
}

pub(super) fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {
                let pid = owner(file).unwrap_or(0);
                if pid != u64::from(std::process::id()) || start.elapsed() > OWN_LOCK_WAIT {
                    return Err(JournalError::Locked { path: path.to_owned(), pid });
                }
                // A cache of this process that was just dropped ends with its last call of the backend.
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::Error(source)) => {
                return Err(JournalError::Io { path: path.to_owned(), doing: "locking", source });
            }
        }
    }
}

/// The process that has the journal open, as it has said itself.
fn owner(mut file: &File) -> Option<u64> {
    use io::{Read, Seek, SeekFrom};
    let mut bytes = [0; 8];
    file.seek(SeekFrom::Start(live::OWNER as u64 * 8)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(ours), Ok(there)) if same(&ours, &there))
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Whether there is a link at a path that leads nowhere.
fn is_dangling(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink()) && !path.exists()
}

/// Makes the file's name durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// What tells this boot of the machine from others; zero where the system does not say.
pub(crate) fn boot() -> [u64; 2] {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| digits.get(range).and_then(|half| u64::from_str_radix(half, 16).ok()).unwrap_or(0);
    [half(0..16), half(16..32)]
}

/// Whether the machine may have lost power since somebody of that boot wrote.
pub(crate) fn rebooted_since(then: [u64; 2]) -> bool {
    then != boot() || then == [0, 0]
}
