//! Letting others run, for a loop that finds nothing to wait for: as where each write is a plain call.
//!
//! To yield is not enough: tokio looks for what other threads have done only every 31 turns, and what a task asks of the
//! ring is submitted when the thread goes to sleep. Without yielding, tokio's own budget would let others run only after
//! 128 commits.

use crate::io::Disk;
use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// Every so many times the thread goes to sleep for a moment, if there is something to submit.
const TURNS_AWAKE: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Rest {
    owed: Cell<bool>,
    turns: Cell<u32>,
}

impl Rest {
    /// There was nothing to wait for.
    pub(crate) fn owe(&self) {
        self.owed.set(true);
    }

    /// Lets the other tasks of this thread run, if that is owed to them.
    pub(crate) async fn take_owed<D: Disk>(&self, disk: &D) {
        if !self.owed.take() {
            return;
        }
        let turns = self.turns.get().wrapping_add(1);
        self.turns.set(turns);
        yield_once().await;
        if turns.is_multiple_of(TURNS_AWAKE) && disk.has_work() {
            disk.sleep(Duration::ZERO).await;
        }
    }
}

async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{self, Backend, DiskConfig, OnDisk};
    use std::rc::Rc;

    /// A loop that never waits, beside a task that asks the disk for something and then for something else; says how often
    /// it rested until the first was done, and whether the second was.
    struct Busy;

    impl OnDisk for Busy {
        type Output = (u32, bool);

        async fn run<D: Disk>(self, disk: D) -> (u32, bool) {
            let done = Rc::new(Cell::new(0));
            let (asks, tells) = (disk.clone(), Rc::clone(&done));
            disk.spawn(async move {
                asks.sleep(Duration::ZERO).await;
                tells.set(1);
                asks.sync_dir(&std::env::temp_dir()).await.unwrap();
                tells.set(2);
            });
            let (rest, mut times) = (Rest::default(), 0);
            let end = disk.now() + Duration::from_secs(30);
            while done.get() < 2 && disk.now() < end {
                rest.owe();
                rest.take_owed(&disk).await;
                times += u32::from(done.get() == 0);
            }
            (times, done.get() == 2)
        }
    }

    /// Once, it only yielded. The zeros for the next segment of a busy log were written when it was idle for a moment: they
    /// fell behind, and commits met blocks that had never been written.
    #[test]
    fn what_others_ask_of_the_disk_is_done() {
        for backend in [Backend::Uring, Backend::Threads] {
            let config = DiskConfig { buffer_count: 1, buffer_bytes: io::BLOCK_BYTES };
            match io::run(backend, config, Busy) {
                Ok((times, done)) => {
                    assert!(times <= 4 * TURNS_AWAKE, "{backend}: {times}");
                    assert!(done, "{backend}");
                }
                Err(error) => eprintln!("skipped: {error}"),
            }
        }
    }
}
