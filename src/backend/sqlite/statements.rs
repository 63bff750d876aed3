//! The SQL of a table, for one row and for many.

use super::layout::Layout;
use crate::backend::sql::{list, quoted};

/// The most rows in one statement. Beyond this a longer statement is no faster: measured, 64 small rows
/// take a fifth to a third less time than single ones.
const MOST_ROWS: usize = 64;

/// The most parameters that SQLite takes in one statement.
const MOST_PARAMETERS: usize = 32_766;

/// The statements of a table for 1, 2, 4, 8, ... rows: few enough to stay prepared, whatever the size of a batch.
#[derive(Debug)]
pub(super) struct Statements {
    by_size: Vec<ForRows>,
}

/// The statements for one number of rows.
#[derive(Debug)]
pub(super) struct ForRows {
    pub(super) rows: usize,
    /// The cells of the key, then those of the value, row after row.
    pub(super) upsert: String,
    /// The cells of the key, row after row.
    pub(super) delete: String,
    /// The cells of the key, row after row; answers the place of the key among those asked for, counted from 0,
    /// and the cells of the value.
    pub(super) select: String,
}

impl Statements {
    pub(super) fn of(layout: &Layout) -> Self {
        let most = (MOST_PARAMETERS / (layout.key.len() + layout.value.len())).clamp(1, MOST_ROWS);
        let sizes = std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|rows| *rows <= most);
        Self { by_size: sizes.map(|rows| ForRows::of(layout, rows)).collect() }
    }

    /// The statements for the largest number of rows that is not above `rows`.
    pub(super) fn up_to(&self, rows: usize) -> &ForRows {
        let at = self.by_size.partition_point(|statements| statements.rows <= rows);
        // At least one size is there, the one for a single row.
        &self.by_size[at.saturating_sub(1)]
    }
}

impl ForRows {
    fn of(layout: &Layout, rows: usize) -> Self {
        let table = quoted(&layout.table);
        let key = list(&layout.key);
        let all: Vec<_> = layout.key.iter().chain(&layout.value).collect();
        // Without columns to set, setting the key to itself counts the row as stored all the same.
        let set = if layout.value.is_empty() { &layout.key[..1] } else { &layout.value[..] };
        let set =
            set.iter().map(|name| format!("{0} = excluded.{0}", quoted(name))).collect::<Vec<_>>().join(", ");
        let tuple = |cells: usize| format!("({})", vec!["?"; cells].join(", "));
        let repeated = |text: &str| vec![text; rows].join(", ");

        // OR ABORT: a constraint is refused aloud even where the table says to pass over it, or to replace.
        let upsert = format!(
            "INSERT OR ABORT INTO {table} ({}) VALUES {} ON CONFLICT ({key}) DO UPDATE SET {set}",
            list(&all),
            repeated(&tuple(all.len())),
        );
        let delete = match layout.key.len() {
            1 => format!("DELETE FROM {table} WHERE {table}.{key} IN ({})", repeated("?")),
            _ => {
                // Not `IN (VALUES ...)`: SQLite walks over the whole table for it.
                let cells = qualified(&table, &layout.key).into_iter().map(|name| format!("{name} = ?"));
                let one = format!("({})", cells.collect::<Vec<_>>().join(" AND "));
                format!("DELETE FROM {table} WHERE {}", vec![&*one; rows].join(" OR "))
            }
        };
        let cells = qualified("t", &layout.value);
        let wanted = (0..layout.key.len()).map(|cell| format!("k{cell}")).collect::<Vec<_>>().join(", ");
        let place = |row| format!("({row}, {})", vec!["?"; layout.key.len()].join(", "));
        let wanted_rows = (0..rows).map(place).collect::<Vec<_>>().join(", ");
        let matches = qualified("t", &layout.key).into_iter().enumerate();
        let matches: Vec<_> = matches.map(|(cell, name)| format!("{name} = w.k{cell}")).collect();
        // `main` tells the table from the list of keys, should both have the same name.
        // CROSS JOIN keeps SQLite from walking over the table and looking the rows up among the keys.
        let select = format!(
            "WITH w (place, {wanted}) AS (VALUES {wanted_rows}) SELECT {} FROM w CROSS JOIN main.{table} AS t ON {}",
            std::iter::once("w.place".to_owned()).chain(cells).collect::<Vec<_>>().join(", "),
            matches.join(" AND "),
        );
        Self { rows, upsert, delete, select }
    }
}

/// The names as columns of a table: without the table, SQLite would take the name of a column that is gone for a
/// string.
fn qualified(table: &str, names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("{table}.{}", quoted(name))).collect()
}
