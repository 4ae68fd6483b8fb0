//! A queue to a task on the submission thread in which nothing gets stuck.
//!
//! A channel alone is not enough: what is sent just as the receiver ends would lie in it for ever. Here ending and
//! sending exclude each other, and ending takes out what is left.

use crate::error::Error;
use crate::sync::{Mutex, MutexGuard};
use crate::watermark::unharmed;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};
use tokio::sync::oneshot;

/// The queue. Senders and the one receiver share it.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    receiver: Option<Waker>,
    /// Nobody will receive again, and why.
    deserted: Option<Error>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Inbox<T> {
        let state = State { items: VecDeque::new(), receiver: None, deserted: None };
        Inbox { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in, unless nobody will receive it.
    pub(crate) fn send(&self, item: T) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(error) = &state.deserted {
            return Err(error.clone());
        }
        state.items.push_back(item);
        let receiver = state.receiver.take();
        drop(state);
        receiver.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// From now on `send` fails with `error`, and `receive` ends. Gives back what was not received yet.
    pub(crate) fn desert(&self, error: Error) -> Vec<T> {
        let mut state = self.lock();
        state.deserted = Some(error);
        let left = std::mem::take(&mut state.items);
        let receiver = state.receiver.take();
        drop(state);
        receiver.into_iter().for_each(Waker::wake);
        left.into()
    }

    /// Why nobody will receive again.
    pub(crate) fn deserted(&self) -> Option<Error> {
        self.lock().deserted.clone()
    }

    /// Waits for the next item; `None` when the inbox is deserted. For one receiver.
    pub(crate) async fn receive(&self) -> Option<T> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    /// The next item, if there is one.
    #[cfg(test)]
    pub(crate) fn try_receive(&self) -> Option<T> {
        self.lock().items.pop_front()
    }

    fn poll_receive(&self, context: &Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
        if let Some(item) = state.items.pop_front() {
            return Poll::Ready(Some(item));
        }
        if state.deserted.is_some() {
            return Poll::Ready(None);
        }
        let replaced = state.receiver.replace(context.waker().clone());
        // Not under the lock: who goes with it may send.
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

/// Does the work for somebody who waits for it, and tells him. If he goes before, it ends at its next operation.
pub(crate) async fn answer<T>(mut reply: oneshot::Sender<T>, work: impl Future<Output = T>) {
    let mut work = pin!(work);
    let done = poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Pending => reply.poll_closed(context).map(|()| None),
        done => done.map(Some),
    });
    if let Some(outcome) = done.await {
        unharmed(|| drop(reply.send(outcome)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::task::Wake;
    use std::time::Duration;

    #[test]
    fn nothing_stays_behind() {
        let inbox = Inbox::new();
        inbox.send(1).unwrap();
        assert_eq!(pollster::block_on(inbox.receive()), Some(1));
        inbox.send(2).unwrap();
        assert_eq!(inbox.desert(Error::closed()), [2]);
        assert!(inbox.send(3).unwrap_err().is_closed());
        assert_eq!(pollster::block_on(inbox.receive()), None);
    }

    /// The waker of a receiver who is asked again by another task: if that was the last to own something that sends, or
    /// deserts, when it goes, then it must not go under the lock.
    #[test]
    fn replaced_waker_may_use_the_inbox() {
        struct Sends(Arc<Inbox<u8>>);
        impl Wake for Sends {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Sends {
            fn drop(&mut self) {
                self.0.send(1).unwrap();
            }
        }
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            let inbox = Arc::new(Inbox::new());
            let waker = Waker::from(Arc::new(Sends(Arc::clone(&inbox))));
            assert!(inbox.poll_receive(&Context::from_waker(&waker)).is_pending());
            drop(waker);
            assert!(inbox.poll_receive(&Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(pollster::block_on(inbox.receive()), Some(1));
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(30)).expect("it does not hang");
    }
}
