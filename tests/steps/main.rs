//! A `kill -9` after every single instruction of the journal's five protocols: put, remove, checkpoint, copy, recovery.
//!
//! A child opens a cache without threads (see `writeback::steps`), brings it into some state, and stops at a breakpoint
//! before the operation under test; its parent lets it execute instruction by instruction. What a SIGKILL leaves are the
//! pages of the journal's file, which the kernel keeps. Two methods look at them:
//!
//! - *walk*: one child is stepped to the end, and after each instruction that has changed the file, or what the child has
//!   been told, the parent recovers from a copy of it. All the other instructions leave what their predecessor left.
//! - *kill*: for each number of instructions a new child executes that many and is killed, and the parent recovers from its
//!   file. This costs the square of the number of instructions, but takes nothing on trust.
//!
//! Every recovery has to find all that was acknowledged, and the write under test as a whole or not at all; no damage; no
//! version older than the database's; and the database must end up with all of it.
//!
//! `cargo test --release --features faults --test steps` is the bounded form, `… -- --full` the long one.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod check;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod life;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod page;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod run;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod sweep;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tracer;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("SKIPPED: single steps are made with ptrace, and only for Linux on x86_64");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    run::run()
}
