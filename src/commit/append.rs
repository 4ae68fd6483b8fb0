//! An append, as a future: it enters the queue when it is first polled, and waits for its answer.
//!
//! By hand, since it is moved about for each append, and often into a box of its caller's: the future of an `async fn` holds
//! its arguments, what they were moved to and the rare wait for room side by side, and took 1.6 KB.

use super::awake::Watch;
use super::content::Content;
use super::queue::{Accepted, Queue};
use super::ticket::Waiter;
use crate::error::Result;
use crate::types::Durability;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

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
    WaitsForRoom(Pin<Box<dyn Future<Output = Result<Accepted>> + Send + Sync + 'a>>),
    Accepted(Waiter<&'a Queue>, Range<u64>, Option<Watch>),
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
            // Should something panic, it is done.
            let accepted = match std::mem::replace(state, State::Done) {
                State::New(mut content) => {
                    let room = queue.room_of(&content)?;
                    // What is left of the content is dropped here, under no lock.
                    match queue.enter(&mut content, wanted, room, false, Some(context)) {
                        Some(accepted) => accepted?,
                        None => {
                            let turn = queue.enter_in_turn(content, wanted, room);
                            *state = State::WaitsForRoom(Box::pin(turn));
                            continue;
                        }
                    }
                }
                State::WaitsForRoom(mut turn) => match turn.as_mut().poll(context) {
                    Poll::Ready(accepted) => accepted?,
                    Poll::Pending => {
                        *state = State::WaitsForRoom(turn);
                        return Poll::Pending;
                    }
                },
                // First of all his waker goes to the list, also on a watch: it may be another one now.
                State::Accepted(mut waiter, indexes, watch) => match waiter.poll(context) {
                    Poll::Ready(outcome) => return Poll::Ready(outcome.map(|()| indexes)),
                    Poll::Pending => {
                        let watch = watch.filter(|watch| watch.go_on(context));
                        *state = State::Accepted(waiter, indexes, watch);
                        return Poll::Pending;
                    }
                },
                State::Done => panic!("an append is polled after its end"),
            };
            let waiter = Waiter::new(queue, &accepted, wanted);
            let Accepted { indexes, place, watch, .. } = accepted;
            let watch = watch.filter(|watch| watch.go_on(context));
            *state = State::Accepted(waiter, indexes, watch);
            // His waker is in the list already: to ask again would take the lock again.
            if place.is_some() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::queue::Limits;
    use crate::error::{Error, ErrorKind};
    use crate::options::Options;
    use crate::testing::Sim;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Once, it took 1,624 bytes, and to move them cost a busy caller a tenth of his time.
    #[test]
    fn an_append_is_small() {
        let sim = Sim::new(1);
        let (wal, _) = sim.block_on(sim.open_or_create("/log", Options::new())).unwrap();
        let bytes = size_of_val(&wal.append("x"));
        assert!(bytes <= 128, "{bytes}");
    }

    #[test]
    fn who_stays_awake_has_his_answer() {
        for fails in [false, true] {
            let awake_max = Duration::from_secs(3600);
            let queue = Queue::new(Limits { awake_max, ..Limits::small() });
            let mut context = Context::from_waker(Waker::noop());
            let woken = Arc::new(Woken::default());
            let other = Waker::from(Arc::clone(&woken));
            let mut append = std::pin::pin!(queue.append(Content::one("x"), Durability::Durable));
            assert!(append.as_mut().poll(&mut context).is_pending());
            let group = queue.take_group().unwrap();
            // Once, his new waker was not looked at while he was on his watch: who was polled by a runtime first, and then by
            // an executor that blocks its thread, was never woken.
            assert!(append.as_mut().poll(&mut Context::from_waker(&other)).is_pending());
            let before = woken.0.load(Ordering::Relaxed);
            match fails {
                true => queue.fail(&Error::poisoned(&Error::new(ErrorKind::Io, "no"))),
                false => queue.durable(group),
            }
            assert!(woken.0.load(Ordering::Relaxed) > before, "the one who polled him last");
            let Poll::Ready(outcome) = append.as_mut().poll(&mut context) else {
                panic!("he has his answer");
            };
            assert_eq!(outcome.is_err(), fails);
        }
    }
}
