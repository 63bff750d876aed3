//! What the tests share: places for journals, crashes, gates, and numbers that look random.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use writeback::{BackendError, Builder, Cache, JournalError, OpenError, backend::Doing, backend::Memory};

/// Rows of a test.
pub(crate) type Rows = Memory<u64, u64>;

/// Longer than any test.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Less than the smallest journal.
pub(crate) const SMALL: u64 = 1;

/// `debug` in a debug build, else `release`.
pub(crate) const fn scaled(debug: u64, release: u64) -> u64 {
    if cfg!(debug_assertions) { debug } else { release }
}

/// A folder for journals, in memory where the system has such a place: the tests are about bytes, not about disks.
pub(crate) fn place() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.unwrap()
}

/// A cache over `rows` that writes only when it is asked to, or has to.
pub(crate) fn quiet(rows: &Arc<Rows>) -> Builder<Arc<Rows>> {
    Cache::builder()
        .capacity(2_000)
        .max_delay(NEVER)
        .flush_at(1_000_000)
        .lanes(1)
        .retry(Duration::from_millis(1), Duration::from_millis(8))
        .write_timeout(PATIENCE)
        .drain_on_drop(Duration::ZERO)
        .backend(Arc::clone(rows))
}

/// The usual cache of these tests: small, quiet, with a journal.
pub(crate) fn try_open(path: &Path, rows: &Arc<Rows>) -> Result<Cache<u64, u64>, OpenError> {
    quiet(rows).journal(path).journal_size(SMALL).open()
}

#[track_caller]
pub(crate) fn open(path: &Path, rows: &Arc<Rows>) -> Cache<u64, u64> {
    try_open(path, rows).unwrap()
}

/// Rows that take nothing until [`Memory::clear_fault`].
pub(crate) fn down() -> Arc<Rows> {
    let rows = Arc::new(Rows::unrecorded());
    rows.set_fault(|_| Err(BackendError::transient("down")));
    rows
}

/// What a SIGKILL would leave of a journal, while nobody writes into it: a mapped file is coherent with reads. Reads until
/// two readings are the same, so that it is an image of one moment although the engine's own threads may be at work.
#[track_caller]
pub(crate) fn image(path: &Path) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = fs::read(path).unwrap();
    loop {
        let now = fs::read(path).unwrap();
        if now == before {
            return now;
        }
        assert!(Instant::now() < deadline, "the journal never came to rest");
        before = now;
    }
}

/// A copy of the journal at `path`, as a crash at this moment would leave it.
#[track_caller]
pub(crate) fn crash(path: &Path, name: &str) -> PathBuf {
    let copy = path.with_file_name(name);
    let fresh = path.with_file_name("fresh");
    // Never in place: a cache that was just dropped may still have an earlier copy mapped.
    fs::write(&fresh, image(path)).unwrap();
    fs::rename(&fresh, &copy).unwrap();
    let letters = |path: &Path| path.with_file_name(format!("{}.dead", path.file_name().unwrap().display()));
    if letters(path).exists() {
        fs::copy(letters(path), letters(&copy)).unwrap();
    }
    copy
}

/// The journal's own error.
#[track_caller]
pub(crate) fn refusal<K, V>(opened: Result<Cache<K, V>, OpenError>) -> JournalError {
    match opened {
        Err(OpenError::Journal(error)) => error,
        Err(other) => panic!("not an error of the journal: {other}"),
        Ok(_) => panic!("it was opened"),
    }
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

/// A place where calls stop until they are let through.
#[derive(Default)]
pub(crate) struct Gate {
    /// Whether it is open, how many may pass while it is not, and how many have come.
    state: Mutex<(bool, u64, u64)>,
    changed: Condvar,
}

impl Gate {
    /// Stops every `apply` of `rows`.
    pub(crate) fn before(rows: &Rows) -> Arc<Self> {
        let gate = Arc::new(Gate::default());
        let at = Arc::clone(&gate);
        rows.set_gate(move |doing| {
            if let Doing::Apply(_) = doing {
                at.pass();
            }
        });
        gate
    }

    /// Waits to be let through. Gives up in the end, so that a failing test ends.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.2 += 1;
        self.changed.notify_all();
        let waited =
            self.changed.wait_timeout_while(state, PATIENCE + PATIENCE, |state| !state.0 && state.1 == 0);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.1 = state.1.saturating_sub(1);
    }

    /// Lets everyone through from now on.
    pub(crate) fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = true;
        self.changed.notify_all();
    }

    /// Lets so many through.
    pub(crate) fn allow(&self, calls: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 += calls;
        self.changed.notify_all();
    }

    /// How many have come.
    pub(crate) fn arrived(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).2
    }
}

/// Opens a gate when a test ends, also when it fails: nobody is left waiting.
pub(crate) struct OpenAtEnd(pub(crate) Arc<Gate>);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
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

/// The variable by which [`spawn`] tells its child where its files are.
const CHILD: &str = "WRITEBACK_TEST_CHILD";

/// Runs the ignored test `name` of this binary in a process of its own, which learns `place` by [`child_place`].
pub(crate) fn spawn(name: &str, place: &Path, environment: &[(&str, &str)]) -> Process {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, place)
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

/// Where the files of this child process are; `None` if it is none.
pub(crate) fn child_place() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// A child process that does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }

    /// Waits until it ends, and fails if it failed.
    #[cfg(feature = "faults")]
    #[track_caller]
    pub(crate) fn succeeds(&mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "the child process: {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
