//! The cells of rows, as Postgres takes and gives them.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::{
    Row,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use super::layout::TypedColumn;
use crate::backend::{
    CellError,
    sql::{Cells, FoundCells, SqlRef, SqlType},
};

/// One column of many rows: an array in the binary format of the protocol, but for its head.
#[derive(Debug, Clone)]
pub(super) struct Array {
    kind: SqlType,
    elements: BytesMut,
    rows: i32,
    nulls: bool,
}

impl Array {
    pub(super) fn of(kind: SqlType) -> Self {
        Self { kind, elements: BytesMut::new(), rows: 0, nulls: false }
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements.len()
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows.unsigned_abs().into()
    }

    #[inline]
    pub(super) fn push(&mut self, cell: SqlRef<'_>) -> Result<(), CellError> {
        let out = &mut self.elements;
        match (self.kind, cell) {
            (_, SqlRef::Null) => {
                self.nulls = true;
                out.put_i32(-1);
            }
            (SqlType::Integer, SqlRef::Integer(number)) => {
                out.put_i32(8);
                out.put_i64(number);
            }
            (SqlType::Real, SqlRef::Real(number)) => {
                out.put_i32(8);
                out.put_f64(number);
            }
            (SqlType::Text, SqlRef::Text(text)) if text.contains('\0') => {
                return Err(CellError::new("Postgres cannot store the character NUL in a text; store bytes"));
            }
            (SqlType::Text, SqlRef::Text(text)) => put(out, text.as_bytes())?,
            (SqlType::Blob, SqlRef::Blob(bytes)) => put(out, bytes)?,
            (_, other) => {
                return Err(CellError::new(format!("{other} is written, which is not of the column's type")));
            }
        }
        self.rows += 1;
        Ok(())
    }
}

/// Postgres takes a thousand million bytes in one value.
const LARGEST: usize = 0x3fff_ffff;

fn put(out: &mut BytesMut, bytes: &[u8]) -> Result<(), CellError> {
    match i32::try_from(bytes.len()) {
        Ok(length) if bytes.len() <= LARGEST => {
            out.put_i32(length);
            out.put_slice(bytes);
            Ok(())
        }
        _ => Err(CellError::new(format!("{} bytes are more than Postgres takes", bytes.len()))),
    }
}

impl ToSql for Array {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let element = match self.kind {
            SqlType::Integer => Type::INT8,
            SqlType::Real => Type::FLOAT8,
            SqlType::Text => Type::TEXT,
            SqlType::Blob => Type::BYTEA,
        };
        debug_assert!(matches!(of.kind(), tokio_postgres::types::Kind::Array(found) if *found == element));
        out.put_i32(1);
        out.put_i32(self.nulls.into());
        out.put_u32(element.oid());
        out.put_i32(self.rows);
        out.put_i32(1);
        out.put_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        matches!(of.kind(), tokio_postgres::types::Kind::Array(_))
    }

    to_sql_checked!();
}

/// Many rows, one array for each column.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) arrays: Vec<Array>,
    /// Where the row that is being written begins.
    marks: Vec<(usize, i32)>,
    /// Which of its columns are written now: those of the value come after those of the key.
    pub(super) first: usize,
}

impl Rows {
    pub(super) fn of<'a>(columns: impl IntoIterator<Item = &'a TypedColumn>) -> Self {
        let arrays: Vec<_> = columns.into_iter().map(|column| Array::of(column.kind)).collect();
        Self { arrays, marks: Vec::new(), first: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.arrays.iter().map(Array::bytes).sum()
    }

    /// A row begins.
    pub(super) fn begin(&mut self) {
        self.first = 0;
        self.marks.clear();
        self.marks.extend(self.arrays.iter().map(|array| (array.elements.len(), array.rows)));
    }

    /// The row that was begun is left out.
    pub(super) fn undo(&mut self) {
        for (array, (bytes, rows)) in self.arrays.iter_mut().zip(&self.marks) {
            array.elements.truncate(*bytes);
            array.rows = *rows;
        }
    }
}

impl Cells for Rows {
    #[inline]
    fn put(&mut self, at: usize, cell: SqlRef<'_>) -> Result<(), CellError> {
        match self.arrays.get_mut(self.first + at) {
            Some(array) => array.push(cell),
            None => Err(CellError::new("more cells are written than there are columns")),
        }
    }

    #[inline]
    fn large(&mut self, at: usize, number: u64) -> Result<(), CellError> {
        self.put(at, SqlRef::Integer(number.cast_signed()))
    }
}

/// The cells of an answer.
pub(super) struct Answer<'a> {
    pub(super) row: &'a Row,
    pub(super) columns: &'a [TypedColumn],
    /// The number of the first column, counted from 0.
    pub(super) first: usize,
}

impl FoundCells for Answer<'_> {
    fn get(&self, at: usize) -> Result<SqlRef<'_>, CellError> {
        let Some(column) = self.columns.get(at) else {
            return Err(CellError::new("more cells are read than there are columns"));
        };
        let place = self.first + at;
        let cell = match column.kind {
            SqlType::Integer => {
                self.row.try_get::<_, Option<i64>>(place).map(|cell| cell.map(SqlRef::Integer))
            }
            SqlType::Real => self.row.try_get::<_, Option<f64>>(place).map(|cell| cell.map(SqlRef::Real)),
            SqlType::Text => self.row.try_get::<_, Option<&str>>(place).map(|cell| cell.map(SqlRef::Text)),
            SqlType::Blob => self.row.try_get::<_, Option<&[u8]>>(place).map(|cell| cell.map(SqlRef::Blob)),
        };
        match cell {
            Ok(cell) => Ok(cell.unwrap_or(SqlRef::Null)),
            Err(error) => Err(CellError::new(error.to_string())),
        }
    }

    fn wraps(&self) -> bool {
        true
    }
}
