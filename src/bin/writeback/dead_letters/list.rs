//! `writeback dead-letters list`: one line for each.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use writeback::{ClosedDeadLetters, ClosedJournal, DeadLetterEntry};

use super::{Shown, age, class, is_wanted, state};
use crate::{
    failure::Failure,
    format,
    journal::inspect::{age_text, cut},
    report,
};

/// List the dead letters of a journal, the oldest first.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Those too that are settled (stored later, superseded, discarded), as far as their room was not needed yet
    #[arg(long)]
    all: bool,

    /// Print one line of JSON to the standard output, and nothing else
    #[arg(long)]
    json: bool,
}

impl List {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let journal = ClosedJournal::open(&self.file)?;
        let letters = ClosedDeadLetters::open(&journal)?;
        let shown = Shown::of(&letters);
        let wanted: Vec<_> = letters.entries().filter(|letter| is_wanted(letter, self.all)).collect();
        if self.json {
            let line = json!({
                "command": "dead-letters list",
                "file": letters.path().to_string_lossy(),
                "backend": letters.backend(),
                "key_codec": letters.key_codec(),
                "value_codec": letters.value_codec(),
                "bytes": letters.bytes(),
                "open": letters.open_count(),
                "letters": wanted.iter().map(|letter| shown.json(letter)).collect::<Vec<Value>>(),
                "damage": letters.damage().iter().map(|damage| json!({
                    "offset": damage.offset,
                    "bytes": damage.bytes,
                    "tail": damage.is_tail,
                })).collect::<Vec<Value>>(),
            });
            report::print(&line.to_string())?;
            return Ok(0);
        }
        let mut text = format!("writeback dead-letters list: {}\n", self.file.display());
        if !wanted.is_empty() {
            text.push_str(&format!("\n{}\n", table(&shown, &wanted)));
        }
        for damage in letters.damage() {
            let what = if damage.is_tail { "the end is" } else { "letters are missing here:" };
            let bytes = format::plural(damage.bytes, "damaged byte", "damaged bytes");
            text.push_str(&format!("\n  ✗ byte {}  {what} {bytes}", damage.offset));
        }
        let open = format::plural(letters.open_count() as u64, "dead letter", "dead letters");
        let backend = letters.backend().escape_debug().to_string();
        text.push_str(&match letters.open_count() {
            0 => "\n  ✓ no dead letter is open".to_owned(),
            _ => format!("\n  {open} of {backend}, in {}", format::bytes(letters.bytes())),
        });
        report::print(&text)?;
        Ok(0)
    }
}

fn table(shown: &Shown, letters: &[DeadLetterEntry<'_>]) -> String {
    let row = |letter: &DeadLetterEntry<'_>| {
        [
            letter.id.to_string(),
            cut(&shown.key(letter).to_string()),
            shown.value(letter).map_or_else(|| "removed".to_owned(), |value| cut(&value.to_string())),
            state(letter).to_owned(),
            letter.attempts.to_string(),
            age_text(age(letter.first_dirty)),
            age_text(age(letter.refused)),
            format!("{}: {}", class(letter), letter.error.escape_debug()),
        ]
    };
    let head =
        ["id", "key", "value", "state", "tries", "dirty for", "refused ago", "error"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(letters.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
