//! `writeback journal` and `demo --crash` as their users meet them: exit codes, sentences, JSON, and what is left behind.

#![cfg(all(feature = "cli", unix))]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    hash::Hash,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, types::FromSql};
use serde_json::Value;
use tempfile::TempDir;
use writeback::{
    Answers, Backend, BackendError, Batch, Cache, ClosedJournal, JournalError, OpenError, PlainBytes,
    backend::{Memory, SqlKey, SqlValue, Sqlite, SqliteTable},
};

/// A folder with whatever a test writes, and the tool running in it.
struct Desk {
    folder: TempDir,
}

/// A table that takes nothing, so that all writes stay in the journal.
struct Down<K, V>(SqliteTable<K, V>);

impl<K: SqlKey, V: SqlValue> Backend<K, V> for Down<K, V> {
    fn load(&self, keys: &[K]) -> Result<Vec<Option<V>>, BackendError> {
        self.0.load(keys)
    }

    fn apply(&self, batch: &Batch<K, V>) -> Answers {
        batch.none_stored(BackendError::transient("down"))
    }

    fn identity(&self) -> String {
        self.0.identity()
    }

    fn journal_note(&self) -> Option<PathBuf> {
        self.0.journal_note()
    }
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_writeback"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &str) -> Ended {
        Ended::from(self.command(arguments).output().expect("the tool runs"))
    }

    /// Runs the tool and kills it after `time`; whether it was still running then.
    fn kill_after(&self, arguments: &str, time: Duration) -> bool {
        let mut child = self.command(arguments).spawn().expect("the tool runs");
        thread::sleep(time);
        child.kill().expect("a process");
        child.wait().expect("it ends").signal() == Some(9)
    }

    /// Leaves a journal behind for the table `t` of `a.db`: these writes, and nothing of them in the table.
    fn leave<K, V>(&self, journal: &str, writes: impl IntoIterator<Item = (K, Option<V>)>)
    where
        K: SqlKey + PlainBytes + Hash + Eq + Clone + Send + Sync + 'static,
        V: SqlValue + PlainBytes + Clone + Send + Sync + 'static,
    {
        let table = Sqlite::open(self.path("a.db")).expect("a database").table("t").expect("a table");
        let cache = Cache::builder()
            .capacity(100_000)
            .journal(self.path(journal))
            .journal_size(1 << 20)
            .drain_on_drop(Duration::ZERO)
            .backend(Down(table))
            .open::<K, V>()
            .expect("a cache");
        for (key, value) in writes {
            match value {
                Some(value) => drop(cache.put(key, value).expect("a write")),
                None => drop(cache.remove(&key).expect("a write")),
            }
        }
        assert!(!cache.close(Duration::from_millis(1)).is_drained());
        drop(cache);
        self.released(journal);
    }

    /// Waits for the threads of a cache that was dropped, which end after their last call of the backend.
    fn released(&self, journal: &str) {
        drop(ClosedJournal::open(self.path(journal)).expect("a journal that no cache has open"));
    }

    fn rows<K: FromSql + Ord, V: FromSql>(&self, db: &str, select: &str) -> BTreeMap<K, V> {
        let db = Connection::open(self.path(db)).expect("a database");
        let mut rows = db.prepare(select).expect("good SQL");
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
        rows.collect::<Result<_, _>>().expect("keys and values")
    }

    fn note(&self) -> PathBuf {
        self.path("a.db.t.journal")
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).expect("a file");
        change(&mut bytes);
        fs::write(self.path(name), bytes).expect("a file");
    }

    /// Spoils every record of a key, the flusher's copies included, and returns their offsets.
    fn spoil(&self, journal: &str, key: u64) -> Vec<u64> {
        let inspect = format!("journal inspect {journal} --keys --limit 1000000 --json");
        let mut spoilt = Vec::new();
        loop {
            let line = self.run(&inspect).has_code(0).json();
            let entries = line["entries"].as_array().expect("entries");
            let Some(entry) = entries.iter().find(|entry| entry["key"] == key) else { break };
            let offset = entry["offset"].as_u64().expect("an offset");
            self.change(journal, |bytes| bytes[offset as usize + 44] ^= 1);
            spoilt.push(offset);
        }
        assert!(!spoilt.is_empty(), "no record of {key}");
        spoilt.sort_unstable();
        spoilt
    }
}

/// What is left of a process.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    #[track_caller]
    fn has_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    #[track_caller]
    fn says(&self, sentence: &str) -> &Self {
        assert!(self.err.contains(sentence) || self.out.contains(sentence), "no {sentence:?} in {self:#?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        let last = self.out.lines().last().expect("a last line");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

fn numbers(count: u64) -> impl Iterator<Item = (u64, Option<u64>)> {
    (0..count).map(|key| (key, Some(key * 10)))
}

#[test]
fn inspect_tells_what_is_in_a_journal() {
    let desk = Desk::new();
    let named = |n: u64| (n, format!("name {n}"));
    let writes = (0..10).map(|n| (named(n).0, (n != 4).then(|| named(n).1)));
    desk.leave::<u64, String>("a.journal", writes.chain([(3, Some("three".to_owned()))]));
    let line = desk.run("journal inspect a.journal --keys --limit 20 --json").has_code(0).json();
    assert_eq!((&line["key_codec"], &line["value_codec"]), (&"u64".into(), &"str".into()));
    assert_eq!(
        (&line["dirty"], &line["format"], &line["capacity"]),
        (&10.into(), &1.into(), &100_000.into())
    );
    assert!(line["backend"].as_str().expect("text").ends_with("a.db#t"));
    // The eleven writes, and whatever copies the flusher made.
    let records = |kind: &str| line["records"][kind].as_u64().expect("a number");
    assert!(records("live") >= 10 && records("live") + records("dead") >= 11, "{line}");
    assert_eq!((&line["damage"], &line["entries_left_out"]), (&Value::Array(vec![]), &0.into()));
    assert!(line["modified"].as_u64() > Some(0));
    let sum =
        ["used_bytes", "free_bytes"].map(|name| line[name].as_u64().expect("bytes")).iter().sum::<u64>();
    assert_eq!(sum + 4096, line["bytes"].as_u64().expect("bytes"));
    let entries = line["entries"].as_array().expect("entries");
    let found: HashMap<u64, &Value> =
        entries.iter().map(|entry| (entry["key"].as_u64().expect("a number"), entry)).collect();
    assert_eq!(found.len(), 10);
    assert_eq!((&found[&3]["value"], &found[&3]["value_bytes"]), (&"three".into(), &5.into()));
    assert_eq!((&found[&4]["removed"], &found[&4]["value"]), (&true.into(), &Value::Null));
    let versions: Vec<_> = entries.iter().map(|entry| entry["version"].as_u64()).collect();
    assert!(versions.is_sorted() && versions[0] > Some(0));

    let text = desk.run("journal inspect a.journal --keys --limit 3");
    text.has_code(0).says("dirty keys").says("a.db#t").says("and 7 more").says("nothing is damaged");
    desk.run("journal verify a.journal").has_code(0).says("clean").says("10 dirty keys");
    assert_eq!(desk.run("journal verify a.journal --json").has_code(0).json()["clean"], true);
    desk.run("journal repair a.journal").has_code(0).says("nothing was changed");
}

#[test]
fn a_journal_that_is_open_is_refused_with_the_process() {
    let desk = Desk::new();
    let mut child = desk
        .command("count --input - --words --db c.db --journal c.journal")
        .stdin(Stdio::piped())
        .spawn()
        .expect("the tool runs");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"one two two ").expect("the tool reads");
    let said = format!("open in process {}", child.id());
    let start = Instant::now();
    while !desk.run("journal inspect c.journal").err.contains(&said) {
        assert!(start.elapsed() < Duration::from_secs(60), "never {said:?}");
        thread::sleep(Duration::from_millis(20));
    }
    for command in ["inspect", "verify", "repair", "drain"] {
        desk.run(&format!("journal {command} c.journal")).has_code(2).says(&said);
    }
    drop(input);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    desk.run("journal inspect c.journal").has_code(0);
}

#[test]
fn what_is_no_journal_of_this_format_is_refused() {
    let desk = Desk::new();
    desk.leave("a.journal", numbers(10));
    fs::copy(desk.path("a.journal"), desk.path("new.journal")).expect("a copy");
    fs::copy(desk.path("a.journal"), desk.path("bad.journal")).expect("a copy");
    desk.change("new.journal", |bytes| bytes[8] = 9);
    desk.change("bad.journal", |bytes| bytes[40] ^= 1);
    fs::write(desk.path("notes"), "these are only notes".repeat(1_000)).expect("a file");
    fs::write(desk.path("empty"), "").expect("a file");
    let cases = [
        ("notes", "is not a journal"),
        ("empty", "is not a journal"),
        ("new.journal", "has format 9 and this version reads format 1"),
        ("nowhere", "opening the journal nowhere failed"),
        (".", "opening the journal . failed"),
    ];
    for command in ["inspect", "verify", "repair", "drain"] {
        for (file, sentence) in cases {
            desk.run(&format!("journal {command} {file}")).has_code(2).says(sentence);
        }
        let code = if command == "verify" { 1 } else { 2 };
        desk.run(&format!("journal {command} bad.journal")).has_code(code).says("superblock");
    }
    let line = desk.run("journal verify bad.journal --json").has_code(1).json();
    assert_eq!((&line["clean"], &line["readable"]), (&false.into(), &false.into()));
    for command in ["inspect", "verify", "repair", "drain"] {
        assert!(desk.run(&format!("journal {command} --help")).has_code(0).out.contains("FILE"));
    }
    desk.run("journal --help").has_code(0).says("Exit codes");
}

#[test]
fn a_hole_is_found_and_cut_out_and_the_rest_is_kept() {
    let desk = Desk::new();
    desk.leave("a.journal", numbers(1_000));
    let spoilt = desk.spoil("a.journal", 500);
    let line = desk.run("journal verify a.journal --json").has_code(1).json();
    assert_eq!((&line["saved_keys"], &line["needs_repair"]), (&999.into(), &true.into()));
    assert_eq!((&line["holes"], &line["tails"]), (&spoilt.len().into(), &0.into()));
    let found = line["damage"].as_array().expect("damage").iter().map(|damage| damage["offset"].as_u64());
    assert_eq!(found.collect::<Option<Vec<_>>>().expect("offsets"), spoilt);
    let said = format!("byte {}", spoilt[0]);
    desk.run("journal verify a.journal").has_code(1).says(&said).says("a hole").says("999");
    desk.run("journal inspect a.journal").has_code(0).says("damaged place").says(&said);
    desk.run("journal drain a.journal").has_code(2).says("journal repair");
    let open = || {
        let table = Sqlite::open(desk.path("a.db")).expect("a database").table("t").expect("a table");
        Cache::builder()
            .capacity(10_000)
            .journal(desk.path("a.journal"))
            .backend(Down(table))
            .open::<u64, u64>()
    };
    assert!(matches!(open(), Err(OpenError::Journal(JournalError::Damaged { .. }))));

    let damaged = fs::read(desk.path("a.journal")).expect("a file");
    desk.run("journal repair a.journal --backup a.db").has_code(2).says("exists");
    let line = desk.run("journal repair a.journal --json").has_code(0).json();
    assert_eq!((&line["repaired"], &line["saved_keys"]), (&spoilt.len().into(), &999.into()));
    assert_eq!(fs::read(desk.path("a.journal.damaged-1")).expect("a backup"), damaged);
    assert_eq!(desk.run("journal verify a.journal --json").has_code(0).json()["saved_keys"], 999);
    let cache = open().expect("opens without salvage");
    assert_eq!(cache.recovery().expect("a recovery").entries, 999);
    assert_eq!((cache.get(&499).expect("a value"), cache.get(&500).expect("none")), (Some(4_990), None));
    // What comes after goes before what was kept.
    cache.put(499, 7).expect("a write");
    assert!(!cache.close(Duration::ZERO).is_drained());
    drop(cache);
    desk.released("a.journal");
    desk.run("journal drain a.journal").has_code(0).says("999 entries");
    let mut expected: BTreeMap<i64, i64> = (0..1_000).map(|key| (key, key * 10)).collect();
    expected.remove(&500);
    expected.insert(499, 7);
    assert_eq!(desk.rows::<i64, i64>("a.db", "SELECT key, value FROM t"), expected);
    desk.leave("a.journal", numbers(1_000));
    desk.spoil("a.journal", 500);
    desk.run("journal repair a.journal --backup kept").has_code(0).says("kept");
    assert!(desk.path("kept").exists() && !desk.path("a.journal.damaged-2").exists());
}

#[test]
fn a_truncated_journal_keeps_what_is_there() {
    let desk = Desk::new();
    desk.leave("a.journal", numbers(2_000));
    let line = desk.run("journal inspect a.journal --keys --limit 10000 --json").has_code(0).json();
    let end = line["entries"].as_array().expect("entries").iter().map(|entry| entry["offset"].as_u64()).max();
    let end = end.flatten().expect("an offset");
    // In the middle of the records.
    desk.change("a.journal", |bytes| bytes.truncate(end as usize / 2));
    let line = desk.run("journal verify a.journal --json").has_code(1).json();
    let saved = line["saved_keys"].as_u64().expect("a number");
    assert!(saved > 0 && saved < 2_000, "{line}");
    desk.run("journal verify a.journal").has_code(1).says("bytes are missing");
    desk.run("journal repair a.journal").has_code(0);
    assert_eq!(desk.run("journal verify a.journal --json").has_code(0).json()["saved_keys"], saved);
    desk.run("journal drain a.journal").has_code(0);
    assert_eq!(desk.rows::<i64, i64>("a.db", "SELECT key, value FROM t").len() as u64, saved);
}

#[test]
fn drain_brings_the_entries_to_the_database_and_ends_the_journal() {
    let desk = Desk::new();
    let setup = "CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER NOT NULL)";
    let db = Connection::open(desk.path("a.db")).expect("a database");
    db.execute_batch(&format!("{setup}; INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")).expect("good SQL");
    drop(db);
    let large = u64::MAX;
    desk.leave("a.journal", [(1_u64, None), (2, Some(20)), (9, Some(large)), (large, Some(5))]);
    assert!(desk.note().exists());
    let line = desk.run("journal drain a.journal --json").has_code(0).json();
    assert_eq!((&line["stored"], &line["emptied"]), (&4.into(), &true.into()));
    assert!(!desk.note().exists());
    let rows: SqliteTable<u64, u64> =
        Sqlite::open(desk.path("a.db")).expect("a database").table("t").expect("t");
    let found = rows.load(&[1, 2, 3, 9, large]).expect("rows");
    assert_eq!(found, [None, Some(20), Some(3), Some(large), Some(5)]);
    let line = desk.run("journal inspect a.journal --json").has_code(0).json();
    assert_eq!((&line["dirty"], &line["records"]["live"]), (&0.into(), &0.into()));
    assert_eq!(desk.run("journal drain a.journal --json").has_code(0).json()["stored"], 0);
    // The journal goes on: nothing of what was drained comes back, and what is new does.
    desk.leave("a.journal", [(2_u64, Some(21_u64))]);
    assert_eq!(desk.run("journal drain a.journal --json").has_code(0).json()["stored"], 1);
    assert_eq!(rows.load(&[2]).expect("a row"), [Some(21)]);
}

#[test]
fn drain_stores_the_built_in_types_as_the_application_does() {
    fn same<K, V>(key: K, value: V)
    where
        K: SqlKey + PlainBytes + Hash + Eq + Clone + Send + Sync + 'static,
        V: SqlValue + PlainBytes + Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static,
    {
        let desk = Desk::new();
        desk.leave("a.journal", [(key.clone(), Some(value.clone()))]);
        desk.run("journal drain a.journal").has_code(0);
        let rows: SqliteTable<K, V> =
            Sqlite::open(desk.path("a.db")).expect("a database").table("t").expect("t");
        assert_eq!(rows.load(&[key]).expect("a row"), [Some(value)]);
    }
    same(-1_i64, "text".to_owned());
    same("key".to_owned(), 0.5_f64);
    same(vec![0_u8, 255], vec![1_u8, 2, 3]);
    same([7_u8; 16], true);
    same(1_u8, Some("some".to_owned()));
    same(true, None::<i32>);
    same(1_u16, 0.1_f32);
}

#[test]
fn drain_refuses_other_databases_unless_told() {
    let desk = Desk::new();
    desk.leave("a.journal", numbers(3));
    desk.run("journal drain a.journal --db b.db").has_code(2).says("--force");
    desk.run("journal drain a.journal --table other").has_code(2).says("a.db#t");
    desk.run("journal drain a.journal --columns a").has_code(2).says("two names");
    desk.run("journal drain a.journal --columns k,v").has_code(2).says("no column `k`").says("--columns");
    assert!(!desk.path("b.db").exists());
    desk.run("journal drain a.journal --db b.db --columns k,v --force").has_code(0);
    assert_eq!(desk.rows::<i64, i64>("b.db", "SELECT k, v FROM t").len(), 3);
    // The note is not beside that database. It is found out to be old.
    assert!(desk.rows::<i64, i64>("a.db", "SELECT key, value FROM t").is_empty());

    let desk = Desk::new();
    desk.leave("a.journal", numbers(3));
    for file in ["a.db", "a.db-wal", "a.db-shm"] {
        let _ = fs::remove_file(desk.path(file));
    }
    desk.run("journal drain a.journal").has_code(2).says("is not there");
    assert!(!desk.path("a.db").exists());
    desk.run("journal drain a.journal --force").has_code(0);
    assert_eq!(desk.rows::<i64, i64>("a.db", "SELECT key, value FROM t").len(), 3);
}

#[test]
fn drain_says_what_it_cannot_store() {
    let desk = Desk::new();
    let memory = std::sync::Arc::new(Memory::<(u32, String), u64>::new());
    memory.set_fault(|_| Err(BackendError::transient("down")));
    let cache = Cache::builder()
        .capacity(10)
        .journal(desk.path("m.journal"))
        .journal_size(1 << 20)
        .drain_on_drop(Duration::ZERO)
        .backend(memory)
        .open::<(u32, String), u64>()
        .expect("a cache");
    cache.put((1, "a".to_owned()), 7).expect("a write");
    assert!(!cache.close(Duration::ZERO).is_drained());
    drop(cache);
    desk.released("m.journal");
    desk.run("journal inspect m.journal --keys").has_code(0).says("(1, \"a\")");
    desk.run("journal drain m.journal").has_code(2).says("names no SQLite table").says("--db");
    let drain = "journal drain m.journal --db m.db --table t --force";
    desk.run(drain).has_code(2).says("(u32, str)").says("--raw");
    desk.run(&format!("{drain} --raw")).has_code(0);
    let rows = desk.rows::<Vec<u8>, Vec<u8>>("m.db", "SELECT key, value FROM t");
    assert_eq!(rows, BTreeMap::from([(b"\x01\0\0\0a".to_vec(), 7_u64.to_le_bytes().to_vec())]));
}

#[test]
fn what_the_database_refuses_stays_in_the_journal() {
    let desk = Desk::new();
    let db = Connection::open(desk.path("a.db")).expect("a database");
    db.execute_batch("CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER NOT NULL CHECK (value != 50))")
        .expect("good SQL");
    desk.leave("a.journal", numbers(10));
    let line = desk.run("journal drain a.journal --json").has_code(3).says("error: ").says("CHECK").json();
    assert_eq!((&line["stored"], &line["refused"], &line["emptied"]), (&9.into(), &1.into(), &false.into()));
    assert!(desk.note().exists());
    assert_eq!(desk.run("journal inspect a.journal --json").has_code(0).json()["dirty"], 10);
    db.execute_batch("DROP TABLE t; CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        .expect("good SQL");
    desk.run("journal drain a.journal").has_code(0);
    assert_eq!(desk.rows::<i64, i64>("a.db", "SELECT key, value FROM t").len(), 10);
}

/// Killed at any time, both can be run again.
#[test]
fn drain_and_repair_survive_kills() {
    let desk = Desk::new();
    let count = 20_000;
    desk.leave("a.journal", numbers(count));
    desk.spoil("a.journal", 10_000);
    // Later and later, until one comes too late: so some come in each part of the work.
    let mut kills = 0;
    while desk.kill_after("journal repair a.journal", Duration::from_millis(kills)) {
        kills += 1;
        let line = desk.run("journal verify a.journal --json").json();
        assert_eq!(line["saved_keys"], count - 1, "after {kills} kills: {line}");
    }
    desk.run("journal repair a.journal").has_code(0);
    desk.run("journal verify a.journal").has_code(0);
    assert!(kills > 0, "no repair was killed");
    println!("repair: killed {kills} times");

    let mut kills = 0;
    while desk.kill_after("journal drain a.journal", Duration::from_millis(kills)) {
        kills += 1;
        let dirty = desk.run("journal inspect a.journal --json").has_code(0).json()["dirty"].as_u64();
        let rows = desk.rows::<i64, i64>("a.db", "SELECT key, value FROM t").len() as u64;
        // The journal is empty only if the database has everything.
        assert!(dirty == Some(count - 1) || (dirty == Some(0) && rows == count - 1), "{dirty:?} {rows}");
    }
    assert!(kills > 0, "no drain was killed");
    println!("drain: killed {kills} times");
    desk.run("journal drain a.journal").has_code(0);
    assert!(!desk.note().exists());
    let rows = desk.rows::<i64, i64>("a.db", "SELECT key, value FROM t");
    assert!(rows.len() as u64 == count - 1 && rows.iter().all(|(key, n)| *n == key * 10));
}

#[test]
fn a_demo_that_is_killed_loses_nothing() {
    let desk = Desk::new();
    let ended = desk.run("demo --crash --seconds 1 --players 5000 --threads 3 --json");
    let line = ended.has_code(0).says("nothing was lost").json();
    assert_eq!((&line["match"], &line["drained"], &line["damage"]), (&true.into(), &true.into(), &0.into()));
    for number in ["writes", "unflushed_keys", "unflushed_points", "recovered", "rows"] {
        assert!(line[number].as_i64() > Some(0), "{number} in {line}");
    }
    assert_eq!(line["recovered"], line["journal_dirty"]);
    // On a board that is kept, twice: the journal is gone when nothing is in it.
    for _ in 0..2 {
        desk.run("demo --crash --seconds 0.3 --players 500 --db board.db --json").has_code(0);
    }
    let names = fs::read_dir(desk.folder.path()).expect("a folder");
    let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["board.db"]);
}

fn wait_for(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().expect("a process").is_none());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_a_killed_run_has_left_goes_to_the_database_first() {
    let desk = Desk::new();
    let demo = "demo --players 1000 --db board.db --journal board.journal --max-delay 60000";
    let mut child = desk.command(&format!("{demo} --seconds 60")).spawn().expect("the tool runs");
    wait_for(&desk.path("board.journal"), &mut child);
    thread::sleep(Duration::from_millis(300));
    child.kill().expect("a process");
    child.wait().expect("it ends");
    let dirty = desk.run("journal inspect board.journal --json").has_code(0).json()["dirty"].as_u64();
    assert!(dirty > Some(0), "the kill came before the first write");
    // Not without it.
    desk.run("demo --players 1000 --db board.db --seconds 0.2")
        .has_code(2)
        .says("board.journal")
        .says("journal drain");
    let ended = desk.run(&format!("{demo} --seconds 0.2 --json"));
    ended.has_code(0).says("of an earlier run");
    assert_eq!(ended.json()["match"], true);
    desk.run("demo --players 1000 --db board.db --seconds 0.2").has_code(0);
    assert_eq!(desk.run("journal inspect board.journal --json").has_code(0).json()["dirty"], 0);
}
