//! Whole caches with four to six threads, explored with shuttle. They are compiled into the library's own test build, with
//! all threads of the engine, so each of them runs the shipped code. `loom-tests/README.md` says what each one shows, and
//! which rules it has to miss.

mod close;
mod crash;
mod eviction;
mod rewrites;
mod rows;

use std::{
    collections::BTreeMap,
    env,
    hash::{BuildHasher, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    rand::Rng,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    thread::JoinHandle,
};

use crate::{Builder, Cache, Stats, sync::Instant};
use rows::Rows;

/// The depth of the bugs that PCT is set to find: it lowers a thread's priority at one moment fewer, each drawn by lot.
const DEPTH: usize = 5;
/// Far more than any execution takes that ends.
const STEPS: usize = 2_000_000;
/// By the clock of the scenarios; waits for nothing are seen long before.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has happened in all executions. One scenario in each process.
static HAPPENED: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Counts something that a scenario waits for.
fn count(what: &'static str, times: u64) {
    *HAPPENED.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += times;
}

/// Runs a scenario as often, and with the scheduler and the seed, as the environment says. Fails if something of what it
/// waits for never happened, for then it has shown nothing.
fn explore(waits_for: &[&'static str], scenario: fn()) {
    let number = |name, usual| env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (seed, executions) = (number("WRITEBACK_SEED", 1), number("WRITEBACK_EXECUTIONS", 200));
    let body = move || {
        Instant::restart();
        scenario();
    };
    if let Ok(schedule) = env::var("WRITEBACK_SCHEDULE") {
        return shuttle::replay_from_file(body, schedule);
    }
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.silence_warnings = true;
    // As a file: a schedule has many thousands of steps.
    config.failure_persistence = FailurePersistence::File(env::var_os("WRITEBACK_SCHEDULES").map(Into::into));
    let scheduler: Box<dyn Scheduler + Send> = match env::var("WRITEBACK_SCHEDULER").as_deref() {
        Ok("pct") => Box::new(PctScheduler::new_from_seed(seed, DEPTH, executions as usize)),
        Ok("random") | Err(_) => Box::new(RandomScheduler::new_from_seed(seed, executions as usize)),
        Ok(other) => panic!("there is no scheduler `{other}`"),
    };
    let executions = Runner::new(scheduler, config).run(body);
    let happened = HAPPENED.lock().unwrap_or_else(PoisonError::into_inner);
    println!("Completed in {executions} executions: {happened:?}");
    for what in waits_for {
        assert!(happened.get(what).is_some_and(|times| *times > 0), "this never happened: {what}");
    }
}

/// The key is the hash.
#[derive(Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Identity(0)
    }
}

type Small = Cache<u64, u64, Identity>;

/// A cache that flushes often.
fn builder(capacity: usize) -> Builder<(), (), Identity> {
    Cache::builder()
        .capacity(capacity)
        .hasher(Identity(0))
        .lanes(4)
        .max_delay(Duration::from_micros(300))
        .flush_at(2)
        .retry(Duration::from_micros(50), Duration::from_micros(400))
        .write_timeout(PATIENCE)
        .drain_on_drop(Duration::ZERO)
}

fn open(capacity: usize, rows: &Arc<Rows>) -> Arc<Small> {
    Arc::new(builder(capacity).backend(Arc::clone(rows)).open().expect("a small cache"))
}

/// Everything that was acknowledged reaches the backend, although that fails now and then.
fn drain(cache: &Small, rows: &Rows) -> Stats {
    assert!(cache.close(PATIENCE).is_drained(), "not drained");
    rows.check();
    let stats = cache.stats();
    count("refusals", stats.backend_errors);
    stats
}

fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    shuttle::thread::spawn(body)
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("the scenario's thread does not panic")
}

/// Lets the others do something, or much.
fn let_go_on() {
    (0..draw(100)).for_each(|_| shuttle::thread::yield_now());
}

/// A number below `end`: one more thing that the seed determines.
fn draw(end: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..end)
}
