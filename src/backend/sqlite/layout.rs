//! The columns that a table must have, and whether a table has them.

use std::fmt::Write as _;

use rusqlite::{Connection, OptionalExtension as _};

use super::SqliteOpenError;
use crate::backend::sql::{Column, Columns, Names, SqlKey, SqlType, SqlValue, is_plain, list, quoted};

/// A table as the types of key and value need it.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) table: String,
    pub(super) key: Vec<String>,
    pub(super) value: Vec<String>,
    columns: Vec<Column>,
}

impl Layout {
    pub(super) fn of<K: SqlKey, V: SqlValue>(table: &str, names: Columns) -> Result<Self, SqliteOpenError> {
        check_name("table", table)?;
        let names = Names::of::<K, V>(names)
            .map_err(|reason| SqliteOpenError::Columns { table: table.to_owned(), reason })?;
        names.all().try_for_each(|name| check_name("column", name))?;
        let Names { key, value } = names;
        let columns = K::COLUMNS.iter().chain(V::COLUMNS).copied().collect();
        Ok(Self { table: table.to_owned(), key, value, columns })
    }

    /// Whether the key is SQLite's row id: the fastest layout, and one that holds nothing but an `i64`.
    pub(super) fn row_id(&self) -> bool {
        self.key.len() == 1 && self.columns.first().is_some_and(|column| column.sql_type == SqlType::Integer)
    }

    /// Creates the table if there is none, and checks the one that there is.
    pub(super) fn prepare(&self, connection: &Connection) -> Result<(), SqliteOpenError> {
        let failed = |error: rusqlite::Error| SqliteOpenError::Table {
            table: self.table.clone(),
            source: error.into(),
        };
        connection.execute_batch(&self.create()).map_err(failed)?;
        let found = Found::read(connection, &self.table).map_err(failed)?;
        match self.difference(&found) {
            None => Ok(()),
            Some(difference) => Err(SqliteOpenError::Shape {
                table: self.table.clone(),
                difference,
                found: found.to_string(),
                expected: format!("({})", self.definition()),
            }),
        }
    }

    fn create(&self) -> String {
        let tail = if self.row_id() { "" } else { " WITHOUT ROWID" };
        format!("CREATE TABLE IF NOT EXISTS {} ({}){tail}", quoted(&self.table), self.definition())
    }

    fn definition(&self) -> String {
        let mut sql = String::new();
        for (name, column) in self.key.iter().chain(&self.value).zip(&self.columns) {
            let null = if column.nullable { "" } else { " NOT NULL" };
            // Writing to a string cannot fail.
            let _ = write!(sql, "{} {}{null}, ", quoted(name), column.sql_type);
        }
        let _ = write!(sql, "PRIMARY KEY ({})", list(&self.key));
        sql
    }

    /// What keeps the table that was found from being used, if anything does.
    fn difference(&self, found: &Found) -> Option<String> {
        if found.kind != "table" {
            return Some(format!("it is a {}", found.kind));
        }
        for (at, (name, expected)) in self.key.iter().chain(&self.value).zip(&self.columns).enumerate() {
            let Some(column) = found.column(name) else {
                return Some(format!("there is no column `{name}`"));
            };
            if column.generated {
                return Some(format!("the column `{name}` is computed"));
            }
            if !column.holds(expected.sql_type) {
                return Some(format!(
                    "the column `{name}` is {}, not {}",
                    column.sql_type(),
                    expected.sql_type
                ));
            }
            if expected.nullable && column.not_null {
                return Some(format!("the column `{name}` refuses NULL, which the cache may store"));
            }
            let is_key = at < self.key.len();
            if is_key != column.in_key {
                let not = if is_key { "not " } else { "" };
                return Some(format!("the column `{name}` is {not}a part of the primary key"));
            }
            if is_key && !column.collation.eq_ignore_ascii_case("BINARY") {
                let collation = &column.collation;
                return Some(format!(
                    "the key column `{name}` is compared with {collation}: two keys can be one row"
                ));
            }
        }
        let others = found
            .columns
            .iter()
            .filter(|column| !self.key.iter().chain(&self.value).any(|name| column.is(name)));
        for column in others {
            let name = &column.name;
            if column.in_key {
                return Some(format!("the primary key has a column `{name}` more"));
            }
            if column.not_null && !column.has_default && !column.generated {
                return Some(format!("the column `{name}` has no default, and the cache does not write it"));
            }
        }
        None
    }
}

/// A table as it is.
#[derive(Debug)]
struct Found {
    kind: String,
    columns: Vec<FoundColumn>,
}

#[derive(Debug)]
struct FoundColumn {
    name: String,
    declared: String,
    not_null: bool,
    has_default: bool,
    in_key: bool,
    generated: bool,
    /// How a key column is compared.
    collation: String,
}

impl Found {
    fn read(connection: &Connection, table: &str) -> rusqlite::Result<Self> {
        let kind = "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
        let kind = connection.query_row(kind, [table], |row| row.get(0)).optional()?;
        let collations = "SELECT c.name, c.coll FROM pragma_index_list(?1) AS i, pragma_index_xinfo(i.name) AS c \
                          WHERE i.origin = 'pk' AND c.key";
        let mut collations = connection.prepare(collations)?;
        let collations = collations.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let collations = collations.collect::<rusqlite::Result<Vec<(Option<String>, String)>>>()?;
        let columns = "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk > 0, hidden > 0 \
                       FROM pragma_table_xinfo(?1)";
        let mut columns = connection.prepare(columns)?;
        let columns = columns.query_map([table], |row| {
            let name: String = row.get(0)?;
            let collation = collations.iter().find(|(of, _)| of.as_ref() == Some(&name));
            Ok(FoundColumn {
                declared: row.get(1)?,
                not_null: row.get(2)?,
                has_default: row.get(3)?,
                in_key: row.get(4)?,
                generated: row.get(5)?,
                collation: collation.map_or("BINARY", |(_, collation)| collation).to_owned(),
                name,
            })
        })?;
        Ok(Self {
            kind: kind.unwrap_or_else(|| "nothing".to_owned()),
            columns: columns.collect::<Result<_, _>>()?,
        })
    }

    fn column(&self, name: &str) -> Option<&FoundColumn> {
        self.columns.iter().find(|column| column.is(name))
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.kind != "table" {
            return write!(f, "a {}", self.kind);
        }
        f.write_str("(")?;
        for column in &self.columns {
            let null = if column.not_null { " NOT NULL" } else { "" };
            write!(f, "{} {}{null}, ", quoted(&column.name), column.sql_type())?;
        }
        let key: Vec<_> =
            self.columns.iter().filter(|column| column.in_key).map(|column| &*column.name).collect();
        match key.is_empty() {
            true => f.write_str("no primary key)"),
            false => write!(f, "PRIMARY KEY ({}))", list(&key)),
        }
    }
}

impl FoundColumn {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn sql_type(&self) -> &str {
        if self.declared.is_empty() { "of no type" } else { &self.declared }
    }

    /// Whether cells of a type come back from the column as they were stored, by SQLite's rules of affinity: they
    /// look for these parts in the declared type, in this order.
    fn holds(&self, sql_type: SqlType) -> bool {
        let declared = self.declared.to_ascii_uppercase();
        let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
        if has(&["INT"]) {
            sql_type == SqlType::Integer
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            sql_type == SqlType::Text
        } else if has(&["BLOB"]) || declared.is_empty() {
            // Such a column converts nothing.
            true
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            sql_type == SqlType::Real
        } else {
            // Numeric: it leaves integers alone, but makes numbers of texts.
            sql_type == SqlType::Integer
        }
    }
}

/// Only a plain identifier names anything: what a table is called is never a way to say something else in SQL.
fn check_name(what: &'static str, name: &str) -> Result<(), SqliteOpenError> {
    let reserved = name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
    if is_plain(name) && !reserved {
        return Ok(());
    }
    Err(SqliteOpenError::Name { what, name: name.to_owned() })
}
