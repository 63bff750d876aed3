//! Operations and answers, for the tests of all backends that are databases.

use writeback::{Answers, Backend, Batch, Change, ErrorClass, Op};

pub(crate) fn put<K, V>(key: K, value: V) -> Op<K, V> {
    Op::new(key, Change::Upsert(value), 1, 1)
}

pub(crate) fn del<K, V>(key: K) -> Op<K, V> {
    Op::new(key, Change::Delete, 1, 1)
}

pub(crate) fn apply<K, V>(backend: &impl Backend<K, V>, ops: Vec<Op<K, V>>) -> Answers {
    backend.apply(&Batch::new(ops))
}

#[track_caller]
pub(crate) fn stored(answers: Answers) {
    for (at, answer) in answers.as_slice().iter().enumerate() {
        assert!(answer.is_ok(), "operation {at}: {answer:?}");
    }
}

/// The class of each answer, `None` for what was stored.
pub(crate) fn classes(answers: &Answers) -> Vec<Option<ErrorClass>> {
    answers.as_slice().iter().map(|answer| answer.as_ref().err().map(|error| error.class())).collect()
}

pub(crate) const STORED: Option<ErrorClass> = None;
pub(crate) const TRANSIENT: Option<ErrorClass> = Some(ErrorClass::Transient);
