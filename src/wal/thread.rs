//! [`SubmissionThread`]: the thread that logs run on.

use super::engine::Job;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{self, Backend, Disk, DiskConfig, OnDisk};
use crate::options::Options;
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
#[derive(Clone, Debug)]
pub struct SubmissionThread {
    jobs: flume::Sender<Job>,
    /// What its write buffers are like.
    config: DiskConfig,
    /// Why it could not be set up.
    failed: Arc<std::sync::OnceLock<Error>>,
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
        let (jobs, receiver) = flume::unbounded();
        let (backend, config) = (options.backend, options.disk_config());
        let failed = Arc::new(std::sync::OnceLock::new());
        let thread = SubmissionThread { jobs, config, failed: Arc::clone(&failed) };
        let run = move || {
            let host = Host { jobs: receiver.clone() };
            if let Err(error) = io::run(backend, config, host) {
                let error = no_backend(backend, error);
                failed.get_or_init(|| error.clone());
                // Until the last handle is gone.
                receiver.iter().for_each(|job| job.refuse(&error));
            }
        };
        std::thread::Builder::new().name("seawal".into()).spawn(run).map_err(|error| {
            Error::new(ErrorKind::Io, "starting the submission thread failed").because(error)
        })?;
        Ok(thread)
    }

    /// Runs a log.
    pub(super) fn run(&self, job: Job) -> Result<()> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        self.jobs.send(job).map_err(|_| {
            Error::new(ErrorKind::Poisoned, "the submission thread has panicked")
                .next("start another one, and open its logs again")
        })
    }

    /// Groups that its buffers allow in flight.
    pub(super) fn config(&self) -> DiskConfig {
        self.config
    }
}

fn no_backend(backend: Backend, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("setting up the {backend} backend failed"))
        .next("use Backend::Auto or Backend::Threads (--backend threads)")
        .because(error)
}

/// Runs the logs that come, until no more can come. Each holds a handle as long as it runs.
struct Host {
    jobs: flume::Receiver<Job>,
}

impl OnDisk for Host {
    type Output = ();

    async fn run<D: Disk>(self, disk: D) {
        while let Ok(job) = self.jobs.recv_async().await {
            disk.spawn(job.hosted(disk.clone()));
        }
    }
}
