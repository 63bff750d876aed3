//! Settings for those who watch a cache: its name, when it counts as stalled, and who is told what happens.

use std::{sync::Arc, time::Duration};

use super::Builder;
use crate::Event;

impl<B, W, S, J, R> Builder<B, W, S, J, R> {
    /// What the cache is called in the log and in metrics, where a process has several. Default: `default`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How long an entry may be dirty before [`Event::Stalled`] is told and a line is logged; more than
    /// [`max_delay`](Builder::max_delay). Looked at eight times in one `max_delay`. Default: twice `max_delay`, and at least
    /// a second more than it.
    pub fn stall_limit(mut self, age: Duration) -> Self {
        self.stall_limit = Some(age);
        self
    }

    /// Calls `listener` with what happens in the background: see [`Event`]. A second listener replaces the first.
    ///
    /// It is called from a thread of its own, one event after the other, while the engine holds nothing and waits for
    /// nothing. So it may call the cache, also `flush` and `close`; it may be slow, and it may panic: flushing goes on. At
    /// most 1,024 events wait for it; what comes then is dropped, counted in
    /// [`Stats::events_dropped`](crate::Stats::events_dropped), and told as [`Event::Missed`]. Without a
    /// listener there is no such thread, and no event is made.
    ///
    /// The thread ends, and drops the listener, after the last event of a cache that was drained by `close` or dropped; nobody
    /// waits for that. A listener that owns a [`Cache`](crate::Cache) keeps it from being dropped: close such a cache, or give the listener
    /// a [`WeakCache`](crate::WeakCache). One that writes on every [`Event::Flushed`] causes the next.
    ///
    /// ```
    /// use std::{sync::mpsc, time::Duration};
    /// use writeback::{Cache, Event, backend::Memory};
    ///
    /// let (tell, told) = mpsc::channel();
    /// let cache = Cache::builder()
    ///     .capacity(100)
    ///     .backend(Memory::new())
    ///     .listener(move |event| {
    ///         if let Event::Flushed { operations, trigger, .. } = event {
    ///             let _ = tell.send((*operations, *trigger));
    ///         }
    ///     })
    ///     .open::<u64, u64>()?;
    /// cache.put(1, 1)?;
    /// cache.flush()?;
    /// assert_eq!(told.recv_timeout(Duration::from_secs(10))?, (1, writeback::FlushTrigger::Explicit));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listener(mut self, listener: impl FnMut(&Event) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }
}
