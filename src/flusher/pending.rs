//! The flusher's book of dirty places: which are queued, on their way, waiting for a retry, or parked, and who waits for
//! them. Plain data, one thread, no clock of its own.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    ages::Ages,
    places::PlaceMap,
    request::{Answer, Reply},
};
use crate::{BackendError, fault, table::Position};

/// A number that grows with everything that happens to the book. A barrier is one, and covers what came before it.
pub(crate) type Moment = u64;

/// Where a dirty place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    InFlight,
    /// Until this time.
    BackingOff(Duration),
    /// Refused for good: until a newer version or an explicit request comes.
    Parked,
}

struct Key {
    state: State,
    /// What the backend has not got was written before this moment, as far as is known; moved on by a refusal.
    moment: Moment,
    /// The same, but moved on only by what the backend has taken, or the journal once more.
    owes: Moment,
    /// The same, but moved on only by what the backend has taken.
    unsaved: Moment,
    /// The backend has a row for it, from an earlier write of the same spell of dirtiness.
    has_row: bool,
    /// Since when the place has been dirty; never earlier than it really was.
    since: Duration,
    /// Its age counts. Not once it was parked, also when it is tried again: it is as old as it is because it was refused.
    is_aging: bool,
    /// The version that was tried last, and how often.
    version: u64,
    attempts: u32,
    /// How often in a row the backend has refused this place, whatever the version.
    failures: u32,
    /// Writers that wait for a version to be in the backend.
    waiters: Vec<(u64, Arc<Reply>)>,
}

/// A place that was refused more often than this in a row may be refused for its own sake: it waits for its own time, also
/// when the backend takes others again, and goes alone.
const RECENT: u32 = 2;

/// A book with room for so many places is kept.
const SMALL_BOOK: usize = 4096;

/// A flush that waits for all that was dirty at its moment.
struct Barrier {
    moment: Moment,
    /// How many places have not been dealt with since.
    left: usize,
    failed: usize,
    cause: Option<BackendError>,
    reply: Arc<Reply>,
}

/// A checkpoint that waits until nothing from before its moment depends on an older record.
struct Cut {
    moment: Moment,
    left: usize,
}

/// What was taken out to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) at: Position,
    /// Everything that happens from now on is later than the copy that will be made.
    pub(crate) moment: Moment,
}

/// A place whose newest version the backend has not got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsaved {
    pub(crate) at: Position,
    pub(crate) is_queued: bool,
    /// What the backend has not got was written before this moment, as far as is known.
    pub(crate) moment: Moment,
    /// The backend has a row for it all the same, an older one.
    pub(crate) has_row: bool,
}

pub(crate) struct Pending {
    keys: PlaceMap<Key>,
    /// Queued places, oldest first. Stale if the key's moment is another one.
    queue: VecDeque<(Position, Moment)>,
    /// Queued places that somebody waits for.
    urgent: VecDeque<(Position, Moment)>,
    retries: BinaryHeap<Reverse<(Duration, Moment, Position)>>,
    barriers: Vec<Barrier>,
    cut: Option<Cut>,
    now: Moment,
    queued: usize,
    parked: usize,
    /// Since when the places have been dirty whose age counts.
    ages: Ages,
    /// How many were parked since this was asked for, the first one's error, and their most attempts.
    new_parked: Option<(usize, BackendError, u32)>,
    /// How many writers wait for a certain version.
    waiting: usize,
    /// Answers that are due, once the caller has written down what they speak of.
    outbox: Vec<(Arc<Reply>, Answer)>,
    /// Whether the next place to be taken is one that is due, if there is one.
    is_turn_of_due: bool,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Pending {
            keys: PlaceMap::default(),
            queue: VecDeque::new(),
            urgent: VecDeque::new(),
            retries: BinaryHeap::new(),
            barriers: Vec::new(),
            cut: None,
            now: 0,
            queued: 0,
            parked: 0,
            ages: Ages::default(),
            new_parked: None,
            waiting: 0,
            outbox: Vec::new(),
            is_turn_of_due: false,
        }
    }

    /// A moment that is later than everything in the book.
    pub(crate) fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many places are in it.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many of them could be written now.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Whether there is nothing but what was refused for good.
    pub(crate) fn is_all_parked(&self) -> bool {
        self.parked > 0 && self.parked == self.keys.len()
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked
    }

    /// Since when the oldest place has been dirty, whatever became of it; what was parked does not count.
    pub(crate) fn oldest_dirty(&self) -> Option<Duration> {
        self.ages.oldest()
    }

    /// How many were parked since the last call, the first one's error, and how often one of them was tried at most.
    pub(crate) fn take_new_parked(&mut self) -> Option<(usize, BackendError, u32)> {
        self.new_parked.take()
    }

    /// A ring or the map named this place; it has been dirty since `since` at the earliest.
    pub(crate) fn heard(&mut self, at: Position, since: Duration) {
        let moment = self.tick();
        let fresh = Key {
            state: State::Queued,
            moment,
            owes: moment,
            unsaved: moment,
            has_row: false,
            since,
            is_aging: true,
            version: 0,
            attempts: 0,
            failures: 0,
            waiters: Vec::new(),
        };
        match self.keys.entry(at) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(fresh);
                self.ages.enter(since);
                self.queue.push_back((at, moment));
                self.queued += 1;
            }
            // A place that is known stays where it is: what is in the book is older, and its turn covers this.
            std::collections::hash_map::Entry::Occupied(mut known) => {
                if fault::broken("deadline-stays") {
                    known.get_mut().since = since;
                }
            }
        }
    }

    /// When the oldest queued place became dirty.
    pub(crate) fn oldest(&mut self) -> Option<Duration> {
        while let Some(&(at, moment)) = self.queue.front() {
            match self.keys.get(&at) {
                Some(key) if key.state == State::Queued && key.moment == moment => return Some(key.since),
                _ => self.queue.pop_front(),
            };
        }
        None
    }

    /// When the next retry is due.
    pub(crate) fn next_retry(&mut self) -> Option<Duration> {
        while let Some(&Reverse((until, moment, at))) = self.retries.peek() {
            match self.keys.get(&at) {
                Some(key) if key.state == State::BackingOff(until) && key.moment == moment => {
                    return Some(until);
                }
                _ => self.retries.pop(),
            };
        }
        None
    }

    /// Takes the next place to be written: an urgent one, or the oldest of those that `wanted` says yes to. Those that became
    /// dirty at `due` or earlier have every second turn: however many are urgent, they do not keep others past their time.
    pub(crate) fn take(
        &mut self,
        due: Option<Duration>,
        wanted: impl Fn(Duration, Moment) -> bool,
    ) -> Option<Taken> {
        self.is_turn_of_due = !self.is_turn_of_due;
        if self.is_turn_of_due
            && let Some(due) = due
            && self.oldest().is_some_and(|since| since <= due)
            && let Some((at, _)) = self.queue.pop_front()
        {
            return Some(self.set_out(at));
        }
        while let Some((at, moment)) = self.urgent.pop_front() {
            if self.keys.get(&at).is_some_and(|key| key.state == State::Queued && key.moment == moment) {
                return Some(self.set_out(at));
            }
        }
        let since = self.oldest()?;
        let &(at, moment) = self.queue.front()?;
        if !wanted(since, moment) {
            return None;
        }
        self.queue.pop_front();
        Some(self.set_out(at))
    }

    pub(crate) fn has_urgent(&mut self) -> bool {
        while let Some(&(at, moment)) = self.urgent.front() {
            if self.keys.get(&at).is_some_and(|key| key.state == State::Queued && key.moment == moment) {
                return true;
            }
            self.urgent.pop_front();
        }
        false
    }

    /// Whether somebody waits for something that is queued: a flush, or a writer for its own write.
    ///
    /// What is waited for is never backing off: a refusal is an answer.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.barriers.is_empty() || self.waiting > 0
    }

    /// Takes the place that tells most of whether the backend is there: the one that was refused least often, and of those the
    /// one that has waited longest. Looks at all.
    pub(crate) fn take_probe(&mut self) -> Option<Taken> {
        let queued = self.keys.iter().filter(|(_, key)| key.state == State::Queued);
        let at = queued.min_by_key(|(_, key)| (key.failures, key.moment)).map(|(at, _)| *at)?;
        Some(self.set_out(at))
    }

    /// Whether the place was refused so often that it may be for its own sake.
    pub(crate) fn is_suspect(&self, at: Position) -> bool {
        self.failures(at) > RECENT
    }

    /// Takes this place, if it is queued.
    pub(crate) fn take_at(&mut self, at: Position) -> Option<Taken> {
        self.keys.get(&at).is_some_and(|key| key.state == State::Queued).then(|| self.set_out(at))
    }

    /// What is in the book and not parked.
    pub(crate) fn unsaved(&self) -> impl Iterator<Item = Unsaved> {
        let known = self.keys.iter().filter(|(_, key)| key.state != State::Parked);
        known.map(|(at, key)| Unsaved {
            at: *at,
            is_queued: key.state == State::Queued,
            moment: key.unsaved,
            has_row: key.has_row,
        })
    }

    /// For whoever takes places by other rules than the order of the queues, which then fill up with places that were taken.
    pub(crate) fn tidy_up(&mut self) {
        let keys = &self.keys;
        let is_stale = |&(at, moment): &(Position, Moment)| {
            !keys.get(&at).is_some_and(|key| key.state == State::Queued && key.moment == moment)
        };
        for queue in [&mut self.queue, &mut self.urgent] {
            if queue.len() > 2 * keys.len() + 64 {
                queue.retain(|queued| !is_stale(queued));
            }
        }
    }

    fn set_out(&mut self, at: Position) -> Taken {
        let moment = self.tick();
        if let Some(key) = self.keys.get_mut(&at) {
            key.state = State::InFlight;
            self.queued -= 1;
        }
        Taken { at, moment }
    }

    /// Which attempt it is to write this version of a place that is in flight.
    pub(crate) fn attempt(&mut self, at: Position, version: u64) -> u32 {
        let Some(key) = self.keys.get_mut(&at) else { return 1 };
        if key.version != version {
            key.version = version;
            key.attempts = 0;
        }
        key.attempts += 1;
        key.attempts
    }

    /// These places were copied and then not tried: they are as before.
    pub(crate) fn untried(&mut self, taken: &[Taken]) {
        for Taken { at, .. } in taken {
            if let Some(key) = self.keys.get_mut(at) {
                key.attempts = key.attempts.saturating_sub(1);
            }
        }
        self.returned(taken);
    }

    /// These places go back to the head of the queue.
    pub(crate) fn returned(&mut self, taken: &[Taken]) {
        for Taken { at, .. } in taken.iter().rev() {
            let Some(key) = self.keys.get_mut(at) else { continue };
            key.state = State::Queued;
            self.queued += 1;
            self.queue.push_front((*at, key.moment));
            if !key.waiters.is_empty() {
                self.urgent.push_front((*at, key.moment));
            }
        }
    }

    /// The place is clean: nothing more is owed to anyone.
    pub(crate) fn settled(&mut self, at: Position) {
        if let Some(key) = self.keys.remove(&at) {
            self.leave(key.state);
            if key.is_aging {
                self.ages.leave(key.since);
            }
            self.count(key.moment, Moment::MAX, None);
            self.count_cut(key.owes, Moment::MAX);
            self.waiting -= key.waiters.len();
            self.outbox.extend(key.waiters.into_iter().map(|(_, reply)| (reply, Ok(()))));
            self.give_back();
        }
    }

    /// After a backlog the book need not stay as large as that made it. Costs what is left in it, after seven times that has gone.
    fn give_back(&mut self) {
        let left = self.keys.len();
        if self.keys.capacity() > SMALL_BOOK.max(8 * left) {
            self.keys.shrink_to((2 * left).max(SMALL_BOOK / 2));
            self.tidy_up();
            self.queue.shrink_to(2 * left);
            self.urgent.shrink_to(2 * left);
        }
    }

    /// `version` was written, but a newer one is there. It was written after the copy was taken, at `taken.moment`.
    /// `has_row`: it was a value, and not a remove.
    pub(crate) fn superseded(&mut self, taken: Taken, version: u64, copied_at: Duration, has_row: bool) {
        let Some(key) = self.keys.get_mut(&taken.at) else { return };
        let (state, before, owed) = (key.state, key.moment, key.owes);
        key.state = State::Queued;
        key.moment = taken.moment;
        // Unless the journal has it once more since: what was written after that has a newer record anyway.
        key.owes = owed.max(taken.moment);
        let owes = key.owes;
        (key.unsaved, key.has_row) = (taken.moment, has_row);
        if std::mem::replace(&mut key.is_aging, true) {
            self.ages.leave(key.since);
        }
        self.ages.enter(copied_at);
        key.since = copied_at;
        key.failures = 0;
        let waiters = key.waiters.len();
        key.waiters.retain(|(wanted, reply)| {
            let written = *wanted <= version;
            if written {
                self.outbox.push((Arc::clone(reply), Ok(())));
            }
            !written
        });
        let still_wanted = !key.waiters.is_empty();
        self.waiting -= waiters - key.waiters.len();
        self.leave(state);
        self.count(before, taken.moment, None);
        self.count_cut(owed, owes);
        self.enqueue(taken.at, taken.moment, still_wanted);
    }

    /// The backend refused the place. `until`: when to try again; `None`: for good. `in_outage`: it takes nothing from anybody,
    /// so that says nothing of this place.
    pub(crate) fn failed(
        &mut self,
        at: Position,
        until: Option<Duration>,
        error: &BackendError,
        in_outage: bool,
    ) {
        // Whoever waits for it has been told now; a later barrier waits for the next attempt.
        let moment = self.tick();
        let Some(key) = self.keys.get_mut(&at) else { return };
        let (state, before) = (key.state, key.moment);
        key.moment = moment;
        key.failures = key.failures.saturating_add(u32::from(!in_outage));
        for (_, reply) in key.waiters.drain(..) {
            self.waiting -= 1;
            self.outbox.push((reply, Err((1, error.clone()))));
        }
        key.state = match until {
            Some(until) => {
                self.retries.push(Reverse((until, moment, at)));
                State::BackingOff(until)
            }
            None => {
                self.parked += 1;
                if std::mem::take(&mut key.is_aging) {
                    self.ages.leave(key.since);
                }
                let (count, _, most) = self.new_parked.get_or_insert_with(|| (0, error.clone(), 0));
                *count += 1;
                *most = key.attempts.max(*most);
                State::Parked
            }
        };
        self.leave(state);
        self.count(before, moment, Some(error));
    }

    /// The backend takes nothing: everybody who waits is told so now, instead of after one attempt for each place.
    pub(crate) fn refuse_all(&mut self, error: &BackendError) {
        for Barrier { left, failed, cause, reply, .. } in self.barriers.drain(..) {
            self.outbox.push((reply, Err((left + failed, cause.unwrap_or_else(|| error.clone())))));
        }
        if self.waiting > 0 {
            let waiters = self.keys.values_mut().flat_map(|key| key.waiters.drain(..));
            self.outbox.extend(waiters.map(|(_, reply)| (reply, Err((1, error.clone())))));
            self.waiting = 0;
        }
    }

    /// The backend takes something again: what it has refused only while it was down need not wait any longer.
    pub(crate) fn retry_recent(&mut self) {
        let recent = |key: &Key| matches!(key.state, State::BackingOff(_)) && key.failures <= RECENT;
        let mut all: Vec<_> =
            self.keys.iter().filter(|(_, key)| recent(key)).map(|(at, key)| (key.moment, *at)).collect();
        all.sort_unstable();
        for (moment, at) in all {
            self.requeue(at, moment);
        }
    }

    /// Since when the place has been dirty; never earlier than it really was.
    pub(crate) fn since(&self, at: Position) -> Option<Duration> {
        self.keys.get(&at).map(|key| key.since)
    }

    /// Whether this place was refused for good, and waits.
    pub(crate) fn is_parked(&self, at: Position) -> bool {
        self.keys.get(&at).is_some_and(|key| key.state == State::Parked)
    }

    /// How often in a row the place was refused.
    pub(crate) fn failures(&self, at: Position) -> u32 {
        self.keys.get(&at).map_or(0, |key| key.failures)
    }

    /// Queues what is due for a retry, oldest first.
    pub(crate) fn retry_due(&mut self, now: Duration) {
        while self.next_retry().is_some_and(|until| until <= now) {
            if let Some(Reverse((_, moment, at))) = self.retries.pop() {
                self.requeue(at, moment);
            }
        }
    }

    /// Queues everything that is backing off or parked: somebody asked for it.
    pub(crate) fn retry_all(&mut self) {
        let waiting = |key: &Key| matches!(key.state, State::BackingOff(_) | State::Parked);
        let mut all: Vec<_> =
            self.keys.iter().filter(|(_, key)| waiting(key)).map(|(at, key)| (key.moment, *at)).collect();
        all.sort_unstable();
        for (moment, at) in all {
            self.requeue(at, moment);
        }
    }

    /// Queues each parked place for which `has_changed(place, refused version)` says that it holds another version now.
    pub(crate) fn retry_changed(&mut self, has_changed: impl Fn(Position, u64) -> bool) {
        if self.parked > 0 {
            let parked = self.keys.iter().filter(|(_, key)| key.state == State::Parked);
            let changed: Vec<_> = parked
                .filter(|(at, key)| has_changed(**at, key.version))
                .map(|(at, key)| (*at, key.moment))
                .collect();
            changed.into_iter().for_each(|(at, moment)| self.requeue(at, moment));
        }
    }

    fn requeue(&mut self, at: Position, moment: Moment) {
        if let Some(key) = self.keys.get_mut(&at) {
            let state = std::mem::replace(&mut key.state, State::Queued);
            self.leave(state);
            self.enqueue(at, moment, true);
        }
    }

    fn enqueue(&mut self, at: Position, moment: Moment, urgent: bool) {
        self.queued += 1;
        if urgent {
            self.urgent.push_back((at, moment));
        }
        self.queue.push_back((at, moment));
    }

    fn leave(&mut self, state: State) {
        match state {
            State::Queued => self.queued -= 1,
            State::Parked => self.parked -= 1,
            State::InFlight | State::BackingOff(_) => {}
        }
    }

    /// Answers `reply` once `version` of this place is in the backend, or was refused. A place that is not in the book is
    /// clean, so the answer is there.
    pub(crate) fn wait_for(&mut self, at: Position, version: u64, reply: Arc<Reply>) {
        let Some(key) = self.keys.get_mut(&at) else { return self.outbox.push((reply, Ok(()))) };
        key.waiters.push((version, reply));
        self.waiting += 1;
        match key.state {
            State::Queued => {
                let moment = key.moment;
                self.urgent.push_back((at, moment));
            }
            State::BackingOff(_) | State::Parked => {
                let moment = key.moment;
                self.requeue(at, moment);
            }
            State::InFlight => {}
        }
    }

    /// Answers `reply` once everything that is in the book now was written, or refused at least once.
    pub(crate) fn barrier(&mut self, reply: Arc<Reply>) {
        if self.keys.is_empty() {
            return self.outbox.push((reply, Ok(())));
        }
        let moment = self.tick();
        reply.note_left(self.keys.len());
        self.barriers.push(Barrier { moment, left: self.keys.len(), failed: 0, cause: None, reply });
    }

    /// Begins a cut: all that is in the book now owes.
    pub(crate) fn begin_cut(&mut self) {
        let moment = self.tick();
        self.cut = Some(Cut { moment, left: self.keys.len() });
    }

    /// There is no cut any more.
    pub(crate) fn end_cut(&mut self) {
        self.cut = None;
    }

    /// How many places have not been dealt with since the cut.
    pub(crate) fn owing(&self) -> usize {
        self.cut.as_ref().map_or(0, |cut| cut.left)
    }

    /// The places that still owe: all of them, or those that no flush is about to deal with, with what is in flight if that
    /// is stuck.
    pub(crate) fn debtors(&self, all: bool, is_stuck: bool) -> Vec<Position> {
        let Some(cut) = &self.cut else { return Vec::new() };
        if !all && !is_stuck && self.parked == 0 && self.retries.is_empty() {
            return Vec::new();
        }
        let holds_up = |state| match state {
            State::BackingOff(_) | State::Parked => true,
            State::InFlight => is_stuck,
            State::Queued => false,
        };
        let owes = |key: &Key| key.owes <= cut.moment && (all || holds_up(key.state));
        self.keys.iter().filter(|(_, key)| owes(key)).map(|(at, _)| *at).collect()
    }

    /// The journal has a new enough record of what this place held a moment ago.
    pub(crate) fn copied(&mut self, at: Position) {
        let now = self.tick();
        if let Some(key) = self.keys.get_mut(&at) {
            let owed = std::mem::replace(&mut key.owes, now);
            self.count_cut(owed, now);
        }
    }

    fn count_cut(&mut self, before: Moment, after: Moment) {
        if let Some(cut) = &mut self.cut
            && before <= cut.moment
            && cut.moment < after
        {
            cut.left -= 1;
        }
    }

    /// The newest moment that a barrier waits for.
    pub(crate) fn barrier_moment(&self) -> Option<Moment> {
        self.barriers.last().map(|barrier| barrier.moment)
    }

    /// A place with debts from `before` has none from before `after` any more: it was written, or (with an error) refused.
    fn count(&mut self, before: Moment, after: Moment, error: Option<&BackendError>) {
        for barrier in &mut self.barriers {
            if before <= barrier.moment && barrier.moment < after {
                barrier.left -= 1;
                if let Some(error) = error {
                    barrier.failed += 1;
                    barrier.cause.get_or_insert_with(|| error.clone());
                }
                barrier.reply.note_left(barrier.left + barrier.failed);
            }
        }
        let outbox = &mut self.outbox;
        self.barriers.retain_mut(|barrier| {
            if barrier.left == 0 {
                let answer = match barrier.cause.take() {
                    None => Ok(()),
                    Some(cause) => Err((barrier.failed, cause)),
                };
                outbox.push((Arc::clone(&barrier.reply), answer));
            }
            barrier.left > 0
        });
    }

    /// Gives the answers that are due.
    pub(crate) fn deliver(&mut self) {
        self.outbox.drain(..).for_each(|(reply, answer)| reply.answer(answer));
    }

    /// The flusher ends: everyone who waits is told why.
    pub(crate) fn abandon(&mut self, error: &BackendError) {
        self.deliver();
        let left = self.keys.len();
        for barrier in self.barriers.drain(..) {
            barrier.reply.answer(Err((left.max(1), error.clone())));
        }
        for (_, reply) in self.keys.values_mut().flat_map(|key| key.waiters.drain(..)) {
            reply.answer(Err((1, error.clone())));
        }
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests;
