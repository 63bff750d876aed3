//! `writeback journal repair`: a damaged journal without its damage.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use writeback::ClosedJournal;

use crate::{failure::Failure, format, report};

/// Cut the damage out of a journal, so that a cache opens it; all that can be read stays, and a copy is kept.
///
/// The repaired file is written beside the damaged one and takes its place when it is whole, so that nothing is
/// lost if this is interrupted.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where to keep the damaged file [default: FILE.damaged-1, or the next that is free]
    #[arg(long, value_name = "PATH")]
    backup: Option<PathBuf>,

    /// Print one line of JSON to the standard output, and nothing else
    #[arg(long)]
    json: bool,
}

impl Repair {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let journal = ClosedJournal::open(&self.file)?;
        let contents = journal.read()?;
        let (damage, saved) = (contents.damage().len(), contents.entries().len());
        let file = self.file.display();
        let backup = match damage {
            0 => None,
            _ => Some(journal.repair(self.backup.as_deref())?),
        };
        if self.json {
            let line = json!({
                "command": "journal repair",
                "file": self.file.to_string_lossy(),
                "repaired": damage,
                "saved_keys": saved,
                "backup": backup.map(|backup| backup.to_string_lossy().into_owned()),
            });
            report::print(&line.to_string())?;
            return Ok(0);
        }
        let keys = format::plural(saved as u64, "dirty key", "dirty keys");
        let verdict = match backup {
            None => format!("✓ nothing is damaged; nothing was changed, {keys}"),
            Some(backup) => {
                let places = format::plural(damage as u64, "damaged place", "damaged places");
                format!("✓ {places} cut out, {keys} kept\n    the damaged file is now {}", backup.display())
            }
        };
        report::print(&format!("writeback journal repair: {file}\n\n  {verdict}"))?;
        Ok(0)
    }
}
