//! A checker for histories of any length: a sort, and two passes.
//!
//! Every write returns a version, and every value is unique, so that each operation can be given the version that it
//! wrote or saw. In the order of versions, no operation may begin after a later one has ended.
//!
//! The versions of writes that a crash has cut off are unknown. Those that nobody has seen have no part in the history; the
//! few others are put as early as they may be, in each order.

use std::collections::{BTreeSet, HashMap};

use super::history::{Attempt, Event, History, Pending, What};

/// A place in the order of the writes: the version, and room for some of unknown version behind it.
type Rank = u128;

const ROOM: u32 = 5;

fn rank(version: u64) -> Rank {
    Rank::from(version) << ROOM
}

/// Checks the history of one key. Says what is wrong.
pub(crate) fn check(history: &History) -> Result<(), String> {
    let seen = |value: u64| {
        history.events.iter().any(|event| match event.what {
            What::Get { value: seen } | What::Update { old: seen, .. } => seen == Some(value),
            _ => false,
        }) || history
            .pending
            .iter()
            .any(|pending| matches!(pending.what, Attempt::Update { old, .. } if old == Some(value)))
    };
    let mut visible: Vec<_> = history
        .pending
        .iter()
        .filter_map(|pending| match pending.what {
            Attempt::Put { value } | Attempt::Update { value, .. } if seen(value) => Some((*pending, value)),
            _ => None,
        })
        .collect();
    let mut wrong = Ok(());
    let found = any_order(&mut visible, 0, &mut |order| {
        wrong = place(history, order).and_then(|placed| check_placed(history, &placed));
        wrong.is_ok()
    });
    if found { Ok(()) } else { wrong }
}

/// Whether some order of what comes behind `fixed` satisfies.
fn any_order<T: Copy>(items: &mut [T], fixed: usize, satisfies: &mut impl FnMut(&[T]) -> bool) -> bool {
    if fixed == items.len() {
        return satisfies(items);
    }
    (fixed..items.len()).any(|next| {
        items.swap(fixed, next);
        let found = any_order(items, fixed + 1, satisfies);
        items.swap(fixed, next);
        found
    })
}

/// Gives writes of unknown versions their places: each as early as it may be behind the one before it.
fn place(history: &History, order: &[(Pending, u64)]) -> Result<Vec<(Rank, Pending, u64)>, String> {
    if order.is_empty() {
        return Ok(Vec::new());
    }
    let mut ranks: HashMap<u64, Rank> =
        history.value.map(|value| (value, rank(history.version))).into_iter().collect();
    for event in &history.events {
        if let What::Put { version, value } | What::Update { version, value, .. } = event.what {
            ranks.insert(value, rank(version));
        }
    }
    let mut placed = Vec::new();
    let mut last = 0;
    for &(pending, value) in order {
        let read_at = |event: &&Event| event.what == What::Get { value: Some(value) };
        let latest =
            history.events.iter().filter(read_at).map(|event| event.begin).fold(pending.begin, u64::max);
        let follower = history.events.iter().find_map(|event| match event.what {
            What::Update { version, old: Some(old), .. } if old == value => Some(version),
            _ => None,
        });
        let at = match (pending.what, follower) {
            (Attempt::Update { old: Some(old), .. }, _) => {
                ranks.get(&old).ok_or_else(|| format!("{pending:?} saw what was never written"))? + 1
            }
            (_, Some(version)) => rank(version) - 1,
            _ => {
                let before = history.events.iter().filter(|event| event.end < latest);
                let known = before.filter_map(|event| match event.what {
                    What::Put { version, .. } | What::Remove { version } | What::Update { version, .. } => {
                        Some(rank(version))
                    }
                    What::Get { value } => ranks.get(&value?).copied(),
                });
                known.fold(last.max(rank(history.version)), Rank::max) + 1
            }
        };
        ranks.insert(value, at);
        last = last.max(at);
        placed.push((at, pending, value));
    }
    Ok(placed)
}

/// An operation that has a place in the order of the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ordered {
    rank: Rank,
    reads: bool,
    begin: u64,
    end: u64,
}

fn check_placed(history: &History, placed: &[(Rank, Pending, u64)]) -> Result<(), String> {
    let (events, first) = (&history.events, rank(history.version));
    // What each write has made of the key: a value, or nothing.
    let mut writes: Vec<(Rank, Option<u64>)> = vec![(first, history.value)];
    writes.extend(events.iter().filter_map(|event| match event.what {
        What::Put { version, value } | What::Update { version, value, .. } => {
            Some((rank(version), Some(value)))
        }
        What::Remove { version } => Some((rank(version), None)),
        What::Get { .. } => None,
    }));
    writes.extend(placed.iter().map(|(rank, _, value)| (*rank, Some(*value))));
    writes.sort_unstable();
    if let Some(twice) = writes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("one version for two writes: {twice:?}"));
    }
    if writes[0].0 < first {
        return Err(format!("version {} was not newer than {}", writes[0].0 >> ROOM, history.version));
    }
    // A remove that was cut off may have made the key absent at any time since it began.
    let cut_off = history.pending.iter().filter(|pending| pending.what == Attempt::Remove);
    let may_be_absent = cut_off.map(|pending| pending.begin).min().unwrap_or(u64::MAX);
    let wrote: HashMap<u64, Rank> = writes.iter().filter_map(|&(rank, value)| Some((value?, rank))).collect();
    let absent: BTreeSet<Rank> =
        writes.iter().filter(|write| write.1.is_none()).map(|write| write.0).collect();

    let was = |at: Rank, old: Option<u64>, end: u64, who: &dyn std::fmt::Debug| {
        let before = writes[writes.partition_point(|write| write.0 < at) - 1];
        let may_be = before.1 == old || (old.is_none() && end > may_be_absent);
        if may_be { Ok(()) } else { Err(format!("{who:?} was made from another value than {before:?}")) }
    };
    // Reads of an absence come later, since they have no version of their own.
    let mut ordered = vec![Ordered { rank: first, reads: false, begin: 0, end: 0 }];
    for event in events {
        let (rank, reads) = match event.what {
            What::Put { version, .. } | What::Remove { version } => (rank(version), false),
            What::Update { version, old, .. } => {
                was(rank(version), old, event.end, event)?;
                (rank(version), false)
            }
            What::Get { value: None } => continue,
            What::Get { value: Some(value) } => (
                *wrote.get(&value).ok_or_else(|| format!("{event:?} saw what was never acknowledged"))?,
                true,
            ),
        };
        ordered.push(Ordered { rank, reads, begin: event.begin, end: event.end });
    }
    for (rank, pending, _) in placed {
        if let Attempt::Update { old, .. } = pending.what {
            was(*rank, old, u64::MAX, pending)?;
        }
        ordered.push(Ordered { rank: *rank, reads: false, begin: pending.begin, end: u64::MAX });
    }
    ordered.sort_unstable();
    let mut latest_begin = 0;
    for group in ordered.chunk_by(|a, b| a.rank == b.rank) {
        let first_end = group.iter().map(|op| op.end).min().unwrap_or(u64::MAX);
        let written = group.iter().filter(|op| !op.reads).map(|op| op.begin).max().unwrap_or(0);
        if latest_begin.max(written) > first_end && group[0].rank > first {
            return Err(format!(
                "something older than version {} began after it was seen: {group:?}",
                group[0].rank >> ROOM
            ));
        }
        latest_begin = group.iter().map(|op| op.begin).fold(latest_begin, u64::max);
    }

    // An absence that was read has to lie between what had ended before the read, and what began after it.
    let mut by_end: Vec<_> = ordered.iter().map(|op| (op.end, op.rank)).collect();
    let mut by_begin: Vec<_> = ordered.iter().map(|op| (op.begin, op.rank)).collect();
    by_end.sort_unstable();
    by_begin.sort_unstable();
    let mut newest = 0;
    by_end.iter_mut().for_each(|op| (newest, op.1) = (newest.max(op.1), newest.max(op.1)));
    let mut oldest = Rank::MAX;
    by_begin.iter_mut().rev().for_each(|op| (oldest, op.1) = (oldest.min(op.1), oldest.min(op.1)));
    for event in events.iter().filter(|event| event.what == What::Get { value: None }) {
        let ended = by_end.partition_point(|op| op.0 < event.begin);
        let lower = if ended == 0 { 0 } else { by_end[ended - 1].1 };
        let upper =
            by_begin.get(by_begin.partition_point(|op| op.0 <= event.end)).map_or(Rank::MAX, |op| op.1);
        let was_absent = lower <= upper && absent.range(lower..=upper).next().is_some();
        if !was_absent && event.end < may_be_absent {
            return Err(format!(
                "{event:?}: the key was never absent between versions {} and {}",
                lower >> ROOM,
                upper >> ROOM
            ));
        }
    }
    Ok(())
}
