//! The SQLite backend, through its public face and through a second connection that looks at what is stored.

#![cfg(feature = "sqlite")]

mod answers;
mod family;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use rusqlite::Connection;
use tempfile::TempDir;
use writeback::{
    Backend, Batch, ErrorClass,
    backend::{
        CellError, Column, Columns, RowReader, RowWriter, SqlCell, SqlKey, SqlRef, SqlType, SqlValue, Sqlite,
        SqliteError, SqliteOpenError, SqliteTable,
    },
};

use answers::{STORED, TRANSIENT, apply, classes, del, put, stored};

const PERMANENT: Option<ErrorClass> = Some(ErrorClass::Permanent);

/// A database file of its own, and a second connection to it.
struct File {
    path: PathBuf,
    _dir: TempDir,
}

impl File {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { path: dir.path().join("test.db"), _dir: dir }
    }

    fn with(sql: &str) -> Self {
        let file = Self::new();
        file.connect().execute_batch(sql).unwrap();
        file
    }

    fn open(&self) -> Sqlite {
        Sqlite::options().busy_timeout(Duration::from_millis(20)).open(&self.path).unwrap()
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    /// The answer to a query, as text, with `|` between columns and a blank between rows.
    fn query(&self, sql: &str) -> String {
        let connection = self.connect();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cells = (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at));
            let cells = cells.map(|cell| cell.map(|cell| text(&cell))).collect::<Result<Vec<_>, _>>()?;
            Ok(cells.join("|"))
        });
        rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap().join(" ")
    }
}

fn text(value: &rusqlite::types::Value) -> String {
    use rusqlite::types::Value;
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[test]
fn tables_follow_from_the_types() {
    let file = File::new();
    let db = file.open();
    let _: SqliteTable<u64, u64> = db.table("numbers").unwrap();
    let _: SqliteTable<String, f64> = db.table("texts").unwrap();
    let _: SqliteTable<[u8; 16], Option<String>> = db.table("blobs").unwrap();
    let _: SqliteTable<(String, u32), (bool, Vec<u8>)> = db.table("pairs").unwrap();
    let _: SqliteTable<Arc<str>, ()> = db.table("set_of_keys").unwrap();
    let columns = |table: &str| {
        file.query(&format!(
            "SELECT name, type, \"notnull\", pk FROM pragma_table_info('{table}') ORDER BY cid"
        ))
    };
    assert_eq!(columns("numbers"), "key|INTEGER|1|1 value|INTEGER|1|0");
    assert_eq!(columns("texts"), "key|TEXT|1|1 value|REAL|1|0");
    assert_eq!(columns("blobs"), "key|BLOB|1|1 value|TEXT|0|0");
    assert_eq!(columns("pairs"), "key_1|TEXT|1|1 key_2|INTEGER|1|2 value_1|INTEGER|1|0 value_2|BLOB|1|0");
    assert_eq!(columns("set_of_keys"), "key|TEXT|1|1");
    // An integer key is the row id; other tables need none.
    let tables =
        "SELECT name, wr FROM pragma_table_list WHERE name IN ('numbers', 'texts', 'pairs') ORDER BY name";
    assert_eq!(file.query(tables), "numbers|0 pairs|1 texts|1");
    assert_eq!(file.query("PRAGMA journal_mode"), "wal");
}

#[test]
fn upserts_and_deletes_are_stored() {
    let file = File::new();
    let words = file.open().table_with("words", Columns::new().key(["word"]).value(["n"])).unwrap();
    stored(apply(&words, vec![put("a".to_owned(), 1_u64), put("b".to_owned(), 20), put("c".to_owned(), 3)]));
    assert_eq!(file.query("SELECT * FROM words ORDER BY n DESC"), "b|20 c|3 a|1");
    stored(apply(&words, vec![del("b".to_owned()), put("a".to_owned(), 100), del("nobody".to_owned())]));
    assert_eq!(file.query("SELECT * FROM words ORDER BY n DESC"), "a|100 c|3");
}

#[test]
fn an_empty_batch_and_an_empty_load_do_nothing() {
    let file = File::new();
    let table: SqliteTable<u64, u64> = file.open().table("t").unwrap();
    assert!(apply(&table, vec![]).as_slice().is_empty());
    assert_eq!(table.load(&[]).unwrap(), []);
}

#[test]
fn operations_are_carried_out_in_their_order() {
    let schema = "CREATE TABLE t (key INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE);
                  CREATE TABLE log (at INTEGER PRIMARY KEY, what TEXT);
                  CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO log (what) VALUES ('+' || new.key); END;
                  CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO log (what) VALUES ('-' || old.key); END;";
    let file = File::with(schema);
    let table = file.open().table("t").unwrap();
    let text = |text: &str| text.to_owned();
    stored(apply(&table, vec![put(1, text("x"))]));
    // Only in this order is the text free for its next owner.
    stored(apply(&table, vec![del(1), put(9, text("x")), put(5, text("y")), del(9), put(2, text("x"))]));
    assert_eq!(file.query("SELECT * FROM t"), "2|x 5|y");
    // Sorted by key are only those between which nothing of another kind is.
    assert_eq!(file.query("SELECT what FROM log ORDER BY at"), "+1 -1 +5 +9 -9 +2");
}

#[test]
fn an_upsert_that_makes_way_for_another_keeps_its_place() {
    let file = File::with("CREATE TABLE t (key INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE)");
    let table = file.open().table("t").unwrap();
    stored(apply(&table, vec![put(3, "z".to_owned())]));
    stored(apply(&table, vec![put(3, "new".to_owned()), put(2, "z".to_owned())]));
    assert_eq!(file.query("SELECT * FROM t"), "2|z 3|new");
}

#[test]
fn large_batches_cross_every_limit() {
    const ROWS: u64 = 10_007;
    let file = File::new();
    let table = file.open().table("t").unwrap();
    stored(apply(&table, (0..ROWS).map(|key| put(key, key * 3)).collect()));
    let keys: Vec<u64> = (0..ROWS).rev().collect();
    assert_eq!(table.load(&keys).unwrap(), keys.iter().map(|key| Some(key * 3)).collect::<Vec<_>>());
    let mixed = (0..ROWS).map(|key| if key % 1_000 < 700 { del(key) } else { put(key, 1) });
    stored(apply(&table, mixed.collect()));
    assert_eq!(file.query("SELECT count(*), sum(value), min(key) FROM t"), "3000|3000|700");
}

#[test]
fn wide_tables_stay_below_the_parameter_limit() {
    struct Wide;
    impl SqlKey for Wide {
        const COLUMNS: &'static [Column] = &[Column::of::<u64>("k")];
        fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
            row.integer(1)
        }
    }
    impl SqlValue for Wide {
        const COLUMNS: &'static [Column] = &[Column::of::<u64>("placeholder"); 1_500];
        fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
            (0..1_500).try_for_each(|cell| row.integer(cell))
        }
        fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
            for expected in 0..1_500 {
                assert_eq!(row.take::<u64>()?, expected);
            }
            Ok(Wide)
        }
    }
    let columns = Columns::new().value((0..1_500).map(|column| format!("c{column}")));
    let file = File::new();
    let table: SqliteTable<u64, Wide> = file.open().table_with("wide", columns).unwrap();
    stored(apply(&table, (0..100).map(|key| put(key, Wide)).collect()));
    let loaded = table.load(&(0..101).collect::<Vec<_>>()).unwrap();
    assert_eq!(loaded.iter().filter(|row| row.is_some()).count(), 100);
    assert!(loaded[100].is_none());
}

#[test]
fn loads_answer_in_the_order_of_the_keys() {
    let file = File::new();
    let table = file.open().table("t").unwrap();
    stored(apply(
        &table,
        (0..500_u64).filter(|key| key % 3 > 0).map(|key| put(format!("k{key}"), key)).collect(),
    ));
    // Not sorted, with rows that are missing, and with one key several times.
    let wanted: Vec<u64> = (0..1_000).map(|at| at * 7_919 % 600).collect();
    let keys: Vec<String> = wanted.iter().map(|key| format!("k{key}")).collect();
    let expected: Vec<_> = wanted.iter().map(|key| (*key < 500 && key % 3 > 0).then_some(*key)).collect();
    assert_eq!(table.load(&keys).unwrap(), expected);
}

#[derive(Debug, Clone, PartialEq)]
struct Seat {
    flight: String,
    number: u16,
}

impl SqlKey for Seat {
    const COLUMNS: &'static [Column] = &[Column::of::<String>("flight"), Column::of::<u16>("number")];

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.put(&self.flight)?;
        row.put(&self.number)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Class {
    Economy,
    Business,
}

impl SqlCell for Class {
    const TYPE: SqlType = SqlType::Text;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.text(match self {
            Class::Economy => "economy",
            Class::Business => "business",
        })
    }

    fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
        match cell {
            SqlRef::Text("economy") => Ok(Class::Economy),
            SqlRef::Text("business") => Ok(Class::Business),
            other => Err(CellError::new(format!("{other} is no class"))),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Booking {
    passenger: String,
    class: Class,
    paid: f64,
    meal: Option<String>,
}

impl SqlValue for Booking {
    const COLUMNS: &'static [Column] = &[
        Column::of::<String>("passenger"),
        Column::of::<Class>("class"),
        Column::of::<f64>("paid"),
        Column::of::<Option<String>>("meal"),
    ];

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.put(&self.passenger)?;
        row.put(&self.class)?;
        row.put(&self.paid)?;
        row.put(&self.meal)
    }

    fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
        Ok(Self { passenger: row.take()?, class: row.take()?, paid: row.take()?, meal: row.take()? })
    }
}

fn seat(flight: &str, number: u16) -> Seat {
    Seat { flight: flight.to_owned(), number }
}

fn booking(passenger: &str, paid: f64) -> Booking {
    Booking { passenger: passenger.to_owned(), class: Class::Business, paid, meal: None }
}

#[test]
fn structs_and_composite_keys_have_columns() {
    let file = File::new();
    let seats: SqliteTable<Seat, Arc<Booking>> = file.open().table("seats").unwrap();
    let vegan = Booking { class: Class::Economy, meal: Some("vegan".to_owned()), ..booking("Ada", 99.5) };
    let ops =
        vec![put(seat("X1", 1), Arc::new(vegan.clone())), put(seat("X1", 2), Arc::new(booking("Bob", 2.0)))];
    stored(apply(&seats, ops));
    assert_eq!(file.query("SELECT * FROM seats"), "X1|1|Ada|economy|99.5|vegan X1|2|Bob|business|2.0|NULL");
    stored(apply(&seats, (0..300).map(|n| put(seat("X2", n), Arc::new(booking("Eve", 0.5)))).collect()));
    stored(apply(&seats, (100..300).map(|n| del(seat("X2", n))).chain([del(seat("X1", 2))]).collect()));
    assert_eq!(file.query("SELECT flight, count(*) FROM seats GROUP BY flight"), "X1|1 X2|100");
    let loaded = seats.load(&[seat("X1", 2), seat("X2", 99), seat("X1", 1)]).unwrap();
    assert_eq!(loaded, [None, Some(Arc::new(booking("Eve", 0.5))), Some(Arc::new(vegan))]);
}

#[test]
fn every_cell_comes_back() {
    fn there_and_back<V: SqlValue + Clone + PartialEq + std::fmt::Debug>(values: &[V]) {
        let table: SqliteTable<u64, V> = Sqlite::in_memory().unwrap().table("t").unwrap();
        stored(apply(&table, (0..).zip(values).map(|(key, value)| put(key, value.clone())).collect()));
        let keys: Vec<u64> = (0..).take(values.len()).collect();
        let loaded: Vec<V> = table.load(&keys).unwrap().into_iter().map(Option::unwrap).collect();
        assert_eq!(loaded, values);
    }
    there_and_back(&[i8::MIN, -1, 0, i8::MAX]);
    there_and_back(&[i64::MIN, -1, 0, i64::MAX]);
    there_and_back(&[0, u32::MAX]);
    there_and_back(&[0, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX]);
    there_and_back(&[0, usize::MAX]);
    there_and_back(&[true, false]);
    there_and_back(&[0.0, 1.0, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NEG_INFINITY]);
    there_and_back(&[0.1_f32, f32::MAX]);
    there_and_back(&[
        String::new(),
        "with \0 inside".to_owned(),
        "12".to_owned(),
        "größe 'quoted'".to_owned(),
    ]);
    there_and_back::<Arc<str>>(&["shared".into()]);
    there_and_back(&[vec![], vec![0_u8, 255], vec![7; 100_000]]);
    there_and_back::<Box<[u8]>>(&[Box::new([1, 2])]);
    there_and_back(&[[0_u8; 32], [9; 32]]);
    there_and_back(&[None, Some(u64::MAX), Some(0)]);
    there_and_back(&[(1_u8, "a".to_owned(), None, -5_i64), (2, String::new(), Some(vec![1_u8]), 5)]);
    there_and_back(&[(), ()]);
}

#[test]
fn large_unsigned_numbers_keep_their_order_and_their_identity() {
    let file = File::new();
    let numbers = [u64::MAX, 0, i64::MAX as u64, 1 << 63, 7];
    let db = file.open();
    // Values sort as numbers do.
    let values: SqliteTable<u32, u64> = db.table("v").unwrap();
    stored(apply(&values, (0..).zip(numbers).map(|(key, number)| put(key, number)).collect()));
    assert_eq!(file.query("SELECT key FROM v ORDER BY value DESC"), "0 3 2 4 1");
    assert_eq!(
        file.query("SELECT value FROM v WHERE key IN (1, 2, 4) ORDER BY value"),
        "0 7 9223372036854775807"
    );
    // Keys alone in their table are row ids; in company they are not. Either way each is a row of its own.
    let alone: SqliteTable<u64, u64> = db.table("alone").unwrap();
    let company: SqliteTable<(u64, u8), u64> = db.table("company").unwrap();
    stored(apply(&alone, numbers.iter().map(|number| put(*number, *number)).collect()));
    stored(apply(&company, numbers.iter().map(|number| put((*number, 1), *number)).collect()));
    assert_eq!(alone.load(&numbers).unwrap(), numbers.map(Some));
    assert_eq!(company.load(&numbers.map(|number| (number, 1))).unwrap(), numbers.map(Some));
    assert_eq!(
        file.query("SELECT key FROM alone ORDER BY key"),
        "-9223372036854775808 -1 0 7 9223372036854775807"
    );
    stored(apply(&alone, numbers.iter().map(|number| del(*number)).collect()));
    assert_eq!(file.query("SELECT count(*) FROM alone"), "0");
}

#[test]
fn one_bad_row_does_not_keep_the_others_from_being_stored() {
    let file =
        File::with("CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER NOT NULL CHECK (value <> 13))");
    let table = file.open().table("t").unwrap();
    let answers =
        apply(&table, (0..1_000_u64).map(|key| put(key, if key == 617 { 13 } else { key + 14 })).collect());
    let expected: Vec<_> = (0..1_000).map(|key| if key == 617 { PERMANENT } else { STORED }).collect();
    assert_eq!(classes(&answers), expected);
    let message = answers.as_slice()[617].as_ref().unwrap_err().to_string();
    assert!(message.contains("table `t`") && message.contains("CHECK constraint failed"), "{message}");
    assert_eq!(file.query("SELECT count(*), sum(key = 617) FROM t"), "999|0");
    // The connection is as good as new.
    stored(apply(&table, vec![put(617, 1), del(0)]));
    assert_eq!(file.query("SELECT count(*) FROM t"), "999");
}

#[test]
fn a_value_that_fits_no_column_is_refused_alone() {
    let file = File::new();
    let table = file.open().table("t").unwrap();
    let answers = apply(&table, vec![put(1_u64, 1.5), put(2, f64::NAN), del(3), put(4, 4.5)]);
    assert_eq!(classes(&answers), [STORED, PERMANENT, STORED, STORED]);
    let error = answers.as_slice()[1].clone().unwrap_err();
    assert!(error.to_string().contains("column `value`") && error.to_string().contains("NaN"), "{error}");
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
    assert!(matches!(source, Some(SqliteError::Cell { .. })), "{source:?}");
    assert_eq!(file.query("SELECT key FROM t"), "1 4");
}

#[test]
fn a_unique_column_refuses_the_second_owner_whatever_the_table_says() {
    for on_conflict in
        ["", "ON CONFLICT IGNORE", "ON CONFLICT REPLACE", "ON CONFLICT FAIL", "ON CONFLICT ROLLBACK"]
    {
        let file = File::with(&format!(
            "CREATE TABLE t (key INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE {on_conflict})"
        ));
        let table = file.open().table("t").unwrap();
        let ops = ["a", "b", "a", "c"].iter().zip(1_u64..).map(|(text, key)| put(key, (*text).to_owned()));
        assert_eq!(
            classes(&apply(&table, ops.collect())),
            [STORED, STORED, PERMANENT, STORED],
            "{on_conflict}"
        );
        assert_eq!(file.query("SELECT * FROM t"), "1|a 2|b 4|c", "{on_conflict}");
    }
}

#[test]
fn triggers_that_refuse_are_heard() {
    for (raise, left) in [("ABORT, 'no'", 2), ("FAIL, 'no'", 2), ("ROLLBACK, 'no'", 2), ("IGNORE", 2)] {
        let file = File::with(&format!(
            "CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER NOT NULL);
             CREATE TABLE traces (key INTEGER);
             CREATE TRIGGER refuse BEFORE INSERT ON t WHEN new.value = 13
             BEGIN INSERT INTO traces VALUES (new.key); SELECT RAISE({raise}); END;"
        ));
        let table = file.open().table("t").unwrap();
        let answers = apply(&table, vec![put(1_u64, 1_u64), put(2, 13), put(3, 3)]);
        assert_eq!(classes(&answers), [STORED, PERMANENT, STORED], "{raise}");
        assert_eq!(file.query("SELECT count(*) FROM t"), left.to_string(), "{raise}");
        assert_eq!(file.query("SELECT count(*) FROM traces"), "0", "{raise}");
    }
}

#[test]
fn an_expression_of_the_schema_that_fails_refuses_one_row() {
    let schema = "CREATE TABLE t (key INTEGER PRIMARY KEY, value TEXT NOT NULL,
                                  n AS (json_extract(value, '$.n')) STORED)";
    let file = File::with(schema);
    let table = file.open().table("t").unwrap();
    let values = [r#"{"n": 1}"#, "no json", r#"{"n": 3}"#];
    let answers =
        apply(&table, (1_u64..).zip(values).map(|(key, value)| put(key, value.to_owned())).collect());
    assert_eq!(classes(&answers), [STORED, PERMANENT, STORED]);
    assert_eq!(file.query("SELECT key, n FROM t"), "1|1 3|3");
}

#[test]
fn a_row_that_only_the_commit_refuses_is_found() {
    let schema = "CREATE TABLE teams (id INTEGER PRIMARY KEY);
                  INSERT INTO teams VALUES (1), (2);
                  CREATE TABLE t (key INTEGER PRIMARY KEY,
                                  value INTEGER NOT NULL REFERENCES teams DEFERRABLE INITIALLY DEFERRED);";
    let file = File::with(schema);
    let table = file.open().table("t").unwrap();
    let answers = apply(&table, vec![put(1_u64, 1_u64), put(2, 99), put(3, 2), del(4)]);
    assert_eq!(classes(&answers), [STORED, PERMANENT, STORED, STORED]);
    assert_eq!(file.query("SELECT * FROM t"), "1|1 3|2");
}

#[test]
fn a_busy_database_stores_nothing_and_says_try_again() {
    let file = File::new();
    let table = file.open().table("t").unwrap();
    stored(apply(&table, vec![put(1_u64, 1_u64)]));
    let other = file.connect();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE t SET value = 50").unwrap();
    let answers = apply(&table, vec![put(1, 2), put(2, 2), del(1)]);
    assert_eq!(classes(&answers), [TRANSIENT; 3]);
    assert!(answers.as_slice()[0].as_ref().unwrap_err().to_string().contains("locked"));
    // Loads go on meanwhile, with what is committed.
    assert_eq!(table.load(&[1, 2]).unwrap(), [Some(1), None]);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(file.query("SELECT * FROM t"), "1|1");
    stored(apply(&table, vec![put(1, 2), put(2, 2)]));
    assert_eq!(file.query("SELECT * FROM t"), "1|2 2|2");
}

#[test]
fn a_table_that_is_gone_for_a_while_costs_no_row() {
    let file = File::new();
    let table = file.open().table("t").unwrap();
    stored(apply(&table, vec![put(1_u64, 1_u64)]));
    file.connect().execute_batch("ALTER TABLE t RENAME TO away").unwrap();
    assert_eq!(classes(&apply(&table, vec![put(1, 2), del(1)])), [TRANSIENT; 2]);
    assert_eq!(table.load(&[1]).unwrap_err().class(), ErrorClass::Transient);
    file.connect().execute_batch("ALTER TABLE away RENAME TO t").unwrap();
    stored(apply(&table, vec![put(2, 2)]));
    assert_eq!(table.load(&[1, 2]).unwrap(), [Some(1), Some(2)]);
}

/// A value whose writing waits for the test.
struct Slow(Arc<Mutex<mpsc::Receiver<()>>>, mpsc::Sender<()>);

impl SqlValue for Slow {
    const COLUMNS: &'static [Column] = &[Column::of::<u64>("value")];

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        self.1.send(()).unwrap();
        self.0.lock().unwrap().recv().unwrap();
        row.integer(2)
    }

    fn read(_: &mut RowReader<'_>) -> Result<Self, CellError> {
        Err(CellError::new("never read"))
    }
}

#[test]
fn a_load_does_not_wait_for_a_running_apply() {
    let file = File::new();
    let db = file.open();
    let table: SqliteTable<u64, u64> = db.table("t").unwrap();
    stored(apply(&table, vec![put(1, 1)]));
    let slow: SqliteTable<u64, Slow> = db.table("t").unwrap();
    let (go, wait) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let value = Slow(Arc::new(Mutex::new(wait)), begun);
        let writing = scope.spawn(move || apply(&slow, vec![put(1, value)]));
        has_begun.recv().unwrap();
        // The batch is in the middle of its transaction.
        assert_eq!(table.load(&[1]).unwrap(), [Some(1)]);
        go.send(()).unwrap();
        stored(writing.join().unwrap());
    });
    assert_eq!(table.load(&[1]).unwrap(), [Some(2)]);
}

#[test]
fn a_load_sees_all_of_a_batch_or_nothing() {
    let file = File::new();
    let db = Sqlite::options().readers(2).open(&file.path).unwrap();
    let table = db.table("t").unwrap();
    let keys: Vec<u64> = (0..200).collect();
    let batch = |value: u64| Batch::new(keys.iter().map(|key| put(*key, value)).collect());
    stored(table.apply(&batch(0)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let values = table.load(&keys).unwrap();
                    assert!(values.iter().all(|value| *value == values[0]), "half a batch: {values:?}");
                    let value = values[0].unwrap();
                    assert!(value >= last, "{value} after {last}");
                    last = value;
                }
            });
        }
        for value in 1..300 {
            stored(table.apply(&batch(value)));
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_panic_in_a_value_leaves_nothing_behind() {
    struct Panics;
    impl SqlValue for Panics {
        const COLUMNS: &'static [Column] = &[Column::of::<u64>("value")];
        fn write(&self, _: &mut RowWriter<'_>) -> Result<(), CellError> {
            panic!("on purpose")
        }
        fn read(_: &mut RowReader<'_>) -> Result<Self, CellError> {
            panic!("on purpose")
        }
    }
    let file = File::new();
    let db = Sqlite::options().readers(1).open(&file.path).unwrap();
    let panics: SqliteTable<u64, Panics> = db.table("t").unwrap();
    let table: SqliteTable<u64, u64> = db.table("t").unwrap();
    stored(apply(&table, vec![put(1, 1)]));
    let quiet = |job: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).unwrap_err();
    quiet(&|| drop(apply(&panics, vec![del(1), put(2, Panics)])));
    quiet(&|| drop(panics.load(&[1])));
    assert_eq!(table.load(&[1, 2]).unwrap(), [Some(1), None]);
    stored(apply(&table, vec![put(2, 2)]));
    assert_eq!(file.query("SELECT * FROM t"), "1|1 2|2");
}

#[test]
fn rows_with_cells_missing_or_left_over_are_refused() {
    struct Wrong(usize);
    impl SqlValue for Wrong {
        const COLUMNS: &'static [Column] = &[Column::of::<u64>("a"), Column::of::<u64>("b")];
        fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
            (0..self.0).try_for_each(|_| row.integer(1))
        }
        fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
            let _: (u64, u64, u64) = (row.take()?, row.take()?, row.take()?);
            Ok(Wrong(3))
        }
    }
    let table = Sqlite::in_memory().unwrap().table("t").unwrap();
    let answers = apply(&table, vec![put(1_u64, Wrong(1)), put(2, Wrong(2)), put(3, Wrong(3))]);
    assert_eq!(classes(&answers), [PERMANENT, STORED, PERMANENT]);
    assert!(answers.as_slice()[0].as_ref().unwrap_err().to_string().contains("column `b`"));
    assert_eq!(table.load(&[2]).map(drop).unwrap_err().class(), ErrorClass::Permanent);
}

#[test]
fn cells_that_another_program_stored_are_checked() {
    let file = File::with("CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER)");
    let small: SqliteTable<u64, u8> = file.open().table("t").unwrap();
    let large: SqliteTable<u64, u64> = file.open().table("t").unwrap();
    let text = "INSERT INTO t VALUES (1, 300), (2, 'many'), (3, NULL), (4, -1), (5, 255)";
    file.connect().execute_batch(text).unwrap();
    for (key, found) in [(1, "300"), (2, "\"many\""), (3, "NULL"), (4, "-1")] {
        let error = small.load(&[5, key]).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
        let message = error.to_string();
        assert!(
            message.contains("column `value`") && message.contains(found) && message.contains("u8"),
            "{message}"
        );
    }
    assert_eq!(small.load(&[5]).unwrap(), [Some(255)]);
    assert_eq!(large.load(&[1]).unwrap(), [Some(300)]);
    assert!(large.load(&[4]).is_err(), "no negative number is a u64");
}

#[test]
fn what_was_stored_is_there_after_reopening() {
    let file = File::new();
    for round in 0..3_u64 {
        let table = Sqlite::options().full_sync(true).open(&file.path).unwrap().table("t").unwrap();
        let seen = table.load(&[0, 1, 2]).unwrap().into_iter().flatten().count();
        assert_eq!(seen, round as usize);
        stored(apply(&table, vec![put(round, round)]));
    }
    // The last connection folds the log into the file.
    assert!(!file.path.with_extension("db-wal").exists());
}

#[test]
fn tables_share_a_database() {
    let file = File::new();
    let db = file.open();
    let (one, two) = (db.table("one").unwrap(), db.clone().table("two").unwrap());
    drop(db);
    stored(apply(&one, vec![put(1_u64, 1_u64)]));
    stored(apply(&two, vec![put("1".to_owned(), 2.5)]));
    assert_eq!(one.load(&[1]).unwrap(), [Some(1)]);
    assert_eq!(two.clone().load(&["1".to_owned()]).unwrap(), [Some(2.5)]);
}

#[test]
fn a_database_in_memory_works_alike() {
    let table: SqliteTable<u64, u64> = Sqlite::open(":memory:").unwrap().table("t").unwrap();
    stored(apply(&table, (0..1_000).map(|key| put(key, key)).collect()));
    assert_eq!(table.load(&[999, 1_000]).unwrap(), [Some(999), None]);
    assert!(!Path::new(":memory:").exists());
}

#[track_caller]
fn shape<K: SqlKey, V: SqlValue>(schema: &str, columns: Columns) -> String {
    let file = File::with(schema);
    let error = file.open().table_with::<K, V>("t", columns).map(drop).unwrap_err();
    assert!(matches!(error, SqliteOpenError::Shape { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_table_of_another_shape_is_refused() {
    let cases = [
        ("CREATE TABLE t (key INTEGER PRIMARY KEY)", "no column `value`"),
        ("CREATE TABLE t (key INTEGER PRIMARY KEY, value TEXT NOT NULL)", "`value` is TEXT, not INTEGER"),
        ("CREATE TABLE t (key TEXT PRIMARY KEY, value INTEGER)", "`key` is TEXT, not INTEGER"),
        ("CREATE TABLE t (key INTEGER, value INTEGER)", "`key` is not a part of the primary key"),
        (
            "CREATE TABLE t (key INTEGER, value INTEGER, PRIMARY KEY (key, value))",
            "`value` is a part of the primary",
        ),
        (
            "CREATE TABLE t (key INTEGER, value INTEGER, x TEXT, PRIMARY KEY (key, x))",
            "has a column `x` more",
        ),
        ("CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER, x TEXT NOT NULL)", "`x` has no default"),
        ("CREATE TABLE t (key INTEGER PRIMARY KEY, x INTEGER, value INTEGER AS (x))", "`value` is computed"),
        ("CREATE VIEW t AS SELECT 1 AS key, 2 AS value", "it is a view"),
    ];
    for (schema, difference) in cases {
        let message = shape::<u64, u64>(schema, Columns::new());
        assert!(message.contains(difference), "{message}");
        assert!(
            message.contains("`t`") && message.contains("found ") && message.contains("expected "),
            "{message}"
        );
        assert!(message.contains("INTEGER NOT NULL, PRIMARY KEY (\"key\")"), "{message}");
    }
    let no_case = "CREATE TABLE t (key TEXT COLLATE NOCASE PRIMARY KEY, value INTEGER)";
    assert!(shape::<String, u64>(no_case, Columns::new()).contains("NOCASE"));
    let not_null = "CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER NOT NULL)";
    assert!(shape::<u64, Option<u64>>(not_null, Columns::new()).contains("refuses NULL"));
}

#[test]
fn a_table_that_has_more_than_is_needed_is_used() {
    let schema = "CREATE TABLE Scores (player BIGINT PRIMARY KEY, Points BIGINT, note TEXT,
                                       league TEXT NOT NULL DEFAULT 'open', twice AS (points * 2));
                  INSERT INTO scores (player, points, note) VALUES (1, 1, 'keep me');";
    let file = File::with(schema);
    let table = file.open().table_with("scores", Columns::new().key(["player"]).value(["points"])).unwrap();
    stored(apply(&table, vec![put(1_i64, 10_i64), put(2, 20)]));
    assert_eq!(file.query("SELECT * FROM scores"), "1|10|keep me|open|20 2|20|NULL|open|40");
}

#[test]
fn names_that_are_no_identifiers_are_refused() {
    let db = Sqlite::in_memory().unwrap();
    for name in ["", "a b", "a\"b", "t; DROP TABLE u", "1st", "sqlite_thing", "größe", "a.b", "x'"] {
        let error = db.table::<u64, u64>(name).map(drop).unwrap_err();
        assert!(
            matches!(&error, SqliteOpenError::Name { what: "table", name: found } if found == name),
            "{error:?}"
        );
        let error = db.table_with::<u64, u64>("t", Columns::new().value([name])).map(drop).unwrap_err();
        assert!(
            matches!(&error, SqliteOpenError::Name { what: "column", name: found } if found == name),
            "{error:?}"
        );
    }
    // A keyword is a name like another.
    let table = db.table_with("select", Columns::new().key(["group"]).value(["order"])).unwrap();
    stored(apply(&table, vec![put(1_u64, 1_u64), del(2)]));
    assert_eq!(table.load(&[1]).unwrap(), [Some(1)]);
    // So is one that the backend uses in its own statements.
    for name in ["w", "t", "excluded", "one_row"] {
        let columns = Columns::new().key(["k0", "place"]).value(["excluded", "t"]);
        let table = db.table_with(name, columns).unwrap();
        stored(apply(&table, vec![put((1_u8, 2_u8), (3_u8, 4_u8)), put((2, 2), (5, 5)), del((2, 2))]));
        assert_eq!(table.load(&[(2, 2), (1, 2)]).unwrap(), [None, Some((3, 4))], "{name}");
    }
}

#[test]
fn columns_that_make_no_table_are_refused() {
    #[track_caller]
    fn reason<K: SqlKey, V: SqlValue>(columns: Columns) -> String {
        let error = Sqlite::in_memory().unwrap().table_with::<K, V>("t", columns).map(drop).unwrap_err();
        assert!(matches!(error, SqliteOpenError::Columns { .. }), "{error:?}");
        error.to_string()
    }
    struct NoColumns;
    impl SqlKey for NoColumns {
        const COLUMNS: &'static [Column] = &[];
        fn write(&self, _: &mut RowWriter<'_>) -> Result<(), CellError> {
            Ok(())
        }
    }
    assert!(
        reason::<u64, u64>(Columns::new().key(["a", "b"])).contains("the key has 1 columns, but 2 names")
    );
    assert!(reason::<u64, u64>(Columns::new().key(["value"])).contains("two columns are called `value`"));
    assert!(reason::<u64, u64>(Columns::new().key(["VALUE"])).contains("two columns are called `value`"));
    assert!(reason::<(u64, Option<u8>), u64>(Columns::new()).contains("`key_2` is a part of the key"));
    assert!(reason::<NoColumns, u64>(Columns::new()).contains("the key has no column"));
}

#[test]
fn paths_that_cannot_be_opened_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing").join("x.db");
    for path in [&*missing, dir.path(), Path::new(""), Path::new("a\0b")] {
        let error = Sqlite::open(path).map(drop).unwrap_err();
        assert!(matches!(error, SqliteOpenError::CannotOpen { .. }), "{path:?}: {error:?}");
        assert!(error.to_string().contains("check that"), "{error}");
    }
    assert!(Sqlite::open(&missing).unwrap_err().to_string().contains(missing.to_str().unwrap()));

    let foreign = dir.path().join("letter.txt");
    std::fs::write(&foreign, "Dear Sir or Madam, ".repeat(1_000)).unwrap();
    let error = Sqlite::open(&foreign).map(drop).unwrap_err();
    assert!(matches!(error, SqliteOpenError::NotADatabase { .. }), "{error:?}");
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert!(std::fs::read_to_string(&foreign).unwrap().starts_with("Dear Sir"));
}

#[test]
fn a_read_only_database_is_refused() {
    let file = File::with("CREATE TABLE t (key INTEGER PRIMARY KEY, value INTEGER)");
    let mut permissions = std::fs::metadata(&file.path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&file.path, permissions).unwrap();
    if std::fs::OpenOptions::new().append(true).open(&file.path).is_ok() {
        // A superuser writes where nobody may.
        return;
    }
    let error = Sqlite::open(&file.path).map(drop).unwrap_err();
    assert!(matches!(error, SqliteOpenError::ReadOnly { .. }), "{error:?}");
}

#[test]
fn a_database_that_stays_locked_is_not_opened() {
    let file = File::with("CREATE TABLE other (x)");
    let other = file.connect();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let options = Sqlite::options().busy_timeout(Duration::from_millis(20));
    let error = options.clone().open(&file.path).map(drop).unwrap_err();
    assert!(matches!(error, SqliteOpenError::Busy { .. }), "{error:?}");
    other.execute_batch("COMMIT").unwrap();
    options.open(&file.path).unwrap();
}

/// Catches: a reference that the database refuses because of the order in which rows come.
#[test]
fn f16_no_reference_is_refused_with_ranks_and_any_number_of_workers() {
    for (workers, batch) in [(1, 100), (3, 7), (8, 20)] {
        let file = File::with(family::SCHEMA);
        let sqlite = Sqlite::options().open(&file.path).unwrap();
        let expected = family::storm(sqlite.table::<u64, u64>("t").unwrap(), workers, batch);
        assert_eq!(file.query("SELECT key, value FROM t ORDER BY key"), family::told(&expected));
    }
    // It does check.
    let file = File::with(family::SCHEMA);
    let orphan = apply(&file.open().table::<u64, u64>("t").unwrap(), vec![put(1_000, 1)]);
    assert_eq!(classes(&orphan), [PERMANENT]);
}
