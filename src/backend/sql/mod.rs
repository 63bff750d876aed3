//! How keys and values become rows, whatever the database.
//!
//! `row` has the traits, and what writes and reads a row cell by cell; `cells` implements them for the types of the
//! standard library; `columns` decides what the columns are called, `order` in which order keys are written,
//! `names` how SQL writes names. A database takes and gives cells through
//! `row`'s `Cells` and `FoundCells`.

mod cells;
mod columns;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod names;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod order;
mod row;

pub use columns::Columns;
pub(super) use columns::Names;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) use names::{is_plain, list, quoted};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) use order::sort_by_key;
pub(super) use row::{Cells, FoundCells};
pub use row::{Column, RowReader, RowWriter, SqlCell, SqlKey, SqlRef, SqlType, SqlValue};

/// A key or a value that does not go with its column.
///
/// Answered by the methods of [`SqlCell`], [`SqlKey`] and
/// [`SqlValue`]. On a write it is a permanent error of that one row; on a read the load fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", match column { Some(name) => format!("column `{name}`: "), None => String::new() })]
pub struct CellError {
    column: Option<String>,
    reason: String,
}

impl CellError {
    /// An error for this reason; the name of the column is put before it.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { column: None, reason: reason.into() }
    }

    pub(in crate::backend) fn in_column(mut self, name: &str) -> Self {
        self.column.get_or_insert_with(|| name.to_owned());
        self
    }
}
