//! Starts lives, kills them, and has what they have done checked.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io,
    process::Child,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use super::{
    board::{Board, COUNTS, Count, KEYS, THREADS},
    child::{Life, Random},
    history::{Attempt, Event, History, What},
    search, versions,
};

/// One life in so many is killed before it has read its journal.
const EARLY: u64 = 4;

/// How long a life may take to open.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Plan {
    /// How many operations there are to be, at least.
    pub(crate) operations: u64,
    pub(crate) seed: u64,
}

pub(crate) struct Run {
    pub(crate) text: String,
    pub(crate) findings: Vec<String>,
}

/// What the lives have come to.
#[derive(Default)]
struct Tally {
    lines: [u64; COUNTS.len()],
    operations: u64,
    histories: u64,
    searched: u64,
    crashes: u64,
    early: u64,
    cut_off: u64,
    happened: u64,
    overlaps: u64,
    updates: u64,
    removes: u64,
    violations: Vec<String>,
}

/// A life that was killed, and is not checked before the next one has said what it has found.
struct Killed {
    is_short: bool,
    opening: Vec<Event>,
    /// By key and round.
    histories: HashMap<(u64, u64), History>,
}

pub(crate) fn run(plan: &Plan) -> io::Result<Run> {
    let begin = Instant::now();
    let folder = tempfile::tempdir()?;
    let board = Board::open(&Life::board(folder.path()))?;
    let (mut random, mut tally) = (Random::new(plan.seed), Tally::default());
    let mut newest = [0; KEYS as usize];
    let mut killed: Option<Killed> = None;
    for number in 1_u64.. {
        board.begin_life();
        let is_short = number.is_multiple_of(4);
        let life = Life { folder: folder.path().to_owned(), number, seed: random.next() >> 8, is_short };
        let mut child = life.command()?.spawn()?;
        if random.below(EARLY) == 0 {
            thread::sleep(Duration::from_micros(random.below(4_000)));
            if board.count(Count::Ready).load(Ordering::Acquire) == 0 {
                kill(&mut child)?;
                tally.early += 1;
                continue;
            }
        }
        wait_until_ready(&board, &mut child)?;
        let opening: Vec<_> = (0..KEYS).map(|key| board.opening(key)).collect();
        if let Some(killed) = killed.take() {
            tally.check(killed, &opening, &mut newest);
        }
        if tally.operations >= plan.operations || !tally.violations.is_empty() {
            kill(&mut child)?;
            break;
        }
        thread::sleep(Duration::from_millis(10 + random.below(60)));
        kill(&mut child)?;
        tally.crashes += 1;
        killed = Some(collect(&board, &mut tally, is_short, opening));
    }
    Ok(tally.told(plan, begin.elapsed()))
}

fn kill(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

fn wait_until_ready(board: &Board, child: &mut Child) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while board.count(Count::Ready).load(Ordering::Acquire) == 0 {
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            let _ = kill(child);
            return Err(io::Error::other("a life has not opened its cache"));
        }
        thread::sleep(Duration::from_micros(300));
    }
    Ok(())
}

fn collect(board: &Board, tally: &mut Tally, is_short: bool, opening: Vec<Event>) -> Killed {
    for (line, (_, count)) in tally.lines.iter_mut().zip(COUNTS) {
        *line += board.count(count).load(Ordering::Relaxed);
    }
    let mut histories: HashMap<(u64, u64), History> = HashMap::new();
    let mut last = [0; KEYS as usize];
    for done in (0..THREADS).flat_map(|thread| board.page(thread).events().collect::<Vec<_>>()) {
        let round = &mut last[done.key as usize];
        *round = done.round.max(*round);
        tally.operations += 1;
        match done.event.what {
            What::Update { .. } => tally.updates += 1,
            What::Remove { .. } => tally.removes += 1,
            What::Put { .. } | What::Get { .. } => {}
        }
        histories.entry((done.key, done.round)).or_default().events.push(done.event);
    }
    for (key, pending) in (0..THREADS).filter_map(|thread| board.page(thread).pending()) {
        tally.cut_off += 1;
        // A round that has just begun may have nothing else in it; then it goes on from the one before.
        histories.entry((key, last[key as usize])).or_default().pending.push(pending);
    }
    Killed { is_short, opening, histories }
}

impl Tally {
    fn check(&mut self, killed: Killed, found: &[Event], newest: &mut [u64; KEYS as usize]) {
        let Killed { is_short, opening, mut histories } = killed;
        let mut order: Vec<_> = histories.keys().copied().collect();
        order.sort_unstable();
        let mut before = None;
        for (at, &(key, round)) in order.iter().enumerate() {
            let Some(mut history) = histories.remove(&(key, round)) else { continue };
            let is_first = at == 0 || order[at - 1].0 != key;
            let is_last = order.get(at + 1).is_none_or(|next| next.0 != key);
            history.value = if is_first { read(&opening[key as usize]) } else { before };
            history.version = newest[key as usize];
            if is_last {
                history.events.push(found[key as usize]);
                self.happened +=
                    history.pending.iter().filter(|pending| is_seen(pending.what, &history)).count() as u64;
            } else {
                // The read after the round, with which the next one begins.
                before = history.events.iter().max_by_key(|event| event.begin).and_then(read);
            }
            self.check_one(is_short, key, &history);
            let versions = history.events.iter().filter_map(|event| match event.what {
                What::Put { version, .. } | What::Remove { version } | What::Update { version, .. } => {
                    Some(version)
                }
                What::Get { .. } => None,
            });
            newest[key as usize] = versions.fold(newest[key as usize], u64::max);
        }
    }

    fn check_one(&mut self, is_short: bool, key: u64, history: &History) {
        self.histories += 1;
        let mut by_begin: Vec<_> = history.events.iter().map(|event| (event.begin, event.end)).collect();
        by_begin.sort_unstable();
        self.overlaps += by_begin.windows(2).filter(|pair| pair[0].1 > pair[1].0).count() as u64;
        if let Err(wrong) = versions::check(history) {
            self.violations.push(format!("key {key}, by versions: {wrong}"));
        }
        if is_short && history.events.len() + history.pending.len() <= search::MOST {
            self.searched += 1;
            if let Err(wrong) = search::check(history) {
                self.violations.push(format!("key {key}, by search: {wrong}"));
            }
        }
    }

    fn told(self, plan: &Plan, took: Duration) -> Run {
        let mut lines = vec![
            ("operations", self.operations),
            ("histories", self.histories),
            ("of them checked by search, too", self.searched),
            ("operations that overlap with the next one of their key", self.overlaps),
            ("updates and swaps", self.updates),
            ("removes", self.removes),
            ("crashes at work", self.crashes),
            ("crashes while opening", self.early),
            ("writes cut off by a crash", self.cut_off),
            ("of them seen all the same", self.happened),
        ];
        lines.extend(COUNTS.iter().zip(self.lines).map(|((name, _), count)| (*name, count)));
        let mut text = format!("seed {}, {:.1} s\n", plan.seed, took.as_secs_f64());
        for (name, count) in &lines {
            let _ = writeln!(text, "{count:>14}  {name}");
        }
        let _ = write!(text, "{:>14}  violations", self.violations.len());
        let mut findings = self.violations;
        if findings.is_empty() {
            let missing = lines.iter().filter(|(_, count)| *count == 0);
            findings.extend(missing.map(|(name, _)| format!("this never happened: {name}")));
        }
        Run { text, findings }
    }
}

fn read(event: &Event) -> Option<u64> {
    match event.what {
        What::Get { value } => value,
        What::Put { value, .. } | What::Update { value, .. } => Some(value),
        What::Remove { .. } => None,
    }
}

fn is_seen(attempt: Attempt, history: &History) -> bool {
    let (Attempt::Put { value } | Attempt::Update { value, .. }) = attempt else { return false };
    history.events.iter().any(|event| match event.what {
        What::Get { value: seen } | What::Update { old: seen, .. } => seen == Some(value),
        _ => false,
    })
}
