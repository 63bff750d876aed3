//! Traces: sequences of keys, and of reads and writes.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use crate::AnyError;

/// The folder in which traces lie beside the checkout.
pub(crate) const BESIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");

/// Traces of one kind.
pub(crate) fn folder(data: &Path, kind: &str) -> Result<PathBuf, AnyError> {
    let folder = data.join(kind);
    match folder.is_dir() {
        true => Ok(folder),
        false => {
            Err(format!("{} is no folder with traces: name files, or a folder with --data", folder.display())
                .into())
        }
    }
}

/// The bytes of a file, decompressed if its name ends in `.zst`; and its name without that ending.
fn bytes(path: &Path) -> Result<(Vec<u8>, PathBuf), AnyError> {
    let say = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(say)?;
    if path.extension().is_some_and(|ending| ending == "zst") {
        return Ok((zstd::decode_all(file).map_err(say)?, path.with_extension("")));
    }
    let mut all = Vec::new();
    file.read_to_end(&mut all).map_err(say)?;
    Ok((all, path.to_owned()))
}

/// Gives each name a number.
#[derive(Default)]
struct Numbers(HashMap<String, u64>);

impl Numbers {
    fn of(&mut self, name: &str) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

/// The keys that a trace asks for: little-endian numbers if the file is called `.u32` or `.u64`, else text with one
/// request in a line, whose key is the given field (from 1) between commas, blanks or tabs.
pub(crate) fn keys(path: &Path, field: usize) -> Result<Vec<u64>, AnyError> {
    let (bytes, name) = bytes(path)?;
    let ending = name.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    Ok(match ending {
        "u32" => bytes.as_chunks().0.iter().map(|key| u64::from(u32::from_le_bytes(*key))).collect(),
        "u64" => bytes.as_chunks().0.iter().map(|key| u64::from_le_bytes(*key)).collect(),
        _ => {
            let text = String::from_utf8_lossy(&bytes);
            let mut numbers = Numbers::default();
            let fields = text.lines().filter_map(|line| line.split([',', ' ', '\t']).nth(field.max(1) - 1));
            fields.map(|key| numbers.of(key)).collect()
        }
    })
}

/// One request of a trace with writes.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    /// In nanoseconds since the trace began.
    pub(crate) at: u64,
    pub(crate) writes: bool,
    pub(crate) key: u64,
}

/// A trace of lines `time,op,key,...` with a head whose first word is the unit of the time: `ns`, `ms`, or another word for
/// seconds.
pub(crate) fn events(path: &Path) -> Result<Vec<Event>, AnyError> {
    let (bytes, _) = bytes(path)?;
    let text = String::from_utf8(bytes)?;
    let mut lines = text.lines();
    let unit = match lines.next().and_then(|head| head.split(',').next()) {
        Some("ns") => 1,
        Some("ms") => 1_000_000,
        _ => 1_000_000_000,
    };
    let mut numbers = Numbers::default();
    let mut events: Vec<Event> = Vec::new();
    let mut begin = None;
    for line in lines {
        let mut fields = line.split(',');
        let (Some(time), Some(op), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(format!("{}: a line without time, op and key: {line}", path.display()).into());
        };
        let time = time.parse::<u64>()?;
        let since = time.saturating_sub(*begin.get_or_insert(time)) * unit;
        // Time does not go back.
        let at = since.max(events.last().map_or(0, |last| last.at));
        events.push(Event { at, writes: op == "W", key: numbers.of(key) });
    }
    Ok(events)
}

/// How many different keys there are.
pub(crate) fn distinct(keys: impl Iterator<Item = u64>) -> usize {
    keys.collect::<std::collections::HashSet<_>>().len()
}

/// What goes on, for who waits for it.
pub(crate) fn progress(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what} ...");
}
