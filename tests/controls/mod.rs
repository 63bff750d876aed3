//! Negative controls: a test that finds nothing shows something only if it would find something. So rules of the engine are
//! left out, one at a time (`writeback::faults`), and a test that speaks of the rule has to notice, in its own words.
//!
//! A rule is left out in a process of its own: the test's binary again, with one test. Rules of the journal's protocol have
//! their controls in `tests/crash.rs`, `tests/power` and `tests/steps`.

use std::{
    env,
    io::Read,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use writeback::faults::CONTRACT_RULES;

pub(crate) struct Control {
    /// What is left out.
    rule: &'static str,
    /// The test that notices, as its binary calls it.
    test: &'static str,
    sign: Sign,
}

/// How a test notices.
enum Sign {
    /// It fails, and this is in what it says.
    Says(&'static str),
    /// It does not come to its end.
    Hangs,
}

const fn says(rule: &'static str, test: &'static str, what: &'static str) -> Control {
    Control { rule, test, sign: Sign::Says(what) }
}

/// Those of `tests/contract`.
pub(crate) const CONTRACT: &[Control] = &[
    says(
        "deadline-stays",
        "deadlines::c07_a_key_that_is_rewritten_every_millisecond_is_flushed_on_time",
        "flushes in",
    ),
    says(
        "edge-only",
        "coalescing::c08_a_hundred_updates_in_one_interval_are_one_backend_write",
        "right: (500, 5, 495)",
    ),
    says(
        "interval-is-waited-for",
        "coalescing::c08_a_stream_of_writes_costs_one_backend_write_for_each_interval",
        "backend writes in",
    ),
    says("dirty-limit", "limits::f02_at_a_dirty_limit_nothing_is_dropped", "left: (5000, 5000)"),
    says("dirty-limit", "limits::f29_dirty_bytes_stay_within_the_limit", "bytes were dirty"),
    Control {
        rule: "hit-waits-for-nobody",
        test: "reentrancy::c12_a_hit_waits_for_nobody",
        sign: Sign::Hangs,
    },
];

/// Those of `tests/journal`.
pub(crate) const JOURNAL: &[Control] = &[
    says("segments-come-back", "bounds::c09_a_backend_that_is_down_does_not_grow_the_journal", "bytes for"),
    says("damage-is-refused", "damage::f46_a_cut_file_is_refused", "and opened"),
    says("damage-is-told", "damage::f45_a_garbled_tail_is_cut_off_and_reported", "failed: []"),
    says("damage-is-told", "damage::f45_every_byte_of_a_small_journal", "although whole records follow"),
    // A rule of the protocol, which a loss of power needs too.
    says("checksum", "damage::f45_random_damage_of_any_length", "a value that nobody wrote"),
];

/// Those of `tests/hits`.
pub(crate) const HITS: &[Control] = &[says("hit-takes-no-lock", "hits", "a hit writes shared lines")];

/// Longer than any of these tests takes, whatever it finds, unless it hangs.
const LONG: Duration = Duration::from_secs(50);
/// For one that is expected to hang, and else ends at once.
const SHORT: Duration = Duration::from_secs(8);

/// Runs all of them, side by side: most of them wait for what does not come. Fails over one that is not noticed.
pub(crate) fn run(controls: &[Control]) {
    let unnoticed: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = controls.iter().map(|control| scope.spawn(|| control.check().err())).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("no check panics")).collect()
    });
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}

/// Fails over a rule that has no control.
pub(crate) fn none_is_missing() {
    let has_control =
        |rule: &&&str| [CONTRACT, JOURNAL, HITS].into_iter().flatten().any(|it| it.rule == **rule);
    let missing: Vec<_> = CONTRACT_RULES.iter().filter(|rule| !has_control(rule)).collect();
    assert!(missing.is_empty(), "without a control: {missing:?}");
}

impl Control {
    fn check(&self) -> Result<(), String> {
        let Control { rule, test, sign } = self;
        match self.child(None) {
            Some(said) if said.contains("test result: ok. 1 passed") => {}
            said => return Err(format!("{test} does not pass as it is: {said:?}")),
        }
        match (sign, self.child(Some(rule))) {
            (Sign::Says(what), Some(said)) if said.contains("test result: FAILED") && said.contains(what) => {
                println!("{rule}: noticed by {test}");
                Ok(())
            }
            (Sign::Hangs, None) => {
                println!("{rule}: {test} hangs");
                Ok(())
            }
            (_, said) => Err(format!("{rule} is not noticed by {test}: {}", said.unwrap_or_default())),
        }
    }

    /// What the test says, alone in a process; `None`: it hangs.
    fn child(&self, rule: Option<&str>) -> Option<String> {
        let mut command = Command::new(env::current_exe().expect("the test's own binary"));
        command.args(["--exact", self.test]).stdout(Stdio::piped()).stderr(Stdio::null());
        command.envs(rule.map(|rule| ("WRITEBACK_BROKEN_RULE", rule)));
        let mut child = command.spawn().expect("a child");
        let mut output = child.stdout.take().expect("a pipe");
        let (told, tell) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut said = String::new();
            // Nobody listens any more if the child was killed.
            let _ = output.read_to_string(&mut said).map(|_| told.send(said));
        });
        let patience = match self.sign {
            Sign::Says(_) => LONG,
            Sign::Hangs => SHORT,
        };
        let said = tell.recv_timeout(patience).ok();
        // One that has said all it has to say is ending anyway.
        if said.is_none() {
            child.kill().expect("the child is ours");
        }
        child.wait().expect("the child is ours");
        reader.join().expect("the pipe is closed");
        said
    }
}
