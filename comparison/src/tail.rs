//! How long single operations take, up to the slowest in ten thousand: under constant insertion, removal and eviction at full
//! capacity, and where everything fits.

use std::{
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    report::{
        Plot, Section, Table,
        plot::{Shape, time},
    },
    subjects::{self, Worker},
    turns,
    workload::{self, Op, Stream, Zipf},
};

/// What to measure.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// How many entries the subjects hold.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// How often each subject has its turn.
    #[arg(long, default_value_t = 60)]
    pub(crate) rounds: usize,
    /// How long a turn is, in milliseconds.
    #[arg(long, default_value_t = 50)]
    pub(crate) slice: u64,
}

/// The parts of the distribution that the tables show, in percent.
pub(crate) const PARTS: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// For latencies up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

pub(crate) fn part_names() -> impl Iterator<Item = String> {
    PARTS.iter().map(|part| if *part == 100.0 { "most".to_owned() } else { format!("p{part}") })
}

pub(crate) fn parts(histogram: &Histogram<u64>) -> impl Iterator<Item = f64> + '_ {
    PARTS.iter().map(|part| histogram.value_at_percentile(*part) as f64)
}

pub(crate) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(took.as_nanos() as u64);
}

pub(crate) fn run(options: &Options, folder: &Path) -> Section {
    let mut section = Section::new("Latency", "cargo run --release -- tail");
    section.text(format!(
        "Each operation is timed by itself, on the system's clock; the array's row shows what of that is the clock and the machine. Subjects \
         take turns of {} ms, {} for each table.",
        options.slice, options.rounds
    ));
    for threads in [1, 2] {
        let latencies = churn(options, threads, folder);
        let caption = format!(
            "**Puts of new keys at full capacity**, {threads} thread(s), {} entries, all the time: caches evict for each, and every other turn an \
             entry is removed; from maps an old entry is removed for each new one",
            options.keys
        );
        section.table(table(&caption, &latencies));
        if threads == 1 {
            section.plot(plot("tail-churn", "Put of a new key at full capacity, one thread", &latencies));
        }
    }
    let (gets, puts) = mixed(options, folder);
    section.table(table("**Gets**, everything fits, half of the operations are puts, one thread", &gets));
    section.table(table("**Puts**, in the same mixture", &puts));
    section.plot(plot("tail-put", "Put of a key that is there, one thread", &puts));
    section
}

/// For each subject.
type Latencies = Vec<(&'static str, Histogram<u64>)>;

fn table(caption: &str, latencies: &Latencies) -> Table {
    let head = std::iter::once(String::new()).chain(part_names()).chain(["operations".to_owned()]);
    let mut table = Table::new(caption, head);
    for (name, histogram) in latencies {
        let cells = parts(histogram).map(time).chain([histogram.len().to_string()]);
        table.row(std::iter::once((*name).to_owned()).chain(cells));
    }
    table
}

fn plot(file: &'static str, title: &str, latencies: &Latencies) -> Plot {
    let series = latencies.iter().map(|(name, histogram)| ((*name).to_owned(), parts(histogram).collect()));
    Plot {
        file,
        title: title.to_owned(),
        y_label: "latency",
        places: part_names().collect(),
        series: series.collect(),
        shape: Shape::LogLines,
    }
}

/// A thread's keys in the order of their insertion: no other thread's, and never the same again.
struct Line {
    thread: u64,
    threads: u64,
    next: u64,
}

impl Line {
    fn key(&self, number: u64) -> u64 {
        workload::key(number * self.threads + self.thread)
    }
}

fn churn(options: &Options, threads: usize, folder: &Path) -> Latencies {
    let subjects = subjects::some(options.keys as usize, folder, |_| true);
    let share = options.keys / threads as u64;
    for subject in &subjects {
        subject.enter(Duration::ZERO);
        subject.worker().fill(&mut (0..share * threads as u64).map(workload::key));
        subject.leave();
    }
    let lines = subjects.iter().flat_map(|_| 0..threads as u64);
    let lines: Vec<Mutex<(Line, Histogram<u64>)>> = lines
        .map(|thread| Line { thread, threads: threads as u64, next: share })
        .map(|line| Mutex::new((line, histogram())))
        .collect();
    let evicting: Vec<bool> = subjects.iter().map(|subject| subject.evicts()).collect();
    let slice = Duration::from_millis(options.slice);
    turns::take(&subjects, threads, options.rounds, slice, |turn, worker| {
        let mut line = lines[turn.subject * threads + turn.thread].lock().expect("its own");
        let (line, histogram) = &mut *line;
        replace(worker, evicting[turn.subject], share, line, histogram, slice);
    });
    let lines: Vec<_> = lines.into_iter().map(|line| line.into_inner().expect("its own").1).collect();
    let of_threads = lines.chunks(threads).map(|parts| {
        let mut all = histogram();
        parts.iter().for_each(|part| all.add(part).expect("the same bounds"));
        all
    });
    subjects.iter().map(|subject| subject.name()).zip(of_threads).collect()
}

/// One slice of puts and removes; the puts are timed.
fn replace(
    worker: &mut dyn Worker,
    evicts: bool,
    share: u64,
    line: &mut Line,
    histogram: &mut Histogram<u64>,
    slice: Duration,
) {
    let begin = Instant::now();
    loop {
        let key = line.key(line.next);
        let start = Instant::now();
        worker.put(key, line.next);
        let end = Instant::now();
        record(histogram, end - start);
        // Out of a map goes the oldest; out of a cache something that is hardly evicted yet.
        if !evicts {
            worker.remove(line.key(line.next - share));
        } else if line.next.is_multiple_of(2) {
            worker.remove(line.key(line.next - share / 16));
        }
        line.next += 1;
        if end - begin >= slice {
            return;
        }
    }
}

/// Gets and puts of keys that are there.
fn mixed(options: &Options, folder: &Path) -> (Latencies, Latencies) {
    let keys = options.keys as usize;
    let subjects = subjects::some(keys + keys / 8, folder, |_| true);
    for subject in &subjects {
        subject.enter(Duration::ZERO);
        subject.worker().fill(&mut (0..options.keys).map(workload::key));
        subject.leave();
    }
    let ops: Vec<Op> = workload::mixed(&Zipf::new(options.keys).keys(1 << 21, 1), 50, 1);
    let both: Vec<Mutex<[Histogram<u64>; 2]>> =
        subjects.iter().map(|_| Mutex::new([histogram(), histogram()])).collect();
    let slice = Duration::from_millis(options.slice);
    turns::take(&subjects, 1, options.rounds, slice, |turn, worker| {
        let mut both = both[turn.subject].lock().expect("its own");
        let [gets, puts] = &mut *both;
        let mut stream = Stream::from(&ops, turn.round * (ops.len() / options.rounds));
        let begin = Instant::now();
        while begin.elapsed() < slice {
            for op in stream.chunk() {
                let start = Instant::now();
                if op.writes() {
                    worker.put(op.key(), op.key());
                    record(puts, start.elapsed());
                } else {
                    std::hint::black_box(worker.get(op.key()));
                    record(gets, start.elapsed());
                }
            }
        }
    });
    let both = both.into_iter().map(|both| both.into_inner().expect("its own"));
    both.zip(&subjects)
        .map(|([gets, puts], subject)| ((subject.name(), gets), (subject.name(), puts)))
        .unzip()
}
