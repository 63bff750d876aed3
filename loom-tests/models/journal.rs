//! The journal's protocol: a crash at any moment forgets nothing that somebody has relied on, and brings back nothing that
//! is over.
//!
//! The journal is memory here, and the records in it are read by the code that recovery uses. A crash is a look at it.

use std::sync::Arc;

use super::{
    explore, join, spawn,
    store::{Flushing, KEY, SmallStore, Writing, small_store_with, value},
    unpinned,
};
use crate::{
    clock::Clock,
    epochs::{self, Checkpoint},
    journal::{
        Appender, Journal, Kind,
        area::Words,
        format::{Record, SEGMENT_HEADER, live, record, unchecked},
    },
    signal::Signal,
    store::Seen,
    sync::{AtomicU64, Ordering},
};

/// Records of these models take so many words: header, and key and value in one.
const RECORD: usize = 6;

struct Memory {
    journal: Arc<Journal>,
    segments: Vec<Words>,
}

impl Memory {
    /// Segments for so many lanes, with room for so many records each.
    fn new(segments: usize, records: usize) -> Self {
        let words = SEGMENT_HEADER + records * RECORD;
        let signal = Arc::new(Signal::new(Clock::system()));
        let journal = Arc::new(Journal::for_model(segments, words, signal));
        let segments =
            journal.space().with_area(|area| (0..segments as u32).map(|index| area.segment(index)).collect());
        Memory { journal, segments }
    }

    /// What recovery would find for the key if the process was killed now: version and value.
    fn crash(&self, retired: u64) -> Option<(u64, u32)> {
        let mut newest = None;
        for (index, words) in self.segments.iter().enumerate() {
            let mut at = SEGMENT_HEADER;
            while at + RECORD <= words.len() {
                // Acquire: the stores that came before, in the order in which a dead process's memory shows them.
                let bytes: Vec<u8> = (at..at + RECORD)
                    .flat_map(|word| words.load(word, Ordering::Acquire).to_le_bytes())
                    .collect();
                let offset = self.journal.offset(index as u32, at);
                let Some(record) = Record::read(&bytes, offset, self.journal.salt()) else { break };
                assert_eq!(record.words, RECORD);
                assert!(record.has_state(), "a state that no record can have");
                at += RECORD;
                let value = record.value.and_then(|value| value.try_into().ok()).map(u32::from_le_bytes);
                if record.is_live() && record.epoch >= retired {
                    newest = newest.max(Some((record.version, value.expect("no model removes"))));
                }
            }
        }
        newest
    }
}

/// A checkpoint, step by step, as the flusher does it.
struct Checkpointing {
    appender: Appender,
    checkpoint: Checkpoint,
}

impl Checkpointing {
    fn begin(store: &SmallStore) -> Self {
        let mut checkpoint = Checkpoint::new();
        checkpoint.begin(&store.epochs, store.lanes.writers(), 0);
        Checkpointing { appender: Appender::new(true), checkpoint }
    }

    /// Waits for the writers, writes what is dirty anew, and retires what is older.
    fn end(mut self, flushing: &mut Flushing, journal: &Journal) -> u64 {
        let store = Arc::clone(&flushing.store);
        if cfg!(mutant = "collect_first") {
            flushing.collect();
        }
        while !self.checkpoint.poll(|lane| store.lanes.running(lane)) {
            loom::thread::yield_now();
        }
        if !cfg!(mutant = "collect_first") {
            flushing.collect();
        }
        let target = self.checkpoint.target();
        if !cfg!(mutant = "retire_uncopied") {
            for at in &flushing.book {
                let copied = store.copy_forward(*at, target, &mut self.appender, unpinned());
                copied.expect("the journal has room for copies");
            }
        }
        journal.retire(target);
        store.epochs.retire(target);
        target
    }
}

/// What a reader has returned survives a crash, although its writer stalls before its record counts.
#[test]
fn journal_keeps_what_was_read() {
    explore(Some(3), || {
        let memory = Memory::new(1, 2);
        let (store, mut flushing) = small_store_with(Some(Arc::clone(&memory.journal)));
        let mut writing = Writing::new(&store, &[11]);
        let writer = spawn(move || assert!(writing.put().is_ok()));
        if let Seen::Value { version, .. } = store.look(store.hash(&KEY), &KEY, unpinned()) {
            let found = memory.crash(1).map(|(version, _)| version);
            assert_eq!(found, Some(version), "read, and forgotten by a crash");
        }
        join(writer);
        assert_eq!(memory.crash(1).map(|(_, value)| value), Some(11));
        flushing.drain();
    });
}

/// What is given to the backend is in the journal, so that no older record comes back over it.
#[test]
fn journal_keeps_what_the_backend_gets() {
    explore(Some(3), || {
        let memory = Memory::new(2, 1);
        let (store, mut flushing) = small_store_with(Some(Arc::clone(&memory.journal)));
        let mut first = Writing::new(&store, &[11]);
        assert!(first.put().is_ok());
        flushing.collect();
        let mut second = Writing::new(&store, &[21]);
        let writer = spawn(move || assert!(second.put().is_ok()));
        flushing.flush();
        let found = memory.crash(1).map(|(version, _)| version);
        assert!(found >= Some(flushing.written), "an older write would go over what the backend has");
        join(writer);
        flushing.drain();
    });
}

/// A checkpoint beside a writer: at every moment a crash brings back what was acknowledged last, or what is newer.
#[test]
fn journal_checkpoint_keeps_what_counts() {
    explore(Some(2), || {
        let memory = Memory::new(2, 2);
        let (store, mut flushing) = small_store_with(Some(Arc::clone(&memory.journal)));
        let acked = Arc::new(AtomicU64::new(0));
        let mut writing = Writing::new(&store, &[12, 11]);
        let writer = spawn({
            let acked = Arc::clone(&acked);
            move || {
                for value in [11, 12] {
                    assert!(writing.put().is_ok());
                    // Release: what the acknowledgement stands for.
                    acked.store(value, Ordering::Release);
                }
            }
        });
        let checkpointing = Checkpointing::begin(&store);
        let target = checkpointing.end(&mut flushing, &memory.journal);
        let before = acked.load(Ordering::Acquire);
        let found = memory.crash(target).map_or(0, |(_, value)| u64::from(value));
        assert!(found >= before, "{before} was acknowledged, and a crash brings back {found}");
        join(writer);
        assert_eq!(memory.crash(target).map(|(_, value)| value), Some(12));
        assert_eq!(value(&store), Some(12));
    });
}

/// Two writers of one key and a checkpoint between them: a record that an older window has written over a newer one does not
/// die before it.
#[test]
fn journal_epochs_of_a_key_never_fall() {
    explore(Some(2), || {
        let memory = Memory::new(2, 1);
        let (store, mut flushing) = small_store_with(Some(Arc::clone(&memory.journal)));
        let mut first = Writing::new(&store, &[11]);
        let mut second = Writing::new(&store, &[21]);
        let other = spawn(move || assert!(first.put().is_ok()));
        let mut checkpoint = Checkpoint::new();
        checkpoint.begin(&store.epochs, store.lanes.writers(), 0);
        assert!(second.put().is_ok());
        join(other);
        flushing.drain();
        assert!(checkpoint.poll(|lane| store.lanes.running(lane)));
        memory.journal.retire(checkpoint.target());
        store.epochs.retire(checkpoint.target());
        if let Some((version, _)) = memory.crash(checkpoint.target()) {
            assert_eq!(version, flushing.written, "an older write goes over what the backend has");
        }
    });
}

/// Space is not used again while somebody may still make the record count that was there.
#[test]
fn journal_space_waits_for_helpers() {
    explore(Some(1), || {
        let memory = Memory::new(1, 1);
        let (store, mut flushing) = small_store_with(Some(Arc::clone(&memory.journal)));
        let mut writing = Writing::new(&store, &[11]);
        let reader = spawn({
            let store = Arc::clone(&store);
            move || {
                let local = store.lanes.collector().register();
                let guard = local.pin();
                let _ = store.look(store.hash(&KEY), &KEY, &guard);
            }
        });
        assert!(writing.put().is_ok());
        flushing.drain();
        let mut checkpoint = Checkpoint::new();
        checkpoint.begin(&store.epochs, store.lanes.writers(), 0);
        assert!(checkpoint.poll(|lane| store.lanes.running(lane)));
        memory.journal.retire(checkpoint.target());
        store.epochs.retire(checkpoint.target());
        let segment = memory.segments[0];
        let version = epochs::successor(0, checkpoint.target());
        // What the next owner of the space does first: a record that may never count.
        let used_again = move || {
            segment.store(
                SEGMENT_HEADER + 3,
                crate::journal::format::state::pending(version),
                Ordering::Release,
            )
        };
        let collector = store.lanes.collector();
        let since = collector.now();
        (0..3).for_each(|_| drop(collector.advance()));
        let is_used_again = collector.is_over(since) || cfg!(mutant = "no_grace_period");
        if is_used_again {
            used_again();
        }
        join(reader);
        let state = segment.load(SEGMENT_HEADER + 3, Ordering::Acquire);
        if is_used_again {
            let pending = crate::journal::format::state::pending(version);
            assert_eq!(state, pending, "somebody has made a record count that is another's");
        } else {
            assert_eq!(state, crate::journal::format::state::live(epochs::successor(0, 1)));
        }
    });
}

/// Two attempts at one record, the second with another value: a kill never finds the head of the first over words of the
/// second.
#[test]
fn journal_takes_the_head_off_first() {
    explore(Some(3), || {
        let memory = Memory::new(1, 1);
        let encode = |value: u32| {
            move |out: &mut Vec<u8>| {
                out.extend([1_u32, value].map(u32::to_le_bytes).concat());
                Ok(4)
            }
        };
        let mut appender = Appender::new(false);
        appender.prepare(&memory.journal, Kind::Value, encode(11)).expect("room");
        appender.pend(1, 1).expect("prepared");
        let segment = memory.segments[0];
        let first: Vec<_> =
            (0..RECORD).map(|word| segment.load(SEGMENT_HEADER + word, Ordering::Relaxed)).collect();
        let looks: Vec<_> = [record::VERSION, record::EPOCH, record::STATE, RECORD - 1]
            .into_iter()
            .map(|word| (segment, word, first.clone()))
            .collect();
        let (pended, prepared) = (looks[..3].to_vec(), looks[3..].to_vec());
        let crash = move |looks: Vec<(Words, usize, Vec<u64>)>| {
            for (segment, word, first) in looks {
                // Acquire: as in `Memory::crash`.
                let is_new = segment.load(SEGMENT_HEADER + word, Ordering::Acquire) != first[word];
                let head = segment.load(SEGMENT_HEADER, Ordering::Acquire);
                assert!(
                    !is_new || head != first[0],
                    "the first attempt's head over the second's word {word}"
                );
            }
        };
        let killed = spawn(move || crash(pended));
        // The version, and the epoch with it, of another predecessor.
        appender.pend(2, 2).expect("prepared");
        join(killed);
        let first = prepared.into_iter().map(|(segment, word, _)| {
            let now =
                (0..RECORD).map(|word| segment.load(SEGMENT_HEADER + word, Ordering::Relaxed)).collect();
            (segment, word, now)
        });
        let looks = first.collect();
        let killed = spawn(move || crash(looks));
        appender.prepare(&memory.journal, Kind::Value, encode(12)).expect("room");
        join(killed);
    });
}

/// What a kill would bring back is something that the flusher hears of: the place is queued before its record counts, whoever
/// makes it count.
#[test]
fn journal_queues_before_it_counts() {
    explore(Some(2), || {
        let memory = Memory::new(1, 1);
        let (store, mut flushing) = small_store_with(Some(Arc::clone(&memory.journal)));
        let mut writing = Writing::new(&store, &[11]);
        let writer = spawn(move || assert!(writing.put().is_ok()));
        let reader = spawn({
            let store = Arc::clone(&store);
            move || {
                let _ = store.look(store.hash(&KEY), &KEY, unpinned());
            }
        });
        if memory.crash(1).is_some() {
            flushing.collect();
            assert!(!flushing.book.is_empty(), "it counts, and the flusher does not hear of it");
        }
        join(writer);
        join(reader);
        flushing.drain();
    });
}

/// Whoever finds an epoch declared dead, in either of its two words, finds the copies that make its records superfluous.
#[test]
fn journal_copies_before_it_retires() {
    for word in [live::EPOCH, live::EPOCH_AGAIN] {
        explore(Some(2), move || {
            let memory = Arc::new(Memory::new(2, 1));
            let (store, mut flushing) = small_store_with(Some(Arc::clone(&memory.journal)));
            let mut writing = Writing::new(&store, &[11]);
            assert!(writing.put().is_ok());
            let killed = spawn({
                let memory = Arc::clone(&memory);
                move || {
                    let superblock = memory.journal.space().with_area(|area| area.superblock());
                    // Acquire: as in `Memory::crash`.
                    let dead_below =
                        unchecked(superblock.load(word, Ordering::Acquire), memory.journal.salt());
                    let found = memory.crash(dead_below.unwrap_or(0)).map(|(_, value)| value);
                    assert_eq!(found, Some(11), "declared dead, not copied");
                }
            });
            let checkpointing = Checkpointing::begin(&store);
            checkpointing.end(&mut flushing, &memory.journal);
            join(killed);
        });
    }
}
