//! Which entry has to leave: S3-FIFO.
mod fifo;
use fifo::Fifo;

use crate::{sync::{AtomicU32, Ordering}, table::Position};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue { Small, Main }

pub(crate) enum Verdict {
    Evict,
    Keep { queue: Queue, heat: u8 },
}

pub(crate) struct Policy {
    small: Fifo,
    main: Fifo,
    small_target: usize,
    ghosts: Box<[AtomicU32]>,
}

fn ghost(fp: u64) -> (u64, u32) {
    let h = fp.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> 32, (h as u32) | 1)
}

impl Policy {
    pub(crate) fn new(capacity: usize, positions: usize) -> Self {
        Policy { small: Fifo::new(positions), main: Fifo::new(positions), small_target: (capacity / 10).max(1),
            ghosts: (0..capacity.max(1)).map(|_| AtomicU32::new(0)).collect() }
    }
    fn queue(&self, queue: Queue) -> &Fifo {
        match queue { Queue::Small => &self.small, Queue::Main => &self.main }
    }
    pub(crate) fn push(&self, queue: Queue, at: Position) { self.queue(queue).push(at); }
    pub(crate) fn admit(&self, at: Position, fp: u64) {
        let (i, tag) = ghost(fp);
        let cell = &self.ghosts[((i * self.ghosts.len() as u64) >> 32) as usize];
        let hit = cell.load(Ordering::Relaxed) == tag;
        if hit { cell.store(0, Ordering::Relaxed); }
        self.push(if hit { Queue::Main } else { Queue::Small }, at);
    }
    pub(crate) fn readmit(&self, at: Position, heat: u8) {
        self.push(if heat > 1 { Queue::Main } else { Queue::Small }, at);
    }
    pub(crate) fn pop(&self) -> Option<(Queue, Position)> {
        let order = if self.small.len() >= self.small_target { [Queue::Small, Queue::Main] } else { [Queue::Main, Queue::Small] };
        order.into_iter().find_map(|q| Some((q, self.queue(q).pop()?)))
    }
    pub(crate) fn judge(&self, queue: Queue, heat: u8, forced: bool) -> Verdict {
        match queue {
            _ if forced => Verdict::Evict,
            Queue::Small if heat > 1 => Verdict::Keep { queue: Queue::Main, heat: 0 },
            Queue::Main if heat > 0 => Verdict::Keep { queue: Queue::Main, heat: heat - 1 },
            _ => Verdict::Evict,
        }
    }
    pub(crate) fn evicted(&self, queue: Queue, fp: u64) {
        if queue == Queue::Small {
            let (i, tag) = ghost(fp);
            self.ghosts[((i * self.ghosts.len() as u64) >> 32) as usize].store(tag, Ordering::Relaxed);
        }
    }
}
