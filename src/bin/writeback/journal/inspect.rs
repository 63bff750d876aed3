//! `writeback journal inspect`: the whole of a journal at a glance, and its dirty keys one by one.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use serde_json::{Value, json};
use writeback::{ClosedJournal, JournalContents, JournalEntry};

use super::{
    damage_json, damage_text,
    decode::{self, Type},
};
use crate::{
    failure::Failure,
    format::{self, Lines},
    report,
};

/// The most characters of a key or a value in a line for people.
const WIDEST: usize = 48;

const EXAMPLES: &str = "\
Examples:
  writeback journal inspect scores.journal
  writeback journal inspect scores.journal --keys --limit 20
  writeback journal inspect scores.journal --keys --json | jq '.entries[].key'

Keys and values are shown as what they are if the codec is the built-in one, else as hexadecimal digits.
A journal stores no times; the epoch of a record says how old it is compared with the others.";

/// Show what is in a journal: for which backend, how full, and what is not in the database yet.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Inspect {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// List the dirty keys, the oldest version first
    #[arg(long)]
    keys: bool,

    /// The most keys to list
    #[arg(long, value_name = "N", default_value_t = 100, requires = "keys")]
    limit: usize,

    /// Print one line of JSON to the standard output, and nothing else
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let journal = ClosedJournal::open(&self.file)?;
        let contents = journal.read()?;
        let modified = journal.modified();
        if self.json {
            report::print(&self.line(&contents, modified).to_string())?;
        } else {
            report::print(&self.text(&contents, modified))?;
        }
        Ok(0)
    }

    fn text(&self, contents: &JournalContents<'_>, modified: Option<SystemTime>) -> String {
        let now = SystemTime::now();
        let changed = modified.map_or("not known".to_owned(), |at| match now.duration_since(at) {
            Ok(age) => format!("{} ago", age_text(age.as_secs())),
            Err(_) => "in the future, by this machine's clock".to_owned(),
        });
        let mut text = format!("writeback journal inspect: {}\n\n", self.file.display());
        let facts = [
            ("format", contents.format().to_string()),
            ("keys", contents.key_codec().escape_debug().to_string()),
            ("values", contents.value_codec().escape_debug().to_string()),
            ("backend", contents.backend().escape_debug().to_string()),
            ("written", format!("{changed} (the file; records have no times)")),
        ];
        facts.iter().for_each(|(label, fact)| text.push_str(&format!("  {label:9}{fact}\n")));
        let entries = contents.entries();
        let tombstones = entries.iter().filter(|entry| entry.value.is_none()).count() as u64;
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        let mut lines = Lines::default();
        let note = format!(
            "{} of them, and {} as records",
            format::plural(tombstones, "removal", "removals"),
            format::bytes(bytes)
        );
        lines.add("dirty keys", format::count(entries.len() as u64), note);
        lines.add("records", format::count(contents.live_records()), "live, superseded ones included");
        lines.add(
            "",
            format::count(contents.pending_records()),
            "pending: nobody was told that they happened",
        );
        lines.add("", format::count(contents.dead_records()), "dead: their space is free");
        lines.add("epochs", format::count(contents.newest_epoch()), "is the newest");
        lines.add("", format::count(contents.retired_epoch()), "is the first that counts");
        lines.add(
            "size",
            format::bytes(contents.file_bytes()),
            format!(
                "{} of {}",
                format::plural(contents.segments() as u64, "segment", "segments"),
                format::bytes(contents.segment_bytes())
            ),
        );
        lines.add("", format::bytes(contents.used_bytes()), "used");
        lines.add("", format::bytes(contents.free_bytes()), "free");
        lines.add("capacity", format::count(contents.capacity()), "entries, of the cache that made it");
        text.push_str(&format!("\n{lines}\n"));
        if self.keys && !entries.is_empty() {
            text.push_str(&format!("\n{}\n", self.table(contents)));
        }
        match contents.damage() {
            [] => text.push_str("\n  ✓ nothing is damaged"),
            damage => {
                let places = format::plural(damage.len() as u64, "damaged place", "damaged places");
                text.push_str(&format!("\n  ✗ {places}"));
                damage.iter().for_each(|damage| text.push_str(&format!("\n{}", damage_text(damage))));
            }
        }
        text
    }

    /// The dirty keys in columns.
    fn table(&self, contents: &JournalContents<'_>) -> String {
        let (key, value) = (Type::parse(contents.key_codec()), Type::parse(contents.value_codec()));
        let row = |entry: &JournalEntry<'_>| {
            let change = match entry.value {
                Some(bytes) => cut(&decode::shown(value.as_ref(), bytes).to_string()),
                None => "removed".to_owned(),
            };
            let sizes = entry.value.map_or_else(|| "-".to_owned(), |value| value.len().to_string());
            [
                cut(&decode::shown(key.as_ref(), entry.key).to_string()),
                change,
                entry.version.to_string(),
                entry.epoch.to_string(),
                (contents.newest_epoch() - entry.epoch).to_string(),
                entry.key.len().to_string(),
                sizes,
                entry.offset.to_string(),
            ]
        };
        let head =
            ["key", "value", "version", "epoch", "age", "key B", "value B", "at byte"].map(str::to_owned);
        let rows: Vec<_> =
            std::iter::once(head).chain(contents.entries().iter().take(self.limit).map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 8] = std::array::from_fn(width);
        let mut lines: Vec<String> = rows
            .iter()
            .map(|row| {
                let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| match at {
                    0 | 1 => format!("{cell:width$}"),
                    _ => format!("{cell:>width$}"),
                });
                format!("  {}", cells.collect::<Vec<_>>().join("  "))
            })
            .collect();
        if let left @ 1.. = contents.entries().len().saturating_sub(self.limit) {
            lines.push(format!("  and {} more; --limit N shows more of them", format::count(left as u64)));
        }
        lines.push("  age: how many epochs it is behind the newest".to_owned());
        lines.join("\n")
    }

    fn line(&self, contents: &JournalContents<'_>, modified: Option<SystemTime>) -> Value {
        let seconds = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|at| at.as_secs());
        let entries = contents.entries();
        let mut line = json!({
            "command": "journal inspect",
            "file": self.file.to_string_lossy(),
            "format": contents.format(),
            "key_codec": contents.key_codec(),
            "value_codec": contents.value_codec(),
            "backend": contents.backend(),
            "capacity": contents.capacity(),
            "segments": contents.segments(),
            "segment_bytes": contents.segment_bytes(),
            "bytes": contents.file_bytes(),
            "used_bytes": contents.used_bytes(),
            "free_bytes": contents.free_bytes(),
            "retired_epoch": contents.retired_epoch(),
            "newest_epoch": contents.newest_epoch(),
            "records": {
                "live": contents.live_records(),
                "pending": contents.pending_records(),
                "dead": contents.dead_records(),
            },
            "dirty": entries.len(),
            "dirty_bytes": entries.iter().map(|entry| entry.bytes).sum::<u64>(),
            "modified": seconds,
            "last_owner": contents.last_owner(),
            "damage": contents.damage().iter().map(damage_json).collect::<Vec<_>>(),
        });
        if self.keys {
            let (key, value) = (Type::parse(contents.key_codec()), Type::parse(contents.value_codec()));
            let listed = entries.iter().take(self.limit).map(|entry| {
                json!({
                    "key": decode::shown(key.as_ref(), entry.key).json(),
                    "removed": entry.value.is_none(),
                    "value": entry.value.map(|bytes| decode::shown(value.as_ref(), bytes).json()),
                    "version": entry.version,
                    "epoch": entry.epoch,
                    "offset": entry.offset,
                    "key_bytes": entry.key.len(),
                    "value_bytes": entry.value.map(<[u8]>::len),
                    "record_bytes": entry.bytes,
                })
            });
            line["entries"] = listed.collect();
            line["entries_left_out"] = json!(entries.len().saturating_sub(self.limit));
        }
        line
    }
}

pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `3 s`, `5 min`, `7 h`, `12 days`.
pub(crate) fn age_text(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", format::count(seconds / 86_400)),
    }
}
