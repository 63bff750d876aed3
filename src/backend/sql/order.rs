//! The order of keys: the same for every process that writes a table.

use std::ops::Range;

use super::{CellError, Cells, RowWriter, SqlKey, SqlRef};

/// Sorts by key, as a database does: numbers by size, texts and bytes by their bytes. Keys that cannot be written are anywhere.
pub(in crate::backend) fn sort_by_key<T: Copy, K: SqlKey>(items: &mut Vec<T>, key: impl Fn(&T) -> &K) {
    let names: Vec<String> = K::COLUMNS.iter().map(|column| column.name.to_owned()).collect();
    let mut keys = SortKey(Vec::with_capacity(items.len() * 8));
    let mut places: Vec<(u64, Range<usize>, usize)> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let start = keys.0.len();
        let _ = key(item).write(&mut RowWriter::new(&mut keys, &names));
        // Most comparisons end with the first eight bytes.
        let mut first = [0; 8];
        let bytes = keys.0.get(start..).unwrap_or_default();
        let length = bytes.len().min(8);
        first[..length].copy_from_slice(&bytes[..length]);
        places.push((u64::from_be_bytes(first), start..keys.0.len(), at));
    }
    let bytes = |range: &Range<usize>| keys.0.get(range.clone()).unwrap_or_default();
    let compare = |one: &(u64, Range<usize>, usize), other: &(u64, Range<usize>, usize)| {
        one.0.cmp(&other.0).then_with(|| bytes(&one.1).cmp(bytes(&other.1)))
    };
    if !places.is_sorted_by(|one, other| compare(one, other).is_le()) {
        places.sort_by(compare);
        *items = places.iter().map(|(_, _, at)| items[*at]).collect();
    }
}

/// The cells of a key as bytes, in the order of the keys.
struct SortKey(Vec<u8>);

impl Cells for SortKey {
    #[inline]
    fn put(&mut self, _: usize, cell: SqlRef<'_>) -> Result<(), CellError> {
        match cell {
            SqlRef::Null => self.0.push(0),
            SqlRef::Integer(number) => {
                self.0.extend((number.cast_unsigned() ^ (1 << 63)).to_be_bytes());
            }
            // Not their order, but one that is always the same.
            SqlRef::Real(number) => self.0.extend(number.to_bits().to_be_bytes()),
            SqlRef::Text(text) => {
                self.0.extend(text.as_bytes());
                self.0.push(0);
            }
            SqlRef::Blob(bytes) => {
                self.0.extend(bytes);
                self.0.push(0);
            }
        }
        Ok(())
    }

    #[inline]
    fn large(&mut self, at: usize, number: u64) -> Result<(), CellError> {
        self.put(at, SqlRef::Integer(number.cast_signed()))
    }
}
