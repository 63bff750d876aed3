//! How fast dirty entries drain into a database, beside the fastest bulk write that is written here by hand against the same
//! table.
//!
//! `cargo bench --bench drain --features sqlite,postgres,redis`
//!
//! One process, slices of both in turn, and the median of the ratios of neighbours: what else the machine does meanwhile falls on
//! both. A slice of the cache is the time of `flush` with so many dirty entries; a slice by hand writes the same rows. Postgres and Redis are
//! the servers that `WRITEBACK_POSTGRES` and `WRITEBACK_REDIS` name, and are skipped without them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use writeback::{Answers, Backend, BackendError, Batch, Cache};

/// Dirty entries in a slice.
const ROWS: u64 = 20_000;
/// Rows in a batch, of the cache and by hand.
const BATCH: usize = 1_000;
/// Pairs of slices.
const ROUNDS: u64 = 31;
/// Below this the benchmark fails.
const LEAST: f64 = 0.8;

fn main() {
    // Cargo's own arguments (`--bench`) mean nothing here; a test run of the benches only compiles it.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    // All of them, also after one that is too slow.
    let ok = [sqlite::run(), postgres::run(), redis::run()];
    if ok.contains(&false) {
        eprintln!("a drain is slower than {LEAST} of what can be written by hand");
        std::process::exit(1);
    }
}

/// The value of a key in a round: new each time, and of a size that rows have.
fn value(key: u64, round: u64) -> String {
    format!("{key:020}{round:020}-padding-padding-padding")
}

/// The keys of a round, in no order.
fn keys() -> impl Iterator<Item = u64> {
    // Odd, so that it meets each once.
    (0..ROWS).map(|at| at.wrapping_mul(7_919) % ROWS)
}

/// Tells how much of the time is spent in the backend.
struct Timed<B>(B, Arc<AtomicU64>);

impl<B: Backend<u64, String>> Backend<u64, String> for Timed<B> {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<String>>, BackendError> {
        self.0.load(keys)
    }

    fn apply(&self, batch: &Batch<u64, String>) -> Answers {
        let start = Instant::now();
        let answers = self.0.apply(batch);
        self.1.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        answers
    }
}

fn compare(
    name: &str,
    backend: impl Backend<u64, String> + 'static,
    by_hand: impl FnMut(&[(u64, String)]),
) -> bool {
    let builder = Cache::builder().capacity(2 * ROWS as usize).batch_size(BATCH);
    let builder = builder.flush_at(usize::MAX).max_delay(Duration::from_secs(3_600));
    let inside = Arc::new(AtomicU64::new(0));
    let cache = builder.backend(Timed(backend, inside.clone())).open::<u64, String>().expect("a cache");
    let mut by_hand = by_hand;
    let (mut ratios, mut cached, mut written, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let rows: Vec<(u64, String)> = keys().map(|key| (key, value(key, round * 2))).collect();
        let mut hand = || {
            let start = Instant::now();
            by_hand(&rows);
            start.elapsed()
        };
        let drain = || {
            for key in keys() {
                cache.put(key, value(key, round * 2 + 1)).expect("room");
            }
            let start = Instant::now();
            cache.flush().expect("the database takes everything");
            start.elapsed()
        };
        // Each goes first every other time.
        let (hand, drain) = match round % 2 {
            0 => {
                let hand = hand();
                (hand, drain())
            }
            _ => {
                let drain = drain();
                (hand(), drain)
            }
        };
        let applied = inside.swap(0, Ordering::Relaxed) as f64 / 1e9;
        // The first one fills the table.
        if round > 0 {
            shares.push(applied / drain.as_secs_f64());
            ratios.push(hand.as_secs_f64() / drain.as_secs_f64());
            cached.push(drain.as_secs_f64());
            written.push(hand.as_secs_f64());
        }
    }
    let rate = |seconds: f64| ROWS as f64 / seconds / 1_000.0;
    let (least, most) = (quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75));
    let ratio = quantile(&mut ratios, 0.5);
    println!(
        "{name:<10} drain {:>7.1} k rows/s   by hand {:>7.1} k rows/s   ratio {ratio:.2} ({least:.2} to {most:.2}), \
         {:.0} % of the drain in the backend",
        rate(quantile(&mut cached, 0.5)),
        rate(quantile(&mut written, 0.5)),
        quantile(&mut shares, 0.5) * 100.0,
    );
    ratio >= LEAST
}

fn quantile(of: &mut [f64], part: f64) -> f64 {
    of.sort_by(f64::total_cmp);
    of[((of.len() - 1) as f64 * part).round() as usize]
}

mod sqlite {
    use rusqlite::{Connection, params_from_iter};
    use writeback::backend::Sqlite;

    use super::{BATCH, compare};

    /// Multi-row upserts, prepared once, a transaction for each batch, the same settings of the database.
    pub(super) fn run() -> bool {
        const TUPLES: usize = 50;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("drain.db");
        let table = Sqlite::open(&path).and_then(|db| db.table("t")).expect("a table");
        let mut connection = Connection::open(&path).expect("a connection");
        connection.pragma_update(None, "synchronous", "NORMAL").expect("a setting");
        connection.pragma_update(None, "wal_autocheckpoint", 4_000).expect("a setting");
        let sql = format!(
            "INSERT INTO t (key, value) VALUES {} ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            ["(?, ?)"; TUPLES].join(", ")
        );
        compare("SQLite", table, move |rows| {
            for batch in rows.chunks(BATCH) {
                // Sorted, which makes it faster.
                let mut batch: Vec<_> = batch.iter().collect();
                batch.sort_by_key(|(key, _)| *key);
                let transaction = connection.transaction().expect("a transaction");
                let mut statement = transaction.prepare_cached(&sql).expect("a statement");
                for some in batch.chunks(TUPLES) {
                    let cells = some.iter().flat_map(|(key, value)| {
                        [
                            rusqlite::types::ToSqlOutput::from(*key as i64),
                            rusqlite::types::ToSqlOutput::from(&**value),
                        ]
                    });
                    statement.execute(params_from_iter(cells)).expect("an upsert");
                }
                drop(statement);
                transaction.commit().expect("a commit");
            }
        })
    }
}

mod postgres {
    use postgres::{Client, NoTls};
    use writeback::backend::Postgres;

    use super::{BATCH, compare};

    /// One unnest upsert for each batch, prepared once.
    pub(super) fn run() -> bool {
        let Ok(address) = std::env::var("WRITEBACK_POSTGRES") else {
            println!("Postgres   skipped: WRITEBACK_POSTGRES names no server (.ci/servers starts one)");
            return true;
        };
        let mut client = Client::connect(&address, NoTls).expect("the server");
        client.batch_execute("DROP TABLE IF EXISTS drain_bench").expect("no table");
        let table = Postgres::connect(&address).and_then(|db| db.table("drain_bench")).expect("a table");
        let upsert = "INSERT INTO drain_bench (key, value) SELECT * FROM unnest($1::int8[], $2::text[]) \
                      ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let upsert = client.prepare(upsert).expect("a statement");
        let ok = compare("Postgres", table, |rows| {
            for batch in rows.chunks(BATCH) {
                let mut batch: Vec<_> = batch.iter().collect();
                batch.sort_by_key(|(key, _)| *key);
                let keys: Vec<i64> = batch.iter().map(|(key, _)| *key as i64).collect();
                let values: Vec<&str> = batch.iter().map(|(_, value)| &**value).collect();
                client.execute(&upsert, &[&keys, &values]).expect("an upsert");
            }
        });
        client.batch_execute("DROP TABLE drain_bench").expect("no table");
        ok
    }
}

mod redis {
    use redis::{Client, Value};
    use writeback::backend::Redis;

    use super::{BATCH, ROWS, compare};

    /// One pipeline of SETs for each batch.
    pub(super) fn run() -> bool {
        let Ok(address) = std::env::var("WRITEBACK_REDIS") else {
            println!("Redis      skipped: WRITEBACK_REDIS names no server (.ci/servers starts one)");
            return true;
        };
        let mut connection =
            Client::open(&*address).and_then(|client| client.get_connection()).expect("the server");
        let map = Redis::connect(&address).and_then(|server| server.map("drain_bench:")).expect("a map");
        let ok = compare("Redis", map, |rows| {
            for batch in rows.chunks(BATCH) {
                let mut pipeline = redis::Pipeline::with_capacity(batch.len());
                for (key, value) in batch {
                    pipeline.cmd("SET").arg(format!("drain_bench:{key}")).arg(value).ignore();
                }
                pipeline.exec(&mut connection).expect("a pipeline");
            }
        });
        let keys: Vec<String> = (0..ROWS).map(|key| format!("drain_bench:{key}")).collect();
        let _: Value = redis::cmd("UNLINK").arg(keys).query(&mut connection).expect("no keys");
        ok
    }
}
