//! Bytes for each entry at full capacity: what the allocator was asked for, and what the process takes from the system.
//!
//! Each subject is built in a process of its own, so that nothing of another is counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env, fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use crate::{
    AnyError,
    report::{Plot, Section, Table, plot::Shape},
    subjects,
    workload::key,
};

/// The system's allocator, which counts what is in use if it is told to.
pub(crate) struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if IS_COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_add(size.wrapping_sub(layout.size()), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if IS_COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What to measure.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// The capacity, in entries.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// Measures this subject only, in this process, and prints bare numbers.
    #[arg(long, hide = true)]
    alone: Option<String>,
}

impl Options {
    pub(crate) fn new(keys: u64) -> Self {
        Options { keys, alone: None }
    }
}

/// In bytes.
#[derive(Clone, Copy)]
struct Footprint {
    allocated: usize,
    /// What nothing but this process can hold.
    resident: usize,
    /// Of files that are mapped.
    mapped: usize,
    peak: usize,
    entries: usize,
}

pub(crate) fn run(options: &Options, folder: &Path) -> Result<Section, AnyError> {
    let mut section = Section::new("Memory", "cargo run --release -- memory");
    if let Some(name) = &options.alone {
        let Footprint { allocated, resident, mapped, peak, entries } = footprint(name, options.keys, folder)?;
        section.text(format!("{allocated} {resident} {mapped} {peak} {entries}"));
        return Ok(section);
    }
    section.text(format!(
        "`u64` to `u64`. A cache with room for {} entries is given a fifth more (a map exactly as many); then what it takes is divided by the \
         entries that are found in it. Each subject in a process of its own, with the system's pages. *Allocated*: what the allocator \
         was asked for and has not got back, without what it needs itself. *Resident*: by how much the process has grown, everything included: tables, spare places, queues, threads. \
         *Mapped*: what of files is mapped and in memory besides. *At most*: both together at their highest.",
        options.keys
    ));
    let mut table = Table::new(
        "Bytes for each entry",
        ["", "allocated", "resident", "mapped", "at most", "entries found"],
    );
    let mut series = Vec::new();
    for name in subjects::names().filter(|name| *name != subjects::BASE) {
        let Footprint { allocated, resident, mapped, peak, entries } =
            in_a_child(name, options.keys, folder)?;
        let each = |bytes: usize| format!("{:.1}", bytes as f64 / entries as f64);
        table.row([
            name.to_owned(),
            each(allocated),
            each(resident),
            each(mapped),
            each(peak),
            entries.to_string(),
        ]);
        series.push((name.to_owned(), vec![resident as f64 / entries as f64, peak as f64 / entries as f64]));
    }
    section.table(table);
    section.text(
        "This engine maps its tables by itself, past the allocator. The system can take back what is mapped of a journal's file.",
    );
    section.plot(Plot {
        file: "memory",
        title: format!("Bytes for each entry, u64 to u64, {} entries", options.keys),
        y_label: "bytes",
        places: vec!["resident".to_owned(), "at most".to_owned()],
        series,
        shape: Shape::Bars,
    });
    Ok(section)
}

fn in_a_child(name: &str, keys: u64, folder: &Path) -> Result<Footprint, AnyError> {
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["memory", "--system-pages", "--keys", &keys.to_string(), "--alone", name, "--disk"])
        .arg(folder);
    let output = command.env_remove("GLIBC_TUNABLES").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    let numbers: Vec<usize> = last.split(' ').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [allocated, resident, mapped, peak, entries] => {
            Ok(Footprint { allocated, resident, mapped, peak, entries })
        }
        _ => Err(format!("{name}: {}{text}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// What a subject has made of this process.
fn footprint(name: &str, keys: u64, folder: &Path) -> Result<Footprint, AnyError> {
    IS_COUNTING.store(true, Ordering::Relaxed);
    let before =
        [IN_USE.load(Ordering::Relaxed), status("RssAnon:")?, status("RssFile:")?, status("VmRSS:")?];
    let subjects = subjects::some(keys as usize, folder, |each| each == name);
    let subject = subjects.first().ok_or("no such subject")?;
    let count = if subject.evicts() { keys + keys / 5 } else { keys };
    let mut worker = subject.worker();
    const STEPS: u64 = 100;
    for step in 0..STEPS {
        // Slow enough that its flusher keeps up as it would in a service.
        subject.enter(Duration::from_millis(100));
        worker.fill(&mut (count * step / STEPS..count * (step + 1) / STEPS).map(key));
        std::thread::sleep(Duration::from_millis(5));
    }
    subject.settle();
    let after = [IN_USE.load(Ordering::Relaxed), status("RssAnon:")?, status("RssFile:")?, status("VmHWM:")?];
    let [allocated, resident, mapped, peak] =
        std::array::from_fn(|part| after[part].saturating_sub(before[part]));
    let entries = (0..count).filter(|rank| worker.get(key(*rank)).is_some()).count();
    Ok(Footprint { allocated, resident, mapped, peak, entries })
}

/// A line of /proc/self/status, in bytes.
fn status(field: &str) -> Result<usize, AnyError> {
    let all = fs::read_to_string("/proc/self/status")?;
    let line = all.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}
