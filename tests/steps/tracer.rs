//! Children that are run one instruction at a time, and killed.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A child that is stopped, and traced by us.
pub(crate) struct Child {
    pid: libc::pid_t,
}

/// What a child did when it was let go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It went on as far as it was meant to, and is stopped again.
    There,
    /// It was stopped by another signal, or has ended: this wait status.
    Otherwise(i32),
}

/// How far a child came that was to run to some instruction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Run {
    There,
    /// It took another way, and is at its next mark.
    Missed,
    /// No breakpoint can be set there, and it is where it was.
    Impossible,
}

/// How a child that may not be traced says so.
const REFUSED: i32 = 77;

/// Stops the calling process, if it is traced.
#[inline(never)]
pub(crate) fn mark() {
    // SAFETY: a breakpoint changes no memory and no register. Only children that asked to be traced call this.
    unsafe { std::arch::asm!("int3", options(nomem, nostack)) }
}

impl Child {
    /// Forks a child that runs `body` until that calls [`mark`]. `Err`: this system does not let us trace it.
    ///
    /// The child is a copy of this process, so every one of them has the same addresses. Our process has one thread, so
    /// the child may do what it likes.
    pub(crate) fn start(body: impl FnOnce()) -> Result<Child, String> {
        // SAFETY: this process has one thread, so no lock is held by somebody who is not there in the child.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: plain system call.
            let refused = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } != 0;
            if !refused {
                let _ = catch_unwind(AssertUnwindSafe(body));
            }
            // SAFETY: ends the process at once; whatever it has is the parent's too.
            unsafe { libc::_exit(if refused { REFUSED } else { 1 }) }
        }
        assert!(pid > 0, "fork failed: {}", std::io::Error::last_os_error());
        let child = Child { pid };
        match child.wait() {
            Stop::There => {}
            Stop::Otherwise(status) if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == REFUSED => {
                return Err("this system refuses PTRACE_TRACEME".into());
            }
            Stop::Otherwise(status) => panic!("the child did not come to its mark: status {status:#x}"),
        }
        // SAFETY: plain system call. If we die, so does the child.
        let set = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_EXITKILL) };
        if set == 0 { Ok(child) } else { Err("this system refuses PTRACE_SETOPTIONS".into()) }
    }

    /// Lets it execute one instruction.
    pub(crate) fn step(&self) {
        self.go(libc::PTRACE_SINGLESTEP);
    }

    /// Lets it run to its next entry into a system call, or the next return from one.
    pub(crate) fn to_system_call(&self) {
        self.go(libc::PTRACE_SYSCALL);
    }

    /// Lets it run to its next mark.
    pub(crate) fn to_mark(&self) {
        self.go(libc::PTRACE_CONT);
    }

    fn go(&self, how: libc::c_uint) {
        // SAFETY: plain system call, for a child that is stopped.
        let done = unsafe { libc::ptrace(how, self.pid, 0, 0) };
        assert_eq!(done, 0, "letting the child go failed: {}", std::io::Error::last_os_error());
        let stop = self.wait();
        assert_eq!(stop, Stop::There, "the child went another way");
    }

    fn wait(&self) -> Stop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        assert_eq!(pid, self.pid, "waiting failed: {}", std::io::Error::last_os_error());
        if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP {
            Stop::There
        } else {
            Stop::Otherwise(status)
        }
    }

    /// Lets it run to the next time that it is about to execute the instruction at this address.
    pub(crate) fn run_to(&self, address: u64) -> Run {
        let code = self.code(address);
        // SAFETY: writes the child's own copy of its code: this breakpoint, and below what was there.
        let put =
            |word: libc::c_long| unsafe { libc::ptrace(libc::PTRACE_POKETEXT, self.pid, address, word) };
        if put(code & !0xff | 0xcc) != 0 {
            return Run::Impossible;
        }
        self.go(libc::PTRACE_CONT);
        assert_eq!(put(code), 0, "taking a breakpoint away failed");
        let mut registers = self.registers();
        if registers.rip != address + 1 {
            return Run::Missed;
        }
        registers.rip = address;
        // SAFETY: `registers` outlives the call.
        let set = unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.pid, 0, &raw const registers) };
        assert_eq!(set, 0, "writing registers failed");
        Run::There
    }

    /// The address of its next instruction.
    pub(crate) fn address(&self) -> u64 {
        self.registers().rip
    }

    /// Whether the instruction at this address is a system call.
    pub(crate) fn is_system_call(&self, address: u64) -> bool {
        self.code(address) & 0xffff == 0x050f
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: zero is a value of all of its numbers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: `registers` outlives the call.
        let got = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.pid, 0, &raw mut registers) };
        assert_eq!(got, 0, "reading registers failed");
        registers
    }

    fn code(&self, address: u64) -> libc::c_long {
        // SAFETY: reads a word of the child's memory.
        unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, self.pid, address, 0) }
    }

    /// Kills it where it is.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: plain system calls, for a child of ours that nobody has waited for to its end.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            let mut status = 0;
            // Stops that were on their way come first.
            while libc::waitpid(self.pid, &raw mut status, 0) == self.pid && !libc::WIFSIGNALED(status) {
                if libc::WIFEXITED(status) {
                    break;
                }
            }
        }
    }
}

/// Keeps this process and its children on one core: they take turns anyway, and a step within one core is several times as
/// fast as one across two. `last`: on the last core that there is, else on the first.
pub(crate) fn stay_on_one_core(last: bool) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    // Where it is refused everything is only slower.
    if let Some(core) = if last { cores.last() } else { cores.first() } {
        core_affinity::set_for_current(*core);
    }
}
