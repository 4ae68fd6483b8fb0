//! A queue to a task on the submission thread in which nothing gets stuck.
//!
//! A channel alone is not enough: what is sent just as the receiver ends would lie in it for ever. Here ending and
//! sending exclude each other, and ending takes out what is left.

use crate::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The queue. Senders and the receiver share it.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    ended: Mutex<Option<Error>>,
    /// Nobody will receive again. Changed under the lock only.
    deserted: AtomicBool,
    sender: flume::Sender<T>,
    receiver: flume::Receiver<T>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Inbox<T> {
        let (sender, receiver) = flume::unbounded();
        Inbox { ended: Mutex::new(None), deserted: AtomicBool::new(false), sender, receiver }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Error>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in, unless the inbox has ended.
    pub(crate) fn send(&self, item: T) -> Result<(), Error> {
        match &*self.lock() {
            Some(error) => Err(error.clone()),
            None => {
                self.send_anyway(item);
                Ok(())
            }
        }
    }

    /// Why nothing can be sent any more.
    pub(crate) fn ended(&self) -> Option<Error> {
        self.lock().clone()
    }

    fn send_anyway(&self, item: T) {
        // Both halves live as long as the inbox.
        let _ = self.sender.send(item);
    }

    /// From now on `send` fails with `error`. Gives back what was not received yet.
    pub(crate) fn end(&self, error: Error) -> Vec<T> {
        let mut ended = self.lock();
        *ended = Some(error);
        self.receiver.drain().collect()
    }

    /// From now on `send` fails with `error`, and `item` is the last one. If nobody receives any more, `item` is
    /// dropped, and the error stays what it was.
    pub(crate) fn end_with(&self, error: Error, item: T) {
        let mut ended = self.lock();
        if self.deserted.load(Ordering::Relaxed) {
            return;
        }
        *ended = Some(error);
        self.send_anyway(item);
    }

    /// Like [`Inbox::end`], when the receiver is gone for good.
    pub(crate) fn desert(&self, error: Error) -> Vec<T> {
        let mut ended = self.lock();
        self.deserted.store(true, Ordering::Relaxed);
        *ended = Some(error);
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
