//! The columns that a table must have, and whether a table has them.

use std::fmt::Write as _;

use tokio_postgres::types::Type;

use super::{
    PostgresOpenError,
    driver::{Lease, Parameter, Query},
    error::Trouble,
};
use crate::backend::sql::{Column, Columns, Names, SqlKey, SqlType, SqlValue, is_plain, list, quoted};

/// The longest name that Postgres takes; it cuts longer ones without a word.
const LONGEST_NAME: usize = 63;

/// A table as the types of key and value need it.
#[derive(Debug)]
pub(super) struct Layout {
    /// As it was given: `table` or `schema.table`.
    pub(super) table: String,
    pub(super) key: Vec<String>,
    pub(super) value: Vec<String>,
    pub(super) guard: Option<Guard>,
    /// Of the key, then of the value; what the table has is known when it was looked at.
    pub(super) columns: Vec<TypedColumn>,
}

/// The columns that keep something older from being written over something newer.
#[derive(Debug)]
pub(super) struct Guard {
    /// Of the version that the cache has given the row.
    pub(super) version: String,
    /// Of the number of the cache that has written it: versions of different caches cannot be compared.
    pub(super) run: String,
    /// The sequence that those numbers come from.
    sequence: String,
}

#[derive(Debug)]
pub(super) struct TypedColumn {
    pub(super) kind: SqlType,
    nullable: bool,
    /// How the table calls the type of the column.
    pub(super) found: String,
}

impl TypedColumn {
    /// How cells of this column are read: in one of four types, whatever the table has.
    pub(super) fn read_as(&self) -> &'static str {
        match self.kind {
            SqlType::Integer if self.found == "boolean" => "::int4::int8",
            SqlType::Integer => "::int8",
            SqlType::Real => "::float8",
            SqlType::Text => "::text",
            SqlType::Blob => "",
        }
    }

    /// How cells of this column are written: nothing if Postgres converts them by itself.
    pub(super) fn write_as(&self) -> String {
        match self.kind {
            SqlType::Integer if self.found == "boolean" => "::int4::boolean".to_owned(),
            SqlType::Text if self.found != "text" && !self.found.starts_with("character varying") => {
                format!("::{}", self.found)
            }
            _ => String::new(),
        }
    }

    /// The type of an array of such cells, as parameters have it.
    pub(super) fn array(&self) -> Type {
        match self.kind {
            SqlType::Integer => Type::INT8_ARRAY,
            SqlType::Real => Type::FLOAT8_ARRAY,
            SqlType::Text => Type::TEXT_ARRAY,
            SqlType::Blob => Type::BYTEA_ARRAY,
        }
    }
}

impl Layout {
    pub(super) fn of<K: SqlKey, V: SqlValue>(
        table: &str,
        columns: Columns,
        guard: Option<&str>,
    ) -> Result<Self, PostgresOpenError> {
        let wrong = |reason: String| PostgresOpenError::Columns { table: table.to_owned(), reason };
        let (schema, short) = match table.split_once('.') {
            Some((schema, short)) => (Some(schema), short),
            None => (None, table),
        };
        schema.into_iter().chain([short]).try_for_each(|name| check_name("table", name))?;
        let names = Names::of::<K, V>(columns).map_err(wrong)?;
        let guard = guard.map(|version| {
            let run = format!("{version}_run");
            let sequence = format!("{short}_{run}");
            Guard { version: version.to_owned(), run, sequence }
        });
        let guards: Vec<_> = guard.iter().flat_map(|guard| [&guard.version, &guard.run]).collect();
        names.all().chain(guards.iter().copied()).try_for_each(|name| check_name("column", name))?;
        if let Some(name) = guards.iter().find(|name| names.all().any(|other| other == **name)) {
            return Err(wrong(format!(
                "the version guard needs the column `{name}` for itself; rename the other"
            )));
        }
        if let Some(guard) = &guard {
            check_name("sequence", &guard.sequence)?;
        }
        let columns = K::COLUMNS.iter().chain(V::COLUMNS).map(typed).collect();
        Ok(Self { table: table.to_owned(), key: names.key, value: names.value, guard, columns })
    }

    /// The name of the table as SQL takes it.
    pub(super) fn quoted_table(&self) -> String {
        self.table.split('.').map(quoted).collect::<Vec<_>>().join(".")
    }

    /// Takes the next number of the caches that have written this table.
    pub(super) fn next_run(&self) -> Option<Query> {
        let sequence = self.sequence()?;
        let sql = format!("SELECT nextval('{sequence}'::regclass)");
        Some(Query { sql: sql.into(), types: [].into() })
    }

    fn sequence(&self) -> Option<String> {
        let sequence = quoted(&self.guard.as_ref()?.sequence);
        Some(match self.table.split_once('.') {
            Some((schema, _)) => format!("{}.{sequence}", quoted(schema)),
            None => sequence,
        })
    }

    /// Creates the table if there is none, and looks at the one that there is.
    pub(super) fn prepare(&mut self, server: &mut Lease<'_>) -> Result<(), PostgresOpenError> {
        let table = self.table.clone();
        let failed =
            |trouble: Trouble| PostgresOpenError::Table { table: table.clone(), source: trouble.into() };
        let mut found = Found::read(server, &self.quoted_table()).map_err(failed)?;
        if found.is_none() {
            self.create(server, &self.create_table()).map_err(failed)?;
            found = Found::read(server, &self.quoted_table()).map_err(failed)?;
        }
        if let Some(sequence) = self.sequence() {
            self.create(server, &format!("CREATE SEQUENCE IF NOT EXISTS {sequence}")).map_err(failed)?;
        }
        let found = found.unwrap_or_default();
        if let Some(difference) = self.difference(&found) {
            return Err(PostgresOpenError::Shape {
                table: self.table.clone(),
                difference,
                found: found.to_string(),
                expected: format!("({})", self.definition()),
            });
        }
        for (name, column) in self.key.iter().chain(&self.value).zip(&mut self.columns) {
            if let Some(found) = found.column(name) {
                column.found.clone_from(&found.of);
            }
        }
        Ok(())
    }

    fn create(&self, server: &mut Lease<'_>, sql: &str) -> Result<(), Trouble> {
        let create = Query { sql: sql.into(), types: [].into() };
        match server.query(create.clone(), Vec::new()) {
            // Somebody else has created it at the same moment, which IF NOT EXISTS does not see.
            Err(Trouble::Sql(error)) if matches!(code(&error), Some("23505" | "42P07")) => {
                server.query(create, Vec::new()).map(drop)
            }
            other => other.map(drop),
        }
    }

    fn create_table(&self) -> String {
        format!("CREATE TABLE IF NOT EXISTS {} ({})", self.quoted_table(), self.definition())
    }

    fn definition(&self) -> String {
        let mut sql = String::new();
        for (at, (name, column)) in self.key.iter().chain(&self.value).zip(&self.columns).enumerate() {
            // The order of bytes is the cheapest, and here nobody needs another one.
            let collation =
                if at < self.key.len() && column.kind == SqlType::Text { " COLLATE \"C\"" } else { "" };
            let null = if column.nullable { "" } else { " NOT NULL" };
            // Writing to a string cannot fail.
            let _ = write!(sql, "{} {}{collation}{null}, ", quoted(name), sql_type(column.kind));
        }
        if let Some(guard) = &self.guard {
            for name in [&guard.version, &guard.run] {
                let _ = write!(sql, "{} bigint NOT NULL DEFAULT 0, ", quoted(name));
            }
        }
        let _ = write!(sql, "PRIMARY KEY ({})", list(&self.key));
        sql
    }

    /// What keeps the table that was found from being used, if anything does.
    fn difference(&self, found: &Found) -> Option<String> {
        if !matches!(found.kind.as_str(), "r" | "p") {
            return Some(match found.kind.as_str() {
                "v" => "it is a view".to_owned(),
                "" => "it is not there".to_owned(),
                kind => format!("it is no table (its kind is `{kind}`)"),
            });
        }
        for (at, (name, expected)) in self.key.iter().chain(&self.value).zip(&self.columns).enumerate() {
            let Some(column) = found.column(name) else {
                return Some(format!("there is no column `{name}`"));
            };
            if column.computed {
                return Some(format!("the column `{name}` is computed"));
            }
            let is_key = at < self.key.len();
            if !column.holds(expected.kind, is_key) {
                return Some(format!(
                    "the column `{name}` is {}, not {}",
                    column.of,
                    sql_type(expected.kind)
                ));
            }
            if expected.nullable && column.not_null {
                return Some(format!("the column `{name}` refuses NULL, which the cache may store"));
            }
            if is_key && !column.deterministic {
                return Some(format!(
                    "the key column `{name}` has a collation in which two keys can be one row"
                ));
            }
        }
        for name in self.guard.iter().flat_map(|guard| [&guard.version, &guard.run]) {
            match found.column(name) {
                Some(column) if column.of == "bigint" && column.not_null => {}
                Some(_) => return Some(format!("the column `{name}` is not bigint NOT NULL")),
                None => {
                    return Some(format!(
                        "there is no column `{name}`, which the version guard needs: add it as bigint NOT NULL \
                         DEFAULT 0"
                    ));
                }
            }
        }
        let mut key: Vec<&str> = self.key.iter().map(|name| &**name).collect();
        key.sort_unstable();
        if !found.unique.contains(&key.join(",")) {
            return Some(format!("neither a primary key nor a unique index is on {}", list(&self.key)));
        }
        let known = |column: &FoundColumn| {
            let guards = self.guard.iter().flat_map(|guard| [&guard.version, &guard.run]);
            self.key.iter().chain(&self.value).chain(guards).any(|name| *name == column.name)
        };
        let mut others = found.columns.iter().filter(|column| !known(column));
        let needed = others.find(|column| column.not_null && !column.has_default);
        needed.map(|FoundColumn { name, .. }| {
            format!("the column `{name}` has no default, and the cache does not write it")
        })
    }
}

fn typed(column: &Column) -> TypedColumn {
    TypedColumn {
        kind: column.sql_type,
        nullable: column.nullable,
        found: sql_type(column.sql_type).to_owned(),
    }
}

fn sql_type(kind: SqlType) -> &'static str {
    match kind {
        SqlType::Integer => "bigint",
        SqlType::Real => "double precision",
        SqlType::Text => "text",
        SqlType::Blob => "bytea",
    }
}

fn code(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(|code| code.code())
}

/// A table as it is.
#[derive(Debug, Default)]
struct Found {
    /// `r`: a table, `p`: one in parts.
    kind: String,
    columns: Vec<FoundColumn>,
    /// The columns of each unique index, sorted, with commas between.
    unique: Vec<String>,
}

#[derive(Debug)]
struct FoundColumn {
    name: String,
    of: String,
    not_null: bool,
    has_default: bool,
    computed: bool,
    deterministic: bool,
}

impl Found {
    /// `None`: there is nothing of this name.
    fn read(server: &mut Lease<'_>, table: &str) -> Result<Option<Self>, Trouble> {
        let mut ask = |sql: &str| {
            let query = Query { sql: sql.into(), types: [Type::TEXT].into() };
            server.query(query, vec![Parameter::Text(table.to_owned())])
        };
        let kind = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)";
        let Some(kind) = ask(kind)?.first().map(|row| row.try_get(0)).transpose()? else { return Ok(None) };
        let columns = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
                       a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a', \
                       coalesce(c.collisdeterministic, true) \
                       FROM pg_attribute AS a LEFT JOIN pg_collation AS c ON c.oid = a.attcollation \
                       WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
        let columns = ask(columns)?.iter().map(FoundColumn::from).collect::<Result<_, _>>()?;
        let unique = "SELECT (SELECT string_agg(a.attname::text, ',' ORDER BY a.attname::text COLLATE \"C\") \
                      FROM pg_attribute AS a WHERE a.attrelid = i.indrelid \
                      AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) \
                      FROM pg_index AS i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indimmediate \
                      AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL";
        let unique = ask(unique)?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(Some(Self { kind, columns, unique }))
    }

    fn column(&self, name: &str) -> Option<&FoundColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let column = |column: &FoundColumn| {
            let null = if column.not_null { " NOT NULL" } else { "" };
            format!("{} {}{null}", quoted(&column.name), column.of)
        };
        let unique = self.unique.iter().map(|names| format!("UNIQUE ({names})"));
        let parts: Vec<_> = self.columns.iter().map(column).chain(unique).collect();
        write!(f, "({})", parts.join(", "))
    }
}

impl FoundColumn {
    fn from(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            name: row.try_get(0)?,
            of: row.try_get(1)?,
            not_null: row.try_get(2)?,
            has_default: row.try_get(3)?,
            computed: row.try_get(4)?,
            deterministic: row.try_get(5)?,
        })
    }

    /// Whether cells come back from the column as they were stored, or are refused; and, in a key, whether different cells
    /// are different there.
    fn holds(&self, kind: SqlType, is_key: bool) -> bool {
        let of = self.of.as_str();
        match kind {
            SqlType::Integer => {
                matches!(of, "bigint" | "integer" | "smallint") || (of == "boolean" && !is_key)
            }
            SqlType::Real => of == "double precision",
            SqlType::Blob => of == "bytea",
            SqlType::Text if is_key => matches!(of, "text" | "uuid") || of.starts_with("character varying"),
            SqlType::Text => {
                let other = ["bigint", "integer", "smallint", "boolean", "double precision", "real", "bytea"];
                !other.contains(&of) && !of.starts_with("character(")
            }
        }
    }
}

/// Only a plain identifier names anything: what a table is called is never a way to say something else in SQL.
fn check_name(what: &'static str, name: &str) -> Result<(), PostgresOpenError> {
    if is_plain(name) && name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(PostgresOpenError::Name { what, name: name.to_owned(), most: LONGEST_NAME })
}
