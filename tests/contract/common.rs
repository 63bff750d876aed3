//! What the tests share: waiting for conditions, gates to stop a backend at, and a backend that audits the engine.

use std::{
    collections::{HashMap, HashSet},
    ops::Deref,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use writeback::{
    Answers, Backend, BackendError, Batch, Builder, Cache,
    backend::{Doing, Memory},
};

/// Rows of a test.
pub(crate) type Rows = Memory<u64, u64>;

/// Longer than any test.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test watches that something does not come.
pub(crate) const A_WHILE: Duration = Duration::from_millis(60);

/// `debug` in a debug build, else `release`.
pub(crate) const fn scaled(debug: u64, release: u64) -> u64 {
    if cfg!(debug_assertions) { debug } else { release }
}

/// Waits until `holds`, and fails if that takes too long.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "this never happened: {what}");
        thread::sleep(Duration::from_micros(300));
    }
}

/// Watches for a while that `holds` stays true.
#[track_caller]
pub(crate) fn stays(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + A_WHILE;
    while Instant::now() < end {
        assert!(holds(), "this did not stay true: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small cache that flushes only when it is asked, or is full; retries come quickly.
pub(crate) fn quiet() -> Builder {
    Cache::builder()
        .capacity(1_000)
        .max_delay(NEVER)
        .flush_at(1_000_000)
        .retry(Duration::from_millis(1), Duration::from_millis(8))
        .write_timeout(PATIENCE)
        .drain_on_drop(Duration::from_secs(2))
}

/// Makes room until `key` is out of the cache.
#[track_caller]
pub(crate) fn evict(cache: &Cache<u64, u64>, key: u64) {
    let deadline = Instant::now() + PATIENCE;
    for other in 1 << 40.. {
        if !cache.contains(&key) {
            return;
        }
        assert!(Instant::now() < deadline, "key {key} was never evicted");
        cache.put(other, 0).unwrap();
        // Used again at once: not one of those that pass through and leave what is used more often alone.
        (0..3).for_each(|_| assert_eq!(cache.get(&other).unwrap(), Some(0)));
        if other % 8 == 0 {
            cache.flush().unwrap();
        }
    }
}

/// Numbers that look random, the same in every run.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A place where calls stop until they are let through.
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    permits: u64,
    open: bool,
    arrived: u64,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        let state = Mutex::new(GateState { permits: 0, open: false, arrived: 0 });
        Arc::new(Gate { state, changed: Condvar::new() })
    }

    /// Waits for a permit. Gives up in the end, so that a failing test ends.
    pub(crate) fn pass(&self) {
        let mut state = lock(&self.state);
        state.arrived += 1;
        self.changed.notify_all();
        let closed = |state: &mut GateState| !state.open && state.permits == 0;
        let waited = self.changed.wait_timeout_while(state, PATIENCE + PATIENCE, closed);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.permits = state.permits.saturating_sub(1);
    }

    /// Lets `calls` through, also such that come later.
    pub(crate) fn allow(&self, calls: u64) {
        lock(&self.state).permits += calls;
        self.changed.notify_all();
    }

    /// Lets everyone through from now on.
    pub(crate) fn open(&self) {
        lock(&self.state).open = true;
        self.changed.notify_all();
    }

    pub(crate) fn arrived(&self) -> u64 {
        lock(&self.state).arrived
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, calls: u64) {
        eventually("the backend was called", || self.arrived() >= calls);
    }
}

/// Opens a gate when a test ends, also when it fails: nobody is left waiting.
pub(crate) struct OpenAtEnd(pub(crate) Arc<Gate>);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Stops every `apply` of `rows` at a gate.
pub(crate) fn gate_applies(rows: &Rows) -> Arc<Gate> {
    let gate = Gate::new();
    let at = Arc::clone(&gate);
    rows.set_gate(move |doing| {
        if let Doing::Apply(_) = doing {
            at.pass();
        }
    });
    gate
}

/// Stops loads of `key` at a gate, after the row was read.
pub(crate) fn gate_loads_of(rows: &Rows, key: u64) -> Arc<Gate> {
    let gate = Gate::new();
    let at = Arc::clone(&gate);
    rows.set_gate(move |doing| match doing {
        Doing::Load(keys) if keys.contains(&key) => at.pass(),
        _ => {}
    });
    gate
}

/// Rows behind an auditor: it notes every breach of what a backend may rely on.
pub(crate) struct Audit {
    rows: Rows,
    book: Mutex<Book>,
    on_load: Mutex<Option<LoadHook>>,
    on_answer: Mutex<Option<AnswerHook>>,
}

type LoadHook = Arc<dyn Fn(&mut Vec<Option<u64>>) -> Result<(), BackendError> + Send + Sync>;
type AnswerHook = Box<dyn FnMut(Answers) -> Answers + Send>;

#[derive(Default)]
struct Book {
    in_flight: HashSet<u64>,
    last: HashMap<u64, Sent>,
    problems: Vec<String>,
    resent: u64,
}

struct Sent {
    version: u64,
    attempt: u32,
    stored: bool,
}

impl Audit {
    pub(crate) fn new() -> Arc<Self> {
        Self::over(Memory::new())
    }

    pub(crate) fn unrecorded() -> Arc<Self> {
        Self::over(Memory::unrecorded())
    }

    fn over(rows: Rows) -> Arc<Self> {
        Arc::new(Audit {
            rows,
            book: Mutex::default(),
            on_load: Mutex::default(),
            on_answer: Mutex::default(),
        })
    }

    /// Lets `hook` change what loads answer.
    pub(crate) fn set_load_hook(
        &self,
        hook: impl Fn(&mut Vec<Option<u64>>) -> Result<(), BackendError> + Send + Sync + 'static,
    ) {
        *lock(&self.on_load) = Some(Arc::new(hook));
    }

    pub(crate) fn clear_load_hook(&self) {
        *lock(&self.on_load) = None;
    }

    /// Lets `hook` change what applies answer, after the rows were written.
    pub(crate) fn set_answer_hook(&self, hook: impl FnMut(Answers) -> Answers + Send + 'static) {
        *lock(&self.on_answer) = Some(Box::new(hook));
    }

    pub(crate) fn clear_answer_hook(&self) {
        *lock(&self.on_answer) = None;
    }

    /// How many operations were sent a second time or later.
    pub(crate) fn resent(&self) -> u64 {
        lock(&self.book).resent
    }

    /// Fails if the engine broke a promise: one write of a key at a time, versions that grow, attempts that count,
    /// nothing sent again that was confirmed.
    #[track_caller]
    pub(crate) fn check(&self) {
        let problems = &lock(&self.book).problems;
        assert!(
            problems.is_empty(),
            "{} breaches, the first: {:#?}",
            problems.len(),
            &problems[..problems.len().min(5)]
        );
    }

    fn enter(&self, batch: &Batch<u64, u64>) {
        let book = &mut *lock(&self.book);
        if batch.is_empty() {
            book.problems.push("an empty batch".into());
        }
        for op in batch.ops() {
            if !book.in_flight.insert(*op.key()) {
                book.problems.push(format!("key {} is written twice at once", op.key()));
            }
            let sent = Sent { version: op.version(), attempt: op.attempt(), stored: false };
            let (fine, before) = match book.last.insert(*op.key(), sent) {
                None => (op.attempt() == 1, "nothing".into()),
                Some(last) => (
                    if last.version == op.version() {
                        !last.stored && op.attempt() == last.attempt + 1
                    } else {
                        last.version < op.version() && op.attempt() == 1
                    },
                    format!("version {} attempt {} stored {}", last.version, last.attempt, last.stored),
                ),
            };
            if !fine {
                let (key, version, attempt) = (op.key(), op.version(), op.attempt());
                book.problems.push(format!("key {key}: version {version} attempt {attempt} after {before}"));
            }
            book.resent += u64::from(op.attempt() > 1);
        }
    }
}

struct Leave<'a>(&'a Audit, &'a Batch<u64, u64>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut book = lock(&self.0.book);
        for op in self.1.ops() {
            book.in_flight.remove(op.key());
        }
    }
}

impl Deref for Audit {
    type Target = Rows;

    fn deref(&self) -> &Rows {
        &self.rows
    }
}

impl Backend<u64, u64> for Audit {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        let mut values = self.rows.load(keys)?;
        let hook = lock(&self.on_load).clone();
        if let Some(hook) = hook {
            hook(&mut values)?;
        }
        Ok(values)
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        self.enter(batch);
        let _leave = Leave(self, batch);
        let mut answers = self.rows.apply(batch);
        if let Some(hook) = lock(&self.on_answer).as_mut() {
            answers = hook(answers);
        }
        let mut book = lock(&self.book);
        for (op, answer) in batch.ops().iter().zip(answers.as_slice()) {
            if let (Ok(()), Some(sent)) = (answer, book.last.get_mut(op.key())) {
                sent.stored = true;
            }
        }
        drop(book);
        answers
    }
}
