//! Damaged journals: a small whole one with places of it changed, or raw bytes. Reading never panics, finds only what was
//! written, finds all of it that was not touched, and says so when something is missing.
//!
//! Two ways in. Most inputs are only read, without a file, by the function that opening uses; one in a few hundred is put into a
//! file and opened with a cache. `WRITEBACK_FUZZ_FILES=1` opens all of them.
//!
//! `cargo fuzz run -s none journal fuzz/corpus/journal fuzz/seeds/journal`, after `mkdir -p fuzz/corpus/journal`.

#![no_main]

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use writeback::{BackendError, Cache, OpenError, backend::Memory};

const KEYS: u64 = 40;
const SUPERBLOCK: usize = 4096;
const SEGMENT: usize = 4096;
/// How many segments the images have.
const SEGMENTS: usize = 2;

#[derive(Debug, Arbitrary)]
enum Change<'a> {
    /// A bit, anywhere.
    Flip {
        at: u16,
        bit: u8,
    },
    Fill {
        at: u16,
        length: u8,
        with: u8,
    },
    Put {
        at: u16,
        bytes: &'a [u8],
    },
    /// One place over another, as a disk that mixes up its blocks.
    Copy {
        from: u16,
        to: u16,
        length: u16,
    },
    /// A word of a record, told by its number: the places where it matters most.
    Word {
        record: u8,
        word: u8,
        value: u64,
    },
}

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Changed { changes: Vec<Change<'a>>, cut: Option<u16>, salvage: bool },
    Raw { bytes: &'a [u8], begins_well: bool },
}

/// A whole journal with the keys below [`KEYS`], and where its records are.
struct Image {
    bytes: Vec<u8>,
    records: Vec<usize>,
}

fn folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = folder.join(format!("writeback-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn open(path: &PathBuf, salvage: bool) -> Result<Cache<u64, u64>, OpenError> {
    let rows = Arc::new(Memory::<u64, u64>::unrecorded());
    rows.set_fault(|_| Err(BackendError::transient("down")));
    Cache::builder()
        .capacity(200)
        .lanes(1)
        .max_delay(Duration::from_secs(3600))
        .flush_at(10_000)
        .drain_on_drop(Duration::ZERO)
        .backend(rows)
        .journal(path)
        .journal_size(1)
        .journal_salvage(salvage)
        .open()
}

const fn value_of(key: u64) -> u64 {
    key * 1_000_003 + 17
}

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        // From a file, so that a finding can be had again: each new journal has a salt of its own.
        let bytes = include_bytes!("../images/small.bin").to_vec();
        let records: Vec<_> = (SUPERBLOCK + 64..).step_by(56).take(KEYS as usize).collect();
        for (key, at) in records.iter().enumerate() {
            assert_eq!(
                bytes[at + 40..at + 48],
                (key as u64).to_le_bytes(),
                "the image is not what this target expects"
            );
        }
        Image { bytes, records }
    })
}

/// Applies `changes` to a whole journal. The small image is its first part: superblock and two segments.
fn change(bytes: &mut [u8], records: &[usize], changes: &[Change<'_>]) {
    let end = SUPERBLOCK + SEGMENTS * SEGMENT;
    for change in changes {
        match *change {
            Change::Flip { at, bit } => bytes[usize::from(at) % end] ^= 1 << (bit % 8),
            Change::Fill { at, length, with } => {
                let at = usize::from(at) % end;
                bytes[at..(at + usize::from(length)).min(end)].fill(with);
            }
            Change::Put { at, bytes: new } => {
                let at = usize::from(at) % end;
                let length = new.len().min(end - at);
                bytes[at..at + length].copy_from_slice(&new[..length]);
            }
            Change::Copy { from, to, length } => {
                let (from, to) = (usize::from(from) % end, usize::from(to) % end);
                let length = (usize::from(length) % 512).min(end - from).min(end - to);
                bytes.copy_within(from..from + length, to);
            }
            Change::Word { record, word, value } => {
                let at = records[usize::from(record) % records.len()] + usize::from(word % 7) * 8;
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

/// Whether the record at `at` is as it was.
fn is_whole(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..at + 56) == Some(&image().bytes[at..at + 56])
}

fuzz_target!(|input: Input<'_>| {
    static TURN: AtomicU64 = AtomicU64::new(0);
    static ALL_FILES: OnceLock<bool> = OnceLock::new();
    let all_files = *ALL_FILES.get_or_init(|| std::env::var_os("WRITEBACK_FUZZ_FILES").is_some());
    let image = image();
    let (bytes, salvage, is_known) = match &input {
        Input::Changed { changes, cut, salvage } => {
            let mut bytes = image.bytes.clone();
            change(&mut bytes, &image.records, changes);
            if let Some(cut) = cut {
                bytes.truncate(usize::from(*cut));
            }
            (bytes, *salvage, true)
        }
        Input::Raw { bytes, begins_well } => {
            let mut whole = Vec::new();
            if *begins_well {
                whole.extend_from_slice(&image.bytes[..SUPERBLOCK]);
            }
            whole.extend_from_slice(bytes);
            (whole, false, false)
        }
    };
    let head_is_whole = bytes.len() >= SUPERBLOCK && bytes[..SUPERBLOCK] == image.bytes[..SUPERBLOCK];

    let read = writeback::fuzzing::scan(&bytes);
    if let Some(read) = &read {
        for (key, value) in &read.live {
            let (key, value) = (key.as_slice(), value.as_deref());
            let number = u64::from_le_bytes(key.try_into().expect("a key that nobody wrote"));
            assert!(
                number < KEYS && value == Some(&value_of(number).to_le_bytes()),
                "a value that nobody wrote: {number} {value:02x?} in {bytes:02x?}",
                bytes = &bytes[..bytes.len().min(SUPERBLOCK + SEGMENTS * SEGMENT)]
            );
        }
        if head_is_whole && is_known && bytes.len() == image.bytes.len() {
            let found = |key: &u64| read.live.iter().any(|(found, _)| *found == key.to_le_bytes());
            let mut whole = image.records.iter().zip(0..).filter(|(at, _)| is_whole(&bytes, **at));
            assert!(whole.all(|(_, key)| found(&key)), "a whole record was not found");
        }
    } else {
        assert!(!head_is_whole, "the superblock is whole");
    }

    if all_files || TURN.fetch_add(1, Ordering::Relaxed) % 512 == 0 {
        let path = folder().join(format!("{}.journal", TURN.load(Ordering::Relaxed)));
        fs::write(&path, &bytes).expect("room for a small file");
        match open(&path, salvage) {
            Ok(cache) => {
                if let Some(read) = read.filter(|_| !bytes.is_empty()) {
                    assert_eq!(cache.len(), read.live.len());
                    assert_eq!(cache.recovery().expect("there is a journal").damage.len(), read.damages);
                }
                for key in 0..KEYS {
                    assert!(cache.peek(&key).is_none_or(|value| value == value_of(key)));
                }
            }
            Err(OpenError::Journal(error)) => {
                assert!(!error.to_string().is_empty());
                assert!(fs::read(&path).expect("the journal") == bytes, "a refused journal was changed");
            }
            Err(other) => panic!("{other}"),
        }
        let _ = fs::remove_file(&path);
    }
});
