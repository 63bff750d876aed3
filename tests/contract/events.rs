//! What a listener is told, what the statistics and the log say, and that none of them gets in the way of the cache.

use std::{
    fmt,
    sync::{
        Arc, Mutex, Once, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{
    Ack, BackendError, Builder, Cache, Clock, Error, ErrorClass, Event, FlushTrigger, OpenError, WeakCache,
};

use crate::common::{
    Audit, Gate, NEVER, OpenAtEnd, PATIENCE, Rng, Rows, eventually, evict, gate_applies, lock, quiet, scaled,
    stays,
};

/// Everything that a listener was told.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    fn listener(&self) -> impl FnMut(&Event) + Send + 'static {
        let heard = self.clone();
        move |event| lock(&heard.0).push(event.clone())
    }

    fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        lock(&self.0).iter().filter(|event| wanted(event)).count()
    }

    fn sum(&self, number: impl Fn(&Event) -> u64) -> u64 {
        lock(&self.0).iter().map(number).sum()
    }

    /// A copy of the first that `pick` takes something of.
    fn find<R>(&self, pick: impl Fn(&Event) -> Option<R>) -> Option<R> {
        lock(&self.0).iter().find_map(pick)
    }
}

fn flushed(event: &Event) -> u64 {
    match event {
        Event::Flushed { operations, .. } => *operations as u64,
        _ => 0,
    }
}

fn failed(event: &Event) -> u64 {
    match event {
        Event::Failed { operations, .. } => *operations as u64,
        _ => 0,
    }
}

/// Catches: a listener that is called under a lock, or by a thread that its calls wait for.
#[test]
fn e01_a_listener_may_call_the_cache_in_every_callback() {
    let rows = Audit::new();
    let mut rng = Rng::new(1);
    rows.set_fault(move |_| match rng.below(10) {
        0 => Err(BackendError::transient("again")),
        1 => Err(BackendError::permanent("never")),
        _ => Ok(()),
    });
    let slot: Arc<OnceLock<WeakCache<u64, u64>>> = Arc::default();
    let (own, ended) = (Arc::clone(&slot), Arc::new(AtomicU64::new(0)));
    let (counted, mut call) = (Arc::clone(&ended), 0);
    let listener = move |_: &Event| {
        let Some(cache) = own.get().and_then(WeakCache::upgrade) else { return };
        if call == 300 {
            // Else each flush causes the next.
            return;
        }
        call += 1;
        cache.put(1_000 + call, call).unwrap();
        assert_eq!(cache.get(&(1_000 + call)).unwrap(), Some(call));
        cache.get(&(2_000 + call)).unwrap();
        cache.update(3_000, |old| old.copied().unwrap_or(0) + 1).unwrap();
        let _ = cache.put_acked(4_000, call, Ack::Backend);
        let _ = cache.flush();
        cache.remove(&4_000).unwrap();
        assert!(cache.stats().entries > 0);
        // At the end: what the last call has written is flushed below.
        counted.store(call, Ordering::Release);
    };
    let cache = quiet().listener(listener).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    assert!(slot.set(cache.downgrade()).is_ok());
    for round in 0..50 {
        (0..20).for_each(|key| drop(cache.put(key, round).unwrap()));
        let _ = cache.flush();
    }
    eventually("the listener has called the cache", || ended.load(Ordering::Acquire) == 300);
    rows.clear_fault();
    cache.flush().unwrap();
    let stats = cache.stats();
    assert_eq!((stats.dirty, stats.listener_panics), (0, 0));
    rows.check();
    assert!(cache.close(PATIENCE).is_drained());
}

/// Catches: a `close` that waits for the listener it is called by.
#[test]
fn e02_a_listener_may_close_the_cache_and_may_own_it() {
    let rows = Audit::new();
    let slot: Arc<OnceLock<Cache<u64, u64>>> = Arc::default();
    let (own, closed) = (Arc::clone(&slot), Arc::new(OnceLock::new()));
    let verdict = Arc::clone(&closed);
    let alive = Arc::new(());
    let owned = Arc::downgrade(&alive);
    let listener = move |event: &Event| {
        let _alive = &alive;
        if let (Event::Flushed { .. }, Some(cache)) = (event, own.get()) {
            let _ = verdict.set(cache.close(PATIENCE));
        }
    };
    let cache = quiet().listener(listener).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    assert!(slot.set(cache.clone()).is_ok());
    cache.put(1, 1).unwrap();
    cache.put(2, 2).unwrap();
    let _ = cache.put_acked(3, 3, Ack::Backend);
    eventually("the listener has closed the cache", || closed.get().is_some());
    assert!(closed.get().unwrap().is_drained());
    assert!(matches!(cache.put(4, 4), Err(Error::Closed)));
    assert_eq!(rows.len(), 3);
    eventually("the listener is dropped when all is told", || owned.upgrade().is_none());
}

/// Catches: a listener that takes the thread of the cache with it.
#[test]
fn e03_a_listener_that_panics_stops_nothing() {
    let rows = Audit::new();
    let cache = quiet()
        .listener(|event| panic!("a listener's own, at {event:?}"))
        .backend(Arc::clone(&rows))
        .open::<u64, u64>()
        .unwrap();
    for round in 0..20 {
        cache.put(round, round).unwrap();
        cache.flush().unwrap();
    }
    eventually("every event was tried", || cache.stats().listener_panics == 20);
    assert_eq!((rows.len(), cache.stats().events_dropped), (20, 0));
    assert!(cache.close(PATIENCE).is_drained());
}

/// Catches: a queue of events that grows, a flusher that waits for room in it, a drop that waits for the listener.
#[test]
fn e04_a_listener_that_never_returns_stops_nothing_and_misses_events() {
    let rows = Audit::unrecorded();
    let (gate, heard) = (Gate::new(), Heard::default());
    let _open = OpenAtEnd(Arc::clone(&gate));
    let (at, mut hear) = (Arc::clone(&gate), heard.listener());
    let listener = move |event: &Event| {
        hear(event);
        at.pass();
    };
    let cache = quiet().listener(listener).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    const FLUSHES: u64 = 3_000;
    for round in 0..FLUSHES {
        cache.put(round % 100, round).unwrap();
        cache.flush().unwrap();
    }
    let stats = cache.stats();
    // One is in the listener's hands, 1,024 wait, the others are dropped.
    assert_eq!(stats.events_dropped, FLUSHES - 1_024 - 1);
    assert!(cache.close(PATIENCE).is_drained());
    drop(cache);
    gate.open();
    eventually("it hears how much it has missed", || {
        heard.find(|event| match event {
            Event::Missed { events, .. } => Some(*events),
            _ => None,
        }) == Some(FLUSHES - 1_024 - 1)
    });
    assert_eq!(heard.sum(flushed), 1_025);
}

/// Catches: events that are lost, told twice, or told before the statistics know.
#[test]
fn e05_the_counts_of_the_events_are_those_of_the_statistics() {
    let rows = Audit::unrecorded();
    let mut rng = Rng::new(5);
    rows.set_fault(move |_| match rng.below(40) {
        0..4 => Err(BackendError::transient("again")),
        4 => Err(BackendError::permanent("never")),
        5 => Err(BackendError::conflict("changed")),
        _ => Ok(()),
    });
    let heard = Heard::default();
    let builder = quiet().max_delay(Duration::from_millis(2)).batch_size(50).listener(heard.listener());
    let cache = builder.backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    for round in 0..scaled(20, 200) {
        let on_time = cache.stats().flushes_timer;
        (0..100).for_each(|key| drop(cache.put(key, round).unwrap()));
        match round % 5 {
            0 => drop(cache.flush()),
            1 => eventually("it is flushed on time", || cache.stats().flushes_timer > on_time),
            _ => {}
        }
    }
    rows.clear_fault();
    eventually("all is stored", || cache.flush().is_ok() && cache.stats().dirty == 0);
    let stats = cache.stats();
    assert_eq!(stats.events_dropped, 0);
    eventually("all was told", || {
        (heard.sum(flushed), heard.sum(failed)) == (stats.backend_writes, stats.backend_errors)
    });
    let parked = heard.sum(|event| match event {
        Event::Parked { entries, .. } => *entries as u64,
        _ => 0,
    });
    let for_good = heard.sum(|event| match event {
        Event::Failed { operations, class, error, .. } => {
            assert_eq!(*class, error.class());
            if *class == ErrorClass::Transient { 0 } else { *operations as u64 }
        }
        _ => 0,
    });
    assert!(parked > 0);
    assert_eq!(parked, for_good);
    // Each batch that stored something is one event with its trigger.
    let by = |wanted| {
        let is_it = |event: &Event| matches!(event, Event::Flushed { trigger, .. } if *trigger == wanted);
        heard.count(is_it) as u64
    };
    assert!(by(FlushTrigger::Timer) <= stats.flushes_timer && by(FlushTrigger::Timer) > 0);
    assert!(by(FlushTrigger::Explicit) <= stats.flushes_explicit && by(FlushTrigger::Explicit) > 0);
    assert_eq!((by(FlushTrigger::Threshold), by(FlushTrigger::Pressure)), (0, 0));
    let took = Duration::from_nanos(heard.sum(|event| match event {
        Event::Flushed { took, .. } => took.as_nanos() as u64,
        _ => 0,
    }));
    assert!(took <= stats.backend_time);
    // Sizes of batches add up.
    let sizes = &stats.batch_sizes;
    assert_eq!(sizes.buckets().map(|(_, count)| count).sum::<u64>(), stats.batches);
    assert_eq!(sizes.operations(), stats.backend_writes + stats.backend_errors);
    assert!(sizes.max() <= 50 && sizes.mean() <= sizes.max() as f64);
    rows.check();
}

/// Catches: evictions that are told one by one, or not at all.
#[test]
fn e06_evictions_are_told_in_numbers() {
    let heard = Heard::default();
    let cache =
        quiet().capacity(100).listener(heard.listener()).backend(Audit::new()).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    cache.flush().unwrap();
    evict(&cache, 1);
    (0..500).for_each(|key| {
        let _ = cache.get(&key).unwrap();
        cache.put(key, key).unwrap();
        if key % 50 == 0 {
            cache.flush().unwrap();
        }
    });
    let evictions = |event: &Event| match event {
        Event::Evicted { entries, .. } => *entries,
        _ => 0,
    };
    // Also without a flush.
    eventually("all were told", || {
        let told = heard.sum(evictions);
        told > 400 && told == cache.stats().evictions
    });
    assert!(heard.count(|event| matches!(event, Event::Evicted { .. })) < 100);
}

/// Catches: a recovery that nobody hears of, and one that is told although there was none.
#[test]
fn e07_a_recovery_is_the_first_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.journal");
    let rows = Arc::new(Rows::new());
    let open = |heard: &Heard| {
        let builder = quiet().drain_on_drop(Duration::ZERO).journal(&path).listener(heard.listener());
        builder.backend(Arc::clone(&rows)).open::<u64, u64>()
    };
    rows.set_fault(|_| Err(BackendError::transient("not now")));
    let first = Heard::default();
    let cache = open(&first).unwrap();
    (0..7).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(!cache.close(Duration::ZERO).is_drained());
    drop(cache);
    rows.clear_fault();
    let second = Heard::default();
    let mut cache = None;
    eventually("the journal is free again", || match open(&second) {
        Ok(opened) => cache.replace(opened).is_none(),
        Err(OpenError::Journal(_)) => false,
        Err(error) => panic!("{error}"),
    });
    eventually("it was told", || !lock(&second.0).is_empty());
    match &lock(&second.0)[0] {
        Event::Recovered { entries: 7, damage, .. } => assert!(damage.is_empty()),
        other => panic!("{other:?}"),
    }
    let cache = cache.unwrap();
    cache.flush().unwrap();
    assert!(cache.close(PATIENCE).is_drained());
    assert_eq!(first.count(|event| matches!(event, Event::Recovered { .. })), 0);
}

fn stalls(heard: &Heard) -> (usize, usize) {
    let stalled = heard.count(|event| matches!(event, Event::Stalled { .. }));
    (stalled, heard.count(|event| matches!(event, Event::Resumed { .. })))
}

/// Catches: a backend that hangs and nobody is told, or is told all the time.
#[test]
fn c07_a_backend_that_hangs_is_a_stall_and_is_told_once() {
    let rows = Arc::new(Rows::new());
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    let (clock, time) = Clock::manual();
    let heard = Heard::default();
    let second = Duration::from_secs(1);
    let builder = quiet().clock(clock).max_delay(second).stall_limit(3 * second).listener(heard.listener());
    let cache = builder.backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    // Heard of: only then it has an age.
    eventually("it has an age", || cache.stats().oldest_dirty_age.is_some());
    time.advance(second);
    gate.wait_for(1);
    eventually("it is as old as it is", || cache.stats().oldest_dirty_age == Some(second));
    time.advance(2 * second);
    stays("at the limit nothing is told", || stalls(&heard) == (0, 0));
    time.advance(second);
    eventually("it was told", || stalls(&heard) == (1, 0));
    let told = heard.find(|event| match event {
        Event::Stalled { oldest_dirty_age, limit, .. } => Some((*oldest_dirty_age, *limit)),
        _ => None,
    });
    assert_eq!(told, Some((4 * second, 3 * second)));
    (0..10).for_each(|_| time.advance(second));
    stays("it is told once", || stalls(&heard) == (1, 0));
    gate.open();
    eventually("it is over", || stalls(&heard) == (1, 1));
    let after = heard.find(|event| match event {
        Event::Resumed { after, .. } => Some(*after),
        _ => None,
    });
    assert_eq!(after, Some(10 * second));
    eventually("nothing is dirty", || cache.stats().oldest_dirty_age.is_none());
    // The next episode is told again.
    let gate = gate_applies(&rows);
    let _open = OpenAtEnd(Arc::clone(&gate));
    cache.put(1, 2).unwrap();
    eventually("it has an age", || cache.stats().oldest_dirty_age.is_some());
    time.advance(second);
    gate.wait_for(1);
    time.advance(3 * second);
    eventually("it was told again", || stalls(&heard) == (2, 1));
}

/// Catches: a parked entry, which no flush will bring, as a stall for ever.
#[test]
fn c07_a_parked_entry_is_no_stall() {
    let rows = Arc::new(Rows::new());
    rows.set_fault(|op| match op.key() {
        1 => Err(BackendError::permanent("never")),
        _ => Ok(()),
    });
    let (clock, time) = Clock::manual();
    let heard = Heard::default();
    let builder = quiet().clock(clock).max_delay(Duration::from_secs(1)).listener(heard.listener());
    let cache = builder.backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    cache.put(1, 1).unwrap();
    assert!(cache.flush().is_err());
    eventually("it was told", || heard.count(|event| matches!(event, Event::Parked { entries: 1, .. })) == 1);
    time.advance(Duration::from_secs(1000));
    // The flusher has looked at the clock: what comes now is young.
    assert!(cache.flush().is_err());
    stays("it has no age", || cache.stats().oldest_dirty_age.is_none());
    // A flush tries it again, and then it is as old as it is.
    for value in 2..20 {
        cache.put(2, value).unwrap();
        assert!(cache.flush().is_err());
    }
    assert_eq!((cache.stats().dirty, cache.stats().oldest_dirty_age), (1, None));
    let parked = |event: &Event| matches!(event, Event::Parked { .. });
    eventually("each refusal was told", || heard.count(parked) == 20);
    assert_eq!(stalls(&heard), (0, 0));
}

/// Catches: an outage that is told with every attempt, or whose end is not told.
#[test]
fn f36_an_outage_is_told_when_it_begins_and_when_it_ends() {
    let rows = Audit::new();
    let heard = Heard::default();
    let cache = quiet().listener(heard.listener()).backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    let edges = || {
        let down = heard.count(|event| matches!(event, Event::BackendDown { .. }));
        (down, heard.count(|event| matches!(event, Event::BackendUp { .. })))
    };
    for episode in 1..=3 {
        rows.set_fault(|_| Err(BackendError::transient("gone")));
        (0..10).for_each(|key| drop(cache.put(key, episode).unwrap()));
        let tried = rows.batches();
        eventually("it was tried often", || cache.flush().is_err() && rows.batches() > tried + 10);
        eventually("its begin was told", || edges().0 == episode as usize);
        assert_eq!(edges().1, episode as usize - 1);
        rows.clear_fault();
        eventually("all is stored", || cache.flush().is_ok());
        eventually("its end was told", || edges() == (episode as usize, episode as usize));
    }
    // One operation among others that are stored is no outage.
    rows.set_fault(|op| match op.key() {
        0 => Err(BackendError::transient("this one")),
        _ => Ok(()),
    });
    let tried = cache.stats().backend_errors;
    (0..10).for_each(|key| drop(cache.put(key, 9).unwrap()));
    assert!(cache.flush().is_err());
    eventually("it was refused", || cache.stats().backend_errors > tried);
    rows.check();
}

/// A line of the log.
#[derive(Debug, Clone)]
struct Line {
    cache: String,
    level: tracing::Level,
    text: String,
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// Collects what the crate logs, of all tests of this process: their caches have names.
struct Collector;

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("writeback")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line { cache: String::new(), level: *event.metadata().level(), text: String::new() };
        event.record(&mut line);
        lock(&LINES).push(line);
    }
}

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        match field.name() {
            "cache" => self.cache = format!("{value:?}"),
            name => self.text += &format!("{name}={value:?} "),
        }
    }
}

/// A cache with a name of its own, whose log is collected.
fn logged(name: &str) -> Builder {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Collector).unwrap());
    quiet().name(name)
}

fn lines_of(name: &str) -> Vec<Line> {
    lock(&LINES).iter().filter(|line| line.cache == name).cloned().collect()
}

/// Catches: a log line for each attempt, and a log that is silent for hours.
#[test]
fn f36_an_hour_of_outage_is_a_log_line_every_half_minute() {
    let rows = Arc::new(Rows::unrecorded());
    rows.set_fault(|_| Err(BackendError::transient("connection refused")));
    let (clock, time) = Clock::manual();
    let second = Duration::from_secs(1);
    let builder = logged("f36").clock(clock).max_delay(second).retry(second / 10, second);
    let cache = builder.backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (0..10).for_each(|key| drop(cache.put(key, key).unwrap()));
    eventually("they have an age", || cache.stats().oldest_dirty_age.is_some());
    for _ in 0..1_800 {
        // Longer than the longest pause between attempts, so each turn of the clock is at least one.
        let tried = cache.stats().backend_errors;
        time.advance(2 * second);
        eventually("it was tried again", || cache.stats().backend_errors > tried);
    }
    let lines = lines_of("f36");
    assert!((110..=121).contains(&lines.len()), "{} lines, the first: {:?}", lines.len(), lines.first());
    assert!(lines.iter().all(|line| line.level == tracing::Level::WARN));
    assert!(lines.iter().all(|line| line.text.contains("connection refused")));
    rows.clear_fault();
    time.advance(2 * second);
    eventually("all is stored", || cache.stats().dirty == 0);
    eventually("the end is logged", || lines_of("f36").len() == lines.len() + 1);
    let last = lines_of("f36").pop().unwrap();
    assert_eq!(last.level, tracing::Level::INFO);
    // Healthy again: not a line.
    for key in 0..100 {
        cache.put(key, 0).unwrap();
        cache.flush().unwrap();
    }
    assert_eq!(lines_of("f36").len(), lines.len() + 1);
}

/// Catches: an error that panics when it is written into the log, and takes the flusher with it.
#[test]
fn f36_an_error_that_panics_in_the_log_stops_nothing() {
    #[derive(Debug)]
    struct Rude;
    impl fmt::Display for Rude {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("an error's own")
        }
    }
    impl std::error::Error for Rude {}
    let rows = Audit::new();
    rows.set_fault(|op| match op.key() {
        1 => Err(BackendError::transient(Rude)),
        2 => Err(BackendError::permanent(Rude)),
        _ => Ok(()),
    });
    let cache = logged("rude").backend(Arc::clone(&rows)).open::<u64, u64>().unwrap();
    (1..=3).for_each(|key| drop(cache.put(key, key).unwrap()));
    assert!(cache.flush().is_err());
    assert_eq!(rows.get(&3), Some(3));
    rows.clear_fault();
    cache.flush().unwrap();
    assert_eq!(rows.len(), 3);
    rows.check();
}

/// Catches: a lag that is reported although all is on the disk, or that is not when it is not.
#[test]
fn e08_the_statistics_know_how_far_the_journal_is_behind() {
    let folder = tempfile::tempdir().unwrap();
    let builder =
        quiet().journal(folder.path().join("lag.journal")).journal_sync(writeback::JournalSync::Never);
    let cache = builder.backend(Arc::new(Rows::new())).open::<u64, u64>().unwrap();
    let lag = || cache.stats().journal.unwrap().sync_lag;
    cache.put(1, 1).unwrap();
    let first = lag().expect("a write is not synced");
    assert!(lag().unwrap() >= first);
    cache.sync().unwrap();
    assert_eq!(lag(), None);
    cache.put(1, 2).unwrap();
    assert!(lag().is_some());
}

#[test]
fn e09_a_stall_limit_within_the_delay_is_refused() {
    let builder = quiet().max_delay(NEVER).stall_limit(NEVER);
    match builder.backend(Arc::new(Rows::new())).open::<u64, u64>() {
        Err(OpenError::BadSetting { setting: "stall_limit", .. }) => {}
        other => panic!("{other:?}"),
    }
}
