//! What is printed, and what is written into `docs/benchmarks.md`.

pub(crate) mod machine;
pub(crate) mod plot;
mod table;

pub(crate) use plot::Plot;
pub(crate) use table::Table;

/// One chapter: a measurement, how it was made, and what came of it.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// The command that makes it alone.
    pub(crate) command: String,
    pub(crate) parts: Vec<Part>,
}

pub(crate) enum Part {
    Text(String),
    Table(Table),
    Plot(Plot),
}

impl Section {
    pub(crate) fn new(title: &'static str, command: impl Into<String>) -> Self {
        Section { title, command: command.into(), parts: Vec::new() }
    }

    pub(crate) fn text(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Text(text.into()));
    }

    pub(crate) fn table(&mut self, table: Table) {
        self.parts.push(Part::Table(table));
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.parts.push(Part::Plot(plot));
    }

    /// For the terminal; without plots.
    pub(crate) fn print(&self) {
        println!("{}\n{}\n", self.title, "=".repeat(self.title.chars().count()));
        for part in &self.parts {
            match part {
                Part::Text(text) => println!("{text}\n"),
                Part::Table(table) => println!("{}", table.plain()),
                Part::Plot(_) => {}
            }
        }
    }

    /// As Markdown; the plots lie in a folder beside the file.
    pub(crate) fn markdown(&self, plots: &str) -> String {
        let mut all = format!("## {}\n\n`{}`\n\n", self.title, self.command);
        for part in &self.parts {
            match part {
                Part::Text(text) => all += &format!("{text}\n\n"),
                Part::Table(table) => all += &format!("{}\n", table.markdown()),
                Part::Plot(plot) => all += &format!("![{}]({plots}/{}.svg)\n\n", plot.title, plot.file),
            }
        }
        all
    }
}
