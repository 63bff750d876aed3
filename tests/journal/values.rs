//! Keys and values of all kinds and sizes, and codecs that fail.

use std::{
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use writeback::{
    BackendError, Cache, Codec, CodecError, Error, JournalError, OpenError, Plain, PlainBytes,
    backend::Memory,
};

use crate::common::{NEVER, PATIENCE, Rows, SMALL, down, image, open, place, quiet, refusal};

fn keep<K, V>(path: &Path, size: u64, rows: &Arc<Memory<K, V>>) -> Cache<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + PlainBytes + 'static,
    V: Clone + Send + Sync + PlainBytes + 'static,
{
    Cache::builder()
        .capacity(1_000)
        .max_delay(NEVER)
        .drain_on_drop(Duration::ZERO)
        .write_timeout(Duration::from_secs(2))
        .backend(Arc::clone(rows))
        .journal(path)
        .journal_size(size)
        .open()
        .unwrap()
}

/// Writes `entries`, loses the cache, and finds them all again.
#[track_caller]
fn survive<K, V>(entries: &[(K, V)])
where
    K: Eq + Hash + Clone + Send + Sync + std::fmt::Debug + PlainBytes + 'static,
    V: Clone + Send + Sync + PartialEq + std::fmt::Debug + PlainBytes + 'static,
{
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Memory::new());
    rows.set_fault(|_| Err(BackendError::transient("down")));
    let cache = keep(&path, 1 << 20, &rows);
    for (key, value) in entries {
        cache.put(key.clone(), value.clone()).unwrap();
    }
    drop(cache);
    let cache = keep(&path, 1 << 20, &rows);
    assert_eq!(cache.recovery().unwrap().entries, entries.len());
    for (key, value) in entries {
        assert_eq!(cache.get(key).unwrap().as_ref(), Some(value), "key {key:?}");
        cache.remove(key).unwrap();
    }
    drop(cache);
    let cache = keep(&path, 1 << 20, &rows);
    assert_eq!(cache.recovery().unwrap().entries, entries.len());
    assert!(entries.iter().all(|(key, _)| cache.get(key).unwrap().is_none()));
    rows.clear_fault();
    cache.flush().unwrap();
    assert!(rows.is_empty());
}

#[test]
fn c02_all_kinds_of_keys_and_values() {
    survive(&[("".to_owned(), "".to_owned()), ("a".into(), "b".into()), ("käse".into(), "\0".into())]);
    survive(&[
        (vec![], vec![]),
        (vec![0_u8], vec![0_u8; 1_000]),
        (vec![0, 0], vec![1]),
        (vec![255; 300], vec![9; 7]),
    ]);
    survive(&[((), ())]);
    survive(&[((1_u32, "a".to_owned()), (1_u8, vec![1_u64, 2])), ((1, "b".into()), (0, vec![]))]);
    survive(&[([1_u8; 16], Some(Duration::from_millis(3))), ([0; 16], None)]);
    survive(&[(i128::MIN, 1.5_f64), (0, f64::INFINITY), (i128::MAX, -0.0)]);
    survive(&[(Some('x'), true), (None, false)]);
    // Lengths around the words of a record.
    let lengths: Vec<_> = (0..40).map(|length| (vec![7_u8; length], vec![8_u8; 40 - length])).collect();
    survive(&lengths);
}

/// The limit is the same for everybody, everything up to it survives, and beyond it nothing is written.
#[test]
fn c02_values_up_to_the_limit() {
    let folder = place();
    for size in [SMALL, 1 << 20, 20 << 20] {
        let path = folder.path().join(format!("{size}.journal"));
        let rows = Arc::new(Memory::<u64, Vec<u8>>::new());
        rows.set_fault(|_| Err(BackendError::transient("down")));
        let cache = keep(&path, size, &rows);
        let error = cache.put(1, vec![1; 64 << 20]).unwrap_err();
        let Error::RecordTooLarge { bytes, limit } = error else { panic!("{error}") };
        assert_eq!(bytes, (64 << 20) + 8);
        assert!(
            limit as u64 + 200 >= (size / 64).min(4 << 20) * 3 / 4,
            "about one sixty-fourth: {limit} of {size}"
        );
        assert!(cache.is_empty() && cache.stats().dirty == 0);
        let most = limit - 8;
        assert!(matches!(cache.put(2, vec![2; most + 1]), Err(Error::RecordTooLarge { .. })));
        assert!(cache.is_empty());
        for key in 3..6 {
            for smaller in 0..10 {
                cache.put(key, vec![key as u8; most - smaller]).unwrap();
            }
        }
        // The entry that is there is left as it was.
        assert!(matches!(cache.put(3, vec![9; most + 1]), Err(Error::RecordTooLarge { .. })));
        assert!(matches!(cache.update(3, |_| vec![9; most + 1]), Err(Error::RecordTooLarge { .. })));
        assert_eq!(cache.get(&3).unwrap().unwrap(), vec![3; most - 9]);
        drop(cache);
        let cache = keep(&path, size, &rows);
        assert_eq!(cache.recovery().unwrap().entries, 3);
        for key in 3..6 {
            assert_eq!(cache.get(&key).unwrap().unwrap(), vec![key as u8; most - 9]);
        }
    }
}

/// Opened with a larger one, a small journal still keeps its own limit, and says so.
#[test]
fn c02_the_limit_is_that_of_the_file() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = Arc::new(Memory::<u64, Vec<u8>>::new());
    rows.set_fault(|_| Err(BackendError::transient("down")));
    let cache = keep(&path, SMALL, &rows);
    cache.put(1, vec![1; 100]).unwrap();
    let Err(Error::RecordTooLarge { limit: small, .. }) = cache.put(2, vec![0; 9 << 20]) else { panic!() };
    drop(cache);
    let cache = keep(&path, 20 << 20, &rows);
    match cache.put(2, vec![2; small + 1]) {
        Ok(_) => {}
        Err(error) => assert!(matches!(error, Error::RecordTooLarge { .. }), "{error}"),
    }
    assert_eq!(cache.get(&1).unwrap().unwrap(), vec![1; 100]);
}

/// A codec with a mood.
struct Moody(Arc<AtomicU64>);

const FINE: u64 = 0;
const REFUSES: u64 = 1;
const PANICS: u64 = 2;
const REFUSES_TO_DECODE: u64 = 3;
const PANICS_DECODING: u64 = 4;
const LONGER: u64 = 5;

impl Codec<u64> for Moody {
    fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(&value.to_le_bytes());
        match self.0.load(Ordering::SeqCst) {
            REFUSES => Err(CodecError::custom("not today")),
            PANICS => panic!("a codec that panics"),
            LONGER => {
                out.extend_from_slice(&[0; 100_000]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
        match self.0.load(Ordering::SeqCst) {
            REFUSES_TO_DECODE => Err(CodecError::custom("not that one")),
            PANICS_DECODING => panic!("a codec that panics"),
            _ => Plain.decode(bytes),
        }
    }

    fn fingerprint(&self) -> String {
        "moody".into()
    }
}

fn moody(path: &Path, rows: &Arc<Rows>, mood: &Arc<AtomicU64>) -> Result<Cache<u64, u64>, OpenError> {
    quiet(rows)
        .write_timeout(Duration::from_millis(200))
        .journal(path)
        .journal_size(SMALL)
        .journal_limit(SMALL)
        .codecs(Plain, Moody(Arc::clone(mood)))
        .open()
}

#[test]
fn c11_a_codec_that_fails_writes_nothing() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let (rows, mood) = (down(), Arc::new(AtomicU64::new(FINE)));
    let cache = moody(&path, &rows, &mood).unwrap();
    cache.put(1, 1).unwrap();
    for broken in [REFUSES, PANICS, LONGER] {
        mood.store(broken, Ordering::SeqCst);
        for key in [1, 2] {
            let put = catch_unwind(AssertUnwindSafe(|| cache.put(key, 2)));
            let update = catch_unwind(AssertUnwindSafe(|| cache.update_if(key, |_| Some(2))));
            let many = catch_unwind(AssertUnwindSafe(|| cache.put_many([(key, 2)])));
            let fails = [put.map(drop_ok), update.map(drop_ok), many.map(drop_ok)];
            for failed in fails {
                match (broken, failed) {
                    (REFUSES, Ok(Err(Error::Codec(error)))) => assert_eq!(error.to_string(), "not today"),
                    (LONGER, Ok(Err(Error::RecordTooLarge { .. }))) => {}
                    // Told either way: the engine may hand the panic on, as it does with those of closures.
                    (PANICS, Ok(Err(Error::Codec(_))) | Err(_)) => {}
                    (_, other) => panic!("mood {broken}: {other:?}"),
                }
            }
        }
        assert_eq!((cache.peek(&1), cache.peek(&2), cache.stats().dirty), (Some(1), None, 1));
        // A tombstone has no value to encode.
        cache.remove(&3).unwrap();
        mood.store(FINE, Ordering::SeqCst);
        cache.put(3, 3).unwrap();
        cache.put(1, 1).unwrap();
        cache.remove(&3).unwrap();
        let copy = crate::common::crash(&path, "copy.journal");
        let again = moody(&copy, &rows, &mood).unwrap();
        assert_eq!(again.recovery().unwrap().damage, []);
        assert_eq!((again.peek(&1), again.peek(&2), again.peek(&3)), (Some(1), None, None));
        drop(again);
        // For the next round.
        rows.clear_fault();
        cache.flush().unwrap();
        cache.put(1, 1).unwrap();
        rows.set_fault(|_| Err(BackendError::transient("down")));
        cache.put(1, 1).unwrap();
    }
}

fn drop_ok<T>(result: Result<T, Error>) -> Result<(), Error> {
    result.map(drop)
}

#[test]
fn c11_a_codec_that_cannot_read_what_is_there() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let (rows, mood) = (down(), Arc::new(AtomicU64::new(FINE)));
    let cache = moody(&path, &rows, &mood).unwrap();
    for key in 0..10 {
        cache.put(key, key).unwrap();
    }
    drop(cache);
    let before = image(&path);
    mood.store(REFUSES_TO_DECODE, Ordering::SeqCst);
    let error = refusal(moody(&path, &rows, &mood));
    assert!(matches!(error, JournalError::Undecodable { .. }), "{error}");
    assert!(image(&path) == before, "a refused journal was changed");
    mood.store(PANICS_DECODING, Ordering::SeqCst);
    match catch_unwind(AssertUnwindSafe(|| moody(&path, &rows, &mood))) {
        Ok(opened) => assert!(matches!(refusal(opened), JournalError::Undecodable { .. })),
        Err(_) => println!("a panic of the codec reaches the caller of `open`"),
    }
    assert!(image(&path) == before, "a refused journal was changed");
    mood.store(FINE, Ordering::SeqCst);
    let cache = moody(&path, &rows, &mood).unwrap_or_else(|error| panic!("still locked? {error}"));
    assert_eq!(cache.len(), 10);
}

/// A codec that fails when the engine writes a record a second time, to use the space of the first again: nothing is lost,
/// nobody hangs, and when it works again so does everything.
#[test]
fn c09_a_codec_that_fails_under_the_flusher() {
    for broken in [REFUSES, PANICS, LONGER] {
        let folder = place();
        let path = folder.path().join("a.journal");
        let (rows, mood) = (down(), Arc::new(AtomicU64::new(FINE)));
        let cache = moody(&path, &rows, &mood).unwrap();
        for key in 0..100 {
            cache.put(key, key).unwrap();
        }
        // Removes need no codec for values, so they can fill the journal while it is broken.
        mood.store(broken, Ordering::SeqCst);
        let mut full = 0;
        for n in 0..30_000 {
            match cache.remove(&(1_000 + n % 50)) {
                Ok(_) => {}
                Err(Error::JournalFull { .. }) => {
                    full += 1;
                    if full == 3 {
                        break;
                    }
                }
                Err(other) => panic!("mood {broken}: {other}"),
            }
        }
        println!("mood {broken}: full {full} times, {:?}", cache.stats().journal.unwrap());
        let copy = crate::common::crash(&path, "copy.journal");
        mood.store(FINE, Ordering::SeqCst);
        let again = moody(&copy, &rows, &mood).unwrap();
        assert!((0..100).all(|key| again.peek(&key) == Some(key)), "mood {broken}");
        drop(again);
        crate::common::eventually("it works again", || cache.put(5_000, 1).is_ok());
        for n in 0..3_000 {
            cache.put(5_000, n).unwrap();
        }
        rows.clear_fault();
        cache.flush().unwrap();
        assert!((0..100).all(|key| rows.get(&key) == Some(key)), "mood {broken}");
        assert!(cache.close(PATIENCE).is_drained());
    }
}

/// Values whose own encoding is refused by the types, not by the journal.
#[test]
fn c02_update_and_put_if_leave_the_same_records() {
    let folder = place();
    let path = folder.path().join("a.journal");
    let rows = down();
    rows.insert(9, 90);
    let cache = open(&path, &rows);
    cache.update(1, |old| old.map_or(1, |old| old + 1)).unwrap();
    cache.update(1, |old| old.map_or(1, |old| old + 1)).unwrap();
    assert!(cache.update_if(1, |_| None).unwrap().is_none());
    cache.update_if(9, |old| old.map(|old| old + 1)).unwrap();
    assert_eq!(cache.get_or_put_with(3, || 30).unwrap(), 30);
    assert_eq!(cache.get_or_put_with(3, || 31).unwrap(), 30);
    cache.put_many((10..20).map(|key| (key, key))).unwrap();
    let handle = cache.handle().unwrap();
    handle.put(4, 40).unwrap();
    handle.update(4, |old| old.unwrap() + 1).unwrap();
    handle.remove(&10).unwrap();
    drop(handle);
    let again = open(&crate::common::crash(&path, "copy.journal"), &rows);
    let expected = [(1, Some(2)), (9, Some(91)), (3, Some(30)), (4, Some(41)), (10, None), (11, Some(11))];
    for (key, value) in expected {
        assert_eq!(again.get(&key).unwrap(), value, "key {key}");
        assert!(again.is_dirty(&key), "key {key}");
    }
    assert_eq!(again.recovery().unwrap().entries, 14);
}
