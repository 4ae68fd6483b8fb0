//! A place in the order, and whether it is durable yet.

use crate::error::{Error, ErrorKind, Result};
use crate::watermark::wake;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// An accepted append. Awaiting it waits until its records are durable, and gives their indexes.
///
/// *Accepted* means: the records have their place in the order of the log. *Durable* means: they survive a crash.
/// Between the two lies one group commit. Everything accepted before a durable record is durable too.
///
/// # Cancel safety
///
/// Dropping a ticket takes nothing back: the records still become durable, unless the log fails first.
#[must_use = "an append is durable only when its ticket says so"]
pub struct Ticket {
    slot: Arc<Slot>,
    indexes: Range<u64>,
}

impl Ticket {
    /// The indexes of the records, should they become durable. An append that fails gives its index back.
    #[must_use]
    pub fn indexes(&self) -> Range<u64> {
        self.indexes.clone()
    }

    /// Waits until the records are durable, for code that is not async: it blocks the thread.
    ///
    /// # Errors
    ///
    /// As when awaited.
    pub fn wait_blocking(self) -> Result<Range<u64>> {
        pollster::block_on(self)
    }

    /// A ticket for nothing, which is durable at once.
    pub(crate) fn empty(next_index: u64) -> Ticket {
        let (ticket, reply) = pair(next_index..next_index);
        reply.resolve(Ok(()));
        ticket
    }
}

impl Future for Ticket {
    type Output = Result<Range<u64>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self.slot.lock() {
            State::Done(outcome) => Poll::Ready(outcome.clone().map(|()| self.indexes.clone())),
            State::Waiting(waker) => {
                match waker {
                    Some(known) if known.will_wake(context.waker()) => {}
                    other => *other = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("indexes", &self.indexes).finish_non_exhaustive()
    }
}

/// The committer's side of a ticket. Dropped without an answer, it answers that the log is gone.
#[derive(Debug)]
pub(crate) struct Reply {
    slot: Option<Arc<Slot>>,
}

#[derive(Debug)]
struct Slot {
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Waiting(Option<Waker>),
    Done(Result<()>),
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&self, outcome: Result<()>) {
        let before = std::mem::replace(&mut *self.lock(), State::Done(outcome));
        // Not under the lock: a waker is the caller's code.
        if let State::Waiting(Some(waker)) = before {
            wake(waker);
        }
    }
}

/// A ticket and the reply that resolves it.
pub(crate) fn pair(indexes: Range<u64>) -> (Ticket, Reply) {
    let slot = Arc::new(Slot { state: Mutex::new(State::Waiting(None)) });
    let reply = Reply { slot: Some(Arc::clone(&slot)) };
    (Ticket { slot, indexes }, reply)
}

impl Reply {
    pub(crate) fn resolve(mut self, outcome: Result<()>) {
        if let Some(slot) = self.slot.take() {
            slot.resolve(outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let why = match std::thread::panicking() {
                true => "the submission thread panicked before the append was durable",
                false => "the submission thread ended before the append was durable",
            };
            slot.resolve(Err(Error::new(ErrorKind::Poisoned, why)
                .next("reopen the log: opening finds out what reached the disk")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_with_its_indexes() {
        let (ticket, reply) = pair(3..5);
        reply.resolve(Ok(()));
        assert_eq!(pollster::block_on(ticket).unwrap(), 3..5);
    }

    #[test]
    fn forgotten_reply_is_an_error_not_a_hang() {
        let (ticket, reply) = pair(3..4);
        drop(reply);
        assert!(pollster::block_on(ticket).unwrap_err().is_poisoned());
    }
}
