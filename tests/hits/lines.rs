//! Cache lines that hits of two threads have both written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    thread,
};

use crate::{
    cache::{KEYS, open, read, warm_up},
    stores::Recorder,
};

/// For each thread. Some of them advance the epoch.
const READS: usize = 512;
/// A pin in so many advances the epoch.
const PINS: usize = 128;

/// Lines that one thread has written, and in which of its reads.
type Written = BTreeMap<usize, BTreeSet<usize>>;

pub(crate) fn check() -> Result<String, String> {
    let steps = open();
    let recorder = &Recorder::new();
    let (written, begun) = mpsc::channel::<Written>();
    let (first, second) = thread::scope(|scope| {
        let reader = |ended: mpsc::Receiver<()>| {
            let (cache, written) = (steps.cache(), written.clone());
            move || {
                warm_up(cache);
                let stores = recorder.record(READS, |number| read(cache, number as u64 % KEYS));
                let mut lines = Written::new();
                for (number, address) in stores {
                    lines.entry(address / 64).or_default().insert(number);
                }
                let _ = written.send(lines);
                // What is this thread's must not become the other's: it stays until that has read too.
                let _ = ended.recv();
            }
        };
        let [(_first_ends, ended), (_second_ends, ended_too)] = [mpsc::channel(), mpsc::channel()];
        scope.spawn(reader(ended));
        let first = begun.recv().expect("the first reader's lines");
        scope.spawn(reader(ended_too));
        (first, begun.recv().expect("the second reader's lines"))
    });
    let shared: BTreeSet<_> = first.keys().filter(|line| second.contains_key(line)).collect();
    let reads_of = |lines: &Written| -> BTreeSet<usize> {
        shared.iter().flat_map(|line| lines[line].iter().copied()).collect()
    };
    let reads = reads_of(&first).len().max(reads_of(&second).len());
    let found = format!(
        "{READS} hits of each of two threads wrote {} and {} lines; {} of them both, in {reads} hits",
        first.len(),
        second.len(),
        shared.len()
    );
    if first.is_empty() || second.is_empty() {
        return Err(format!("{found}: a pin is a store, so this has not seen them all"));
    }
    if reads > READS / PINS { Err(format!("a hit writes shared lines: {found}")) } else { Ok(found) }
}
