//! What a child compares when it has opened the cache: everything that was promised with everything that is there.

use std::sync::atomic::Ordering;

use writeback::Cache;

use super::{
    board::{Board, Cell, Count, Violation},
    model::{KEYS, Sort, WRITERS, cell, decode, is_remove, next_remove, sort},
};

/// Checks all keys. What is found is the truth from then on: a write that was in progress has happened or has not.
pub(crate) fn all(cache: &Cache<u64, Vec<u8>>, board: &Board) {
    for key in 0..KEYS as u64 {
        let Ok(found) = cache.get(&key) else {
            board.violation(Violation::NoAnswer, [key, 0, 0, 0]);
            continue;
        };
        let fields = match found {
            None => None,
            Some(bytes) => match decode(key, &bytes) {
                Some(fields) => Some(fields),
                None => {
                    board.violation(Violation::Garbled, [key, bytes.len() as u64, 0, 0]);
                    continue;
                }
            },
        };
        board.count(Count::KeysChecked, 1);
        match sort(key) {
            Sort::Own => own(board, key, fields.map(|fields| fields[0])),
            Sort::Shared => {
                for (writer, number) in fields.unwrap_or_default().into_iter().enumerate() {
                    counted(board, key, &board.cells[cell(key, writer)], number);
                }
            }
            Sort::Racing => racing(board, key, fields),
        }
    }
}

/// A key with one writer: the acknowledged write is there, or the one that was in progress.
fn own(board: &Board, key: u64, found: Option<u64>) {
    let cell = &board.cells[cell(key, 0)];
    let (acked, pending) = (cell.acked.load(Ordering::Acquire), cell.pending.load(Ordering::Acquire));
    let number = match found {
        Some(number) => number,
        // Absent: a remove, the later of the two if both are.
        None if is_remove(key, pending) => pending,
        None if is_remove(key, acked) => acked,
        None => return board.violation(Violation::Lost, [key, acked, pending, 0]),
    };
    if found.is_some() && is_remove(key, number) {
        return board.violation(Violation::Garbled, [key, number, 0, 1]);
    }
    counted(board, key, cell, number);
}

/// A number that must be one of two.
fn counted(board: &Board, key: u64, cell: &Cell, number: u64) {
    let (acked, pending) = (cell.acked.load(Ordering::Acquire), cell.pending.load(Ordering::Acquire));
    let seen = cell.seen.load(Ordering::Acquire);
    if number < acked {
        board.violation(Violation::Lost, [key, acked, pending, number]);
    } else if number != acked && number != pending {
        board.violation(Violation::Ghost, [key, acked, pending, number]);
    }
    if seen > 0 {
        board.count(Count::SeenChecked, 1);
    }
    if number < seen {
        board.violation(Violation::RolledBack, [key, acked, seen, number]);
    }
    if number != acked {
        board.count(Count::PendingFound, 1);
        cell.acked.store(number, Ordering::Release);
    }
    cell.pending.store(number, Ordering::Release);
    cell.seen.fetch_max(number, Ordering::AcqRel);
}

/// A key that all write blindly: the acknowledged write with the newest version is there, or one that was in progress.
fn racing(board: &Board, key: u64, found: Option<[u64; WRITERS]>) {
    let cells: [&Cell; WRITERS] = std::array::from_fn(|writer| &board.cells[cell(key, writer)]);
    let load = |cell: &Cell| {
        let (acked, pending) = (cell.acked.load(Ordering::Acquire), cell.pending.load(Ordering::Acquire));
        (acked, pending, cell.version.load(Ordering::Acquire))
    };
    let newest = (0..WRITERS).max_by_key(|writer| load(cells[*writer]).2).unwrap_or(0);
    let newest_version = load(cells[newest]).2;
    let Some([writer, number, _]) = found else {
        if newest_version > 0 {
            board.violation(Violation::Lost, [key, newest as u64, newest_version, 0]);
        }
        return;
    };
    let writer = writer as usize;
    if writer >= WRITERS {
        return board.violation(Violation::Garbled, [key, writer as u64, number, 2]);
    }
    let (acked, pending, version) = load(cells[writer]);
    if number == pending && pending != acked {
        board.count(Count::PendingFound, 1);
        // Newer than all, whatever it is; and first, so that a kill in between leaves it in progress.
        cells[writer].version.store(newest_version + 1, Ordering::Release);
        cells[writer].acked.store(number, Ordering::Release);
    } else if number != acked {
        let what = if number < acked { Violation::Lost } else { Violation::Ghost };
        board.violation(what, [key, writer as u64, acked, number]);
    } else if writer != newest {
        board.violation(Violation::Lost, [key, newest as u64, newest_version, version]);
    }
    for cell in cells {
        let acked = cell.acked.load(Ordering::Acquire);
        cell.pending.store(acked, Ordering::Release);
    }
}

/// What was promised to a reader before it asked.
pub(crate) struct Before {
    floor: [u64; WRITERS],
}

impl Before {
    pub(crate) fn of(board: &Board, key: u64) -> Self {
        let floor = |writer| {
            let cell = &board.cells[cell(key, writer)];
            cell.acked.load(Ordering::Acquire).max(cell.seen.load(Ordering::Acquire))
        };
        Before { floor: std::array::from_fn(floor) }
    }

    /// Compares what a read has returned with it, and notes what was seen.
    pub(crate) fn compare(&self, board: &Board, key: u64, found: Option<&Vec<u8>>) {
        board.count(Count::LiveReads, 1);
        let fields = match found {
            None => None,
            Some(bytes) => match decode(key, bytes) {
                Some(fields) => Some(fields),
                None => return board.violation(Violation::Garbled, [key, bytes.len() as u64, 0, 3]),
            },
        };
        let compare = |writer: usize, number: u64| {
            let cell = &board.cells[cell(key, writer)];
            let (floor, issued) = (self.floor[writer], cell.issued.load(Ordering::Acquire));
            if number < floor || number > issued {
                board.violation(Violation::StaleRead, [key, floor, issued, number]);
            }
            cell.seen.fetch_max(number, Ordering::AcqRel);
        };
        match (sort(key), fields) {
            (Sort::Own, Some([number, ..])) if is_remove(key, number) => {
                board.violation(Violation::Garbled, [key, number, 0, 4]);
            }
            (Sort::Own, Some([number, ..])) => compare(0, number),
            // Some remove that is not older than what was promised; at least the first one.
            (Sort::Own, None) => compare(0, next_remove(key, self.floor[0])),
            (Sort::Shared, fields) => {
                fields.unwrap_or_default().into_iter().enumerate().for_each(|(writer, n)| compare(writer, n));
            }
            (Sort::Racing, Some([writer, number, _])) => {
                let issued = |writer| board.cells[cell(key, writer)].issued.load(Ordering::Acquire);
                if writer as usize >= WRITERS || number > issued(writer as usize) {
                    board.violation(Violation::Garbled, [key, writer, number, 5]);
                }
            }
            (Sort::Racing, None) => {
                if self.floor.iter().any(|floor| *floor > 0) {
                    board.violation(Violation::StaleRead, [key, 0, 0, 0]);
                }
            }
        }
    }
}
