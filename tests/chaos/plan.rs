//! What a run does.

use std::time::Duration;

use super::ledger::Check;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// How long things go wrong.
    pub(crate) length: Duration,
    pub(crate) seed: u64,
    /// How many operations all writers together should do in a second. With fewer threads than cores they could do a hundred times as
    /// many, and then nobody else would get anything done.
    pub(crate) pace: u64,
    /// Of the cache: a part of the keys, so that entries leave and come back, and more than the hot ones.
    pub(crate) capacity: usize,
    /// The longest that a hang, a lock or an outage takes.
    pub(crate) longest: Duration,
    /// How much calm there is between two misfortunes, at most.
    pub(crate) pause: Duration,
    /// How long an operation may take before it counts as blocked for ever.
    pub(crate) patience: Duration,
    pub(crate) sabotage: Option<Sabotage>,
    /// Tell how far it is.
    pub(crate) progress: bool,
}

impl Plan {
    /// The form for every day.
    pub(crate) fn short() -> Self {
        Plan {
            length: Duration::from_secs(10),
            seed: 1,
            pace: 12_000,
            capacity: 2_000,
            longest: Duration::from_millis(900),
            pause: Duration::from_millis(300),
            patience: Duration::from_secs(30),
            sabotage: None,
            progress: false,
        }
    }

    /// To see whether a sabotage is noticed.
    pub(crate) fn control(sabotage: Sabotage) -> Self {
        Plan {
            length: Duration::from_millis(1500),
            capacity: 500,
            longest: Duration::from_millis(100),
            pause: Duration::from_millis(50),
            patience: Duration::from_millis(2500),
            sabotage: Some(sabotage),
            ..Plan::short()
        }
    }

    /// As long as you like.
    pub(crate) fn long(length: Duration, seed: u64) -> Self {
        Plan {
            length,
            seed,
            longest: Duration::from_secs(9),
            pause: Duration::from_secs(3),
            patience: Duration::from_secs(60),
            progress: true,
            ..Plan::short()
        }
    }
}

/// Something that breaks a promise on purpose, so that the check of it can show that it would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The database says of some batches that they are stored, and stores nothing.
    DropBatch,
    /// The database says of some rows that they are not there.
    ForgetRow,
    /// An old batch is handed to the backend once more.
    OldBatch,
    /// Operations are acknowledged before anybody has stored them.
    EarlyAnswer,
    /// The cache is closed while writers are at work.
    EarlyEnd,
    /// The database never comes back.
    StayDown,
    /// The database refuses one operation for good.
    RefuseForGood,
    /// The backend is given batches that nobody counts.
    Miscount,
    /// Every batch leaves something behind in memory.
    Leak,
    /// A call of the backend never comes back.
    Hang,
    /// Nothing goes wrong.
    Calm,
}

impl Sabotage {
    /// What has to notice it.
    pub(crate) fn noticed_by(self) -> Check {
        let listed = Sabotage::ALL.iter().find(|(_, sabotage, _)| *sabotage == self);
        listed.map_or(Check::Happened, |(.., check)| *check)
    }

    pub(crate) const ALL: [(&'static str, Sabotage, Check); 11] = [
        ("drop-batch", Sabotage::DropBatch, Check::Rows),
        ("forget-row", Sabotage::ForgetRow, Check::Reads),
        ("old-batch", Sabotage::OldBatch, Check::Order),
        ("early-answer", Sabotage::EarlyAnswer, Check::Acks),
        ("early-end", Sabotage::EarlyEnd, Check::Errors),
        ("stay-down", Sabotage::StayDown, Check::Flush),
        ("refuse-for-good", Sabotage::RefuseForGood, Check::Letters),
        ("miscount", Sabotage::Miscount, Check::Stats),
        ("leak", Sabotage::Leak, Check::Memory),
        ("hang", Sabotage::Hang, Check::Progress),
        ("calm", Sabotage::Calm, Check::Happened),
    ];
}
