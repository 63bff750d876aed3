//! The parent: chooses lives, ends them, and reads the board.

use std::{
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use writeback::faults::POINTS;

use super::{
    backend::Health,
    board::{Board, COUNTS, Count, phase},
    life::{Database, Life, VARIABLE},
    model::Random,
    options::Options,
    spots,
    tally::{End, Tally},
};

/// How often to look whether a child has opened and checked, or drained. Counted and not timed: on a machine that was
/// suspended, or has better things to do, no child hangs.
const PATIENCE: u32 = 200_000;
/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_micros(150);
/// How long a child has to come by the point at which it is to die.
const POINT_PATIENCE: Duration = Duration::from_millis(40);
/// After so many kills everything is drained and compared.
const DRAIN_EVERY: u64 = 100;
/// Of a run over both databases every so many kills are over SQLite.
const SQLITE_SHARE: u64 = 10;

const SIGKILL: i32 = 9;

/// A run that has found something.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kills: u64,
    pub(crate) what: Vec<String>,
}

/// Kills as often as is asked for. `Err`: a promise was broken.
pub(crate) fn run(options: &Options) -> Result<Tally, Failure> {
    let folder = folder(options).map_err(|error| Failure { kills: 0, what: vec![error.to_string()] })?;
    let start = Instant::now();
    let stop = AtomicBool::new(false);
    let outcomes: Vec<(Tally, Result<(), Found>)> = thread::scope(|scope| {
        let shares = shares(options).into_iter().enumerate();
        let runs: Vec<_> = shares
            .map(|(index, (database, kills))| {
                let (folder, stop) = (folder.join(format!("{database:?}-{index}")), &stop);
                let run = move || {
                    let mut tally = Tally::new();
                    let world = World::new(folder, database, options, index as u64);
                    let outcome = world.and_then(|mut world| world.run(kills, &mut tally, stop));
                    if outcome.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    (tally, outcome)
                };
                scope.spawn(run)
            })
            .collect();
        let gone = || (Tally::new(), Err(vec!["a thread of the parent panicked".to_owned()]));
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| gone())).collect()
    });
    let (mut tally, mut found) = (Tally::new(), Vec::new());
    for (one, outcome) in outcomes {
        tally.add(&one);
        found.extend(outcome.err().unwrap_or_default());
    }
    tally.took = start.elapsed();
    // With a broken rule something was wanted; else the files are what there is to look at.
    if found.is_empty() || options.rule.is_some() {
        let _ = fs::remove_dir_all(&folder);
    } else {
        eprintln!("the files are in {}", folder.display());
    }
    if found.is_empty() { Ok(tally) } else { Err(Failure { kills: tally.kills, what: found }) }
}

/// Who kills how often over what: each job is a journal and a database of its own.
fn shares(options: &Options) -> Vec<(Database, u64)> {
    let (mut shares, mut table) = (Vec::new(), options.kills);
    match *options.databases {
        [Database::Sqlite] => return vec![(Database::Sqlite, options.kills)],
        [Database::Table] => {}
        _ => {
            let sqlite = options.kills / SQLITE_SHARE;
            shares.push((Database::Sqlite, sqlite));
            table -= sqlite;
        }
    }
    for left in (1..=options.jobs.max(1)).rev() {
        let share = table / left;
        shares.push((Database::Table, share));
        table -= share;
    }
    shares
}

/// A new folder, in memory if the machine has such a place: kills do not need a disk.
fn folder(options: &Options) -> io::Result<PathBuf> {
    let shared = Path::new("/dev/shm");
    let base = match &options.folder {
        Some(folder) => folder.clone(),
        None if shared.is_dir() => shared.to_owned(),
        None => std::env::temp_dir(),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let folder = base.join(format!("writeback-crash-{}-{}", std::process::id(), now.as_nanos()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A board, a journal, a database, and the lives that use them one after the other.
struct World<'o> {
    folder: PathBuf,
    database: Database,
    board: Board,
    options: &'o Options,
    random: Random,
    /// For each point, how many passes to let by at most: less where it is passed seldom.
    passes: Vec<u64>,
    /// How often a child has died at each point.
    hits: Vec<u64>,
}

type Found = Vec<String>;

impl<'o> World<'o> {
    fn new(folder: PathBuf, database: Database, options: &'o Options, index: u64) -> Result<Self, Found> {
        let make = || {
            fs::create_dir_all(&folder)?;
            Board::open(&Life::board(&folder))
        };
        let board = make().map_err(|error| vec![error.to_string()])?;
        let random = Random::new(options.seed ^ index << 32);
        // What a life passes once, and what it passes all the time.
        let passes = POINTS.iter().map(|point| if point.starts_with("recovery") { 1 } else { 32 }).collect();
        Ok(World { board, folder, database, options, random, passes, hits: vec![0; POINTS.len()] })
    }

    fn run(&mut self, kills: u64, tally: &mut Tally, stop: &AtomicBool) -> Result<(), Found> {
        for kill in 1..=kills {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let ended = self.kill_one();
            let mid_write = self.board.is_mid_write();
            self.harvest(tally);
            self.judge()?;
            tally.ended(ended?, mid_write);
            tally.by_database[usize::from(self.database == Database::Sqlite)] += 1;
            if kill.is_multiple_of(DRAIN_EVERY) || kill == kills {
                self.drain()?;
                self.harvest(tally);
                self.judge()?;
                tally.drains += 1;
            }
            if self.options.progress && kill.is_multiple_of(1_000) {
                eprintln!("{:?}: {kill} kills, {} in the middle of a write", self.database, tally.mid_write);
            }
        }
        Ok(())
    }

    /// Adds what is counted on the board to the tally.
    fn harvest(&self, tally: &mut Tally) {
        for index in 0..COUNTS {
            let counted = self.board.counts[index].swap(0, Ordering::Relaxed);
            if index == Count::JournalBytes as usize {
                tally.counts[index] = tally.counts[index].max(counted);
            } else {
                tally.counts[index] += counted;
            }
        }
    }

    fn judge(&self) -> Result<(), Found> {
        let mut found = self.board.findings();
        if found.is_empty() {
            return Ok(());
        }
        found.extend(self.last_words());
        Err(found)
    }

    fn last_words(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(12).collect();
        (!last.is_empty()).then(|| last.into_iter().rev().collect::<Vec<_>>().join("\n    "))
    }

    fn life(&mut self, health: Health, last: bool) -> Life {
        Life {
            folder: self.folder.clone(),
            database: self.database,
            health,
            seed: self.random.next() >> 16,
            // Larger and smaller than before, so that what is recovered does not always fit.
            capacity: 40 + self.random.below(32) as usize,
            races: [4, 10, 50][self.random.below(3) as usize],
            syncs: self.random.one_in(4),
            last,
        }
    }

    fn spawn(&self, life: &Life, faults: &[(&str, String)]) -> Result<Child, Found> {
        let start = || {
            let stderr = File::create(self.folder.join("stderr"))?;
            let mut command = Command::new(std::env::current_exe()?);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).env(VARIABLE, life.to_text());
            if let Some(rule) = self.options.rule {
                command.env("WRITEBACK_BROKEN_RULE", rule);
            }
            for (name, value) in faults {
                command.env(name, value);
            }
            command.spawn()
        };
        self.board.phase.store(0, Ordering::Release);
        start().map_err(|error| vec![format!("no child: {error}")])
    }

    /// One life, with the end that it comes to.
    fn kill_one(&mut self) -> Result<End, Found> {
        let health = match self.random.below(8) {
            0 => Health::Well,
            1..3 => Health::Down,
            _ => Health::Flaky,
        };
        let life = self.life(health, false);
        let mut faults = Vec::new();
        if self.options.point.is_none()
            && let Some(spot) = spots::choose(self.options.rule, &mut self.random)
        {
            faults.extend(spot.faults(&mut self.random));
            let mut child = self.spawn(&life, &faults)?;
            let point = POINTS.iter().position(|point| *point == spot.crash).unwrap_or(0);
            return self.await_point(&mut child, point);
        }
        let point = match self.options.point {
            Some(name) => POINTS.iter().position(|point| *point == name),
            None if self.random.one_in(2) => {
                // Of three, the one that was met least.
                let three: [u64; 3] = std::array::from_fn(|_| self.random.below(POINTS.len() as u64));
                three.into_iter().map(|point| point as usize).min_by_key(|point| self.hits[*point])
            }
            None => None,
        };
        if let Some(point) = point {
            faults.push(("WRITEBACK_CRASH_AT", POINTS[point].to_owned()));
            faults.push(("WRITEBACK_CRASH_AFTER", self.random.below(self.passes[point]).to_string()));
        }
        self.stall(&mut faults);
        let mut child = self.spawn(&life, &faults)?;
        if let Some(point) = point {
            return self.await_point(&mut child, point);
        }
        if self.random.one_in(8) {
            // While it opens and checks, mostly.
            thread::sleep(Duration::from_micros(self.random.below(4_000)));
        } else {
            self.await_work(&mut child)?;
            thread::sleep(Duration::from_micros(self.random.below(8_000)));
        }
        self.kill(&mut child)
    }

    /// Lets threads stall at points now and then, so that what is rare becomes common.
    fn stall(&mut self, faults: &mut Vec<(&'static str, String)>) {
        let (at, permille) = match self.random.below(4) {
            0 => return,
            1 => ("all", 1 + self.random.below(4)),
            _ => (POINTS[self.random.below(POINTS.len() as u64) as usize], 5 + self.random.below(100)),
        };
        faults.push(("WRITEBACK_STALL_AT", at.to_owned()));
        faults.push(("WRITEBACK_STALL_PERMILLE", permille.to_string()));
        faults.push(("WRITEBACK_STALL_MICROS", (200 + self.random.below(4_000)).to_string()));
    }

    /// Waits until the child works. `Ok(false)`: it has killed itself before.
    fn await_work(&self, child: &mut Child) -> Result<bool, Found> {
        for _ in 0..PATIENCE {
            if self.board.phase.load(Ordering::Acquire) >= phase::WORKING {
                return Ok(true);
            }
            if let Some(status) = self.status(child)? {
                self.must_be_killed(status)?;
                return Ok(false);
            }
            thread::sleep(PAUSE);
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(vec![format!("the child hung in phase {}", self.board.phase.load(Ordering::Acquire))])
    }

    /// Waits until the child has killed itself at its point, and kills it if it does not come by there.
    fn await_point(&mut self, child: &mut Child, point: usize) -> Result<End, Found> {
        let mut works = self.await_work(child)?;
        let until = Instant::now() + POINT_PATIENCE;
        while works {
            if let Some(status) = self.status(child)? {
                self.must_be_killed(status)?;
                works = false;
                continue;
            }
            if Instant::now() > until {
                // It may still get there first; then it counts as ours.
                self.passes[point] = (self.passes[point] / 4).max(1);
                return self.kill(child);
            }
            thread::sleep(Duration::from_micros(200));
        }
        self.hits[point] += 1;
        if !POINTS[point].starts_with("recovery") {
            self.passes[point] = (self.passes[point] * 2).min(1 << 12);
        }
        Ok(End::Point(point))
    }

    fn kill(&self, child: &mut Child) -> Result<End, Found> {
        let at = self.board.phase.load(Ordering::Acquire);
        let status = child.kill().and_then(|()| child.wait());
        self.must_be_killed(status.map_err(|error| vec![error.to_string()])?)?;
        Ok(if at >= phase::WORKING { End::Working } else { End::Early })
    }

    fn status(&self, child: &mut Child) -> Result<Option<ExitStatus>, Found> {
        child.try_wait().map_err(|error| vec![error.to_string()])
    }

    fn must_be_killed(&self, status: ExitStatus) -> Result<(), Found> {
        if status.signal() == Some(SIGKILL) {
            return Ok(());
        }
        let mut found = vec![format!("the child died by itself: {status}")];
        found.extend(self.board.findings());
        found.extend(self.last_words());
        Err(found)
    }

    /// A life that nobody ends: everything into the backend, and then nothing may be left in the journal.
    fn drain(&mut self) -> Result<(), Found> {
        let life = self.life(Health::Well, true);
        let mut child = self.spawn(&life, &[])?;
        for _ in 0..PATIENCE {
            match self.status(&mut child)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let mut found = vec![format!("draining: {status}")];
                    found.extend(self.board.findings());
                    found.extend(self.last_words());
                    return Err(found);
                }
                None => thread::sleep(PAUSE),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(vec!["draining hung".to_owned()])
    }
}
