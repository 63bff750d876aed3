//! What happens to a journal when its cache opens: found, judged, read, put back into the cache, and taken over.

use std::{
    fs,
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::journaled::Wanted;
use crate::{
    Backend, BackendError, Batch, Change, ClosedDeadLetters, ClosedJournal, Damage, DeadLetterDamage,
    JournalError, Op, OpenError,
    epochs::{self, Epochs},
    fault,
    journal::{
        Journal, Keeping,
        file::{self, Opened},
        format::Record,
        note::{self, Note},
        recover::{self, Scan},
    },
    letters::{self, Area, Letters, Stored},
    signal::Signal,
    store::{EntryCodec, Store},
    sync::Instant,
};

/// What a journal had in it when its cache opened; see [`Cache::recovery`](crate::Cache::recovery).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Keys with a write that was not in the backend, as far as the journal knew. They are in the cache, dirty.
    pub entries: usize,
    /// How many of them did not fit into the cache and were written to the backend at once.
    pub written_through: usize,
    /// Whole records in the file, of all ages.
    pub records: u64,
    /// What was damaged: a tail that a loss of power left, or, with
    /// [`journal_salvage`](crate::Builder::journal_salvage), more than that.
    pub damage: Vec<Damage>,
    /// Dead letters that wait for somebody to decide about them. They are not tried again by themselves.
    pub dead_letters: usize,
    /// What was damaged in their file: a tail that a crash has left, which is cut off, or, with
    /// [`journal_salvage`](crate::Builder::journal_salvage), more than that.
    pub dead_letter_damage: Vec<DeadLetterDamage>,
    /// How long reading it took.
    pub took: Duration,
}

/// A journal that was read, and goes on.
pub(super) struct Begun<'a, K, V> {
    pub(super) journal: Arc<Journal>,
    pub(super) codec: Box<dyn EntryCodec<K, V>>,
    pub(super) contents: Contents<'a>,
    pub(super) letters: Area,
}

/// What was in it.
pub(super) struct Contents<'a> {
    scan: Scan<'a>,
    is_inconsistent: bool,
    /// The backend that the journal is to belong to from now on.
    adopted_by: Option<String>,
    /// Whether a loss of power explains what is missing.
    rebooted: bool,
    /// By how many segments the journal is too small for new writes beside what is needed.
    wanted_free: usize,
    start: Instant,
    /// The newest version of a dead letter, and what is damaged in their file.
    newest_letter: u64,
    letter_damage: Vec<DeadLetterDamage>,
}

impl Contents<'_> {
    /// The epochs go on after all that the journal has seen, and after the dead letters: a loss of power may have taken the
    /// records of their writes.
    pub(super) fn epochs(&self) -> Epochs {
        if fault::broken("epochs-go-on") {
            return Epochs::starting_at(self.scan.retired.max(1), self.scan.retired.max(1));
        }
        let newest = self.scan.newest_epoch.max(epochs::epoch_of(self.newest_letter));
        Epochs::starting_at(newest + 1, self.scan.retired.max(1))
    }
}

/// So many entries are decoded before the first of them is restored, while the memory that they need is fetched.
const AHEAD: usize = 32;

/// The smallest segment.
const MIN_SEGMENT: u64 = 4096;
/// The largest one.
const MAX_SEGMENT: u64 = 4 << 20;

/// How a journal of this size is cut into segments: their size and number. Each writer can have one open and one more, and
/// the flusher some for copies.
fn cut(bytes: u64, writers: usize) -> (usize, usize) {
    let least = 2 * writers as u64 + 8;
    let segment = (bytes / least.max(64)).clamp(MIN_SEGMENT, MAX_SEGMENT);
    // The largest power of two that is not larger.
    let segment = 1 << segment.ilog2();
    (segment as usize, bytes.div_ceil(segment).max(least) as usize)
}

/// Opens the journal, or makes it, and goes on with what is in it.
pub(super) fn with_journal<K, V, R>(
    wanted: Wanted<K, V>,
    capacity: usize,
    writers: usize,
    backend: &dyn Backend<K, V>,
    signal: &Arc<Signal>,
    go_on: impl FnOnce(Begun<'_, K, V>) -> Result<R, OpenError>,
) -> Result<R, OpenError> {
    let Wanted { settings, key, value, codec } = wanted;
    let start = Instant::now();
    // Absolute: the note names it for whoever comes from elsewhere.
    let path = std::path::absolute(&settings.path).map_err(|source| JournalError::Io {
        path: settings.path.clone(),
        doing: "finding",
        source,
    })?;
    let (segment_bytes, min_segments) = cut(settings.bytes, writers);
    let wanted = file::Wanted {
        path,
        capacity: capacity as u64,
        key,
        value,
        backend: backend.identity(),
        segment_bytes,
        min_segments,
        adopt: settings.adopt,
        salvage: settings.salvage,
    };
    let unreadable = |unreadable| JournalError::unreadable(&wanted.path, unreadable);
    if matches!(wanted.path.try_exists(), Ok(false)) {
        // Before a new one is made: a refused opening leaves nothing behind.
        check_note(backend, None)?;
    }
    let area = letters::Wanted {
        path: letters::beside(&wanted.path),
        identity: letters::Identity {
            backend: wanted.backend.clone(),
            key: wanted.key.clone(),
            value: wanted.value.clone(),
        },
        limit: settings.dead_letters,
        adopt: settings.adopt,
        salvage: settings.salvage,
    };
    let Opened { mut file, bytes } = file::open(&wanted)?;
    // Under the journal's lock.
    let (letters, letter_damage) = Area::open(area).map_err(JournalError::DeadLetters)?;
    fault::point("recovery: opened");
    let mut scan = recover::scan(&bytes).map_err(unreadable)?;
    check_note(backend, Some(scan.identity.salt))?;
    let rebooted = file::rebooted_since(scan.boot);
    let is_damaged = scan.is_damaged(rebooted);
    let made;
    if !file::fits(&scan, &wanted)? {
        Opened { file, bytes: made } = file::create(&wanted)?;
        // Nothing is left of the old one but what was wrong with it, and how far its versions had come. There is nothing to
        // read in the new one but its beginning.
        let (damage, newest_epoch) = (scan.damage, scan.newest_epoch);
        scan = recover::begin(&made).map_err(unreadable)?;
        scan.damage = damage;
        scan.newest_epoch = scan.newest_epoch.max(newest_epoch);
    }
    fault::point("recovery: scanned");
    let adopted_by = Some(wanted.backend).filter(|name| !scan.live.is_empty() && scan.is_anothers(name));
    let is_inconsistent = adopted_by.is_some() || is_damaged;
    let max_segments =
        settings.limit.map_or(usize::MAX, |limit| (limit / scan.identity.segment_bytes as u64) as usize);
    let keeping = Keeping { policy: settings.sync, max_segments, signal: Arc::clone(signal) };
    let identity = scan.identity.clone();
    let free = scan.segments.saturating_sub(scan.needed.len());
    let journal = Journal::open(file, wanted.path.clone(), identity, scan.segments, &scan.needed, keeping)
        .map_err(|source| JournalError::Io { path: wanted.path.clone(), doing: "mapping", source })?;
    fault::point("recovery: mapped");
    journal.counters.recovered.store(scan.live.len() as u64, Ordering::Relaxed);
    journal.counters.damages.store(scan.damage.len() as u64, Ordering::Relaxed);
    journal.counters.is_inconsistent.store(is_inconsistent, Ordering::Relaxed);
    let wanted_free = (2 * writers + 8).saturating_sub(free);
    let newest_letter = letters.newest_version();
    let contents = Contents {
        scan,
        is_inconsistent,
        adopted_by,
        rebooted,
        wanted_free,
        start,
        newest_letter,
        letter_damage,
    };
    go_on(Begun { journal: Arc::new(journal), codec, contents, letters })
}

/// Puts what the journal remembers into the store; what does not fit, into the backend.
pub(super) fn restore<K, V, S>(
    contents: Contents<'_>,
    store: &Store<K, V, S>,
    backend: &dyn Backend<K, V>,
    batch_size: usize,
    letters: &Letters,
) -> Result<Recovery, OpenError>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    let Some(journaling) = &store.journal else { return Ok(Recovery::default()) };
    let Contents { scan, is_inconsistent, adopted_by, rebooted, wanted_free, start, letter_damage, .. } =
        contents;
    let (journal, path) = (&journaling.journal, journaling.journal.path());
    let decode = |record: &Record<'_>| {
        store.decode(record.key, record.value).map_err(|source| JournalError::Undecodable {
            path: path.to_owned(),
            offset: record.offset,
            source,
        })
    };
    // A record whose letter was written, and which was not dead yet when the last cache ended, is no unflushed write.
    let is_letter = |record: &Record<'_>| letters.covers(record.key, record.version);
    let mut excess = Vec::new();
    let mut buried = 0;
    let mut shared = store.lanes.shared();
    if let Some(mut writer) = shared.writer() {
        let local = store.lanes.collector().register();
        let mut entries = Vec::with_capacity(AHEAD);
        for records in scan.live.records().chunks(AHEAD) {
            for record in records {
                if is_letter(record) {
                    buried += 1;
                    continue;
                }
                let (key, value) = decode(record)?;
                let hash = store.foresee(&key);
                entries.push((record, (key, value, hash)));
            }
            for (record, entry) in entries.drain(..) {
                if !store.restore(&mut writer, entry, record.version, &local.pin()) {
                    excess.push(record);
                }
            }
        }
    }
    drop(shared);
    fault::point("recovery: restored");
    for chunk in excess.chunks(batch_size) {
        let op = |record: &&Record<'_>| {
            let (key, value) = decode(record)?;
            Ok(Op::new(key, value.map_or(Change::Delete, Change::Upsert), record.version, 1))
        };
        let batch = Batch::new(chunk.iter().map(op).collect::<Result<_, JournalError>>()?);
        write_through(backend, &batch).map_err(|source| JournalError::TooMuch {
            path: path.to_owned(),
            excess: excess.len(),
            source,
        })?;
        let stored: Vec<_> = chunk
            .iter()
            .map(|record| Stored { key: record.key, value: record.value, version: record.version })
            .collect();
        letters.resolve(&stored).map_err(|source| JournalError::Io {
            path: letters::beside(path),
            doing: "writing the dead letters of",
            source,
        })?;
        fault::point("recovery: written through");
    }
    // Only now that nothing refuses the journal any more: a refused one is left as it is.
    let failed = |doing| move |source| JournalError::Io { path: path.to_owned(), doing, source };
    if scan.part().is_some() {
        let bytes = scan.identity.segment_bytes;
        journal.complete().map_err(|source| JournalError::no_space(path, bytes, source))?;
    }
    if let Some(backend) = adopted_by {
        journal.adopt(&backend).map_err(failed("adopting"))?;
    }
    journal.claim(&scan.needed, rebooted);
    fault::point("recovery: claimed");
    // Where the disk has no room, new writes wait until the backend has taken some.
    if journal.grow_by(wanted_free).is_err() {
        journal.counters.growth_errors.fetch_add(1, Ordering::Relaxed);
    }
    if is_inconsistent {
        tracing::warn!(
            journal = %path.display(),
            entries = scan.live.len(),
            "the journal was opened although it belongs to another backend or has missing parts: what it holds may \
             not fit what the backend holds"
        );
    }
    Ok(Recovery {
        entries: scan.live.len() - buried,
        dead_letters: letters.open(),
        dead_letter_damage: letter_damage,
        written_through: excess.len(),
        records: scan.records,
        damage: scan.damage,
        took: start.elapsed(),
    })
}

/// Writes a whole batch, or says why not all of it was taken.
fn write_through<K, V>(backend: &dyn Backend<K, V>, batch: &Batch<K, V>) -> Result<(), BackendError> {
    let applied = catch_unwind(AssertUnwindSafe(|| backend.apply(batch)));
    let answers = applied.map_err(|_| BackendError::transient("the backend panicked"))?.into_parts().0;
    if answers.len() < batch.len() {
        return Err(BackendError::transient("the backend answered fewer operations than it was given"));
    }
    answers.into_iter().collect()
}

/// A note beside the database says from now on that the journal is needed.
pub(super) fn leave_note<K, V, S>(
    store: &Store<K, V, S>,
    backend: &dyn Backend<K, V>,
) -> Result<Option<PathBuf>, OpenError> {
    let Some(journaling) = &store.journal else { return Ok(None) };
    let journal = &journaling.journal;
    let Some(marker) = backend.journal_note() else { return Ok(None) };
    let failed =
        |source| JournalError::Io { path: marker.clone(), doing: "noting beside the database", source };
    note::write(&marker, journal.path(), journal.salt()).map_err(failed)?;
    Ok(Some(marker))
}

/// Whether the backend is known to have unflushed writes in a journal other than the one whose salt is given.
pub(super) fn check_note<K, V>(backend: &dyn Backend<K, V>, ours: Option<u64>) -> Result<(), JournalError> {
    let Some(marker) = backend.journal_note() else { return Ok(()) };
    let failed = |source| JournalError::Io {
        path: marker.clone(),
        doing: "reading the note beside the database of",
        source,
    };
    let Some(Note { salt, path }) = note::read(&marker).map_err(failed)? else { return Ok(()) };
    if salt.is_some() && salt == ours {
        return Ok(());
    }
    // Another journal. If nothing is left in it, the note is only old.
    let is_empty = ClosedJournal::open(&path).is_ok_and(|journal| {
        let letters = ClosedDeadLetters::open(&journal);
        let Ok(letters) = letters.as_ref().map_err(drop).map(|letters| letters.open_count()) else {
            return false;
        };
        letters == 0
            && journal.opened.scan(&path).is_ok_and(|scan| {
                Some(scan.identity.salt) == salt && scan.live.is_empty() && scan.damage.is_empty()
            })
    });
    if is_empty {
        let _ = fs::remove_file(&marker);
        return Ok(());
    }
    Err(JournalError::Forgotten { path, marker })
}
