//! A database to which everything happens.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arbitrary::Arbitrary;
use writeback::{Answers, Backend, BackendError, Batch, Change, Op};

use crate::world::{Deed, World};

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) enum Mood {
    Fine,
    /// Refuses operations whose key has this bit.
    Transient(u8),
    Permanent(u8),
    /// Answers only the first few operations, though all are stored.
    Mute(u8),
    /// Stores all of it, and says that it has not: an answer that got lost.
    Lost,
    /// Takes nothing.
    Down,
    /// Answers no load.
    Blind,
    /// Takes the operations of a batch in another order.
    Reversed,
}

#[derive(Debug, Clone, Copy, PartialEq, Arbitrary)]
pub(crate) enum Call {
    Load,
    Apply,
}

/// What is done while a call hangs.
struct Interlude {
    during: Call,
    /// Before the rows are read or written, or after it.
    before: bool,
    deeds: [Deed; 3],
}

pub(crate) struct Moody {
    world: Option<Arc<World>>,
    state: Mutex<State>,
}

#[derive(Clone)]
struct Rows {
    values: HashMap<u8, u16>,
    /// The newest version that was given to each key, in all lives.
    versions: HashMap<u8, u64>,
}

struct State {
    rows: Rows,
    mood: Mood,
    interludes: VecDeque<Interlude>,
}

impl Moody {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        let rows = Rows { values: HashMap::new(), versions: HashMap::new() };
        Arc::new(Moody { world: Some(Arc::clone(world)), state: Self::with(rows) })
    }

    /// Another database with the same rows, to which nothing happens.
    pub(crate) fn copy(&self) -> Arc<Self> {
        Arc::new(Moody { world: None, state: Self::with(self.state().rows.clone()) })
    }

    fn with(rows: Rows) -> Mutex<State> {
        Mutex::new(State { rows, mood: Mood::Fine, interludes: VecDeque::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn row(&self, key: u8) -> Option<u16> {
        self.state().rows.values.get(&key).copied()
    }

    pub(crate) fn become_(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// From now on nothing hangs.
    pub(crate) fn settle(&self) {
        let mut state = self.state();
        state.mood = Mood::Fine;
        state.interludes.clear();
    }

    pub(crate) fn hang(&self, during: Call, before: bool, deeds: [Deed; 3]) {
        self.state().interludes.push_back(Interlude { during, before, deeds });
    }

    /// Hangs, if it is time for that.
    fn pass(&self, during: Call, before: bool) {
        let Some(world) = &self.world else { return };
        let Some(cache) = world.cache() else { return };
        let next = |state: &mut State| {
            let is_next = |next: &mut Interlude| (next.during, next.before) == (during, before);
            state.interludes.pop_front_if(is_next)
        };
        let interlude = next(&mut self.state());
        for deed in interlude.iter().flat_map(|interlude| &interlude.deeds) {
            world.perform(&cache, deed);
        }
    }

    fn store(&self, batch: &Batch<u8, u16>) -> Answers {
        let mut state = self.state();
        let State { rows, mood, .. } = &mut *state;
        let mut take = |op: &Op<u8, u16>| {
            let newest = rows.versions.insert(*op.key(), op.version());
            assert!(newest <= Some(op.version()), "an older version of {} after a newer one", op.key());
            match *mood {
                Mood::Transient(bit) if op.key() & 1 << (bit % 8) != 0 => {
                    return Err(BackendError::transient("moody"));
                }
                Mood::Permanent(bit) if op.key() & 1 << (bit % 8) != 0 => {
                    return Err(BackendError::permanent("moody"));
                }
                Mood::Down => return Err(BackendError::transient("down")),
                _ => {}
            }
            match op.change() {
                Change::Upsert(value) => drop(rows.values.insert(*op.key(), *value)),
                Change::Delete => drop(rows.values.remove(op.key())),
            }
            Ok(())
        };
        let ops = batch.ops();
        assert!(ops.iter().all(|op| ops.iter().filter(|other| other.key() == op.key()).count() == 1));
        match *mood {
            Mood::Reversed => {
                let mut answers: Vec<_> = ops.iter().rev().map(&mut take).collect();
                answers.reverse();
                Answers::new(answers)
            }
            Mood::Mute(count) => {
                let answers: Vec<_> = ops.iter().map(&mut take).collect();
                Answers::new(answers.into_iter().take(count.into()).collect())
            }
            Mood::Lost => {
                ops.iter().for_each(|op| drop(take(op)));
                batch.none_stored(BackendError::transient("the answer was lost"))
            }
            _ => batch.answer_each(take),
        }
    }
}

impl Backend<u8, u16> for Moody {
    fn load(&self, keys: &[u8]) -> Result<Vec<Option<u16>>, BackendError> {
        self.pass(Call::Load, true);
        let values = {
            let state = self.state();
            if matches!(state.mood, Mood::Blind) {
                return Err(BackendError::transient("blind"));
            }
            keys.iter().map(|key| state.rows.values.get(key).copied()).collect()
        };
        self.pass(Call::Load, false);
        Ok(values)
    }

    fn apply(&self, batch: &Batch<u8, u16>) -> Answers {
        self.pass(Call::Apply, true);
        let answers = self.store(batch);
        self.pass(Call::Apply, false);
        answers
    }
}
