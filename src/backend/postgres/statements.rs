//! The SQL of a table: each statement takes any number of rows, as one array for each column.

use tokio_postgres::types::Type;

use super::{driver::Query, layout::Layout};
use crate::backend::sql::{list, quoted};

/// The statements of a table.
#[derive(Debug)]
pub(super) struct Statements {
    /// Arrays of the cells of the key, of the value, and with a guard of the versions; then the number of the run.
    pub(super) upsert: Query,
    /// Arrays of the cells of the key, and with a guard of the versions; then the number of the run.
    pub(super) delete: Query,
    /// Arrays of the cells of the key; answers the place of the key among those asked for, counted from 1, and the cells
    /// of the value.
    pub(super) select: Query,
    /// With a guard: takes what `delete` takes; answers how many rows a later run has written, and how many rows are older
    /// than asked for or are not there.
    pub(super) look: Option<Query>,
}

impl Statements {
    pub(super) fn of(layout: &Layout) -> Self {
        let table = layout.quoted_table();
        let (keys, cells) = (layout.key.len(), layout.columns.len());
        let columns = &layout.columns;
        let arrays = |columns: usize, guarded: bool| -> Vec<Type> {
            let cells = layout.columns.iter().take(columns).map(|column| column.array());
            let guard = if guarded { &[Type::INT8_ARRAY, Type::INT8][..] } else { &[] };
            cells.chain(guard.iter().cloned()).collect()
        };
        // Arrays become rows in the order of their elements, and rows are stored in the order in which they come.
        let rows = |columns: usize| {
            let arrays: Vec<_> = (1..=columns).map(|at| format!("${at}")).collect();
            let names: Vec<_> = (0..columns).map(|at| format!("c{at}")).collect();
            (format!("unnest({})", arrays.join(", ")), names.join(", "))
        };
        let found = (0..cells).map(|at| format!("u.c{at}{}", columns[at].write_as()));
        let guard = layout.guard.as_ref();
        let guarded = guard.is_some();
        let names: Vec<&String> = layout.key.iter().chain(&layout.value).collect();
        let set = |name: &String| format!("{0} = excluded.{0}", quoted(name));

        let upsert = {
            let mut names = names.clone();
            let mut found: Vec<_> = found.collect();
            // Without columns to set, setting the key to itself counts the row as stored all the same.
            let value = if layout.value.is_empty() { &layout.key[..1] } else { &layout.value[..] };
            let mut sets: Vec<_> = value.iter().map(set).collect();
            let mut newer = String::new();
            if let Some(guard) = guard {
                names.extend([&guard.version, &guard.run]);
                found.extend([format!("u.c{cells}"), format!("${}", cells + 2)]);
                sets.extend([set(&guard.version), set(&guard.run)]);
                let (run, version) = (quoted(&guard.run), quoted(&guard.version));
                newer = format!(" WHERE (t.{run}, t.{version}) < (excluded.{run}, excluded.{version})");
            }
            let (unnest, aliases) = rows(cells + usize::from(guarded));
            format!(
                "INSERT INTO {table} AS t ({}) SELECT {} FROM {unnest} AS u ({aliases}) ON CONFLICT ({}) DO UPDATE \
                 SET {}{newer}",
                list(&names),
                found.join(", "),
                list(&layout.key),
                sets.join(", "),
            )
        };
        let matches: Vec<_> = layout
            .key
            .iter()
            .enumerate()
            .map(|(at, name)| format!("t.{} = u.c{at}{}", quoted(name), columns[at].write_as()))
            .collect();
        let matches = matches.join(" AND ");
        let delete = match guard {
            None if keys == 1 => {
                let element = columns[0].write_as();
                let array = if element.is_empty() { String::new() } else { format!("{element}[]") };
                format!("DELETE FROM {table} AS t WHERE t.{} = ANY ($1{array})", quoted(&layout.key[0]))
            }
            None => {
                let (unnest, aliases) = rows(keys);
                format!("DELETE FROM {table} AS t USING {unnest} AS u ({aliases}) WHERE {matches}")
            }
            Some(guard) => {
                let (unnest, aliases) = rows(keys + 1);
                let (run, version) = (quoted(&guard.run), quoted(&guard.version));
                format!(
                    "DELETE FROM {table} AS t USING {unnest} AS u ({aliases}) WHERE {matches} \
                     AND (t.{run}, t.{version}) < (${}, u.c{keys})",
                    keys + 2
                )
            }
        };
        let look = guard.map(|guard| {
            let (unnest, aliases) = rows(keys + 1);
            let (run, version, parameter) = (quoted(&guard.run), quoted(&guard.version), keys + 2);
            format!(
                "SELECT count(*) FILTER (WHERE t.{run} > ${parameter}), \
                 count(*) FILTER (WHERE t.{run} IS NULL OR (t.{run}, t.{version}) < (${parameter}, u.c{keys})) \
                 FROM {unnest} AS u ({aliases}) LEFT JOIN {table} AS t ON {matches}"
            )
        });
        let select = {
            let (unnest, aliases) = rows(keys);
            let value = layout.value.iter().zip(&columns[keys..]);
            let value = value.map(|(name, column)| format!("t.{}{}", quoted(name), column.read_as()));
            format!(
                "SELECT {} FROM {unnest} WITH ORDINALITY AS u ({aliases}, place) JOIN {table} AS t ON {matches}",
                std::iter::once("u.place".to_owned()).chain(value).collect::<Vec<_>>().join(", "),
            )
        };
        let query = |sql: String, types: Vec<Type>| Query { sql: sql.into(), types: types.into() };
        Self {
            upsert: query(upsert, arrays(cells, guarded)),
            delete: query(delete, arrays(keys, guarded)),
            select: query(select, arrays(keys, false)),
            look: look.map(|sql| query(sql, arrays(keys, true))),
        }
    }
}
