//! Keeps one segment prepared ahead of rotation, so that a cut does not wait for space.
//!
//! Preparing means: a new file under a name of its own, locked, with its space allocated. What goes into it (chain,
//! index, hard state) is known only at the cut. A failure is told to the cut that needs the file, and the next cut
//! tries again: a full disk that got room again needs no reopen.

use super::name::PREPARED;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, Disk, DiskFile, Lane};
use std::io;
use std::path::{Path, PathBuf};

/// A file that can become the active segment.
pub(crate) struct Prepared<F> {
    pub file: F,
    pub path: PathBuf,
    pub allocated: u64,
}

pub(crate) struct Pipeline<D: Disk> {
    disk: D,
    dir: PathBuf,
    segment_bytes: u64,
    /// The outcome of the preparation that runs, or has run.
    next: Option<flume::Receiver<Result<Prepared<D::File>>>>,
}

impl<D: Disk> Pipeline<D> {
    /// Starts preparing.
    pub(crate) fn start(disk: D, dir: &Path, segment_bytes: u64) -> Pipeline<D> {
        let mut pipeline = Pipeline { disk, dir: dir.to_owned(), segment_bytes, next: None };
        pipeline.prepare_next();
        pipeline
    }

    fn prepare_next(&mut self) {
        let (sender, receiver) = flume::bounded(1);
        let (disk, dir, bytes) = (self.disk.clone(), self.dir.clone(), self.segment_bytes);
        self.next = Some(receiver);
        self.disk.spawn(async move {
            // Nobody waits any more when the log is closing.
            let _ = sender.send(prepare(&disk, &dir, bytes, LeftOver::IsOurs).await);
        });
    }

    /// Takes the prepared file; [`Pipeline::taken`] is to be called when it has a name of its own.
    pub(crate) async fn take(&mut self) -> Result<Prepared<D::File>> {
        let early = match self.next.take() {
            Some(next) => next.recv_async().await.unwrap_or_else(|_| {
                let what = "preparing the next segment ended without a result";
                Err(Error::new(ErrorKind::Io, what).at_path(&self.dir))
            }),
            None => Err(Error::new(ErrorKind::NoSpace, "no segment is prepared")),
        };
        match early {
            // It may have failed long ago; there may be room by now.
            Err(_) => prepare(&self.disk, &self.dir, self.segment_bytes, LeftOver::IsOurs).await,
            prepared => prepared,
        }
    }

    /// The file that was taken has given up its name: the next one can be prepared under it.
    pub(crate) fn taken(&mut self) {
        self.prepare_next();
    }

    /// Removes the file that is prepared and not needed any more.
    pub(crate) async fn stop(self) {
        if let Some(next) = self.next {
            let _ = next.recv_async().await;
        }
        // Left over, it costs space until the next open, which removes it.
        let _ = self.disk.remove_file(&self.dir.join(PREPARED)).await;
    }
}

/// Whose a file is that has the name of the prepared one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOver {
    /// We have the lock of the log: nobody else prepares. A process that was killed may hold its lock for a moment.
    IsOurs,
    /// If it is locked, somebody else is creating a log here.
    MayBeAnothers,
}

/// Makes a fresh file. One left over from an earlier run is removed, never reused: it may hold old bytes.
pub(crate) async fn prepare<D: Disk>(
    disk: &D,
    dir: &Path,
    segment_bytes: u64,
    whose: LeftOver,
) -> Result<Prepared<D::File>> {
    let path = dir.join(PREPARED);
    let left_over = |error| Error::io("removing a prepared segment left over", &path, error);
    match disk.open(&path, Access::Write, Lane::Background).await {
        Ok(file) => {
            if whose == LeftOver::MayBeAnothers && !file.try_lock().map_err(left_over)? {
                return Err(locked(&path));
            }
            disk.remove_file(&path).await.map_err(left_over)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(left_over(error)),
    }
    let file = disk
        .open(&path, Access::Create, Lane::Background)
        .await
        .map_err(|error| Error::io("creating the next segment", &path, error))?;
    if !file.try_lock().map_err(|error| Error::io("locking", &path, error))? {
        return Err(locked(&path));
    }
    if let Err(error) = file.allocate(0, segment_bytes).await {
        // Leave no half-allocated file in the way of whoever makes room.
        let _ = disk.remove_file(&path).await;
        return Err(Error::io("allocating the next segment", &path, error));
    }
    Ok(Prepared { file, path, allocated: segment_bytes })
}

fn locked(path: &Path) -> Error {
    Error::new(ErrorKind::Locked, "another process is creating a log here")
        .at_path(path)
        .next("wait for it, or choose another directory")
}
