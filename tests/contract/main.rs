//! The contract of the cache, tested from outside: nothing here knows how the engine works.
//!
//! A test's name starts with the invariant (`c06`) or the known failure (`f21`) that it stands for, or with `e` for what is told of them. Tests wait for
//! conditions and not for times, and say so when what they wait for never happened.

// `drop` turns an answer into nothing at the end of a closure, also where the answer is only a number.
#![allow(dropping_copy_types)]

mod backpressure;
mod bad_input;
mod coalescing;
mod common;
#[cfg(feature = "faults")]
mod controls;
mod deadlines;
mod durability;
mod events;
mod eviction;
mod failures;
mod flushing;
mod handles;
mod histories;
mod hostile;
mod limits;
mod linearizability;
mod loads;
mod ordering;
mod ranks;
mod reentrancy;
mod shutdown;
mod updates;
mod values;
