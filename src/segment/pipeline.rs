//! Keeps one segment prepared ahead of rotation, so that a cut does not wait for space.
//!
//! Preparing means: a new file under a name of its own, locked, with its space allocated and, if asked for, written
//! with zeros: to overwrite a written block takes one write and one flush of the device, to write an allocated one
//! for the first time takes a commit of the file system's journal as well. What goes into the file (chain, index, hard
//! state) is known only at the cut. A failure is told to the cut that needs the file, and the next cut tries again: a
//! full disk that got room again needs no reopen.
//!
//! # Invariants
//!
//! 1. Zeros are written to the *next* segment only, one write at a time, and the last one has come back before the file
//!    is handed out: a late zero write would erase a group that was acked.
//! 2. A cut never waits for zeros: the file is handed out as far as it has come ([`Prepared::ready`]).
//!
//! 3. Of a file that was a segment before, all is cleared and synced before it is handed out, however much that hurries.
//!
//! # Pace
//!
//! Zeros share the disk with commits, and a commit waits for the zero write before it: so they are written in small
//! pieces, spread over the life of the active segment. The filler looks every millisecond how far that is filled, and
//! keeps a third ahead of it, with larger pieces where much was appended meanwhile: a piece can cost the next commit a
//! write of an inode. While nothing is appended it still writes a piece now and then. Where segments are used up faster
//! than [`ZERO_RATE_MAX`], zeros would cost more than they give: they are left out.

use super::name::PREPARED;
use super::spares::{Source, Spares};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, Disk, DiskFile, Lane, Zeroing};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;

/// Zeros written at a time: so many, or a multiple where the zeros are that far behind.
const PIECE_BYTES: u64 = 64 << 10;
const PIECE_BYTES_MAX: u64 = 256 << 10;

/// Bytes per second of appends from which on no zeros are written.
const ZERO_RATE_MAX: u64 = 300_000_000;

/// The filler looks so often.
const TICK: Duration = Duration::from_millis(1);

/// Ticks after which a piece is written though it is not needed yet.
const TICKS_IDLE: u32 = 4;

/// How a segment is prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preparation {
    pub segment_bytes: u64,
    pub zero_fill: bool,
    /// The file is going to be written past the page cache.
    pub direct: bool,
}

impl Preparation {
    fn space(&self) -> u64 {
        space(self.segment_bytes)
    }
}

/// Space at the end of each segment that appends leave free: on a full disk, what lets go of files has to be written down
/// first.
pub(crate) const RELEASE_BYTES: u64 = 2 * ALIGN_BYTES;

/// What a segment takes, in whole blocks.
pub(crate) fn space(segment_bytes: u64) -> u64 {
    let bytes = segment_bytes.saturating_add(RELEASE_BYTES);
    let blocks = bytes.checked_next_multiple_of(ALIGN_BYTES);
    blocks.unwrap_or(u64::MAX / ALIGN_BYTES * ALIGN_BYTES)
}

/// A file that can become the active segment.
pub(crate) struct Prepared<F> {
    pub file: F,
    pub path: PathBuf,
    pub allocated: u64,
    /// Written with zeros up to here.
    pub zeroed: u64,
    /// It was a segment before, and still holds what was in it.
    pub used: bool,
    /// It is all that was asked for.
    pub ready: bool,
}

pub(crate) struct Pipeline<D: Disk> {
    disk: D,
    dir: PathBuf,
    preparation: Preparation,
    spares: Rc<Spares>,
    progress: Rc<Progress>,
    /// When the active segment was begun.
    begun: Duration,
    /// The outcome of the preparation that runs, or has run.
    next: Option<flume::Receiver<Result<Prepared<D::File>>>>,
}

/// A full segment.
const WHOLE: u64 = 1024;

/// What the filler and the committer know of each other.
#[derive(Default)]
struct Progress {
    /// How far the active segment is filled, in parts of [`WHOLE`].
    active: Cell<u64>,
    /// The file is needed now.
    hurry: Cell<bool>,
    wake: Notify,
    /// The next segment is all zeros, and they are durable.
    zeroed: Cell<bool>,
}

impl<D: Disk> Pipeline<D> {
    /// Starts preparing.
    pub(crate) fn start(
        disk: D,
        dir: &Path,
        preparation: Preparation,
        spares: Rc<Spares>,
    ) -> Pipeline<D> {
        let begun = disk.now();
        let dir = dir.to_owned();
        let progress = Rc::default();
        let mut pipeline = Pipeline { disk, dir, preparation, spares, progress, begun, next: None };
        pipeline.prepare_next(preparation);
        pipeline
    }

    fn prepare_next(&mut self, preparation: Preparation) {
        let (sender, receiver) = flume::bounded(1);
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        self.progress = Rc::default();
        let (progress, spares) = (Rc::clone(&self.progress), Rc::clone(&self.spares));
        self.next = Some(receiver);
        self.disk.spawn(async move {
            // Where there may be no more files, until one is given up, or it is too late.
            let source = loop {
                match spares.take() {
                    None if !progress.hurry.get() => progress.unless_hurried(spares.wait()).await,
                    source => break source,
                }
            };
            let prepared = match source {
                Some(source) => obtain(&disk, &dir, preparation, &spares, source).await,
                None => Err(full(&dir)),
            };
            let outcome = match prepared {
                Ok(prepared) => fill(&disk, prepared, preparation, &progress).await,
                error => error,
            };
            // Nobody waits any more when the log is closing.
            let _ = sender.send(outcome);
        });
    }

    /// How far the active segment is filled, of the bytes that it is quick for: the zeros keep ahead of it.
    pub(crate) fn active_is_at(&self, offset: u64, of: u64) {
        self.progress.active.set(offset * WHOLE / of.max(1));
    }

    /// The next segment is there, with zeros to its end.
    pub(crate) fn has_zeroed(&self) -> bool {
        self.progress.zeroed.get()
    }

    /// Takes the prepared file; [`Pipeline::taken`] is to be called when it has a name of its own.
    pub(crate) async fn take(&mut self) -> Result<Prepared<D::File>> {
        let early = match self.next.take() {
            Some(next) => {
                let in_time = !next.is_empty();
                self.progress.hurry();
                let outcome = next.recv_async().await.unwrap_or_else(|_| {
                    let what = "preparing the next segment ended without a result";
                    Err(Error::new(ErrorKind::Io, what).at_path(&self.dir))
                });
                outcome.map(|prepared| Prepared { ready: prepared.ready && in_time, ..prepared })
            }
            None => Err(Error::new(ErrorKind::NoSpace, "no segment is prepared")),
        };
        match early {
            Ok(prepared) => Ok(prepared),
            // It may have failed long ago; there may be room by now.
            Err(_) => {
                let (disk, dir, preparation) = (&self.disk, &self.dir, self.preparation);
                let source = self.spares.take().ok_or_else(|| full(dir))?;
                let mut late = obtain(disk, dir, preparation, &self.spares, source).await?;
                if late.used {
                    let all = 0..preparation.space();
                    zero_at_once(&late.file, &late.path, all, Zeroing::Unwritten).await?;
                    late.used = false;
                }
                late.file.set_direct(preparation.direct).map_err(|e| direct(&late.path, e))?;
                Ok(Prepared { ready: false, ..late })
            }
        }
    }

    /// The file that was taken has given up its name: the next one can be prepared under it. The segment before it holds
    /// so many bytes.
    pub(crate) fn taken(&mut self, bytes: u64) {
        let now = self.disk.now();
        let age = now.saturating_sub(self.begun);
        self.begun = now;
        let worth_it = bytes as f64 <= ZERO_RATE_MAX as f64 * age.as_secs_f64();
        let zero_fill = self.preparation.zero_fill && worth_it;
        self.prepare_next(Preparation { zero_fill, ..self.preparation });
    }

    /// Removes the file that is prepared and not needed any more.
    pub(crate) async fn stop(self) {
        if let Some(next) = self.next {
            self.progress.hurry();
            let _ = next.recv_async().await;
        }
        // Left over, they cost space until the next open, which removes them.
        let _ = self.disk.remove_file(&self.dir.join(PREPARED)).await;
        while let Some(Source::Spare(path)) = self.spares.take() {
            let _ = self.disk.remove_file(&path).await;
        }
    }
}

impl Progress {
    fn hurry(&self) {
        self.hurry.set(true);
        self.wake.notify_one();
    }

    /// Sleeps, unless the file is needed.
    async fn pause<D: Disk>(&self, disk: &D, time: Duration) {
        self.unless_hurried(disk.sleep(time)).await;
    }

    /// Waits, unless the file is needed.
    async fn unless_hurried(&self, until: impl Future<Output = ()>) {
        let mut sleep = pin!(until);
        let mut wake = pin!(self.wake.notified());
        poll_fn(|context| {
            match sleep.as_mut().poll(context).is_ready() || wake.as_mut().poll(context).is_ready()
            {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

/// Writes zeros into a prepared file, as far as time allows, and leaves it in the mode it is written in later.
async fn fill<D: Disk>(
    disk: &D,
    mut prepared: Prepared<D::File>,
    preparation: Preparation,
    progress: &Progress,
) -> Result<Prepared<D::File>> {
    let Prepared { file, path, zeroed, used, ready, .. } = &mut prepared;
    if preparation.zero_fill {
        let len = preparation.space() - RELEASE_BYTES;
        zeros_past_the_cache(file);
        *zeroed = zero(disk, file, 0..len, progress)
            .await
            .map_err(|error| Error::io("zero-filling", path, error))?;
        *ready = *zeroed == len;
        if *ready {
            file.sync_data().await.map_err(|error| Error::io("syncing zeros", path, error))?;
            progress.zeroed.set(true);
        }
    }
    if *used {
        let rest = *zeroed..preparation.space();
        zero_at_once(file, path, rest, Zeroing::Unwritten).await?;
        *used = false;
    }
    file.set_direct(preparation.direct).map_err(|error| direct(path, error))?;
    Ok(prepared)
}

/// Direct writes of zeros keep to it. Offsets and lengths of a segment's zeros are multiples of it.
const ALIGN_BYTES: u64 = crate::io::BLOCK_BYTES as u64;

/// Writes zeros to `range` until the file is needed; says how far it got.
async fn zero<D: Disk>(
    disk: &D,
    file: &D::File,
    range: Range<u64>,
    progress: &Progress,
) -> io::Result<u64> {
    match file.zero_range(range.start, range.end - range.start, Zeroing::Written).await {
        Ok(()) => return Ok(range.end),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(error) => return Err(error),
    }
    let mut offset = range.start;
    let mut ticks = 0;
    while offset < range.end && !progress.hurry.get() {
        let wanted =
            range.start + (range.end - range.start) * progress.active.get() / WHOLE * 4 / 3;
        if offset > wanted && ticks < TICKS_IDLE {
            progress.pause(disk, TICK).await;
            ticks += 1;
            continue;
        }
        ticks = 0;
        let len = piece_bytes(wanted.saturating_sub(offset)).min(range.end - offset);
        file.write_zeros(offset, len).await?;
        offset += len;
    }
    Ok(offset)
}

/// How much is written at a time when the zeros are so far behind.
fn piece_bytes(behind: u64) -> u64 {
    (behind / PIECE_BYTES * PIECE_BYTES).clamp(PIECE_BYTES, PIECE_BYTES_MAX)
}

/// Lets the zeros of a file go past the page cache, which would only be dirtied; where that does not work, through it.
pub(crate) fn zeros_past_the_cache<F: DiskFile>(file: &F) {
    let align = file.geometry().ok().and_then(|geometry| geometry.direct_align);
    if align.is_some_and(|align| align <= ALIGN_BYTES) {
        let _ = file.set_direct(true);
    }
}

/// Makes a range zeros at once, without any pace, and durable: what is left of a segment that is not yet in use, or what is
/// in a file that was a segment before. Nothing of that may be there when its first group is written: a dead group would
/// come back.
pub(crate) async fn zero_at_once<F: DiskFile>(
    file: &F,
    path: &Path,
    range: Range<u64>,
    zeroing: Zeroing,
) -> Result<()> {
    let Range { start, end } = range;
    let zeroed = match file.zero_range(start, end - start, zeroing).await {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            file.write_zeros(start, end - start).await
        }
        outcome => outcome,
    };
    zeroed.map_err(|error| Error::io("zero-filling", path, error))?;
    file.sync_data().await.map_err(|error| Error::io("syncing zeros", path, error))
}

/// A file under the name of the prepared one: a spare, or a new one.
async fn obtain<D: Disk>(
    disk: &D,
    dir: &Path,
    preparation: Preparation,
    spares: &Spares,
    source: Source,
) -> Result<Prepared<D::File>> {
    let spare = match source {
        Source::Spare(path) => path,
        Source::New => {
            let prepared = prepare(disk, dir, preparation, LeftOver::IsOurs).await;
            return prepared.inspect_err(|_| spares.gone());
        }
    };
    match reuse(disk, dir, preparation, &spare).await {
        Ok(prepared) => Ok(prepared),
        Err(error) => {
            tracing::warn!(path = %spare.display(), %error, "a spare segment is not used again");
            // By one of its names it is there still.
            let _ = disk.remove_file(&spare).await;
            let prepared = prepare(disk, dir, preparation, LeftOver::IsOurs).await;
            prepared.inspect_err(|_| spares.gone())
        }
    }
}

/// Gives a spare the name of the prepared file, and the length of a segment.
async fn reuse<D: Disk>(
    disk: &D,
    dir: &Path,
    preparation: Preparation,
    spare: &Path,
) -> Result<Prepared<D::File>> {
    let path = dir.join(PREPARED);
    let failed = |error| Error::io("using a segment again", &path, error);
    disk.rename(spare, &path).await.map_err(failed)?;
    let file = disk.open(&path, Access::Write, Lane::Background).await.map_err(failed)?;
    if !file.try_lock().map_err(failed)? {
        return Err(locked(&path));
    }
    let allocated = preparation.space();
    if file.len().map_err(failed)? > allocated {
        file.truncate(allocated).await.map_err(failed)?;
    }
    file.allocate(0, allocated).await.map_err(failed)?;
    Ok(Prepared { file, path, allocated, zeroed: 0, used: true, ready: !preparation.zero_fill })
}

fn full(dir: &Path) -> Error {
    Error::new(ErrorKind::Full, "the log has as many segments as it may have")
        .at_path(dir)
        .next("release entries, or raise Options::log_bytes_max")
}

/// Whose a file is that has the name of the prepared one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOver {
    /// We have the lock of the log: nobody else prepares. A process that was killed may hold its lock for a moment.
    IsOurs,
    /// If it is locked, somebody else is creating a log here.
    MayBeAnothers,
}

/// Makes a fresh file with its space. One left over from an earlier run is removed, never reused: it may hold old bytes.
pub(crate) async fn prepare<D: Disk>(
    disk: &D,
    dir: &Path,
    preparation: Preparation,
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
    let allocated = preparation.space();
    if let Err(error) = file.allocate(0, allocated).await {
        // Leave no half-allocated file in the way of whoever makes room.
        let _ = disk.remove_file(&path).await;
        return Err(Error::io("allocating the next segment", &path, error));
    }
    Ok(Prepared { file, path, allocated, zeroed: 0, used: false, ready: !preparation.zero_fill })
}

fn direct(path: &Path, error: io::Error) -> Error {
    Error::io("switching to direct I/O", path, error)
}

fn locked(path: &Path) -> Error {
    Error::new(ErrorKind::Locked, "another process is creating a log here")
        .at_path(path)
        .next("wait for it, or choose another directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_until_the_zeros_are_far_behind() {
        let cases = [
            (0, PIECE_BYTES),
            (2 * PIECE_BYTES - 1, PIECE_BYTES),
            (3 * PIECE_BYTES + 5, 3 * PIECE_BYTES),
            (u64::MAX, PIECE_BYTES_MAX),
        ];
        for (behind, piece) in cases {
            assert_eq!(piece_bytes(behind), piece, "{behind} bytes behind");
        }
    }
}
