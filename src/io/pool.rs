//! A fixed set of things that are lent out and come back: write buffers, or the numbers of registered ones.
//!
//! A limit on buffers is a limit on writes in flight, so taking one waits when none is left. The pool is behind a
//! mutex although a disk lives on one thread, because a lease travels with its operation: on the `threads` disk to
//! the helper thread, and if the caller has stopped waiting, it goes home from there.
//!
//! # Invariants
//!
//! 1. Free items plus leases are the items that the pool was made with, at any time.
//! 2. A waiter never sleeps while an item is free and nobody was told: each return tells one waiter, and a waiter
//!    that is dropped after being told passes it on (`Notify`).

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{AlignedBuf, DiskConfig};

/// Lends items of type `T`. Cloning gives another handle to the same pool.
pub(crate) struct Pool<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// Last in, first out: the item that is warm in the CPU's cache goes out again first.
    free: Mutex<Vec<T>>,
    returned: Notify,
}

impl<T> Pool<T> {
    pub(crate) fn new(items: impl IntoIterator<Item = T>) -> Self {
        Pool {
            shared: Arc::new(Shared {
                free: Mutex::new(items.into_iter().collect()),
                returned: Notify::new(),
            }),
        }
    }

    /// Takes an item; waits while all are lent.
    pub(crate) async fn take(&self) -> Lease<T> {
        loop {
            // The guard is gone before the wait: it must not be held across it.
            let item = self.shared.free().pop();
            if let Some(item) = item {
                return Lease { item: Some(item), home: Arc::clone(&self.shared) };
            }
            self.shared.returned.notified().await;
        }
    }
}

impl Pool<AlignedBuf> {
    /// Plain buffers, for disks that have no registered ones.
    pub(crate) fn of_buffers(config: &DiskConfig) -> Self {
        Pool::new(AlignedBuf::several(config.buffer_count, config.buffer_bytes))
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Pool { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Shared<T> {
    fn free(&self) -> MutexGuard<'_, Vec<T>> {
        // Push and pop leave the list whole even if they panic, so a poisoned lock says nothing about it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An item of a [`Pool`], given back by dropping it, on whatever thread.
pub(crate) struct Lease<T> {
    /// `None` only inside `drop`.
    item: Option<T>,
    home: Arc<Shared<T>>,
}

impl<T> Lease<T> {
    pub(crate) fn item(&self) -> &T {
        self.item.as_ref().expect("a lease holds its item")
    }

    fn item_mut(&mut self) -> &mut T {
        self.item.as_mut().expect("a lease holds its item")
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.home.free().extend(self.item.take());
        self.home.returned.notify_one();
    }
}

impl Deref for Lease<AlignedBuf> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.item()
    }
}

impl DerefMut for Lease<AlignedBuf> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.item_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn taken<T>(poll: Poll<Lease<T>>) -> Lease<T> {
        match poll {
            Poll::Ready(lease) => lease,
            Poll::Pending => panic!("an item is free"),
        }
    }

    #[test]
    fn waits_until_one_comes_back() {
        let pool = Pool::new([7]);
        let lease = taken(poll(pin!(pool.take())));
        assert_eq!(*lease.item(), 7);

        let mut second = pin!(pool.take());
        assert!(poll(second.as_mut()).is_pending());
        drop(lease);
        assert_eq!(*taken(poll(second.as_mut())).item(), 7);
    }

    #[test]
    fn a_waiter_that_gives_up_passes_the_news_on() {
        let pool = Pool::new([1]);
        let lease = taken(poll(pin!(pool.take())));
        let mut first = Box::pin(pool.take());
        let mut second = pin!(pool.take());
        assert!(poll(first.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending());

        drop(lease); // tells `first`, which never looks
        drop(first);
        taken(poll(second.as_mut()));
    }

    #[test]
    fn comes_back_from_another_thread() {
        let pool = Pool::new([1]);
        let lease = taken(poll(pin!(pool.take())));
        std::thread::spawn(move || drop(lease)).join().expect("thread ends");
        taken(poll(pin!(pool.take())));
    }
}
