//! Makes a scanned log ready for appending.
//!
//! What recovery hands out counts as durable from then on, so all of it is made durable here, names included. And
//! what lies behind the end is cleared before anything is appended: a dead group must never come back, not even
//! when the bytes that follow it are written again. In this order, so that a crash at any point leaves a log that
//! the next open treats the same way:
//!
//! 1. Of a tail that no mark vouches for, what goes is copied aside first, and the copy synced.
//! 2. Where the unproven part could only be read through the page cache (which may show bytes that a failed sync
//!    lost), it is written again.
//! 3. The file is cut at the end of the sound part, and its space allocated again: it reads as zeros, on the disk and
//!    in the page cache.
//! 4. File and directory are synced.
//! 5. The recovery mark of the new epoch is written and synced: the committer does that, before open returns.

use super::frames::Pieces;
use super::scan::Scan;
use super::verdict::Behind;
use crate::error::{Error, Result};
use crate::io::{Access, Disk, DiskFile, Lane, Persist};
use crate::segment::dir;
use std::io;
use std::path::{Path, PathBuf};

/// A log that can be appended to.
pub(crate) struct Repaired {
    /// The active segment has space up to here.
    pub allocated: u64,
    /// Where the cut bytes were copied to, if they were.
    pub backup: Option<PathBuf>,
}

/// Repairs the log in `dir` of which `file`, locked, is the newest segment. It gets `space`, unless it is larger; whole
/// blocks: a rest that is too small for a length field would look like the loss of one when the segment is sealed.
pub(crate) async fn repair<D: Disk>(
    disk: &D,
    dir: &Path,
    file: &D::File,
    scan: &Scan,
    space: u64,
) -> Result<Repaired> {
    let path = &scan.newest().path;
    let end = scan.end.offset;
    let mut backup = None;
    // A mark vouches for a torn group: it was never acked. For the rest a person may want to look.
    let vouched = scan.ends_in_group && scan.behind != Behind::Records;
    if scan.data_end > end && !vouched {
        backup = Some(copy_aside(disk, path, file, scan.data_end).await?);
        dir::sync(disk, dir).await?;
    }
    if !scan.read_direct {
        // The same bytes at the same place: dirty again, so that the sync covers them.
        copy_bytes(disk, path, file, file, scan.proven.offset, end).await?;
    }
    // Also when the disk shows zeros there: after a failed sync the page cache may hold what never reached the disk,
    // and the next write to such a page would carry it along.
    file.truncate(end)
        .await
        .map_err(|error| Error::io("clearing what is behind the end", path, error))?;
    let allocated = match file.allocate(0, space.max(end)).await {
        Ok(()) => space.max(end),
        Err(error) => match Error::io("reserving space", path, error) {
            // Appends will ask again, and fail as long as there is no room.
            full if full.is_no_space() => end,
            other => return Err(other),
        },
    };
    file.sync_data().await.map_err(|error| Error::io("syncing", path, error))?;
    dir::sync(disk, dir).await?;
    Ok(Repaired { allocated, backup })
}

/// The newest segment up to its last byte that is not zero, as `NAME.broken`.
async fn copy_aside<D: Disk>(
    disk: &D,
    path: &Path,
    from: &D::File,
    data_end: u64,
) -> Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(".broken");
    let to = PathBuf::from(name);
    let failed = |error: io::Error| Error::io("copying the torn tail aside", &to, error);
    match disk.remove_file(&to).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let copy = disk.open(&to, Access::Create, Lane::Commit).await.map_err(failed)?;
    let outcome = match copy_bytes(disk, path, from, &copy, 0, data_end).await {
        Ok(()) => copy.sync_data().await.map_err(failed),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // The log was not touched; leave no half copy either.
        let _ = disk.remove_file(&to).await;
    }
    outcome.map(|()| to)
}

/// Copies `from..to` of one file to the same place in another.
async fn copy_bytes<D: Disk>(
    disk: &D,
    path: &Path,
    source: &D::File,
    target: &D::File,
    from: u64,
    to: u64,
) -> Result<()> {
    let mut pieces = Pieces::new(source, path)?;
    let mut offset = from;
    while offset < to {
        let mut buffer = disk.buffer().await;
        let len = (to - offset).min(buffer.len() as u64);
        let bytes = pieces.bytes(offset, len).await?;
        let failed = |error| Error::io("copying", path, error).at_offset(offset);
        if bytes.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let (written, _) = target.write_at(buffer, bytes.len(), offset, Persist::Later).await;
        if written.map_err(failed)? != bytes.len() {
            return Err(failed(io::ErrorKind::WriteZero.into()));
        }
        offset += bytes.len() as u64;
    }
    Ok(())
}
