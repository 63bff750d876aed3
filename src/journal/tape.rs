//! A tape of all that is written into a journal, for tests that ask what a loss of power would leave of it.
//!
//! With the feature `faults`, and only while a test records: every store into the mapped file, every write that lengthens
//! it, the beginning and end of every sync, and marks that the test puts between them, in one order. The store and its
//! note are made under one lock, so the order of the notes is the order of the stores. Without the feature all of this
//! is nothing.

#[cfg(all(feature = "faults", not(crossbeam_loom)))]
pub use on::{Event, Tape, mark, start, stop};
#[cfg(all(feature = "faults", not(crossbeam_loom)))]
pub(crate) use on::{mapped, opened, store, sync_begins, sync_ended, wrote};

/// Makes a store into the journal.
#[cfg(any(not(feature = "faults"), crossbeam_loom))]
#[inline(always)]
pub(crate) fn store(_: u64, _: u64, make: impl FnOnce()) {
    make();
}

/// The bytes of the file before anything is stored through a map.
#[cfg(any(not(feature = "faults"), crossbeam_loom))]
#[inline(always)]
pub(crate) fn opened(_: &std::fs::File) {}

/// A part of the file is at this address now.
#[cfg(any(not(feature = "faults"), crossbeam_loom))]
#[inline(always)]
pub(crate) fn mapped(_: u64, _: usize, _: u64) {}

/// Bytes were written into the file.
#[cfg(any(not(feature = "faults"), crossbeam_loom))]
#[inline(always)]
pub(crate) fn wrote(_: u64, _: &[u8]) {}

/// What was stored before now is about to be made durable.
#[cfg(any(not(feature = "faults"), crossbeam_loom))]
#[inline(always)]
pub(crate) fn sync_begins() {}

/// The sync that began last has ended.
#[cfg(any(not(feature = "faults"), crossbeam_loom))]
#[inline(always)]
pub(crate) fn sync_ended(_: bool) {}

#[cfg(all(feature = "faults", not(crossbeam_loom)))]
mod on {
    use std::{
        fs::File,
        sync::{
            Mutex, MutexGuard, PoisonError,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// Something that happened to the file, or that the test says has happened.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Event {
        /// A word was stored at this offset.
        Store(u64, u64),
        /// Bytes were written at this offset; the file may have become longer.
        Write(u64, Vec<u8>),
        /// A sync begins.
        SyncBegin,
        /// It has ended. `false`: with an error.
        SyncEnd(bool),
        /// What the test has said.
        Mark([u64; 3]),
    }

    /// What was recorded of one journal.
    #[derive(Debug, Clone, Default)]
    pub struct Tape {
        /// The file when it was opened; all of it was durable.
        pub base: Vec<u8>,
        /// What happened since, in order.
        pub events: Vec<Event>,
    }

    #[derive(Default)]
    struct Recorder {
        tape: Tape,
        is_open: bool,
        /// Address, length and offset of each map.
        maps: Vec<(u64, usize, u64)>,
    }

    static RECORDING: AtomicBool = AtomicBool::new(false);
    static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

    fn recorder() -> MutexGuard<'static, Option<Recorder>> {
        RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(event: impl FnOnce() -> Event) {
        // Relaxed, here and below: whoever switches it does so before and after all that is to be recorded.
        if RECORDING.load(Ordering::Relaxed)
            && let Some(recorder) = &mut *recorder()
            && recorder.is_open
        {
            recorder.tape.events.push(event());
        }
    }

    /// Records the next journal that is opened, until [`stop`].
    pub fn start() {
        *recorder() = Some(Recorder::default());
        RECORDING.store(true, Ordering::Relaxed);
    }

    /// Ends the recording and returns it.
    pub fn stop() -> Tape {
        RECORDING.store(false, Ordering::Relaxed);
        recorder().take().unwrap_or_default().tape
    }

    /// Puts a mark on the tape.
    pub fn mark(what: [u64; 3]) {
        note(|| Event::Mark(what));
    }

    pub(crate) fn store(address: u64, word: u64, make: impl FnOnce()) {
        if !RECORDING.load(Ordering::Relaxed) {
            return make();
        }
        let mut recorder = recorder();
        make();
        if let Some(recorder) = &mut *recorder {
            let map = recorder.maps.iter().find(|(start, len, _)| {
                address.checked_sub(*start).is_some_and(|distance| distance < *len as u64)
            });
            if let Some((start, _, offset)) = map {
                recorder.tape.events.push(Event::Store(offset + (address - start), word));
            }
        }
    }

    pub(crate) fn opened(file: &File) {
        use std::io::{Read, Seek, SeekFrom};
        if RECORDING.load(Ordering::Relaxed)
            && let Some(recorder) = recorder().as_mut().filter(|recorder| !recorder.is_open)
        {
            let (mut file, mut base) = (file, Vec::new());
            let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut base));
            recorder.is_open = read.is_ok();
            recorder.tape.base = base;
        }
    }

    pub(crate) fn mapped(address: u64, len: usize, offset: u64) {
        if RECORDING.load(Ordering::Relaxed)
            && let Some(recorder) = recorder().as_mut().filter(|recorder| recorder.is_open)
        {
            recorder.maps.push((address, len, offset));
        }
    }

    pub(crate) fn wrote(offset: u64, bytes: &[u8]) {
        note(|| Event::Write(offset, bytes.to_vec()));
    }

    pub(crate) fn sync_begins() {
        note(|| Event::SyncBegin);
    }

    pub(crate) fn sync_ended(is_ok: bool) {
        note(|| Event::SyncEnd(is_ok));
    }
}
