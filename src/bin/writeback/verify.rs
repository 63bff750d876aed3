//! The comparison of what the database holds with what was acknowledged.

use std::{collections::HashMap, fmt, hash::Hash};

use crate::format;

/// How the rows of a table compare with what they should be.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// How many rows there are.
    pub(crate) rows: u64,
    /// The sum of what the rows should hold.
    pub(crate) sum: i128,
    missing: u64,
    unexpected: u64,
    different: u64,
    examples: Vec<String>,
}

/// The most differing rows that are shown.
const EXAMPLES: usize = 5;

impl Comparison {
    pub(crate) fn of<K: Eq + Hash + fmt::Display>(
        expected: &HashMap<K, i64>,
        found: &HashMap<K, i64>,
    ) -> Self {
        let mut comparison = Self { rows: found.len() as u64, ..Self::default() };
        for (key, &wanted) in expected {
            comparison.sum += i128::from(wanted);
            match found.get(key) {
                Some(&n) if n == wanted => {}
                Some(&n) => {
                    comparison.different += 1;
                    comparison.show(key, &format::signed(n), &format::signed(wanted));
                }
                None => {
                    comparison.missing += 1;
                    comparison.show(key, "no row", &format::signed(wanted));
                }
            }
        }
        for (key, &n) in found.iter().filter(|(key, _)| !expected.contains_key(key)) {
            comparison.unexpected += 1;
            comparison.show(key, &format::signed(n), "no row");
        }
        comparison
    }

    /// Whether every row is as it should be, none is missing and none is there that should not be.
    pub(crate) fn matches(&self) -> bool {
        self.missing + self.unexpected + self.different == 0
    }

    /// What is wrong, in one line, and some of the rows, in one line each.
    pub(crate) fn differences(&self) -> (String, &[String]) {
        let Self { missing, unexpected, different, .. } = self;
        let rows = |n: &u64| format::plural(*n, "row", "rows");
        let what = format!("{} missing, {} not expected, {} different", rows(missing), unexpected, different);
        (what, &self.examples)
    }

    fn show(&mut self, key: &impl fmt::Display, found: &str, wanted: &str) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{key}: the database has {found}, {wanted} expected"));
        }
    }
}
