//! A simulated machine for tests of what an application does with its log: power losses, full disks, failing syncs,
//! in virtual time, the same on each run.
//!
//! The log that [`Sim::open`] gives is the ordinary [`Wal`], and all of its code runs; only the disk, the clock and the
//! thread are simulated.
//!
//! ```
//! use seawal::testing::{Crash, OpKind, Sim};
//! use seawal::Options;
//!
//! let sim = Sim::new(42);
//! sim.block_on(async {
//!     let (wal, _) = sim.open_or_create("/log", Options::new()).await?;
//!     wal.append("acked").await?;
//!     sim.fail_next(OpKind::Write, 5);
//!     assert!(wal.append("lost").await.is_err());
//!     seawal::Result::<()>::Ok(())
//! })?;
//! sim.power_loss(Crash::LoseUnsynced);
//! let (wal, recovery) = sim.block_on(sim.open("/log", Options::new()))?;
//! assert_eq!(recovery.last_index, Some(1));
//! # seawal::Result::<()>::Ok(())
//! ```
//!
//! `examples/crash_test.rs` tests a small key-value store this way. `docs/testing.md` says what the simulated disk does
//! to what was not synced.
//!
//! # Running code
//!
//! The application's code runs on the machine too: inside [`Sim::block_on`] and [`Sim::spawn`], and waits with
//! [`Sim::sleep`]. Whatever waits for something outside (another thread, a real timer, a socket) never goes on there:
//! the clock only moves when nothing else can, and if nothing ever can, that is a panic, so that a hang is a failed
//! test. The blocking twins of calls hang in the same way. [`Options::backend`](crate::Options::backend),
//! [`Options::submission_thread`](crate::Options::submission_thread) and [`Options::spin`](crate::Options::spin) mean
//! nothing here.
//!
//! Only logs are on the simulated disk: an application's other files are not, but for those that a test puts there whole
//! and durable with [`Sim::write_file`]. A log that is still held after [`Sim::kill`] or [`Sim::power_loss`] answers with an
//! error.

pub use crate::io::sim::{Crash, OpKind, PowerLoss, Sim, TraceEntry};

use crate::error::Result;
use crate::options::Options;
use crate::streams::Streams;
use crate::wal::{self, How, Reader, Recovery, Replay, Wal};
use std::path::Path;

/// Logs on the simulated disk. The errors are those of the calls of the same names of [`Wal`] and [`Reader`].
impl Sim {
    /// As [`Wal::create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn create(&self, dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        Ok(self.start(dir.as_ref(), options, How::Create).await?.0)
    }

    /// As [`Wal::open`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn open(&self, dir: impl AsRef<Path>, options: Options) -> Result<(Wal, Recovery)> {
        self.start(dir.as_ref(), options, How::Open).await
    }

    /// As [`Wal::open_or_create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn open_or_create(
        &self,
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(Wal, Recovery)> {
        self.start(dir.as_ref(), options, How::OpenOrCreate).await
    }

    /// As [`Reader::open`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn open_reader(
        &self,
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(Reader, Recovery)> {
        let (wal, recovery) = self.start(dir.as_ref(), options, How::Read).await?;
        Ok((Reader::of(wal), recovery))
    }

    /// As [`Streams::open_or_create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn open_streams(
        &self,
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(Streams, Recovery)> {
        let dir = dir.as_ref();
        Streams::over(options, |options| self.start(dir, options, How::OpenOrCreate)).await
    }

    /// As [`Wal::replay_or_create`].
    pub fn replay_or_create(&self, dir: impl AsRef<Path>, options: Options) -> Replay<Wal> {
        let disk = |config| self.disk(config);
        wal::replay_on(disk, dir.as_ref(), options, How::OpenOrCreate, |wal| wal)
    }

    /// As [`Reader::replay`].
    pub fn replay_reader(&self, dir: impl AsRef<Path>, options: Options) -> Replay<Reader> {
        wal::replay_on(|config| self.disk(config), dir.as_ref(), options, How::Read, Reader::of)
    }

    pub(crate) async fn start(
        &self,
        dir: &Path,
        options: Options,
        how: How,
    ) -> Result<(Wal, Recovery)> {
        wal::start_on(|config| self.disk(config), dir, options, how).await
    }
}
