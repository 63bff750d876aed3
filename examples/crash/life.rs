//! How a life is set up: chosen by the parent, told to the child through its environment.

use std::path::{Path, PathBuf};

use super::backend::Health;

/// The variable that makes this program a child.
pub(crate) const VARIABLE: &str = "WRITEBACK_CRASH_LIFE";

/// Which database is behind the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Table,
    Sqlite,
}

/// Everything that a child has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) folder: PathBuf,
    pub(crate) database: Database,
    pub(crate) health: Health,
    pub(crate) seed: u64,
    pub(crate) capacity: usize,
    /// One in so many writes goes to a key that all overwrite.
    pub(crate) races: u64,
    /// Sync every millisecond instead of never.
    pub(crate) syncs: bool,
    /// Check, flush, close: nobody kills this one.
    pub(crate) last: bool,
}

impl Life {
    pub(crate) fn board(folder: &Path) -> PathBuf {
        folder.join("board")
    }

    pub(crate) fn to_text(&self) -> String {
        let health = match self.health {
            Health::Well => 0,
            Health::Flaky => 1,
            Health::Down => 2,
        };
        format!(
            "{} {} {} {} {} {} {} {}",
            u8::from(self.database == Database::Sqlite),
            health,
            self.seed,
            self.capacity,
            self.races,
            u8::from(self.syncs),
            u8::from(self.last),
            self.folder.display()
        )
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.splitn(8, ' ');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let database = if number()? == 1 { Database::Sqlite } else { Database::Table };
        let health = match number()? {
            0 => Health::Well,
            1 => Health::Flaky,
            _ => Health::Down,
        };
        let (seed, capacity, races) = (number()?, number()? as usize, number()?);
        let (syncs, last) = (number()? == 1, number()? == 1);
        let folder = parts.next()?.into();
        Some(Life { folder, database, health, seed, capacity, races, syncs, last })
    }
}
