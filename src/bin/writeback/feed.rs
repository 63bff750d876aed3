//! A thread of its own reads the input and hands the events over in batches.
//!
//! The thread is the only one that waits for the input, so that an interrupt is obeyed although no byte comes
//! in; it is then left behind. It owns the [`Outbox`], and sends what it has before each read that may have to
//! wait.

use std::{
    cell::{Cell, RefCell},
    io::Read,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    column::Column,
    failure::Failure,
    input::{Input, Source},
    interrupt,
    words::{self, TooLong, Words},
};

/// The most events in one batch.
const BATCH: usize = 1_024;

/// The most batches that wait to be counted.
const WAITING: usize = 64;

/// How long an interrupt can go unnoticed.
const PATIENCE: Duration = Duration::from_millis(50);

/// What an event is.
#[derive(Debug, Clone)]
pub(crate) enum Events {
    /// Each word of a text.
    Words,
    /// The field of the column of this name, in each line of a CSV file.
    Column(String),
}

/// The events of an input, for any number of threads to take from.
pub(crate) struct Feed {
    batches: Mutex<Receiver<Vec<String>>>,
    reader: JoinHandle<Result<(), Failure>>,
    bytes_read: Arc<AtomicU64>,
    size: Option<u64>,
    /// Whether the reader has sent all that it will.
    ended: AtomicBool,
}

impl Feed {
    /// Starts to read, and returns when it is known that the input holds such events.
    pub(crate) fn start(input: Input, events: Events) -> Result<Self, Failure> {
        let size = input.size();
        let bytes_read = Arc::new(AtomicU64::new(0));
        let (sender, batches) = mpsc::sync_channel(WAITING);
        let (ready, is_ready) = mpsc::sync_channel(1);
        let counter = Arc::clone(&bytes_read);
        let read = move || {
            let outbox = Rc::new(Outbox::new(sender));
            let before_read = Rc::clone(&outbox);
            let source = input.open(counter, Box::new(move || before_read.send()))?;
            match events {
                Events::Words => read_words(source, &ready, &outbox),
                Events::Column(name) => read_column(Column::find(source, &name)?, &ready, &outbox),
            }
        };
        let reader = thread::Builder::new().name("reader".to_owned()).spawn(read).map_err(Failure::Spawn)?;
        let feed =
            Self { batches: Mutex::new(batches), reader, bytes_read, size, ended: AtomicBool::new(false) };
        loop {
            match is_ready.recv_timeout(PATIENCE) {
                Ok(()) => return Ok(feed),
                Err(RecvTimeoutError::Timeout) if interrupt::asked() => return Err(Failure::Interrupted),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return feed.finish().and(Err(Failure::Panicked)),
            }
        }
    }

    /// The next batch, or `None` behind the last one and after an interrupt.
    pub(crate) fn next(&self) -> Option<Vec<String>> {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        while !interrupt::asked() {
            match batches.recv_timeout(PATIENCE) {
                Ok(batch) => return Some(batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.ended.store(true, Ordering::Relaxed);
                    return None;
                }
            }
        }
        None
    }

    /// How many bytes of the input were read, before decompression.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// How many bytes the input has, where that is known.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether the last batch was taken, so that [`finish`](Self::finish) does not have to wait.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether the whole input was read, and if not, why.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        // A reader that still has something to send must not wait for a taker.
        drop(self.batches);
        self.reader.join().unwrap_or(Err(Failure::Panicked))
    }
}

fn read_words(source: Source, ready: &SyncSender<()>, outbox: &Outbox) -> Result<(), Failure> {
    let input = source.name().to_owned();
    let (mut reader, explain) = source.into_parts();
    let mut words = Words::default();
    let mut text = vec![0; 65_536];
    let _ = ready.try_send(());
    while !outbox.is_closed() {
        let n = match reader.read(&mut text) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                outbox.send();
                return Err(explain(error));
            }
        };
        if let Err(TooLong) = words.feed(&text[..n], |word| outbox.push(word)) {
            outbox.send();
            return Err(Failure::NotText { input, letters: words::LONGEST });
        }
    }
    if let Some(word) = words.finish() {
        outbox.push(word);
    }
    outbox.send();
    Ok(())
}

fn read_column(mut column: Column, ready: &SyncSender<()>, outbox: &Outbox) -> Result<(), Failure> {
    let _ = ready.try_send(());
    while !outbox.is_closed() {
        match column.next() {
            Ok(Some(field)) => outbox.push(field),
            Ok(None) => break,
            Err(failure) => {
                outbox.send();
                return Err(failure);
            }
        }
    }
    outbox.send();
    Ok(())
}

/// The events that were read and not yet sent.
struct Outbox {
    events: RefCell<Vec<String>>,
    sender: SyncSender<Vec<String>>,
    closed: Cell<bool>,
}

impl Outbox {
    fn new(sender: SyncSender<Vec<String>>) -> Self {
        Self { events: RefCell::new(Vec::with_capacity(BATCH)), sender, closed: Cell::new(false) }
    }

    fn push(&self, event: String) {
        let mut events = self.events.borrow_mut();
        events.push(event);
        let full = events.len() >= BATCH;
        drop(events);
        if full {
            self.send();
        }
    }

    fn send(&self) {
        if self.events.borrow().is_empty() {
            return;
        }
        let batch = self.events.replace(Vec::with_capacity(BATCH));
        if self.sender.send(batch).is_err() {
            self.closed.set(true);
        }
    }

    /// Whether nobody takes the events any more.
    fn is_closed(&self) -> bool {
        self.closed.get()
    }
}
