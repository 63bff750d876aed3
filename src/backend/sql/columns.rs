//! What the columns of a table are called.

use super::{Column, SqlKey, SqlValue};

/// Names for the columns of a table, in place of those that the types of key and value bring along.
///
/// ```
/// # #[cfg(feature = "sqlite")] {
/// use writeback::{Backend, Batch, Change, Op, backend::{Columns, Sqlite}};
///
/// let columns = Columns::new().key(["word"]).value(["n"]);
/// let words = Sqlite::in_memory()?.table_with("words", columns)?; // words (word TEXT PRIMARY KEY, n INTEGER)
/// let answers = words.apply(&Batch::new(vec![Op::new("cache".to_owned(), Change::Upsert(3_u64), 1, 1)]));
/// assert!(answers.as_slice()[0].is_ok());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    key: Option<Vec<String>>,
    value: Option<Vec<String>>,
}

impl Columns {
    /// The names that the types bring along.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the columns of the key: as many names as the key has columns.
    #[must_use]
    pub fn key<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        Self { key: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// Names the columns of the value: as many names as the value has columns.
    #[must_use]
    pub fn value<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        Self { value: Some(names.into_iter().map(Into::into).collect()), ..self }
    }
}

/// The names of the columns of a key and of a value: one for each, and all different.
#[derive(Debug)]
pub(in crate::backend) struct Names {
    pub(in crate::backend) key: Vec<String>,
    pub(in crate::backend) value: Vec<String>,
}

impl Names {
    /// The given names, or those of the types. An error says why they make no table.
    pub(in crate::backend) fn of<K: SqlKey, V: SqlValue>(given: Columns) -> Result<Self, String> {
        let named = |columns: &[Column], names: Option<Vec<String>>, what: &str| {
            let names =
                names.unwrap_or_else(|| columns.iter().map(|column| column.name.to_owned()).collect());
            if names.len() == columns.len() {
                return Ok(names);
            }
            let (have, need) = (names.len(), columns.len());
            Err(format!(
                "the {what} has {need} columns, but {have} names are given for it; give one for each"
            ))
        };
        let names = Self {
            key: named(K::COLUMNS, given.key, "key")?,
            value: named(V::COLUMNS, given.value, "value")?,
        };
        if names.key.is_empty() {
            return Err("the key has no column; add one to its COLUMNS".to_owned());
        }
        for (at, name) in names.all().enumerate() {
            if names.all().take(at).any(|earlier| earlier.eq_ignore_ascii_case(name)) {
                return Err(format!("two columns are called `{name}`; rename one with `table_with`"));
            }
        }
        if let Some((_, name)) = K::COLUMNS.iter().zip(&names.key).find(|(column, _)| column.nullable) {
            return Err(format!("`{name}` is a part of the key and may be NULL; use a type that is not"));
        }
        Ok(names)
    }

    /// Those of the key, then those of the value.
    pub(in crate::backend) fn all(&self) -> impl Iterator<Item = &String> {
        self.key.iter().chain(&self.value)
    }
}
