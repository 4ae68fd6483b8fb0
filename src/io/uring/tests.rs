//! What the contract cannot see: that nothing of an abandoned operation is let go before the kernel is done.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::io::{Access, BLOCK_BYTES, Disk, DiskFile, Lane};

const CONFIG: DiskConfig = DiskConfig { buffer_count: 2, buffer_bytes: BLOCK_BYTES };

/// A disk, or `None` (said aloud) where the machine has no ring for us.
fn runtime() -> Option<UringRuntime> {
    match UringRuntime::start(CONFIG) {
        Ok(runtime) => Some(runtime),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Starts a future and stops after the first poll, which must not finish it.
async fn start<F: Future>(mut future: std::pin::Pin<&mut F>) {
    std::future::poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// A file on a pipe that nobody has written to: a read of it is in flight for as long as we like.
fn empty_pipe(disk: &UringDisk) -> (ops::UringFile, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
    (ops::UringFile::for_tests(file, disk), writer)
}

/// Story: a read's future was dropped, then the log was closed. tokio-uring by itself would let go of the memory, and
/// cancel the read afterwards; here the runtime's end waits until the read has ended by itself.
#[test]
fn the_runtime_waits_for_an_abandoned_read_before_its_memory_goes() {
    let Some(runtime) = runtime() else { return };
    let in_flight = runtime.shared.in_flight.clone();
    let writer = runtime.runtime.block_on(async {
        let (file, writer) = empty_pipe(&UringDisk::new(Rc::clone(&runtime.shared)));
        start(pin!(file.read_at(0, 10))).await;
        writer
    });
    assert_eq!(in_flight.count(), 1, "its future is gone, the read is not");

    let ending = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ending);
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        ending.store(true, Ordering::SeqCst);
        drop(writer);
    });
    drop(runtime);
    assert!(seen.load(Ordering::SeqCst), "the kernel still had the memory");
    assert_eq!(in_flight.count(), 0);
    helper.join().expect("the thread ends");
}

#[test]
fn a_panic_of_the_job_goes_through_after_the_same_wait() {
    let Some(runtime) = runtime() else { return };
    let in_flight = runtime.shared.in_flight.clone();

    struct Panics;
    impl OnDisk for Panics {
        type Output = ();

        async fn run<D: Disk>(self, disk: D) {
            let path = std::env::current_exe().expect("a file to read");
            let file = disk.open(&path, Access::Read, Lane::Commit).await.unwrap();
            let task = disk.clone();
            disk.spawn(async move { task.sleep(Duration::MAX).await });
            start(pin!(file.read_at(0, 1 << 20))).await;
            panic!("as intended by this test");
        }
    }
    let panic = catch_unwind(AssertUnwindSafe(|| runtime.run(Panics))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as intended by this test"));
    assert_eq!(in_flight.count(), 0);
}

#[test]
fn a_dropped_open_leaves_no_descriptor_behind() {
    let Some(runtime) = runtime() else { return };
    let path = std::env::temp_dir().join(format!("seawal-open-{}", std::process::id()));
    std::fs::write(&path, "x").unwrap();
    let open_descriptors = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| *target == path)
            .count()
    };
    let disk = UringDisk::new(Rc::clone(&runtime.shared));
    runtime.runtime.block_on(async {
        start(pin!(disk.open(&path, Access::Read, Lane::Commit))).await;
    });
    drop(runtime);
    assert_eq!(open_descriptors(), 0);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn finished_tasks_are_forgotten() {
    let Some(runtime) = runtime() else { return };
    let disk = UringDisk::new(Rc::clone(&runtime.shared));
    runtime.runtime.block_on(async {
        for _ in 0..100 {
            disk.spawn(async {});
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
    });
    assert!(runtime.shared.tasks.borrow().len() < 10);
}

/// tokio's own timer would take more than a millisecond for each.
#[test]
fn short_sleeps_are_short() {
    let Some(runtime) = runtime() else { return };
    let disk = UringDisk::new(Rc::clone(&runtime.shared));
    runtime.runtime.block_on(async {
        for wanted in [Duration::ZERO, Duration::from_micros(200)] {
            let mut shortest = Duration::MAX;
            for _ in 0..50 {
                let start = disk.now();
                disk.sleep(wanted).await;
                let slept = disk.now() - start;
                assert!(slept >= wanted);
                shortest = shortest.min(slept);
            }
            assert!(shortest < Duration::from_millis(1), "{shortest:?}");
        }
        start(pin!(disk.sleep(Duration::from_millis(4)))).await;
    });
    let in_flight = runtime.shared.in_flight.clone();
    assert_eq!(in_flight.count(), 1);
    drop(runtime);
    assert_eq!(in_flight.count(), 0);
}
