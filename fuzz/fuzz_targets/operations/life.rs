//! A cache from its opening to its end, which may be a kill.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{
    Cache, Clock, JournalSync, ManualClock,
    steps::{Outcome, Steps},
};

use crate::{
    Input, Step,
    backend::{Mood, Moody},
    folder::folder,
    world::{Deed, Fixed, KEYS, World},
};

type Driven = Steps<u8, u16, Fixed>;

/// How the cache is built.
#[derive(Clone, Copy)]
struct Shape {
    capacity: usize,
    batch_size: usize,
    flush_at: usize,
    max_dirty: Option<usize>,
    cache_absent: bool,
}

pub(crate) struct Life {
    /// `None` only while one is killed.
    steps: Option<Driven>,
    turn: ManualClock,
    shape: Shape,
    backend: Arc<Moody>,
    world: Arc<World>,
}

/// One execution in so many has a journal if its input says so, because reading one takes longer than all else together.
/// `WRITEBACK_FUZZ_FILES=1` lets all of them; an input that is run alone is the first, which may have one, too.
const JOURNALED: u64 = 8;

fn may_have_a_journal() -> bool {
    static TURN: AtomicU64 = AtomicU64::new(0);
    static ALL: OnceLock<bool> = OnceLock::new();
    let all = *ALL.get_or_init(|| std::env::var_os("WRITEBACK_FUZZ_FILES").is_some());
    TURN.fetch_add(1, Ordering::Relaxed) % JOURNALED == 0 || all
}

fn new_path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    folder().join(format!("{}.journal", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// The dead letters of a journal.
fn letters(journal: &Path) -> PathBuf {
    let mut name: OsString = journal.as_os_str().to_owned();
    name.push(".dead");
    name.into()
}

fn remove(journal: &Path) {
    let _ = fs::remove_file(journal);
    let _ = fs::remove_file(letters(journal));
}

fn open(shape: Shape, path: Option<&Path>, backend: &Arc<Moody>, clock: Clock) -> Driven {
    let mut builder = Cache::builder()
        .capacity(shape.capacity)
        .batch_size(shape.batch_size)
        .flush_at(shape.flush_at)
        .cache_absent(shape.cache_absent)
        .write_timeout(Duration::ZERO)
        .lanes(1)
        .hasher(Fixed::default())
        .clock(clock)
        .backend(Arc::clone(backend));
    if let Some(limit) = shape.max_dirty {
        builder = builder.max_dirty(limit);
    }
    let opened = match path {
        None => builder.open_without_threads(),
        Some(path) => {
            builder.journal(path).journal_size(1).journal_sync(JournalSync::Never).open_without_threads()
        }
    };
    opened.expect("the settings are fine, and the journal is whole")
}

impl Life {
    pub(crate) fn begin(input: &Input) -> Self {
        let shape = Shape {
            capacity: usize::from(input.capacity % 40).max(1),
            batch_size: usize::from(input.batch_size % 32).max(1),
            flush_at: usize::from(input.flush_at).max(1),
            max_dirty: input.max_dirty.map(|limit| usize::from(limit % 16).max(1)),
            cache_absent: input.cache_absent,
        };
        let world = World::new((may_have_a_journal() && input.journal).then(new_path));
        let backend = Moody::new(&world);
        Self::open(shape, backend, world)
    }

    fn open(shape: Shape, backend: Arc<Moody>, world: Arc<World>) -> Self {
        let (clock, turn) = Clock::manual();
        let steps = open(shape, world.path.as_deref(), &backend, clock);
        world.meet(steps.cache(), &backend);
        Life { steps: Some(steps), turn, shape, backend, world }
    }

    fn steps(&mut self) -> &mut Driven {
        self.steps.as_mut().expect("it lives")
    }

    pub(crate) fn take(mut self, step: Step) -> Self {
        match step {
            Step::Do(deed) => {
                let cache = self.steps().cache().clone();
                self.world.perform(&cache, &deed);
            }
            Step::Flush => self.flush(),
            Step::Checkpoint => drop(self.steps().checkpoint()),
            Step::Rounds(count) => self.steps().rounds(usize::from(count % 8)),
            Step::Advance { millis } => {
                self.turn.advance(Duration::from_millis(millis.into()));
                self.steps().rounds(2);
            }
            Step::Become(mood) => self.backend.become_(mood),
            Step::Interlude { during, before, deeds } => self.backend.hang(during, before, deeds),
            Step::Crash if self.world.may_be_killed() => self.crash(),
            Step::Crash => {}
        }
        self
    }

    /// What was written before is in the backend or a dead letter, if it says that.
    fn flush(&mut self) {
        let begin = self.world.now();
        match self.steps().flush() {
            Outcome::Done => {
                let refused = self.steps().cache().dead_letters().expect("they can be read");
                let is_refused = |key: u8| refused.iter().any(|letter| letter.key == key);
                self.check_rows(|key| self.world.is_untouched(&begin, key) && !is_refused(key));
            }
            Outcome::Refused(_) => {}
            Outcome::Stuck => panic!("a flush without an end"),
        }
    }

    fn check_rows(&self, is_settled: impl Fn(u8) -> bool) {
        for key in (0..KEYS).filter(|key| is_settled(*key)) {
            assert_eq!(self.backend.row(key), self.world.value(key), "the row of key {key}");
        }
    }

    fn crash(&mut self) {
        let Some(path) = &self.world.path else { return };
        let left = new_path();
        copy(path, &left);
        self.steps = None;
        fs::rename(&left, path).expect("a rename");
        // What the end of the first life has made of its letters is not what a kill leaves.
        let _ = fs::remove_file(letters(path));
        let _ = fs::rename(letters(&left), letters(path));
        // What does not fit is written through, and a database that refuses that is a reason not to open.
        self.backend.become_(Mood::Fine);
        *self = Self::open(self.shape, Arc::clone(&self.backend), Arc::clone(&self.world));
        let cache = self.steps().cache().clone();
        (0..KEYS).for_each(|key| self.world.perform(&cache, &Deed::Get { key }));
    }

    pub(crate) fn end(mut self) {
        self.backend.settle();
        let cache = self.steps().cache().clone();
        // The last answers of an unhappy backend may make letters yet.
        drop(self.steps().flush());
        // A newer write settles a letter. The backend is fine, so that each of them finds room in the end.
        let refused = cache.dead_letters().expect("they can be read");
        for key in refused.iter().filter(|letter| !letter.is_superseded).map(|letter| letter.key) {
            let again = match self.world.value(key) {
                Some(value) => Deed::Put { key, value },
                None => Deed::Remove { key },
            };
            self.flush_all();
            self.world.perform(&cache, &again);
        }
        self.flush_all();
        self.check_rows(|_| true);
        (0..KEYS).for_each(|key| self.world.perform(&cache, &Deed::Get { key }));
        drop(cache);
        self.steps = None;
        self.world.path.as_deref().map(remove);
    }

    /// As often as it takes until the first answers of an unhappy backend are forgotten.
    fn flush_all(&mut self) {
        self.turn.advance(Duration::from_secs(3600));
        self.steps().rounds(4);
        for outcome in [self.steps().flush(), self.steps().checkpoint()] {
            assert!(matches!(outcome, Outcome::Done), "the backend is fine again: {outcome:?}");
        }
    }
}

fn copy(journal: &Path, to: &Path) {
    fs::copy(journal, to).expect("room for a small file");
    if letters(journal).exists() {
        fs::copy(letters(journal), letters(to)).expect("room for a small file");
    }
}

/// Opens what a kill at this moment would leave, and compares it with what was acknowledged.
pub(crate) fn look_at_what_a_kill_leaves(world: &World) {
    let (Some(path), Some(backend)) = (&world.path, world.backend()) else { return };
    let left = new_path();
    copy(path, &left);
    let rows = backend.copy();
    let (clock, _turn) = Clock::manual();
    let shape = Shape { capacity: 40, batch_size: 7, flush_at: 100, max_dirty: None, cache_absent: false };
    let mut steps = open(shape, Some(&left), &rows, clock);
    for key in 0..KEYS {
        let found = steps.cache().get(&key).expect("nothing refuses loads");
        assert_eq!(found, world.value(key), "key {key} after a kill");
    }
    let refused = steps.cache().dead_letters().expect("they can be read");
    assert!(matches!(steps.flush(), Outcome::Done), "the backend is fine");
    for key in (0..KEYS).filter(|key| refused.iter().all(|letter| letter.key != *key)) {
        assert_eq!(rows.row(key), world.value(key), "the row of key {key} after a kill and a flush");
    }
    drop(steps);
    remove(&left);
}
