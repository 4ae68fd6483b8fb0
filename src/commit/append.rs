//! An append, as a future: it enters the queue when it is first polled, and waits for its answer.
//!
//! By hand, since it is moved about for each append, and often into a box of its caller's: the future of an `async fn` holds
//! its arguments, what they were moved to and the rare wait for room side by side, and took 1.6 KB.

use super::content::Content;
use super::queue::{Accepted, Queue};
use super::ticket::Waiter;
use crate::error::Result;
use crate::types::Durability;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Gives the indexes. See the [module](self).
#[must_use = "nothing is appended before it is polled"]
pub(crate) struct Append<'a> {
    queue: &'a Queue,
    wanted: Durability,
    state: State<'a>,
}

enum State<'a> {
    New(Content<'a>),
    /// There was no room.
    WaitsForRoom(Pin<Box<dyn Future<Output = Result<Accepted>> + Send + 'a>>),
    Accepted(Waiter<&'a Queue>, Range<u64>),
    Done,
}

impl<'a> Append<'a> {
    pub(super) fn new(queue: &'a Queue, content: Content<'a>, wanted: Durability) -> Append<'a> {
        Append { queue, wanted, state: State::New(content) }
    }
}

impl Future for Append<'_> {
    type Output = Result<Range<u64>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Append { queue, wanted, state } = &mut *self;
        let (queue, wanted) = (*queue, *wanted);
        loop {
            let accepted = match state {
                State::New(content) => {
                    let entered = queue.room_of(content).and_then(|room| {
                        let entered = queue.enter(content, wanted, room, false, Some(context));
                        entered.transpose().map(|accepted| (room, accepted))
                    });
                    match entered {
                        Ok((room, None)) => {
                            let State::New(content) = std::mem::replace(state, State::Done) else {
                                unreachable!("looked at just now")
                            };
                            let turn = queue.enter_in_turn(content, wanted, room);
                            *state = State::WaitsForRoom(Box::pin(turn));
                            continue;
                        }
                        Ok((_, Some(accepted))) => Ok(accepted),
                        Err(error) => Err(error),
                    }
                }
                State::WaitsForRoom(turn) => ready!(turn.as_mut().poll(context)),
                State::Accepted(waiter, indexes) => {
                    let outcome = waiter.poll(context).map_ok(|()| indexes.clone());
                    if outcome.is_ready() {
                        *state = State::Done;
                    }
                    return outcome;
                }
                State::Done => panic!("an append is polled after its end"),
            };
            // What is left of the content is dropped with this, under no lock.
            *state = State::Done;
            let accepted = accepted?;
            let indexes = accepted.indexes.clone();
            *state = State::Accepted(Waiter::new(queue, &accepted, wanted), indexes);
            // His waker is in the list already: to ask again would take the lock again.
            if accepted.place.is_some() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::options::Options;
    use crate::testing::Sim;

    /// Once, it took 1,624 bytes, and to move them cost a busy caller a tenth of his time.
    #[test]
    fn an_append_is_small() {
        let sim = Sim::new(1);
        let (wal, _) = sim.block_on(sim.open_or_create("/log", Options::new())).unwrap();
        let bytes = size_of_val(&wal.append("x"));
        assert!(bytes <= 112, "{bytes}");
    }
}
