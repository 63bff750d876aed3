//! The order across keys: which entries may go to the backend now, so that it never sees a row whose parent it does not have.
//!
//! An entry has a *rank*: how far down its row is in the tree of references. The rules, where *before* is the order in
//! which the application wrote to the cache:
//!
//! - a value is sent after every value of lower rank from before it has been stored, unless the backend has a row for
//!   that already: its parent may be among them;
//! - a remove is sent after every change of higher rank from before it has been stored: one of them may be what ends the
//!   reference of a child;
//! - a value is sent after every remove of the same rank from before it: they may compete for something unique.
//!
//! *From before it* is not known exactly, since entries are overwritten in place and nobody counts writes. But when an entry
//! was seen holding some version, and everything that was dirty was heard of after that, then whatever was written before
//! that version is in the book, with an earlier moment. So an entry that is seen to be held up is looked at again in the
//! next *plan*, and may go as soon as everything that stood in its way at that first moment has been stored as it was then, or
//! newer, and the entry itself still holds the version that was seen: meanwhile its parent cannot have gone, else the
//! application would have had a child without one.
//!
//! All of this is decided while no batch is on its way, and everything in one plan is free of everything else in it. So what
//! is ready may be spread over any number of workers in any order.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher, Hash},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    Flusher,
    pending::{Moment, Taken, Unsaved},
    places::PlaceMap,
};
use crate::{
    backend::{BackendError, Batch, ErrorClass, Op},
    table::Position,
};

/// Says how far down in the tree of references a row is.
pub(crate) type Ranker<K, V> = Box<dyn Fn(&K, Option<&V>) -> u32 + Send>;

/// What the backend refuses for good is asked again so often: until then the reason may be that others were on their way.
const SECOND_OPINIONS: u32 = 3;

/// A value that is held up, was changed in so many plans in a row, and has been dirty for longer than the watchdog likes, is
/// sent as it is: it is better tried than never written.
const PATIENCE: u32 = 16;

/// So many times a plan is made anew because the only thing that it found was what it had to wait for.
const REPLANS: usize = 8;

/// What a place held when it was looked at.
#[derive(Debug, Clone, Copy)]
struct Look {
    version: u64,
    rank: u32,
    is_removal: bool,
}

/// What is remembered of a place from plan to plan.
#[derive(Debug, Clone, Copy)]
struct Seen {
    version: u64,
    /// Everything that was written before this version is in the book, with an earlier moment.
    moment: Moment,
    /// In how many plans in a row it was another version.
    changes: u32,
    /// How often the backend has refused it for good, and was not believed.
    refusals: u32,
}

/// What may be sent.
#[derive(Debug, Clone, Copy)]
struct Ready {
    at: Position,
    is_removal: bool,
    /// No other version may go in its place. `None`: any may.
    version: Option<u64>,
    /// When it became what it is.
    moment: Moment,
}

/// A rule that is set aside when nothing else goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waived {
    Nothing,
    /// That a value waits for removes of its rank.
    Unique,
    /// That a remove waits for what has a higher rank.
    Children,
}

/// The earliest moments of what the backend has not got, of one rank.
struct Floor {
    /// Values that it has no row for.
    new: Moment,
    /// Values that it has an older row for.
    changed: Moment,
    removed: Moment,
}

/// These moments by rank.
#[derive(Default)]
struct Floors(BTreeMap<u32, Floor>);

impl Floors {
    fn note(&mut self, look: &Look, unsaved: &Unsaved) {
        const NONE: Floor = Floor { new: Moment::MAX, changed: Moment::MAX, removed: Moment::MAX };
        let floor = self.0.entry(look.rank).or_insert(NONE);
        let earliest = match (look.is_removal, unsaved.has_row) {
            (true, _) => &mut floor.removed,
            (false, true) => &mut floor.changed,
            (false, false) => &mut floor.new,
        };
        *earliest = unsaved.moment.min(*earliest);
    }

    /// Whether something stands in the way of what was seen at `moment`.
    fn hold(&self, look: &Look, moment: Moment, waived: Waived) -> bool {
        if look.is_removal {
            let mut children = self.0.range(look.rank.saturating_add(1)..);
            let is_early = |floor: &Floor| floor.new.min(floor.changed).min(floor.removed) <= moment;
            return waived != Waived::Children
                && look.rank < u32::MAX
                && children.any(|(_, floor)| is_early(floor));
        }
        let competes = |floor: &Floor| floor.removed <= moment;
        self.0.range(..look.rank).any(|(_, floor)| floor.new <= moment)
            || (waived != Waived::Unique && self.0.get(&look.rank).is_some_and(competes))
    }
}

pub(super) struct Ranks<K, V> {
    rank: Ranker<K, V>,
    seen: PlaceMap<Seen>,
    ready: VecDeque<Ready>,
    /// The last plan had nothing to send.
    is_held: bool,
    /// A refusal may be due to what else was on its way.
    is_in_doubt: bool,
    /// A rule was set aside because something that waits for a retry is in the way, so a refusal may be due to that.
    waits_for_retry: bool,
    /// How often a rule had to be set aside.
    waivers: u32,
}

impl<K, V> Ranks<K, V> {
    pub(super) fn new(rank: Ranker<K, V>) -> Self {
        Ranks {
            rank,
            seen: PlaceMap::default(),
            ready: VecDeque::new(),
            is_held: false,
            is_in_doubt: false,
            waits_for_retry: false,
            waivers: 0,
        }
    }

    /// Whether something of the last plan has not been sent yet.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How much.
    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Notes what is there now, and says since when.
    fn see(&mut self, look: &Look, unsaved: &Unsaved, now: Moment) -> Seen {
        let fresh = Seen { version: look.version, moment: now, changes: 0, refusals: 0 };
        let known = self.seen.entry(unsaved.at).or_insert(fresh);
        // One that came into the book later than it was seen is another entry, or was stored since.
        if known.version != look.version || unsaved.moment > known.moment {
            let changes = known.changes.saturating_add(u32::from(known.version != look.version));
            *known = Seen { changes, refusals: known.refusals, ..fresh };
        }
        *known
    }
}

impl<K, V, S> Flusher<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Whether everything that is due waits for something else.
    pub(super) fn is_held_by_ranks(&self) -> bool {
        self.ranks.as_ref().is_some_and(|ranks| ranks.is_held && ranks.ready.is_empty())
    }

    /// Finds what may be sent, if that is to be found anew. Nothing is on its way then.
    pub(super) fn plan(&mut self) {
        let Some(mut ranks) = self.ranks.take_if(|ranks| ranks.ready.is_empty()) else { return };
        if self.bisection.is_empty() {
            self.pending.tidy_up();
            for _ in 0..REPLANS {
                if !self.plan_with(&mut ranks) || !ranks.ready.is_empty() {
                    break;
                }
            }
            ranks.is_held = ranks.ready.is_empty();
        }
        self.ranks = Some(ranks);
    }

    fn look(&self, at: Position, ranks: &Ranks<K, V>) -> Option<Look> {
        let rank = |key: &K, value: Option<&V>| {
            // A closure of the user's that panics must not take the flusher with it.
            let rank = catch_unwind(AssertUnwindSafe(|| (ranks.rank)(key, value))).unwrap_or(0);
            (rank, value.is_none())
        };
        let (version, (rank, is_removal)) = self.store.peek_dirty(at, &self.local.pin(), rank)?;
        Some(Look { version, rank, is_removal })
    }

    /// `true`: something was heard of meanwhile that is not in the plan, but may be in its way.
    fn plan_with(&mut self, ranks: &mut Ranks<K, V>) -> bool {
        // The order of these four steps is the proof: a version is seen; then all that was written before it is heard of; then
        // what that holds *now* is seen, which is a value if a value depends on it.
        let candidates: Vec<(Unsaved, Option<Look>)> = {
            let ranks = &*ranks;
            self.pending.unsaved().map(|unsaved| (unsaved, self.look(unsaved.at, ranks))).collect()
        };
        self.collect();
        let now = self.pending.tick();
        let mut floors = Floors::default();
        let (mut known, mut waits_for_retry) = (0, false);
        for unsaved in self.pending.unsaved() {
            known += 1;
            waits_for_retry |= !unsaved.is_queued;
            if let Some(look) = self.look(unsaved.at, ranks) {
                floors.note(&look, &unsaved);
            }
        }
        let mut seen = PlaceMap::with_capacity_and_hasher(candidates.len(), Default::default());
        let mut queued = Vec::with_capacity(candidates.len());
        for (unsaved, look) in &candidates {
            // What is not dirty any more is found out when it is copied.
            let Some(look) = look else {
                let (at, moment) = (unsaved.at, unsaved.moment);
                ranks.ready.extend(unsaved.is_queued.then_some(Ready {
                    at,
                    is_removal: false,
                    version: None,
                    moment,
                }));
                continue;
            };
            let now_seen = ranks.see(look, unsaved, now);
            seen.insert(unsaved.at, now_seen);
            if unsaved.is_queued {
                queued.push((look, unsaved, now_seen));
            }
        }
        ranks.seen = seen;
        let newcomers = known > candidates.len();
        // A value that was refused may need a remove to come first that waits for what has a higher rank.
        let was_refused = queued.iter().any(|(look, _, seen)| seen.refusals > 0 && !look.is_removal);
        let waivers: &[Waived] = if newcomers {
            // Whatever is in the way may be ready in the next plan.
            &[Waived::Nothing]
        } else if was_refused && !waits_for_retry && ranks.waivers % 2 == 1 {
            &[Waived::Nothing, Waived::Children, Waived::Unique]
        } else {
            &[Waived::Nothing, Waived::Unique]
        };
        ranks.waits_for_retry = false;
        let late = self.settings.clock.now().saturating_sub(self.settings.stall_limit);
        for &waived in waivers {
            for (look, unsaved, seen) in &queued {
                let is_late = || self.pending.since(unsaved.at).is_some_and(|since| since < late);
                let is_overdue = !look.is_removal && seen.changes >= PATIENCE && is_late();
                if is_overdue || !floors.hold(look, seen.moment, waived) {
                    // What refers to nothing may change as it likes.
                    let is_free = is_overdue || (look.rank == 0 && !look.is_removal);
                    let version = (!is_free).then_some(look.version);
                    let (at, is_removal, moment) = (unsaved.at, look.is_removal, unsaved.moment);
                    ranks.ready.push_back(Ready { at, is_removal, version, moment });
                }
            }
            if !ranks.ready.is_empty() {
                ranks.waivers += u32::from(waived != Waived::Nothing);
                ranks.waits_for_retry = waived != Waived::Nothing && waits_for_retry;
                break;
            }
        }
        ranks.is_in_doubt = known > 1;
        ranks.ready.make_contiguous().sort_unstable_by_key(|ready| ready.moment);
        newcomers
    }

    /// Copies what is ready, at most a batch of it.
    pub(super) fn fill_by_rank(&mut self, now: Duration) -> (Vec<Taken>, Batch<K, V>) {
        let limit = if self.breaker.is_open() { self.find_probe() } else { self.batch_limit };
        let (mut taken, mut ops) = (Vec::new(), Vec::new());
        while ops.len() < limit
            && let Some(next) = self.ranks.as_mut().and_then(|ranks| ranks.ready.pop_front())
        {
            let Some(place) = self.pending.take_at(next.at) else { continue };
            let is_suspect = self.pending.is_suspect(next.at);
            if is_suspect && !ops.is_empty() {
                self.pending.returned(&[place]);
                self.ranks.iter_mut().for_each(|ranks| ranks.ready.push_front(next));
                break;
            }
            let mut copy = (Vec::new(), Vec::new());
            self.copy_one(place, now, &mut copy);
            let may_go = |op: &Op<K, V>| {
                next.is_removal == op.change().value().is_none()
                    && next.version.is_none_or(|version| version == op.version())
            };
            if copy.1.iter().all(may_go) {
                taken.append(&mut copy.0);
                ops.append(&mut copy.1);
            } else {
                // It has changed since it was seen. The next plan sees it anew.
                self.pending.untried(&copy.0);
            }
            if is_suspect {
                break;
            }
        }
        (taken, Batch::new(ops))
    }

    /// Puts what tells most of whether the backend is there to the front, and says how much of it to send.
    fn find_probe(&mut self) -> usize {
        let (ranks, pending) = (&mut self.ranks, &self.pending);
        if let Some(ready) = ranks.as_mut().map(|ranks| &mut ranks.ready)
            && let Some((index, _)) =
                ready.iter().enumerate().min_by_key(|(_, ready)| pending.failures(ready.at))
        {
            ready.swap(0, index);
        }
        1
    }

    /// Whether this refusal may be due to what else was on its way, so that the place was queued again.
    pub(super) fn is_in_doubt(&mut self, taken: Taken, error: &BackendError) -> bool {
        let Some(ranks) = self.ranks.as_mut().filter(|ranks| ranks.is_in_doubt) else { return false };
        let Some(seen) = ranks.seen.get_mut(&taken.at) else { return false };
        if error.class() == ErrorClass::Transient || ranks.waits_for_retry || seen.refusals >= SECOND_OPINIONS
        {
            return false;
        }
        seen.refusals += 1;
        self.pending.returned(&[taken]);
        true
    }

    /// Whether a refusal for good is only one for now, because a rule was set aside.
    pub(super) fn has_gone_out_of_turn(&self) -> bool {
        self.ranks.as_ref().is_some_and(|ranks| ranks.waits_for_retry)
    }

    /// The backend has taken it.
    pub(super) fn note_stored(&mut self, at: Position) {
        if let Some(ranks) = &mut self.ranks {
            ranks.seen.remove(&at);
        }
    }
}
