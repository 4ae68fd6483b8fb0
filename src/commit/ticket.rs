//! A place in the order, and how far it has got.

use super::queue::{Accepted, Queue};
use crate::error::Result;
use crate::types::Durability;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::{Deref, Range};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// An accepted append. Awaiting it waits until its records are durable, and gives their indexes.
///
/// *Accepted* means: the records have their place in the order of the log. *Durable* means: they survive a crash.
/// Between the two lies one group commit. Everything accepted before a durable record is durable too.
///
/// Waiting does not hurry the disk: what was appended with [`Durability::Written`] is durable when something makes it so.
///
/// # Cancel safety
///
/// Dropping a ticket takes nothing back: the records still become durable, unless the log fails first.
#[must_use = "an append is durable only when its ticket says so"]
pub struct Ticket {
    waiter: Waiter<Arc<Queue>>,
    indexes: Range<u64>,
}

impl Ticket {
    /// The indexes of the records, should they become durable. An append that fails gives its index back.
    #[must_use]
    pub fn indexes(&self) -> Range<u64> {
        self.indexes.clone()
    }

    /// Waits until the kernel has the records: they survive the death of this process from then on. The ticket can
    /// be awaited afterwards.
    ///
    /// # Errors
    ///
    /// As when awaited.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn written(&self) -> Result<()> {
        let Some(group) = self.waiter.group else {
            return Ok(());
        };
        let mut look = Look { queue: &self.waiter.queue, group, place: None };
        poll_fn(|context| look.poll(context)).await
    }

    /// Waits until the records are durable, for code that is not async: it blocks the thread.
    ///
    /// # Errors
    ///
    /// As when awaited.
    pub fn wait_blocking(self) -> Result<Range<u64>> {
        pollster::block_on(self)
    }

    pub(super) fn new(queue: Arc<Queue>, accepted: &Accepted) -> Ticket {
        let indexes = accepted.indexes.clone();
        Ticket { waiter: Waiter::new(queue, accepted, Durability::Durable), indexes }
    }
}

impl Future for Ticket {
    type Output = Result<Range<u64>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.waiter.poll(context);
        outcome.map(|outcome| outcome.map(|()| self.indexes.clone()))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("indexes", &self.indexes).finish_non_exhaustive()
    }
}

/// Someone whose append was accepted, until he has his answer or goes.
pub(super) struct Waiter<Q: Deref<Target = Queue>> {
    queue: Q,
    /// `None` for nothing, which is durable at once.
    group: Option<u64>,
    wanted: Durability,
    place: Option<usize>,
}

impl<Q: Deref<Target = Queue>> Waiter<Q> {
    pub(super) fn new(queue: Q, accepted: &Accepted, wanted: Durability) -> Waiter<Q> {
        Waiter { queue, group: accepted.group, wanted, place: accepted.place }
    }

    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<Result<()>> {
        match self.group {
            None => Poll::Ready(Ok(())),
            Some(group) => self.queue.poll(group, self.wanted, &mut self.place, context),
        }
    }
}

impl<Q: Deref<Target = Queue>> Drop for Waiter<Q> {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            self.queue.drop_ticket(group, self.wanted, self.place);
        }
    }
}

/// The holder of a ticket, while he waits for it to be written.
struct Look<'a> {
    queue: &'a Queue,
    group: u64,
    place: Option<usize>,
}

impl Look<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<()>> {
        self.queue.poll(self.group, Durability::Written, &mut self.place, context)
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.queue.leave(self.group, Durability::Written, self.place);
        }
    }
}
