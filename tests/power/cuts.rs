//! Simulated power cuts: a file system that is shut down while a process writes a journal on it.
//!
//! An ext4 on a loop device is told to stop at once and to write nothing more, not even its log; then the process is
//! killed, the file system mounted again, and the journal read. What counts is what was acknowledged *before* the cut.
//! The child keeps its acknowledgements, and the rows of its backend, in memory that it shares with the parent. Needs root
//! and loop devices, and says so where it has none.

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use writeback::{Ack, Answers, Backend, BackendError, Batch, Cache, JournalSync, Op, faults};

use super::workload::{Random, nonce, value};

const KEYS: usize = 64;
const LONGEST: usize = 300;
/// Writers of the child.
const WRITERS: usize = 3;

/// Words that parent and child share.
struct Shared {
    map: memmap2::MmapRaw,
}

impl Shared {
    const WORDS: usize = 2 * KEYS + 2;

    fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(Self::WORDS as u64 * 8).unwrap();
        Shared { map: memmap2::MmapOptions::new().map_raw(&file).unwrap() }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the map is as long as that, aligned to a page, and only ever used as atomics, here and in the child.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), Self::WORDS) }
    }

    /// For each key, the newest version that was acknowledged as synced.
    fn synced(&self) -> &[AtomicU64] {
        &self.words()[..KEYS]
    }

    /// For each key, the version that the backend has.
    fn stored(&self) -> &[AtomicU64] {
        &self.words()[KEYS..2 * KEYS]
    }

    /// How many writes were made, and how many of them acknowledged as synced.
    fn writes(&self) -> &AtomicU64 {
        &self.words()[2 * KEYS]
    }

    fn acks(&self) -> &AtomicU64 {
        &self.words()[2 * KEYS + 1]
    }
}

fn snapshot(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::SeqCst)).collect()
}

/// A database that is elsewhere, where the power stays on.
struct Elsewhere(Arc<Shared>);

impl Backend<u64, Vec<u8>> for Elsewhere {
    fn load(&self, keys: &[u64]) -> Result<Vec<Option<Vec<u8>>>, BackendError> {
        Ok(vec![None; keys.len()])
    }

    fn apply(&self, batch: &Batch<u64, Vec<u8>>) -> Answers {
        batch.answer_each(|op: &Op<u64, Vec<u8>>| {
            self.0.stored()[*op.key() as usize].store(op.version(), Ordering::SeqCst);
            Ok(())
        })
    }
}

/// Writes until it is killed.
pub(crate) fn child(journal: &Path, memory: &Path) -> ! {
    let shared = Arc::new(Shared::open(memory));
    let cache = Cache::builder()
        .capacity(4 * KEYS)
        .lanes(2)
        .journal(journal)
        .journal_size(1)
        .journal_sync(JournalSync::Every(Duration::from_millis(20)))
        .max_delay(Duration::from_millis(3))
        .backend(Elsewhere(Arc::clone(&shared)))
        .open::<u64, Vec<u8>>()
        .expect("the journal opens");
    let start = u64::from(std::process::id()) << 32;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS as u64 {
            let (cache, shared) = (&cache, &shared);
            scope.spawn(move || {
                let mut random = Random::new(start + writer);
                let mut number = start + (writer << 28);
                let acked = |key: u64, version: u64| {
                    shared.synced()[key as usize].fetch_max(version, Ordering::SeqCst);
                    shared.acks().fetch_add(1, Ordering::SeqCst);
                };
                let mut tickets = std::collections::VecDeque::new();
                loop {
                    let key = random.below(KEYS) as u64;
                    number += 1;
                    // After the cut nothing that it returns is of interest.
                    if writer == 0 {
                        let Ok(ticket) = cache.put_ticket(key, value(number, LONGEST), Ack::Synced) else {
                            return;
                        };
                        tickets.push_back((key, ticket));
                        if tickets.len() > 16 {
                            let (key, ticket) = tickets.pop_front().unwrap();
                            let Ok(version) = ticket.wait() else { return };
                            acked(key, version.get());
                        }
                    } else if random.below(4) != 0 {
                        let Ok(_) = cache.put(key, value(number, LONGEST)) else { return };
                    } else if random.below(8) == 0 {
                        let Ok(version) = cache.remove_acked(&key, Ack::Synced) else { return };
                        acked(key, version.get());
                    } else {
                        let put = cache.put_acked(key, value(number, LONGEST), Ack::Synced);
                        let Ok(version) = put else { return };
                        acked(key, version.get());
                    }
                    shared.writes().fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    loop {
        std::thread::park();
    }
}

unsafe extern "C" {
    fn ioctl(file: i32, request: u64, ...) -> i32;
}

/// A small file system of its own.
struct Disk {
    folder: tempfile::TempDir,
    device: Option<String>,
    is_mounted: bool,
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Disk {
    fn new() -> Result<Self, String> {
        let mut disk = Disk { folder: super::folder(), device: None, is_mounted: false };
        let image = disk.folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(48 << 20)).map_err(|error| error.to_string())?;
        std::fs::create_dir(disk.mount_point()).map_err(|error| error.to_string())?;
        let image = image.to_string_lossy().into_owned();
        run("mkfs.ext4", &["-q", "-F", &image])?;
        disk.device = Some(run("losetup", &["--find", "--show", &image])?);
        disk.mount()?;
        Ok(disk)
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn mount(&mut self) -> Result<(), String> {
        let device = self.device.clone().unwrap_or_default();
        run("mount", &["-t", "ext4", &device, &self.mount_point().to_string_lossy()])?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        run("umount", &[&self.mount_point().to_string_lossy()])?;
        self.is_mounted = false;
        Ok(())
    }

    /// From now on nothing reaches the device.
    fn cut(&self) -> Result<(), String> {
        const SHUTDOWN: u64 = 0x8004_587D;
        let without_log: u32 = 2;
        let folder = File::open(self.mount_point()).map_err(|error| error.to_string())?;
        // SAFETY: the request reads one u32 through the pointer, which lives until the call is over.
        let result = unsafe { ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const without_log) };
        if result == 0 { Ok(()) } else { Err(format!("ioctl: {}", std::io::Error::last_os_error())) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = self.unmount();
        }
        if let Some(device) = &self.device {
            let _ = run("losetup", &["-d", device]);
        }
    }
}

/// A child that is not left behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What came of a row of cuts.
#[derive(Default)]
struct Toll {
    cuts: u64,
    acks: u64,
    writes: u64,
    lost: u64,
    went_back: u64,
    refused: u64,
    /// Cuts that left something to recover, and those that left a hole or a torn tail.
    with_entries: u64,
    torn: u64,
    first: Option<String>,
}

/// Cuts the power so often. `rule`: what is switched off; then it stops at the first loss.
fn cut_row(cuts: u64, rule: Option<&str>) -> Result<Toll, String> {
    let mut disk = Disk::new()?;
    let memory = disk.folder.path().join("memory");
    let shared = Shared::open(&memory);
    let journal = disk.mount_point().join("a.journal");
    let (mut toll, mut random) = (Toll::default(), Random::new(99));
    for _ in 0..cuts {
        let (acks, writes) = (shared.acks().load(Ordering::SeqCst), shared.writes().load(Ordering::SeqCst));
        let mut child = super::myself();
        child.arg("--cut-child").arg(&journal).arg(&memory).stdin(Stdio::null()).stderr(Stdio::null());
        if let Some(rule) = rule {
            child.env("WRITEBACK_BROKEN_RULE", rule);
        }
        let mut child = Running(child.spawn().map_err(|error| error.to_string())?);
        let (wanted, begun) = (acks + 1 + random.below(120) as u64, Instant::now());
        while shared.acks().load(Ordering::SeqCst) < wanted {
            if let Ok(Some(status)) = child.0.try_wait() {
                return Err(format!("the child has ended by itself: {status}"));
            }
            if begun.elapsed() > Duration::from_secs(30) {
                return Err("the child acknowledges nothing".into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let synced = snapshot(shared.synced());
        disk.cut()?;
        drop(child);
        // What the database was given up to the end: between the look above and the cut the journal may have let go of what
        // the database has, and after the cut no batch goes out, because its sync fails.
        let stored = snapshot(shared.stored());
        disk.unmount()?;
        disk.mount()?;
        toll.cuts += 1;
        toll.acks += shared.acks().load(Ordering::SeqCst) - acks;
        toll.writes += shared.writes().load(Ordering::SeqCst) - writes;
        // After the cut there was no machine any more that could have acknowledged anything.
        shared.synced().iter().zip(&synced).for_each(|(word, before)| word.store(*before, Ordering::SeqCst));
        judge(&journal, &synced, &stored, &mut toll);
        if rule.is_some() && toll.lost + toll.went_back + toll.refused > 0 {
            break;
        }
    }
    Ok(toll)
}

/// Reads what is left, and compares.
fn judge(journal: &Path, synced: &[u64], stored: &[u64], toll: &mut Toll) {
    let mut recovered = [0; KEYS];
    let read = std::fs::read(journal).map_err(|error| error.to_string());
    match read.and_then(|bytes| faults::recover(&bytes)) {
        Ok(found) if !found.is_damaged => {
            toll.with_entries += u64::from(!found.entries.is_empty());
            toll.torn += u64::from(found.damages > 0);
            for entry in &found.entries {
                let key = u64::from_le_bytes(entry.key.as_slice().try_into().expect("a whole key")) as usize;
                let whole = entry.value.as_ref().is_none_or(|value| nonce(value, LONGEST).is_some());
                assert!(whole, "key {key} came back with a torn value");
                recovered[key] = entry.version;
            }
        }
        Ok(_) => {
            toll.refused += 1;
            toll.first.get_or_insert_with(|| "the journal counts as damaged".into());
        }
        Err(error) => {
            toll.refused += 1;
            toll.first.get_or_insert(error);
        }
    }
    for key in 0..KEYS {
        let (synced, stored, recovered) = (synced[key], stored[key], recovered[key]);
        if recovered.max(stored) < synced {
            toll.lost += 1;
            toll.first.get_or_insert_with(|| {
                format!("key {key}: {synced:x} was acked as synced, {recovered:x} recovered, {stored:x} in the backend")
            });
        }
        if recovered != 0 && recovered < stored {
            toll.went_back += 1;
            toll.first.get_or_insert_with(|| format!("key {key}: {recovered:x} would go over {stored:x}"));
        }
    }
}

/// Whether the machine allows it; prints why not.
fn is_possible() -> bool {
    match Disk::new().and_then(|mut disk| disk.cut().and_then(|()| disk.unmount())) {
        Ok(()) => true,
        Err(why) => {
            println!("SKIPPED: simulated power cuts (they need root, loop devices and ext4): {why}");
            false
        }
    }
}

pub(crate) fn cut_all(cuts: u64) {
    if cuts == 0 || !is_possible() {
        return;
    }
    let start = Instant::now();
    let toll = cut_row(cuts, None).unwrap_or_else(|why| panic!("the cuts came to nothing: {why}"));
    println!(
        "power cuts: {} in {:.1?}, {} writes, {} synced acks, {} lost, {} older than the backend's, {} journals refused; \
         something to recover after {}, torn tails or holes after {}",
        toll.cuts,
        start.elapsed(),
        toll.writes,
        toll.acks,
        toll.lost,
        toll.went_back,
        toll.refused,
        toll.with_entries,
        toll.torn
    );
    assert_eq!((toll.lost, toll.went_back, toll.refused), (0, 0, 0), "{:?}", toll.first);
    assert!(toll.acks > cuts && toll.with_entries > 0, "the cuts cut nothing");
    let control =
        cut_row(200, Some("sync")).unwrap_or_else(|why| panic!("the control came to nothing: {why}"));
    println!(
        "control sync (a synced ack without a sync): {} of {} cuts until {} acks were lost: {}",
        control.cuts,
        200,
        control.lost,
        control.first.as_deref().unwrap_or("nothing")
    );
    assert!(control.lost > 0, "without its syncs the journal loses nothing, so these cuts prove nothing");
}
