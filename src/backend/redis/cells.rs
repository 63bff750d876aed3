//! The cells of keys and values, as Redis takes and gives them: everything is bytes there.

use crate::backend::{
    CellError, Column,
    sql::{Cells, FoundCells, RowWriter, SqlKey, SqlRef, SqlType, SqlValue},
};

/// What key and value are called, and how the value is laid out.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) prefix: String,
    pub(super) key: Vec<String>,
    pub(super) value: Vec<String>,
    pub(super) columns: &'static [Column],
    /// Whether a value is a hash, else it is a string.
    pub(super) hash: bool,
    /// Whether a hash needs a field that is always there: a hash without fields is none.
    pub(super) marker: bool,
    /// With a guard: the field of the version.
    pub(super) version: Option<String>,
}

impl Layout {
    /// The key of the entry.
    pub(super) fn key<K: SqlKey>(&self, key: &K) -> Result<Vec<u8>, CellError> {
        let mut cells = KeyCells { bytes: self.prefix.clone().into_bytes(), several: self.key.len() > 1 };
        let mut row = RowWriter::new(&mut cells, &self.key);
        key.write(&mut row).and_then(|()| row.finish())?;
        Ok(cells.bytes)
    }

    /// The cells of a value, `None` for each NULL.
    pub(super) fn value<V: SqlValue>(&self, value: &V) -> Result<Vec<Option<Vec<u8>>>, CellError> {
        let mut cells = ValueCells(Vec::with_capacity(self.value.len()));
        let mut row = RowWriter::new(&mut cells, &self.value);
        value.write(&mut row).and_then(|()| row.finish())?;
        Ok(cells.0)
    }
}

/// Redis takes 512 MB in one string, by default.
const LARGEST: usize = 512 << 20;

/// A key is the prefix and the cell; several cells are put together with `:`, and `\` before what would be mistaken for one.
struct KeyCells {
    bytes: Vec<u8>,
    several: bool,
}

impl Cells for KeyCells {
    fn put(&mut self, at: usize, cell: SqlRef<'_>) -> Result<(), CellError> {
        if at > 0 {
            self.bytes.push(b':');
        }
        let Some(cell) = bytes_of(cell)? else { return Err(CellError::new("a part of a key is NULL")) };
        if !self.several {
            self.bytes.extend(cell);
            return Ok(());
        }
        for byte in cell {
            if matches!(byte, b':' | b'\\') {
                self.bytes.push(b'\\');
            }
            self.bytes.push(byte);
        }
        Ok(())
    }

    fn large(&mut self, at: usize, number: u64) -> Result<(), CellError> {
        self.put(at, SqlRef::Text(&number.to_string()))
    }
}

struct ValueCells(Vec<Option<Vec<u8>>>);

impl Cells for ValueCells {
    fn put(&mut self, _: usize, cell: SqlRef<'_>) -> Result<(), CellError> {
        self.0.push(bytes_of(cell)?);
        Ok(())
    }

    fn large(&mut self, _: usize, number: u64) -> Result<(), CellError> {
        self.0.push(Some(number.to_string().into_bytes()));
        Ok(())
    }
}

fn bytes_of(cell: SqlRef<'_>) -> Result<Option<Vec<u8>>, CellError> {
    let bytes = match cell {
        SqlRef::Null => return Ok(None),
        SqlRef::Integer(number) => number.to_string().into_bytes(),
        SqlRef::Real(number) => format!("{number:?}").into_bytes(),
        SqlRef::Text(text) => text.as_bytes().to_vec(),
        SqlRef::Blob(bytes) => bytes.to_vec(),
    };
    if bytes.len() > LARGEST {
        return Err(CellError::new(format!("{} bytes are more than Redis takes", bytes.len())));
    }
    Ok(Some(bytes))
}

/// The cells of one value that was read.
pub(super) struct Found<'a> {
    cells: Vec<Cell<'a>>,
}

enum Cell<'a> {
    Ready(SqlRef<'a>),
    /// A number above `i64::MAX`, the highest byte first.
    Large([u8; 8]),
    Wrong(CellError),
}

impl<'a> Found<'a> {
    pub(super) fn of(columns: &[Column], cells: impl IntoIterator<Item = Option<&'a [u8]>>) -> Self {
        Self {
            cells: columns.iter().zip(cells).map(|(column, cell)| Cell::of(column.sql_type, cell)).collect(),
        }
    }
}

impl<'a> Cell<'a> {
    fn of(kind: SqlType, cell: Option<&'a [u8]>) -> Self {
        let Some(bytes) = cell else { return Cell::Ready(SqlRef::Null) };
        if kind == SqlType::Blob {
            return Cell::Ready(SqlRef::Blob(bytes));
        }
        let wrong = |what: &str| {
            Cell::Wrong(CellError::new(format!("found {}, which is no {what}", SqlRef::Blob(bytes))))
        };
        let Ok(text) = std::str::from_utf8(bytes) else { return wrong("text") };
        match kind {
            SqlType::Integer => match (text.parse(), text.parse::<u64>()) {
                (Ok(number), _) => Cell::Ready(SqlRef::Integer(number)),
                (_, Ok(large)) => Cell::Large(large.to_be_bytes()),
                _ => wrong("whole number"),
            },
            SqlType::Real => match text.parse() {
                Ok(number) => Cell::Ready(SqlRef::Real(number)),
                Err(_) => wrong("number"),
            },
            SqlType::Text | SqlType::Blob => Cell::Ready(SqlRef::Text(text)),
        }
    }
}

impl FoundCells for Found<'_> {
    fn get(&self, at: usize) -> Result<SqlRef<'_>, CellError> {
        match self.cells.get(at) {
            Some(Cell::Ready(cell)) => Ok(*cell),
            Some(Cell::Large(bytes)) => Ok(SqlRef::Blob(bytes)),
            Some(Cell::Wrong(error)) => Err(error.clone()),
            None => Ok(SqlRef::Null),
        }
    }
}
