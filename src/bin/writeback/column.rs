//! One column of a CSV file whose first line names the columns.

use std::io::{self, Read};

use csv::{ByteRecord, ErrorKind};

use crate::{failure::Failure, input::Source};

/// The most column names that an error message lists.
const LISTED: usize = 30;

/// The fields of one column, from top to bottom. An empty field is an event like any other.
pub(crate) struct Column {
    reader: csv::Reader<Box<dyn Read>>,
    explain: Box<dyn Fn(io::Error) -> Failure>,
    input: String,
    name: String,
    index: usize,
    record: ByteRecord,
}

impl Column {
    /// Reads the first line and looks for the column called `name`.
    pub(crate) fn find(source: Source, name: &str) -> Result<Self, Failure> {
        let input = source.name().to_owned();
        let (reader, explain) = source.into_parts();
        let mut reader = csv::Reader::from_reader(reader);
        let header = match reader.byte_headers() {
            Ok(header) => header,
            Err(error) => return Err(failure(error, &input, &explain)),
        };
        if header.is_empty() {
            return Err(Failure::NoHeader { input });
        }
        let mut matches = header.iter().enumerate().filter(|(_, field)| *field == name.as_bytes());
        let Some((index, _)) = matches.next() else {
            return Err(Failure::NoSuchColumn { available: list(header), column: name.to_owned(), input });
        };
        let others = matches.count();
        if others > 0 {
            return Err(Failure::AmbiguousColumn { input, column: name.to_owned(), times: others + 1 });
        }
        let explain = Box::new(explain);
        Ok(Self { reader, explain, input, name: name.to_owned(), index, record: ByteRecord::new() })
    }

    /// The field of the next line, or `None` behind the last one.
    pub(crate) fn next(&mut self) -> Result<Option<String>, Failure> {
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(error) => return Err(failure(error, &self.input, &self.explain)),
        }
        let field = self.record.get(self.index).unwrap_or_default();
        if let Ok(field) = str::from_utf8(field) {
            return Ok(Some(field.to_owned()));
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let reason = format!("in line {line} the column `{}` is not UTF-8", self.name);
        Err(Failure::BadCsv { input: self.input.clone(), reason })
    }
}

fn failure(error: csv::Error, input: &str, explain: &dyn Fn(io::Error) -> Failure) -> Failure {
    let reason = match error.into_kind() {
        ErrorKind::Io(error) => return explain(error),
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |pos| pos.line());
            format!("line {line} has {len} fields where the first line has {expected_len}")
        }
        other => format!("{other:?}"),
    };
    Failure::BadCsv { input: input.to_owned(), reason }
}

fn list(header: &ByteRecord) -> String {
    let names: Vec<_> = header.iter().take(LISTED).map(String::from_utf8_lossy).collect();
    match header.len() - names.len() {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}
