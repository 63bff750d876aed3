//! The command-line tool as its users meet it: exit codes, sentences, the line of JSON, and the table that is left.

#![cfg(feature = "cli")]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

const TEXT: &str = "In the beginning God created the heaven and the earth.\nAnd the earth was without form; Moses' \
                    rod, God's DON'T don't\n";
const CSV: &str = "minute,origin,dest\n1,EWR,MIA\n2,JFK,\"Los Angeles, CA\"\n3,EWR,\n4,LGA,MIA\n5,EWR,MIA\n";

/// A folder with whatever a test writes, and the tool running in it.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), content).expect("a file");
        self
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

    fn run_with_input(&self, arguments: &str, input: &[u8]) -> Ended {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("the tool runs");
        child.stdin.take().expect("a pipe").write_all(input).expect("the tool reads its input");
        Ended::from(child.wait_with_output().expect("the tool ends"))
    }

    fn sql(&self, db: &str, statements: &str) {
        let db = Connection::open(self.path(db)).expect("a database");
        db.execute_batch(statements).expect("good SQL");
    }

    /// The rows of a table of counts.
    fn counts(&self, db: &str, table: &str) -> HashMap<String, u64> {
        let db = Connection::open(self.path(db)).expect("a database");
        let mut rows = db.prepare(&format!("SELECT key, n FROM \"{table}\"")).expect("a table of counts");
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64))).expect("rows");
        rows.collect::<Result<_, _>>().expect("keys and numbers")
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
        assert!(self.err.contains(sentence), "no {sentence:?} in {self:#?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        let last = self.out.lines().last().expect("a last line");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

fn counts<const N: usize>(rows: [(&str, u64); N]) -> HashMap<String, u64> {
    rows.map(|(key, n)| (key.to_owned(), n)).into()
}

fn words_of_text() -> HashMap<String, u64> {
    let twice_or_more = [("the", 4), ("and", 2), ("earth", 2), ("don't", 2)];
    let once =
        ["in", "beginning", "god", "created", "heaven", "was", "without", "form", "moses", "rod", "god's"];
    let mut all = counts(twice_or_more);
    all.extend(once.map(|word| (word.to_owned(), 1)));
    all
}

#[test]
fn demo_ends_with_a_match() {
    let desk = Desk::new();
    let ended =
        desk.run("demo --seconds 0.6 --players 2000 --threads 3 --max-delay 100 --db board.db --json");
    let line = ended.has_code(0).json();
    assert_eq!(line["match"], true);
    assert_eq!(line["drained"], true);
    assert_eq!(line["interrupted"], false);
    let number = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("no {name} in {line}"));
    assert!(
        number("writes") >= number("backend_writes") && number("backend_writes") >= number("distinct_keys")
    );
    assert!(number("batches") > 0 && number("distinct_keys") <= 2_000);
    assert!(line["coalescing_ratio"].as_f64() >= Some(1.0));
    let triggers: u64 = ["timer", "threshold", "pressure", "explicit"]
        .map(|t| line["triggers"][t].as_u64())
        .iter()
        .flatten()
        .sum();
    assert_eq!(triggers, number("batches"));
    let latency =
        ["p50", "p99", "p99_9", "max"].map(|p| line["latency_ns"][p].as_u64().expect("nanoseconds"));
    assert!(latency.is_sorted() && latency[0] > 0);
    ended.says("match").says("p99.9");

    let db = Connection::open(desk.path("board.db")).expect("the board");
    let rows: i64 = db.query_row("SELECT count(*) FROM leaderboard", [], |row| row.get(0)).expect("rows");
    assert_eq!(rows as u64, number("distinct_keys"));
}

#[test]
fn demo_plays_on_an_existing_board() {
    let desk = Desk::new();
    desk.sql("board.db", "CREATE TABLE leaderboard (player INTEGER PRIMARY KEY, points INTEGER)");
    desk.sql("board.db", "INSERT INTO leaderboard VALUES (1, 1000000000000), (999999, 7)");
    let demo = "demo --seconds 0.3 --players 50 --db board.db --json";
    assert_eq!(desk.run(demo).has_code(0).json()["match"], true);
    assert_eq!(desk.run(demo).has_code(0).json()["match"], true);
    let db = Connection::open(desk.path("board.db")).expect("the board");
    let points = |player: i64| -> i64 {
        let select = "SELECT points FROM leaderboard WHERE player = ?1";
        db.query_row(select, [player], |row| row.get(0)).expect("a row")
    };
    assert!(points(1) > 1_000_000_000_000);
    assert_eq!(points(999_999), 7);
}

#[test]
fn demo_matches_when_the_cache_is_far_too_small() {
    let desk = Desk::new();
    let ended = desk.run("demo --seconds 0.5 --players 5000 --capacity 200 --skew 0.5 --json");
    let line = ended.has_code(0).json();
    assert_eq!((&line["match"], &line["refused"]), (&true.into(), &0.into()));
}

#[test]
fn demo_leaves_no_temporary_database_behind() {
    let desk = Desk::new();
    let temp = desk.path("temp");
    fs::create_dir(&temp).expect("a folder");
    let output =
        desk.command("demo --seconds 0.2 --players 100").env("TMPDIR", &temp).output().expect("it runs");
    let ended = Ended::from(output);
    assert!(ended.has_code(0).out.contains("✓ match"), "{ended:#?}");
    assert_eq!(fs::read_dir(temp).expect("a folder").count(), 0);
}

#[test]
fn words_are_counted_from_a_file_from_zstd_and_from_the_standard_input() {
    let desk = Desk::new();
    let packed = zstd::encode_all(TEXT.as_bytes(), 3).expect("in memory");
    desk.file("text", TEXT).file("text.zst", &packed);
    let events = words_of_text().values().sum::<u64>();
    let by_file = desk.run("count --input text --db a.db --words --json");
    let by_zstd = desk.run("count --input text.zst --db b.db --words --json --threads 1");
    let by_stdin = desk.run_with_input("count --input - --db c.db --words --json", TEXT.as_bytes());
    let by_packed_stdin = desk.run_with_input("count --input - --db d.db --words --json", &packed);
    for (ended, db) in [(by_file, "a.db"), (by_zstd, "b.db"), (by_stdin, "c.db"), (by_packed_stdin, "d.db")] {
        let line = ended.has_code(0).json();
        assert_eq!(line["events"], events);
        assert_eq!(line["distinct_keys"], words_of_text().len());
        assert_eq!((&line["match"], &line["complete"]), (&true.into(), &true.into()));
        assert_eq!(desk.counts(db, "counts"), words_of_text());
    }
}

#[test]
fn a_column_is_counted() {
    let desk = Desk::new();
    desk.file("flights.csv", CSV)
        .file("flights.zst", zstd::encode_all(CSV.as_bytes(), 3).expect("in memory"));
    desk.run("count --input flights.csv --db a.db --column origin --table airports").has_code(0);
    assert_eq!(desk.counts("a.db", "airports"), counts([("EWR", 3), ("JFK", 1), ("LGA", 1)]));
    // Quotes belong to the format, and an empty field is a value like any other.
    desk.run("count --input flights.zst --db a.db --column dest").has_code(0);
    assert_eq!(desk.counts("a.db", "counts"), counts([("MIA", 3), ("Los Angeles, CA", 1), ("", 1)]));
}

#[test]
fn a_count_is_exact_when_the_cache_is_far_too_small() {
    let desk = Desk::new();
    // Each of 2,000 values five times, far apart from each other.
    let values = (0..10_000_u64).map(|i| format!("{}\n", i * 7_919 % 2_000));
    desk.file("values.csv", format!("value\n{}", values.collect::<String>()));
    let ended = desk.run("count --input values.csv --db a.db --column value --capacity 100 --json");
    assert_eq!(ended.has_code(0).json()["match"], true);
    let expected = (0..2_000).map(|value: u64| (value.to_string(), 5)).collect();
    assert_eq!(desk.counts("a.db", "counts"), expected);
}

#[test]
fn an_empty_text_leaves_an_empty_table() {
    let desk = Desk::new();
    let line = desk.run_with_input("count --input - --db a.db --words --json", b"").has_code(0).json();
    assert_eq!((&line["events"], &line["match"]), (&0.into(), &true.into()));
    assert!(desk.counts("a.db", "counts").is_empty());
}

#[test]
fn rows_that_are_there_are_kept_added_to_or_replaced_as_asked() {
    let desk = Desk::new();
    desk.file("first", "a b b").file("second", "b c");
    desk.run("count --input first --db a.db --words").has_code(0);
    desk.run("count --input second --db a.db --words").has_code(2).says("already has 2 rows").says("--add");
    assert_eq!(desk.counts("a.db", "counts"), counts([("a", 1), ("b", 2)]));
    desk.run("count --input second --db a.db --words --add").has_code(0);
    assert_eq!(desk.counts("a.db", "counts"), counts([("a", 1), ("b", 3), ("c", 1)]));
    // What cannot be read must not cost the rows that it was to replace.
    desk.run("count --input third --db a.db --words --replace").has_code(2);
    assert_eq!(desk.counts("a.db", "counts").len(), 3);
    desk.run("count --input second --db a.db --words --replace").has_code(0);
    assert_eq!(desk.counts("a.db", "counts"), counts([("b", 1), ("c", 1)]));
}

#[test]
fn a_table_name_is_a_name_and_nothing_else() {
    let desk = Desk::new();
    desk.file("text", "a b b");
    for name in ["x\"; DROP TABLE y; --", "", "1st", "sqlite_schema", "two words"] {
        let mut command = desk.command("count --input text --db a.db --words --table");
        let ended = Ended::from(command.arg(name).output().expect("the tool runs"));
        ended.has_code(2).says("cannot name a table");
    }
    assert!(!desk.path("a.db").exists());
    desk.run("count --input text --db a.db --words --table order").has_code(0);
    assert_eq!(desk.counts("a.db", "order"), counts([("a", 1), ("b", 2)]));
}

#[test]
fn bad_inputs_end_with_a_sentence_and_code_2() {
    let desk = Desk::new();
    let mut damaged = zstd::encode_all(TEXT.repeat(2_000).as_bytes(), 3).expect("in memory");
    damaged.truncate(damaged.len() - 20);
    desk.file("text", TEXT).file("flights.csv", CSV).file("damaged.zst", damaged).file("empty", "");
    desk.file("garbage.zst", b"\x28\xb5\x2f\xfd and then nothing that fits".repeat(9))
        .file("ragged.csv", "a,b\n1,2\n3\n");
    desk.file("text.gz", b"\x1f\x8b\x08\0")
        .file("twice.csv", "a,a\n1,2\n")
        .file("latin1.csv", b"a,b\n\xe4,\n");
    desk.file("letters", "x".repeat(100_000));
    let cases = [
        ("--input nowhere --words", "cannot read nowhere"),
        ("--input . --words", "is a directory"),
        ("--input damaged.zst --words", "damaged.zst is damaged after"),
        ("--input garbage.zst --words", "garbage.zst is damaged after"),
        ("--input text.gz --words", "compressed with gzip"),
        ("--input letters --words", "is not text"),
        ("--input flights.csv --column airport", "no column `airport`: its columns are minute, origin, dest"),
        ("--input ragged.csv --column a", "line 3 has 1 fields where the first line has 2"),
        ("--input twice.csv --column a", "has 2 columns called `a`"),
        ("--input latin1.csv --column a", "line 2 the column `a` is not UTF-8"),
        ("--input empty --column a", "empty: a CSV file needs a first line"),
        ("--input text", "required"),
        ("--input text --words --column a", "cannot be used with"),
        ("--input text --words --add --replace", "cannot be used with"),
        ("--input text --words --threads 0", "--threads"),
        ("--input text --words --capacity 0", "capacity is zero"),
        ("--words", "--input"),
    ];
    for (i, (arguments, sentence)) in cases.into_iter().enumerate() {
        desk.run(&format!("count {arguments} --db {i}.db")).has_code(2).says("error: ").says(sentence);
    }
    desk.run("demo --seconds -1").has_code(2);
    desk.run("demo --seconds 0").has_code(2).says("number of seconds above 0");
    desk.run("demo --skew NaN").has_code(2).says("from 0");
}

#[test]
fn events_before_the_damage_are_in_the_table_and_the_verdict_is_about_them() {
    let desk = Desk::new();
    let line = desk
        .file("ragged.csv", "a,b\n1,2\n1,4\n3\n1,2\n")
        .run("count --input ragged.csv --db a.db --column a --json");
    let line = line.has_code(2).says("the 2 events before it are in the database").json();
    assert_eq!((&line["match"], &line["complete"]), (&true.into(), &false.into()));
    assert_eq!(desk.counts("a.db", "counts"), counts([("1", 2)]));
}

#[test]
fn bad_databases_end_with_a_sentence_and_code_2() {
    let desk = Desk::new();
    desk.file("text", TEXT).file("notes.db", "these are only notes, and long enough to be one".repeat(40));
    desk.sql("other.db", "CREATE TABLE counts (id INTEGER PRIMARY KEY, name TEXT, born TEXT)");
    desk.sql(
        "other.db",
        "CREATE TABLE words (key TEXT, n INTEGER); CREATE VIEW view AS SELECT key, n FROM words",
    );
    desk.sql(
        "null.db",
        "CREATE TABLE counts (key TEXT PRIMARY KEY, n INTEGER); INSERT INTO counts VALUES ('a', 'b')",
    );
    let cases = [
        ("--db nowhere/a.db", "there is no folder"),
        ("--db .", "is a directory"),
        ("--db :memory:", "needs a file"),
        ("--db notes.db", "not an SQLite database"),
        ("--db other.db", "another shape: there is no column `key`"),
        ("--db other.db --replace", "another shape"),
        ("--db other.db --table words", "(key TEXT PRIMARY KEY, n INTEGER) is needed"),
        ("--db other.db --table view", "it is a view"),
        ("--db null.db --add", "correct the row"),
    ];
    for (arguments, sentence) in cases {
        desk.run(&format!("count --input text --words {arguments}"))
            .has_code(2)
            .says("error: ")
            .says(sentence);
    }
    desk.run("demo --db nowhere/a.db").has_code(2).says("there is no folder");
    desk.run("demo --db notes.db").has_code(2).says("not an SQLite database");
}

#[test]
fn a_database_that_changes_what_it_stores_is_a_mismatch() {
    let desk = Desk::new();
    desk.sql(
        "a.db",
        "CREATE TABLE counts (key TEXT PRIMARY KEY, n INTEGER);
         CREATE TRIGGER liar AFTER INSERT ON counts WHEN NEW.key = 'the'
         BEGIN UPDATE counts SET n = 5 WHERE key = NEW.key; END",
    );
    let ended = desk.file("text", TEXT).run("count --input text --db a.db --words --json");
    assert_eq!(ended.has_code(1).says("the: the database has 5, 4 expected").json()["match"], false);
}

#[test]
fn a_database_that_takes_nothing_is_not_drained() {
    let desk = Desk::new();
    desk.sql(
        "a.db",
        "CREATE TABLE counts (key TEXT PRIMARY KEY, n INTEGER);
         CREATE TRIGGER no BEFORE INSERT ON counts WHEN NEW.key = 'the'
         BEGIN SELECT RAISE(ABORT, 'never'); END",
    );
    let ended = desk.file("text", TEXT).run("count --input text --db a.db --words --drain-timeout 1 --json");
    let line = ended.has_code(3).says("1 entry could not be written").says("never").json();
    assert_eq!((&line["drained"], &line["dirty_left"]), (&false.into(), &1.into()));
    assert_eq!(desk.counts("a.db", "counts").len(), words_of_text().len() - 1);
}

#[test]
fn nobody_has_to_read_the_summary() {
    let desk = Desk::new();
    let mut child = desk.command("demo --seconds 0.3 --players 100 --json").spawn().expect("the tool runs");
    drop(child.stdout.take());
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn help_names_the_commands_and_the_exit_codes() {
    let desk = Desk::new();
    let help = desk.run("--help");
    for part in ["demo", "count", "Exit codes", "Ctrl-C"] {
        assert!(help.has_code(0).out.contains(part), "{help:#?}");
    }
    for command in ["demo", "count"] {
        assert!(desk.run(&format!("{command} --help")).has_code(0).out.contains("Examples:"));
    }
    desk.run("").has_code(2);
}

/// Sends a signal the way people do.
#[cfg(unix)]
fn signal(name: &str, child: &Child) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// The lines of the child's standard error up to the one that contains `text`.
#[cfg(unix)]
fn wait_for(text: &str, err: &mut impl BufRead) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        assert_ne!(err.read_line(&mut seen).expect("UTF-8"), 0, "no {text:?} in {seen}");
    }
    seen
}

#[cfg(unix)]
fn end(mut child: Child, mut err: impl Read, seen: String) -> Ended {
    let (mut out, mut rest) = (String::new(), seen);
    child.stdout.take().expect("a pipe").read_to_string(&mut out).expect("UTF-8");
    err.read_to_string(&mut rest).expect("UTF-8");
    Ended { code: child.wait().expect("it ends").code(), out, err: rest }
}

#[test]
#[cfg(unix)]
fn an_interrupted_demo_drains_and_gives_its_verdict() {
    let desk = Desk::new();
    let start = Instant::now();
    let mut child = desk.command("demo --seconds 600 --players 1000 --json").spawn().expect("the tool runs");
    let mut err = BufReader::new(child.stderr.take().expect("a pipe"));
    let seen = wait_for("playing", &mut err);
    signal("INT", &child);
    let ended = end(child, err, seen);
    let line = ended.has_code(0).says("interrupt again to quit at once").json();
    assert_eq!(
        (&line["match"], &line["drained"], &line["interrupted"]),
        (&true.into(), &true.into(), &true.into())
    );
    assert!(start.elapsed() < Duration::from_secs(120));
}

#[test]
#[cfg(unix)]
fn an_interrupt_is_obeyed_while_no_input_comes() {
    let desk = Desk::new();
    let mut child = desk
        .command("count --input - --db a.db --words --json")
        .stdin(Stdio::piped())
        .spawn()
        .expect("the tool runs");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"one two two incomplet").expect("the tool reads");
    let mut err = BufReader::new(child.stderr.take().expect("a pipe"));
    let seen = wait_for("3 events", &mut err);
    signal("TERM", &child);
    let ended = end(child, err, seen);
    let line = ended.has_code(130).json();
    assert_eq!(
        (&line["events"], &line["match"], &line["interrupted"]),
        (&3.into(), &true.into(), &true.into())
    );
    assert_eq!(desk.counts("a.db", "counts"), counts([("one", 1), ("two", 2)]));
    drop(input);
}

/// The folder with the large real files, if there is one beside the checkout.
fn real_data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/events");
    if !data.is_dir() {
        println!("skipped: there is no {}", data.display());
        return None;
    }
    Some(data)
}

fn unpack(path: &Path) -> Vec<u8> {
    zstd::decode_all(fs::File::open(path).expect("a file")).expect("Zstandard")
}

/// The same words by another road: split at what is never part of one, then walk along the apostrophes.
fn words_of(text: &[u8]) -> HashMap<String, u64> {
    let text: String = text.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    let mut counts = HashMap::new();
    for run in text.split(|c: char| !c.is_ascii_lowercase() && c != '\'') {
        let mut parts = run.split('\'').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() {
                continue;
            }
            let word = match parts.next_if(|next| !next.is_empty()) {
                Some(suffix) => format!("{part}'{suffix}"),
                None => part.to_owned(),
            };
            *counts.entry(word).or_insert(0) += 1;
        }
    }
    counts
}

#[test]
fn the_words_of_a_real_book_are_counted() {
    let Some(data) = real_data() else { return };
    let desk = Desk::new();
    let book = data.join("kjv_bible_text.txt.zst");
    let line =
        desk.run(&format!("count --input {} --db a.db --words --json", book.display())).has_code(0).json();
    assert_eq!((&line["events"], &line["distinct_keys"]), (&790_889.into(), &12_768.into()));
    let (found, expected) = (desk.counts("a.db", "counts"), words_of(&unpack(&book)));
    assert_eq!(found["the"], expected["the"]);
    assert!(found == expected);
}

#[test]
fn the_departures_of_a_real_year_are_counted() {
    let Some(data) = real_data() else { return };
    let desk = Desk::new();
    let flights = data.join("nyc_flights_2013.csv.zst");
    let command = format!("count --input {} --db a.db --column origin --json", flights.display());
    let line = desk.run(&command).has_code(0).json();
    assert_eq!((&line["events"], &line["distinct_keys"]), (&336_776.into(), &3.into()));
    let text = String::from_utf8(unpack(&flights)).expect("UTF-8");
    let mut expected = HashMap::new();
    for line in text.lines().skip(1) {
        *expected.entry(line.split(',').nth(3).expect("an origin").to_owned()).or_insert(0) += 1;
    }
    assert_eq!(desk.counts("a.db", "counts"), expected);
}
