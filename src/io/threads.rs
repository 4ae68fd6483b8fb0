//! The disk for machines without io_uring: plain system calls. It is also the twin that shows what the ring buys.
//!
//! A blocking call holds up whatever else runs on its thread, so what runs where is the whole design:
//!
//! | operation | runs |
//! |---|---|
//! | file operations, `open`: [`Lane::Commit`] | at once, on the calling thread: no hop, lowest latency |
//! | file operations, `open`: [`Lane::Background`] | on the helper thread `seawal-io`, in order of arrival |
//! | [`DiskFile::offload`], `copy_from`, `reflink_from` | on threads of its own ([`offload`]) |
//! | `remove_file` | on the helper thread: freeing a large file's extents takes long, and nobody waits for it |
//! | `rename`, `hard_link`, `sync_dir`, `create_dir`, `list` | at once, on the calling thread |
//!
//! Rotation renames and syncs the directory between two commits, so these must not queue behind a background
//! `fallocate` of a whole segment; that the background also uses them costs a commit at most one journal commit.
//!
//! Sleeps are tokio's, rounded up to whole milliseconds; those shorter than one are busy.
//!
//! # Invariants
//!
//! 1. An operation handed to the helper owns all it touches (the file, the buffer), so dropping its future frees
//!    nothing early: the operation runs to its end, and file and buffer are let go there.
//! 2. A background operation always ends: a panic in one is caught and reported as that operation's error, and the
//!    helper goes on; if the thread is gone altogether, the channel, or the end of the message, says so.
//! 3. When [`ThreadsRuntime`] is dropped, no operation is in flight any more.

use std::cell::Cell;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::offload::{self, Helpers, Operation, Queued, Run};
use super::pool::{Lease, Pool};
use super::start::{DiskConfig, OnDisk};
use super::zeros::Zeros;
use super::{
    Access, AlignedBuf, BlockingFile, DirEntry, Disk, DiskFile, Geometry, Lane, Persist, Zeroing,
    geometry, plain,
};

/// Shorter sleeps are made by looking at the clock, and letting other tasks and threads run in between.
const BUSY_SLEEP_MAX: Duration = Duration::from_millis(1);

/// Background operations that wait for the helper; more make their callers wait.
const HELPER_QUEUE_MAX: usize = 64;

/// How long they wait before they try again.
const FULL_PAUSE: Duration = Duration::from_millis(1);

enum Message {
    Run(Queued),
    Stop,
}

/// The runtime that carries a [`ThreadsDisk`], and its helper thread.
pub(super) struct ThreadsRuntime {
    runtime: tokio::runtime::Runtime,
    config: DiskConfig,
    helper: Helper,
    thread: Option<JoinHandle<()>>,
    /// Of work that is offloaded.
    helpers: Rc<Helpers>,
}

impl ThreadsRuntime {
    pub(super) fn start(config: DiskConfig) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (sender, receiver) = mpsc::sync_channel(HELPER_QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("seawal-io".to_owned())
            .spawn(move || help(&receiver))?;
        Ok(ThreadsRuntime {
            runtime,
            config,
            helper: Helper { sender },
            thread: Some(thread),
            helpers: Rc::default(),
        })
    }

    pub(super) fn run<J: OnDisk>(self, job: J) -> J::Output {
        // Declared here, so that spawned tasks are dropped before `self` stops the helper.
        let tasks = LocalSet::new();
        let disk = ThreadsDisk {
            shared: Rc::new(Shared {
                pool: Pool::of_buffers(&self.config),
                helper: self.helper.clone(),
                helpers: Rc::clone(&self.helpers),
                zeros: Zeros::default(),
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
        self.helpers.stop();
    }
}

/// The helper thread's loop.
fn help(messages: &mpsc::Receiver<Message>) {
    while let Ok(Message::Run(queued)) = messages.recv() {
        queued.run();
    }
}

/// The way to the helper thread.
#[derive(Clone)]
struct Helper {
    sender: mpsc::SyncSender<Message>,
}

impl Helper {
    /// Runs `operation` on the helper thread. If this future is dropped, the operation still runs once it is queued.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let operation = Arc::new(Operation::new(operation));
        let mut message = Message::Run(Queued(Arc::clone(&operation) as Arc<dyn Run>));
        loop {
            match self.sender.try_send(message) {
                Ok(()) => break,
                // Rare: a log has a few background operations at a time.
                Err(TrySendError::Full(back)) => {
                    message = back;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                Err(TrySendError::Disconnected(_)) => {
                    return Err(io::Error::other("the thread seawal-io has ended"));
                }
            }
        }
        let answer = poll_fn(|context| operation.poll(context)).await;
        answer.ok_or_else(|| io::Error::other("an operation on the thread seawal-io panicked"))
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
    helpers: Rc<Helpers>,
    zeros: Zeros,
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
            direct: Cell::new(access == Access::ReadDirect),
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

    async fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn is_within(&self, path: &Path, dir: &Path) -> io::Result<bool> {
        plain::is_within(path, dir)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        plain::open_dir(dir)?.sync_all()
    }

    fn length_and_age(&self, path: &Path) -> io::Result<(u64, Duration)> {
        plain::length_and_age(path)
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        plain::random_id()
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        if duration >= BUSY_SLEEP_MAX {
            return tokio::time::sleep(duration).await;
        }
        // tokio would make a millisecond of it.
        let deadline = Instant::now() + duration;
        loop {
            tokio::task::yield_now().await;
            if Instant::now() >= deadline {
                return;
            }
            std::thread::yield_now();
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
    direct: Cell<bool>,
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
        let direct = self.direct.get();
        let read = move |file: &File| {
            let mut buf = AlignedBuf::with_len(len);
            let filled = offload::read(file, offset, &mut buf, direct)?;
            buf.truncate(filled);
            Ok(buf)
        };
        self.run(read).await?
    }

    async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn BlockingFile) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.disk.helpers.run(Arc::clone(&self.file), self.direct.get(), work).await
    }

    async fn write_at(
        &self,
        buf: Self::Buf,
        len: usize,
        offset: u64,
        persist: Persist,
    ) -> (io::Result<usize>, Self::Buf) {
        assert!(len <= buf.len(), "a write stays inside its buffer");
        let direct = self.direct.get();
        let write =
            move |file: &File| (plain::write(file, &buf[..len], offset, persist, direct), buf);
        match self.run(write).await {
            Ok(result_and_buf) => result_and_buf,
            // The helper has failed and dropped the operation with its buffer, which so went back to the pool. The
            // caller is owed one: contents are arbitrary, so any will do.
            Err(error) => (Err(error), self.disk.pool.take().await),
        }
    }

    async fn copy_from(&self, source: &Self, len: u64) -> io::Result<u64> {
        let to = Arc::clone(&self.file);
        source.offload(move |from| plain::copy(from, &to, len)).await?
    }

    async fn reflink_from(&self, source: &Self) -> io::Result<()> {
        let (from, to) = (Arc::clone(&source.file), Arc::clone(&self.file));
        source.offload(move |_| plain::reflink(&*from, &*to)).await?
    }

    async fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let direct = self.direct.get();
        let fill = self.disk.zeros.fill(offset, len, direct, async |zeros, len, offset| {
            self.run(move |file| plain::write(file, &zeros[..len], offset, Persist::Later, direct))
                .await?
        });
        fill.await
    }

    async fn zero_range(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        self.run(move |file| plain::zero_range(file, offset, len, zeroing)).await?
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

    fn set_direct(&self, direct: bool) -> io::Result<()> {
        plain::set_direct(&*self.file, direct)?;
        self.direct.set(direct);
        Ok(())
    }

    fn geometry(&self) -> io::Result<Geometry> {
        geometry::geometry(&*self.file)
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

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        plain::is_at(&*self.file, path)
    }

    fn links(&self) -> io::Result<u64> {
        plain::links(&*self.file)
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
