//! `writeback dead-letters` as its users meet it: exit codes, sentences, JSON, and what is in the table afterwards.

#![cfg(all(feature = "cli", unix))]

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;
use writeback::{
    Answers, Backend, BackendError, Batch, Cache, ClosedJournal,
    backend::{Sqlite, SqliteTable},
};

/// A table that takes no value above 100, and nothing at all for key 9.
struct Picky(SqliteTable<u64, i64>);

impl Backend<u64, i64> for Picky {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<i64>>, BackendError> {
        self.0.load(keys)
    }

    fn apply(&self, batch: &Batch<u64, i64>) -> Answers {
        batch.answer_each(|op| match op.change().value() {
            Some(value) if *value > 100 => Err(BackendError::permanent("more than, \"100\"")),
            None if *op.key() == 9 => Err(BackendError::conflict("still in use")),
            _ if *op.key() == 8 => Err(BackendError::transient("busy")),
            _ => {
                let one = Batch::new(vec![op.clone()]);
                self.0.apply(&one).as_slice().first().cloned().unwrap_or(Ok(()))
            }
        })
    }

    fn identity(&self) -> String {
        self.0.identity()
    }

    fn journal_note(&self) -> Option<PathBuf> {
        self.0.journal_note()
    }
}

struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Desk(TempDir::new().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Cache<u64, i64> {
        let table = Sqlite::open(self.path("a.db")).expect("a database").table("t").expect("a table");
        Cache::builder()
            .capacity(1_000)
            .max_delay(Duration::from_secs(3600))
            .retry(Duration::from_secs(3600), Duration::from_secs(3600))
            .journal(self.path("a.journal"))
            .journal_size(1 << 20)
            .drain_on_drop(Duration::ZERO)
            .backend(Picky(table))
            .open()
            .expect("a cache")
    }

    /// Three dead letters: two values and a removal.
    fn leave(&self) {
        let cache = self.open();
        for (key, value) in [(1, 1), (2, 200), (3, 300), (9, 9)] {
            cache.put(key, value).expect("a write");
        }
        let _ = cache.flush();
        cache.remove(&9).expect("a write");
        let _ = cache.flush();
        assert_eq!(cache.stats().dead_letters, 3);
        self.released(cache);
    }

    /// Waits for the threads of a cache that is dropped.
    fn released(&self, cache: Cache<u64, i64>) {
        drop(cache);
        drop(ClosedJournal::open(self.path("a.journal")).expect("a journal that no cache has open"));
    }

    #[track_caller]
    fn run(&self, arguments: &str, code: i32) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_writeback"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        let output = command.output().expect("the tool runs");
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(code), "{arguments}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    #[track_caller]
    fn json(&self, arguments: &str, code: i32) -> Value {
        let text = self.run(arguments, code);
        let last = text.lines().last().expect("a last line");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    fn row(&self, key: u64) -> Option<i64> {
        let db = Connection::open(self.path("a.db")).expect("a database");
        db.query_row("select value from t where key = ?", [key as i64], |row| row.get(0)).ok()
    }
}

#[test]
fn list_and_export_tell_what_was_refused() {
    let desk = Desk::new();
    desk.leave();
    let text = desk.run("dead-letters list a.journal", 0);
    for words in ["3 dead letters", "permanent: more than, \\\"100\\\"", "conflict: still in use", "removed"]
    {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let line = desk.json("dead-letters list a.journal --json", 0);
    assert_eq!((&line["open"], &line["key_codec"]), (&3.into(), &"u64".into()));
    let letter = &line["letters"][0];
    assert_eq!((&letter["key"], &letter["value"], &letter["attempts"]), (&2.into(), &200.into(), &1.into()));
    assert!(letter["refused_ms"].as_u64() >= letter["first_dirty_ms"].as_u64());
    assert_eq!(line["letters"][2]["removed"], true);
    let lines = desk.run("dead-letters export a.journal", 0);
    let keys: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["key"].clone()).collect();
    assert_eq!(keys, [2, 3, 9]);
    let text = desk.run("dead-letters export a.journal --format csv", 0);
    let mut csv = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<_> = csv.records().collect::<Result<_, _>>().expect("CSV");
    assert_eq!((&rows[0][1], &rows[0][3], &rows[0][7]), ("2", "200", "more than, \"100\""));
    assert_eq!((&rows[2][2], &rows[2][3]), ("true", ""));
    desk.run("dead-letters list nowhere", 2);
}

#[test]
fn retry_writes_them_to_their_table() {
    let desk = Desk::new();
    desk.leave();
    // One of them has a newer write in the journal, which is not in the table either.
    let cache = desk.open();
    cache.put(3, 1_000).expect("a write");
    desk.released(cache);
    desk.run("dead-letters retry a.journal --id 77", 2);
    let line = desk.json("dead-letters retry a.journal --json", 0);
    assert_eq!((&line["stored"], &line["newer"], &line["open"]), (&2.into(), &1.into(), &1.into()));
    assert_eq!((desk.row(2), desk.row(3), desk.row(9)), (Some(200), None, None));
    let line = desk.json("dead-letters list a.journal --all --json", 0);
    let states: Vec<_> =
        line["letters"].as_array().expect("letters").iter().map(|letter| &letter["state"]).collect();
    assert_eq!(states, ["stored", "open", "stored"]);
    // Draining the newer one makes the last letter obsolete, and says so to whoever asks.
    desk.run("journal drain a.journal", 0);
    assert_eq!(desk.row(3), Some(1_000));
    assert!(desk.run("dead-letters list a.journal", 0).contains("no dead letter is open"));
    let cache = desk.open();
    assert_eq!(cache.get(&3).expect("a row"), Some(1_000));
    assert!(cache.dead_letters().expect("letters").iter().all(|letter| letter.is_superseded));
}

/// Dead letters keep the database from being used without their journal.
#[test]
fn a_drained_journal_with_letters_is_not_forgotten() {
    let desk = Desk::new();
    desk.leave();
    let text = desk.run("journal drain a.journal", 0);
    assert!(text.contains("3 dead letters are left"), "{text}");
    let table: SqliteTable<u64, i64> =
        Sqlite::open(desk.path("a.db")).expect("a database").table("t").expect("a table");
    let open = || Cache::builder().capacity(10).backend(table.clone()).open::<u64, i64>();
    assert!(open().is_err(), "opened without the journal");
    desk.run("dead-letters retry a.journal", 0);
    assert!(open().is_ok());
}
