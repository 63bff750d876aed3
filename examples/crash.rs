//! The crash harness, as long as you like: a process with a cache, killed again and again, and what is found after it.
//!
//! ```sh
//! cargo run --release --features sqlite,faults --example crash -- --kills 20000
//! cargo run --release --features sqlite,faults --example crash -- --rule copy-before-retire --expect-failure
//! ```
//!
//! `docs/reliability.md` says what it checks and what it has found.

#[path = "crash/mod.rs"]
mod harness;

fn main() -> std::process::ExitCode {
    harness::be_a_child_if_told();
    harness::command_line()
}
