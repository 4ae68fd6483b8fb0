//! A few futures of one kind at a time, in memory that is used again: what the committer has in flight.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) struct Slots<F> {
    /// The first `len` hold a future; the boxes of the others wait to be used again.
    slots: Vec<Pin<Box<Option<F>>>>,
    len: usize,
}

impl<F: Future> Slots<F> {
    pub(super) fn new() -> Slots<F> {
        Slots { slots: Vec::new(), len: 0 }
    }

    /// Takes a future in. It runs only when it is polled.
    pub(super) fn push(&mut self, future: F) {
        match self.slots.get_mut(self.len) {
            Some(slot) => slot.set(Some(future)),
            None => self.slots.push(Box::pin(Some(future))),
        }
        self.len += 1;
    }

    pub(super) fn extend(&mut self, future: Option<F>) {
        future.into_iter().for_each(|future| self.push(future));
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops them all.
    pub(super) fn clear(&mut self) {
        for slot in &mut self.slots[..self.len] {
            slot.set(None);
        }
        self.len = 0;
    }

    /// The outcome of one that is done; polls all until there is one.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<F::Output> {
        for at in 0..self.len {
            let future = self.slots[at].as_mut().as_pin_mut();
            if let Poll::Ready(output) = future.expect("a slot in use").poll(context) {
                self.slots[at].set(None);
                self.len -= 1;
                // Not swapped: the others stay in the order in which they came.
                self.slots[at..=self.len].rotate_left(1);
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn gives_out_what_is_done_and_keeps_the_rest() {
        let (sender, receiver) = flume::unbounded::<u32>();
        let mut slots = Slots::new();
        for tag in [1, 2, 3] {
            let receiver = receiver.clone();
            slots.push(async move {
                match tag {
                    2 => 2,
                    _ => receiver.recv_async().await.unwrap(),
                }
            });
        }
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(slots.poll(&mut context), Poll::Ready(2));
        assert_eq!(slots.poll(&mut context), Poll::Pending);
        assert_eq!(slots.len(), 2);
        sender.send(7).unwrap();
        assert_eq!(slots.poll(&mut context), Poll::Ready(7));
        slots.clear();
        assert!(slots.is_empty());
    }
}
