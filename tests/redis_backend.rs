//! The Redis backend against a real server, and through a second connection that looks at what is stored.
//!
//! The server is the one that `WRITEBACK_REDIS` names (`eval "$(.ci/servers start DIR)"` starts one); without it, each test says that
//! it was skipped. Each has a prefix of its own.

#![cfg(feature = "redis")]

mod answers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{Client, Commands, Connection};
use writeback::{
    Backend, Cache, Change, ErrorClass, Op,
    backend::{
        CellError, Column, Columns, Redis, RedisMap, RedisOpenError, RowReader, RowWriter, SqlKey, SqlValue,
    },
};

use answers::{STORED, TRANSIENT, apply, classes, del, put, stored};

const CONFLICT: Option<ErrorClass> = Some(ErrorClass::Conflict);

/// A prefix of its own on the server; its keys are gone on drop.
struct Server {
    url: String,
    prefix: String,
}

static PREFIXES: AtomicU64 = AtomicU64::new(0);

/// `None`: there is no server, and the test is over.
fn server() -> Option<Server> {
    let Ok(url) = std::env::var("WRITEBACK_REDIS") else {
        eprintln!("skipped: WRITEBACK_REDIS names no server (.ci/servers starts one)");
        return None;
    };
    let prefix = format!("test:{}:{}:", std::process::id(), PREFIXES.fetch_add(1, Ordering::Relaxed));
    Some(Server { url, prefix })
}

impl Server {
    fn open(&self) -> Redis {
        Redis::connect(&self.url).expect("the server that WRITEBACK_REDIS names")
    }

    fn map<K: SqlKey, V: SqlValue>(&self) -> RedisMap<K, V> {
        self.open().map(&self.prefix).expect("a map")
    }

    /// A second connection.
    fn connect(&self) -> Connection {
        Client::open(&*self.url).and_then(|client| client.get_connection()).expect("a connection")
    }

    fn get(&self, key: &str) -> Option<String> {
        self.connect().get(format!("{}{key}", self.prefix)).expect("a string")
    }

    fn hash(&self, key: &str) -> BTreeMap<String, String> {
        self.connect().hgetall(format!("{}{key}", self.prefix)).expect("a hash")
    }

    fn keys(&self) -> Vec<String> {
        self.connect().keys(format!("{}*", self.prefix)).expect("keys")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let (keys, runs) = (self.keys(), format!("writeback:runs:{}", self.prefix));
        let _: Result<(), _> = self.connect().del([keys, vec![runs]].concat());
    }
}

#[test]
fn strings_are_what_other_programs_expect() {
    let Some(server) = server() else { return };
    let map: RedisMap<String, u64> = server.map();
    let text = |text: &str| text.to_owned();
    stored(apply(&map, vec![put(text("a"), 1), put(text("b"), u64::MAX), put(text("c"), 3), del(text("x"))]));
    assert_eq!(
        (server.get("a").as_deref(), server.get("b").as_deref()),
        (Some("1"), Some("18446744073709551615"))
    );
    stored(apply(&map, vec![del(text("a")), put(text("c"), 4)]));
    assert_eq!(
        map.load(&[text("c"), text("a"), text("b"), text("c")]).unwrap(),
        [Some(4), None, Some(u64::MAX), Some(4)]
    );
    stored(apply(&map, vec![]));
    assert_eq!(map.load(&[]).unwrap(), []);
    // What another program stored is checked.
    let _: () = server.connect().set(format!("{}a", server.prefix), "many").unwrap();
    assert_eq!(map.load(&[text("a")]).unwrap_err().class(), ErrorClass::Permanent);
}

#[test]
fn every_cell_comes_back() {
    fn there_and_back<V: SqlValue + Clone + PartialEq + std::fmt::Debug>(values: &[V]) {
        let Some(server) = server() else { return };
        let map: RedisMap<u64, V> = server.map();
        let hashes: RedisMap<u64, V> =
            server.open().hashes(&format!("{}h:", server.prefix), Columns::new()).unwrap();
        for map in [map, hashes] {
            stored(apply(&map, (0..).zip(values).map(|(key, value)| put(key, value.clone())).collect()));
            let keys: Vec<u64> = (0..=values.len() as u64).collect();
            let loaded = map.load(&keys).unwrap();
            assert_eq!(loaded.last(), Some(&None));
            assert_eq!(loaded.into_iter().flatten().collect::<Vec<_>>(), values);
        }
    }
    there_and_back(&[i8::MIN, -1, 0, i8::MAX]);
    there_and_back(&[i64::MIN, -1, 0, i64::MAX]);
    there_and_back(&[0, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX]);
    there_and_back(&[true, false]);
    there_and_back(&[0.0, 1.5e300, f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY]);
    there_and_back(&[0.1_f32, f32::MAX]);
    there_and_back(&[String::new(), "with \0 inside".to_owned(), "größe".to_owned()]);
    there_and_back(&[vec![], vec![0_u8, 255, 10, 13], vec![7; 100_000]]);
    there_and_back(&[[0_u8; 32], [9; 32]]);
    there_and_back(&[None, Some(u64::MAX), Some(0)]);
    there_and_back(&[(1_u8, "a".to_owned(), None, -5_i64), (2, String::new(), Some(vec![1_u8]), 5)]);
    there_and_back(&[(None::<u8>, None::<String>), (Some(1), None)]);
    there_and_back(&[(), ()]);
}

#[test]
fn keys_of_several_columns_never_meet() {
    let Some(server) = server() else { return };
    let map: RedisMap<(String, String), u64> = server.map();
    let key = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    let keys =
        [key("a", "b:c"), key("a:b", "c"), key("a\\", ":c"), key("a", "\\::c"), key("", ""), key(":", "")];
    stored(apply(&map, keys.iter().cloned().zip(0..).map(|(key, n)| put(key, n)).collect()));
    assert_eq!(map.load(&keys).unwrap(), (0..6).map(Some).collect::<Vec<_>>());
    assert_eq!(server.get("a:b\\:c").as_deref(), Some("0"));
}

#[derive(Debug, Clone, PartialEq)]
struct Player {
    name: String,
    points: i64,
    team: Option<String>,
}

impl SqlValue for Player {
    const COLUMNS: &'static [Column] =
        &[Column::of::<String>("name"), Column::of::<i64>("points"), Column::of::<Option<String>>("team")];

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.put(&self.name)?;
        row.put(&self.points)?;
        row.put(&self.team)
    }

    fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
        Ok(Self { name: row.take()?, points: row.take()?, team: row.take()? })
    }
}

fn player(team: Option<&str>) -> Player {
    Player { name: "Ada".to_owned(), points: -7, team: team.map(str::to_owned) }
}

#[test]
fn structs_are_hashes_with_a_field_for_each_column() {
    let Some(server) = server() else { return };
    let map: RedisMap<u64, Player> = server.map();
    let _: () = server.connect().hset(format!("{}7", server.prefix), "extra", "kept").unwrap();
    stored(apply(&map, vec![put(7, player(Some("red")))]));
    assert_eq!(server.hash("7").len(), 4);
    // What is None is no field, also if it was one.
    stored(apply(&map, vec![put(7, player(None)), put(8, player(None))]));
    let expected = [("extra", "kept"), ("name", "Ada"), ("points", "-7")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(server.hash("7"), BTreeMap::from(expected));
    assert_eq!(map.load(&[8, 9, 7]).unwrap(), [Some(player(None)), None, Some(player(None))]);
    stored(apply(&map, vec![del(7)]));
    assert_eq!(server.hash("7").len(), 0);
}

#[test]
fn f34_what_is_refused_keeps_nothing_else_from_being_stored() {
    let Some(server) = server() else { return };
    let map: RedisMap<u64, Player> = server.map();
    let _: () = server.connect().set(format!("{}617", server.prefix), "no hash").unwrap();
    let answers = apply(&map, (0..1_000).map(|key| put(key, player(None))).collect());
    let refused: Vec<_> =
        answers.as_slice().iter().enumerate().filter(|(_, answer)| answer.is_err()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].0, refused[0].1.as_ref().unwrap_err().class()), (617, ErrorClass::Permanent));
    assert!(refused[0].1.as_ref().unwrap_err().to_string().contains("another prefix"), "{refused:?}");
    assert_eq!(server.keys().len(), 1_000);
    assert_eq!(map.load(&[616, 618]).unwrap(), [Some(player(None)), Some(player(None))]);
    assert_eq!(map.load(&[616, 617]).unwrap_err().class(), ErrorClass::Permanent);
    stored(apply(&map, vec![del(617), put(618, player(None))]));
}

#[test]
fn operations_are_carried_out_in_their_order_and_large_batches_too() {
    let Some(server) = server() else { return };
    let map: RedisMap<u64, Vec<u8>> = server.map();
    stored(apply(&map, (0..40).map(|key| put(key, vec![7; 1 << 20])).collect()));
    stored(apply(
        &map,
        (40..20_000).map(|key| if key % 2 == 0 { put(key, vec![1]) } else { del(key) }).collect(),
    ));
    let keys: Vec<u64> = (0..20_000).collect();
    assert_eq!(map.load(&keys).unwrap().iter().flatten().count(), 40 + 9_980);
}

#[test]
fn f37_connections_that_are_killed_all_the_time_lose_nothing() {
    let Some(server) = server() else { return };
    // In a database of its own, whose connections can be told from those of other tests.
    let server = Server { url: format!("{}7", server.url), prefix: server.prefix.clone() };
    let cache = cache(server.map::<u64, u64>());
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
            let mut connection = server.connect();
            let all: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
            for client in all.lines().filter(|line| line.contains(" db=7 ")) {
                let number = client.strip_prefix("id=").and_then(|rest| rest.split(' ').next()).unwrap();
                let _: Result<u64, _> =
                    redis::cmd("CLIENT").arg("KILL").arg("ID").arg(number).query(&mut connection);
            }
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    eventually(|| cache.flush().is_ok());
    let keys = server.keys();
    assert!(keys.len() > 500, "{} keys", keys.len());
    for key in keys {
        let n = key.strip_prefix(&server.prefix).unwrap();
        let value = server.get(n).map(|value| value.parse().unwrap());
        assert_eq!(cache.get(&n.parse().unwrap()).unwrap(), value, "key {n}");
    }
}

/// The server hangs in the middle of a batch; the connection is given up. What the server has of it already must not come after
/// what is written next.
#[test]
fn f13_a_connection_that_was_given_up_is_ended_before_the_next_batch() {
    let Some(server) = server() else { return };
    let quick = Redis::options().answer_timeout(Duration::from_millis(100)).connect(&server.url).unwrap();
    let map: RedisMap<u64, String> = quick.map(&server.prefix).unwrap();
    stored(apply(&map, vec![put(1, "one".to_owned())]));
    // All clients are made to wait, as by a server that is swapping; what they send waits with them.
    let pause = |how: &[&str]| {
        let _: () = redis::cmd("CLIENT").arg(how).query(&mut server.connect()).unwrap();
    };
    pause(&["PAUSE", "1500", "WRITE"]);
    assert_eq!(classes(&apply(&map, vec![put(1, "late".to_owned())])), [TRANSIENT]);
    // The old connection is ended, although the server hangs; the new one has to wait, too.
    assert_eq!(classes(&apply(&map, vec![put(1, "next".to_owned())])), [TRANSIENT]);
    eventually(|| apply(&map, vec![put(1, "last".to_owned())]).as_slice()[0].is_ok());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.get("1").as_deref(), Some("last"));
}

#[test]
fn f38_the_version_guard_refuses_what_comes_late() {
    let Some(server) = server() else { return };
    let db = server.open();
    let open =
        || -> RedisMap<u64, Player> { db.guarded_hashes(&server.prefix, Columns::new(), "version").unwrap() };
    let upsert = |key, version, points| {
        let value =
            Player { name: "Ada".to_owned(), points, team: (points % 2 == 0).then(|| "even".to_owned()) };
        Op::new(key, Change::Upsert(value), version, 1)
    };
    let points = |key| server.hash(key).get("points").cloned();
    let map = open();
    stored(apply(&map, vec![upsert(1, 5, 50)]));
    // Late, and repeated: already there.
    stored(apply(&map, vec![upsert(1, 4, 40)]));
    stored(apply(&map, vec![upsert(1, 5, 51), upsert(2, 1, 1)]));
    stored(apply(&map, vec![Op::new(1, Change::Delete, 4, 2)]));
    assert_eq!((points("1").as_deref(), points("2").as_deref()), (Some("50"), Some("1")));
    // Numbers that Lua's cannot tell apart.
    stored(apply(&map, vec![upsert(3, u64::MAX - 1, 1)]));
    stored(apply(&map, vec![upsert(3, u64::MAX, 3)]));
    stored(apply(&map, vec![upsert(3, u64::MAX - 1, 2)]));
    assert_eq!(points("3").as_deref(), Some("3"));
    assert!(!server.hash("3").contains_key("team"));
    // A server that has forgotten the script.
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut server.connect()).unwrap();
    stored(apply(&map, vec![upsert(1, 6, 60), upsert(2, 2, 2)]));
    assert_eq!((points("1").as_deref(), points("2").as_deref()), (Some("60"), Some("2")));
    // A cache that was opened later begins anew with its versions, and the earlier one is told.
    let later = open();
    stored(apply(&later, vec![upsert(1, 1, 10)]));
    assert_eq!(classes(&apply(&map, vec![upsert(1, 9, 90), upsert(4, 1, 4)])), [CONFLICT, STORED]);
    assert_eq!(classes(&apply(&map, vec![Op::new(1, Change::Delete, 9, 1)])), [CONFLICT]);
    assert_eq!(later.load(&[1]).unwrap()[0].as_ref().map(|player| player.points), Some(10));
    stored(apply(&later, vec![Op::new(1, Change::Delete, 2, 1)]));
    assert_eq!(points("1"), None);
    // The whole cache on top, twice, without a journal: its versions begin anew each time.
    for round in [1, 2] {
        let cache = cache(later.clone());
        cache.put(1, Player { points: round, ..player(None) }).unwrap();
        cache.flush().unwrap();
        assert_eq!(points("1"), Some(round.to_string()));
    }
}

#[test]
fn f21_loads_read_through_and_never_go_back() {
    let Some(server) = server() else { return };
    let map: RedisMap<u64, String> = server.map();
    stored(apply(&map, (0..100).map(|key| put(key, format!("row {key}"))).collect()));
    let cache = cache(map);
    assert_eq!(cache.get(&42).unwrap().as_deref(), Some("row 42"));
    assert_eq!(cache.get(&1_000).unwrap(), None);
    cache.put(42, "new".to_owned()).unwrap();
    cache.remove(&43).unwrap();
    assert_eq!((cache.get(&42).unwrap().as_deref(), cache.get(&43).unwrap()), (Some("new"), None));
    cache.flush().unwrap();
    assert_eq!((server.get("42").as_deref(), server.get("43")), (Some("new"), None));
}

#[test]
fn calls_from_an_async_runtime_only_block() {
    let Some(server) = server() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let map: RedisMap<u64, Arc<str>> = server.map();
        stored(apply(&map, vec![put(1, "one".into())]));
        assert_eq!(map.load(&[1]).unwrap(), [Some("one".into())]);
    });
}

#[test]
fn what_cannot_be_opened_is_told_apart() {
    assert!(matches!(Redis::connect("nonsense"), Err(RedisOpenError::Address { .. })));
    let error = Redis::connect("redis://me:secret@127.0.0.1:1/3").unwrap_err();
    assert!(matches!(error, RedisOpenError::CannotConnect { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1/3") && !error.to_string().contains("secret"), "{error}");
    let Some(server) = server() else { return };
    let db = server.open();
    let map: RedisMap<u64, u64> = db.map("p:").unwrap();
    assert!(map.identity().starts_with("redis://127.0.0.1:") && map.identity().ends_with("/0#p:"));
    let same = db.hashes::<u64, u64>("p:", Columns::new().value(["a", "b"])).map(drop).unwrap_err();
    assert!(matches!(same, RedisOpenError::Fields { .. }), "{same:?}");
    let taken = db.guarded_hashes::<u64, Player>("p:", Columns::new(), "name").map(drop).unwrap_err();
    assert!(taken.to_string().contains("`name`"), "{taken}");
}

fn cache<K, V>(map: RedisMap<K, V>) -> Cache<K, V>
where
    K: SqlKey + std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    V: SqlValue + Clone + Send + Sync + 'static,
{
    let builder = Cache::builder().capacity(10_000).max_delay(Duration::from_millis(20));
    builder.backend(map).open().expect("a cache")
}

#[track_caller]
fn eventually(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in 20 seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
}
