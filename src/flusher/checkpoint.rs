//! The flusher's checkpoints: raise the epoch, see every writer past it, and then retire what is older.
//!
//! Without a journal that is all: versions of retired epochs may be forgotten. With one, retiring an epoch also makes its
//! records dead, so each key that was dirty has to be dealt with first: taken by the backend, or written into the journal
//! once more. That is the *cut*. Nothing here waits; every step looks at how far things are.

use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::Duration,
};

use super::Flusher;
use crate::{
    epochs::{self, Checkpoint},
    fault,
    grace::Moment,
    journal::{Journal, SyncNumber, Unprepared},
    store::Copied,
    sync::{Instant, Ordering},
};

/// Checkpoints are at least this far apart, so that 2^40 epochs last for 34 years.
pub(super) const CHECKPOINT_PAUSE: Duration = Duration::from_millis(1);

/// Segments that wait for a sync are looked at this often: writers do not wait for them, or it would be asked for.
const REUSE_PAUSE: Duration = Duration::from_millis(10);

/// Those that wait for whoever is pinned: he is hardly ever longer than he waits for a processor.
const AGING_PAUSE: Duration = Duration::from_micros(100);

/// A call of the backend that takes longer than this holds no checkpoint up: what it carries is written into the journal once
/// more.
const STUCK_AFTER: Duration = Duration::from_millis(200);

/// How long to wait after a failed sync before everything is written anew.
const HEAL_PAUSE: Duration = Duration::from_millis(100);

/// A checkpoint whose writers have all been seen past its epoch.
pub(super) struct Cut {
    target: u64,
    /// Everything that is dirty is copied, because space runs out or because a sync has failed; else only what the backend
    /// does not take.
    copies_all: bool,
    /// It makes up for a failed sync.
    heals: bool,
    /// Something relies on a record that may not be on stable storage yet.
    needs_sync: bool,
    /// The sync that it waits for.
    sync: Option<SyncNumber>,
}

/// Segments whose records are dead, and the sync after which they are so for good.
pub(super) struct Dead {
    segments: Vec<u32>,
    stage: Stage,
}

enum Stage {
    /// Until the retired epoch is on stable storage.
    Syncing(SyncNumber),
    /// Until nobody is pinned who saw a record's flag off: he may still make it LIVE.
    Aging(Moment),
}

impl<K, V, S> Flusher<K, V, S>
where
    K: Hash + Eq + Clone,
    V: Clone,
    S: BuildHasher,
{
    fn journal(&self) -> Option<Arc<Journal>> {
        self.store.journal.as_ref().map(|journaling| Arc::clone(&journaling.journal))
    }

    pub(super) fn begin_checkpoint(&mut self) {
        let lanes = self.store.lanes().writers();
        self.cut = None;
        self.heals = false;
        self.pending.end_cut();
        self.checkpoint = Checkpoint::new();
        self.checkpoint.begin(&self.store.epochs, lanes, epochs::epoch_of(self.newest));
        fault::point("checkpoint: begun");
        self.store.wants_checkpoint.store(false, Ordering::Relaxed);
        self.has_cleaned = false;
        if fault::broken("copy-after-scan")
            && let Some(journal) = self.journal()
        {
            self.collect();
            self.pending.begin_cut();
            let target = self.checkpoint.target();
            let mut cut = Cut { target, copies_all: true, heals: false, needs_sync: false, sync: None };
            self.copy_debtors(&journal, &mut cut);
            self.pending.end_cut();
        }
    }

    /// Whether a checkpoint would retire something, or somebody hopes so.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.has_cleaned
            || self.store.wants_checkpoint.load(Ordering::Relaxed)
            || self.store.journal.as_ref().is_some_and(|journaling| journaling.journal.is_low())
    }

    /// How soon to look again at a checkpoint that is under way, or whose segments are not free yet.
    pub(super) fn next_look(&self) -> Option<Duration> {
        if self.checkpoint.is_under_way() || self.cut.is_some() {
            return Some(CHECKPOINT_PAUSE);
        }
        let pause = |dead: &Dead| match dead.stage {
            Stage::Syncing(_) => REUSE_PAUSE,
            Stage::Aging(_) => AGING_PAUSE,
        };
        self.dead.iter().map(pause).min()
    }

    /// Begins, polls and ends checkpoints.
    pub(super) fn tend_checkpoint(&mut self) {
        self.free_dead();
        self.heal();
        if let Some(journaling) = &self.store.journal {
            journaling.journal.expect_dirty(self.pending.len());
        }
        if self.cut.is_none() && !self.checkpoint.is_under_way() {
            let asked = !self.checkpoint_replies.is_empty();
            if !asked && (!self.wants_checkpoint() || self.checkpointed_at.elapsed() < CHECKPOINT_PAUSE) {
                return;
            }
            self.begin_checkpoint();
        }
        if self.checkpoint.is_under_way() {
            fault::point("checkpoint: polling");
            let store = &self.store;
            if !self.checkpoint.poll(|lane| store.lanes().running(lane)) {
                return;
            }
            self.writers_have_passed();
        }
        self.tend_cut();
    }

    /// No writer is in an epoch before the target any more, and all that they wrote can be collected.
    fn writers_have_passed(&mut self) {
        self.checkpointed_at = Instant::now();
        fault::point("checkpoint: passed");
        let journal = self.journal();
        if self.draining == Some(false) {
            // Every writer that did not see `closed` has announced what it wrote.
            self.draining = Some(true);
            self.collect();
        }
        let target = self.checkpoint.target();
        let Some(journal) = journal else {
            self.store.epochs.retire(target);
            return self.checkpoint_done();
        };
        if !fault::broken("collect-after-scan") {
            self.collect();
        }
        self.pending.begin_cut();
        fault::point("checkpoint: cut");
        let heals = self.heals;
        self.cut =
            Some(Cut { target, copies_all: heals || journal.is_low(), heals, needs_sync: heals, sync: None });
    }

    /// Deals with what is dirty since before the cut, and retires the epochs when nothing is left.
    fn tend_cut(&mut self) {
        let (Some(journal), Some(mut cut)) = (self.journal(), self.cut.take()) else { return };
        cut.copies_all |= journal.is_low();
        self.is_pressed |= self.store.pressure.load(Ordering::Relaxed);
        if !fault::broken("copy-before-retire") {
            self.copy_debtors(&journal, &mut cut);
            if self.pending.owing() > 0 {
                self.cut = Some(cut);
                return;
            }
        }
        if cut.needs_sync && (cut.heals || journal.is_durable()) && !fault::broken("sync-before-retire") {
            let commits = &journal.commits;
            let number = *cut
                .sync
                .get_or_insert_with(|| if cut.heals { commits.request_healing() } else { commits.request() });
            match commits.outcome(number) {
                Some(Ok(())) => {}
                // Everything has to be written anew.
                Some(Err(_)) => {
                    self.heals = false;
                    return;
                }
                None => {
                    self.cut = Some(cut);
                    return;
                }
            }
        }
        fault::point("checkpoint: settled");
        journal.retire(cut.target);
        fault::point("checkpoint: retired");
        self.store.epochs.retire(cut.target);
        self.pending.end_cut();
        let segments = journal.space().retire(cut.target);
        fault::point("checkpoint: segments dead");
        if !segments.is_empty() && !fault::broken("segments-come-back") {
            let mut dead = Dead { segments, stage: Stage::Syncing(0) };
            if journal.is_durable() && !fault::broken("sync-before-reuse") {
                dead.stage = Stage::Syncing(journal.sync_of_retirement());
            }
            self.dead.push(dead);
        }
        self.heals = false;
        // Before they are given back, and writers who have waited for them have taken some.
        let returning = self.dead.iter().map(|dead| dead.segments.len()).sum();
        journal.retune(returning, cut.copies_all);
        self.free_dead();
        self.checkpoint_done();
    }

    /// Writes records of the cut's epoch for keys that hold it up.
    fn copy_debtors(&mut self, journal: &Journal, cut: &mut Cut) {
        if self.pending.owing() == 0 {
            return;
        }
        let is_stuck = self.workers.iter().any(|worker| worker.is_stuck(STUCK_AFTER));
        let all = cut.copies_all || self.breaker.is_open();
        for at in self.pending.debtors(all, is_stuck) {
            let guard = self.local.pin();
            match self.store.copy_forward(at, cut.target, &mut self.appender, &guard) {
                Ok(Copied::Clean) => {
                    drop(guard);
                    self.pending.settled(at);
                }
                Ok(how) => {
                    cut.needs_sync = true;
                    self.pending.copied(at);
                    if how == Copied::Anew {
                        journal.counters.copies.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(Unprepared::Full) => {
                    // Everything is full of what may be needed. Room comes with what is on its way back into use, with what the
                    // backend takes, and with a larger file.
                    if self.dead.is_empty() {
                        journal.ask_for_more();
                    }
                    return;
                }
                // It was encoded once, so this is the user's codec changing its mind. The key holds the cut up until the
                // backend has it.
                Err(Unprepared::TooLarge { .. } | Unprepared::Codec(_)) => {}
            }
        }
    }

    /// Gives back segments that nobody needs and nobody can reach.
    fn free_dead(&mut self) {
        let Some(journal) = self.journal().filter(|_| !self.dead.is_empty()) else { return };
        let (collector, room) = (self.store.lanes.collector(), &self.store.room);
        self.dead.retain_mut(|dead| {
            if let Stage::Syncing(number) = &mut dead.stage {
                match journal.commits.outcome(*number) {
                    Some(Ok(())) => dead.stage = Stage::Aging(collector.now()),
                    // The one that heals it covers the retired epoch, too: `heal` stores that once more.
                    Some(Err(_)) => *number = journal.commits.request(),
                    None if journal.is_low() => journal.commits.ask_for(*number),
                    None => {}
                }
            }
            let Stage::Aging(since) = dead.stage else { return true };
            // Nobody else may need an era to end.
            while !collector.is_over(since) && !fault::broken("grace-period") {
                if !collector.advance() {
                    return true;
                }
            }
            journal.space().give(&dead.segments);
            fault::point("checkpoint: segments returned");
            room.notify();
            false
        });
    }

    /// After a failed sync: everything that is dirty is written once more, into other segments.
    fn heal(&mut self) {
        let Some(journal) = self.journal() else { return };
        if !journal.commits.is_poisoned() || self.heals {
            return;
        }
        if self.healed_at.is_none_or(|tried| tried.elapsed() > HEAL_PAUSE) {
            journal.abandon_segments();
            journal.restate();
            self.begin_checkpoint();
            self.heals = true;
            self.healed_at = Some(Instant::now());
        }
    }

    /// How long until everything is written anew after a failed sync, if that is due: the failure itself has woken us, too
    /// early if it was that of the last attempt.
    pub(super) fn until_healing(&self) -> Option<Duration> {
        self.journal().filter(|journal| journal.commits.is_poisoned() && !self.heals)?;
        let pause = HEAL_PAUSE + Duration::from_millis(1);
        Some(self.healed_at.map_or(Duration::ZERO, |tried| pause.saturating_sub(tried.elapsed())))
    }

    /// Everything is in the backend, and there will be no more: retires all that the journal has, so that the next cache does
    /// not write it once more. `false`: not yet.
    pub(super) fn seal(&mut self) -> bool {
        let Some(journal) = self.journal() else { return true };
        if journal.commits.is_poisoned() {
            // Then what is in it stays, and is written once more.
            return true;
        }
        if !self.sealing {
            self.sealing = true;
            self.begin_checkpoint();
        }
        self.tend_checkpoint();
        if self.checkpoint.is_under_way() || self.cut.is_some() {
            return false;
        }
        // Under any policy: from now on others may write to the database, and no older value may come back over theirs.
        let _ = journal.commits.wait_once(journal.commits.request());
        true
    }

    fn checkpoint_done(&mut self) {
        self.is_pressed = false;
        let guard = self.local.pin();
        while let Some(&(at, version)) = self.graves.front() {
            if !self.store.bury(at, version, &mut self.slots, &guard) {
                break;
            }
            self.graves.pop_front();
        }
        self.slots.seal(&*self.store.lanes);
        drop(guard);
        self.checkpoint_replies.drain(..).for_each(|reply| reply.answer(Ok(())));
        self.store.room.notify();
    }
}
