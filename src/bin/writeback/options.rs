//! The options that both commands have.

use std::{num::NonZero, thread, time::Duration};

use clap::{Args, value_parser};
use writeback::Builder;

/// More threads than this are a slip of the finger.
const MOST_THREADS: u64 = 1_024;

/// How long a write waits for room before its thread looks up and sees that it is time to end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// How the work is done and shown.
#[derive(Debug, Args)]
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

    /// Print one line of JSON to the standard output, and the summary to the standard error
    #[arg(long)]
    pub(crate) json: bool,

    /// Show nothing while working
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl Common {
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
