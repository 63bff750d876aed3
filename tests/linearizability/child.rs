//! A life: opens the journal, reads every key, and works until it is killed.

use std::{
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use writeback::{Answers, Backend, BackendError, Batch, Cache, Change, JournalSync, Version};

use super::{
    board::{Board, Count, KEYS, Kind, MOST, Page, THREADS},
    history::{Event, What},
};

const VARIABLE: &str = "WRITEBACK_LINEARIZABILITY_LIFE";

/// What a child is told.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) folder: PathBuf,
    /// Its number among all lives: values are different in each.
    pub(crate) number: u64,
    pub(crate) seed: u64,
    /// Rounds of a few operations on two keys, for the search; else all keys at once.
    pub(crate) is_short: bool,
}

/// Capacities of less than all keys, with evictions all the time, and of more, with far more operations.
const TIGHT: usize = KEYS as usize / 2;
const AMPLE: usize = KEYS as usize + 16;

/// The most operations that a thread does in a round.
const ROUND: u64 = 7;

impl Life {
    pub(crate) fn command(&self) -> std::io::Result<std::process::Command> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        let Life { folder, number, seed, is_short } = self;
        command.env(VARIABLE, format!("{number} {seed} {is_short} {}", folder.display()));
        Ok(command)
    }

    fn told() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        let mut parts = text.splitn(4, ' ');
        Some(Life {
            number: parts.next()?.parse().ok()?,
            seed: parts.next()?.parse().ok()?,
            is_short: parts.next()?.parse().ok()?,
            folder: parts.next()?.into(),
        })
    }

    pub(crate) fn board(folder: &Path) -> PathBuf {
        folder.join("board")
    }
}

/// Nanoseconds of a clock that all processes share.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time` and to nothing else.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Numbers that look random, the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
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
}

/// The rows on the board, behind a database that fails in every way.
struct Rows {
    board: Arc<Board>,
    dice: AtomicU64,
    is_calm: AtomicBool,
}

impl Rows {
    fn one_in(&self, n: u64) -> bool {
        let turn = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        Random::new(turn >> 8).below(n) == 0 && !self.is_calm.load(Ordering::Relaxed)
    }
}

impl Backend<u64, u64> for Rows {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<u64>>, BackendError> {
        self.board.add(Count::Loads, 1);
        if self.one_in(100) {
            self.board.add(Count::FailedLoads, 1);
            return Err(BackendError::transient("no answer"));
        }
        let values = keys.iter().map(|key| self.board.row(*key)).collect();
        if self.one_in(4) {
            thread::yield_now();
        }
        Ok(values)
    }

    fn apply(&self, batch: &Batch<u64, u64>) -> Answers {
        self.board.add(Count::Batches, 1);
        if self.one_in(20) {
            self.board.add(Count::FailedBatches, 1);
            return batch.none_stored(BackendError::transient("down"));
        }
        thread::yield_now();
        let answers = batch.answer_each(|op| {
            if self.one_in(50) {
                self.board.add(Count::FailedOperations, 1);
                return Err(BackendError::transient("busy"));
            }
            match op.change() {
                Change::Upsert(value) => self.board.set_row(*op.key(), Some(*value)),
                Change::Delete => self.board.set_row(*op.key(), None),
            }
            Ok(())
        });
        if self.one_in(20) {
            self.board.add(Count::LostAnswers, 1);
            return batch.none_stored(BackendError::transient("the answer was lost"));
        }
        answers
    }
}

/// Never returns in a process that was started as a child.
pub(crate) fn be_a_child_if_told() {
    let Some(life) = Life::told() else { return };
    if let Err(error) = live(&life) {
        eprintln!("{error}");
    }
    std::process::exit(3)
}

fn live(life: &Life) -> Result<(), Box<dyn std::error::Error>> {
    let parent = parent_id();
    let board = Arc::new(Board::open(&Life::board(&life.folder))?);
    let rows =
        Arc::new(Rows { board: Arc::clone(&board), dice: life.seed.into(), is_calm: AtomicBool::new(true) });
    let cache = Cache::builder()
        .capacity(if life.number.is_multiple_of(3) { TIGHT } else { AMPLE })
        .journal(life.folder.join("journal"))
        // As small as can be.
        .journal_size(1)
        // A kill leaves what was not synced, too.
        .journal_sync(JournalSync::Never)
        .lanes(THREADS)
        .max_delay(Duration::from_micros(500))
        .batch_size(8)
        .retry(Duration::from_micros(200), Duration::from_millis(2))
        .write_timeout(Duration::from_millis(20))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()?;
    for key in 0..KEYS {
        let begin = now();
        let value = cache.get(&key)?;
        board.set_opening(key, Event { begin, end: now(), what: What::Get { value } });
    }
    rows.is_calm.store(false, Ordering::Relaxed);
    board.count(Count::Ready).store(1, Ordering::Release);
    let barrier = Arc::new(Barrier::new(THREADS));
    for index in 0..THREADS {
        let (cache, board, barrier, life) =
            (cache.clone(), Arc::clone(&board), Arc::clone(&barrier), life.clone());
        thread::spawn(move || {
            let random = Random::new(life.seed.wrapping_mul(31) + index as u64);
            let worker = Worker {
                cache,
                page: board.page(index),
                board: &board,
                index: index as u64,
                life: life.number,
                random,
            };
            if life.is_short { worker.work_in_rounds(&barrier, life.seed) } else { worker.work() }
        });
    }
    while parent_id() == parent {
        let stats = cache.stats();
        let set = |what: Count, value: u64| board.count(what).store(value, Ordering::Relaxed);
        set(Count::Evictions, stats.evictions);
        if let Some(journal) = stats.journal {
            set(Count::Copies, journal.copies);
            set(Count::Retired, journal.retirements);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err("the parent is gone".into())
}

struct Worker<'a> {
    cache: Cache<u64, u64>,
    board: &'a Board,
    page: Page<'a>,
    index: u64,
    life: u64,
    random: Random,
}

impl Worker<'_> {
    fn work(mut self) {
        while self.page.done() < MOST {
            match self.random.below(2_000) {
                0 => {
                    // Has no part in the history.
                    let _ = self.cache.flush();
                    self.board.add(Count::Flushes, 1);
                }
                1..20 => {
                    let _ = self.cache.invalidate(&self.random.below(KEYS));
                    self.board.add(Count::Invalidations, 1);
                }
                _ => {
                    let key = self.random.below(KEYS);
                    self.operate(key, 0);
                }
            }
        }
    }

    /// All begin a round at the same time, and none is in it when the first reads what it has left.
    fn work_in_rounds(mut self, barrier: &Barrier, seed: u64) {
        for round in 0..MOST / (ROUND + 2) {
            let mut shared = Random::new(seed ^ round << 20);
            let keys = [shared.below(KEYS), shared.below(KEYS)];
            barrier.wait();
            for _ in 0..4 + self.random.below(ROUND - 3) {
                let key = keys[self.random.below(2) as usize];
                self.operate(key, round);
            }
            barrier.wait();
            if self.index == 0 {
                for key in keys {
                    let begin = now();
                    while let Err(writeback::Error::Load(_)) = self.cache.get(&key).map(|value| {
                        self.page.end(key, round, Event { begin, end: now(), what: What::Get { value } });
                    }) {}
                }
            }
        }
    }

    fn operate(&mut self, key: u64, round: u64) {
        let value = (self.life << 24 | self.index << 20 | self.page.done()) << 1 | 1;
        let dice = self.random.below(1_000);
        let (cache, page) = (&self.cache, &self.page);
        let begin = now();
        // The closure may run several times; what it saw last is what the value was made from.
        let mut seen = None;
        let mut saw = |old: Option<&u64>| {
            seen = old.copied();
            page.saw(seen);
        };
        let version = |version: Version| version.get();
        let told = match dice {
            0..250 => {
                page.begin(Kind::Put, key, value, begin);
                cache.put(key, value).map(|written| What::Put { version: version(written), value })
            }
            250..320 => {
                page.begin(Kind::Remove, key, 0, begin);
                cache.remove(&key).map(|written| What::Remove { version: version(written) })
            }
            320..440 => {
                page.begin(Kind::Update, key, value, begin);
                let written = cache.update(key, |old| {
                    saw(old);
                    value
                });
                written.map(|written| What::Update { version: version(written), old: seen, value })
            }
            440..560 => {
                // Compare-and-swap, from what was there a moment ago.
                let expected = cache.peek(&key);
                page.begin(Kind::Update, key, value, begin);
                let written = cache.update_if(key, |old| {
                    saw(old);
                    (old.copied() == expected).then_some(value)
                });
                written.map(|written| match written {
                    Some(written) => What::Update { version: version(written), old: seen, value },
                    None => What::Get { value: seen },
                })
            }
            _ => cache.get(&key).map(|value| What::Get { value }),
        };
        match told {
            Ok(what) => page.end(key, round, Event { begin, end: now(), what }),
            // Nothing was written.
            Err(_) => {
                page.give_up();
                self.board.add(Count::Refused, 1);
            }
        }
    }
}
