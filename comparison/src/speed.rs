//! Throughput beside an array of atomics: everything fits, Zipf-distributed keys, some share of writes, one thread or two.

use std::{path::Path, time::Duration};

use crate::{
    quantile::{median, quantile},
    report::{
        Plot, Section, Table,
        plot::{Shape, short},
    },
    subjects::{self, AnySubject, Pace, Slice},
    turns,
    workload::{self, Op, Random, Stream, Zipf},
};

/// What to measure.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// How many keys there are; all subjects have room for an eighth more.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// How often each subject has its turn, for each column.
    #[arg(long, default_value_t = 60)]
    pub(crate) rounds: usize,
    /// How long it is timed in a turn, in milliseconds. More than one: a comparison of slices.
    #[arg(long, value_delimiter = ',', default_value = "5")]
    pub(crate) slice: Vec<u64>,
    /// How long it works untimed before that.
    #[arg(long, default_value_t = 3)]
    pub(crate) lead: u64,
    /// How one operation follows the other. Default: a table of each.
    #[arg(long)]
    pub(crate) pace: Option<Pace>,
    /// Only subjects whose names contain one of these, and the array.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { keys: 1_000_000, rounds: 60, slice: vec![5], lead: 3, pace: None, only: Vec::new() }
    }
}

/// Threads, and the share of writes in percent.
struct Column {
    threads: usize,
    writes: u32,
}

const COLUMNS: [Column; 7] = {
    const fn column(threads: usize, writes: u32) -> Column {
        Column { threads, writes }
    }
    [column(1, 0), column(1, 5), column(1, 50), column(1, 100), column(2, 0), column(2, 50), column(2, 100)]
};

impl Column {
    fn name(&self) -> String {
        format!("{} × {} %", self.threads, self.writes)
    }
}

/// How long a list of operations is; a slice sees a part of it.
const LIST: usize = 1 << 21;

/// What a column came to.
struct Measured {
    /// Operations per second of the array, the median.
    base: f64,
    /// For each subject the ratios to the array in the rounds.
    ratios: Vec<Vec<f64>>,
    /// For each subject the share of reads that found nothing.
    misses: Vec<f64>,
}

pub(crate) fn run(options: &Options, folder: &Path) -> Section {
    let mut section = Section::new("Speed", "cargo run --release -- speed");
    let subjects = filled(options, folder);
    let zipf = Zipf::new(options.keys);
    let keys: Vec<Vec<u64>> = (1..=2).map(|seed| zipf.keys(LIST, seed)).collect();
    drop(zipf);
    section.text(format!(
        "{} keys, `u64` to `u64`, Zipf-distributed (exponent 0.99), all in memory; capacity for an eighth more. Columns: threads × \
         share of writes. Throughput as a ratio to a plain array of atomics that is indexed by the hash of the key (no keys, \
         no collisions, no bound): medians over {} rounds, in each of which every subject works for {} ms, in an order drawn anew, \
         after {} ms untimed. Lists of operations are made before. All have the same hash function (foldhash) but \
         TinyUFO, whose own cannot be replaced, and the same pages: {}.",
        options.keys,
        options.rounds,
        options.slice[0],
        options.lead,
        crate::pages::describe(),
    ));
    section.text(
        "This engine is bounded, evicts, tracks what is dirty, keeps its statistics, and flushes what has been dirty for half a second to \
         a backend that counts operations and drops them, on threads of its own (which two measured threads share two cores with). \
         Between its turns its clock stands still and its backend does not answer, so that its flusher works in its own turns and in no \
         other's.",
    );
    let paces = options.pace.map_or(vec![Pace::Single, Pace::Overlapped], |pace| vec![pace]);
    for pace in &paces {
        let measured: Vec<Measured> = COLUMNS
            .iter()
            .map(|column| measure(&subjects, &keys, column, options, options.slice[0], *pace))
            .collect();
        section.table(ratios(&subjects, &measured, *pace));
        if *pace == paces[0] {
            section.table(units(&subjects, &measured));
            section.plot(plot(&subjects, &measured));
        }
        section.text(oddities(&subjects, &measured));
    }
    if options.slice.len() > 1 {
        section.table(by_slice(&subjects, &keys, options, paces[0]));
        section.text(
            "Subjects in turns drive each other out of the processor's caches; the longer a slice, the less of it is spent on coming \
             back. The table shows how much that is.",
        );
    }
    let accounts: Vec<String> = subjects.iter().filter_map(|subject| subject.account()).collect();
    section.text(format!("What the flusher did meanwhile:\n\n- {}", accounts.join("\n- ")));
    section
}

/// All keys are in all of them.
fn filled(options: &Options, folder: &Path) -> Vec<Box<dyn AnySubject>> {
    let keys = options.keys as usize;
    let is_named = |name: &str| options.only.iter().any(|part| name.contains(part));
    let is_wanted = |name: &str| name == subjects::BASE || options.only.is_empty() || is_named(name);
    let subjects = subjects::some(keys + keys / 8, folder, is_wanted);
    for subject in &subjects {
        subject.enter(Duration::ZERO);
        subject.worker().fill(&mut (0..options.keys).map(workload::key));
        subject.leave();
    }
    subjects
}

fn measure(
    subjects: &[Box<dyn AnySubject>],
    keys: &[Vec<u64>],
    column: &Column,
    options: &Options,
    slice: u64,
    pace: Pace,
) -> Measured {
    let lists = keys.iter().zip(1..).take(column.threads);
    let lists: Vec<Vec<Op>> = lists.map(|(keys, seed)| workload::mixed(keys, column.writes, seed)).collect();
    let (slice, lead) = (Duration::from_millis(slice), Duration::from_millis(options.lead));
    let mut random = Random::new(11);
    let places: Vec<usize> = (0..options.rounds).map(|_| random.next() as usize % LIST).collect();
    let slices = turns::take(subjects, column.threads, options.rounds, lead + slice, |turn, worker| {
        let mut stream = Stream::from(&lists[turn.thread], places[turn.round]);
        // Threads wake up, and what the others have driven out of the processor's caches comes back.
        worker.work(&mut stream, pace, lead);
        worker.work(&mut stream, pace, slice)
    });
    let rate = |slice: &Slice| slice.ops as f64 / slice.took.as_secs_f64();
    let of_round = |slices: &[Slice]| slices.iter().map(rate).sum::<f64>();
    let rates = slices.iter().map(|slices| slices.chunks(column.threads).map(of_round).collect());
    let rates: Vec<Vec<f64>> = rates.collect();
    let misses = slices.iter().map(|slices| {
        let sum = |of: fn(&Slice) -> u64| slices.iter().map(of).sum::<u64>() as f64;
        sum(|slice| slice.misses) / sum(|slice| slice.ops)
    });
    let base = &rates[0];
    let ratios = rates.iter().map(|rates| rates.iter().zip(base).map(|(rate, base)| rate / base).collect());
    Measured { base: median(base), ratios: ratios.collect(), misses: misses.collect() }
}

fn head(first: &str) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(COLUMNS.iter().map(Column::name)).collect()
}

/// The ratios, and what the array itself does.
fn ratios(subjects: &[Box<dyn AnySubject>], measured: &[Measured], pace: Pace) -> Table {
    let caption = match pace {
        Pace::Single => {
            "**One operation after the other** (a fence after each, `lfence`): ratio to the array (a tenth of the rounds below … above)"
        }
        Pace::Overlapped => {
            "**Overlapped**, as the processor likes: ratio to the array (a tenth of the rounds below … above)"
        }
    };
    let mut table = Table::new(caption, head(""));
    let bases = measured.iter().map(|column| format!("{} M/s", short(column.base / 1e6)));
    table.row(std::iter::once(subjects::BASE.to_owned()).chain(bases));
    for (number, subject) in subjects.iter().enumerate().skip(1) {
        let cells = measured.iter().map(|column| {
            let ratios = &column.ratios[number];
            format!("{:.3} ({:.2}…{:.2})", median(ratios), quantile(ratios, 0.1), quantile(ratios, 0.9))
        });
        table.row(std::iter::once(subject.name().to_owned()).chain(cells));
    }
    table
}

/// The same with dashmap as the measure: more of it carries over to other machines.
fn units(subjects: &[Box<dyn AnySubject>], measured: &[Measured]) -> Table {
    let mut table = Table::new("The same as ratios to dashmap, median of the rounds", head(""));
    let Some(dashmap) = subjects.iter().position(|subject| subject.name() == "dashmap") else {
        return table;
    };
    for (number, subject) in subjects.iter().enumerate().skip(1) {
        let cells = measured.iter().map(|column| {
            let pairs = column.ratios[number].iter().zip(&column.ratios[dashmap]);
            format!("{:.2}", median(&pairs.map(|(own, dashmap)| own / dashmap).collect::<Vec<_>>()))
        });
        table.row(std::iter::once(subject.name().to_owned()).chain(cells));
    }
    table
}

fn plot(subjects: &[Box<dyn AnySubject>], measured: &[Measured]) -> Plot {
    let series = subjects.iter().enumerate().skip(1).map(|(number, subject)| {
        (subject.name().to_owned(), measured.iter().map(|column| median(&column.ratios[number])).collect())
    });
    Plot {
        file: "speed",
        title: "Throughput beside an array of atomics; threads × share of writes".to_owned(),
        y_label: "ratio to the array",
        places: COLUMNS.iter().map(Column::name).collect(),
        series: series.collect(),
        shape: Shape::Bars,
    }
}

/// From one thread to two; and whoever does not find what was put.
fn oddities(subjects: &[Box<dyn AnySubject>], measured: &[Measured]) -> String {
    let mut lines = Vec::new();
    for (number, subject) in subjects.iter().enumerate().skip(1) {
        let of = |column: usize| median(&measured[column].ratios[number]);
        let change = |one: usize, two: usize| format!("{:+.0} %", (of(two) / of(one) - 1.0) * 100.0);
        let misses = measured.iter().map(|column| column.misses[number]).fold(0.0, f64::max);
        let misses = if misses > 0.0 {
            format!("; up to {:.3} % of its reads found nothing", misses * 100.0)
        } else {
            String::new()
        };
        let (reads, half, writes) = (change(0, 4), change(2, 5), change(3, 6));
        lines.push(format!("- {}: {reads} (0 %), {half} (50 %), {writes} (100 %){misses}", subject.name()));
    }
    format!("From one thread to two the ratio to the array changes by:\n\n{}", lines.join("\n"))
}

/// How much the length of the slices matters.
fn by_slice(subjects: &[Box<dyn AnySubject>], keys: &[Vec<u64>], options: &Options, pace: Pace) -> Table {
    let columns = [&COLUMNS[0], &COLUMNS[2]];
    let names =
        options.slice.iter().flat_map(|slice| columns.map(|column| format!("{slice} ms, {}", column.name())));
    let mut table = Table::new(
        "Slices of other lengths: ratio to the array",
        std::iter::once(String::new()).chain(names),
    );
    let cell = |slice: u64, column: &Column| {
        // The same time for each length, but enough rounds for a median.
        let rounds = (options.rounds * options.slice[0] as usize / slice as usize).clamp(9, options.rounds);
        measure(subjects, keys, column, &Options { rounds, lead: 0, ..options.clone() }, slice, pace)
    };
    let cells: Vec<Measured> =
        options.slice.iter().flat_map(|slice| columns.map(|column| cell(*slice, column))).collect();
    for (number, subject) in subjects.iter().enumerate().skip(1) {
        let cells = cells.iter().map(|cell| format!("{:.3}", median(&cell.ratios[number])));
        table.row(std::iter::once(subject.name().to_owned()).chain(cells));
    }
    table
}
