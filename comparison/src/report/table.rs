//! Tables, for terminals and for Markdown.

/// Rows of text under a head; the first column stands left, all others right.
pub(crate) struct Table {
    caption: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(
        caption: impl Into<String>,
        head: impl IntoIterator<Item = S>,
    ) -> Self {
        Table { caption: caption.into(), rows: vec![head.into_iter().map(Into::into).collect()] }
    }

    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        (0..columns).map(|column| width(column).unwrap_or(0)).collect()
    }

    pub(crate) fn plain(&self) -> String {
        let widths = self.widths();
        let mut all = format!("{}\n", self.caption);
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("  {cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
            all += cells.collect::<String>().trim_end();
            all.push('\n');
        }
        all
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
        let rule = |column: usize| if column == 0 { "---" } else { "---:" };
        let mut all = format!("{}\n\n", self.caption);
        for (number, row) in self.rows.iter().enumerate() {
            all += &line(row);
            if number == 0 {
                all += &line(&(0..row.len()).map(|column| rule(column).to_owned()).collect());
            }
        }
        all
    }
}
