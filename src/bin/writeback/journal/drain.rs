//! `writeback journal drain`: what a journal still holds, brought to its database without the application.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use writeback::{ClosedDeadLetters, ClosedJournal, JournalError};

use super::{
    place::Place,
    push::{Pushed, Source},
};
use crate::{failure::Failure, format, report, say};

const EXAMPLES: &str = "\
Examples:
  writeback journal drain scores.journal
  writeback journal drain board.journal --columns player,points
  writeback journal drain scores.journal --db restored.db --table scores --force

Database and table are those that the journal names. Integers, bool, floats, str, byte strings and Options of them can
be stored as the application would; other types need the application, or --raw.
Interrupted, it can be run again: the journal is emptied only when the database has everything.";

/// Write what is not in the database yet to an SQLite table, and empty the journal.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Drain {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    place: Place,

    /// Print one line of JSON to the standard output, and nothing else
    #[arg(long)]
    json: bool,
}

impl Drain {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let journal = ClosedJournal::open(&self.file)?;
        let contents = journal.read()?;
        if contents.needs_repair() {
            let (saved, damage) = (contents.entries().len(), contents.damage().to_vec());
            return Err(JournalError::Damaged { path: self.file, saved, damage }.into());
        }
        let mut letters = ClosedDeadLetters::open(&journal)?;
        let source = Source::of(&contents, &letters);
        let place = self.place.find(&self.file, contents.backend())?;
        place.check_types(&source)?;
        place.check(contents.backend(), |name| contents.is_for(name), &contents)?;
        let Pushed { stored, refused, reason, note, answers } = place.push(&source)?;
        // Every entry has an answer; one without would not be stored.
        let refused = refused.max(source.entries.len() - stored);
        // Before the journal forgets them: an older letter must not come back over what the table has now.
        let taken = source.entries.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        letters.note_stored(taken.map(|(entry, _)| (entry.key, entry.value, entry.version)))?;
        let letters = letters.open_count();
        if refused == 0 {
            // The note stays where letters are left, which a cache without the journal would not know of.
            journal.retire(note.as_deref().filter(|_| letters == 0))?;
        }
        let (db, table) = (place.db, place.table);
        let line = json!({
            "command": "journal drain",
            "file": self.file.to_string_lossy(),
            "database": db.to_string_lossy(),
            "table": table,
            "stored": stored,
            "refused": refused,
            "emptied": refused == 0,
            "dead_letters": letters,
        });
        let entries = format::plural(stored as u64, "entry is", "entries are");
        let at = format!("table `{table}` in {}", db.display());
        let verdict = match refused {
            0 => format!("✓ {entries} in the database, and the journal is empty\n    {at}"),
            _ => format!(
                "✗ {entries} in the database; {} not taken, and the journal keeps everything\n    {at}",
                format::plural(refused as u64, "was", "were")
            ),
        };
        let text = format!("writeback journal drain: {}\n\n  {verdict}", self.file.display());
        report::print(&if self.json { line.to_string() } else { text })?;
        if letters > 0 {
            let left = format::plural(letters as u64, "dead letter is", "dead letters are");
            say(&format!("{left} left: see `writeback dead-letters list {}`", self.file.display()));
        }
        if let Some(reason) = reason {
            say(&format!("error: {reason}; mend that and run this again"));
        }
        Ok(if refused == 0 { 0 } else { 3 })
    }
}
