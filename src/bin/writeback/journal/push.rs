//! Entries of a journal as rows of SQLite, without the types of the application.
//!
//! The library's own backend writes them, so that a table looks as it would if the cache had drained. It wants to know
//! at compile time what columns there are, but not which integer: so one type for each class of columns will do.

use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
};

use writeback::{
    Backend, BackendError, Batch, Change, ClosedDeadLetters, DeadLetterEntry, JournalContents, Op,
    backend::{CellError, Column, Columns, RowReader, RowWriter, SqlKey, SqlValue, Sqlite, SqliteOpenError},
};

use super::decode::{Type, Value};

/// The rows of one transaction.
const BATCH: usize = 1_000;

/// What was pushed.
pub(crate) struct Pushed {
    pub(crate) stored: usize,
    /// Why each row was refused, or that it was not, in the order of the entries.
    pub(crate) answers: Vec<Result<(), BackendError>>,
    /// How many rows the database did not take, and why it did not take the first of them.
    pub(crate) refused: usize,
    pub(crate) reason: Option<BackendError>,
    /// The note beside the database.
    pub(crate) note: Option<PathBuf>,
}

/// Why nothing could be pushed.
pub(crate) enum Unpushed {
    Open(SqliteOpenError),
    /// A record says something else than its codec does.
    Undecodable {
        offset: u64,
    },
    /// Its keys or its values do not go into one column.
    Type {
        what: &'static str,
        name: String,
    },
}

/// Where the rows go.
pub(crate) struct Target<'a> {
    pub(crate) db: &'a Path,
    pub(crate) table: &'a str,
    pub(crate) columns: [&'a str; 2],
    /// Key and value as the bytes that they are in the journal.
    pub(crate) raw: bool,
}

/// A write that is to be pushed: as its codecs have written it.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) version: u64,
    /// Where it is in the journal; of a dead letter its number.
    pub(crate) offset: u64,
}

impl<'a> From<&DeadLetterEntry<'a>> for Entry<'a> {
    fn from(letter: &DeadLetterEntry<'a>) -> Self {
        Entry { key: letter.key, value: letter.value, version: letter.version, offset: letter.id }
    }
}

/// What is to be pushed.
pub(crate) struct Source<'a> {
    pub(crate) key_codec: &'a str,
    pub(crate) value_codec: &'a str,
    pub(crate) entries: Vec<Entry<'a>>,
}

impl<'a> Source<'a> {
    /// What is unflushed in a journal. What became a dead letter is not, although its record may still be there.
    pub(crate) fn of(contents: &'a JournalContents<'a>, letters: &ClosedDeadLetters<'_>) -> Self {
        let entries = contents
            .entries()
            .iter()
            .filter(|entry| !letters.covers(entry.key, entry.version))
            .map(|entry| Entry {
                key: entry.key,
                value: entry.value,
                version: entry.version,
                offset: entry.offset,
            })
            .collect();
        Source { key_codec: contents.key_codec(), value_codec: contents.value_codec(), entries }
    }
}

/// The classes of columns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Integer,
    Real,
    Text,
    Blob,
}

/// How `Type`s go into a column: the class, and whether there may be none.
fn class(of: &Type) -> Option<(Class, bool)> {
    Some(match of {
        Type::Unsigned(1..=8) | Type::Signed(1..=8) | Type::Bool => (Class::Integer, false),
        Type::F32 | Type::F64 => (Class::Real, false),
        Type::Text => (Class::Text, false),
        Type::List(of) | Type::Array(of, _) if **of == Type::Unsigned(1) => (Class::Blob, false),
        Type::Option(of) => match class(of)? {
            (class, false) => (class, true),
            _ => return None,
        },
        _ => return None,
    })
}

/// Checks that keys and values of these codecs can be pushed.
pub(crate) fn check(source: &Source<'_>, raw: bool) -> Result<(), Unpushed> {
    kinds(source, raw).map(drop)
}

type Kinds = ((Type, Class), (Type, Class, bool));

fn kinds(source: &Source<'_>, raw: bool) -> Result<Kinds, Unpushed> {
    let bytes = Type::List(Box::new(Type::Unsigned(1)));
    if raw {
        return Ok(((bytes.clone(), Class::Blob), (bytes, Class::Blob, false)));
    }
    let find = |what, name: &str| {
        let found = Type::parse(name).and_then(|found| class(&found).map(|class| (found, class)));
        found.ok_or_else(|| Unpushed::Type { what, name: name.to_owned() })
    };
    let (key, (key_class, nullable)) = find("keys", source.key_codec)?;
    if nullable || key_class == Class::Real {
        return Err(Unpushed::Type { what: "keys", name: source.key_codec.to_owned() });
    }
    let (value, (value_class, nullable)) = find("values", source.value_codec)?;
    Ok(((key, key_class), (value, value_class, nullable)))
}

/// Writes every entry to the table, which is made if there is none, a transaction for each batch.
pub(crate) fn push(source: &Source<'_>, target: &Target<'_>) -> Result<Pushed, Unpushed> {
    let ((key, key_class), (value, value_class, nullable)) = kinds(source, target.raw)?;
    let job = Job { entries: &source.entries, key, value, target };
    match key_class {
        Class::Text => job.with_key::<Text>(value_class, nullable),
        Class::Blob => job.with_key::<Blob>(value_class, nullable),
        Class::Integer | Class::Real => job.with_key::<Integer>(value_class, nullable),
    }
}

struct Job<'a> {
    entries: &'a [Entry<'a>],
    key: Type,
    value: Type,
    target: &'a Target<'a>,
}

impl Job<'_> {
    fn with_key<K: Cell>(&self, value: Class, nullable: bool) -> Result<Pushed, Unpushed> {
        match (value, nullable) {
            (Class::Integer, false) => self.run::<K, Integer>(),
            (Class::Real, false) => self.run::<K, Real>(),
            (Class::Text, false) => self.run::<K, Text>(),
            (Class::Blob, false) => self.run::<K, Blob>(),
            (Class::Integer, true) => self.run::<K, Option<Integer>>(),
            (Class::Real, true) => self.run::<K, Option<Real>>(),
            (Class::Text, true) => self.run::<K, Option<Text>>(),
            (Class::Blob, true) => self.run::<K, Option<Blob>>(),
        }
    }

    fn run<K: Cell, V: Cell>(&self) -> Result<Pushed, Unpushed> {
        let Target { db, table, columns: [key, value], .. } = *self.target;
        let columns = Columns::new().key([key]).value([value]);
        // Synced in full: the journal is declared dead after it.
        let db = Sqlite::options().full_sync(true).open(db).map_err(Unpushed::Open)?;
        let table = db.table_with::<Row<K>, Row<V>>(table, columns).map_err(Unpushed::Open)?;
        let mut pushed =
            Pushed { stored: 0, answers: Vec::new(), refused: 0, reason: None, note: table.journal_note() };
        for chunk in self.entries.chunks(BATCH) {
            let ops = chunk.iter().map(|entry| self.op(entry)).collect::<Result<_, _>>()?;
            let answers = table.apply(&Batch::new(ops));
            pushed.answers.extend_from_slice(answers.as_slice());
            for answer in answers.as_slice() {
                match answer {
                    Ok(()) => pushed.stored += 1,
                    Err(error) => {
                        pushed.refused += 1;
                        pushed.reason.get_or_insert_with(|| error.clone());
                    }
                }
            }
        }
        Ok(pushed)
    }

    fn op<K, V>(&self, entry: &Entry<'_>) -> Result<Op<Row<K>, Row<V>>, Unpushed> {
        let decode =
            |of: &Type, bytes| of.decode(bytes).ok_or(Unpushed::Undecodable { offset: entry.offset });
        let change = match entry.value {
            Some(bytes) => Change::Upsert(Row::of(decode(&self.value, bytes)?)),
            None => Change::Delete,
        };
        Ok(Op::new(Row::of(decode(&self.key, entry.key)?), change, entry.version, 1))
    }
}

/// A class of columns, as a type.
trait Cell: Send + Sync + 'static {
    const COLUMN: &'static [Column];
}

struct Integer;
struct Real;
struct Text;
struct Blob;

macro_rules! cells {
    ($($class:ident: $cell:ty;)*) => {$(
        impl Cell for $class {
            const COLUMN: &'static [Column] = &[Column::of::<$cell>("value")];
        }

        impl Cell for Option<$class> {
            const COLUMN: &'static [Column] = &[Column::of::<Option<$cell>>("value")];
        }
    )*};
}

cells! { Integer: i64; Real: f64; Text: String; Blob: Vec<u8>; }

/// A value in a column of the class `C`.
struct Row<C>(Value, PhantomData<C>);

impl<C> Row<C> {
    fn of(value: Value) -> Self {
        Self(value, PhantomData)
    }

    fn put(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        let too_large = || CellError::new("a number with more than 64 bits");
        match &self.0 {
            Value::Unsigned(n) => row.unsigned(u64::try_from(*n).map_err(|_| too_large())?),
            Value::Signed(n) => row.integer(i64::try_from(*n).map_err(|_| too_large())?),
            Value::Bool(yes) => row.integer(i64::from(*yes)),
            Value::F32(n) => row.real(f64::from(*n)),
            Value::F64(n) => row.real(*n),
            Value::Text(text) => row.text(text),
            Value::Bytes(bytes) => row.blob(bytes),
            Value::Nothing => row.null(),
            Value::Row(_) => Err(CellError::new("several values for one column")),
        }
    }
}

impl<C: Cell> SqlKey for Row<C> {
    const COLUMNS: &'static [Column] = C::COLUMN;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        self.put(row)
    }
}

impl<C: Cell> SqlValue for Row<C> {
    const COLUMNS: &'static [Column] = C::COLUMN;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        self.put(row)
    }

    fn read(_: &mut RowReader<'_>) -> Result<Self, CellError> {
        Err(CellError::new("rows are only written here"))
    }
}
