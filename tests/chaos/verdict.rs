//! What has to be true when everything has come to rest.

use writeback::{Cache, Stats};

use super::{
    gate::Passed,
    ledger::{Check, Count},
    model::Row,
    subject::Misfortune,
    trial::Trial,
};

/// Nothing was refused for good: nothing that happened to the database was the fault of a row.
pub(crate) fn letters(trial: &Trial, cache: &Cache<u64, Row>) {
    let stats = cache.stats();
    match cache.dead_letters() {
        Ok(letters) => {
            for letter in letters.iter().take(1) {
                let what = format!("{} dead letters, the first: {letter:?}", letters.len());
                trial.ledger.find(Check::Letters, what);
            }
        }
        Err(error) => trial.ledger.find(Check::Letters, format!("they cannot be listed: {error}")),
    }
    let none = [
        ("dead letters", stats.dead_letters as u64),
        ("dead letters that could not be kept", stats.dead_letters_unkept),
        ("parked entries", stats.parked as u64),
    ];
    for (what, count) in none.into_iter().filter(|(_, count)| *count > 0) {
        trial.ledger.find(Check::Letters, format!("{count} {what}"));
    }
}

/// The statistics of a cache at rest, beside each other, the writers' counts and the gate's.
pub(crate) fn add_up(trial: &Trial, stats: &Stats) {
    let written = |what| trial.ledger.get(what);
    let passed = |what| trial.passed(what);
    let triggers =
        stats.flushes_timer + stats.flushes_threshold + stats.flushes_pressure + stats.flushes_explicit;
    let sizes: u64 = stats.batch_sizes.buckets().map(|(_, count)| count).sum();
    let journal = stats.journal.clone().unwrap_or_default();
    let equal = [
        ("dirty entries", stats.dirty as u64, 0),
        ("operations in flight", stats.in_flight as u64, 0),
        ("an age of the oldest dirty entry", u64::from(stats.oldest_dirty_age.is_some()), 0),
        ("the backend down", u64::from(stats.backend_down), 0),
        ("panics of the backend", stats.backend_panics, 0),
        ("puts, and those that writers have made", stats.puts, written(Count::Puts)),
        ("removes, and those that writers have made", stats.removes, written(Count::Removes)),
        ("hits and misses, and reads of the writers", stats.hits + stats.misses, written(Count::Reads)),
        ("loads, and keys that the backend was asked for", stats.loads, passed(Passed::Keys)),
        ("failed loads, and keys without an answer", stats.load_errors, passed(Passed::Unanswered)),
        (
            "stored and coalesced, and all writes",
            stats.backend_writes + stats.coalesced,
            stats.puts + stats.removes,
        ),
        ("stored, and what the backend has answered so", stats.backend_writes, passed(Passed::Stored)),
        ("refused, and what the backend has answered so", stats.backend_errors, passed(Passed::Refused)),
        (
            "stored and refused, and operations of all calls",
            passed(Passed::Ops),
            stats.backend_writes + stats.backend_errors,
        ),
        ("batches, and those of all triggers", stats.batches, triggers),
        ("batches, and those of all sizes", stats.batches, sizes),
        ("batches, and calls of the backend", stats.batches, passed(Passed::Batches)),
        (
            "operations of all batches, and those that the backend was given",
            stats.batch_sizes.operations(),
            passed(Passed::Ops),
        ),
        ("retries, and operations that came again", stats.retries, passed(Passed::Again)),
        ("events that were dropped", stats.events_dropped, 0),
        ("panics of the listener", stats.listener_panics, 0),
        ("damaged places of the journal", journal.damages, 0),
        ("failed syncs", journal.sync_errors, 0),
        ("failures to make the journal larger", journal.growth_errors, 0),
    ];
    for (what, one, other) in equal.into_iter().filter(|(_, one, other)| one != other) {
        trial.ledger.find(Check::Stats, format!("{what}: {one}, not {other}"));
    }
    let at_most = [
        ("entries of the capacity", stats.entries as u64, stats.capacity as u64),
        (
            "writes that were refused for want of room of those that waited",
            written(Count::NoRoom),
            stats.writer_waits,
        ),
        ("stored of all writes", stats.backend_writes, stats.puts + stats.removes),
        ("reads that failed of failed loads", written(Count::ReadsFailed), stats.load_errors),
    ];
    for (what, one, other) in at_most.into_iter().filter(|(_, one, other)| one > other) {
        trial.ledger.find(Check::Stats, format!("{one} {what}, {other}"));
    }
}

/// What the listener has heard, beside the statistics. All of it has been told.
pub(crate) fn told(trial: &Trial, stats: &Stats) {
    let sums = trial.told.sums();
    let equal = [
        ("operations of `Flushed`, and stored", sums.flushed, stats.backend_writes),
        ("operations of `Failed`, and refused", sums.failed, stats.backend_errors),
        ("entries of `Evicted`, and evictions", sums.evicted, stats.evictions),
        ("`BackendUp`, and `BackendDown`", sums.up, sums.down),
        ("`Parked`", sums.parked, 0),
        ("`Missed`", sums.missed, 0),
    ];
    for (what, one, other) in equal.into_iter().filter(|(_, one, other)| one != other) {
        trial.ledger.find(Check::Stats, format!("{what}: {one}, not {other}"));
    }
}

/// What a run is to try, and has not tried.
pub(crate) fn never_happened(trial: &Trial) -> Vec<String> {
    let (weather, subject) = (&trial.weather, &trial.subject);
    let possible = Misfortune::ALL.into_iter().filter(|what| weather.is_possible(*what));
    let misfortunes = possible.flat_map(|what| {
        let hit = match what {
            // A rival or the cache, one of them was ended.
            Misfortune::Deadlock => trial.passed(Passed::Deadlocks) + subject.rivals_ended(),
            _ => weather.hit(what),
        };
        [(what.to_string(), weather.strikes(what).min(hit))]
    });
    let gate = [
        ("a batch refused", Passed::RefusedBatches),
        ("an answer lost", Passed::LostReplies),
        ("an operation refused", Passed::RefusedOps),
        ("the answer of an operation lost", Passed::LostOps),
        ("a load refused", Passed::FailedLoads),
        ("a batch that met with a misfortune", Passed::Troubles),
        ("an operation sent again", Passed::Again),
    ];
    let gate = gate.map(|(name, what)| (name.to_owned(), trial.passed(what)));
    let written = [
        ("a put", Count::Puts),
        ("a remove", Count::Removes),
        ("an update of a counter", Count::Increments),
        ("a read", Count::Reads),
        ("an acknowledgement as synced", Count::Synced),
        ("an acknowledgement by the backend", Count::Backend),
        ("a ticket", Count::Tickets),
        ("a flush", Count::Flushes),
        ("an acknowledgement that was refused", Count::NotFlushed),
        ("a read that failed", Count::ReadsFailed),
    ];
    let written = written.map(|(name, what)| (name.to_owned(), trial.ledger.get(what)));
    let sums = trial.told.sums();
    let told = [("an outage that the cache has noticed", sums.down), ("an eviction", sums.evicted)];
    let told = told.map(|(name, count)| (name.to_owned(), count));
    let all = misfortunes.chain(gate).chain(written).chain(told);
    all.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
}
