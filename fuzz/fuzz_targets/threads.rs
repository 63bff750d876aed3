//! Sequences of operations against a model, over a backend that refuses and answers too little, by a cache with its own
//! threads: what `operations` does by hand.
//!
//! `cargo fuzz run -s none threads fuzz/corpus/threads fuzz/seeds/threads`, after `mkdir -p fuzz/corpus/threads`.

#![no_main]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use writeback::{Answers, Backend, BackendError, Batch, Cache, Change, Clock, Error, Invalidated};

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Mood {
    Fine,
    /// Refuses operations whose key has this bit.
    Transient(u8),
    Permanent(u8),
    /// Answers only the first few operations, though all are stored.
    Mute(u8),
}

#[derive(Debug, Arbitrary)]
enum Step {
    Put { key: u8, value: u16 },
    Update { key: u8, add: u16 },
    Remove { key: u8 },
    Get { key: u8 },
    GetMany { keys: [u8; 3] },
    Peek { key: u8 },
    Invalidate { key: u8 },
    Flush,
    Advance { millis: u16 },
    Become(Mood),
}

#[derive(Debug, Arbitrary)]
struct Input {
    capacity: u8,
    batch_size: u8,
    flush_at: u8,
    cache_absent: bool,
    steps: Vec<Step>,
}

struct Moody {
    rows: Mutex<HashMap<u8, u16>>,
    mood: Mutex<Mood>,
}

impl Backend<u8, u16> for Moody {
    fn load(&self, keys: &[u8]) -> Result<Vec<Option<u16>>, BackendError> {
        let rows = self.rows.lock().unwrap();
        Ok(keys.iter().map(|key| rows.get(key).copied()).collect())
    }

    fn apply(&self, batch: &Batch<u8, u16>) -> Answers {
        let mood = *self.mood.lock().unwrap();
        let mut rows = self.rows.lock().unwrap();
        let mut seen = 0;
        let answers = batch.answer_each(|op| {
            assert!(batch.ops().iter().filter(|other| other.key() == op.key()).count() == 1);
            match mood {
                Mood::Transient(bit) if op.key() & 1 << (bit % 8) != 0 => {
                    return Err(BackendError::transient("moody"));
                }
                Mood::Permanent(bit) if op.key() & 1 << (bit % 8) != 0 => {
                    return Err(BackendError::permanent("moody"));
                }
                _ => {}
            }
            match op.change() {
                Change::Upsert(value) => drop(rows.insert(*op.key(), *value)),
                Change::Delete => drop(rows.remove(op.key())),
            }
            seen += 1;
            Ok(())
        });
        match mood {
            Mood::Mute(count) => {
                Answers::new(answers.as_slice().iter().take(count.into()).cloned().collect())
            }
            _ => answers,
        }
    }
}

fuzz_target!(|input: Input| {
    let backend = Arc::new(Moody { rows: Mutex::new(HashMap::new()), mood: Mutex::new(Mood::Fine) });
    let (clock, turn) = Clock::manual();
    let cache = Cache::builder()
        .capacity(usize::from(input.capacity).max(1))
        .batch_size(usize::from(input.batch_size).max(1))
        .flush_at(usize::from(input.flush_at).max(1))
        .cache_absent(input.cache_absent)
        .write_timeout(Duration::ZERO)
        .lanes(1)
        .clock(clock)
        .backend(Arc::clone(&backend))
        .open::<u8, u16>()
        .expect("the settings are fine");
    let mut model: HashMap<u8, u16> = HashMap::new();
    for step in &input.steps {
        match *step {
            Step::Put { key, value } => match cache.put(key, value) {
                Ok(_) => drop(model.insert(key, value)),
                Err(error) => assert!(matches!(error, Error::Backpressure { .. }), "{error}"),
            },
            Step::Update { key, add } => {
                match cache.update(key, |old| old.copied().unwrap_or(0).wrapping_add(add)) {
                    Ok(_) => {
                        let value = model.entry(key).or_insert(0);
                        *value = value.wrapping_add(add);
                    }
                    Err(error) => assert!(matches!(error, Error::Backpressure { .. }), "{error}"),
                }
            }
            Step::Remove { key } => match cache.remove(&key) {
                Ok(_) => drop(model.remove(&key)),
                Err(error) => assert!(matches!(error, Error::Backpressure { .. }), "{error}"),
            },
            Step::Get { key } => assert_eq!(cache.get(&key).expect("loads"), model.get(&key).copied()),
            Step::GetMany { keys } => {
                let expected: Vec<_> = keys.iter().map(|key| model.get(key).copied()).collect();
                assert_eq!(cache.get_many(&keys).expect("loads"), expected);
            }
            Step::Peek { key } => {
                if let Some(value) = cache.peek(&key) {
                    assert_eq!(Some(&value), model.get(&key));
                }
            }
            Step::Invalidate { key } => {
                let dirty = cache.is_dirty(&key);
                match cache.invalidate(&key) {
                    Ok(Invalidated::Dirty) => assert!(dirty),
                    Ok(_) => assert!(cache.peek(&key).is_none()),
                    Err(error) => assert!(matches!(error, Error::Backpressure { .. }), "{error}"),
                }
            }
            Step::Flush => match cache.flush() {
                Ok(()) => assert_eq!(*backend.rows.lock().unwrap(), model),
                Err(error) => assert!(matches!(error, Error::NotFlushed { .. }), "{error}"),
            },
            Step::Advance { millis } => turn.advance(Duration::from_millis(millis.into())),
            Step::Become(mood) => *backend.mood.lock().unwrap() = mood,
        }
        assert!(cache.len() <= cache.capacity());
    }
    *backend.mood.lock().unwrap() = Mood::Fine;
    // The first may be told of a batch that was on its way before.
    cache.flush().or_else(|_| cache.flush()).expect("the backend is fine again");
    assert_eq!(*backend.rows.lock().unwrap(), model);
    assert!(cache.close(Duration::from_secs(60)).is_drained());
});
