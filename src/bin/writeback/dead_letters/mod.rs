//! `writeback dead-letters`: what a database has refused for good, of a journal that no cache has open.

mod export;
mod list;
mod retry;

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use writeback::{ClosedDeadLetters, DeadLetterEntry, DeadLetterState, ErrorClass};

use crate::{
    failure::Failure,
    journal::decode::{self, Type},
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  2    wrong usage, or a journal or a database that cannot be used
  3    `retry`: the database did not take everything

FILE is the journal; its dead letters are beside it in FILE.dead. A journal that a cache has open is refused: stop that
process first, or use the cache's own `dead_letters`.";

/// Look at the writes that a database has refused for good, try them again, or take them elsewhere.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::List),
    Retry(retry::Retry),
    Export(export::Export),
}

impl DeadLetters {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::List(list) => list.run(),
            Command::Retry(retry) => retry.run(),
            Command::Export(export) => export.run(),
        }
    }
}

/// How keys and values are shown.
struct Shown {
    key: Option<Type>,
    value: Option<Type>,
}

impl Shown {
    fn of(letters: &ClosedDeadLetters<'_>) -> Self {
        Shown { key: Type::parse(letters.key_codec()), value: Type::parse(letters.value_codec()) }
    }

    fn key(&self, letter: &DeadLetterEntry<'_>) -> decode::Value {
        decode::shown(self.key.as_ref(), letter.key)
    }

    /// `None`: the key was removed.
    fn value(&self, letter: &DeadLetterEntry<'_>) -> Option<decode::Value> {
        letter.value.map(|bytes| decode::shown(self.value.as_ref(), bytes))
    }

    fn json(&self, letter: &DeadLetterEntry<'_>) -> Value {
        json!({
            "id": letter.id,
            "key": self.key(letter).json(),
            "removed": letter.value.is_none(),
            "value": self.value(letter).map(|value| value.json()),
            "version": letter.version,
            "state": state(letter),
            "class": class(letter),
            "error": letter.error,
            "attempts": letter.attempts,
            "first_dirty_ms": letter.first_dirty,
            "refused_ms": letter.refused,
        })
    }
}

fn state(letter: &DeadLetterEntry<'_>) -> &'static str {
    match letter.state {
        DeadLetterState::Open => "open",
        DeadLetterState::Stored { .. } => "stored",
        DeadLetterState::Superseded { .. } => "superseded",
        DeadLetterState::Discarded { .. } => "discarded",
        _ => "settled",
    }
}

fn class(letter: &DeadLetterEntry<'_>) -> &'static str {
    match letter.class {
        ErrorClass::Transient => "transient",
        ErrorClass::Conflict => "conflict",
        _ => "permanent",
    }
}

/// How long ago a time is, in seconds; 0 if it is to come.
fn age(milliseconds: u64) -> u64 {
    let at = UNIX_EPOCH + Duration::from_millis(milliseconds.min(1 << 50));
    at.elapsed().map_or(0, |age| age.as_secs())
}

/// Whether a letter is among those that were asked for: the open ones, or all that are still known.
fn is_wanted(letter: &DeadLetterEntry<'_>, all: bool) -> bool {
    all || letter.is_open()
}
