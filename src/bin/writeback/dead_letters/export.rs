//! `writeback dead-letters export`: for other programs, one letter a line.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use writeback::{ClosedDeadLetters, ClosedJournal};

use super::{Shown, class, is_wanted, state};
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  writeback dead-letters export scores.journal | jq .error
  writeback dead-letters export scores.journal --format csv > refused.csv

Keys and values are what they are if the codec is the built-in one, else hexadecimal digits. Nothing is changed.";

/// Print the dead letters of a journal, one a line.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Export {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// JSON lines, or CSV with a first line of names; in CSV the value of a removal is empty, and `removed` says so
    #[arg(long, value_enum, default_value = "json")]
    format: Format,

    /// Those too that are settled, as far as their room was not needed yet
    #[arg(long)]
    all: bool,

    /// JSON lines, as without it: for those who always say so
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Csv,
}

const NAMES: [&str; 11] = [
    "id",
    "key",
    "removed",
    "value",
    "version",
    "state",
    "class",
    "error",
    "attempts",
    "first_dirty_ms",
    "refused_ms",
];

impl Export {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let journal = ClosedJournal::open(&self.file)?;
        let letters = ClosedDeadLetters::open(&journal)?;
        match self.write(&letters) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
            written => written.map(|()| 0).map_err(Failure::Output),
        }
    }

    fn write(&self, letters: &ClosedDeadLetters<'_>) -> io::Result<()> {
        let shown = Shown::of(letters);
        let wanted = letters.entries().filter(|letter| is_wanted(letter, self.all));
        let mut out = io::BufWriter::new(io::stdout().lock());
        if self.format == Format::Json {
            for letter in wanted {
                writeln!(out, "{}", shown.json(&letter))?;
            }
            return out.flush();
        }
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(NAMES)?;
        let text = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        };
        for letter in wanted {
            csv.write_record([
                letter.id.to_string(),
                text(shown.key(&letter).json()),
                letter.value.is_none().to_string(),
                shown.value(&letter).map(|value| text(value.json())).unwrap_or_default(),
                letter.version.to_string(),
                state(&letter).to_owned(),
                class(&letter).to_owned(),
                letter.error.to_owned(),
                letter.attempts.to_string(),
                letter.first_dirty.to_string(),
                letter.refused.to_string(),
            ])?;
        }
        csv.flush()
    }
}
