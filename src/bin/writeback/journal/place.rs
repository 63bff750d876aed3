//! Where the entries of a journal, or its dead letters, are written to: the options, and what would be a mistake.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use writeback::{JournalContents, JournalError, backend::SqliteOpenError};

use super::push::{self, Pushed, Source, Target, Unpushed};
use crate::failure::Failure;

/// The table to write to.
#[derive(Debug, Args)]
pub(crate) struct Place {
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
}

/// A table that was asked for, or that the journal names.
pub(crate) struct Found<'a> {
    place: &'a Place,
    file: PathBuf,
    pub(crate) db: PathBuf,
    pub(crate) table: String,
}

impl Place {
    /// Where the entries should go: as asked, else as the journal says.
    pub(crate) fn find(&self, file: &Path, backend: &str) -> Result<Found<'_>, Failure> {
        let own = backend.strip_prefix("sqlite:").and_then(|place| place.rsplit_once('#'));
        // One that was too long to be stored whole ends in a checksum, which makes it no name of a table that is there.
        let problem = |missing: &str| Failure::JournalPlace {
            path: file.to_owned(),
            backend: backend.to_owned(),
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
        Ok(Found { place: self, file: file.to_owned(), db: whole(&db), table })
    }
}

impl Found<'_> {
    /// Refuses keys or values that do not go into one column.
    pub(crate) fn check_types(&self, source: &Source<'_>) -> Result<(), Failure> {
        push::check(source, self.place.raw).map_err(|error| self.failure(error))
    }

    /// Writes every entry to the table.
    pub(crate) fn push(&self, source: &Source<'_>) -> Result<Pushed, Failure> {
        let columns = [&*self.place.columns.0, &*self.place.columns.1];
        let target = Target { db: &self.db, table: &self.table, columns, raw: self.place.raw };
        push::push(source, &target).map_err(|error| self.failure(error))
    }

    /// Refuses what would most likely be a mistake, unless it was asked for.
    pub(crate) fn check(
        &self,
        backend: &str,
        is_for: impl Fn(&str) -> bool,
        contents: &JournalContents<'_>,
    ) -> Result<(), Failure> {
        let (db, table) = (self.db.as_path(), self.table.as_str());
        if self.place.force {
            return Ok(());
        }
        if !is_for(&format!("sqlite:{}#{table}", db.display())) {
            return Err(Failure::OtherDatabase {
                path: self.file.clone(),
                backend: backend.to_owned(),
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

    fn failure(&self, error: Unpushed) -> Failure {
        let (db, table) = (self.db.as_path(), self.table.as_str());
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
