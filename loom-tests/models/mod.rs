//! Models of the lock-free parts, explored with loom. They are compiled into the library's own test build, so each of
//! them runs the shipped code. `loom-tests/README.md` says what each one shows, and which mutants it has to fail.

mod canary;
mod close;
mod commit;
mod dirty_map;
mod epochs;
mod fifo;
mod grace;
mod journal;
mod load;
mod recycle;
mod ring;
mod signal;
mod store;
mod table;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use loom::thread::{self, JoinHandle};

use crate::grace::Guard;

/// Explores a model, and prints in how many executions. `preemptions` bounds how often a thread may be interrupted where
/// it could go on (`None`: the exploration is exhaustive); the variable `LOOM_MAX_PREEMPTIONS` has the last word.
fn explore(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // Either would end the exploration early, with success.
    assert!(
        builder.max_duration.is_none() && builder.max_permutations.is_none(),
        "a model is explored to its end"
    );
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.max_branches = 20_000;
    let executions = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("Completed in {} iterations", executions.load(Ordering::Relaxed));
}

/// A guard that pins nothing, for models in which no slot is used twice: it keeps the steps of reclamation out of them.
fn unpinned() -> &'static Guard {
    Guard::of_nothing()
}

fn spawn<T: 'static>(body: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    thread::spawn(body)
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("the model's thread does not panic")
}
