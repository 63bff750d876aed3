//! C12, measured: what a `get` of a cached key asks of the system, and what it writes.
//!
//! - *system calls*: a child forbids itself all of them (seccomp, strict mode) and reads. The first one would kill it.
//! - *shared lines*: all memory but the reader's stack is made read-only while it reads, so each store faults, is written
//!   down with its address, and is let through alone. Two threads do so, one after the other, with the same keys: a line
//!   that both have written is one that two cores would fight over, be it a lock, a count, or a list of what was used last.
//!
//! Written lines that are the reader's alone are its pin, which others look at when they advance the epoch. Every 128th pin
//! does that, and is the exception: it writes the epoch.
//!
//! `cargo test --release --features faults --test hits`. With a `main` of its own: a child of a process with threads could do
//! next to nothing.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod calls;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "../controls/mod.rs"]
#[allow(dead_code, reason = "each binary has some of them")]
mod controls;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod lines;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod stores;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("SKIPPED: stores are told by faults and single steps, and only for Linux on x86_64");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    let is_told = |word: &str| std::env::args().any(|argument| argument == word);
    if is_told("--list") {
        println!("hits: test");
        return ExitCode::SUCCESS;
    }
    let (calls, lines) = (calls::check(), lines::check());
    println!("system calls: {}\nshared lines: {}", told(&calls), told(&lines));
    // As the test harness says it, for the controls.
    if calls.is_err() || lines.is_err() {
        println!("test result: FAILED");
        return ExitCode::FAILURE;
    }
    println!("test result: ok. 1 passed");
    if !is_told("--exact") {
        controls::run(controls::HITS);
    }
    ExitCode::SUCCESS
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn told(result: &Result<String, String>) -> &str {
    result.as_ref().unwrap_or_else(|failure| failure)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod cache {
    use writeback::{
        Cache,
        backend::Memory,
        steps::{Outcome, Steps},
    };

    pub(crate) const KEYS: u64 = 64;

    type Hasher = writeback::DefaultHasher;

    /// A cache without threads, in which all keys are cached; every fourth is dirty.
    pub(crate) fn open() -> Steps<u64, u64, Hasher> {
        let rows = Memory::<u64, u64>::unrecorded();
        let opened = Cache::builder().capacity(1_000).flush_at(1_000).backend(rows).open_without_threads();
        let mut steps = opened.expect("a small cache");
        for key in 0..KEYS {
            steps.cache().put(key, key).expect("there is room");
        }
        assert!(matches!(steps.flush(), Outcome::Done));
        for key in (0..KEYS).step_by(4) {
            steps.cache().put(key, key).expect("there is room");
        }
        steps
    }

    /// Reads every key so often that no heat changes any more, and that the reader has what it needs.
    pub(crate) fn warm_up(cache: &Cache<u64, u64, Hasher>) {
        (0..10).for_each(|_| (0..KEYS).for_each(|key| read(cache, key)));
    }

    pub(crate) fn read(cache: &Cache<u64, u64, Hasher>, key: u64) {
        assert!(matches!(cache.get(&key), Ok(Some(value)) if value == key));
    }
}
