//! Moments that rules protect and that chance alone meets too seldom: where threads stall, where the child then dies.

use super::model::Random;

pub(crate) struct Spot {
    /// The rules that it was made for. Without a broken rule every spot is a spot like any other.
    rules: &'static [&'static str],
    stall: &'static str,
    pub(crate) crash: &'static str,
    since: &'static str,
    /// The least of the longest stall, in microseconds.
    micros: u64,
}

const fn spot(
    rules: &'static [&'static str],
    stall: &'static str,
    crash: &'static str,
    since: &'static str,
) -> Spot {
    Spot { rules, stall, crash, since, micros: 100 }
}

impl Spot {
    /// Stalls that others can do a lot in.
    const fn long(self) -> Self {
        Spot { micros: 3_200, ..self }
    }
}

const SPOTS: &[Spot] = &[
    // A writer that has looked at the epoch and comes late.
    spot(&["enter-looks-again"], "window: looked", "prepare", "own stall"),
    spot(&["enter-looks-again"], "window: looked", "checkpoint: retired", "stall"),
    // A writer in its window while others go on in the next epoch.
    spot(&["epoch-follows-version", "copy-after-scan"], "window: entered", "checkpoint: retired", "stall"),
    spot(
        &["epoch-follows-version", "copy-after-scan"],
        "window: entered",
        "checkpoint: epoch again",
        "stall",
    ),
    spot(&["copy-after-scan"], "pend", "checkpoint: retired", "stall"),
    spot(&["writers-pass-first"], "put: published", "checkpoint: retired", "stall"),
    spot(&["writers-pass-first"], "put: queued", "checkpoint: retired", "stall"),
    spot(&["leave-after-queue", "writers-pass-first"], "put: published", "prepare", "own stall"),
    spot(&["leave-after-queue"], "put: queued", "prepare", "own stall"),
    // A flusher that is late between its look at the rings and its look at the lanes.
    // The writers are slow too: what they write in the next epoch makes up for what was missed.
    spot(&["collect-after-scan"], "checkpoint: polling=300,put: left=60", "checkpoint: retired", "own stall")
        .long(),
    spot(
        &["collect-after-scan"],
        "checkpoint: polling=500,put: left=150",
        "checkpoint: retired",
        "own stall",
    )
    .long(),
    // A head over what is not yet there.
    spot(&["head-before-body"], "", "pend: version", ""),
    // Attempts that lose, and what goes over their records.
    spot(&["pending-is-nothing", "live-before-publish"], "pend", "put: lost", ""),
    spot(&["pending-is-nothing", "live-before-publish"], "pend", "put: lost", "own stall"),
    spot(&["pending-is-nothing", "live-before-publish"], "window: entered=30,pend=60", "put: lost", "stall"),
    // A seal half made, over that of an older lap.
    spot(&["seal-end-first"], "", "segment: end", "checkpoint: segments returned"),
    spot(&["head-off-first"], "pend", "pend: header", "put: lost"),
    spot(&["head-off-first"], "pend", "prepare: payload", "put: lost"),
    // A reader that helps, late; and one that need not.
    spot(&["grace-period"], "put: published=3,help: found=700", "help: live", "own stall").long(),
    spot(&["grace-period"], "put: queued=5,help: found=700", "help: live", "own stall").long(),
    spot(&["flusher-makes-live"], "put: published", "flush: applied", ""),
    spot(&["flusher-makes-live"], "put: queued", "flush: settled", ""),
    spot(&["live-before-announced", "reader-makes-live"], "put: queued", "prepare", "stall"),
];

/// A spot for one life in three; of those of the broken rule, if it has any, for three in four.
pub(crate) fn choose(rule: Option<&str>, random: &mut Random) -> Option<&'static Spot> {
    let mut wanted: Vec<&Spot> =
        SPOTS.iter().filter(|spot| rule.is_some_and(|rule| spot.rules.contains(&rule))).collect();
    let is_meant = if wanted.is_empty() {
        wanted = SPOTS.iter().collect();
        random.one_in(3)
    } else {
        !random.one_in(4)
    };
    let index = random.below(wanted.len() as u64) as usize;
    wanted.get(index).copied().filter(|_| is_meant)
}

impl Spot {
    /// How a child is told.
    pub(crate) fn faults(&self, random: &mut Random) -> [(&'static str, String); 6] {
        [
            ("WRITEBACK_STALL_AT", self.stall.to_owned()),
            ("WRITEBACK_STALL_PERMILLE", (1 << random.below(8)).to_string()),
            (
                "WRITEBACK_STALL_MICROS",
                (self.micros << random.below(if self.micros > 1_000 { 4 } else { 8 })).to_string(),
            ),
            ("WRITEBACK_CRASH_AT", self.crash.to_owned()),
            ("WRITEBACK_CRASH_AFTER", random.below(2).to_string()),
            ("WRITEBACK_CRASH_SINCE", self.since.to_owned()),
        ]
    }
}
