//! The book alone, without flusher, table and time.

use super::*;

fn at(index: usize) -> Position {
    Position::from_index(index)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn any(_: Duration, _: Moment) -> bool {
    true
}

fn error() -> BackendError {
    BackendError::transient("refused")
}

fn answer(book: &mut Pending, reply: &Reply) -> Option<bool> {
    book.deliver();
    reply.wait_until(crate::sync::Instant::now()).map(|answer| answer.is_ok())
}

#[test]
fn places_are_taken_oldest_first_and_once() {
    let mut book = Pending::new();
    (0..4).for_each(|i| book.heard(at(i), ms(i as u64)));
    book.heard(at(0), ms(9));
    assert_eq!(book.queued(), 4);
    let order: Vec<_> = std::iter::from_fn(|| book.take(None, any)).map(|taken| taken.at.index()).collect();
    assert_eq!(order, [0, 1, 2, 3]);
    (0..4).for_each(|i| book.settled(at(i)));
    assert!(book.is_empty());
}

#[test]
fn c07_the_time_of_first_dirtiness_survives_refusals_and_moves_on_only_with_a_write() {
    let mut book = Pending::new();
    book.heard(at(1), ms(5));
    let taken = book.take(None, any).expect("queued");
    book.failed(taken.at, Some(ms(100)), &error(), false);
    assert_eq!((book.oldest(), book.next_retry()), (None, Some(ms(100))));
    book.retry_due(ms(99));
    assert_eq!(book.queued(), 0);
    book.retry_due(ms(100));
    assert_eq!(book.queued(), 1);
    assert_eq!(book.oldest(), Some(ms(5)));
    let taken = book.take(None, any).expect("queued again");
    book.superseded(taken, 1, ms(120), true);
    assert_eq!(book.oldest(), Some(ms(120)));
}

#[test]
fn a_barrier_waits_for_what_came_after_the_copy_and_not_for_what_came_after_itself() {
    let mut book = Pending::new();
    book.heard(at(1), ms(0));
    let taken = book.take(None, any).expect("queued");
    // The copy is on its way when somebody flushes: a newer version may be theirs.
    let reply = Reply::new();
    book.barrier(Arc::clone(&reply));
    book.superseded(taken, 1, ms(1), true);
    assert_eq!(answer(&mut book, &reply), None);
    let taken = book.take(None, any).expect("queued again");
    // This copy came after the barrier, so whatever is newer still is not owed to it.
    book.superseded(taken, 2, ms(2), true);
    assert_eq!(answer(&mut book, &reply), Some(true));
    book.heard(at(2), ms(3));
    let reply = Reply::new();
    book.barrier(Arc::clone(&reply));
    book.heard(at(3), ms(4));
    for _ in 0..2 {
        let taken = book.take(None, any).expect("two are queued");
        book.settled(taken.at);
    }
    assert_eq!(answer(&mut book, &reply), Some(true));
    assert_eq!(book.queued(), 1);
}

#[test]
fn a_barrier_never_says_ok_over_a_refusal() {
    let mut book = Pending::new();
    book.heard(at(1), ms(0));
    book.heard(at(2), ms(0));
    let reply = Reply::new();
    book.barrier(Arc::clone(&reply));
    let (first, second) = (book.take(None, any).expect("queued"), book.take(None, any).expect("queued"));
    book.failed(first.at, None, &error(), false);
    assert_eq!(answer(&mut book, &reply), None);
    book.settled(second.at);
    book.deliver();
    assert_eq!(reply.wait().map_err(|(failed, _)| failed), Err(1));
    // The parked one is not counted twice: a later barrier has its own answer.
    assert_eq!(book.parked(), 1);
    book.retry_all();
    let again = Reply::new();
    book.barrier(Arc::clone(&again));
    let taken = book.take(None, any).expect("asked for");
    book.settled(taken.at);
    assert_eq!((answer(&mut book, &again), book.parked()), (Some(true), 0));
}

#[test]
fn a_writer_that_waits_is_told_of_its_own_version() {
    let mut book = Pending::new();
    let clean = Reply::new();
    book.wait_for(at(9), 1, Arc::clone(&clean));
    assert_eq!(answer(&mut book, &clean), Some(true), "what is not in the book is clean");
    book.heard(at(1), ms(0));
    book.heard(at(2), ms(0));
    let (old, new) = (Reply::new(), Reply::new());
    book.wait_for(at(2), 7, Arc::clone(&old));
    book.wait_for(at(2), 8, Arc::clone(&new));
    let taken = book.take(None, any).expect("queued");
    assert_eq!(taken.at, at(2), "urgent goes first");
    book.superseded(taken, 7, ms(1), true);
    assert_eq!((answer(&mut book, &old), answer(&mut book, &new)), (Some(true), None));
    let taken = book.take(None, any).expect("still urgent");
    assert_eq!(taken.at, at(2));
    book.failed(taken.at, Some(ms(50)), &error(), false);
    assert_eq!(answer(&mut book, &new), Some(false));
    assert!(!book.is_waited_for());
}

#[test]
fn attempts_count_by_version_and_failures_by_place() {
    let mut book = Pending::new();
    book.heard(at(1), ms(0));
    let mut seen = Vec::new();
    for version in [10, 10, 11] {
        let taken = book.take(None, any).expect("queued");
        seen.push((book.attempt(taken.at, version), book.failures(taken.at)));
        book.failed(taken.at, Some(ms(0)), &error(), false);
        book.retry_due(ms(0));
    }
    assert_eq!(seen, [(1, 0), (2, 1), (1, 2)]);
}

#[test]
fn a_parked_place_comes_back_when_it_changes() {
    let mut book = Pending::new();
    book.heard(at(1), ms(0));
    let taken = book.take(None, any).expect("queued");
    book.attempt(taken.at, 5);
    book.failed(taken.at, None, &error(), false);
    book.retry_changed(|_, refused| refused != 5);
    assert_eq!((book.queued(), book.parked()), (0, 1));
    book.retry_changed(|_, refused| refused == 5);
    assert_eq!((book.queued(), book.parked()), (1, 0));
}

#[test]
fn nobody_is_left_waiting_at_the_end() {
    let mut book = Pending::new();
    book.heard(at(1), ms(0));
    let (barrier, writer) = (Reply::new(), Reply::new());
    book.barrier(Arc::clone(&barrier));
    book.wait_for(at(1), 1, Arc::clone(&writer));
    book.abandon(&error());
    assert_eq!((answer(&mut book, &barrier), answer(&mut book, &writer)), (Some(false), Some(false)));
}

#[test]
fn what_was_not_tried_is_as_it_was() {
    let mut book = Pending::new();
    (0..4).for_each(|i| book.heard(at(i), ms(i as u64)));
    let reply = Reply::new();
    book.wait_for(at(2), 7, Arc::clone(&reply));
    let first: Vec<_> = std::iter::from_fn(|| book.take(None, any)).take(3).collect();
    assert_eq!(first[0].at, at(2), "somebody waits for it");
    assert_eq!(book.attempt(at(0), 1), 1);
    book.untried(&first);
    assert_eq!((book.queued(), book.oldest()), (4, Some(ms(2))));
    assert_eq!(answer(&mut book, &reply), None);
    let again: Vec<_> = std::iter::from_fn(|| book.take(None, any)).map(|taken| taken.at.index()).collect();
    assert_eq!(again, [2, 0, 1, 3]);
    assert_eq!(book.attempt(at(0), 1), 1, "nobody was asked");
    book.superseded(Taken { at: at(2), moment: 99 }, 7, ms(9), true);
    assert_eq!(answer(&mut book, &reply), Some(true));
}

#[test]
fn what_was_copied_while_it_was_in_flight_owes_once() {
    let mut book = Pending::new();
    (0..2).for_each(|i| book.heard(at(i), ms(i as u64)));
    let taken = book.take(None, any).expect("the older one");
    book.begin_cut();
    assert_eq!(book.owing(), 2);
    book.copied(at(0));
    assert_eq!(book.owing(), 1);
    // The answer comes late, and a newer version is there: it has a record of the new epoch.
    book.superseded(taken, 1, ms(5), true);
    book.settled(at(0));
    assert_eq!(book.owing(), 1, "counted twice");
    book.settled(at(1));
    assert_eq!(book.owing(), 0);
}
