//! Numbers as people like to read them.

use std::{fmt, time::Duration};

/// `1234567` as `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// [`count`] with its sign.
pub(crate) fn signed(n: i64) -> String {
    format!("{}{}", if n < 0 { "-" } else { "" }, count(n.unsigned_abs()))
}

/// Three significant digits and the unit that suits: `310 ns`, `1.94 µs`, `12.3 ms`, `4.10 s`.
pub(crate) fn nanos(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {unit}")
}

/// A length of time that somebody waited for: `0.31 s`, `5.00 s`, `2 min 05 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.2} s", time.as_secs_f64()),
        whole => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

/// Bytes in binary units: `912 B`, `2.08 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_024 => format!("{n} B"),
        1_024..1_048_576 => format!("{:.1} KiB", n as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.2} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// How many of something there were in a second.
pub(crate) fn rate(n: u64, time: Duration) -> String {
    match time.as_secs_f64() {
        0.0 => "-".to_owned(),
        seconds => format!("{}/s", count((n as f64 / seconds) as u64)),
    }
}

/// `n` for each one of `of` to one decimal, or `None` if there is none: `85.3`, `112,258.7`.
pub(crate) fn ratio(n: u64, of: u64) -> Option<String> {
    let tenths = (u128::from(n) * 10 + u128::from(of / 2)).checked_div(u128::from(of))?;
    let whole = u64::try_from(tenths / 10).unwrap_or(u64::MAX);
    Some(format!("{}.{}", count(whole), tenths % 10))
}

/// `n` with the noun that agrees: `1 row`, `2 rows`, `3 batches`.
pub(crate) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// Labelled values in columns: labels to the left, values to the right, notes behind them.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<[String; 3]>);

impl Lines {
    pub(crate) fn add(&mut self, label: &str, value: impl Into<String>, note: impl Into<String>) {
        self.0.push([label.to_owned(), value.into(), note.into()]);
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.0.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let (labels, values) = (width(0), width(1));
        for (i, [label, value, note]) in self.0.iter().enumerate() {
            let line = format!("  {label:labels$}  {value:>values$}  {note}");
            f.write_str(if i > 0 { "\n" } else { "" })?;
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (n, text) in cases {
            assert_eq!(count(n), text);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(signed(i64::MIN), "-9,223,372,036,854,775,808");
    }

    #[test]
    fn ratios_have_one_decimal() {
        assert_eq!(ratio(336_776, 3).as_deref(), Some("112,258.7"));
        assert_eq!(ratio(2, 2).as_deref(), Some("1.0"));
        assert_eq!(ratio(1, 0), None);
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_940, "1.94 µs"),
            (12_340, "12.3 µs"),
            (123_400_000, "123 ms"),
            (9_999_000, "10.0 ms"),
        ];
        for (ns, text) in cases {
            assert_eq!(nanos(ns), text);
        }
        assert_eq!(seconds(Duration::from_millis(125_500)), "2 min 05 s");
    }
}
