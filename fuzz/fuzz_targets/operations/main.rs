//! Sequences of operations against a model, over a backend that refuses, loses answers, takes operations in another order,
//! hangs while all else goes on, and whose cache is killed at any of these moments.
//!
//! The cache has no threads: the flusher is driven by hand, so an input does the same every time, and thousands fit into a
//! second. A backend that hangs is one that carries out the next interlude before it goes on: what other threads would do
//! meanwhile. A kill is a copy of the journal's file, which is all that a kill leaves, and of the rows.
//!
//! From the root of the repository, after `mkdir -p fuzz/corpus/operations`:
//! `cargo +nightly fuzz run operations fuzz/corpus/operations fuzz/seeds/operations`, or without nightly
//! `cargo fuzz run -s none operations fuzz/corpus/operations fuzz/seeds/operations`.

#![no_main]

mod backend;
#[path = "../shared/folder.rs"]
mod folder;
mod life;
mod world;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

use crate::{
    backend::{Call, Mood},
    life::Life,
    world::Deed,
};

#[derive(Debug, Arbitrary)]
pub(crate) enum Step {
    Do(Deed),
    Flush,
    Checkpoint,
    Rounds(u8),
    Advance {
        millis: u16,
    },
    Become(Mood),
    /// The next call of this kind hangs while these are done.
    Interlude {
        during: Call,
        before: bool,
        deeds: [Deed; 3],
    },
    /// Killed, and opened again.
    Crash,
}

#[derive(Debug)]
pub(crate) struct Input {
    capacity: u8,
    batch_size: u8,
    flush_at: u8,
    max_dirty: Option<u8>,
    cache_absent: bool,
    journal: bool,
    steps: Vec<Step>,
}

impl<'a> Arbitrary<'a> for Input {
    /// All bytes become steps. A derived list asks before each element whether it goes on, and is short most of the time.
    fn arbitrary(bytes: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut input = Input {
            capacity: bytes.arbitrary()?,
            batch_size: bytes.arbitrary()?,
            flush_at: bytes.arbitrary()?,
            max_dirty: bytes.arbitrary()?,
            cache_absent: bytes.arbitrary()?,
            journal: bytes.arbitrary()?,
            steps: Vec::new(),
        };
        while !bytes.is_empty() {
            input.steps.push(bytes.arbitrary()?);
        }
        Ok(input)
    }
}

fuzz_target!(|input: Input| {
    let mut life = Life::begin(&input);
    for step in input.steps {
        life = life.take(step);
    }
    life.end();
});
