//! Letting others run, for a loop that finds nothing to wait for: as where each write is a plain call.
//!
//! To wake oneself and return is not enough: tokio looks for what other threads have done only every 31 turns then, while
//! its own yielding does it each time. Neither submits what a task asks of the ring: that happens when the thread goes to
//! sleep. Without yielding, tokio's budget would let others run only after 128 commits.

use crate::io::Disk;
use std::cell::Cell;
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
        disk.yield_now().await;
        if turns.is_multiple_of(TURNS_AWAKE) && disk.has_work() {
            disk.sleep(Duration::ZERO).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{self, Backend, DiskConfig, OnDisk};
    use std::rc::Rc;

    /// A loop that never waits, beside a task that another thread has woken; says how often it rested until that ran.
    struct BesideWoken;

    impl OnDisk for BesideWoken {
        type Output = u32;

        async fn run<D: Disk>(self, disk: D) -> u32 {
            let done = Rc::new(Cell::new(false));
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let tells = Rc::clone(&done);
            disk.spawn(async move {
                receiver.await.unwrap();
                tells.set(true);
            });
            let (says, said) = tokio::sync::oneshot::channel();
            // A task too, as a log is.
            let here = disk.clone();
            disk.spawn(async move {
                let (rest, mut times) = (Rest::default(), 0);
                // So that the other waits.
                for _ in 0..=TURNS_AWAKE {
                    rest.owe();
                    rest.take_owed(&here).await;
                }
                std::thread::spawn(|| sender.send(()).unwrap()).join().unwrap();
                while !done.get() && times < 1000 {
                    rest.owe();
                    rest.take_owed(&here).await;
                    times += 1;
                }
                says.send(times).unwrap();
            });
            said.await.unwrap()
        }
    }

    /// Readers of a busy log are such tasks: they would wait for dozens of commits.
    #[test]
    fn who_is_woken_by_another_thread_runs_soon() {
        for backend in [Backend::Uring, Backend::Threads] {
            let config = DiskConfig { buffer_count: 1, buffer_bytes: io::BLOCK_BYTES };
            match io::run(backend, config, BesideWoken) {
                Ok(times) => assert!(times <= 2, "{backend}: {times}"),
                Err(error) => eprintln!("skipped: {error}"),
            }
        }
    }

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
