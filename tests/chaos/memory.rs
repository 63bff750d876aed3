//! What the process has in memory while it works, and whether that grows.

use std::time::{Duration, Instant};

/// How often it is looked at.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// What belongs to the beginning: pages that are used for the first time, buffers that reach their size, arenas of threads. A
/// share of the run, from its start.
const WARM_UP: f64 = 0.25;

/// What may be more in the second half than in the first: what an allocator keeps for the next misfortune, and what is in the air
/// at one. A leak that stays below it in ten minutes and a few million writes is of one or two bytes for each.
const SLACK: u64 = 8 << 20;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    /// All that is resident, and of it what belongs to no file.
    resident: u64,
    anonymous: u64,
}

pub(crate) struct Memory {
    start: Instant,
    samples: Vec<Sample>,
}

/// The medians of both halves after the warm-up, and the most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) most: u64,
    pub(crate) most_resident: u64,
    pub(crate) samples: usize,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Memory { start: Instant::now(), samples: Vec::with_capacity(1 << 14) }
    }

    /// Looks once. Nothing where the system does not tell.
    pub(crate) fn look(&mut self) {
        let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
        };
        if let (Some(resident), Some(anonymous)) = (value("VmRSS"), value("RssAnon")) {
            self.samples.push(Sample { at: self.start.elapsed(), resident, anonymous });
        }
    }

    /// None: there were not enough samples.
    pub(crate) fn course(&self) -> Option<Course> {
        let end = self.samples.last()?.at;
        let from = end.mul_f64(WARM_UP);
        let middle = from + (end - from) / 2;
        let after = |sample: &&Sample| sample.at >= from;
        let (first, second): (Vec<Sample>, Vec<Sample>) =
            self.samples.iter().filter(after).partition(|sample| sample.at < middle);
        let median = |half: &[Sample]| {
            let mut sizes: Vec<u64> = half.iter().map(|sample| sample.anonymous).collect();
            sizes.sort_unstable();
            sizes.get(sizes.len() / 2).copied()
        };
        let most = |of: fn(&Sample) -> u64| self.samples.iter().map(of).max();
        Some(Course {
            first: median(&first)?,
            second: median(&second)?,
            most: most(|sample| sample.anonymous)?,
            most_resident: most(|sample| sample.resident)?,
            samples: first.len() + second.len(),
        })
    }
}

impl Course {
    /// Whether it grows.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let limit = self.first + self.first / 20 + SLACK;
        if self.second <= limit {
            return Ok(());
        }
        let Course { first, second, .. } = self;
        Err(format!("{second} bytes in the second half, {first} in the first; at most {limit} would be flat"))
    }
}
