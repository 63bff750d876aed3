//! One of the writers: all kinds of writes of its own keys, updates of the counters, and reads of everything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use writeback::{Ack, Cache, Error, Ticket, Version};

use super::{
    gate::Gate,
    ledger::{Check, Count, Doing, Ledger},
    model::{COUNTERS, HOT, KEYS, Model, OWN, Row, is_remove, own, row},
    random::Random,
};

/// So many tickets are kept before the first is waited for.
const TICKETS: usize = 24;

/// The longest run of operations without a pause.
const BURST: u64 = 200;

pub(crate) struct Writer {
    pub(crate) index: usize,
    pub(crate) cache: Cache<u64, Row>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) model: Arc<Model>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) random: Random,
    /// Operations in a second.
    pub(crate) pace: u64,
    /// The newest version of each own key.
    versions: Vec<u64>,
    tickets: Vec<(u64, Ack, Ticket)>,
}

/// Whether a write has happened; not whether it has the acknowledgement that was asked for.
enum Fate {
    Happened(Option<Version>),
    Not,
}

impl Writer {
    pub(crate) fn new(
        index: usize,
        cache: Cache<u64, Row>,
        gate: Arc<Gate>,
        model: Arc<Model>,
        ledger: Arc<Ledger>,
        random: Random,
        pace: u64,
    ) -> Self {
        let (versions, tickets) = (vec![0; OWN as usize], Vec::with_capacity(TICKETS));
        Writer { index, cache, gate, model, ledger, random, pace, versions, tickets }
    }

    pub(crate) fn run(mut self) {
        while !self.ledger.is_over() {
            let burst = 1 + self.random.below(BURST);
            let end = Instant::now() + Duration::from_secs_f64(burst as f64 / self.pace as f64);
            for _ in 0..burst {
                self.operation();
            }
            // What an operation had to wait for counts, so after a hang it is quick for a while.
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
        self.redeem();
    }

    fn operation(&mut self) {
        match self.random.below(100) {
            0..30 => self.read_own(),
            30..36 => self.read_any(),
            36..38 => self.read_many(),
            38..50 => self.increment(),
            50..80 => self.put(),
            80..98 => self.update(),
            98 => self.ticket(),
            _ if self.random.one_in(20) => self.flush(),
            _ => self.read_own(),
        }
    }

    fn key(&mut self) -> u64 {
        let keys = if self.random.one_in(5) { OWN } else { HOT };
        own(self.index, self.random.below(keys))
    }

    fn ack(&mut self) -> Ack {
        match self.random.below(100) {
            0..2 => Ack::Synced,
            2..4 => Ack::Backend,
            _ => Ack::Journal,
        }
    }

    fn nth(&self, key: u64) -> usize {
        ((key - COUNTERS) / super::model::WRITERS as u64) as usize
    }

    fn find(&self, check: Check, what: String) {
        self.ledger.find(check, format!("writer {}: {what}", self.index));
    }

    fn timed<R>(&self, doing: Doing, job: impl FnOnce() -> R) -> R {
        self.ledger.timed(self.index, doing, job)
    }

    /// What an answer says of the write; an error that has no reason is a finding.
    fn fate(&self, answer: Result<Option<Version>, Error>) -> Fate {
        let count = |what| self.ledger.count(what, 1);
        match answer {
            Ok(version) => return Fate::Happened(version),
            Err(Error::NotFlushed { .. }) => count(Count::NotFlushed),
            Err(Error::NotSynced { .. }) => count(Count::NotSynced),
            Err(Error::Backpressure { .. } | Error::JournalFull { .. }) => {
                count(Count::NoRoom);
                return Fate::Not;
            }
            Err(Error::Load(_)) => {
                count(Count::NotLoaded);
                return Fate::Not;
            }
            Err(error) => {
                self.find(Check::Errors, format!("a write failed: {error}"));
                return Fate::Not;
            }
        }
        Fate::Happened(None)
    }

    /// The backend has at least this version of a key, as was acknowledged.
    fn is_stored(&self, key: u64, version: u64) {
        let stored = self.gate.stored(key);
        if stored < version {
            self.find(Check::Acks, format!("key {key}: version {version} acknowledged, and {stored} stored"));
        }
    }

    fn written(&mut self, key: u64, number: u64, fate: Fate, ack: Ack) {
        let Fate::Happened(version) = fate else { return };
        self.model.happened(key, number);
        let Some(version) = version.map(Version::get) else { return };
        let nth = self.nth(key);
        let before = std::mem::replace(&mut self.versions[nth], version);
        if before >= version {
            self.find(Check::Order, format!("key {key}: its write got version {version} after {before}"));
        }
        match ack {
            Ack::Backend => {
                self.ledger.count(Count::Backend, 1);
                self.is_stored(key, version);
            }
            Ack::Synced => self.ledger.count(Count::Synced, 1),
            _ => {}
        }
    }

    fn put(&mut self) {
        let (key, ack) = (self.key(), self.ack());
        let number = self.model.issue(key);
        let doing = match ack {
            Ack::Synced => Doing::Synced,
            Ack::Backend => Doing::Backend,
            _ => Doing::Write,
        };
        let is_remove = is_remove(key, number);
        let answer = self.timed(doing, || match (is_remove, ack) {
            (true, Ack::Journal) => self.cache.remove(&key),
            (true, ack) => self.cache.remove_acked(&key, ack),
            (false, Ack::Journal) => self.cache.put(key, row(key, number)),
            (false, ack) => self.cache.put_acked(key, row(key, number), ack),
        });
        let fate = self.fate(answer.map(Some));
        if matches!(fate, Fate::Happened(_)) {
            self.ledger.count(if is_remove { Count::Removes } else { Count::Puts }, 1);
        }
        self.written(key, number, fate, ack);
    }

    fn update(&mut self) {
        let (key, ack) = (self.key(), self.ack());
        let number = self.model.issue(key);
        if is_remove(key, number) {
            // No update removes.
            return;
        }
        let before = self.model.current(key);
        let mut found = before;
        let answer = self.timed(Doing::Update, || {
            let change = |old: Option<&Row>| {
                found = old.map(|(number, _)| *number);
                row(key, number)
            };
            self.cache.update_acked(key, change, ack)
        });
        if found != before {
            self.find(Check::Reads, format!("an update of key {key} found {found:?} instead of {before:?}"));
        }
        let fate = self.fate(answer.map(Some));
        if matches!(fate, Fate::Happened(_)) {
            self.ledger.count(Count::Puts, 1);
            self.ledger.count(Count::Updates, 1);
        }
        self.written(key, number, fate, ack);
    }

    fn increment(&mut self) {
        let counter = self.random.below(COUNTERS);
        let bound = self.model.before(counter);
        let (mut sum, mut judged) = (0, Ok(()));
        let answer = self.timed(Doing::Update, || {
            self.cache.update(counter, |old| {
                sum = old.map_or(0, |(sum, _)| *sum) + 1;
                judged = self.model.judge(&bound, old);
                row(counter, sum)
            })
        });
        if let Err(what) = judged {
            self.find(Check::Reads, what);
        }
        if let Fate::Happened(_) = self.fate(answer.map(Some)) {
            self.model.raised(counter, sum);
            self.ledger.count(Count::Puts, 1);
            self.ledger.count(Count::Updates, 1);
            self.ledger.count(Count::Increments, 1);
        }
    }

    fn ticket(&mut self) {
        let key = self.key();
        let number = self.model.issue(key);
        if is_remove(key, number) {
            // There are no tickets of removes.
            return;
        }
        let ack = if self.random.one_in(2) { Ack::Synced } else { Ack::Backend };
        let answer = self.timed(Doing::Write, || self.cache.put_ticket(key, row(key, number), ack));
        let (answer, ticket) = match answer {
            Ok(ticket) => (Ok(Some(ticket.version())), Some(ticket)),
            Err(error) => (Err(error), None),
        };
        let fate = self.fate(answer);
        if matches!(fate, Fate::Happened(_)) {
            self.ledger.count(Count::Puts, 1);
        }
        self.written(key, number, fate, Ack::Journal);
        self.tickets.extend(ticket.map(|ticket| (key, ack, ticket)));
        if self.tickets.len() == TICKETS {
            self.redeem();
        }
    }

    fn redeem(&mut self) {
        for (key, ack, ticket) in std::mem::take(&mut self.tickets) {
            let answer = self.timed(Doing::Ticket, || ticket.wait());
            self.ledger.count(Count::Tickets, 1);
            if let (Fate::Happened(Some(version)), Ack::Backend) = (self.fate(answer.map(Some)), ack) {
                self.is_stored(key, version.get());
            }
        }
    }

    fn flush(&mut self) {
        let answer = self.timed(Doing::Flush, || self.cache.flush());
        let is_flushed = answer.is_ok();
        let _ = self.fate(answer.map(|()| None));
        if is_flushed {
            self.ledger.count(Count::Flushes, 1);
            for nth in 0..HOT {
                self.is_stored(own(self.index, nth), self.versions[nth as usize]);
            }
        }
    }

    /// Whether a read was answered; an error that has no reason is a finding.
    fn answered<R>(&self, keys: u64, answer: Result<R, Error>) -> Option<R> {
        self.ledger.count(Count::Reads, keys);
        match answer {
            Ok(answer) => return Some(answer),
            Err(Error::Load(_)) => self.ledger.count(Count::ReadsFailed, 1),
            Err(error) => self.find(Check::Errors, format!("a read failed: {error}")),
        }
        None
    }

    /// Nobody else writes it, so it is exactly what was written last.
    fn read_own(&mut self) {
        let key = self.key();
        let expected = self.model.current(key).map(|number| row(key, number));
        let answer = self.timed(Doing::Read, || self.cache.get(&key));
        if let Some(found) = self.answered(1, answer)
            && found != expected
        {
            let number = |row: Option<Row>| row.map(|(number, _)| number);
            let (expected, found) = (number(expected), number(found));
            self.find(Check::Reads, format!("a read of key {key} found {found:?} instead of {expected:?}"));
        }
    }

    fn read_any(&mut self) {
        let key = self.random.below(KEYS);
        let bound = self.model.before(key);
        let answer = self.timed(Doing::Read, || self.cache.get(&key));
        if let Some(Err(what)) =
            self.answered(1, answer).map(|found| self.model.judge(&bound, found.as_ref()))
        {
            self.find(Check::Reads, what);
        }
    }

    fn read_many(&mut self) {
        let keys: Vec<u64> = (0..6).map(|_| self.random.below(KEYS)).collect();
        let bounds: Vec<_> = keys.iter().map(|key| self.model.before(*key)).collect();
        let answer = self.timed(Doing::Read, || self.cache.get_many(&keys));
        for (bound, found) in bounds.iter().zip(self.answered(keys.len() as u64, answer).unwrap_or_default())
        {
            if let Err(what) = self.model.judge(bound, found.as_ref()) {
                self.find(Check::Reads, what);
            }
        }
    }
}
