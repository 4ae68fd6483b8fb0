//! A queue to a task on the submission thread in which nothing gets stuck.
//!
//! A channel alone is not enough: what is sent just as the receiver ends would lie in it for ever. Here ending and
//! sending exclude each other, and ending takes out what is left.

use crate::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The queue. Senders and the receiver share it.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    gate: Mutex<Gate>,
    sender: flume::Sender<T>,
    receiver: flume::Receiver<T>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Why nothing can be sent any more.
    ended: Option<Error>,
    /// Nobody will receive again.
    deserted: bool,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Inbox<T> {
        let (sender, receiver) = flume::unbounded();
        Inbox { gate: Mutex::default(), sender, receiver }
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in, unless the inbox has ended.
    pub(crate) fn send(&self, item: T) -> Result<(), Error> {
        let gate = self.lock();
        match &gate.ended {
            Some(error) => Err(error.clone()),
            None => {
                self.send_anyway(item);
                Ok(())
            }
        }
    }

    /// Why nothing can be sent any more.
    pub(crate) fn ended(&self) -> Option<Error> {
        self.lock().ended.clone()
    }

    fn send_anyway(&self, item: T) {
        // Both halves live as long as the inbox.
        let _ = self.sender.send(item);
    }

    /// From now on `send` fails with `error`. Gives back what was not received yet.
    pub(crate) fn end(&self, error: Error) -> Vec<T> {
        let mut gate = self.lock();
        gate.ended = Some(error);
        self.receiver.drain().collect()
    }

    /// From now on `send` fails with `error`, and `item` is the last one. If nobody receives any more, `item` is
    /// dropped, and the error stays what it was.
    pub(crate) fn end_with(&self, error: Error, item: T) {
        let mut gate = self.lock();
        if gate.deserted {
            return;
        }
        gate.ended = Some(error);
        self.send_anyway(item);
    }

    /// Like [`Inbox::end`], when the receiver is gone for good.
    pub(crate) fn desert(&self, error: Error) -> Vec<T> {
        let mut gate = self.lock();
        *gate = Gate { ended: Some(error), deserted: true };
        self.receiver.drain().collect()
    }

    /// Waits for the next item.
    pub(crate) async fn receive(&self) -> T {
        self.receiver.recv_async().await.expect("the inbox holds a sender")
    }

    pub(crate) fn try_receive(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}
