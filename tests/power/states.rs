//! Every state that a loss of power may leave of a recorded journal, and what recovery makes of it.
//!
//! The kernel may write a dirty page at any time, and the disk works in sectors: after a loss of power each sector holds
//! any of the contents that it has had since the last sync that has succeeded (counted from when that began). After a
//! *failed* sync the kernel may call a page clean that it has not written, so that page is only covered by a later sync if
//! it was stored to again. This walks over a recording, and after each event that allows new states, or forbids old
//! ones, tries those states: all of them where they are few, else the extremes, each sector and some pairs against the rest, and
//! random mixtures.

use std::collections::{HashMap, HashSet};

use writeback::faults::{self, Event, Outline};

use super::workload::{KEYS, Random, Run, marks, nonce};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
const SECTORS: usize = PAGE / SECTOR;

/// A promise that recovery broke.
pub(crate) struct Conviction {
    pub(crate) event: usize,
    pub(crate) what: String,
}

/// How much was tried.
#[derive(Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) states: u64,
    pub(crate) points: u64,
    /// Crash points of which every state was tried.
    pub(crate) exhausted: u64,
    /// States that were also read as a whole, in one go.
    pub(crate) whole: u64,
    /// States with a hole or a torn tail.
    pub(crate) torn: u64,
    /// The most sectors that were open at once.
    pub(crate) widest: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.states += other.states;
        self.points += other.points;
        self.exhausted += other.exhausted;
        self.whole += other.whole;
        self.torn += other.torn;
        self.widest = self.widest.max(other.widest);
    }
}

/// What must be true before the first event.
#[derive(Clone)]
pub(crate) struct Before {
    /// For each key, the newest version that must not be lost.
    pub(crate) synced: [u64; KEYS],
    /// For each key, the version that the backend has.
    pub(crate) stored: [u64; KEYS],
    /// Whether older values over the backend's newer ones are allowed until a write was acknowledged as synced.
    pub(crate) is_lax: bool,
}

/// A state, with what recovery makes of it.
pub(crate) struct Sample {
    pub(crate) image: Vec<u8>,
    /// Version and value of each key; version zero: nothing.
    pub(crate) recovered: [(u64, u64); KEYS],
    pub(crate) stored: [u64; KEYS],
}

/// How many states are tried at one crash point: all, if they are no more than `all`, else some and `random` mixtures.
#[derive(Clone, Copy)]
pub(crate) struct Breadth {
    pub(crate) all: usize,
    pub(crate) random: usize,
}

#[derive(Default)]
struct Sector {
    /// Each with a number that no other content of this sector has had. The first is durable.
    versions: Vec<(u32, [u8; SECTOR])>,
    numbered: u32,
    /// The one that is in the image.
    chosen: usize,
    /// The newest one when the sync began that is running.
    begun: usize,
}

/// What one segment says: its newest live record of each key, and whether that is one that was written.
struct Said {
    entries: Vec<(u8, u64, u64, bool)>,
    is_damaged: bool,
    is_torn: bool,
}

type Place = (u32, u64, [u32; SECTORS]);

pub(crate) struct Walk<'a> {
    run: &'a Run,
    longest: usize,
    breadth: Breadth,
    image: Vec<u8>,
    /// Of the file: what is durable, what it is, what it was when the sync began; and of the image.
    length: [usize; 3],
    image_length: usize,
    sectors: Vec<Sector>,
    /// Pages that a failed sync may have dropped.
    dropped: Vec<bool>,
    open: Vec<usize>,
    is_syncing: bool,
    outlines: HashMap<(usize, [u32; SECTORS]), Result<Outline, String>>,
    outline: Result<Outline, String>,
    known: HashMap<Place, usize>,
    said: Vec<Said>,
    /// For each segment, what it says in this state.
    says: Vec<usize>,
    before: Before,
    random: Random,
    seen: HashSet<u64>,
    pub(crate) counts: Counts,
    pub(crate) samples: Vec<Sample>,
    keep: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        run: &'a Run,
        longest: usize,
        breadth: Breadth,
        before: Before,
        seed: u64,
        keep: usize,
    ) -> Self {
        let write_end = |event: &Event| match event {
            Event::Write(offset, bytes) => *offset as usize + bytes.len(),
            _ => 0,
        };
        let base = &run.tape.base;
        let end = run.tape.events.iter().map(write_end).max().unwrap_or(0).max(base.len());
        let mut image = base.clone();
        image.resize(end.next_multiple_of(PAGE), 0);
        let first = |bytes: &[u8]| vec![(0, <[u8; SECTOR]>::try_from(bytes).unwrap())];
        let sectors: Vec<_> = image
            .chunks(SECTOR)
            .map(|bytes| Sector { versions: first(bytes), ..Sector::default() })
            .collect();
        Walk {
            run,
            longest,
            breadth,
            length: [base.len(); 3],
            image_length: base.len(),
            dropped: vec![false; image.len() / PAGE],
            image,
            sectors,
            open: Vec::new(),
            is_syncing: false,
            outlines: HashMap::new(),
            outline: Err(String::new()),
            known: HashMap::new(),
            said: Vec::new(),
            says: Vec::new(),
            before,
            random: Random::new(seed),
            seen: HashSet::new(),
            counts: Counts::default(),
            samples: Vec::new(),
            keep,
        }
    }

    /// Walks over the whole recording, or up to so many states.
    pub(crate) fn walk(&mut self, limit: u64) -> Result<(), Conviction> {
        let run = self.run;
        // Narrower, where the recording is long: all of it is walked over.
        let narrow = (limit / (8 * run.tape.events.len().max(1) as u64)) as usize;
        self.breadth.random = self.breadth.random.min(narrow.max(1));
        for (at, event) in run.tape.events.iter().enumerate() {
            let convicted = |what| Conviction { event: at, what };
            match event {
                Event::Store(offset, word) => {
                    if let Some(sector) = self.store(*offset as usize, &word.to_le_bytes()) {
                        // States with this sector as it was were tried before.
                        self.visit(Some(sector)).map_err(convicted)?;
                    }
                }
                Event::Write(offset, bytes) => {
                    self.length[1] = self.length[1].max(*offset as usize + bytes.len());
                    for (index, bytes) in bytes.chunks(SECTOR).enumerate() {
                        self.store(*offset as usize + index * SECTOR, bytes);
                    }
                    self.visit(None).map_err(convicted)?;
                }
                Event::SyncBegin => self.sync_begins(),
                Event::SyncEnd(is_ok) => {
                    self.sync_ends(*is_ok);
                    self.visit(None).map_err(convicted)?;
                }
                Event::Mark([what, version, _]) => {
                    let key = (what >> 8) as usize;
                    let bound = match what & 0xff {
                        marks::SYNCED => {
                            self.before.is_lax = false;
                            &mut self.before.synced
                        }
                        marks::STORED => &mut self.before.stored,
                        _ => continue,
                    };
                    bound[key] = bound[key].max(*version);
                    self.visit(None).map_err(convicted)?;
                }
            }
            if self.counts.states >= limit {
                break;
            }
        }
        Ok(())
    }

    /// Stores within one sector, and returns which, if that has changed anything.
    fn store(&mut self, offset: usize, bytes: &[u8]) -> Option<usize> {
        let (index, within) = (offset / SECTOR, offset % SECTOR);
        let sector = &mut self.sectors[index];
        self.dropped[offset / PAGE] = false;
        let mut content = sector.versions.last().unwrap().1;
        if content[within..][..bytes.len()] == *bytes {
            return None;
        }
        content[within..][..bytes.len()].copy_from_slice(bytes);
        sector.numbered += 1;
        sector.versions.push((sector.numbered, content));
        if sector.versions.len() == 2 {
            self.open.push(index);
        }
        Some(index)
    }

    fn sync_begins(&mut self) {
        assert!(!self.is_syncing, "two syncs at once");
        self.is_syncing = true;
        self.length[2] = self.length[1];
        for &index in &self.open {
            let sector = &mut self.sectors[index];
            sector.begun = if self.dropped[index / SECTORS] { 0 } else { sector.versions.len() - 1 };
        }
    }

    fn sync_ends(&mut self, is_ok: bool) {
        self.is_syncing = false;
        if !is_ok {
            for &index in &self.open {
                self.dropped[index / SECTORS] = true;
                self.sectors[index].begun = 0;
            }
            return;
        }
        self.length[0] = self.length[2];
        self.image_length = self.image_length.max(self.length[0]);
        for index in std::mem::take(&mut self.open) {
            let sector = &mut self.sectors[index];
            let durable = std::mem::take(&mut sector.begun);
            sector.versions.drain(..durable);
            match sector.chosen.checked_sub(durable) {
                Some(chosen) => sector.chosen = chosen,
                None => {
                    sector.chosen = 0;
                    self.image[index * SECTOR..][..SECTOR].copy_from_slice(&sector.versions[0].1);
                }
            }
            if sector.versions.len() > 1 {
                self.open.push(index);
            }
        }
        if self.known.len() > 200_000 {
            self.known.clear();
            self.said.clear();
            self.outlines.clear();
        }
        // Whatever it was.
        self.says.clear();
    }

    /// Tries the states of this crash point; with `fixed` those in which that sector is as new as can be.
    fn visit(&mut self, fixed: Option<usize>) -> Result<(), String> {
        self.counts.points += 1;
        self.counts.widest = self.counts.widest.max(self.open.len());
        let open: Vec<usize> = self.open.clone();
        let tops: Vec<usize> = open.iter().map(|&index| self.sectors[index].versions.len() - 1).collect();
        let free: Vec<usize> = (0..open.len()).filter(|&at| Some(open[at]) != fixed).collect();
        let is_longer = self.length[1] > self.length[0];
        let all = free.iter().try_fold(1 + usize::from(is_longer), |all, &at| {
            all.checked_mul(tops[at] + 1).filter(|all| *all <= self.breadth.all)
        });
        self.seen.clear();
        let (old, new) = {
            let mut old = vec![0; open.len()];
            (0..open.len()).filter(|at| !free.contains(at)).for_each(|at| old[at] = tops[at]);
            (old, tops.clone())
        };
        if all.is_some() {
            self.counts.exhausted += 1;
            let mut state = old;
            loop {
                self.attempt(&open, &state, self.length[0])?;
                if is_longer {
                    self.attempt(&open, &state, self.length[1])?;
                }
                let Some(&next) = free.iter().find(|&&at| state[at] < tops[at]) else { break };
                state[next] += 1;
                free.iter().take_while(|&&at| at != next).for_each(|&at| state[at] = 0);
            }
            return Ok(());
        }
        let length = |walk: &mut Self| walk.length[walk.random.below(2)];
        for state in [&old, &new] {
            self.attempt(&open, state, self.length[0])?;
            self.attempt(&open, state, self.length[1])?;
        }
        // A record that ends in the next sector: with each of the contents that this has had of late.
        for (at, &index) in open.iter().enumerate() {
            if fixed.is_some_and(|fixed| fixed.abs_diff(index) == 1) {
                for version in tops[at].saturating_sub(8)..tops[at] {
                    for state in [&old, &new] {
                        let mut state = state.clone();
                        state[at] = version;
                        self.attempt(&open, &state, self.length[0])?;
                    }
                }
            }
        }
        let singles = self.breadth.random.min(free.len());
        let from = self.random.below(free.len());
        for step in 0..singles {
            let at = free[(from + step) % free.len()];
            let other = free[self.random.below(free.len())];
            for is_old in [true, false] {
                let mut state = if is_old { old.clone() } else { new.clone() };
                let flip = |at: usize| if is_old { tops[at] } else { 0 };
                state[at] = flip(at);
                let length = length(self);
                self.attempt(&open, &state, length)?;
                state[other] = flip(other);
                self.attempt(&open, &state, length)?;
                state[at] = self.random.below(tops[at] + 1);
                self.attempt(&open, &state, length)?;
            }
        }
        for round in 0..self.breadth.random {
            let mut state = new.clone();
            for &at in &free {
                state[at] = match (round % 3, self.random.below(8)) {
                    (0, _) | (_, 0) => self.random.below(tops[at] + 1),
                    (1, _) => 0,
                    _ => tops[at],
                };
            }
            let length = length(self);
            self.attempt(&open, &state, length)?;
        }
        Ok(())
    }

    /// Tries one state.
    fn attempt(&mut self, open: &[usize], state: &[usize], length: usize) -> Result<(), String> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (state, length).hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Ok(());
        }
        self.counts.states += 1;
        let mut is_new_outline = self.says.is_empty() || length != self.image_length;
        self.image_length = length;
        let mut changed = Vec::new();
        for (&index, &version) in open.iter().zip(state) {
            let sector = &mut self.sectors[index];
            if sector.chosen != version {
                sector.chosen = version;
                self.image[index * SECTOR..][..SECTOR].copy_from_slice(&sector.versions[version].1);
                match (index / SECTORS).checked_sub(1) {
                    None => is_new_outline = true,
                    Some(segment) if changed.last() != Some(&segment) => changed.push(segment),
                    Some(_) => {}
                }
            }
        }
        if is_new_outline {
            let place = (length, self.numbers(0));
            let read = || faults::superblock(&self.image[..length]);
            let outline = self.outlines.entry(place).or_insert_with(read).clone();
            if outline != self.outline || self.says.is_empty() {
                self.outline = outline;
                let segments = self.outline.as_ref().map_or(0, |outline| outline.segments);
                self.says = vec![usize::MAX; segments];
                changed = (0..segments).collect();
            }
        }
        let outline = self.outline.clone().map_err(|error| format!("the journal does not open: {error}"))?;
        assert_eq!((outline.segment_bytes, outline.superblock), (PAGE, PAGE), "the walk assumes it");
        if outline.is_damaged {
            return Err("the superblock is damaged".into());
        }
        for segment in changed {
            if segment < outline.segments {
                self.says[segment] = self.read(&outline, segment);
            }
        }
        self.judge()
    }

    /// Which contents the sectors of a page have in this state.
    fn numbers(&self, page: usize) -> [u32; SECTORS] {
        std::array::from_fn(|at| {
            let sector = &self.sectors[page * SECTORS + at];
            sector.versions[sector.chosen].0
        })
    }

    /// What a segment says in this state.
    fn read(&mut self, outline: &Outline, segment: usize) -> usize {
        let place = (segment as u32, outline.retired, self.numbers(segment + 1));
        if let Some(&known) = self.known.get(&place) {
            return known;
        }
        let bytes = &self.image[(segment + 1) * PAGE..][..PAGE];
        let mut entries = Vec::new();
        let (is_damaged, is_torn) = faults::segment(outline, segment, bytes, |key, version, value| {
            let number = <[u8; 8]>::try_from(key).map_or(u64::MAX, u64::from_le_bytes);
            let (key, number) = match usize::try_from(number) {
                Ok(key) if key < KEYS => (key, value.map_or(Some(0), |value| nonce(value, self.longest))),
                _ => (0, None),
            };
            let is_real = number.is_some() && self.run.happened[key].get(&version).copied() == number;
            entries.push((key as u8, version, number.unwrap_or(u64::MAX), is_real));
        });
        self.said.push(Said { entries, is_damaged, is_torn });
        self.known.insert(place, self.said.len() - 1);
        self.said.len() - 1
    }

    /// Whether recovery keeps its promises in this state.
    fn judge(&mut self) -> Result<(), String> {
        let mut best = [(0, 0, true); KEYS];
        let mut is_torn = false;
        for &said in &self.says {
            let said = &self.said[said];
            if said.is_damaged {
                return Err("the journal does not open: it counts as damaged".into());
            }
            is_torn |= said.is_torn;
            for &(key, version, number, is_real) in &said.entries {
                let best = &mut best[key as usize];
                if version > best.0 {
                    *best = (version, number, is_real);
                }
            }
        }
        self.counts.torn += u64::from(is_torn);
        for (key, &(version, number, is_real)) in best.iter().enumerate() {
            let (synced, stored) = (self.before.synced[key], self.before.stored[key]);
            let show = |version: u64| format!("{}.{}", version >> 20, version & 0xf_ffff);
            let (version_, synced_, stored_) = (show(version), show(synced), show(stored));
            if !is_real {
                return Err(format!("key {key}: version {version_} (value {number}) was never written"));
            }
            if version.max(stored) < synced {
                return Err(format!(
                    "key {key}: {synced_} was acked as synced; recovered {version_}, the backend has {stored_}"
                ));
            }
            if version != 0 && version < stored && !self.before.is_lax {
                return Err(format!(
                    "key {key}: recovered {version_}, which would go over {stored_} in the backend"
                ));
            }
        }
        if self.counts.states.is_multiple_of(311) {
            self.read_whole(&best)?;
        }
        Ok(())
    }

    /// Reads the state in one go, as a cache would, and compares.
    fn read_whole(&mut self, best: &[(u64, u64, bool); KEYS]) -> Result<(), String> {
        self.counts.whole += 1;
        let image = &self.image[..self.image_length];
        let whole = faults::recover(image).map_err(|error| format!("the journal does not open: {error}"))?;
        if whole.is_damaged {
            return Err("the journal does not open: it counts as damaged".into());
        }
        let mut recovered = [(0, 0); KEYS];
        for entry in &whole.entries {
            let key = u64::from_le_bytes(entry.key.as_slice().try_into().unwrap()) as usize;
            let number = entry.value.as_ref().map_or(0, |value| nonce(value, self.longest).unwrap());
            recovered[key] = (entry.version, number);
        }
        let parts = best.map(|(version, number, _)| (version, number));
        assert_eq!(recovered, parts, "the parts of a journal say something else than the whole");
        // A sample of all states, the same chance for each.
        let place = self.random.below(self.counts.whole as usize);
        let sample = || Sample { image: image.to_vec(), recovered, stored: self.before.stored };
        if self.samples.len() < self.keep {
            self.samples.push(sample());
        } else if place < self.keep {
            self.samples[place] = sample();
        }
        Ok(())
    }
}
