//! A kill while a cache with a journal is in use: its file, and the backend, at one moment.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{PATIENCE, builder, count, draw, explore, join, let_go_on, rows::Rows, spawn};
use crate::{Cache, Closed, JournalSync, journal::recover};

type Cached = Cache<u64, Vec<u8>, super::Identity>;

/// A few records fill a segment.
const BYTES: usize = 400;
const KEYS: [u64; 3] = [1, 2, 3];

fn value(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn number(value: &[u8]) -> u64 {
    value[..8].try_into().map(u64::from_le_bytes).expect("a number")
}

/// What was acknowledged of each key, or seen by a reader. Noted without a point after the call.
#[derive(Default)]
struct Known([AtomicU64; 3]);

impl Known {
    fn note(&self, key: u64, number: u64) {
        self.0[key as usize - 1].fetch_max(number, Relaxed);
    }
}

/// A file of this process, in memory where the system has such a place; gone when dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let name = format!("writeback-scenario-{}-{:?}", std::process::id(), thread::current().id());
        let folder = folder.join(name);
        // Of an execution before this one.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Place(folder)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a kill at this moment leaves of all keys, with no point in between.
fn kill(journal: &Path, rows: &Rows<Vec<u8>>, known: &Known) {
    let bytes = fs::read(journal).expect("the journal");
    let scan = recover::scan(&bytes).expect("a journal");
    let mut found = KEYS.map(|key| {
        let row = rows.row(key);
        row.map_or((0, 0), |(version, value)| (version, value.map_or(0, |value| number(&value))))
    });
    for record in scan.live.records() {
        let key = u64::from_le_bytes(record.key.try_into().expect("eight bytes"));
        let recovered = (record.version, record.value.map_or(0, number));
        let place = &mut found[key as usize - 1];
        count("records that counted", 1);
        *place = (*place).max(recovered);
        // An older record would go over what the backend has.
        assert!(place.0 == recovered.0 || recovered.1 <= place.1, "versions and values disagree");
    }
    for ((found, known), key) in found.iter().zip(&known.0).zip(KEYS) {
        let known = known.load(Relaxed);
        assert!(found.1 >= known, "key {key}: {known} was relied on, {} would be found", found.1);
    }
}

/// Three writers, each with a key of its own, over a journal that laps, and a reader; kills at any moment.
#[test]
fn crash_forgets_nothing() {
    let waits_for = ["records that counted", "retirements", "copies", "refusals"];
    explore(&waits_for, || {
        let (place, rows) = (Place::new(), Arc::new(Rows::new(6)));
        let journal = place.0.join("a.journal");
        let known = Arc::new(Known::default());
        let cache: Arc<Cached> = Arc::new(
            builder(16)
                .max_delay(Duration::from_millis(2))
                // What is refused stays dirty while the next checkpoint comes.
                .retry(Duration::from_millis(3), Duration::from_millis(6))
                .backend(Arc::clone(&rows))
                .journal(&journal)
                .journal_size(1)
                .journal_sync(JournalSync::Never)
                .open()
                .expect("a small cache"),
        );
        let writers = KEYS.map(|key| {
            let (cache, known) = (Arc::clone(&cache), Arc::clone(&known));
            spawn(move || {
                for number in 1..=4 {
                    cache.put(key, value(number)).expect("there is room");
                    known.note(key, number);
                }
            })
        });
        let reader = {
            let (cache, known) = (Arc::clone(&cache), Arc::clone(&known));
            let (journal, rows) = (journal.clone(), Arc::clone(&rows));
            spawn(move || {
                for _ in 0..6 {
                    let key = KEYS[draw(3) as usize];
                    if let Some(seen) = cache.peek(&key) {
                        known.note(key, number(&seen));
                        kill(&journal, &rows, &known);
                    }
                }
            })
        };
        let kills = || {
            for _ in 0..6 {
                let_go_on();
                kill(&journal, &rows, &known);
            }
        };
        kills();
        writers.into_iter().for_each(join);
        join(reader);
        kills();
        assert!(matches!(cache.close(PATIENCE), Closed::Drained));
        rows.check();
        let stats = cache.stats();
        let journal = stats.journal.expect("a journal");
        count("retirements", journal.retirements);
        count("copies", journal.copies);
        count("refusals", stats.backend_errors);
        assert_eq!(KEYS.map(|key| rows.get(key).map(|value| number(&value))), [Some(4); 3]);
    });
}
