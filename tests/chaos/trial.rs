//! One database, one cache, eight writers: from the opening to the verdict.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use writeback::{Cache, OpenError};

use super::{
    gate::{Gate, Passed, Table},
    ledger::{Check, Finding, Ledger},
    model::{Model, Row, WRITERS, differences},
    plan::{Plan, Sabotage},
    random::Random,
    report::Report,
    saboteur::{Hang, Saboteur},
    subject::{Subject, Trouble},
    told::Told,
    verdict,
    watch::{JOURNAL_LIMIT, Watch, dump},
    weather::Weather,
    writer::Writer,
};

/// How much longer than planned it may take until everything has happened once.
const OVERTIME: u32 = 3;

/// In the folder of a trial.
const JOURNAL: &str = "chaos.journal";

/// How soon to look again whether something has come to pass.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) struct Trial {
    pub(crate) subject: Arc<dyn Subject>,
    pub(crate) plan: Plan,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) weather: Arc<Weather>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) told: Arc<Told>,
    model: Arc<Model>,
    cache: Cache<u64, Row>,
    hangs: Arc<Hang>,
    folder: tempfile::TempDir,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) findings: Vec<Finding>,
    pub(crate) report: Report,
}

/// All that work on it.
struct Threads {
    writers: Vec<JoinHandle<()>>,
    weather: JoinHandle<()>,
    watch: JoinHandle<()>,
}

fn open(
    table: impl writeback::Backend<u64, Row> + 'static,
    capacity: usize,
    journal: &Path,
    told: &Arc<Told>,
) -> Result<Cache<u64, Row>, OpenError> {
    let told = Arc::clone(told);
    Cache::builder()
        .name("chaos")
        .capacity(capacity)
        .max_delay(Duration::from_millis(100))
        .batch_size(500)
        .write_timeout(Duration::from_millis(400))
        .retry(Duration::from_millis(10), Duration::from_millis(500))
        .stall_limit(Duration::from_secs(1))
        .listener(move |event| told.hear(event))
        .backend(table)
        .journal(journal)
        .journal_size(1 << 20)
        .journal_limit(JOURNAL_LIMIT)
        .open()
}

impl Trial {
    pub(crate) fn of(subject: Arc<dyn Subject>, plan: &Plan) -> Result<Self, Trouble> {
        let (ledger, told, hangs) = (Arc::new(Ledger::new()), Arc::new(Told::default()), Arc::default());
        let table = Saboteur::behind(subject.table()?, plan.sabotage, &hangs);
        let random = Random::new(plan.seed, 1);
        let gate = Arc::new(Gate::before(table, subject.is_deadlock(), Arc::clone(&ledger), random));
        let table: Box<Table> = Box::new(Arc::clone(&gate));
        let table = Saboteur::before(table, plan.sabotage, &hangs);
        let folder = tempfile::tempdir()?;
        let cache = open(Arc::<Table>::from(table), plan.capacity, &folder.path().join(JOURNAL), &told)?;
        let weather = Arc::new(Weather::of(&*subject));
        let (plan, watch, model) = (plan.clone(), Arc::new(Watch::default()), Arc::new(Model::new()));
        Ok(Trial { subject, plan, ledger, gate, weather, watch, told, model, cache, hangs, folder })
    }

    fn spawn(&self) -> Result<Threads, Trouble> {
        let named = |name: &str| thread::Builder::new().name(format!("chaos-{name}"));
        let mut writers = Vec::with_capacity(WRITERS);
        for index in 0..WRITERS {
            let random = Random::new(self.plan.seed, 100 + index as u64);
            let (gate, model, ledger) =
                (Arc::clone(&self.gate), Arc::clone(&self.model), Arc::clone(&self.ledger));
            let pace = self.plan.pace / WRITERS as u64;
            let writer = Writer::new(index, self.cache.clone(), gate, model, ledger, random, pace);
            writers.push(named("writer").spawn(move || writer.run())?);
        }
        let (cache, ledger, gate) = (self.cache.clone(), Arc::clone(&self.ledger), Arc::clone(&self.gate));
        let (plan, weather, watch) = (self.plan.clone(), Arc::clone(&self.weather), Arc::clone(&self.watch));
        let watch = named("watch").spawn(move || watch.run(&cache, &ledger, &gate, &weather, &plan))?;
        let (weather, subject, plan) =
            (Arc::clone(&self.weather), Arc::clone(&self.subject), self.plan.clone());
        let random = Random::new(plan.seed, 2);
        let weather = named("weather").spawn(move || {
            if plan.sabotage != Some(Sabotage::Calm) {
                weather.run(&*subject, &plan, random);
            }
        })?;
        Ok(Threads { writers, weather, watch })
    }

    /// `is_calm` is told when things do not go wrong any more.
    pub(crate) fn run(self, is_calm: impl FnOnce()) -> Result<Outcome, Trouble> {
        let (begun, threads) = (Instant::now(), self.spawn()?);
        self.gate.rain(self.plan.sabotage != Some(Sabotage::Calm));
        self.work(begun);
        self.weather.end();
        let longest = self.plan.longest + self.plan.patience;
        if !is_over_within(longest, || threads.weather.is_finished()) {
            self.ledger.find(Check::Progress, "the weather does not end".to_owned());
        }
        self.gate.rain(false);
        is_calm();
        self.ledger.end();
        let worked = begun.elapsed();
        let is_done = || threads.writers.iter().all(JoinHandle::is_finished);
        let is_done = is_over_within(self.plan.patience, || self.watch.is_stuck() || is_done()) && is_done();
        if is_done {
            self.settle();
        } else if !self.watch.is_stuck() {
            self.ledger.find(Check::Progress, dump(&self.cache, &self.ledger, &self.gate, &self.weather));
        }
        self.watch.end();
        // Whoever hung because of a sabotage comes to an end now; others that are stuck are left where they are.
        self.hangs.end();
        let is_done = || threads.writers.iter().chain([&threads.watch]).all(JoinHandle::is_finished);
        if is_over_within(Duration::from_secs(2), is_done) {
            for writer in threads.writers {
                if let Err(panic) = writer.join() {
                    self.ledger.find(Check::Errors, format!("a writer panicked: {:?}", panic.type_id()));
                }
            }
        }
        let happened = verdict::never_happened(&self);
        if !happened.is_empty() {
            self.ledger.find(Check::Happened, format!("never happened: {}", happened.join(", ")));
        }
        let report = Report::of(&self, &self.cache.stats(), worked);
        self.close();
        let ledger = Arc::clone(&self.ledger);
        if ledger.findings().is_empty() {
            self.open_again()?;
        }
        Ok(Outcome { findings: ledger.findings(), report })
    }

    /// A cache that is opened with the same journal finds nothing in it.
    fn open_again(self) -> Result<(), Trouble> {
        let Trial { subject, plan, ledger, cache, folder, .. } = self;
        // The last reference: the journal is free when this returns.
        drop(cache);
        let journal = folder.path().join(JOURNAL);
        let again = open(Arc::<Table>::from(subject.table()?), plan.capacity, &journal, &Arc::default())?;
        let left = again.recovery().map_or(0, |recovery| recovery.entries);
        if left > 0 {
            ledger.find(Check::Flush, format!("{left} entries were left in the journal"));
        }
        Ok(())
    }

    /// Until there was enough of everything, or something is wrong.
    fn work(&self, begun: Instant) {
        let mut told = begun;
        loop {
            thread::sleep(LOOK);
            let took = begun.elapsed();
            if self.watch.is_stuck() || self.has_found() {
                return;
            }
            if self.plan.sabotage == Some(Sabotage::EarlyEnd) && took > self.plan.length / 4 {
                drop(self.cache.close(Duration::ZERO));
            }
            let is_complete = || verdict::never_happened(self).is_empty();
            if took >= self.plan.length && (self.plan.sabotage.is_some() || is_complete()) {
                return;
            }
            if took >= self.plan.length * OVERTIME {
                return;
            }
            if self.plan.progress && told.elapsed() > Duration::from_secs(30) {
                told = Instant::now();
                let stats = self.cache.stats();
                let (name, writes) = (self.subject.name(), stats.puts + stats.removes);
                let (stored, dirty) = (stats.backend_writes, stats.dirty);
                let took = took.as_secs();
                eprintln!("{took:>5} s  {name}: {writes} writes, {stored} stored, {dirty} dirty");
            }
        }
    }

    /// Whether there is nothing more to find out: something is wrong, or, in a control, what was to be noticed is noticed.
    fn has_found(&self) -> bool {
        let expected = self.plan.sabotage.map(Sabotage::noticed_by);
        let counts = |finding: &Finding| expected.is_none_or(|expected| finding.check == expected);
        self.ledger.findings().iter().any(counts)
    }

    /// All is well again: everything has to come to rest.
    fn settle(&self) {
        let (patience, ledger) = (self.plan.patience, &self.ledger);
        let begun = Instant::now();
        // What was cut off is found out by whoever uses it next, so the first one may be told of that.
        let flushed = loop {
            let cache = self.cache.clone();
            match within(patience, move || cache.flush()) {
                Some(Ok(())) => break Ok(()),
                Some(Err(error)) if begun.elapsed() > patience => break Err(format!("flush: {error}")),
                Some(Err(_)) => thread::sleep(LOOK),
                None => break Err("flush does not return".to_owned()),
            }
        };
        let flushed = flushed.and_then(|()| {
            let cache = self.cache.clone();
            let again = within(patience, move || cache.flush());
            again.ok_or("a second flush does not return")?.map_err(|error| format!("a second flush: {error}"))
        });
        if let Err(what) = flushed {
            ledger.find(Check::Flush, what);
        }
        self.compare("after a flush");
        verdict::letters(self, &self.cache);
        verdict::add_up(self, &self.cache.stats());
    }

    fn compare(&self, when: &str) {
        let found = match self.subject.rows() {
            Ok(found) => found,
            Err(error) => {
                return self.ledger.find(Check::Rows, format!("{when} the rows cannot be read: {error}"));
            }
        };
        let (differing, first) = differences(&self.model.rows(), &found);
        if differing > 0 {
            let what = format!("{when} {differing} rows differ:\n  {}", first.join("\n  "));
            self.ledger.find(Check::Rows, what);
        }
    }

    /// Closed, nothing is left anywhere, and nobody is told of anything any more.
    fn close(&self) {
        if self.watch.is_stuck() {
            return;
        }
        let (cache, patience) = (self.cache.clone(), self.plan.patience);
        match within(patience * 2, move || cache.close(patience)) {
            Some(closed) if closed.is_drained() => {}
            Some(closed) => return self.ledger.find(Check::Flush, format!("close: {closed:?}")),
            None => return self.ledger.find(Check::Progress, "close does not return".to_owned()),
        }
        self.compare("after closing");
        let stats = self.cache.stats();
        let is_told = || self.told.sums().flushed >= stats.backend_writes;
        // Events come after what they tell of.
        is_over_within(Duration::from_secs(5), is_told);
        verdict::told(self, &stats);
    }

    /// What the gate has counted.
    pub(crate) fn passed(&self, what: Passed) -> u64 {
        self.gate.get(what)
    }
}

/// Whether it comes to pass in time.
fn is_over_within(time: Duration, is_over: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is_over() {
        if begun.elapsed() > time {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

/// What a call returns, if it does so in time; else it is left to itself.
fn within<R: Send + 'static>(time: Duration, call: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || drop(done.send(call())));
    is_done.recv_timeout(time).ok()
}
