//! What the tools for closed journals read: a journal and its dead letters, damaged or made of any bytes. Reading never panics;
//! repairing keeps what was read, keeps the damaged bytes, and leaves nothing to repair.
//!
//! `cargo fuzz run -s none tools fuzz/corpus/tools fuzz/seeds/tools`, after `mkdir -p fuzz/corpus/tools`.

#![no_main]

#[path = "shared/folder.rs"]
mod folder;

use std::fs;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use writeback::{ClosedDeadLetters, ClosedJournal};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    /// Bytes that are put into a whole journal.
    changes: Vec<(u16, [u8; 4])>,
    cut: Option<u16>,
    /// The file beside it, behind the beginning of a whole one or not.
    letters: &'a [u8],
    begins_well: bool,
}

/// The header of a file of dead letters without names.
const HEADER: [u8; 36] = {
    let mut header = [0; 36];
    let (magic, mut at) = (b"wb-dead\n", 0);
    while at < 8 {
        header[at] = magic[at];
        at += 1;
    }
    (header[8], header[12], header[16]) = (1, 40, 1);
    header
};

type Entries = Vec<(Vec<u8>, Option<Vec<u8>>, u64)>;

fn entries(journal: &ClosedJournal) -> Option<(Entries, bool)> {
    let contents = journal.read().ok()?;
    for damage in contents.damage() {
        assert!(!damage.meaning().is_empty() && !damage.loss().is_empty());
    }
    let entry = |entry: &writeback::JournalEntry<'_>| {
        (entry.key.to_vec(), entry.value.map(<[u8]>::to_vec), entry.version)
    };
    Some((contents.entries().iter().map(entry).collect(), contents.needs_repair()))
}

fuzz_target!(|input: Input<'_>| {
    let path = folder::folder().join("tools.journal");
    let [dead, backup] = ["tools.journal.dead", "tools.backup"].map(|name| folder::folder().join(name));
    // The superblock and two segments, which hold all that it knows.
    let mut bytes = include_bytes!("../images/small.bin")[..3 * 4096].to_vec();
    for (at, new) in &input.changes {
        let at = usize::from(*at) % (bytes.len() - 4);
        bytes[at..at + 4].copy_from_slice(new);
    }
    bytes.truncate(input.cut.map_or(bytes.len(), usize::from));
    let mut letters = Vec::new();
    if input.begins_well {
        letters.extend_from_slice(&HEADER);
        letters.extend_from_slice(&crc32c::crc32c(&HEADER).to_le_bytes());
    }
    letters.extend_from_slice(input.letters);
    fs::write(&path, &bytes).expect("room for a small file");
    fs::write(&dead, &letters).expect("room for a small file");
    let _ = fs::remove_file(&backup);

    let Ok(journal) = ClosedJournal::open(&path) else { return };
    match ClosedDeadLetters::open(&journal) {
        Ok(found) => {
            assert!(found.bytes() <= letters.len() as u64 && found.open_count() <= found.entries().count());
            assert!(found.damage().iter().all(|damage| damage.offset + damage.bytes <= letters.len() as u64));
        }
        Err(error) => assert!(!error.to_string().is_empty() && !(input.begins_well && input.letters.is_empty())),
    }
    let Some((before, _)) = entries(&journal) else { return };
    match journal.repair(Some(&backup)) {
        Ok(kept) => {
            assert!(fs::read(kept).expect("the copy") == bytes, "the copy is not the damaged file");
            let journal = ClosedJournal::open(&path).expect("it was repaired");
            let (after, needs_repair) = entries(&journal).expect("it was repaired");
            let sorted = |mut entries: Entries| {
                entries.sort();
                entries
            };
            assert!(!needs_repair && sorted(before) == sorted(after), "repairing has lost something");
        }
        Err(_) => assert!(fs::read(&path).expect("the journal") == bytes, "a journal was changed and not repaired"),
    }
});
