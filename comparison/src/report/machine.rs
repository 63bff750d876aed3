//! Where it was measured, and what.

use std::fs;

use super::Table;

/// Processor, cores, memory, kernel, huge pages, load.
pub(crate) fn machine() -> Table {
    let mut table = Table::new("", ["machine", ""]);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let family = [field("cpu family"), field("model\t")].map(|part| part.unwrap_or_default()).join("/");
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    table.row(["processor", &format!("{model} (family/model {family})")]);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let is_virtual = if cpu.contains(" hypervisor") { ", of a virtual machine" } else { "" };
    table.row(["cores", &format!("{cores}{is_virtual}")]);
    for level in 1..4 {
        let folder = format!("/sys/devices/system/cpu/cpu0/cache/index{level}");
        let read =
            |name| fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default().trim().to_owned();
        if !read("size").is_empty() && read("type") != "Instruction" {
            table.row([format!("L{} cache", read("level")), read("size")]);
        }
    }
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = memory.split_whitespace().nth(1).and_then(|total| total.parse::<u64>().ok());
    table.row(["memory", &format!("{:.1} GiB", kibibytes.unwrap_or(0) as f64 / f64::from(1 << 20))]);
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    table.row(["kernel", &format!("Linux {}", line("/proc/sys/kernel/osrelease"))]);
    let chosen = line("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = chosen.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
    table.row(["transparent huge pages", chosen.unwrap_or("none")]);
    table.row(["load at the start", &line("/proc/loadavg")]);
    table
}

/// Measured crates, as Cargo.lock has them.
pub(crate) fn versions() -> Table {
    let lock = include_str!("../../Cargo.lock");
    let mut table = Table::new("", ["crate", "version"]);
    let named = |line: &str, field: &str| {
        line.strip_prefix(&format!("{field} = \"")).and_then(|rest| rest.strip_suffix('"')).map(str::to_owned)
    };
    let mut found = Vec::new();
    let lines: Vec<&str> = lock.lines().collect();
    for pair in lines.windows(2) {
        if let (Some(name), Some(version)) = (named(pair[0], "name"), named(pair[1], "version")) {
            found.push((name, version));
        }
    }
    for name in SUBJECTS {
        // The newest, where others bring an older one along.
        if let Some((_, version)) = found.iter().rev().find(|(found, _)| found == name) {
            table.row([*name, version]);
        }
    }
    table.row(["SQLite", rusqlite::version()]);
    table
}

const SUBJECTS: &[&str] = &[
    "writeback",
    "dashmap",
    "scc",
    "papaya",
    "quick_cache",
    "TinyUFO",
    "foyer",
    "moka",
    "fjall",
    "redb",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    "heed",
    "rusqlite",
];
