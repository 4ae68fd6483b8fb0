//! [`Blocking`]: a stream for callers that are not async.

use futures_core::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The items of a stream, for callers that are not async: it blocks the thread while it waits for the next. Not to be used
/// in async code.
#[derive(Debug)]
pub struct Blocking<S> {
    stream: S,
}

impl<S> Blocking<S> {
    pub(crate) fn new(stream: S) -> Blocking<S> {
        Blocking { stream }
    }
}

impl<S: Stream + Unpin> Iterator for Blocking<S> {
    type Item = S::Item;

    fn next(&mut self) -> Option<S::Item> {
        // Mostly it is there, and nobody has to be woken.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(item) = Pin::new(&mut self.stream).poll_next(&mut context) {
            return item;
        }
        pollster::block_on(poll_fn(|context| Pin::new(&mut self.stream).poll_next(context)))
    }
}
