//! Kills after every instruction, and what they add up to.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::Ordering::SeqCst,
};

use memmap2::Mmap;

use crate::{
    check::{Found, check},
    page::{ACKED, Image, Page},
    tracer::{Child, Run},
};

/// Where children live, and what they share with us.
pub(crate) struct Bench {
    pub(crate) journal: PathBuf,
    snapshot: PathBuf,
    folder: PathBuf,
    pub(crate) page: &'static Page,
    scratch: &'static Page,
}

impl Bench {
    pub(crate) fn new(folder: &Path) -> Self {
        Bench {
            journal: folder.join("a.journal"),
            snapshot: folder.join("b.journal"),
            folder: folder.to_owned(),
            page: Page::shared(),
            scratch: Page::shared(),
        }
    }

    /// Only this journal (or none), and this page.
    fn lay_out(&self, journal: Option<&[u8]>, page: &Image) {
        for entry in fs::read_dir(&self.folder).expect("the folder").flatten() {
            fs::remove_file(entry.path()).expect("removing a file");
        }
        if let Some(bytes) = journal {
            fs::write(&self.journal, bytes).expect("writing a journal");
        }
        self.page.set(page);
    }

    /// Recovers from what a child would leave that is killed now. The child goes on with its own file.
    fn check_snapshot(&self, file: &View, image: &Image) -> Result<Found, String> {
        match file.bytes() {
            None => match fs::remove_file(&self.snapshot) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
                _ => {}
            },
            Some(bytes) => fs::write(&self.snapshot, bytes).map_err(|error| error.to_string())?,
        }
        check(&self.snapshot, image, self.scratch)
    }

    fn check_real(&self) -> Result<Found, String> {
        check(&self.journal, &self.page.image(), self.scratch)
    }
}

/// A file as its pages are now.
struct View {
    map: Option<(Mmap, (u64, u64))>,
}

impl View {
    fn of(path: &Path) -> Self {
        let map = fs::File::open(path).ok().map(|file| {
            let which = which(&file.metadata().expect("metadata"));
            // SAFETY: only children write it, and they are stopped whenever we look; none makes it shorter.
            (unsafe { Mmap::map(&file) }.expect("mapping a journal"), which)
        });
        View { map }
    }

    fn bytes(&self) -> Option<&[u8]> {
        self.map.as_ref().map(|(map, _)| &map[..])
    }

    /// Whether the path names this file still, and it has this length.
    fn is_current(&self, path: &Path) -> bool {
        fs::metadata(path).ok().map(|metadata| which(&metadata)) == self.map.as_ref().map(|(_, which)| *which)
    }
}

fn which(metadata: &fs::Metadata) -> (u64, u64) {
    (std::os::unix::fs::MetadataExt::ino(metadata), metadata.len())
}

/// What came of the kills of one scenario.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) instructions: usize,
    /// States of file, page and database that differ from the one an instruction earlier.
    pub(crate) states: usize,
    /// Children that really were killed.
    pub(crate) kills: usize,
    /// How many of them took another way than the one that was walked.
    pub(crate) strays: usize,
    /// Recoveries that found the operation not done and done, and done although nobody had been told yet.
    pub(crate) before: usize,
    pub(crate) after: usize,
    pub(crate) unacked: usize,
    /// Recoveries that found it not done while the file had changed already: kills in the middle of it.
    pub(crate) midway: usize,
    /// Different numbers of dirty keys and of records that recoveries found.
    pub(crate) dirty: HashSet<usize>,
    pub(crate) records: HashSet<u64>,
    /// Words of older records that the operation has written over.
    pub(crate) overwrote: usize,
    /// Wrong recoveries, by what was wrong; and the first of them.
    pub(crate) wrong: BTreeMap<String, usize>,
    pub(crate) first_wrong: Option<String>,
    /// What the child counted at its end.
    pub(crate) notes: [u64; 3],
}

impl Tally {
    fn count(&mut self, found: Result<Found, String>, phase: u64, has_changed: bool, instruction: usize) {
        match found {
            Ok(found) => {
                self.dirty.insert(found.dirty);
                self.records.insert(found.records);
                if found.is_after {
                    self.after += 1;
                    self.unacked += usize::from(phase != ACKED);
                } else {
                    self.before += 1;
                    self.midway += usize::from(has_changed);
                }
            }
            Err(wrong) => {
                let kind = wrong.split(':').next().unwrap_or_default().to_owned();
                *self.wrong.entry(kind).or_default() += 1;
                self.first_wrong.get_or_insert(format!("after {instruction} instructions: {wrong}"));
            }
        }
    }

    pub(crate) fn wrongs(&self) -> usize {
        self.wrong.values().sum()
    }
}

/// A moment in a child's life: so many entries into and returns from system calls after the mark, and so many
/// instructions after that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) calls: usize,
    pub(crate) steps: usize,
}

/// What one child showed that was stepped from its mark to its end.
pub(crate) struct Walk {
    pub(crate) tally: Tally,
    /// When it changed the file, the page or the database.
    pub(crate) changes: Vec<Moment>,
    /// Where it was about to execute something: at the mark, after one instruction, after two …
    pub(crate) path: Vec<u64>,
    /// Its last moment.
    pub(crate) end: Moment,
    /// The last state in which the operation had begun in the file and not yet happened.
    pub(crate) midway: Option<(Vec<u8>, Image)>,
}

/// Where a child begins.
pub(crate) struct Start<'a> {
    pub(crate) journal: Option<Vec<u8>>,
    pub(crate) page: Image,
    /// What it does, up to and between two marks.
    pub(crate) body: &'a dyn Fn(),
}

/// Steps one child through, and recovers from every state that it passes. A kill after an instruction that changes
/// nothing leaves what the one before it left, so this covers all of them.
pub(crate) fn walk(bench: &Bench, start: &Start<'_>, sees_calls: bool) -> Result<Walk, String> {
    bench.lay_out(start.journal.as_deref(), &start.page);
    let child = Child::start(start.body)?;
    let mut file = View::of(&bench.journal);
    let first = file.bytes().map(<[u8]>::to_vec);
    let (mut last, mut page) = (first.clone(), bench.page.image());
    let mut walk = Walk {
        tally: Tally::default(),
        changes: Vec::new(),
        path: vec![child.address()],
        end: Moment::default(),
        midway: None,
    };
    let mut moment = Moment::default();
    walk.tally.count(bench.check_snapshot(&file, &page), bench.page.phase.load(SeqCst), false, 0);
    let mut address = child.address();
    while bench.page.phase.load(SeqCst) != ACKED {
        let calls = sees_calls && child.is_system_call(address);
        child.step();
        address = child.address();
        walk.tally.instructions += 1;
        walk.path.push(address);
        moment.steps += 1;
        if calls {
            moment = Moment { calls: moment.calls + 2, steps: 0 };
        }
        if calls && !file.is_current(&bench.journal) {
            file = View::of(&bench.journal);
        }
        if file.bytes() == last.as_deref() && bench.page.is(&page) {
            continue;
        }
        last = file.bytes().map(<[u8]>::to_vec);
        page = bench.page.image();
        walk.changes.push(moment);
        let has_changed = last != first;
        let found = bench.check_snapshot(&file, &page);
        if let (Ok(found), Some(bytes)) = (&found, &last)
            && !found.is_after
            && has_changed
        {
            walk.midway = Some((bytes.clone(), page.clone()));
        }
        let phase = bench.page.phase.load(SeqCst);
        walk.tally.count(found, phase, has_changed, walk.tally.instructions);
    }
    walk.tally.states = walk.changes.len();
    walk.end = moment;
    if let (Some(first), Some(last)) = (&first, &last) {
        let words = first.chunks(8).zip(last.chunks(8)).skip(512);
        walk.tally.overwrote =
            words.filter(|(old, new)| old != new && old.iter().any(|byte| *byte != 0)).count();
    }
    child.to_mark();
    walk.tally.notes = bench.page.notes.each_ref().map(|note| note.load(SeqCst));
    Ok(walk)
}

/// Ways to the instructions of a path that do not take a stop at each: a breakpoint shortly before, where the path is for
/// the first time, and steps from there.
pub(crate) struct Ways<'a> {
    path: &'a [u64],
    /// The places where the path is at an address for the first time.
    firsts: Vec<usize>,
}

impl<'a> Ways<'a> {
    pub(crate) fn along(path: &'a [u64]) -> Self {
        let mut seen = HashSet::new();
        let firsts = (0..path.len()).filter(|at| seen.insert(path[*at])).collect();
        Ways { path, firsts }
    }

    /// Lets a child that is at its mark execute so many instructions. Leaves out so many of the breakpoints that are
    /// nearest. `None`: it never came to the breakpoint. `Some`: whether it is where the walk was.
    fn go(&self, child: &Child, steps: usize, left_out: usize) -> Option<bool> {
        let before = &self.firsts[..self.firsts.partition_point(|first| *first <= steps)];
        let mut at = 0;
        // Where it is at the mark there is nothing to run to. In pages of the kernel no breakpoint can be set.
        for first in before.iter().rev().skip(left_out).filter(|first| **first > 0) {
            match child.run_to(self.path[*first]) {
                Run::There => {
                    at = *first;
                    break;
                }
                Run::Missed => return None,
                Run::Impossible => {}
            }
        }
        (at..steps).for_each(|_| child.step());
        Some(child.address() == self.path[steps])
    }
}

/// Kills a child at each of these moments, and recovers from what it leaves.
pub(crate) fn kill_at(
    bench: &Bench,
    start: &Start<'_>,
    ways: Option<&Ways<'_>>,
    moments: impl Iterator<Item = Moment>,
    first_change: Moment,
    tally: &mut Tally,
) -> Result<(), String> {
    for moment in moments {
        bench.lay_out(start.journal.as_deref(), &start.page);
        let mut child = Child::start(start.body)?;
        if let Some(ways) = ways {
            // The clock and the allocator can make it take another way. It is killed there as well, but counted: too many of
            // them would mean that the walked one is not covered.
            let mut left_out = 0;
            let mut arrival = ways.go(&child, moment.steps, left_out);
            while arrival.is_none() {
                left_out = left_out * 2 + 16;
                child.kill();
                bench.lay_out(start.journal.as_deref(), &start.page);
                child = Child::start(start.body)?;
                arrival = ways.go(&child, moment.steps, left_out);
            }
            tally.strays += usize::from(left_out > 0 || arrival == Some(false));
        } else {
            (0..moment.calls).for_each(|_| child.to_system_call());
            (0..moment.steps).for_each(|_| child.step());
        }
        child.kill();
        tally.kills += 1;
        let has_changed = moment >= first_change;
        let found = bench.check_real();
        tally.count(found, bench.page.phase.load(SeqCst), has_changed, moment.steps);
    }
    Ok(())
}

/// What a journal and a database hold now.
pub(crate) fn recovered(bench: &Bench, journal: &[u8], page: &Image) -> Result<Found, String> {
    bench.lay_out(Some(journal), page);
    bench.check_real()
}
