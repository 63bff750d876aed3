//! `writeback journal drain`: what a journal still holds, brought to its database without the application.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use writeback::{ClosedJournal, JournalContents, JournalError, backend::SqliteOpenError};

use super::push::{self, Pushed, Target, Unpushed};
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

    /// SQLite database to write to [default: the one that the journal names]
    #[arg(long, value_name = "DB")]
    db: Option<PathBuf>,

    /// Table to write to [default: the one that the journal names]
    #[arg(long, value_name = "NAME")]
    table: Option<String>,

    /// The columns of key and value
    #[arg(long, value_name = "KEY,VALUE", default_value = "key,value", value_parser = columns)]
    columns: (String, String),

    /// Store keys and values as BLOBs of the bytes that the journal has
    #[arg(long)]
    raw: bool,

    /// Write to another database than the journal's own, to one that is not there yet, or to one that another journal has
    /// writes for
    #[arg(long)]
    force: bool,

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
        let (db, table) = self.place(&contents)?;
        let db = whole(&db);
        push::check(&contents, self.raw).map_err(|error| self.failure(error, &db, &table))?;
        self.check_place(&contents, &db, &table)?;
        let columns = [&*self.columns.0, &*self.columns.1];
        let target = Target { db: &db, table: &table, columns, raw: self.raw };
        let Pushed { stored, refused, reason, note } =
            push::push(&contents, &target).map_err(|error| self.failure(error, &db, &table))?;
        // Every entry has an answer; one without would not be stored.
        let refused = refused.max(contents.entries().len() - stored);
        if refused == 0 {
            journal.retire(note.as_deref())?;
        }
        let line = json!({
            "command": "journal drain",
            "file": self.file.to_string_lossy(),
            "database": db.to_string_lossy(),
            "table": table,
            "stored": stored,
            "refused": refused,
            "emptied": refused == 0,
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
        if let Some(reason) = reason {
            say(&format!("error: {reason}; mend that and run this again"));
        }
        Ok(if refused == 0 { 0 } else { 3 })
    }

    /// Where the entries should go: as asked, else as the journal says.
    fn place(&self, contents: &JournalContents<'_>) -> Result<(PathBuf, String), Failure> {
        let own = contents.backend().strip_prefix("sqlite:").and_then(|place| place.rsplit_once('#'));
        // One that was too long to be stored whole ends in a checksum, which makes it no name of a table that is there.
        let problem = |missing: &str| Failure::JournalPlace {
            path: self.file.clone(),
            backend: contents.backend().to_owned(),
            missing: missing.to_owned(),
        };
        let db = match (&self.db, own) {
            (Some(db), _) => db.clone(),
            (None, Some((db, _))) => PathBuf::from(db),
            (None, None) => return Err(problem("--db DB --table NAME --force")),
        };
        let table = match (&self.table, own) {
            (Some(table), _) => table.clone(),
            (None, Some((_, table))) => table.to_owned(),
            (None, None) => return Err(problem("--table NAME --force")),
        };
        Ok((db, table))
    }

    /// Refuses what would most likely be a mistake, unless it was asked for.
    fn check_place(&self, contents: &JournalContents<'_>, db: &Path, table: &str) -> Result<(), Failure> {
        if self.force {
            return Ok(());
        }
        if !contents.is_for(&format!("sqlite:{}#{table}", db.display())) {
            return Err(Failure::OtherDatabase {
                path: self.file.clone(),
                backend: contents.backend().to_owned(),
                place: format!("sqlite:{}#{table}", db.display()),
            });
        }
        if !db.exists() {
            return Err(Failure::Database {
                path: db.to_owned(),
                reason: "the database that the journal belongs to is not there: restore it, or make a new one with \
                         --force, which will have nothing but what is in the journal"
                    .to_owned(),
            });
        }
        let mut note = db.as_os_str().to_owned();
        note.push(format!(".{table}.journal"));
        let failed =
            |source| JournalError::Io { path: note.clone().into(), doing: "reading the note about", source };
        match contents.other_journal(Path::new(&note)).map_err(failed)? {
            Some(other) => Err(Failure::OtherJournal { path: db.to_owned(), table: table.to_owned(), other }),
            None => Ok(()),
        }
    }

    fn failure(&self, error: Unpushed, db: &Path, table: &str) -> Failure {
        match error {
            Unpushed::Open(SqliteOpenError::Shape { difference, found, expected, .. }) => {
                Failure::TableShape {
                    path: db.to_owned(),
                    table: table.to_owned(),
                    difference,
                    found,
                    wanted: format!("{expected} (--columns KEY,VALUE names the columns)"),
                }
            }
            Unpushed::Open(error) => Failure::Database { path: db.to_owned(), reason: error.to_string() },
            Unpushed::Undecodable { offset } => Failure::Undecodable { path: self.file.clone(), offset },
            Unpushed::Type { what, name } => Failure::JournalTypes { path: self.file.clone(), what, name },
        }
    }
}

/// The path as the backend's identity has it.
fn whole(db: &Path) -> PathBuf {
    let absolute = std::path::absolute(db).unwrap_or_else(|_| db.to_owned());
    fs::canonicalize(&absolute).unwrap_or(absolute)
}

fn columns(text: &str) -> Result<(String, String), String> {
    match text.split_once(',') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() && !value.contains(',') => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("give two names with a comma between them, such as key,value".to_owned()),
    }
}
