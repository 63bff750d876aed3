//! Recorded histories of a cache with a journal that is killed again and again; see `docs/reliability.md`.
//!
//! A child process works until it is killed, and the next one opens its journal. What was done and told stands in a file that
//! all of them have mapped, so that it outlives them, as do the rows of the database. The parent puts the histories together
//! (what the next life finds is the last read of each) and has them checked.

mod board;
mod child;
mod history;
mod parent;
mod search;
mod versions;

pub(crate) use child::be_a_child_if_told;
pub(crate) use parent::{Plan, run};
