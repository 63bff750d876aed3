//! How keys and values become columns, and columns values.

use std::fmt;

use super::CellError;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlType {
    /// A whole number.
    Integer,
    /// A floating-point number.
    Real,
    /// A string.
    Text,
    /// Bytes.
    Blob,
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SqlType::Integer => "INTEGER",
            SqlType::Real => "REAL",
            SqlType::Text => "TEXT",
            SqlType::Blob => "BLOB",
        })
    }
}

/// One column of a key or of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub(in crate::backend) name: &'static str,
    pub(in crate::backend) sql_type: SqlType,
    pub(in crate::backend) nullable: bool,
}

impl Column {
    /// A column called `name` that holds cells of the type `T`.
    #[must_use]
    pub const fn of<T: SqlCell>(name: &'static str) -> Self {
        Self { name, sql_type: T::TYPE, nullable: T::NULLABLE }
    }
}

/// A type that fits one column.
///
/// Implemented for integers, `bool`, floats, strings, bytes and `Option`s of them. To store a type of your own in
/// one column, implement it, and use the type inside a [`SqlKey`] or a [`SqlValue`]:
///
/// ```
/// use writeback::backend::{CellError, RowWriter, SqlCell, SqlRef, SqlType};
///
/// enum Level { Low, High }
///
/// impl SqlCell for Level {
///     const TYPE: SqlType = SqlType::Text;
///
///     fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
///         row.text(match self { Level::Low => "low", Level::High => "high" })
///     }
///
///     fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
///         match cell {
///             SqlRef::Text("low") => Ok(Level::Low),
///             SqlRef::Text("high") => Ok(Level::High),
///             other => Err(CellError::new(format!("{other} is no level"))),
///         }
///     }
/// }
/// ```
pub trait SqlCell: Sized {
    /// The type of the column.
    const TYPE: SqlType;

    /// Whether the column may hold `NULL`.
    const NULLABLE: bool = false;

    /// Whether its whole numbers are written with [`RowWriter::unsigned`], and so may be above `i64::MAX`.
    const UNSIGNED: bool = false;

    /// Writes the cell: exactly one call to a method of `row`.
    ///
    /// # Errors
    ///
    /// The value does not fit the column; the row is refused as a permanent error.
    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError>;

    /// Makes a value of a cell that was read.
    ///
    /// # Errors
    ///
    /// The cell holds something else, which only another program can have stored.
    fn read(cell: SqlRef<'_>) -> Result<Self, CellError>;
}

/// A type that is the primary key of a table, in one column or in several.
///
/// Implemented for integers, `bool`, strings and bytes (one column called `key`), and for pairs, triples and
/// quadruples of them (`key_1`, `key_2`, and so on). For a type of your own, name the columns and write the cells:
///
/// ```
/// use writeback::backend::{CellError, Column, RowWriter, SqlKey};
///
/// struct Seat { flight: String, number: u16 }
///
/// impl SqlKey for Seat {
///     const COLUMNS: &'static [Column] = &[Column::of::<String>("flight"), Column::of::<u16>("number")];
///
///     fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
///         row.put(&self.flight)?;
///         row.put(&self.number)
///     }
/// }
/// ```
///
/// Two keys that are not equal must not write the same cells, since the database would take them for one row.
pub trait SqlKey {
    /// The columns of the primary key.
    const COLUMNS: &'static [Column];

    /// Writes one cell for each column, in their order.
    ///
    /// # Errors
    ///
    /// A part does not fit its column; the row is refused as a permanent error.
    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError>;
}

/// A type that is stored beside the key, in one column or in several.
///
/// Implemented for integers, `bool`, floats, strings, bytes and `Option`s of them (one column called `value`), for
/// pairs, triples and quadruples (`value_1`, `value_2`, and so on), for `Arc<V>`, and for `()` (no column: the table
/// is a set of keys). For a type of your own, name the columns, write the cells, and read them back:
///
/// ```
/// use writeback::backend::{CellError, Column, RowReader, RowWriter, SqlValue};
///
/// #[derive(Debug, Clone, PartialEq)]
/// struct Player { name: String, points: u64, team: Option<String> }
///
/// impl SqlValue for Player {
///     const COLUMNS: &'static [Column] = &[
///         Column::of::<String>("name"),
///         Column::of::<u64>("points"),
///         Column::of::<Option<String>>("team"),
///     ];
///
///     fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
///         row.put(&self.name)?;
///         row.put(&self.points)?;
///         row.put(&self.team)
///     }
///
///     fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
///         Ok(Self { name: row.take()?, points: row.take()?, team: row.take()? })
///     }
/// }
/// # #[cfg(feature = "sqlite")] {
/// use writeback::{Batch, Backend, Change, Op, backend::{Sqlite, SqliteTable}};
///
/// let players: SqliteTable<u64, Player> = Sqlite::in_memory()?.table("players")?;
/// let ada = Player { name: "Ada".into(), points: 12, team: None };
/// let answers = players.apply(&Batch::new(vec![Op::new(7, Change::Upsert(ada.clone()), 1, 1)]));
/// assert!(answers.as_slice()[0].is_ok());
/// assert_eq!(players.load(&[7, 8])?, [Some(ada), None]);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait SqlValue: Sized {
    /// The columns of the value.
    const COLUMNS: &'static [Column];

    /// Writes one cell for each column, in their order.
    ///
    /// # Errors
    ///
    /// A part does not fit its column; the row is refused as a permanent error.
    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError>;

    /// Reads one cell for each column, in their order.
    ///
    /// # Errors
    ///
    /// A column holds something else, which only another program can have stored.
    fn read(row: &mut RowReader<'_>) -> Result<Self, CellError>;
}

/// What is in one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SqlRef<'a> {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// A string.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl fmt::Display for SqlRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlRef::Null => f.write_str("NULL"),
            SqlRef::Integer(number) => write!(f, "{number}"),
            SqlRef::Real(number) => write!(f, "{number:?}"),
            SqlRef::Text(text) if text.len() <= 40 => write!(f, "{text:?}"),
            SqlRef::Text(text) => write!(f, "a text of {} bytes", text.len()),
            SqlRef::Blob(bytes) => write!(f, "a blob of {} bytes", bytes.len()),
        }
    }
}

/// Takes the cells of a key or of a value, one after the other.
pub struct RowWriter<'a> {
    row: &'a mut dyn Cells,
    names: &'a [String],
    written: usize,
}

impl<'a> RowWriter<'a> {
    /// A writer of as many cells as there are `names`.
    #[inline]
    pub(in crate::backend) fn new(row: &'a mut dyn Cells, names: &'a [String]) -> Self {
        Self { row, names, written: 0 }
    }

    /// Writes the next cell.
    ///
    /// # Errors
    ///
    /// The cell does not fit its column, or there are more cells than columns.
    #[inline]
    pub fn put<T: SqlCell>(&mut self, cell: &T) -> Result<(), CellError> {
        let at = self.written;
        let written = cell.write(self);
        written.map_err(|error| match self.names.get(at) {
            Some(name) => error.in_column(name),
            None => error,
        })
    }

    /// Writes `NULL`.
    ///
    /// # Errors
    ///
    /// There are more cells than columns.
    #[inline]
    pub fn null(&mut self) -> Result<(), CellError> {
        self.cell(SqlRef::Null)
    }

    /// Writes a whole number.
    ///
    /// # Errors
    ///
    /// There are more cells than columns.
    #[inline]
    pub fn integer(&mut self, number: i64) -> Result<(), CellError> {
        self.cell(SqlRef::Integer(number))
    }

    /// Writes a whole number that may be above `i64::MAX`, the largest that SQLite and Postgres have.
    ///
    /// Up to `i64::MAX` it is an ordinary integer. Above, each database has a way of its own to keep it apart from
    /// all others:
    ///
    /// - SQLite: a blob of its eight bytes, the highest first. Every blob sorts after every number there, so the
    ///   numeric order holds over the whole range, in `ORDER BY`, in comparisons and in `max`. Arithmetic in SQL on
    ///   such a cell does not.
    /// - Postgres, and a primary key of *one* integer column in SQLite (its row id, which can be no blob): the
    ///   negative `i64` of the same bits (`number as i64`). No two numbers meet, and all come back, but in SQL they
    ///   sort before 0.
    /// - Redis: the number.
    ///
    /// A cell type that uses this has [`SqlCell::UNSIGNED`] set, and reads such a number as [`SqlRef::Blob`] of the
    /// eight bytes, whatever the database.
    ///
    /// # Errors
    ///
    /// There are more cells than columns.
    #[inline]
    pub fn unsigned(&mut self, number: u64) -> Result<(), CellError> {
        match i64::try_from(number) {
            Ok(number) => self.integer(number),
            Err(_) => self.write(|row, at| row.large(at, number)),
        }
    }

    /// Writes a floating-point number.
    ///
    /// # Errors
    ///
    /// The database cannot store it (SQLite: NaN), or there are more cells than columns.
    #[inline]
    pub fn real(&mut self, number: f64) -> Result<(), CellError> {
        self.cell(SqlRef::Real(number))
    }

    /// Writes a string.
    ///
    /// # Errors
    ///
    /// It is larger than the database takes, or has a character that it cannot store (Postgres: NUL); or there are more cells than columns.
    #[inline]
    pub fn text(&mut self, text: &str) -> Result<(), CellError> {
        self.cell(SqlRef::Text(text))
    }

    /// Writes bytes.
    ///
    /// # Errors
    ///
    /// They are more than the database takes, or there are more cells than columns.
    #[inline]
    pub fn blob(&mut self, bytes: &[u8]) -> Result<(), CellError> {
        self.cell(SqlRef::Blob(bytes))
    }

    #[inline]
    fn cell(&mut self, cell: SqlRef<'_>) -> Result<(), CellError> {
        self.write(|row, at| row.put(at, cell))
    }

    #[inline]
    fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Cells, usize) -> Result<(), CellError>,
    ) -> Result<(), CellError> {
        let Some(name) = self.names.get(self.written) else {
            let columns = self.names.len();
            return Err(CellError::new(format!(
                "more cells are written than the {columns} columns in COLUMNS"
            )));
        };
        let written = write(self.row, self.written);
        self.written += 1;
        written.map_err(|error| error.in_column(name))
    }

    /// Checks that no column was left out: it would keep the cell of another row.
    #[inline]
    pub(in crate::backend) fn finish(self) -> Result<(), CellError> {
        match self.names.get(self.written) {
            Some(name) => {
                Err(CellError::new("no cell is written for this column of COLUMNS").in_column(name))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RowWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowWriter").field("columns", &self.names).field("written", &self.written).finish()
    }
}

/// Where a database takes the cells of a row, as a [`RowWriter`] sees it. Cells are counted from 0.
pub(in crate::backend) trait Cells {
    fn put(&mut self, at: usize, cell: SqlRef<'_>) -> Result<(), CellError>;

    /// A number above `i64::MAX`.
    fn large(&mut self, at: usize, number: u64) -> Result<(), CellError>;
}

/// A row that a database has answered, as a [`RowReader`] sees it. Cells are counted from 0.
pub(in crate::backend) trait FoundCells {
    fn get(&self, at: usize) -> Result<SqlRef<'_>, CellError>;

    /// Whether numbers above `i64::MAX` come as the negative ones of the same bits.
    fn wraps(&self) -> bool {
        false
    }
}

/// Gives the cells of a value, one after the other.
pub struct RowReader<'a> {
    row: &'a dyn FoundCells,
    names: &'a [String],
    taken: usize,
}

impl<'a> RowReader<'a> {
    /// A reader of as many cells as there are `names`.
    #[inline]
    pub(in crate::backend) fn new(row: &'a dyn FoundCells, names: &'a [String]) -> Self {
        Self { row, names, taken: 0 }
    }

    /// Reads the next cell.
    ///
    /// # Errors
    ///
    /// The cell holds something else than a `T`, or there are no more columns.
    #[inline]
    pub fn take<T: SqlCell>(&mut self) -> Result<T, CellError> {
        let Some(name) = self.names.get(self.taken) else {
            let columns = self.names.len();
            return Err(CellError::new(format!("more cells are read than the {columns} columns in COLUMNS")));
        };
        let cell = self.row.get(self.taken);
        self.taken += 1;
        let read = cell.and_then(|cell| match cell {
            SqlRef::Integer(number) if number < 0 && T::UNSIGNED && self.row.wraps() => {
                T::read(SqlRef::Blob(&number.to_be_bytes()))
            }
            cell => T::read(cell),
        });
        read.map_err(|error| error.in_column(name))
    }
}

impl fmt::Debug for RowReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowReader").field("columns", &self.names).field("taken", &self.taken).finish()
    }
}
