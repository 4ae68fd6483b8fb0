//! A queue to a task on the submission thread in which nothing gets stuck.
//!
//! A channel alone is not enough: what is sent just as the receiver ends would lie in it for ever. Here ending and
//! sending exclude each other, and ending takes out what is left.

use crate::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The queue. Senders and the receiver share it.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    gate: Mutex<Gate<T>>,
    receiver: flume::Receiver<T>,
}

#[derive(Debug)]
enum Gate<T> {
    Open(flume::Sender<T>),
    /// Nobody will receive again, and why.
    Deserted(Error),
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Inbox<T> {
        let (sender, receiver) = flume::unbounded();
        Inbox { gate: Mutex::new(Gate::Open(sender)), receiver }
    }

    fn lock(&self) -> MutexGuard<'_, Gate<T>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in, unless nobody will receive it.
    pub(crate) fn send(&self, item: T) -> Result<(), Error> {
        match &*self.lock() {
            Gate::Open(sender) => {
                // The receiver lives as long as the inbox.
                let _ = sender.send(item);
                Ok(())
            }
            Gate::Deserted(error) => Err(error.clone()),
        }
    }

    /// From now on `send` fails with `error`, and `receive` ends. Gives back what was not received yet.
    pub(crate) fn desert(&self, error: Error) -> Vec<T> {
        let mut gate = self.lock();
        *gate = Gate::Deserted(error);
        self.receiver.drain().collect()
    }

    /// Why nobody will receive again.
    pub(crate) fn deserted(&self) -> Option<Error> {
        match &*self.lock() {
            Gate::Open(_) => None,
            Gate::Deserted(error) => Some(error.clone()),
        }
    }

    /// Waits for the next item; `None` when the inbox is deserted.
    pub(crate) async fn receive(&self) -> Option<T> {
        self.receiver.recv_async().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
