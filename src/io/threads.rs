//! The disk for machines without io_uring: plain system calls. It is also the twin that shows what the ring buys.
//!
//! A blocking call holds up whatever else runs on its thread, so what runs where is the whole design:
//!
//! | operation | runs |
//! |---|---|
//! | file operations, `open`: [`Lane::Commit`] | at once, on the calling thread: no hop, lowest latency |
//! | file operations, `open`: [`Lane::Background`] | on the helper thread `seawal-io`, in order of arrival |
//! | `remove_file` | on the helper thread: freeing a large file's extents takes long, and nobody waits for it |
//! | `rename`, `sync_dir`, `create_dir`, `list` | at once, on the calling thread |
//!
//! Rotation renames and syncs the directory between two commits, so these must not queue behind a background
//! `fallocate` of a whole segment; that the background also uses them costs a commit at most one journal commit.
//!
//! Sleeps are tokio's, rounded up to whole milliseconds.
//!
//! # Invariants
//!
//! 1. An operation handed to the helper owns all it touches (the file, the buffer), so dropping its future frees
//!    nothing early: the operation runs to its end, and file and buffer are let go there.
//! 2. A background operation always ends: a panic in one is caught and reported as that operation's error, and the
//!    helper goes on; if the thread is gone altogether, the channel says so.
//! 3. When [`ThreadsRuntime`] is dropped, no operation is in flight any more.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::fill::Fill;
use super::pool::{Lease, Pool};
use super::start::{DiskConfig, OnDisk};
use super::{Access, AlignedBuf, DirEntry, Disk, DiskFile, Lane, plain};

/// Background operations that wait for the helper; more make their callers wait.
const HELPER_QUEUE_MAX: usize = 64;

enum Message {
    Run(Box<dyn FnOnce() + Send>),
    Stop,
}

/// The runtime that carries a [`ThreadsDisk`], and its helper thread.
pub(super) struct ThreadsRuntime {
    runtime: tokio::runtime::Runtime,
    config: DiskConfig,
    helper: Helper,
    thread: Option<JoinHandle<()>>,
}

impl ThreadsRuntime {
    pub(super) fn start(config: DiskConfig) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (sender, receiver) = flume::bounded(HELPER_QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("seawal-io".to_owned())
            .spawn(move || help(&receiver))?;
        Ok(ThreadsRuntime { runtime, config, helper: Helper { sender }, thread: Some(thread) })
    }

    pub(super) fn run<J: OnDisk>(self, job: J) -> J::Output {
        // Declared here, so that spawned tasks are dropped before `self` stops the helper.
        let tasks = LocalSet::new();
        let disk = ThreadsDisk {
            shared: Rc::new(Shared {
                pool: Pool::of_buffers(&self.config),
                helper: self.helper.clone(),
                start: Instant::now(),
            }),
        };
        tasks.block_on(&self.runtime, job.run(disk))
    }
}

impl Drop for ThreadsRuntime {
    fn drop(&mut self) {
        // By a message, not by closing the channel: a handle to the disk that was leaked must not hang us. If the
        // helper is gone, there is nothing to stop and nothing in flight.
        let _ = self.helper.sender.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The helper thread's loop.
fn help(messages: &flume::Receiver<Message>) {
    while let Ok(Message::Run(operation)) = messages.recv() {
        // Caught, because operations behind it in the queue would wait for ever. Unwinding drops the sender of the
        // answer, which is how the caller learns of it; nothing else is shared with the operation.
        let _ = catch_unwind(AssertUnwindSafe(operation));
    }
}

/// The way to the helper thread.
#[derive(Clone)]
struct Helper {
    sender: flume::Sender<Message>,
}

impl Helper {
    /// Runs `operation` on the helper thread. If this future is dropped, the operation still runs once it is queued.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let run = Message::Run(Box::new(move || {
            // Nobody listens if the caller's future was dropped.
            let _ = answer.send(operation());
        }));
        self.sender
            .send_async(run)
            .await
            .map_err(|_| io::Error::other("the thread seawal-io has ended"))?;
        answered
            .await
            .map_err(|_| io::Error::other("an operation on the thread seawal-io panicked"))
    }
}

/// See the [module](self).
#[derive(Clone)]
pub(super) struct ThreadsDisk {
    shared: Rc<Shared>,
}

struct Shared {
    pool: Pool<AlignedBuf>,
    helper: Helper,
    start: Instant,
}

impl Disk for ThreadsDisk {
    type File = ThreadsFile;
    type Buf = Lease<AlignedBuf>;

    fn name(&self) -> &'static str {
        "threads"
    }

    async fn buffer(&self) -> Self::Buf {
        self.shared.pool.take().await
    }

    async fn open(&self, path: &Path, access: Access, lane: Lane) -> io::Result<ThreadsFile> {
        let file = match lane {
            Lane::Commit => plain::open(path, access)?,
            Lane::Background => {
                let path = path.to_owned();
                let open = move || plain::open(&path, access);
                self.shared.helper.run(open).await??
            }
        };
        Ok(ThreadsFile {
            file: Arc::new(file),
            direct: access == Access::ReadDirect,
            lane,
            disk: Rc::clone(&self.shared),
        })
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        plain::list(dir)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        plain::create_dir(dir)
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        let remove = move || std::fs::remove_file(&path);
        self.shared.helper.run(remove).await?
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        plain::open_dir(dir)?.sync_all()
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        plain::random_id()
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        match duration {
            // tokio would make a millisecond of it.
            Duration::ZERO => tokio::task::yield_now().await,
            duration => tokio::time::sleep(duration).await,
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }
}

/// An open file of a [`ThreadsDisk`].
pub(super) struct ThreadsFile {
    /// Shared with the operations on the helper thread: the description, and its lock, last as long as they do.
    file: Arc<File>,
    direct: bool,
    lane: Lane,
    disk: Rc<Shared>,
}

impl ThreadsFile {
    /// Runs an operation where the file's lane says.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&File) -> T + Send + 'static,
    ) -> io::Result<T> {
        match self.lane {
            Lane::Commit => Ok(operation(&self.file)),
            Lane::Background => {
                let file = Arc::clone(&self.file);
                self.disk.helper.run(move || operation(&file)).await
            }
        }
    }
}

impl DiskFile for ThreadsFile {
    type Buf = Lease<AlignedBuf>;

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        let direct = self.direct;
        self.run(move |file| read(file, offset, len, direct)).await?
    }

    async fn write_at(
        &self,
        buf: Self::Buf,
        len: usize,
        offset: u64,
    ) -> (io::Result<usize>, Self::Buf) {
        assert!(len <= buf.len(), "a write stays inside its buffer");
        let write = move |file: &File| (write(file, &buf[..len], offset), buf);
        match self.run(write).await {
            Ok(result_and_buf) => result_and_buf,
            // The helper has failed and dropped the operation with its buffer, which so went back to the pool. The
            // caller is owed one: contents are arbitrary, so any will do.
            Err(error) => (Err(error), self.disk.pool.take().await),
        }
    }

    async fn sync_data(&self) -> io::Result<()> {
        // Not repeated, whatever the error: a second success would prove nothing about the first one's bytes.
        self.run(File::sync_data).await?
    }

    async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.run(move |file| plain::allocate(file, offset, len)).await?
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        self.run(move |file| plain::truncate(file, len)).await?
    }

    fn set_lane(&mut self, lane: Lane) {
        self.lane = lane;
    }

    fn try_lock(&self) -> io::Result<bool> {
        plain::try_lock(&*self.file)
    }

    fn len(&self) -> io::Result<u64> {
        plain::length(&*self.file)
    }
}

fn read(file: &File, offset: u64, len: usize, direct: bool) -> io::Result<AlignedBuf> {
    let direct_end = direct.then(|| plain::length(file)).transpose()?;
    let mut fill = Fill::new(offset, len, direct_end);
    let mut buf = AlignedBuf::with_len(len);
    while !fill.is_full() {
        match file.read_at(&mut buf[fill.filled()..], fill.position()) {
            Ok(count) => {
                if fill.advance(count)? {
                    break;
                }
            }
            Err(error) if plain::is_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
    buf.truncate(fill.filled());
    Ok(buf)
}

/// One write that was not interrupted. `EINTR` means that nothing was written, so it is not a short write either.
fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.write_at(bytes, offset) {
            Err(error) if plain::is_interrupted(&error) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DiskConfig = DiskConfig { buffer_count: 1, buffer_bytes: 4096 };

    /// Runs a test on a [`ThreadsDisk`] itself, not on any [`Disk`].
    fn with_helper<T>(test: impl AsyncFnOnce(&Helper) -> T) -> T {
        let runtime = ThreadsRuntime::start(CONFIG).expect("threads start anywhere");
        runtime.runtime.block_on(test(&runtime.helper))
    }

    #[test]
    fn a_panic_on_the_helper_is_an_error_and_the_next_operation_runs() {
        with_helper(async |helper| {
            let error = helper
                .run(|| panic!("as intended by this test"))
                .await
                .map(|()| "no error")
                .unwrap_err();
            assert!(error.to_string().contains("panicked"), "{error}");
            assert_eq!(helper.run(|| 5).await.unwrap(), 5);
        });
    }

    #[test]
    fn a_helper_that_is_gone_is_an_error() {
        let helper = {
            let runtime = ThreadsRuntime::start(CONFIG).expect("threads start anywhere");
            runtime.helper.clone()
        };
        let runtime = ThreadsRuntime::start(CONFIG).expect("threads start anywhere");
        let error = runtime.runtime.block_on(helper.run(|| ())).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }

    #[test]
    fn the_runtime_waits_for_operations_that_nobody_waits_for() {
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = Arc::clone(&done);
        with_helper(async |helper| {
            let mut operation = std::pin::pin!(helper.run(move || {
                std::thread::sleep(Duration::from_millis(50));
                done.store(true, std::sync::atomic::Ordering::SeqCst);
            }));
            std::future::poll_fn(|cx| {
                assert!(operation.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        });
        assert!(seen.load(std::sync::atomic::Ordering::SeqCst));
    }
}
