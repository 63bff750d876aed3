//! The parent: chooses lives, ends them, and reads the board.

use std::{
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::Ordering,
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

/// How long a child may take to open and check, or to drain.
const PATIENCE: Duration = Duration::from_secs(30);
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
    let mut tally = Tally::new();
    let failed = |tally: &Tally, what: Vec<String>| Failure { kills: tally.kills, what };
    let folder = folder(options).map_err(|error| failed(&tally, vec![error.to_string()]))?;
    let start = Instant::now();
    let shares = match *options.databases {
        [only] => vec![(only, options.kills)],
        _ => {
            let sqlite = options.kills / SQLITE_SHARE;
            vec![(Database::Sqlite, sqlite), (Database::Table, options.kills - sqlite)]
        }
    };
    let mut outcome = Ok(());
    for (database, kills) in shares {
        let world = World::new(&folder, database, options);
        outcome = world.and_then(|mut world| world.run(kills, &mut tally));
        if outcome.is_err() {
            break;
        }
    }
    tally.took = start.elapsed();
    match outcome {
        Ok(()) => {
            let _ = fs::remove_dir_all(&folder);
            Ok(tally)
        }
        // With a broken rule that is what was wanted; else the files are what there is to look at.
        Err(what) => {
            if options.rule.is_some() {
                let _ = fs::remove_dir_all(&folder);
            } else {
                eprintln!("the files are in {}", folder.display());
            }
            Err(failed(&tally, what))
        }
    }
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
    fn new(folder: &Path, database: Database, options: &'o Options) -> Result<Self, Found> {
        let folder = folder.join(format!("{database:?}"));
        let make = || {
            fs::create_dir_all(&folder)?;
            Board::open(&Life::board(&folder))
        };
        let board = make().map_err(|error| vec![error.to_string()])?;
        let random = Random::new(options.seed ^ (database == Database::Sqlite) as u64);
        // What a life passes once, and what it passes all the time.
        let passes = POINTS.iter().map(|point| if point.starts_with("recovery") { 1 } else { 32 }).collect();
        Ok(World { board, folder, database, options, random, passes, hits: vec![0; POINTS.len()] })
    }

    fn run(&mut self, kills: u64, tally: &mut Tally) -> Result<(), Found> {
        for kill in 1..=kills {
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
            self.await_work(&mut child, Instant::now() + PATIENCE)?;
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
    fn await_work(&self, child: &mut Child, until: Instant) -> Result<bool, Found> {
        loop {
            if self.board.phase.load(Ordering::Acquire) >= phase::WORKING {
                return Ok(true);
            }
            if let Some(status) = self.status(child)? {
                self.must_be_killed(status)?;
                return Ok(false);
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                let phase = self.board.phase.load(Ordering::Acquire);
                return Err(vec![format!("the child hung in phase {phase}")]);
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits until the child has killed itself at its point, and kills it if it does not come by there.
    fn await_point(&mut self, child: &mut Child, point: usize) -> Result<End, Found> {
        let worked = self.await_work(child, Instant::now() + PATIENCE)?;
        let until = Instant::now() + POINT_PATIENCE;
        while worked {
            if let Some(status) = self.status(child)? {
                self.must_be_killed(status)?;
                break;
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
        let until = Instant::now() + PATIENCE;
        loop {
            match self.status(&mut child)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let mut found = vec![format!("draining: {status}")];
                    found.extend(self.board.findings());
                    found.extend(self.last_words());
                    return Err(found);
                }
                None if Instant::now() > until => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(vec!["draining hung".to_owned()]);
                }
                None => thread::sleep(Duration::from_micros(300)),
            }
        }
    }
}
