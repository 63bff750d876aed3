//! What the flusher remembers of a backend in trouble, so that it is told once and logged rarely. Plain data; the time is the
//! caller's.

use std::time::Duration;

/// A log line about the same trouble comes at most this often.
const LOG_PAUSE: Duration = Duration::from_secs(30);

/// Lets one line pass in [`LOG_PAUSE`], and counts what they are about.
#[derive(Default)]
pub(super) struct Pace {
    last: Option<Duration>,
    count: u64,
}

impl Pace {
    /// So many more. `Some`: a line is due, about so many.
    pub(super) fn count(&mut self, now: Duration, more: u64) -> Option<u64> {
        self.count += more;
        if self.last.is_some_and(|last| now.saturating_sub(last) < LOG_PAUSE) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// What there is to log about a failing backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It has refused so many operations since the last line, and has been failing for so long.
    Failing { operations: u64, lasting: Duration },
    /// It has stored a batch, after it had been failing for so long.
    Back { after: Duration },
}

/// The failures that will be tried again.
#[derive(Default)]
pub(super) struct FailureLog {
    pace: Pace,
    /// Since when every batch has had one.
    since: Option<Duration>,
    /// The log says that the backend fails.
    is_announced: bool,
}

impl FailureLog {
    pub(super) fn failed(&mut self, now: Duration, operations: u64) -> Option<Line> {
        let since = *self.since.get_or_insert(now);
        let operations = self.pace.count(now, operations)?;
        self.is_announced = true;
        Some(Line::Failing { operations, lasting: now.saturating_sub(since) })
    }

    pub(super) fn worked(&mut self, now: Duration) -> Option<Line> {
        let since = self.since.take()?;
        // A failure that was too short for a line of its own is over without one too.
        let back = Line::Back { after: now.saturating_sub(since) };
        std::mem::take(&mut self.is_announced).then_some(back)
    }

    pub(super) fn is_failing(&self) -> bool {
        self.since.is_some()
    }
}

/// The beginning or the end of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    Begins,
    Ends { after: Duration },
}

/// Something that lasts for a while, and is told when it begins and when it ends.
#[derive(Default)]
pub(super) struct Episode(Option<Duration>);

impl Episode {
    pub(super) fn begin(&mut self, now: Duration) -> Option<Edge> {
        if self.0.is_some() {
            return None;
        }
        self.0 = Some(now);
        Some(Edge::Begins)
    }

    pub(super) fn end(&mut self, now: Duration) -> Option<Edge> {
        self.0.take().map(|since| Edge::Ends { after: now.saturating_sub(since) })
    }
}

/// Watches the age of the oldest dirty entry.
pub(super) struct Watchdog {
    limit: Duration,
    /// An episode is over when the oldest is younger than this: less than the limit, so that one that hovers there is one
    /// episode and not a hundred.
    calm: Duration,
    episode: Episode,
}

impl Watchdog {
    pub(super) fn new(max_delay: Duration, limit: Duration) -> Self {
        let calm = max_delay.saturating_add(limit.saturating_sub(max_delay) / 2);
        Watchdog { limit, calm, episode: Episode::default() }
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn look(&mut self, age: Option<Duration>, now: Duration) -> Option<Edge> {
        match age {
            Some(age) if age > self.limit => self.episode.begin(now),
            Some(age) if age > self.calm => None,
            _ => self.episode.end(now),
        }
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_failing_backend_is_one_line_in_half_a_minute() {
        let mut log = FailureLog::default();
        assert_eq!(log.failed(s(10), 5), Some(Line::Failing { operations: 5, lasting: s(0) }));
        assert_eq!((log.failed(s(11), 1), log.failed(s(39), 2)), (None, None));
        assert_eq!(log.failed(s(40), 3), Some(Line::Failing { operations: 6, lasting: s(30) }));
        assert_eq!(log.worked(s(41)), Some(Line::Back { after: s(31) }));
        assert_eq!(log.worked(s(42)), None);
    }

    #[test]
    fn a_backend_that_comes_and_goes_is_not_two_lines_a_second() {
        let mut log = FailureLog::default();
        let lines = (0..600).filter(|&tick| {
            let line = if tick % 2 == 0 { log.failed(s(tick), 1) } else { log.worked(s(tick)) };
            line.is_some()
        });
        assert_eq!(lines.count(), 2 * 600 / 30);
    }

    #[test]
    fn an_episode_is_told_once_and_ends_well_below_the_limit() {
        let mut dog = Watchdog::new(s(2), s(4));
        assert_eq!(dog.look(Some(s(4)), s(10)), None);
        assert_eq!(dog.look(Some(s(5)), s(11)), Some(Edge::Begins));
        assert_eq!(dog.look(Some(s(4)), s(12)), None);
        assert_eq!(dog.look(Some(s(6)), s(13)), None);
        assert_eq!(dog.look(Some(s(3)), s(14)), Some(Edge::Ends { after: s(3) }));
        assert_eq!(dog.look(None, s(15)), None);
    }
}
