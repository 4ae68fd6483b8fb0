//! How is a log copied while it is written?
//!
//! The copy is a log by itself: the segments of the source up to the place where it was durable as the backup began. So it
//! is opened, read and checked as any other, and restoring is copying it back. What makes that true at every moment, also
//! after a crash:
//!
//! 1. [`source`]: the segments are pinned, so that no release takes one away, and the durable position is taken together
//!    with them. Of a log that another process writes there is no pin: what is sound in its files is made durable by a sync,
//!    and if a segment goes away meanwhile, all begins again.
//! 2. [`target`]: is locked, and has to be a backup of this log, or empty. What it has is compared with the source.
//! 3. [`copying`]: what is new is copied under names that nobody takes for segments, each file checked as it lies in the
//!    copy, and synced. Until here a failure or a crash changes nothing but what the next backup removes.
//! 4. The files get their names, oldest first, the directory being synced after each: whatever part of that a crash leaves
//!    is a prefix of the source's log that holds what was there before.
//! 5. Segments that the source has released are removed, oldest first. What says that they were released is in the copy
//!    by then.
//!
//! The newest segment of a backup is shorter than the one that the source goes on writing. It is copied anew as a whole and
//! renamed over the old one: appending to it could leave a torn extension behind marks that say nothing of it, and costs a
//! copy of at most one segment to avoid.

mod copying;
pub(crate) mod source;
mod target;

use crate::error::{Error, ErrorKind, Result};
use crate::inbox::{self, Inbox};
use crate::io::Disk;
use crate::types::Position;
use copying::Copies;
use source::{Origin, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use target::Target;
use tokio::sync::oneshot;

/// How often a log is looked at anew whose segments go away while they are copied, and how long after.
const ATTEMPTS_MAX: u32 = 6;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// How sealed segments get into a backup. The newest one is always copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CopyBy {
    /// By sharing their blocks where source and target are on one file system that can (btrfs, xfs), which takes neither
    /// time nor space, else by copying their bytes. Either way the files of the copy are its own.
    #[default]
    Reflink,
    /// By giving the files of the log a second name in the backup, which takes neither time nor space, on any file system
    /// that has hard links. Log and backup then *are* the same files: damage to one is damage to the other, and so are
    /// changed permissions. The log does not write to sealed segments; releasing one only takes its name in the log away,
    /// and one with two names is not used again for new records. Fails with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind) where there can be no link: across file systems, for one.
    HardLink,
}

/// What a backup holds, and what it took to make it; see [`Wal::backup`](crate::Wal::backup).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The last entry in it; one less than the first index of the log if there are none.
    pub last_index: u64,
    /// Where it ends: the log was durable up to here.
    pub position: Position,
    /// Segments in it.
    pub segments: usize,
    /// Segments that are new in it, or longer than before.
    pub segments_new: usize,
    /// Segments that were removed from it because the log has released them.
    pub segments_removed: usize,
    /// Bytes that were copied.
    pub bytes_copied: u64,
    /// Bytes of the new segments that share the blocks of the log's own.
    pub bytes_reflinked: u64,
    /// Bytes of the new segments that are the log's own files under a second name.
    pub bytes_linked: u64,
}

/// Somebody wants a backup.
#[derive(Debug)]
pub(crate) struct BackupRequest {
    pub dir: PathBuf,
    pub origin: Origin,
    pub to: PathBuf,
    pub copy_by: CopyBy,
    pub reply: oneshot::Sender<Result<Backup>>,
}

/// Answers requests, until the log is closed. One that nobody waits for any more ends at its next operation.
pub(crate) async fn serve<D: Disk>(disk: D, requests: Arc<Inbox<BackupRequest>>) {
    while let Some(request) = requests.receive().await {
        let on = disk.clone();
        disk.spawn(async move {
            let BackupRequest { dir, origin, to, copy_by, reply } = request;
            inbox::answer(reply, backup(&on, &dir, &origin, &to, copy_by)).await;
        });
    }
}

/// Makes a backup of the log in `dir`, or brings the one that is there up to date.
pub(crate) async fn backup<D: Disk>(
    disk: &D,
    dir: &Path,
    origin: &Origin,
    to: &Path,
    copy_by: CopyBy,
) -> Result<Backup> {
    for attempt in 1.. {
        let source = match Source::take(disk, dir, origin).await {
            Ok(source) => attempt_from(disk, &source, to, copy_by).await,
            Err(error) => Err(error),
        };
        match source {
            Err(error) if attempt < ATTEMPTS_MAX && origin.may_move() && has_moved(&error, dir) => {
                disk.sleep(BETWEEN_ATTEMPTS).await;
            }
            outcome => return outcome,
        }
    }
    unreachable!("the attempts are limited")
}

/// Whether what is told of a segment of the source may come from its being released meanwhile.
fn has_moved(error: &Error, dir: &Path) -> bool {
    let of_segment = error.path().is_some_and(|path| path != dir && path.starts_with(dir));
    of_segment && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Released)
}

async fn attempt_from<D: Disk>(
    disk: &D,
    source: &Source,
    to: &Path,
    copy_by: CopyBy,
) -> Result<Backup> {
    let target = Target::open(disk, &source.dir, to).await?;
    let outcome = bring_up(disk, source, &target, copy_by).await;
    target.leave(disk).await;
    outcome
}

async fn bring_up<D: Disk>(
    disk: &D,
    source: &Source,
    target: &Target<D>,
    copy_by: CopyBy,
) -> Result<Backup> {
    let missing = target.compare(disk, source).await?;
    let mut copies = Copies::new(disk, target, copy_by);
    for at in missing.clone() {
        if let Err(error) = copies.make(source, at).await {
            copies.remove().await;
            return Err(error);
        }
    }
    let (bytes_copied, bytes_reflinked, bytes_linked) = copies.bytes;
    copies.name().await?;
    let segments_removed = target.remove_released(disk, source).await?;
    Ok(Backup {
        last_index: source.last_index,
        position: source.end,
        segments: source.segments.len(),
        segments_new: missing.len(),
        segments_removed,
        bytes_copied,
        bytes_reflinked,
        bytes_linked,
    })
}
