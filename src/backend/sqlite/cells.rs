//! The cells of a row, as SQLite takes and gives them.

use rusqlite::{
    Row, Statement,
    types::{ToSqlOutput, ValueRef},
};

use crate::backend::{
    CellError,
    sql::{Cells, FoundCells, SqlRef},
};

/// The parameters of a statement.
pub(super) struct Parameters<'a, 'statement> {
    pub(super) statement: &'a mut Statement<'statement>,
    /// The number of the first one, counted from 1.
    pub(super) first: usize,
    /// The cells are the row id of the table, which holds nothing but an `i64`.
    pub(super) row_id: bool,
}

impl Cells for Parameters<'_, '_> {
    #[inline]
    fn put(&mut self, at: usize, cell: SqlRef<'_>) -> Result<(), CellError> {
        let value = match cell {
            SqlRef::Null => ValueRef::Null,
            SqlRef::Integer(number) => ValueRef::Integer(number),
            SqlRef::Real(number) if number.is_nan() => {
                return Err(CellError::new("SQLite cannot store NaN; store an Option, or a number"));
            }
            SqlRef::Real(number) => ValueRef::Real(number),
            SqlRef::Text(text) => ValueRef::Text(text.as_bytes()),
            SqlRef::Blob(bytes) => ValueRef::Blob(bytes),
        };
        let bound = self.statement.raw_bind_parameter(self.first + at, ToSqlOutput::Borrowed(value));
        bound.map_err(|error| CellError::new(error.to_string()))
    }

    #[inline]
    fn large(&mut self, at: usize, number: u64) -> Result<(), CellError> {
        match self.row_id {
            true => self.put(at, SqlRef::Integer(number.cast_signed())),
            false => self.put(at, SqlRef::Blob(&number.to_be_bytes())),
        }
    }
}

/// The cells of an answer.
pub(super) struct Answer<'a> {
    pub(super) row: &'a Row<'a>,
    /// The number of the first column, counted from 0.
    pub(super) first: usize,
}

impl FoundCells for Answer<'_> {
    #[inline]
    fn get(&self, at: usize) -> Result<SqlRef<'_>, CellError> {
        match self.row.get_ref(self.first + at) {
            Ok(ValueRef::Null) => Ok(SqlRef::Null),
            Ok(ValueRef::Integer(number)) => Ok(SqlRef::Integer(number)),
            Ok(ValueRef::Real(number)) => Ok(SqlRef::Real(number)),
            Ok(ValueRef::Blob(bytes)) => Ok(SqlRef::Blob(bytes)),
            Ok(ValueRef::Text(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(SqlRef::Text(text)),
                Err(error) => Err(CellError::new(format!("the text is damaged: {error}"))),
            },
            Err(error) => Err(CellError::new(error.to_string())),
        }
    }
}
