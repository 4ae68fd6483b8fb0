//! [`SubmissionThread`]: the thread that logs run on.

use super::engine::{self, Job};
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::Inbox;
use crate::io::{self, Backend, Disk, DiskConfig, OnDisk};
use crate::options::Options;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A thread that does the I/O of any number of logs. Clones are handles to the same thread.
///
/// Each log has one of its own unless [`Options::submission_thread`] names another. Logs that share one share its ring,
/// its write buffers, and its time: with many small logs that saves threads and locked memory; a busy log holds the
/// others up. It ends when the last handle is gone and the last log on it is closed.
///
/// ```
/// # fn main() -> seawal::Result<()> { pollster::block_on(async {
/// # let dir = tempfile::tempdir().unwrap();
/// use seawal::{Options, SubmissionThread, Wal};
///
/// let thread = SubmissionThread::start(&Options::new())?;
/// let options = Options::new().submission_thread(&thread);
/// let (a, _) = Wal::open_or_create(dir.path().join("a"), options.clone()).await?;
/// let (b, _) = Wal::open_or_create(dir.path().join("b"), options).await?;
/// # a.append("1").await?; b.append("1").await?;
/// # a.close().await?; b.close().await?;
/// # Ok(()) }) }
/// ```
#[derive(Clone)]
pub struct SubmissionThread {
    handle: Arc<Handle>,
}

/// What the clones share.
struct Handle {
    /// The thread deserts it when it ends, and so does the last handle. A job holds a handle: left in a channel of its
    /// own, it would hold that for ever.
    jobs: Arc<Inbox<Job>>,
    /// What its write buffers are like.
    config: DiskConfig,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Each job in it would hold a handle, so there is none.
        drop(self.jobs.desert(Error::closed()));
    }
}

impl SubmissionThread {
    /// Starts a thread, on the [`Options::backend`] and with the write buffers of these options.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for options out of their limits; [`ErrorKind::Io`] if there is no thread to be had. If
    /// the backend cannot be set up, opening a log on it says so.
    pub fn start(options: &Options) -> Result<SubmissionThread> {
        options.check()?;
        let (backend, config) = (options.backend, options.disk_config());
        SubmissionThread::running(config, move |host| {
            io::run(backend, config, host).map_err(|error| no_backend(backend, error))
        })
    }

    /// One on which `work` is what runs the host.
    pub(super) fn running(
        config: DiskConfig,
        work: impl FnOnce(Host) -> Result<()> + Send + 'static,
    ) -> Result<SubmissionThread> {
        let jobs = Arc::new(Inbox::new());
        let host = Host { jobs: Arc::clone(&jobs) };
        let run = move || {
            let jobs = Arc::clone(&host.jobs);
            // Caught, to tell those whose jobs it did not take. The panic hook has told of it.
            let error = match catch_unwind(AssertUnwindSafe(|| work(host))) {
                Ok(Ok(())) => Error::closed(),
                Ok(Err(error)) => error,
                Err(panic) => engine::panicked(panic.as_ref())
                    .next("start another submission thread, and open its logs again"),
            };
            let left = jobs.desert(error.clone());
            left.into_iter().for_each(|job| job.refuse(&error));
        };
        std::thread::Builder::new().name("seawal".into()).spawn(run).map_err(|error| {
            Error::new(ErrorKind::Io, "starting the submission thread failed").because(error)
        })?;
        Ok(SubmissionThread { handle: Arc::new(Handle { jobs, config }) })
    }

    /// Runs a log. Fails if the thread is gone, or could not be set up.
    pub(super) fn run(&self, job: Job) -> Result<()> {
        self.handle.jobs.send(job)
    }

    /// Groups that its buffers allow in flight.
    pub(super) fn config(&self) -> DiskConfig {
        self.handle.config
    }
}

impl fmt::Debug for SubmissionThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmissionThread")
            .field("config", &self.handle.config)
            .finish_non_exhaustive()
    }
}

fn no_backend(backend: Backend, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("setting up the {backend} backend failed"))
        .next("use Backend::Auto or Backend::Threads (--backend threads)")
        .because(error)
}

/// Runs the logs that come, until no more can come. Each holds a handle as long as it runs.
pub(super) struct Host {
    jobs: Arc<Inbox<Job>>,
}

impl OnDisk for Host {
    type Output = ();

    async fn run<D: Disk>(self, disk: D) {
        while let Some(job) = self.jobs.receive().await {
            disk.spawn(job.hosted(disk.clone()));
        }
    }
}
