//! `backup`, of [`Wal`] and of [`Reader`].

use super::{Reader, Wal};
use crate::backup::source::Origin;
use crate::backup::{Backup, BackupRequest, CopyBy};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use std::path::Path;
use tokio::sync::oneshot;

/// Copying the log while it is written.
impl Wal {
    /// Makes a backup of the log in the directory `to`, or brings the one that is there up to date. Appends go on meanwhile.
    ///
    /// The backup is a log by itself: [`Wal::open`], [`Reader`] and etcd's own reader open it, and it holds what was durable
    /// when this was called, no more and no less. Restoring is opening it, or copying it back. It is durable when this
    /// returns.
    ///
    /// Only what is new is copied, and the newest segment. Entries that were released since are gone from the backup too:
    /// what it begins with is what the log begins with. To keep more, give another directory now and then. Segments are not
    /// removed from the log as long as they are copied, nor used again.
    ///
    /// It runs in the background, on another thread. Every segment that is copied is checked as it lies in the copy;
    /// [`Wal::verify`], or `seawal verify`, checks those that were copied before. [`CopyBy`] says how files get there, and
    /// [`Wal::backup_by`] lets choose.
    ///
    /// A crash in the middle leaves the backup that was there, or a beginning of the log that holds it. It never leaves a
    /// damaged one; files named `*.tmp` that it may leave are removed by the next one. A first backup that fails may leave an
    /// empty directory.
    ///
    /// ```
    /// # fn main() -> seawal::Result<()> { pollster::block_on(async {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = seawal::Wal::open_or_create(dir.path().join("log"), Default::default()).await?;
    /// # let to = dir.path().join("backup");
    /// wal.append("first").await?;
    /// let backup = wal.backup(&to).await?;
    /// assert_eq!(backup.last_index, 1);
    /// wal.append("second").await?;
    /// assert_eq!(wal.backup(&to).await?.last_index, 2);
    ///
    /// let (copy, recovery) = seawal::Reader::open(&to, Default::default()).await?;
    /// assert_eq!(recovery.last_index, Some(2));
    /// # wal.close().await?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    ///
    /// After an error the log is as it was, and so is the backup that was there, but for an error of naming new segments:
    /// then it holds a part of what is new.
    ///
    /// [`ErrorKind::InvalidInput`] for the log's own directory, or one inside of it, by whatever name;
    /// [`ErrorKind::NotABackup`] where there is something else: other files, another log;
    /// [`ErrorKind::Diverged`] for a backup that was opened for writing since, or is of a log that was restored from an
    /// older one; [`ErrorKind::Released`] if the log released what the backup has not got yet: make a new one;
    /// [`ErrorKind::Locked`] if somebody else is at it; [`ErrorKind::NotFound`] without a directory above;
    /// [`ErrorKind::Damaged`], of the log or of the backup, as the path says; [`ErrorKind::NoSpace`];
    /// [`ErrorKind::PermissionDenied`]; [`ErrorKind::Closed`] and [`ErrorKind::Poisoned`] if the log ends before;
    /// what the operating system says.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, it ends as after a crash.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<Backup> {
        self.backup_by(to, CopyBy::default()).await
    }

    /// As [`Wal::backup`]; `copy_by` says how sealed segments get there.
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Unsupported`] where hard links were asked for and cannot be.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn backup_by(&self, to: impl AsRef<Path>, copy_by: CopyBy) -> Result<Backup> {
        let origin = Origin::Open(self.handle.watermark.clone());
        self.request_backup(to.as_ref(), origin, copy_by).await
    }

    /// See [`Wal::backup`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn backup_blocking(&self, to: impl AsRef<Path>) -> Result<Backup> {
        pollster::block_on(self.backup(to))
    }

    /// See [`Wal::backup_by`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn backup_by_blocking(&self, to: impl AsRef<Path>, copy_by: CopyBy) -> Result<Backup> {
        pollster::block_on(self.backup_by(to, copy_by))
    }

    async fn request_backup(&self, to: &Path, origin: Origin, copy_by: CopyBy) -> Result<Backup> {
        let shared = self.shared();
        let (reply, outcome) = oneshot::channel();
        let (dir, to) = (shared.dir.clone(), to.to_owned());
        shared.backups.send(BackupRequest { dir, origin, to, copy_by, reply })?;
        match outcome.await {
            Ok(outcome) => outcome,
            // Without an answer the log was closed, or the submission thread died, and left word.
            Err(_) => Err(shared.why_gone().await),
        }
    }
}

impl Reader {
    /// Makes a backup of the log, or brings one up to date, beside the process that writes it; see [`Wal::backup`]. It holds
    /// everything that is sound in the files, which is made durable for that: all that was acked before this was called,
    /// also of a writer that died, and perhaps what is about to be acked.
    ///
    /// Nothing keeps the writer from releasing segments meanwhile. If one goes away before it was copied, all begins again,
    /// a few times; then it is an error.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::backup`]; [`ErrorKind::Released`] also if segments kept going away.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<Backup> {
        self.backup_by(to, CopyBy::default()).await
    }

    /// As [`Reader::backup`]; `copy_by` says how sealed segments get there.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn backup_by(&self, to: impl AsRef<Path>, copy_by: CopyBy) -> Result<Backup> {
        self.wal.request_backup(to.as_ref(), Origin::Files, copy_by).await
    }

    /// See [`Reader::backup`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn backup_blocking(&self, to: impl AsRef<Path>) -> Result<Backup> {
        pollster::block_on(self.backup(to))
    }

    /// See [`Reader::backup_by`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn backup_by_blocking(&self, to: impl AsRef<Path>, copy_by: CopyBy) -> Result<Backup> {
        pollster::block_on(self.backup_by(to, copy_by))
    }
}
