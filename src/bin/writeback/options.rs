//! The options that both commands have.

use std::{ffi::OsString, num::NonZero, path::PathBuf, thread, time::Duration};

use clap::{Args, value_parser};
use writeback::{Builder, Cache};

use crate::{
    database::{Key, Store},
    drain::drain,
    failure::Failure,
    format,
    view::View,
};

/// More threads than this are a slip of the finger.
const MOST_THREADS: u64 = 1_024;

/// How long a write waits for room before its thread looks up and sees that it is time to end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// How the work is done and shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Writer threads [default: one per core]
    #[arg(long, short, value_name = "N", value_parser = value_parser!(u64).range(1..=MOST_THREADS))]
    pub(crate) threads: Option<u64>,

    /// A key is written at most this long after it first became dirty
    #[arg(long, value_name = "MS", default_value_t = 500)]
    #[arg(value_parser = value_parser!(u64).range(1..=3_600_000))]
    max_delay: u64,

    /// Dirty entries that make the cache flush early [default: half of the capacity]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    flush_at: Option<u64>,

    /// The most rows that go to the database in one transaction
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = value_parser!(u64).range(1..=1_000_000))]
    batch_size: u64,

    /// How long the database may take to write what is dirty at the end, or to take an event at all
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    drain_timeout: Duration,

    /// Keep a journal there: what was acknowledged survives a crash, and goes to the database first the next time
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,

    /// Print one line of JSON to the standard output, and the summary to the standard error
    #[arg(long)]
    pub(crate) json: bool,

    /// Show nothing while working
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl Common {
    /// Opens the cache, with a journal if one was asked for.
    ///
    /// What an earlier run has left in the journal is written to the table before anything else, so that whoever reads the
    /// table next finds all of it.
    pub(crate) fn open<K>(
        &self,
        make: impl Fn() -> Builder,
        backend: &Store<K>,
        view: &mut View,
    ) -> Result<Cache<K, i64>, Failure>
    where
        K: Key,
    {
        let builder = || self.tune(make()).backend(backend.clone());
        let Some(path) = &self.journal else { return Ok(builder().open()?) };
        let cache: Cache<K, i64> = builder().journal(path).open()?;
        let Some(found) = cache.recovery().map(|recovery| recovery.entries).filter(|found| *found > 0) else {
            return Ok(cache);
        };
        let writes = format::plural(found as u64, "unflushed write", "unflushed writes");
        view.note(&format!("{}: {writes} of an earlier run, which go to the database first", path.display()));
        if let Some((_, cause)) = drain(&cache, self.patience(), view).remaining {
            return Err(Failure::NotRecovered { path: path.clone(), writes, cause });
        }
        // Not the same cache: it has values of that run, and the table may yet be emptied.
        drop(cache);
        Ok(builder().journal(path).open()?)
    }

    /// The options that change how the cache works, as arguments for another process.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            "--max-delay".into(),
            self.max_delay.to_string().into(),
            "--batch-size".into(),
            self.batch_size.to_string().into(),
        ];
        arguments.extend(self.flush_at.iter().flat_map(|n| ["--flush-at".into(), n.to_string().into()]));
        arguments
    }

    /// Sets up the cache as asked.
    pub(crate) fn tune(&self, builder: Builder) -> Builder {
        let max_delay = Duration::from_millis(self.max_delay);
        let builder =
            builder.max_delay(max_delay).batch_size(self.batch_size as usize).write_timeout(WRITE_TIMEOUT);
        match self.flush_at {
            Some(dirty) => builder.flush_at(dirty as usize),
            None => builder,
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.drain_timeout
    }
}

/// The asked-for number of threads, or one per core.
pub(crate) fn threads(asked: Option<u64>) -> usize {
    match asked {
        Some(threads) => threads as usize,
        None => thread::available_parallelism().map_or(1, NonZero::get),
    }
}

/// A time in seconds, with or without a fraction.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 1_000_000.0;
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= MOST => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("give a number of seconds above 0, such as 5 or 0.5, and not above {MOST}")),
    }
}
