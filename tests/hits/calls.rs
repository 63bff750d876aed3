//! System calls of a hit.

use crate::cache::{KEYS, open, read, warm_up};

const READS: u64 = 10_000;

/// How a child says that it may not forbid itself anything.
const REFUSED: i32 = 77;

pub(crate) fn check() -> Result<String, String> {
    let steps = open();
    // SAFETY: this process has one thread, so the child can do whatever the parent can.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        warm_up(steps.cache());
        // SAFETY: plain system call.
        let is_strict = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) } == 0;
        if is_strict {
            (0..READS).for_each(|number| read(steps.cache(), number % KEYS));
        }
        // Not `exit`, which ends all threads of a process and is forbidden.
        // SAFETY: ends the only thread; whatever it has is the parent's too.
        unsafe { libc::syscall(libc::SYS_exit, if is_strict { 0 } else { REFUSED }) };
        unreachable!("it has ended");
    }
    assert!(pid > 0, "fork failed: {}", std::io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waiting failed: {}", std::io::Error::last_os_error());
    match status {
        _ if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 => Ok(format!("none in {READS} hits")),
        _ if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == REFUSED => {
            Ok("SKIPPED: this system refuses seccomp".into())
        }
        _ if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL => {
            Err("a hit makes a system call".into())
        }
        _ => Err(format!("the child ended with status {status:#x}")),
    }
}
