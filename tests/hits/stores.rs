//! Every store that this thread makes outside of its stack, by its address.
//!
//! The pages are read-only meanwhile. A store into one faults; the handler writes the address down, lets the page be written,
//! and has the processor stop after this one instruction, where another handler takes the permission back.

use std::{
    fs,
    mem::zeroed,
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed},
};

const PAGE: usize = 4096;
/// The flag that has the processor stop after the next instruction.
const TRAP: i64 = 0x100;
/// Pages that one instruction can write.
const OPEN: usize = 2;
const STORES: usize = 1 << 16;
const MAPS: usize = 1 << 10;

/// What the handlers write: in pages of its own, which stay writable.
#[repr(C)]
struct Log {
    /// The number of the step that is under way.
    step: AtomicUsize,
    count: AtomicUsize,
    stores: [(AtomicUsize, AtomicUsize); STORES],
    open: [AtomicUsize; OPEN],
    maps: AtomicUsize,
    /// What is read-only.
    map: [(AtomicUsize, AtomicUsize); MAPS],
}

/// For the handlers. One recording at a time.
static LOG: AtomicPtr<Log> = AtomicPtr::new(ptr::null_mut());

pub(crate) struct Recorder(&'static Log);

impl Recorder {
    pub(crate) fn new() -> Self {
        let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new pages, of zeros; nobody unmaps them.
        let log = unsafe {
            let pages = libc::mmap(ptr::null_mut(), size_of::<Log>(), read | write, how, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED, "no memory");
            LOG.store(pages.cast(), Relaxed);
            &*pages.cast::<Log>()
        };
        for (signal, handler) in
            [(libc::SIGSEGV, on_store as *const ()), (libc::SIGTRAP, on_step as *const ())]
        {
            // SAFETY: zero is a value of all of its fields; both handlers are of the kind that SA_SIGINFO means.
            let set = unsafe {
                let mut action: libc::sigaction = zeroed();
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(signal, &raw const action, ptr::null_mut())
            };
            assert_eq!(set, 0, "no handler");
        }
        Recorder(log)
    }

    /// Runs `step` so often, and returns which of them has stored at which address. Every other thread has to sleep.
    pub(crate) fn record(&self, steps: usize, mut step: impl FnMut(usize)) -> Vec<(usize, usize)> {
        let log = self.0;
        self.note_maps();
        log.count.store(0, Relaxed);
        protect(log, libc::PROT_READ);
        for number in 0..steps {
            log.step.store(number, Relaxed);
            step(number);
        }
        protect(log, libc::PROT_READ | libc::PROT_WRITE);
        let count = log.count.load(Relaxed);
        assert!(count <= STORES, "more stores than there is room for");
        log.stores[..count]
            .iter()
            .map(|(step, address)| (step.load(Relaxed), address.load(Relaxed)))
            .collect()
    }

    /// All writable memory, but stacks and the log.
    fn note_maps(&self) {
        let on_stack = ptr::from_ref(&self).addr();
        let log = ptr::from_ref(self.0).addr();
        let maps = fs::read_to_string("/proc/self/maps").expect("the maps of this process");
        let mut count = 0;
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ').expect("a range");
            let (start, end) = range.split_once('-').expect("two addresses");
            let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).expect("an address"));
            let is_kept =
                [on_stack, log].iter().any(|at| (start..end).contains(at)) || rest.contains("[stack]");
            if rest.starts_with("rw") && !is_kept {
                let (from, until) = &self.0.map[count];
                from.store(start, Relaxed);
                until.store(end, Relaxed);
                count += 1;
            }
        }
        self.0.maps.store(count, Relaxed);
    }
}

fn protect(log: &Log, how: libc::c_int) {
    for (start, end) in &log.map[..log.maps.load(Relaxed)] {
        let (start, end) = (start.load(Relaxed), end.load(Relaxed));
        // SAFETY: whoever stores there in between is let through by the handlers; nobody stores from inside a system call.
        let set = unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(start), end - start, how) };
        assert_eq!(set, 0, "a map that cannot be protected");
    }
}

/// Lets one page be written, or not any more.
fn set_page(page: usize, how: libc::c_int) {
    // SAFETY: as in `protect`.
    unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(page), PAGE, how) };
}

extern "C" fn on_store(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: set before the handlers were, and for ever.
    let log = unsafe { &*LOG.load(Relaxed) };
    // SAFETY: the kernel's, for this handler.
    let address = unsafe { (*info).si_addr() }.addr();
    let maps = &log.map[..log.maps.load(Relaxed)];
    let is_ours = maps.iter().any(|(start, end)| (start.load(Relaxed)..end.load(Relaxed)).contains(&address));
    let open = log.open.iter().find(|page| page.load(Relaxed) == 0);
    let (true, Some(open)) = (is_ours, open) else {
        // A fault like any other: next time it ends the process.
        // SAFETY: plain system call.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    let count = log.count.fetch_add(1, Relaxed);
    if let Some((step, at)) = log.stores.get(count) {
        step.store(log.step.load(Relaxed), Relaxed);
        at.store(address, Relaxed);
    }
    let page = address & !(PAGE - 1);
    open.store(page, Relaxed);
    set_page(page, libc::PROT_READ | libc::PROT_WRITE);
    *flags(context) |= TRAP;
}

extern "C" fn on_step(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: as in `on_store`.
    let log = unsafe { &*LOG.load(Relaxed) };
    for page in &log.open {
        match page.swap(0, Relaxed) {
            0 => {}
            page => set_page(page, libc::PROT_READ),
        }
    }
    *flags(context) &= !TRAP;
}

/// The processor's flags, as they will be when the handler has returned.
fn flags<'a>(context: *mut libc::c_void) -> &'a mut i64 {
    // SAFETY: the kernel's, for this handler, which has the only reference.
    unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] }
}
