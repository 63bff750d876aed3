//! A parent that kills its child and a child that works until it is killed.
//!
//! The child opens a cache with a journal, compares what it finds with what the lives before it have promised, and goes
//! on writing and reading. What was promised stands on the [board]: a file that both have mapped and that outlives every
//! child, written without a system call. The parent chooses when and how a life ends, and what is broken in it.

mod backend;
mod board;
mod check;
mod child;
mod controls;
mod life;
mod model;
mod options;
mod parent;
mod spots;
mod tally;
mod work;

pub(crate) use self::{child::be_a_child_if_told, options::command_line};
#[allow(unused_imports, reason = "for the test, which has no command line")]
pub(crate) use self::{controls::run_all as run_controls, options::Options, parent::run};
