//! F45, F46, C11: whatever happens to the bytes of a journal, opening it never panics, never keeps silent, never makes
//! values up, and never loses what is whole.

use std::{collections::HashMap, fs, ops::Range, path::PathBuf, sync::Arc};

use writeback::{Cache, DamageKind, JournalError, OpenError};

use crate::common::{
    NEVER, Rng, Rows, SMALL, crash, down, image, open, place, quiet, refusal, scaled, try_open,
};

/// Bytes before the first segment, of which the first part never changes.
const SUPERBLOCK: usize = 4096;

/// One record of a journal as this file's own reading of the format finds it.
#[derive(Debug, Clone)]
struct Place {
    at: Range<usize>,
    segment: usize,
    key: u64,
    value: u64,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The records of an undamaged journal of `u64`s, in the order of the file.
fn places(bytes: &[u8]) -> Vec<Place> {
    let segment_bytes = word(bytes, 4 * 8) as usize;
    let mut found = Vec::new();
    for (segment, start) in (SUPERBLOCK..bytes.len()).step_by(segment_bytes).enumerate() {
        let end = start + segment_bytes;
        let mut at = start + 64;
        while at + 56 <= end && word(bytes, at) != 0 {
            let length = (word(bytes, at) >> 32) as usize * 8;
            let (key, value) = (word(bytes, at + 40), word(bytes, at + 48));
            found.push(Place { at: at..at + length, segment, key, value });
            at += length;
        }
    }
    found
}

const fn value_of(key: u64) -> u64 {
    key * 1_000_003 + 17
}

/// A journal with the keys from 0 to `keys`, none of them in any backend, as a crash leaves it.
fn written(keys: u64) -> Vec<u8> {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    // Large enough that nothing is ever copied: each key has one record.
    let size = if keys > 100 { 512 << 10 } else { SMALL };
    let cache = quiet(&rows).journal(&path).journal_size(size).open::<u64, u64>().unwrap();
    for key in 0..keys {
        cache.put(key, value_of(key)).unwrap();
    }
    let bytes = image(&path);
    let found = places(&bytes);
    let mut keys_found: Vec<_> = found.iter().map(|place| place.key).collect();
    keys_found.sort_unstable();
    assert!(keys_found.iter().copied().eq(0..keys), "this test reads the format wrongly: {found:?}");
    assert!(found.iter().all(|place| place.value == value_of(place.key)));
    bytes
}

/// A damaged journal, and a place to open it in.
struct Patient {
    _folder: tempfile::TempDir,
    path: PathBuf,
    rows: Arc<Rows>,
}

impl Patient {
    fn new() -> Self {
        let folder = place();
        let path = folder.path().join("damaged.journal");
        Patient { _folder: folder, path, rows: down() }
    }

    fn open(&self, bytes: &[u8], salvage: bool) -> Result<Cache<u64, u64>, OpenError> {
        // Never in place: a cache that was just dropped may still have the old file mapped, and it is not this test's to cut.
        let fresh = self.path.with_extension("fresh");
        fs::write(&fresh, bytes).unwrap();
        fs::rename(&fresh, &self.path).unwrap();
        quiet(&self.rows).journal(&self.path).journal_size(SMALL).journal_salvage(salvage).open()
    }
}

/// How often each thing happened.
#[derive(Debug, Default)]
struct Tally {
    whole: u64,
    tail_reported: u64,
    tail_silent: u64,
    refused: u64,
    salvaged: u64,
    superblock: u64,
}

/// Opens `bytes`, which differ from a good journal with `records` in `damaged`, and checks all that must hold.
#[track_caller]
fn examine(patient: &Patient, bytes: &[u8], records: &[Place], damaged: &Range<usize>, tally: &mut Tally) {
    let touched =
        |place: &Place| place.at.start < damaged.end && damaged.start < place.at.end && !damaged.is_empty();
    let expect = |cache: &Cache<u64, u64>| {
        let mut missing = 0;
        for place in records {
            match cache.peek(&place.key) {
                Some(value) => assert_eq!(value, place.value, "a value that nobody wrote: {place:?}"),
                None if touched(place) => missing += 1,
                None => panic!("lost, although it is whole: {place:?}, damaged {damaged:?}"),
            }
        }
        assert_eq!(cache.len(), records.len() - missing, "keys that nobody wrote, damaged {damaged:?}");
        missing
    };
    let later =
        |place: &Place| place.segment == segment_of(records, damaged) && place.at.start >= damaged.end;
    match patient.open(bytes, false) {
        Ok(cache) => {
            let missing = expect(&cache);
            let reported = !cache.recovery().unwrap().damage.is_empty();
            assert_eq!(cache.stats().journal.unwrap().damages > 0, reported);
            if missing == 0 {
                tally.whole += 1;
            } else {
                assert!(
                    !records.iter().any(later),
                    "{missing} lost and opened, although whole records follow: damaged {damaged:?}"
                );
                // A tail of zeros is how a journal ends: nothing tells it from one that was never written.
                let zeros = bytes[damaged.clone()].iter().all(|byte| *byte == 0);
                assert!(reported || zeros, "{missing} lost in silence: damaged {damaged:?}");
                if reported { tally.tail_reported += 1 } else { tally.tail_silent += 1 }
            }
        }
        Err(OpenError::Journal(error)) => {
            assert!(fs::read(&patient.path).unwrap() == bytes, "a refused journal was changed: {error}");
            assert!(error.to_string().contains(patient.path.to_str().unwrap()), "{error}");
            match error {
                JournalError::Damaged { saved, damage, .. } => {
                    assert!(!damage.is_empty());
                    tally.refused += 1;
                    let cache = patient.open(bytes, true).unwrap_or_else(|error| {
                        panic!("not even to be salvaged: {error}, damaged {damaged:?}")
                    });
                    expect(&cache);
                    assert_eq!(cache.len(), saved, "the error promised other numbers: damaged {damaged:?}");
                    assert_eq!(cache.recovery().unwrap().damage, damage);
                    tally.salvaged += 1;
                }
                JournalError::DamagedSuperblock { .. }
                | JournalError::NotAJournal { .. }
                | JournalError::OtherFormat { .. } => {
                    assert!(damaged.start < SUPERBLOCK, "the superblock is whole: damaged {damaged:?}");
                    tally.superblock += 1;
                }
                other => panic!("another error: {other}, damaged {damaged:?}"),
            }
        }
        Err(other) => panic!("not an error of the journal: {other}"),
    }
}

/// The segment in which a damage is that lies in one.
fn segment_of(records: &[Place], damaged: &Range<usize>) -> usize {
    let before = |place: &&Place| place.at.start < damaged.end;
    records.iter().rfind(before).map_or(0, |place| place.segment)
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip,
    Zero,
    Ones,
    Garble,
}

fn harm(bytes: &mut [u8], kind: Harm, rng: &mut Rng) {
    for byte in bytes {
        *byte = match kind {
            Harm::Flip => *byte ^ 1 << rng.below(8),
            Harm::Zero => 0,
            Harm::Ones => 0xff,
            Harm::Garble => rng.next() as u8,
        };
    }
}

/// The part of `range` in which the two differ.
fn difference(one: &[u8], other: &[u8], range: Range<usize>) -> Range<usize> {
    let differs = |at: &usize| one[*at] != other[*at];
    let Some(first) = range.clone().find(differs) else { return range.start..range.start };
    first..range.clone().rev().find(differs).unwrap_or(first) + 1
}

#[test]
fn f45_every_byte_of_a_small_journal() {
    let good = written(12);
    let records = places(&good);
    let used = records.last().unwrap().at.end + 128;
    let patient = Patient::new();
    let mut tally = Tally::default();
    let mut rng = Rng::new(45);
    let step = if cfg!(debug_assertions) { 7 } else { 1 };
    let mut bytes = good.clone();
    for at in (0..used).step_by(step) {
        let kind = [Harm::Flip, Harm::Zero, Harm::Ones, Harm::Garble][rng.below(4) as usize];
        harm(&mut bytes[at..at + 1], kind, &mut rng);
        let damaged = difference(&good, &bytes, at..at + 1);
        examine(&patient, &bytes, &records, &damaged, &mut tally);
        bytes[at] = good[at];
    }
    println!("{tally:?}");
    assert!(
        tally.whole > 0 && tally.tail_reported > 0 && tally.refused > 0 && tally.superblock > 0,
        "{tally:?}"
    );
}

#[test]
fn f45_random_damage_of_any_length() {
    let good = written(700);
    let records = places(&good);
    assert!(records.last().unwrap().segment > 0, "more than one segment is wanted");
    let end = records.last().unwrap().at.end;
    let patient = Patient::new();
    let mut tally = Tally::default();
    let mut rng = Rng::new(4545);
    for round in 0..scaled(150, 3_000) {
        let mut bytes = good.clone();
        let kind = [Harm::Flip, Harm::Zero, Harm::Ones, Harm::Garble][rng.below(4) as usize];
        // Mostly within one segment, since what is expected of a damage speaks of one.
        let length = [1, 8, 64, 500, 3_000][rng.below(5) as usize];
        let length = 1 + rng.below(length) as usize;
        let start = if rng.one_in(10) {
            rng.below(SUPERBLOCK as u64) as usize
        } else {
            let record = &records[rng.below(records.len() as u64) as usize];
            record.at.start + rng.below(record.at.len() as u64) as usize
        };
        let segment_end = records
            .iter()
            .find(|place| place.at.end > start)
            .map_or(end, |at| records.iter().rfind(|one| one.segment == at.segment).unwrap().at.end);
        let stop = (start + length).min(if start < SUPERBLOCK { SUPERBLOCK } else { segment_end });
        harm(&mut bytes[start..stop], kind, &mut rng);
        let damaged = difference(&good, &bytes, start..stop);
        println!("round {round}: {kind:?} {start}..{stop}");
        examine(&patient, &bytes, &records, &damaged, &mut tally);
    }
    println!("{tally:?}");
    assert!(
        tally.whole > 0 && tally.tail_reported > 0 && tally.refused > 0 && tally.superblock > 0,
        "{tally:?}"
    );
}

/// From some record of the last segment on, everything is garbage.
#[test]
fn f45_a_garbled_tail_is_cut_off_and_reported() {
    let good = written(40);
    let records = places(&good);
    let patient = Patient::new();
    let mut rng = Rng::new(5);
    for record in &records {
        let mut bytes = good.clone();
        harm(&mut bytes[record.at.start..], Harm::Garble, &mut rng);
        // The other segments are empty, and their marks are not what this is about.
        let segment_end = SUPERBLOCK + word(&good, 32) as usize;
        bytes[segment_end..].copy_from_slice(&good[segment_end..]);
        let cache = patient.open(&bytes, false).unwrap();
        let recovery = cache.recovery().unwrap();
        assert_eq!(recovery.entries as u64, record.key, "all before the damage, nothing after");
        assert_eq!(recovery.damage.len(), 1, "{:?}", recovery.damage);
        assert_eq!(recovery.damage[0].kind, DamageKind::Tail);
        assert_eq!(recovery.damage[0].offset, record.at.start as u64);
    }
}

/// The last record of a *full* segment is no tail: the same thread has written later ones, into another.
#[test]
fn f45_damage_at_the_end_of_a_full_segment_is_in_the_middle() {
    let good = written(1_500);
    let records = places(&good);
    let patient = Patient::new();
    let mut rng = Rng::new(6);
    let (mut full, mut refused) = (0, 0);
    for pair in records.windows(2).filter(|pair| pair[0].segment != pair[1].segment) {
        full += 1;
        for kind in [Harm::Flip, Harm::Garble, Harm::Ones, Harm::Zero] {
            let mut bytes = good.clone();
            harm(&mut bytes[pair[0].at.clone()], kind, &mut rng);
            match patient.open(&bytes, false) {
                Ok(cache) => {
                    let damage = &cache.recovery().unwrap().damage;
                    println!("{kind:?} of key {}: opened, {damage:?}", pair[0].key);
                    assert!(
                        !damage.is_empty() && !matches!(kind, Harm::Zero),
                        "an acknowledged write is missing in the middle and nobody is told: {kind:?} {pair:?}"
                    );
                }
                Err(error) => {
                    println!("{kind:?} of key {}: {error}", pair[0].key);
                    refused += 1;
                }
            }
        }
    }
    assert!(full > 0);
    assert_eq!(
        refused,
        4 * full,
        "damage with later records of the same thread behind it was taken for a tail"
    );
}

/// A segment that a crash has left half full is written by nobody any more: from the next opening on its last record is in
/// the middle, too.
#[test]
fn f45_what_an_earlier_life_has_left_has_no_tail() {
    let good = written(30);
    let patient = Patient::new();
    let cache = patient.open(&good, false).unwrap();
    let opened = image(&patient.path);
    drop(cache);
    let last = places(&opened).last().unwrap().clone();
    assert_eq!((last.key, last.segment), (29, 0));
    for kind in [Harm::Flip, Harm::Zero] {
        let mut bytes = opened.clone();
        harm(&mut bytes[last.at.clone()], kind, &mut Rng::new(1));
        let JournalError::Damaged { saved: 29, damage, .. } = refusal(patient.open(&bytes, false)) else {
            panic!("{kind:?}: not refused as damaged")
        };
        let until = last.at.end as u64;
        assert_eq!((damage[0].offset, damage[0].kind), (last.at.start as u64, DamageKind::Middle { until }));
    }
}

/// The seal of a segment is its own, of this lap, and whole; or it is damage.
#[test]
fn f45_a_damaged_seal_is_reported() {
    let good = written(1_500);
    let records = places(&good);
    let patient = Patient::new();
    let segment = word(&good, 32) as usize;
    assert!(records.last().unwrap().segment > 1, "a full segment is wanted");
    for at in [8, 16] {
        let mut bytes = good.clone();
        bytes[SUPERBLOCK + segment + at] ^= 4;
        let JournalError::Damaged { saved: 1_500, damage, .. } = refusal(patient.open(&bytes, false)) else {
            panic!("not refused as damaged")
        };
        assert_eq!((damage.len(), damage[0].kind), (1, DamageKind::Segment));
        assert_eq!(damage[0].offset, (SUPERBLOCK + segment) as u64);
        assert_eq!(patient.open(&bytes, true).unwrap().len(), 1_500);
    }
}

/// What a loss of power has left is no damage, and stays none when the next process is killed on the same boot.
#[test]
fn f46_holes_of_a_loss_of_power_stay_excused() {
    let good = written(1_500);
    let records = places(&good);
    let patient = Patient::new();
    let full = records.iter().position(|place| place.segment == 1).unwrap();
    let mut bytes = good.clone();
    // One in the middle, one at the end of a full segment, and the last of all; written on another boot than this.
    for gone in [7, full - 1, records.len() - 1] {
        bytes[records[gone].at.clone()].fill(0);
    }
    bytes[449 * 8] ^= 1;
    let mut copy = bytes.clone();
    for _ in 0..3 {
        let cache = patient.open(&copy, false).unwrap();
        assert_eq!(cache.len(), 1_497);
        assert_eq!(cache.recovery().unwrap().damage.len(), 2, "{:?}", cache.recovery());
        copy = image(&patient.path);
        assert!(copy != bytes);
    }
    // It is not a pardon for what happens to other segments.
    let other = records.iter().find(|place| place.segment == 2).unwrap();
    copy[other.at.start + 40] ^= 1;
    assert!(matches!(refusal(patient.open(&copy, false)), JournalError::Damaged { .. }));
}

/// After a refusal the journal is as it was, however often one tries; the tool is named; salvaging goes on.
#[test]
fn f46_no_crash_loop() {
    let good = written(30);
    let records = places(&good);
    let patient = Patient::new();
    let mut bytes = good.clone();
    bytes[records[10].at.start + 44] ^= 0x10;
    for _ in 0..3 {
        let error = refusal(patient.open(&bytes, false));
        let text = error.to_string();
        assert!(
            text.contains("writeback journal repair") && text.contains("journal_salvage(true)"),
            "{text}"
        );
        let JournalError::Damaged { saved: 29, damage, .. } = error else { panic!("{error:?}") };
        let until = records[11].at.start as u64;
        assert_eq!(
            (damage[0].offset, damage[0].kind),
            (records[10].at.start as u64, DamageKind::Middle { until })
        );
    }
    let cache = patient.open(&bytes, true).unwrap();
    assert_eq!(cache.len(), 29);
    cache.put(10, 1).unwrap();
    patient.rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(patient.rows.len(), 30);
    assert!(cache.close(NEVER).is_drained());
    drop(cache);
    let cache = try_open(&patient.path, &patient.rows).expect("it is whole again");
    assert_eq!(cache.recovery().unwrap().entries, 0);
}

/// After salvaging, and a crash before anything was flushed, the journal opens as any other, or says again what it misses.
#[test]
fn f46_a_salvaged_journal_survives_the_next_crash() {
    let good = written(30);
    let records = places(&good);
    let patient = Patient::new();
    let mut bytes = good.clone();
    bytes[records[10].at.start + 44] ^= 0x10;
    let cache = patient.open(&bytes, true).unwrap();
    cache.put(100, 100).unwrap();
    let copy = crash(&patient.path, "again.journal");
    let again = quiet(&patient.rows)
        .journal(&copy)
        .journal_size(SMALL)
        .journal_salvage(true)
        .open::<u64, u64>()
        .unwrap();
    assert_eq!(again.len(), 30);
    assert_eq!(again.peek(&100), Some(100));
    assert!((0..30).filter(|key| *key != 10).all(|key| again.peek(&key) == Some(value_of(key))));
}

/// A file that is shorter than it says is refused, whatever is missing; nothing of the rest is lost.
#[test]
fn f46_a_cut_file_is_refused() {
    let good = written(12);
    let records = places(&good);
    let patient = Patient::new();
    let used = records.last().unwrap().at.end;
    let mut cuts: Vec<usize> = (0..used + 256).step_by(if cfg!(debug_assertions) { 97 } else { 5 }).collect();
    cuts.extend((used..good.len()).step_by(1_000));
    cuts.extend([1, 7, 8, SUPERBLOCK - 1, SUPERBLOCK, good.len() - 1]);
    let (mut missing, mut superblock) = (0, 0);
    for cut in cuts {
        let bytes = &good[..cut];
        match refusal_or_new(patient.open(bytes, false), cut) {
            None => {}
            Some(JournalError::Damaged { damage, .. }) => {
                assert!(cut >= SUPERBLOCK);
                let bytes = (good.len() - cut) as u64;
                assert!(
                    damage.iter().any(|one| one.kind == DamageKind::Missing { bytes }),
                    "{cut}: {damage:?}"
                );
                missing += 1;
                let cache = patient.open(&good[..cut], true).unwrap();
                let whole = records.iter().filter(|record| record.at.end <= cut);
                assert!(whole.clone().all(|record| cache.peek(&record.key) == Some(record.value)), "{cut}");
                assert_eq!(cache.len(), whole.count(), "{cut}");
            }
            Some(JournalError::DamagedSuperblock { .. } | JournalError::NotAJournal { .. }) => {
                assert!(cut < SUPERBLOCK, "{cut}");
                superblock += 1;
            }
            Some(other) => panic!("{cut}: {other}"),
        }
    }
    assert!(missing > 0 && superblock > 0);
}

/// Of a segment that is there in part, the records that are whole can be read.
#[test]
fn f46_a_segment_that_is_there_in_part() {
    let good = written(12);
    let records = places(&good);
    let cache = Patient::new().open(&good[..records[5].at.end], true).unwrap();
    assert_eq!(cache.len(), 6);
}

/// What was salvaged of it is as safe as anything else from then on, and new segments do not go over it.
#[test]
fn f46_a_salvaged_part_of_a_segment_survives_the_next_crash() {
    let good = written(1_500);
    let records = places(&good);
    let patient = Patient::new();
    let cut = records[1_000].at.end + 20;
    assert!(records[1_000].segment > 0 && records[1_002].segment == records[1_000].segment);
    let cache = patient.open(&good[..cut], true).unwrap();
    assert_eq!(cache.len(), 1_001);
    for key in 5_000..5_300 {
        cache.put(key, value_of(key)).unwrap();
    }
    let copy = crash(&patient.path, "again.journal");
    // The seal of that segment still says that something is missing before its end.
    assert!(matches!(refusal(try_open(&copy, &patient.rows)), JournalError::Damaged { saved: 1_301, .. }));
    let again = quiet(&patient.rows).journal(&copy).journal_size(SMALL).journal_salvage(true).open().unwrap();
    assert_eq!(again.len(), 1_301);
    assert!((0..1_001).chain(5_000..5_300).all(|key| again.peek(&key) == Some(value_of(key))));
}

/// An empty file may be taken for one that is about to become a journal.
#[track_caller]
fn refusal_or_new(opened: Result<Cache<u64, u64>, OpenError>, cut: usize) -> Option<JournalError> {
    match opened {
        Ok(cache) => {
            assert!(cut == 0 && cache.is_empty(), "cut at {cut} and opened");
            None
        }
        other => Some(refusal(other)),
    }
}

/// Every state in which a crash between two operations may leave a journal opens cleanly, in all laps of a small one.
#[test]
fn f46_legal_states_are_not_taken_for_damage() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = open(&path, &rows);
    let mut model = HashMap::new();
    let mut rng = Rng::new(46);
    let rounds = scaled(40, 400);
    for round in 0..rounds {
        for _ in 0..rng.below(60) {
            let key = rng.below(50);
            if rng.one_in(4) {
                cache.remove(&key).unwrap();
                model.insert(key, None);
            } else {
                cache.put(key, round).unwrap();
                model.insert(key, Some(round));
            }
        }
        let copy = crash(&path, "copy.journal");
        let again = open(&copy, &rows);
        let recovery = again.recovery().unwrap();
        assert_eq!(recovery.damage, [], "round {round}");
        assert_eq!(recovery.entries, model.len(), "round {round}");
        for (key, value) in &model {
            assert_eq!(again.peek(key), *value, "round {round}");
        }
    }
    let stats = cache.stats().journal.unwrap();
    assert!(cfg!(debug_assertions) || stats.retirements > 0 && stats.copies > 0, "{stats:?}");
}

/// What is no journal at all, but begins like one.
#[test]
fn f45_raw_garbage_is_never_a_journal() {
    let good = written(3);
    let patient = Patient::new();
    let mut rng = Rng::new(77);
    for _ in 0..scaled(50, 500) {
        let mut bytes = vec![0; 1 + rng.below(20_000) as usize];
        harm(&mut bytes, Harm::Garble, &mut rng);
        if rng.one_in(2) {
            let begin = (rng.below(3) as usize * 8 + 8).min(bytes.len());
            bytes[..begin].copy_from_slice(&good[..begin]);
        }
        let error = refusal(patient.open(&bytes, rng.one_in(2)));
        assert!(
            matches!(
                error,
                JournalError::NotAJournal { .. }
                    | JournalError::OtherFormat { .. }
                    | JournalError::DamagedSuperblock { .. }
            ),
            "{error}"
        );
        assert!(fs::read(&patient.path).unwrap() == bytes, "it was changed");
    }
}
