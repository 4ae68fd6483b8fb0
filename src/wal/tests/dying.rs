//! The runtime of a submission thread panics, under logs that did nothing wrong: whoever waits for one of them is told.

use super::*;
use crate::io::{self, Backend, OnDisk};
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Waker};

const HANG: Duration = Duration::from_secs(30);

/// What the runtime runs, until it panics: a log.
struct Dies {
    job: engine::Job,
    /// When: as soon as the other side is gone.
    when: flume::Receiver<()>,
}

impl OnDisk for Dies {
    type Output = ();

    async fn run<D: Disk>(self, disk: D) {
        disk.spawn(self.job.hosted(disk.clone()));
        let _ = self.when.recv_async().await;
        panic!("boom of the runtime");
    }
}

/// Opens a log on a thread that dies when the sender is dropped.
async fn open(dir: &Path, options: Options, when: flume::Receiver<()>) -> Result<(Wal, Recovery)> {
    let (backend, config) = (options.backend, options.disk_config());
    let (job, opening) = opening::Opening::new(dir, options, How::OpenOrCreate, None);
    std::thread::spawn(move || io::run(backend, config, Dies { job, when }));
    opening.opened().await
}

/// What comes of it, unless it hangs.
fn outcome<T: Send + 'static>(
    what: &str,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(pollster::block_on(future)));
    receiver.recv_timeout(HANG).unwrap_or_else(|_| panic!("{what} hangs"))
}

fn is_told<T: Send + 'static>(
    what: &str,
    future: impl Future<Output = Result<T>> + Send + 'static,
) {
    let Err(error) = outcome(what, future) else { panic!("{what} is told of success") };
    assert!(error.is_poisoned() && error.to_string().contains("panicked"), "{what}: {error}");
    assert!(error.next_step().is_some(), "{what}: {error}");
}

fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn everyone_is_told() {
    for backend in [Backend::Threads, Backend::Auto] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("log");
        let (alive, when) = flume::bounded(0);
        let options = Options::new().backend(backend).segment_bytes(256 << 10);
        let wal = Wal::create_blocking(&dir, options.clone()).unwrap();
        wal.append_blocking("one to read").unwrap();
        wal.close_blocking().unwrap();
        // One append takes all the room, and its group gathers.
        let gathers = options.clone().queue_bytes_max(4 << 10).group_delay(Duration::from_secs(60));
        let (wal, _) = pollster::block_on(open(&dir, gathers, when)).unwrap();
        let mut accepted = wal.submit_blocking(vec![0; 4 << 10]).unwrap();
        let (a, b) = (wal.clone(), wal.clone());
        let mut line = Box::pin(async move { a.append("waits for room").await });
        let mut mark = Box::pin(async move { b.wait_durable(9).await });
        assert!(is_pending(&mut accepted) && is_pending(&mut line) && is_pending(&mut mark));

        drop(alive);
        is_told("an append", accepted);
        is_told("who waits for room", line);
        is_told("who waits for the mark", mark);
        is_told("closing", {
            let wal = wal.clone();
            async move { wal.close().await }
        });
        let read = wal.read(..);
        is_told("a reader", async { collect(read).await });
        drop(wal);

        let (wal, _) = Wal::open_blocking(&dir, options).unwrap();
        wal.append_blocking("goes on").unwrap();
        wal.close_blocking().unwrap();
    }
}

/// He was told that the log was closed.
#[test]
fn opener_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let options = Options::new().backend(Backend::Threads).lock_wait(HANG * 2);
    let (wal, _) = Wal::open_or_create_blocking(&dir, options.clone()).unwrap();
    let (alive, when) = flume::bounded(0);
    let (to, again) = (dir.clone(), options.clone());
    let mut waits = Box::pin(async move { open(&to, again, when).await.map(drop) });
    assert!(is_pending(&mut waits), "the other has the lock");
    drop(alive);
    is_told("an opener", waits);
    wal.close_blocking().unwrap();

    // Here the runtime dies before it has begun with the log.
    let (_, when) = flume::bounded(0);
    is_told("an early opener", async move { open(&dir, options, when).await.map(drop) });
}

/// A job that was sent just as its thread died, lay in the channel for ever, as it holds the channel itself.
#[test]
fn opener_is_told_whose_job_nobody_took() {
    let parent = tempfile::tempdir().unwrap();
    let (alive, when) = flume::bounded::<()>(0);
    let options = Options::new().backend(Backend::Threads);
    let thread = SubmissionThread::running(options.disk_config(), move |_host| {
        let _ = when.recv();
        panic!("boom of the runtime");
    });
    let options = options.submission_thread(&thread.unwrap());
    let open = || Wal::open_or_create(parent.path().join("log"), options.clone());
    let mut waits = Box::pin(open());
    assert!(is_pending(&mut waits));
    drop(alive);
    is_told("an opener", waits);
    is_told("a later one", open());
}
