//! `writeback journal`: what is in a journal that no cache has open, what is damaged in it, and ways to an end of it.

pub(crate) mod decode;
mod drain;
pub(crate) mod inspect;
pub(crate) mod place;
pub(crate) mod push;
mod repair;
mod verify;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use writeback::Damage;

use crate::failure::Failure;

const EXIT_CODES: &str = "\
Exit codes:
  0    done; `verify`: nothing is damaged
  1    `verify`: something is damaged
  2    wrong usage, or a journal or a database that cannot be used
  3    `drain`: the database did not take everything

A journal that a cache has open is refused: stop that process first.";

/// Look into a journal that no cache has open, mend it, or bring what is in it to the database.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Journal {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Drain(drain::Drain),
}

impl Journal {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::Inspect(inspect) => inspect.run(),
            Command::Verify(verify) => verify.run(),
            Command::Repair(repair) => repair.run(),
            Command::Drain(drain) => drain.run(),
        }
    }
}

/// A damaged place as JSON.
fn damage_json(damage: &Damage) -> Value {
    json!({
        "offset": damage.offset,
        "tail": damage.is_tail(),
        "what": damage.meaning(),
        "lost": damage.loss(),
    })
}

/// A damaged place in two lines.
fn damage_text(damage: &Damage) -> String {
    format!("  byte {}  {}\n    lost: {}", damage.offset, damage.meaning(), damage.loss())
}
