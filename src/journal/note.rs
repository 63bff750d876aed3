//! The note beside a database that says which journal has writes for it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// That of the journal; `None`: it is not readable.
    pub(crate) salt: Option<u64>,
    /// Where the journal was.
    pub(crate) path: PathBuf,
}

/// Reads a note, if there is one.
pub(crate) fn read(marker: &Path) -> io::Result<Option<Note>> {
    let text = match fs::read(marker) {
        // A note that says nothing sensible names no journal that could be trusted in its place.
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let salt = lines.next().and_then(|salt| u64::from_str_radix(salt, 16).ok());
    Ok(Some(Note { salt, path: PathBuf::from(lines.next().unwrap_or_default()) }))
}

/// Writes a note, whole or not at all, and durable when this returns: the database may be given nothing before.
pub(crate) fn write(marker: &Path, journal: &Path, salt: u64) -> io::Result<()> {
    let mut temporary = marker.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = fs::File::create(&temporary)?;
    let text = format!(
        "# A writeback cache keeps writes for this table in the journal below. They reach the table when a cache is\n\
         # opened with it, or with `writeback journal drain`. Delete this file only if that journal is lost for good.\n\
         {salt:016x}\n{}\n",
        journal.display()
    );
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, marker)?;
    super::file::sync_folder(marker)
}
