//! From a directory to a handle: starts the log's job and waits until the log is open.

use super::engine::{self, How, Job, Opened};
use super::{Closer, Handle, Recovery, Wal};
use crate::error::Result;
#[cfg(any(test, feature = "testing"))]
use crate::io::{Disk, DiskConfig};
use crate::options::Options;
use crate::recovery::handout::Handout;
use crate::types::Durability;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::oneshot;

/// A log that is being opened. Dropped, it is closed again.
#[derive(Debug)]
pub(super) struct Opening {
    closer: Closer,
    opened: oneshot::Receiver<Result<Opened>>,
    durability: Durability,
}

impl Opening {
    /// The job that opens the log, to be run.
    pub(super) fn new(
        dir: &Path,
        options: Options,
        how: How,
        handout: Option<Handout>,
    ) -> (Job, Opening) {
        let durability = options.durability;
        let (job, opened) = engine::job(dir, options, how, handout);
        let closer = Closer { shared: Arc::clone(job.shared()), closing: AtomicBool::new(false) };
        (job, Opening { closer, opened, durability })
    }

    /// Starts to open a log where its options say.
    pub(super) fn begin(
        dir: &Path,
        options: Options,
        how: How,
        handout: Option<Handout>,
    ) -> Result<Opening> {
        options.check()?;
        let (job, opening) = Opening::new(dir, options, how, handout);
        job.start()?;
        Ok(opening)
    }

    /// The same as a task of a simulated disk, whose thread this is. Its time is virtual: nothing happens while somebody is
    /// busy with waiting.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn begin_on<D: Disk>(
        disk: impl FnOnce(DiskConfig) -> D,
        dir: &Path,
        options: Options,
        how: How,
        handout: Option<Handout>,
    ) -> Result<Opening> {
        options.check()?;
        let disk = disk(options.disk_config());
        let options = options.stay_awake(std::time::Duration::ZERO);
        let (job, opening) = Opening::new(dir, options, how, handout);
        disk.clone().spawn(job.simulated(disk));
        Ok(opening)
    }

    /// Waits until the log is open.
    pub(super) async fn opened(self) -> Result<(Wal, Recovery)> {
        let Opening { closer, opened, durability } = self;
        let opened = match opened.await {
            Ok(opened) => opened?,
            Err(_) => return Err(closer.shared.why_gone().await),
        };
        let Opened { watermark, recovery, backend, method, notes } = opened;
        let handle = Handle { closer, watermark, backend, method, notes };
        Ok((Wal { handle: Arc::new(handle), durability }, recovery))
    }
}

/// Starts the submission thread and waits until the log is open.
pub(crate) async fn start(dir: &Path, options: Options, how: How) -> Result<(Wal, Recovery)> {
    Opening::begin(dir, options, how, None)?.opened().await
}

/// As [`start`], as a task of a disk whose thread this is.
#[cfg(any(test, feature = "testing"))]
pub(crate) async fn start_on<D: Disk>(
    disk: impl FnOnce(DiskConfig) -> D,
    dir: &Path,
    options: Options,
    how: How,
) -> Result<(Wal, Recovery)> {
    Opening::begin_on(disk, dir, options, how, None)?.opened().await
}
