//! Who owns the memory of an operation, and how do we know that the kernel is done with all of it?
//!
//! An operation is given a [`Loan`]: the buffer, the part of it that is meant, and whatever must live exactly as long
//! (the lease of a registered buffer's index, a [`Token`]). tokio-uring keeps the loan until the completion was seen,
//! whether or not anybody still waits. So the tokens count the operations that the kernel may still be working on,
//! and a registered buffer whose write was abandoned comes home when the kernel is done, not before.
//!
//! Operations that borrow no memory of ours (on names, fsync, fallocate) have a token only while somebody waits for them.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::{Range, RangeBounds};
use std::rc::Rc;

use tokio::sync::Notify;
use tokio_uring::buf::{BoundedBuf, BoundedBufMut, IoBuf, IoBufMut, Slice};

/// Counts what is in flight. Cloning gives another handle to the same count.
#[derive(Clone, Default)]
pub(super) struct InFlight(Rc<Count>);

#[derive(Default)]
struct Count {
    tokens: Cell<usize>,
    none: Notify,
}

/// One thing in flight; dropping it ends that.
pub(super) struct Token(Rc<Count>);

impl InFlight {
    pub(super) fn enter(&self) -> Token {
        self.0.tokens.set(self.0.tokens.get() + 1);
        Token(Rc::clone(&self.0))
    }

    pub(super) fn count(&self) -> usize {
        self.0.tokens.get()
    }

    /// Waits until nothing is in flight. For one waiter.
    pub(super) async fn until_none(&self) {
        while self.count() > 0 {
            self.0.none.notified().await;
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let left = self.0.tokens.get() - 1;
        self.0.tokens.set(left);
        if left == 0 {
            self.0.none.notify_one();
        }
    }
}

/// A part of a buffer, lent to the kernel together with what must last as long.
pub(super) struct Loan<B, K> {
    // In this order: the buffer goes first, what was kept for it afterwards.
    buf: B,
    range: Range<usize>,
    /// `None` only in the pieces that tokio-uring's `*_all` methods make, which we do not call.
    kept: Option<K>,
}

impl<B: IoBuf, K> Loan<B, K> {
    /// # Panics
    ///
    /// If the range is not inside the buffer's initialised bytes.
    pub(super) fn new(buf: B, range: Range<usize>, kept: K) -> Self {
        assert!(range.start <= range.end);
        assert!(range.end <= buf.bytes_init());
        Loan { buf, range, kept: Some(kept) }
    }

    pub(super) fn into_parts(self) -> (B, K) {
        (self.buf, self.kept.expect("made by `new`"))
    }
}

// The trait is safe to implement, yet tokio-uring hands the pointer and lengths to the kernel. They are right because
// the range is inside the buffer (`new`) and the buffer, being `IoBuf`, stays where it is while the loan owns it.
impl<B: IoBuf, K: Unpin + 'static> BoundedBuf for Loan<B, K> {
    type Buf = B;
    type Bounds = Range<usize>;

    fn slice(self, range: impl RangeBounds<usize>) -> Slice<B> {
        self.slice_full().slice(range)
    }

    fn slice_full(self) -> Slice<B> {
        self.buf.slice(self.range)
    }

    fn get_buf(&self) -> &B {
        &self.buf
    }

    fn bounds(&self) -> Range<usize> {
        self.range.clone()
    }

    fn from_buf_bounds(buf: B, range: Range<usize>) -> Self {
        assert!(range.start <= range.end);
        assert!(range.end <= buf.bytes_init());
        Loan { buf, range, kept: None }
    }

    fn stable_ptr(&self) -> *const u8 {
        self.buf.stable_ptr().wrapping_add(self.range.start)
    }

    fn bytes_init(&self) -> usize {
        self.range.len()
    }

    fn bytes_total(&self) -> usize {
        self.range.len()
    }
}

impl<B: IoBufMut, K: Unpin + 'static> BoundedBufMut for Loan<B, K> {
    type BufMut = B;

    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.buf.stable_mut_ptr().wrapping_add(self.range.start)
    }

    unsafe fn set_init(&mut self, count: usize) {
        assert!(count <= self.range.len(), "an operation stays inside its loan");
        // SAFETY: the caller vouches for `count` bytes from the range's start; those before it, like all up to its
        // end, were initialised when the loan was made. The memory is owned by `self.buf`, which the loan owns, and no
        // future can free it while the operation has the loan.
        unsafe { self.buf.set_init(self.range.start + count) }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::io::AlignedBuf;

    #[test]
    fn waits_for_the_last_token() {
        let in_flight = InFlight::default();
        let (one, two) = (in_flight.enter(), in_flight.enter());
        let mut none = pin!(in_flight.until_none());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(none.as_mut().poll(&mut cx).is_pending());
        drop(one);
        assert!(none.as_mut().poll(&mut cx).is_pending());
        drop(two);
        assert!(none.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_loan_is_the_part_that_was_meant() {
        let buf = AlignedBuf::with_len(100);
        let start = IoBuf::stable_ptr(&buf).addr();
        let mut loan = Loan::new(buf, 10..30, ());
        assert_eq!(BoundedBuf::stable_ptr(&loan).addr(), start + 10);
        assert_eq!(BoundedBufMut::stable_mut_ptr(&mut loan).addr(), start + 10);
        assert_eq!(BoundedBuf::bytes_init(&loan), 20);
        assert_eq!(BoundedBuf::bytes_total(&loan), 20);
        let slice = loan.slice(5..);
        assert_eq!((slice.begin(), slice.end()), (15, 30));
    }

    #[test]
    #[should_panic(expected = "range.end <= buf.bytes_init()")]
    fn a_loan_is_inside_its_buffer() {
        Loan::new(AlignedBuf::with_len(100), 10..101, ());
    }
}
