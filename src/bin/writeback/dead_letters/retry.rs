//! `writeback dead-letters retry`: written to their table once more, without the application.

use std::{collections::HashMap, path::PathBuf};

use clap::Args;
use serde_json::json;
use writeback::{ClosedDeadLetters, ClosedJournal, DeadLetterEntry};

use crate::{
    failure::Failure,
    format,
    journal::{
        place::Place,
        push::{Entry, Pushed, Source},
    },
    report, say,
};

const EXAMPLES: &str = "\
Examples:
  writeback dead-letters retry scores.journal
  writeback dead-letters retry scores.journal --id 3 --id 4

Database and table are those that the dead letters name. A letter whose key has a newer write, in the journal or in
another letter, is left alone. Whatever the database takes is no dead letter any more; interrupted, it can be run again.";

/// Write dead letters to their SQLite table once more.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Retry {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Only the letter with this number; may be given several times [default: all]
    #[arg(long, value_name = "N")]
    id: Vec<u64>,

    #[command(flatten)]
    place: Place,

    /// Print one line of JSON to the standard output, and nothing else
    #[arg(long)]
    json: bool,
}

impl Retry {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let journal = ClosedJournal::open(&self.file)?;
        let contents = journal.read()?;
        let mut letters = ClosedDeadLetters::open(&journal)?;
        let open: Vec<_> = letters.entries().filter(DeadLetterEntry::is_open).collect();
        if let Some(id) = self.id.iter().find(|id| open.iter().all(|letter| letter.id != **id)) {
            return Err(Failure::NoSuchLetter { path: self.file, id: *id });
        }
        // The newest write of each key that is not in the database: only that may be written.
        let mut newest: HashMap<&[u8], u64> = HashMap::new();
        let known = contents.entries().iter().map(|entry| (entry.key, entry.version));
        for (key, version) in known.chain(open.iter().map(|letter| (letter.key, letter.version))) {
            let newest = newest.entry(key).or_default();
            *newest = version.max(*newest);
        }
        let wanted: Vec<_> =
            open.iter().filter(|letter| self.id.is_empty() || self.id.contains(&letter.id)).collect();
        let is_newest = |letter: &&&DeadLetterEntry<'_>| newest.get(letter.key) == Some(&letter.version);
        let entries: Vec<Entry<'_>> =
            wanted.iter().filter(is_newest).map(|letter| Entry::from(*letter)).collect();
        let newer = wanted.len() - entries.len();
        let (ids, backend) =
            (entries.iter().map(|entry| entry.offset).collect::<Vec<_>>(), letters.backend());
        let mut refusals = Vec::new();
        let (mut stored, mut place) = (0, None);
        let mut taken: Vec<(Vec<u8>, Option<Vec<u8>>, u64)> = Vec::new();
        if !entries.is_empty() {
            let source =
                Source { key_codec: letters.key_codec(), value_codec: letters.value_codec(), entries };
            let found = self.place.find(&self.file, backend)?;
            found.check_types(&source)?;
            found.check(backend, |name| name == backend, &contents)?;
            let Pushed { answers, .. } = found.push(&source)?;
            for ((entry, answer), id) in source.entries.iter().zip(&answers).zip(&ids) {
                match answer {
                    Ok(()) => {
                        stored += 1;
                        taken.push((entry.key.to_vec(), entry.value.map(<[u8]>::to_vec), entry.version));
                    }
                    Err(error) => refusals.push((*id, error.to_string())),
                }
            }
            place = Some((found.db, found.table));
        }
        let taken = taken.iter().map(|(key, value, version)| (&**key, value.as_deref(), *version));
        letters.note_stored(taken)?;
        let line = json!({
            "command": "dead-letters retry",
            "file": self.file.to_string_lossy(),
            "database": place.as_ref().map(|(db, _)| db.to_string_lossy()),
            "table": place.as_ref().map(|(_, table)| table),
            "stored": stored,
            "newer": newer,
            "refused": refusals.iter().map(|(id, error)| json!({ "id": id, "error": error })).collect::<Vec<_>>(),
            "open": letters.open_count(),
        });
        let mut text = format!("writeback dead-letters retry: {}\n\n", self.file.display());
        let count = format::plural(stored, "dead letter is", "dead letters are");
        let mark = if refusals.is_empty() { "✓" } else { "✗" };
        text.push_str(&format!("  {mark} {count} in the database now"));
        if newer > 0 {
            let newer = format::plural(newer as u64, "was", "were");
            text.push_str(&format!("; {newer} left alone, because their keys have newer writes"));
        }
        for (id, error) in &refusals {
            text.push_str(&format!("\n    {id}: {error}"));
        }
        report::print(&if self.json { line.to_string() } else { text })?;
        if !refusals.is_empty() {
            say("error: the database has refused some of them again; mend that and run this again");
        }
        Ok(if refusals.is_empty() { 0 } else { 3 })
    }
}
