//! F54: a journal belongs to one database, and a database with unflushed writes in a journal belongs to that.

use std::{fs, sync::Arc, time::Duration};

use writeback::{
    Answers, Backend, BackendError, Batch, Cache, ClosedJournal, DamageKind, JournalError, OpenError,
};

use crate::common::{NEVER, PATIENCE, Rows, SMALL, down, place, refusal};

/// Rows with a name.
struct Named(&'static str, Arc<Rows>);

impl Backend<u64, u64> for Named {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        self.1.load(keys)
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        self.1.apply(batch)
    }

    fn identity(&self) -> String {
        self.0.to_owned()
    }
}

fn named(
    path: &std::path::Path,
    name: &'static str,
    rows: &Arc<Rows>,
    adopt: bool,
) -> Result<Cache<u64, u64>, OpenError> {
    Cache::builder()
        .capacity(1_000)
        .max_delay(NEVER)
        .drain_on_drop(Duration::ZERO)
        .backend(Named(name, Arc::clone(rows)))
        .journal(path)
        .journal_size(SMALL)
        .journal_adopt(adopt)
        .open()
}

/// Never in place: a cache that was just dropped may still have the old file mapped.
fn put_file(path: &std::path::Path, bytes: &[u8]) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, bytes).unwrap();
    fs::rename(&fresh, path).unwrap();
}

#[test]
fn f54_the_journal_of_another_backend() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let (x, y) = (down(), Arc::new(Rows::new()));
    let cache = named(&path, "X", &x, false).unwrap();
    for key in 0..10 {
        cache.put(key, key).unwrap();
    }
    assert!(!cache.stats().journal.unwrap().is_inconsistent);
    drop(cache);
    let before = fs::read(&path).unwrap();
    for _ in 0..2 {
        let error = refusal(named(&path, "Y", &y, false));
        assert!(error.to_string().contains("journal_adopt(true)"), "{error}");
        let JournalError::OtherBackend { dirty: 10, journal, cache, .. } = error else { panic!("{error}") };
        assert_eq!((journal.as_str(), cache.as_str()), ("X", "Y"));
        assert!(fs::read(&path).unwrap() == before, "a refused journal was changed");
        assert!(y.is_empty());
    }
    let cache = named(&path, "Y", &y, true).unwrap();
    assert!(cache.stats().journal.unwrap().is_inconsistent, "a forced opening has to be visible");
    assert_eq!(cache.recovery().unwrap().entries, 10);
    assert!(cache.close(PATIENCE).is_drained());
    assert_eq!(y.len(), 10);
    drop(cache);
    // It has changed hands: it is Y's now, and as good as new.
    let cache = named(&path, "Y", &y, false).unwrap();
    assert!(!cache.stats().journal.unwrap().is_inconsistent);
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    // Nothing is in it, so it may serve anyone.
    x.clear_fault();
    assert!(!named(&path, "X", &x, false).unwrap().stats().journal.unwrap().is_inconsistent);
}

/// Adopted, and killed before anything was flushed: it is the new one's.
#[test]
fn f54_an_adopted_journal_after_a_crash() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let (x, y) = (down(), down());
    named(&path, "X", &x, false).unwrap().put(1, 1).unwrap();
    let cache = named(&path, "Y", &y, true).unwrap();
    cache.put(2, 2).unwrap();
    let copy = crate::common::crash(&path, "copy.journal");
    drop(cache);
    for path in [path, copy] {
        let cache = named(&path, "Y", &y, false)
            .unwrap_or_else(|error| panic!("not its own after adoption: {error}"));
        assert_eq!(cache.len(), 2);
        drop(cache);
        assert!(matches!(refusal(named(&path, "X", &x, false)), JournalError::OtherBackend { dirty: 2, .. }));
    }
}

/// Who has adopted it is not readable: that is said, and not decided in silence.
#[test]
fn f54_a_damaged_adoption() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let (x, y) = (down(), down());
    named(&path, "X", &x, false).unwrap().put(1, 1).unwrap();
    // Twice, so that there is something to go over.
    for name in ["a longer name than that", "Y"] {
        drop(named(&path, name, &y, true).unwrap());
    }
    let whole = fs::read(&path).unwrap();
    for at in [192 * 8, 193 * 8, 194 * 8, 195 * 8, 200 * 8, 256 * 8 - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        put_file(&path, &bytes);
        for name in ["X", "Y"] {
            let JournalError::Damaged { damage, saved: 1, .. } = refusal(named(&path, name, &y, true)) else {
                panic!("not refused as damaged")
            };
            assert_eq!((damage.len(), damage[0].kind), (1, DamageKind::Backend));
            assert_eq!(damage[0].offset, 192 * 8);
        }
        let cache = Cache::builder()
            .capacity(1_000)
            .backend(Named("Y", Arc::clone(&y)))
            .drain_on_drop(Duration::ZERO)
            .journal(&path)
            .journal_salvage(true)
            .journal_adopt(true)
            .open::<u64, u64>()
            .unwrap();
        assert!(cache.stats().journal.unwrap().is_inconsistent);
        drop(cache);
        // And is whole again.
        assert_eq!(named(&path, "Y", &y, false).unwrap().len(), 1);
    }
}

/// A repaired journal belongs to whom the damaged one belonged.
#[test]
fn f54_a_repaired_journal_stays_adopted() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let (x, y) = (down(), down());
    named(&path, "X", &x, false).unwrap().put(1, 1).unwrap();
    drop(named(&path, "Y", &y, true).unwrap());
    ClosedJournal::open(&path).unwrap().repair(None).unwrap();
    assert!(ClosedJournal::open(&path).unwrap().read().unwrap().is_for("Y"));
    assert!(matches!(refusal(named(&path, "X", &x, false)), JournalError::OtherBackend { dirty: 1, .. }));
    assert_eq!(named(&path, "Y", &y, false).unwrap().len(), 1);
}

#[test]
fn f54_a_part_of_the_journal_is_missing() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    let cache = named(&path, "X", &rows, false).unwrap();
    for key in 0..900 {
        cache.put(key, key).unwrap();
    }
    drop(cache);
    let whole = fs::read(&path).unwrap();
    let segment = u64::from_le_bytes(whole[32..40].try_into().unwrap()) as usize;
    let cut = &whole[..whole.len() - segment];
    put_file(&path, cut);
    assert!(matches!(refusal(named(&path, "X", &rows, false)), JournalError::Damaged { .. }));
    assert!(fs::read(&path).unwrap() == cut);
    // One in the middle, cut out or wiped.
    let mut wiped = whole.clone();
    wiped[4096..4096 + segment].fill(0);
    put_file(&path, &wiped);
    assert!(matches!(refusal(named(&path, "X", &rows, false)), JournalError::Damaged { .. }));
    let mut shifted = whole.clone();
    shifted.drain(4096..4096 + segment);
    put_file(&path, &shifted);
    assert!(matches!(refusal(named(&path, "X", &rows, false)), JournalError::Damaged { .. }));
    let cache = Cache::builder()
        .capacity(1_000)
        .backend(Named("X", Arc::clone(&rows)))
        .drain_on_drop(Duration::ZERO)
        .journal(&path)
        .journal_salvage(true)
        .open::<u64, u64>()
        .unwrap();
    let stats = cache.stats().journal.unwrap();
    assert!(stats.is_inconsistent && stats.damages > 0, "a forced opening has to be visible: {stats:?}");
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;
    use writeback::backend::{Sqlite, SqliteTable};

    fn table(folder: &std::path::Path) -> SqliteTable<u64, u64> {
        Sqlite::open(folder.join("rows.db")).unwrap().table("rows").unwrap()
    }

    /// A table that takes nothing while there is a file `down` beside it.
    struct Fragile(SqliteTable<u64, u64>, std::path::PathBuf);

    impl Backend<u64, u64> for Fragile {
        fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
            self.0.load(keys)
        }

        fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
            if self.1.exists() {
                batch.none_stored(BackendError::transient("down"))
            } else {
                self.0.apply(batch)
            }
        }

        fn identity(&self) -> String {
            Backend::<u64, u64>::identity(&self.0)
        }

        fn journal_note(&self) -> Option<std::path::PathBuf> {
            Backend::<u64, u64>::journal_note(&self.0)
        }
    }

    /// From now on the table takes nothing, or takes everything.
    fn set_down(folder: &std::path::Path, down: bool) {
        let sign = folder.join("down");
        if down { fs::write(sign, "").unwrap() } else { fs::remove_file(sign).unwrap() }
    }

    fn keep(folder: &std::path::Path, journal: &str) -> Result<Cache<u64, u64>, OpenError> {
        Cache::builder()
            .capacity(1_000)
            .max_delay(NEVER)
            .drain_on_drop(Duration::ZERO)
            .retry(Duration::from_millis(1), Duration::from_millis(8))
            .backend(Fragile(table(folder), folder.join("down")))
            .journal(folder.join(journal))
            .journal_size(SMALL)
            .open()
    }

    fn plain(folder: &std::path::Path) -> Result<Cache<u64, u64>, OpenError> {
        Cache::builder().capacity(1_000).backend(table(folder)).open()
    }

    #[test]
    fn f54_a_database_does_not_forget_its_journal() {
        let folder = place();
        let folder = folder.path();
        set_down(folder, true);
        let cache = keep(folder, "a.journal").unwrap();
        cache.put(1, 10).unwrap();
        // Also while it is open, and as a crash now would leave it.
        assert!(plain(folder).is_err(), "the database has unflushed writes in a journal");
        drop(cache);
        for _ in 0..2 {
            let error = refusal(plain(folder));
            let JournalError::Forgotten { path, marker } = &error else { panic!("{error}") };
            assert_eq!(path.file_name().unwrap(), "a.journal");
            assert!(marker.exists(), "{}", marker.display());
            assert!(error.to_string().contains(&marker.display().to_string()), "{error}");
            let error = refusal(keep(folder, "b.journal"));
            assert!(matches!(error, JournalError::Forgotten { .. }), "{error}");
            assert!(!folder.join("b.journal").exists(), "a refused opening has made a journal");
        }
        // Another table of the same database is another's.
        let other = Cache::builder()
            .capacity(10)
            .backend(Sqlite::open(folder.join("rows.db")).unwrap().table("others").unwrap())
            .open::<u64, u64>()
            .unwrap();
        other.put(1, 1).unwrap();
        drop(other);
        // Its own journal is welcome, and after a drained close everything is.
        let cache = keep(folder, "a.journal").unwrap();
        assert_eq!(cache.recovery().unwrap().entries, 1);
        set_down(folder, false);
        assert!(cache.close(PATIENCE).is_drained());
        drop(cache);
        let cache = plain(folder).unwrap();
        assert_eq!(cache.get(&1).unwrap(), Some(10));
        drop(cache);
        let cache = keep(folder, "b.journal").unwrap();
        set_down(folder, true);
        cache.put(2, 20).unwrap();
        drop(cache);
        let error = refusal(keep(folder, "a.journal"));
        assert!(matches!(error, JournalError::Forgotten { .. }), "{error}");
        // The way out that the message names: the journal is lost for good, and so is what was in it.
        let JournalError::Forgotten { marker, .. } = error else { unreachable!() };
        fs::remove_file(folder.join("b.journal")).unwrap();
        assert!(plain(folder).is_err(), "a lost journal is still a loss");
        fs::remove_file(marker).unwrap();
        assert_eq!(plain(folder).unwrap().get(&2).unwrap(), None);
    }

    /// The journal was deleted, and the cache is opened with its path: not a new one in silence.
    #[test]
    fn f54_a_deleted_journal_is_missed() {
        let folder = place();
        let folder = folder.path();
        set_down(folder, true);
        keep(folder, "a.journal").unwrap().put(1, 10).unwrap();
        fs::remove_file(folder.join("a.journal")).unwrap();
        let error = refusal(keep(folder, "a.journal"));
        assert!(matches!(error, JournalError::Forgotten { .. }), "{error}");
    }

    /// The journal may move; the note is about what is in it, not about where it is.
    #[test]
    fn f54_a_moved_journal_is_known() {
        let folder = place();
        let folder = folder.path();
        set_down(folder, true);
        keep(folder, "a.journal").unwrap().put(1, 10).unwrap();
        fs::rename(folder.join("a.journal"), folder.join("moved.journal")).unwrap();
        let cache = keep(folder, "moved.journal").unwrap();
        assert_eq!(cache.get(&1).unwrap(), Some(10));
        drop(cache);
        let JournalError::Forgotten { path, .. } = refusal(plain(folder)) else { panic!() };
        assert_eq!(path.file_name().unwrap(), "moved.journal");
    }

    /// A note that is damaged is no note that says "nothing".
    #[test]
    fn f54_a_damaged_note() {
        let folder = place();
        let folder = folder.path();
        set_down(folder, true);
        keep(folder, "a.journal").unwrap().put(1, 10).unwrap();
        let JournalError::Forgotten { marker, .. } = refusal(plain(folder)) else { panic!() };
        for note in [&b""[..], b"garbage", &[0xff; 300]] {
            fs::write(&marker, note).unwrap();
            let opened = plain(folder);
            assert!(opened.is_err(), "opened with the note {note:?}");
            println!("{}", opened.err().unwrap());
        }
        // Nothing says any more whose it was: whoever knows deletes it, and goes on with the journal.
        assert!(matches!(refusal(keep(folder, "a.journal")), JournalError::Forgotten { .. }));
        fs::remove_file(marker).unwrap();
        let cache = keep(folder, "a.journal").unwrap();
        assert_eq!(cache.recovery().unwrap().entries, 1);
        set_down(folder, false);
        assert!(cache.close(PATIENCE).is_drained());
        drop(cache);
        assert!(plain(folder).is_ok());
    }
}
