//! `writeback journal verify`: whether anything in a journal is damaged, and what that costs.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use writeback::{ClosedJournal, JournalError};

use super::{damage_json, damage_text};
use crate::{failure::Failure, format, report};

/// Check every record of a journal. Changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print one line of JSON to the standard output, and nothing else
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let journal = ClosedJournal::open(&self.file)?;
        let file = self.file.to_string_lossy();
        let contents = match journal.read() {
            Ok(contents) => contents,
            Err(error @ JournalError::DamagedSuperblock { .. }) => {
                let line =
                    json!({ "command": "journal verify", "file": file, "clean": false, "readable": false });
                let text = format!("writeback journal verify: {file}\n\n  ✗ {error}");
                report::print(&if self.json { line.to_string() } else { text })?;
                return Ok(1);
            }
            Err(error) => return Err(error.into()),
        };
        let (damage, saved) = (contents.damage(), contents.entries().len());
        let (clean, tails) = (damage.is_empty(), damage.iter().filter(|damage| damage.is_tail()).count());
        if self.json {
            let line = json!({
                "command": "journal verify",
                "file": file,
                "clean": clean,
                "readable": true,
                "needs_repair": contents.needs_repair(),
                "tails": tails,
                "holes": damage.len() - tails,
                "saved_keys": saved,
                "damage": damage.iter().map(damage_json).collect::<Vec<_>>(),
            });
            report::print(&line.to_string())?;
            return Ok(u8::from(!clean));
        }
        let mut text = format!("writeback journal verify: {file}\n\n");
        damage.iter().for_each(|damage| text.push_str(&format!("{}\n", damage_text(damage))));
        let keys = format::plural(saved as u64, "dirty key", "dirty keys");
        let verdict = if clean {
            let records = contents.live_records() + contents.pending_records() + contents.dead_records();
            format!("  ✓ clean: {} and {keys}", format::plural(records, "whole record", "whole records"))
        } else {
            let places = format::plural(damage.len() as u64, "damaged place", "damaged places");
            let advice = match contents.needs_repair() {
                true => "`writeback journal repair` keeps these and cuts the damage out",
                false => "a cache opens it as it is, with these",
            };
            format!("\n  ✗ {places}; {keys} can be read whole: {advice}")
        };
        text.push_str(&verdict);
        report::print(&text)?;
        Ok(u8::from(!clean))
    }
}
