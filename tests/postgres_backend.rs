//! The Postgres backend against a real server, and through a second connection that looks at what is stored.
//!
//! The server is the one that `WRITEBACK_POSTGRES` names (`eval "$(.ci/servers start DIR)"` starts one); without it, each test says
//! that it was skipped. Each has a schema of its own.

#![cfg(feature = "postgres")]

mod answers;
mod family;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use postgres::{Client, NoTls, SimpleQueryMessage};
use writeback::{
    Ack, Backend, Cache, Change, Error, ErrorClass, Op,
    backend::{
        CellError, Column, Columns, Postgres, PostgresOpenError, PostgresOptions, PostgresTable, RowReader,
        RowWriter, SqlKey, SqlValue,
    },
};

use answers::{STORED, TRANSIENT, apply, classes, del, put, stored};

const PERMANENT: Option<ErrorClass> = Some(ErrorClass::Permanent);

/// A schema of its own on the server, gone on drop.
struct Server {
    url: String,
    schema: String,
}

static SCHEMAS: AtomicU64 = AtomicU64::new(0);

/// `None`: there is no server, and the test is over.
fn server(sql: &str) -> Option<Server> {
    let Ok(url) = std::env::var("WRITEBACK_POSTGRES") else {
        eprintln!("skipped: WRITEBACK_POSTGRES names no server (.ci/servers starts one)");
        return None;
    };
    let schema = format!("test_{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::Relaxed));
    let server = Server { url, schema };
    let mut client = Client::connect(&server.url, NoTls).expect("the server that WRITEBACK_POSTGRES names");
    client.batch_execute(&format!("CREATE SCHEMA {}", server.schema)).expect("a schema");
    server.client().batch_execute(sql).expect("the tables of the test");
    Some(server)
}

impl Server {
    /// A second connection, which looks into this schema.
    fn client(&self) -> Client {
        let mut client = Client::connect(&self.url, NoTls).expect("a connection");
        client.batch_execute(&format!("SET search_path = {}", self.schema)).expect("the schema");
        client
    }

    fn options() -> PostgresOptions {
        Postgres::options()
            .lock_timeout(Duration::from_millis(300))
            .statement_timeout(Duration::from_secs(10))
    }

    fn open(&self) -> Postgres {
        Self::options().connect(&self.url).expect("the server")
    }

    fn name(&self, table: &str) -> String {
        format!("{}.{table}", self.schema)
    }

    fn table<K: SqlKey, V: SqlValue>(&self, table: &str) -> PostgresTable<K, V> {
        self.open().table(&self.name(table)).expect("the table")
    }

    /// The answer to a query, as text, with `|` between columns and a blank between rows.
    fn query(&self, sql: &str) -> String {
        text(&mut self.client(), sql)
    }

    /// Ends every other connection to the server that the backend has made.
    fn kill_all(&self) {
        let kill =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
        self.client().query(kill, &[&self.schema]).expect("killing");
    }

    /// A database whose connections can be told from those of other tests.
    fn named(&self) -> Postgres {
        let url = format!("{}?application_name={}", self.url, self.schema);
        Self::options().connect(&url).expect("the server")
    }
}

fn text(client: &mut Client, sql: &str) -> String {
    let rows = client.simple_query(sql).expect("a query");
    let rows = rows.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    });
    rows.collect::<Vec<_>>().join(" ")
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.url, NoTls) {
            let drop_it = format!("SET lock_timeout = '5s'; DROP SCHEMA {} CASCADE", self.schema);
            if let Err(error) = client.batch_execute(&drop_it) {
                eprintln!("the schema {} is left: {error}", self.schema);
            }
        }
    }
}

#[test]
fn tables_follow_from_the_types() {
    let Some(server) = server("") else { return };
    let _: PostgresTable<u64, u64> = server.table("numbers");
    let _: PostgresTable<String, f64> = server.table("texts");
    let _: PostgresTable<[u8; 16], Option<String>> = server.table("blobs");
    let _: PostgresTable<(String, u32), (bool, Vec<u8>)> = server.table("pairs");
    let _: PostgresTable<Arc<str>, ()> = server.table("set_of_keys");
    let columns = |table: &str| {
        server.query(&format!(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns \
             WHERE table_schema = '{}' AND table_name = '{table}' ORDER BY ordinal_position",
            server.schema
        ))
    };
    assert_eq!(columns("numbers"), "key|bigint|NO value|bigint|NO");
    assert_eq!(columns("texts"), "key|text|NO value|double precision|NO");
    assert_eq!(columns("blobs"), "key|bytea|NO value|text|YES");
    assert_eq!(columns("pairs"), "key_1|text|NO key_2|bigint|NO value_1|bigint|NO value_2|bytea|NO");
    assert_eq!(columns("set_of_keys"), "key|text|NO");
    // Again, now that they are there.
    let _: PostgresTable<(String, u32), (bool, Vec<u8>)> = server.table("pairs");
}

#[test]
fn upserts_and_deletes_are_stored() {
    let Some(server) = server("") else { return };
    let columns = Columns::new().key(["word"]).value(["n"]);
    let words: PostgresTable<String, u64> = server.open().table_with(&server.name("words"), columns).unwrap();
    let text = |text: &str| text.to_owned();
    stored(apply(&words, vec![put(text("a"), 1), put(text("b"), 20), put(text("c"), 3)]));
    assert_eq!(server.query("SELECT * FROM words ORDER BY n DESC"), "b|20 c|3 a|1");
    stored(apply(&words, vec![del(text("b")), put(text("a"), 100), del(text("nobody"))]));
    assert_eq!(server.query("SELECT * FROM words ORDER BY n DESC"), "a|100 c|3");
    stored(apply(&words, vec![]));
    assert_eq!(words.load(&[]).unwrap(), []);
    assert_eq!(words.load(&[text("c"), text("x"), text("c")]).unwrap(), [Some(3), None, Some(3)]);
}

#[test]
fn every_cell_comes_back() {
    let Some(server) = server("") else { return };
    let db = server.open();
    fn there_and_back<V: SqlValue + Clone + PartialEq + std::fmt::Debug>(
        server: &Server,
        db: &Postgres,
        values: &[V],
    ) {
        server.client().batch_execute("DROP TABLE IF EXISTS t").unwrap();
        let table: PostgresTable<u64, V> = db.table(&server.name("t")).unwrap();
        stored(apply(&table, (0..).zip(values).map(|(key, value)| put(key, value.clone())).collect()));
        let keys: Vec<u64> = (0..).take(values.len()).collect();
        let loaded: Vec<V> = table.load(&keys).unwrap().into_iter().map(Option::unwrap).collect();
        assert_eq!(loaded, values);
    }
    there_and_back(&server, &db, &[i8::MIN, -1, 0, i8::MAX]);
    there_and_back(&server, &db, &[i64::MIN, -1, 0, i64::MAX]);
    there_and_back(&server, &db, &[0, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX]);
    there_and_back(&server, &db, &[0, usize::MAX]);
    there_and_back(&server, &db, &[true, false]);
    there_and_back(&server, &db, &[0.0, 1.0, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY, f64::NEG_INFINITY]);
    there_and_back(&server, &db, &[0.1_f32, f32::MAX]);
    there_and_back(&server, &db, &[String::new(), "12".to_owned(), "größe 'quoted' \\ \"".to_owned()]);
    there_and_back::<Arc<str>>(&server, &db, &["shared".into()]);
    there_and_back(&server, &db, &[vec![], vec![0_u8, 255], vec![7; 100_000]]);
    there_and_back(&server, &db, &[[0_u8; 32], [9; 32]]);
    there_and_back(&server, &db, &[None, Some(u64::MAX), Some(0)]);
    there_and_back(
        &server,
        &db,
        &[(1_u8, "a".to_owned(), None, -5_i64), (2, String::new(), Some(vec![1_u8]), 5)],
    );
    there_and_back(&server, &db, &[(), ()]);
}

#[derive(Debug, Clone, PartialEq)]
struct Booking {
    passenger: String,
    paid: f64,
    note: Option<String>,
    seen: bool,
}

impl SqlValue for Booking {
    const COLUMNS: &'static [Column] = &[
        Column::of::<String>("passenger"),
        Column::of::<f64>("paid"),
        Column::of::<Option<String>>("note"),
        Column::of::<bool>("seen"),
    ];

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.put(&self.passenger)?;
        row.put(&self.paid)?;
        row.put(&self.note)?;
        row.put(&self.seen)
    }

    fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
        Ok(Self { passenger: row.take()?, paid: row.take()?, note: row.take()?, seen: row.take()? })
    }
}

#[test]
fn structs_and_composite_keys_have_columns_of_many_types() {
    let schema = "CREATE TYPE mood AS ENUM ('calm', 'wild');
                  CREATE TABLE t (flight varchar(8), seat int, passenger mood NOT NULL, paid double precision, note jsonb,
                                  seen boolean NOT NULL, extra text DEFAULT 'kept', PRIMARY KEY (flight, seat))";
    let Some(server) = server(schema) else { return };
    server.client().batch_execute("ALTER TYPE mood SET SCHEMA public").ok();
    let columns = Columns::new().key(["flight", "seat"]);
    let table: PostgresTable<(String, u16), Booking> =
        server.open().table_with(&server.name("t"), columns).unwrap();
    let booking = |passenger: &str, note: Option<&str>| Booking {
        passenger: passenger.to_owned(),
        paid: 1.5,
        note: note.map(str::to_owned),
        seen: true,
    };
    let key = |seat| ("X1".to_owned(), seat);
    let answers = apply(
        &table,
        vec![
            put(key(1), booking("calm", None)),
            put(key(2), booking("angry", None)),
            put(key(3), booking("wild", Some("{\"a\": 1}"))),
            put(key(4), booking("wild", Some("no json"))),
        ],
    );
    assert_eq!(classes(&answers), [STORED, PERMANENT, STORED, PERMANENT]);
    assert_eq!(
        table.load(&[key(3), key(2), key(1)]).unwrap(),
        [Some(booking("wild", Some("{\"a\": 1}"))), None, Some(booking("calm", None))]
    );
    server.client().batch_execute("UPDATE t SET extra = 'mine' WHERE seat = 1").unwrap();
    stored(apply(&table, vec![put(key(1), booking("wild", None)), del(key(3))]));
    assert_eq!(server.query("SELECT seat, passenger, extra FROM t"), "1|wild|mine");
    server.client().batch_execute("DROP TYPE IF EXISTS public.mood CASCADE").ok();
}

#[test]
fn large_batches_and_large_values_are_split() {
    let Some(server) = server("") else { return };
    let table: PostgresTable<u64, Vec<u8>> = server.table("t");
    stored(apply(&table, (0..30).map(|key| put(key, vec![7; 1 << 20])).collect()));
    stored(apply(&table, (30..20_000).map(|key| put(key, vec![1])).collect()));
    assert_eq!(
        server.query("SELECT count(*), sum(length(value)) FROM t"),
        format!("20000|{}", (30 << 20) + 19_970)
    );
    let keys: Vec<u64> = (0..20_010).rev().collect();
    assert_eq!(table.load(&keys).unwrap().iter().flatten().count(), 20_000);
    stored(apply(&table, (0..20_000).map(del).collect()));
    assert_eq!(server.query("SELECT count(*) FROM t"), "0");
}

#[test]
fn f16_a_delete_and_an_insert_that_compete_for_a_unique_column_keep_their_order() {
    let schema = "CREATE TABLE t (key bigint PRIMARY KEY, value text NOT NULL UNIQUE)";
    let Some(server) = server(schema) else { return };
    let table: PostgresTable<i64, String> = server.table("t");
    let text = |text: &str| text.to_owned();
    stored(apply(&table, vec![put(1, text("x")), put(3, text("z"))]));
    // Only in this order is the text free for its next owner.
    stored(apply(&table, vec![del(1), put(9, text("x")), put(5, text("y")), del(9), put(2, text("x"))]));
    // Sorted by key, 2 would come before 3 lets go of its text: the order of the batch is what counts then.
    stored(apply(&table, vec![put(3, text("new")), put(2, text("z"))]));
    assert_eq!(server.query("SELECT * FROM t ORDER BY key"), "2|z 3|new 5|y");
    // And through the cache.
    let cache = cache(table);
    cache.remove(&5).unwrap();
    cache.put(6, text("y")).unwrap();
    cache.flush().unwrap();
    assert_eq!(server.query("SELECT * FROM t ORDER BY key"), "2|z 3|new 6|y");
}

#[test]
fn f34_poison_in_a_batch_of_1000_costs_a_logarithm() {
    let schema = "CREATE TABLE t (key bigint PRIMARY KEY, value bigint NOT NULL CHECK (value <> 13));
                  CREATE SEQUENCE calls;
                  CREATE FUNCTION count_calls() RETURNS trigger LANGUAGE plpgsql AS
                      'BEGIN PERFORM nextval(TG_ARGV[0]); RETURN NULL; END';";
    let Some(server) = server(schema) else { return };
    server
        .client()
        .batch_execute(&format!(
            "CREATE TRIGGER c BEFORE INSERT ON t EXECUTE FUNCTION count_calls('{}')",
            server.name("calls")
        ))
        .unwrap();
    let table: PostgresTable<u64, u64> = server.table("t");
    let answers = apply(&table, (0..1_000).map(|key| put(key, if key == 617 { 13 } else { 1 })).collect());
    let refused: Vec<_> =
        answers.as_slice().iter().enumerate().filter(|(_, answer)| answer.is_err()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].0, refused[0].1.as_ref().unwrap_err().class()), (617, ErrorClass::Permanent));
    assert!(refused[0].1.as_ref().unwrap_err().to_string().contains("23514"), "{refused:?}");
    assert_eq!(server.query("SELECT count(*), sum(value) FROM t"), "999|999");
    let calls: u64 = server.query("SELECT last_value FROM calls").parse().unwrap();
    assert!(calls <= 23, "{calls} statements");
}

#[test]
fn f07_what_is_refused_is_parked_and_the_rest_is_stored() {
    let schema = "CREATE TABLE t (key bigint PRIMARY KEY, value bigint NOT NULL CHECK (value <> 13))";
    let Some(server) = server(schema) else { return };
    let cache = cache(server.table::<u64, u64>("t"));
    for key in 0..100 {
        cache.put(key, if key == 50 { 13 } else { 1 }).unwrap();
    }
    let error = cache.flush().unwrap_err();
    assert!(matches!(error, Error::NotFlushed { failed: 1, .. }), "{error:?}");
    assert_eq!(server.query("SELECT count(*) FROM t"), "99");
    assert_eq!(cache.get(&50).unwrap(), Some(13));
    cache.put(50, 14).unwrap();
    cache.flush().unwrap();
    assert_eq!(server.query("SELECT count(*) FROM t"), "100");
}

#[test]
fn a_row_that_only_the_commit_refuses_is_found() {
    let schema = "CREATE TABLE teams (id bigint PRIMARY KEY); INSERT INTO teams VALUES (1), (2);
                  CREATE TABLE t (key bigint PRIMARY KEY,
                                  value bigint NOT NULL REFERENCES teams DEFERRABLE INITIALLY DEFERRED)";
    let Some(server) = server(schema) else { return };
    let table: PostgresTable<u64, u64> = server.table("t");
    let answers = apply(&table, vec![put(1, 1), put(2, 99), put(3, 2), del(4)]);
    assert_eq!(classes(&answers), [STORED, PERMANENT, STORED, STORED]);
    assert_eq!(server.query("SELECT * FROM t ORDER BY key"), "1|1 3|2");
}

#[test]
fn rows_that_fit_no_column_are_refused_before_they_are_sent() {
    let Some(server) = server("CREATE TABLE t (key text PRIMARY KEY, value int NOT NULL)") else { return };
    let table: PostgresTable<String, i64> = server.table("t");
    let text = |text: &str| text.to_owned();
    let ops = vec![put(text("a"), 1), put(text("b\0"), 2), put(text("c"), i64::MAX), put(text("d"), 4)];
    let answers = apply(&table, ops);
    assert_eq!(classes(&answers), [STORED, PERMANENT, PERMANENT, STORED]);
    assert!(answers.as_slice()[1].as_ref().unwrap_err().to_string().contains("column `key`"));
    assert_eq!(server.query("SELECT * FROM t ORDER BY key"), "a|1 d|4");
}

#[test]
fn triggers_that_refuse_are_heard() {
    for (body, name) in [("RAISE EXCEPTION ''no''", "exception"), ("RETURN NULL", "left out")] {
        let schema = "CREATE TABLE t (key bigint PRIMARY KEY, value bigint NOT NULL)";
        let Some(server) = server(schema) else { return };
        let trigger = format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF new.value = 13 THEN {body}; END IF; RETURN new; END';
             CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        server.client().batch_execute(&trigger).unwrap();
        let table: PostgresTable<u64, u64> = server.table("t");
        let answers = apply(&table, vec![put(1, 1), put(2, 13), put(3, 3)]);
        assert_eq!(classes(&answers), [STORED, PERMANENT, STORED], "{name}: {answers:?}");
        assert_eq!(server.query("SELECT count(*) FROM t"), "2", "{name}");
    }
}

#[test]
fn f08_a_locked_row_is_transient_and_stored_later() {
    let Some(server) = server("") else { return };
    let table: PostgresTable<u64, u64> = server.table("t");
    stored(apply(&table, vec![put(1, 1)]));
    let mut other = server.client();
    other.batch_execute("BEGIN; UPDATE t SET value = 50 WHERE key = 1").unwrap();
    let answers = apply(&table, vec![put(1, 2), put(2, 2)]);
    assert_eq!(classes(&answers), [TRANSIENT; 2]);
    // Loads go on meanwhile, with what is committed.
    assert_eq!(table.load(&[1, 2]).unwrap(), [Some(1), None]);
    // A statement that takes too long is the same.
    let slow = Server::options().lock_timeout(Duration::ZERO).statement_timeout(Duration::from_millis(200));
    let slow: PostgresTable<u64, u64> = slow.connect(&server.url).unwrap().table(&server.name("t")).unwrap();
    let answers = apply(&slow, vec![put(1, 3)]);
    assert_eq!(classes(&answers), [TRANSIENT]);
    assert!(answers.as_slice()[0].as_ref().unwrap_err().to_string().contains("57014"), "{answers:?}");
    // With the cache: the write waits until the row is free.
    let cache = cache(table);
    cache.put(1, 4).unwrap();
    let unlock = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        other.batch_execute("ROLLBACK").unwrap();
    });
    eventually(|| server.query("SELECT value FROM t WHERE key = 1") == "4");
    unlock.join().unwrap();
    assert_eq!(cache.stats().dirty, 0);
}

#[test]
fn f08_a_table_that_is_gone_for_a_while_costs_no_row() {
    let Some(server) = server("") else { return };
    let table: PostgresTable<u64, u64> = server.table("t");
    stored(apply(&table, vec![put(1, 1)]));
    server.client().batch_execute("ALTER TABLE t RENAME TO away").unwrap();
    assert_eq!(classes(&apply(&table, vec![put(1, 2), del(1)])), [TRANSIENT; 2]);
    assert_eq!(table.load(&[1]).unwrap_err().class(), ErrorClass::Transient);
    server.client().batch_execute("ALTER TABLE away RENAME TO t").unwrap();
    stored(apply(&table, vec![put(2, 2)]));
    assert_eq!(table.load(&[1, 2]).unwrap(), [Some(1), Some(2)]);
    // One that changes under prepared statements, too.
    server.client().batch_execute("ALTER TABLE t ALTER value TYPE int; ALTER TABLE t ADD more text").unwrap();
    eventually(|| table.load(&[1]).is_ok_and(|values| values == [Some(1)]));
    eventually(|| apply(&table, vec![put(3, 3)]).as_slice()[0].is_ok());
}

#[test]
fn f37_connections_that_are_killed_all_the_time_lose_nothing() {
    let Some(server) = server("") else { return };
    let table: PostgresTable<u64, u64> = server.named().table(&server.name("t")).unwrap();
    let cache = cache(table);
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let cache = &cache;
            scope.spawn(move || {
                let mut turn = 0;
                while Instant::now() < end {
                    turn += 1;
                    cache.put(writer * 1_000 + turn % 1_000, turn).unwrap();
                    if turn % 200 == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            });
        }
        while Instant::now() < end {
            server.kill_all();
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    eventually(|| cache.flush().is_ok());
    let mut client = server.client();
    let rows = client.query("SELECT key, value FROM t", &[]).unwrap();
    assert!(rows.len() > 500, "{} rows", rows.len());
    for row in rows {
        let (key, value): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(cache.get(&key.unsigned_abs()).unwrap(), Some(value.unsigned_abs()), "key {key}");
    }
}

/// A session of the server hangs in the middle of a batch; its connection is given up. What it still has under way must not
/// come after what is written next.
#[cfg(target_os = "linux")]
#[test]
fn f13_a_session_that_was_given_up_is_ended_before_the_next_batch() {
    let Some(server) = server("") else { return };
    let address = format!("{}?application_name={}", server.url, server.schema);
    let quick = Postgres::options().statement_timeout(Duration::from_millis(10)).lock_timeout(Duration::ZERO);
    let table: PostgresTable<u64, u64> = quick.connect(&address).unwrap().table(&server.name("t")).unwrap();
    stored(apply(&table, vec![put(1, 1)]));
    let pid = format!("SELECT pid FROM pg_stat_activity WHERE application_name = '{}'", server.schema);
    let pid: i32 = server.query(&pid).parse().expect("one session");
    let signal = |signal| {
        // SAFETY: it is a process of the server of this test, or none.
        unsafe { libc::kill(pid, signal) == 0 }
    };
    if !signal(libc::SIGSTOP) {
        eprintln!("skipped: the server's processes are not this user's to stop");
        return;
    }
    // The server does not even see its own timeout, so that only the client's is left.
    assert_eq!(classes(&apply(&table, vec![put(1, 2)])), [TRANSIENT]);
    // It was told to end, and cannot: nothing is written as long as it might go on.
    let answers = apply(&table, vec![put(1, 3)]);
    assert_eq!(classes(&answers), [TRANSIENT]);
    assert!(
        answers.as_slice()[0].as_ref().unwrap_err().to_string().contains("earlier session"),
        "{answers:?}"
    );
    assert_eq!(table.load(&[1]).unwrap(), [Some(1)]);
    signal(libc::SIGCONT);
    eventually(|| apply(&table, vec![put(1, 3)]).as_slice()[0].is_ok());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.query("SELECT value FROM t"), "3");
}

#[test]
fn deadlocks_with_another_client_end_with_everything_written() {
    let Some(server) = server("") else { return };
    // Long waits for locks, so that the deadlock itself is what ends them.
    let db = Postgres::options().lock_timeout(Duration::from_secs(10)).connect(&server.url).unwrap();
    let table: PostgresTable<u64, u64> = db.table(&server.name("t")).unwrap();
    stored(apply(&table, (0..50).map(|key| put(key, 0)).collect()));
    let cache =
        Cache::builder().capacity(1_000).max_delay(Duration::from_millis(5)).backend(table).open().unwrap();
    let mut deadlocks = 0;
    for round in 1..=6_u64 {
        for key in 0..50 {
            cache.put(key, round).unwrap();
        }
        // In the other order, slowly.
        let mut other = server.client();
        other.batch_execute("SET deadlock_timeout = '50ms'; BEGIN").unwrap();
        for key in (0..50_i64).rev() {
            if other.execute("UPDATE t SET value = value WHERE key = $1", &[&key]).is_err() {
                deadlocks += 1;
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        other.batch_execute("ROLLBACK").unwrap();
    }
    eventually(|| cache.flush().is_ok());
    assert_eq!(server.query("SELECT DISTINCT value FROM t"), "6");
    let stats = cache.stats();
    eprintln!("{deadlocks} deadlocks hit the other client; the cache's failed operations: {stats:?}");
}

#[test]
fn batches_in_other_orders_do_not_deadlock() {
    let Some(server) = server("") else { return };
    let table: PostgresTable<u64, u64> = server.open().table(&server.name("t")).unwrap();
    stored(apply(&table, (0..200).map(|key| put(key, 0)).collect()));
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let table = table.clone();
            scope.spawn(move || {
                for round in 0..30 {
                    let keys = (0..200).map(|at| (at * (2 * writer + 3) + round) % 200);
                    let mut seen = std::collections::HashSet::new();
                    let ops = keys.filter(|key| seen.insert(*key)).map(|key| put(key, round)).collect();
                    stored(apply(&table, ops));
                }
            });
        }
    });
}

#[test]
fn f38_the_version_guard_refuses_what_comes_late() {
    let Some(server) = server("") else { return };
    let db = server.open();
    let open = || -> PostgresTable<u64, String> {
        db.guarded_table(&server.name("t"), Columns::new(), "version").unwrap()
    };
    let table = open();
    let upsert = |version, value: &str| Op::new(1, Change::Upsert(value.to_owned()), version, 1);
    let at = |version, value: &str| vec![upsert(version, value)];
    stored(apply(&table, at(5, "five")));
    // Late, and repeated: already there.
    stored(apply(&table, at(4, "four")));
    stored(apply(&table, at(5, "five again")));
    assert_eq!(server.query("SELECT key, value, version FROM t"), "1|five|5");
    stored(apply(&table, vec![Op::new(1, Change::Delete, 4, 2)]));
    assert_eq!(server.query("SELECT count(*) FROM t"), "1");
    stored(apply(&table, at(6, "six")));
    // In company: the late one is passed over, the others are written.
    stored(apply(&table, vec![upsert(2, "two"), Op::new(2, Change::Upsert("b".to_owned()), 1, 1)]));
    assert_eq!(server.query("SELECT key, value FROM t ORDER BY key"), "1|six 2|b");
    // A cache that was opened later begins anew with its versions, and the earlier one is told.
    let later = open();
    stored(apply(&later, at(1, "later")));
    assert_eq!(server.query("SELECT value FROM t WHERE key = 1"), "later");
    let both = vec![upsert(9, "nine"), Op::new(3, Change::Upsert("c".to_owned()), 9, 1)];
    assert_eq!(classes(&apply(&table, both)), [Some(ErrorClass::Conflict), STORED]);
    let delete = vec![Op::new(1, Change::Delete, 10, 1)];
    assert_eq!(classes(&apply(&table, delete)), [Some(ErrorClass::Conflict)]);
    stored(apply(&later, vec![Op::new(1, Change::Delete, 2, 1), Op::new(7, Change::Delete, 2, 1)]));
    assert_eq!(server.query("SELECT key, value FROM t ORDER BY key"), "2|b 3|c");
    // The whole cache on top, twice, without a journal: its versions begin anew each time.
    for round in ["first", "second"] {
        let cache = cache(later.clone());
        cache.put(1, round.to_owned()).unwrap();
        cache.flush().unwrap();
        assert_eq!(server.query("SELECT value FROM t WHERE key = 1"), round);
    }
}

/// Catches: a reference that the database refuses because of the order in which rows come.
#[test]
fn f16_no_reference_is_refused_with_ranks_and_any_number_of_workers() {
    let Some(server) = server(family::SCHEMA) else { return };
    for (workers, batch) in [(1, 100), (3, 7), (8, 20)] {
        let expected = family::storm(server.table::<u64, u64>("t"), workers, batch);
        assert_eq!(server.query("SELECT key, value FROM t ORDER BY key"), family::told(&expected));
        // From the leaves up: each statement is checked as a whole.
        server.query("DELETE FROM t");
    }
}

/// With a cache for each table, parents that are flushed first are there for their children.
#[test]
fn f16_children_come_after_parents_that_were_flushed() {
    let schema = "CREATE TABLE parents (key bigint PRIMARY KEY, value bigint NOT NULL);
                  CREATE TABLE children (key bigint PRIMARY KEY, value bigint NOT NULL REFERENCES parents)";
    let Some(server) = server(schema) else { return };
    let db = server.open();
    let parents = cache(db.table::<u64, u64>(&server.name("parents")).unwrap());
    let children = cache(db.table::<u64, u64>(&server.name("children")).unwrap());
    for key in 0..20 {
        parents.put_acked(key, key, Ack::Backend).unwrap();
        children.put(key, key).unwrap();
    }
    children.flush().unwrap();
    // A child whose parent is not there is refused, and goes in when it is.
    children.put(99, 99).unwrap();
    assert!(matches!(children.flush(), Err(Error::NotFlushed { failed: 1, .. })));
    parents.put_acked(99, 99, Ack::Backend).unwrap();
    children.flush().unwrap();
    // Children before parents on delete.
    children.remove(&5).unwrap();
    children.flush().unwrap();
    parents.remove(&5).unwrap();
    parents.flush().unwrap();
    assert_eq!(server.query("SELECT count(*) FROM parents"), "20");
}

#[test]
fn f21_loads_read_through_in_batches_and_never_go_back() {
    let Some(server) = server("") else { return };
    let table: PostgresTable<u64, String> = server.table("t");
    stored(apply(&table, (0..100).map(|key| put(key, format!("row {key}"))).collect()));
    let cache = cache(table);
    assert_eq!(cache.get(&42).unwrap().as_deref(), Some("row 42"));
    assert_eq!(cache.get(&1_000).unwrap(), None);
    cache.put(42, "new".to_owned()).unwrap();
    cache.remove(&43).unwrap();
    assert_eq!((cache.get(&42).unwrap().as_deref(), cache.get(&43).unwrap()), (Some("new"), None));
    cache.flush().unwrap();
    assert_eq!((cache.get(&42).unwrap().as_deref(), cache.get(&43).unwrap()), (Some("new"), None));
}

#[test]
fn calls_from_an_async_runtime_only_block() {
    let Some(server) = server("") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let table: PostgresTable<u64, u64> = server.table("t");
        stored(apply(&table, vec![put(1, 1)]));
        assert_eq!(table.load(&[1]).unwrap(), [Some(1)]);
    });
}

#[test]
fn the_identity_names_the_place_and_no_secret() {
    let Some(server) = server("") else { return };
    let mut url = server.url.clone();
    url = url.replace("writeback@", "writeback:hunter2@");
    let db = Postgres::connect(&url).unwrap();
    let table: PostgresTable<u64, u64> = db.table(&server.name("t")).unwrap();
    let identity = table.identity();
    assert!(identity.starts_with("postgres://127.0.0.1:"), "{identity}");
    assert!(
        identity.ends_with(&format!("#{}", server.name("t"))) && !identity.contains("hunter2"),
        "{identity}"
    );
    assert!(!format!("{db:?} {table:?}").contains("hunter2"));
}

#[test]
fn tables_of_another_shape_are_refused() {
    let cases = [
        ("CREATE TABLE t (key bigint PRIMARY KEY)", "no column `value`"),
        ("CREATE TABLE t (key bigint PRIMARY KEY, value text NOT NULL)", "`value` is text, not bigint"),
        ("CREATE TABLE t (key text PRIMARY KEY, value bigint)", "`key` is text, not bigint"),
        ("CREATE TABLE t (key bigint, value bigint)", "neither a primary key nor a unique index"),
        ("CREATE TABLE t (key bigint, value bigint, PRIMARY KEY (key, value))", "neither a primary key"),
        ("CREATE TABLE t (key bigint PRIMARY KEY, value bigint, x text NOT NULL)", "`x` has no default"),
        (
            "CREATE TABLE t (key bigint PRIMARY KEY, value bigint GENERATED ALWAYS AS (key * 2) STORED)",
            "`value` is computed",
        ),
        ("CREATE VIEW t AS SELECT 1 AS key, 2 AS value", "it is a view"),
    ];
    for (schema, difference) in cases {
        let Some(server) = server(schema) else { return };
        let error = server.open().table::<u64, u64>(&server.name("t")).map(drop).unwrap_err();
        assert!(matches!(error, PostgresOpenError::Shape { .. }), "{error:?}");
        assert!(error.to_string().contains(difference), "{error}");
    }
}

#[test]
fn what_cannot_be_opened_is_told_apart() {
    assert!(matches!(Postgres::connect("nonsense"), Err(PostgresOpenError::Address { .. })));
    assert!(matches!(Postgres::connect("user=me"), Err(PostgresOpenError::Address { .. })));
    let refused = Postgres::options().connect_timeout(Duration::from_millis(300));
    let error = refused.connect("postgres://me:secret@127.0.0.1:1/x").unwrap_err();
    assert!(matches!(error, PostgresOpenError::CannotConnect { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1/x") && !error.to_string().contains("secret"), "{error}");
    let Some(server) = server("") else { return };
    let db = server.open();
    for name in ["", "a b", "a\"b", "t; DROP TABLE u", "1st", "größe", "a.b.c", "x'", &"x".repeat(64)] {
        let error = db.table::<u64, u64>(name).map(drop).unwrap_err();
        assert!(matches!(error, PostgresOpenError::Name { .. }), "{name}: {error:?}");
    }
    let keyword: PostgresTable<u64, u64> =
        db.table_with(&server.name("select"), Columns::new().key(["group"]).value(["order"])).unwrap();
    stored(apply(&keyword, vec![put(1, 1), del(2)]));
    assert_eq!(keyword.load(&[1]).unwrap(), [Some(1)]);
}

fn cache<K, V>(table: PostgresTable<K, V>) -> Cache<K, V>
where
    K: SqlKey + std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    V: SqlValue + Clone + Send + Sync + 'static,
{
    let builder = Cache::builder().capacity(10_000).max_delay(Duration::from_millis(20));
    builder.backend(table).open().expect("a cache")
}

#[track_caller]
fn eventually(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in 20 seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
}
