//! The same pages for all.
//!
//! This engine asks for huge pages by itself where the system leaves that to programs. Its peers take what the allocator
//! gives; so the allocator asks for them too, which glibc does if its environment says so when the program starts.

use std::{env, os::unix::process::CommandExt, process::Command};

const VARIABLE: &str = "GLIBC_TUNABLES";
const SETTING: &str = "glibc.malloc.hugetlb=1";

/// Starts this program anew with huge pages for the allocator, unless it is already running so.
pub(crate) fn make_huge() {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let error = Command::new(program).args(env::args_os().skip(1)).env(VARIABLE, SETTING).exec();
        eprintln!("huge pages: {error}; going on with those that the system gives");
    }
}

/// What pages the subjects have.
pub(crate) fn describe() -> &'static str {
    if env::var(VARIABLE).is_ok_and(|value| value.contains(SETTING)) {
        "the allocator asks for huge ones for everybody (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`), this engine for its tables by itself"
    } else {
        "this engine asks for huge ones, all others get what the system gives"
    }
}
