//! The writing end of the journal: one for each lane, and one for the flusher.
//!
//! A record goes through four hands of one thread. [`prepare`](Appender::prepare), outside of everything: space, key
//! and value. [`pend`](Appender::pend), in the window: version, epoch, PENDING, and the head that makes it a record.
//! Then, if the write has happened, [`make_live`](Appender::make_live) and [`advance`](Appender::advance); if it has
//! not, the next record goes over it.

use super::{
    Journal,
    area::{RecordWords, WordAddress, store},
    format::{self, Draft, Kind, SEGMENT_HEADER, Shape, record, segment, state},
    space::Segment,
};
use crate::{
    fault,
    sync::{Ordering, fence},
};

/// Words in a line of the processor's cache.
const LINE: usize = 8;

/// A segment that is being filled.
struct Open {
    segment: Segment,
    /// The word that the next record begins at. Invariant: the head there is zero, or that of a record that is PENDING
    /// and has lost.
    tail: usize,
    /// The newest epoch of its records.
    newest: u64,
    /// Of the journal, when it was opened: after a failed sync nobody writes on where that sync may have lost something.
    generation: u64,
}

impl Open {
    /// Says in its header that it is full: what is missing before its end from now on is missing in the middle.
    fn seal(&self, salt: u64) {
        let header = &self.segment.words;
        let mut steps = [
            (segment::END, format::checked(self.tail as u64, salt)),
            (segment::NEWEST, format::checked(self.newest, salt)),
        ];
        if fault::broken("seal-end-first") {
            steps.reverse();
        }
        // Release, both, for whoever finds the file after a kill: the records are there before it says that they are, and
        // the end before what makes it count. Until then the epoch there is zero, or dead: that of an older lap.
        let [(first, word), (second, last)] = steps;
        header.store(first, word, Ordering::Release);
        fault::point("segment: end");
        header.store(second, last, Ordering::Release);
    }
}

/// A record whose space is taken.
#[derive(Clone, Copy)]
struct Reserved {
    at: RecordWords,
    words: usize,
    /// Of what was known outside.
    check: u32,
    /// Of the last attempt; zero: there was none.
    version: u64,
}

pub(crate) struct Appender {
    open: Option<Open>,
    reserved: Option<Reserved>,
    draft: Draft,
    is_flusher: bool,
    /// What it has written into the open segment, in bytes and records.
    appended: (u64, u64),
}

/// Why a record cannot be written.
#[derive(Debug)]
pub(crate) enum Unprepared {
    /// No segment is free.
    Full,
    /// The record is larger than a segment.
    TooLarge { bytes: usize, limit: usize },
    /// The user's codec says so.
    Codec(crate::codec::CodecError),
}

impl Appender {
    pub(crate) fn new(is_flusher: bool) -> Self {
        Appender { open: None, reserved: None, draft: Draft::new(), is_flusher, appended: (0, 0) }
    }

    /// Takes space for a record and writes key and value into it. May take a lock and cause page faults: not in a window.
    ///
    /// `encode` appends the key and then the value, and returns the key's length in bytes.
    pub(crate) fn prepare(
        &mut self,
        journal: &Journal,
        kind: Kind,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<usize, crate::codec::CodecError>,
    ) -> Result<(), Unprepared> {
        self.reserved = None;
        let payload = self.draft.restart();
        let key = encode(payload).map_err(Unprepared::Codec)?;
        let (words, padding) = self.draft.pad();
        let limit = journal.segment_words() - SEGMENT_HEADER;
        let key_bytes = u32::try_from(key).ok().filter(|_| words <= limit);
        let Some(key_bytes) = key_bytes else {
            return Err(Unprepared::TooLarge { bytes: self.draft.len(), limit: journal.record_limit() });
        };
        let open = self.room_for(journal, words).ok_or(Unprepared::Full)?;
        let (segment, tail) = (&open.segment, open.tail);
        let at = segment.words.record(tail, words).ok_or(Unprepared::Full)?;
        fault::point("prepare");
        // A record that has lost goes, before what it was made of does. Then what an older lap has left after our end.
        if !fault::broken("head-off-first") {
            store(&at.header()[record::HEAD], 0, Ordering::Relaxed);
        }
        // Release: no later store comes before the head is off, for whoever finds the file after a kill.
        fence(Ordering::Release);
        fault::point("prepare: head off");
        if tail + words < segment.words.len() && !fault::broken("end-is-zeroed") {
            segment.words.store(tail + words, 0, Ordering::Release);
        }
        fault::point("prepare: end");
        let offset = journal.offset(segment.index, tail);
        let shape = Shape::new(key_bytes, padding, kind);
        store(&at.header()[record::SHAPE], shape.0, Ordering::Relaxed);
        fault::point("prepare: shape");
        let payload = self.draft.words();
        for (cell, word) in at.payload().iter().zip(payload) {
            store(cell, u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        fault::point("prepare: payload");
        let check = format::begin_check(journal.salt(), offset, words, shape, payload);
        self.reserved = Some(Reserved { at, words, check, version: 0 });
        Ok(())
    }

    /// The open segment, if the record fits into it, or a new one.
    fn room_for(&mut self, journal: &Journal, words: usize) -> Option<&mut Open> {
        let generation = journal.generation();
        let fits =
            |open: &Open| open.tail + words <= open.segment.words.len() && open.generation == generation;
        if !self.open.as_ref().is_some_and(fits) {
            let space = journal.space();
            let mut segment = if self.is_flusher { space.take_reserved() } else { space.take() }?;
            // Taken out: they keep the file mapped, and so locked, and a lane may outlive the journal for as long as its thread
            // does not ask for another cache's.
            if let Some(pages) = segment.released.take() {
                pages.populate();
            }
            fault::point("segment: taken");
            if let Some(full) = self.open.take() {
                full.seal(journal.salt());
                // Only now: from here on it may become somebody else's.
                space.seal(full.segment.index, full.newest);
                let (bytes, records) = std::mem::take(&mut self.appended);
                journal.note_sealed(bytes, records);
                fault::point("segment: sealed");
            }
            // What it held is dead. From now on it holds nothing.
            segment.words.store(SEGMENT_HEADER, 0, Ordering::Release);
            fault::point("segment: cleared");
            journal.segment_taken();
            self.open = Some(Open { segment, tail: SEGMENT_HEADER, newest: 0, generation });
        }
        self.open.as_mut()
    }

    /// Whether what was prepared is still to be used: no sync has failed since its space was taken.
    pub(crate) fn is_current(&self, journal: &Journal) -> bool {
        self.open.as_ref().is_none_or(|open| open.generation == journal.generation())
    }

    /// Makes what was prepared a record: whole, but PENDING. Again for another version, if the write was not to be.
    ///
    /// Returns where its state is. `None`: nothing was prepared.
    pub(crate) fn pend(&mut self, version: u64, epoch: u64) -> Option<WordAddress> {
        let (open, reserved) = (self.open.as_mut()?, self.reserved.as_mut()?);
        let header = reserved.at.header();
        // Off, if it is on from the last attempt; a crash must never find a head over a changed record.
        if reserved.version != 0 && !fault::broken("head-off-first") {
            store(&header[record::HEAD], 0, Ordering::Relaxed);
        }
        reserved.version = version;
        fault::point("pend: head off");
        let head = format::head(format::finish_check(reserved.check, version, epoch), reserved.words);
        if fault::broken("head-before-body") {
            store(&header[record::HEAD], head, Ordering::Release);
        }
        // Release, each: in this order for whoever finds the file after a kill.
        store(&header[record::VERSION], version, Ordering::Release);
        fault::point("pend: version");
        store(&header[record::EPOCH], epoch, Ordering::Release);
        let early = fault::broken("live-before-publish");
        let first = if early { state::live(version) } else { state::pending(version) };
        if !fault::broken("pending-first") {
            store(&header[record::STATE], first, Ordering::Release);
        }
        fault::point("pend: header");
        store(&header[record::HEAD], head, Ordering::Release);
        fault::point("pend");
        open.newest = open.newest.max(epoch);
        Some(WordAddress::of(&header[record::STATE]))
    }

    /// The write has happened: its record counts.
    pub(crate) fn make_live(&mut self) {
        if let Some(reserved) = &self.reserved {
            // Release: the place was queued first (the flusher hears of what recovery would bring back), and the record is
            // whole. Pairs with the Acquire of whoever reads it as a file, and, for helpers, with that of the flag.
            store(&reserved.at.header()[record::STATE], state::live(reserved.version), Ordering::Release);
        }
    }

    /// The space of the last record is used up; the next one comes after it.
    pub(crate) fn advance(&mut self) {
        if let (Some(open), Some(reserved)) = (self.open.as_mut(), self.reserved.take()) {
            open.tail += reserved.words;
            // The next record is written soon, and is probably as long as this one. A fence will wait for its lines.
            for line in (LINE..reserved.words).step_by(LINE) {
                open.segment.words.prefetch(open.tail + line);
            }
            open.segment.words.prefetch(open.tail + reserved.words);
            self.appended.0 += reserved.words as u64 * 8;
            self.appended.1 += 1;
        }
    }
}
