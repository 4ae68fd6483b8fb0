//! The directory of a log: which segments are there, and whose it is.

use super::name::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Disk, DiskFile};
use crate::types::Seq;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A segment file that lies in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub name: SegmentName,
    /// With the name as it is written, which may be shorter than ours.
    pub path: PathBuf,
}

/// The segments of a directory by sequence number. Other names are passed over; an empty list is no error here, but a
/// segment that is no file is.
pub(crate) async fn list<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<SegmentFile>> {
    let entries =
        disk.list(dir).await.map_err(|error| Error::io("listing the directory", dir, error))?;
    let mut segments = Vec::new();
    for entry in entries {
        let Some(name) = entry.name.to_str().and_then(SegmentName::parse) else {
            continue;
        };
        let path = dir.join(&entry.name);
        if !entry.is_file {
            // Opening a pipe would wait for whoever is at its other end.
            return Err(Error::new(ErrorKind::Damaged, "named like a segment, but not a file")
                .at_path(&path)
                .next("remove it, and restore the segment from a copy if it was one"));
        }
        segments.push(SegmentFile { name, path });
    }
    segments.sort_by(|a, b| (a.name, &a.path).cmp(&(b.name, &b.path)));
    Ok(segments)
}

/// Like [`list`], for a directory that has to be a log.
pub(crate) async fn list_log<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<SegmentFile>> {
    let segments = list(disk, dir).await?;
    if segments.is_empty() {
        return Err(Error::new(ErrorKind::NotALog, "no segment (SEQ-INDEX.wal) in this directory")
            .at_path(dir)
            .next("check the path, or create a log there"));
    }
    Ok(segments)
}

/// From where on the segments are needed to read what follows `index`: etcd's rule, the last name whose index is
/// not above it. Sequence numbers from there on must grow by one.
pub(crate) fn select(segments: &[SegmentFile], index: u64) -> Result<&[SegmentFile]> {
    let Some(first) = segments.iter().rposition(|segment| segment.name.index <= index) else {
        let lowest = &segments[0];
        return Err(Error::new(
            ErrorKind::Released,
            format!(
                "no segment reaches back to index {}: the log was released up to here",
                index + 1
            ),
        )
        .at_path(&lowest.path)
        .next("start from a snapshot: Start::LatestSnapshot, or --start latest"));
    };
    in_a_row(&segments[first..])
}

/// These segments, if their sequence numbers grow by one.
pub(crate) fn in_a_row(segments: &[SegmentFile]) -> Result<&[SegmentFile]> {
    for pair in segments.windows(2) {
        check_next(pair[0].name.seq, &pair[1])?;
    }
    Ok(segments)
}

/// Whether a segment is the one after `before`.
pub(crate) fn check_next(before: Seq, segment: &SegmentFile) -> Result<()> {
    let (expected, found) = (before.next(), segment.name.seq);
    if found == expected {
        return Ok(());
    }
    let what = if found < expected {
        format!("two segments have the sequence number {found}")
    } else {
        format!("segment {expected} is missing: {found} follows {before}")
    };
    Err(Error::new(ErrorKind::Damaged, what)
        .at_path(&segment.path)
        .next("restore the missing or misnamed segment from a copy"))
}

/// Opens the newest segment for writing and takes its lock, waiting up to `wait` for another holder: after a
/// SIGKILL the kernel keeps a lock until the last ring write of the dead process is done.
pub(crate) async fn lock_newest<D: Disk>(
    disk: &D,
    dir: &Path,
    wait: Duration,
) -> Result<(D::File, Vec<SegmentFile>)> {
    let deadline = disk.now().saturating_add(wait);
    loop {
        let segments = list_log(disk, dir).await?;
        let newest = &segments[segments.len() - 1];
        let file = disk
            .open(&newest.path, crate::io::Access::Write, crate::io::Lane::Commit)
            .await
            .map_err(|error| Error::io("opening for writing", &newest.path, error))?;
        let locked = file.try_lock().map_err(|error| Error::io("locking", &newest.path, error))?;
        // A holder that cuts lets go of the segment that was the newest when we listed.
        if locked && list_log(disk, dir).await? == segments {
            return Ok((file, segments));
        }
        if !locked && disk.now() >= deadline {
            return Err(Error::new(
                ErrorKind::Locked,
                "another process or handle has this log open for writing",
            )
            .at_path(&newest.path)
            .next("close it there, or open a copy of the directory"));
        }
        drop(file);
        disk.sleep(Duration::from_millis(5)).await;
    }
}

/// Makes a directory, unless it is there, and its name durable.
pub(crate) async fn make<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    match disk.create_dir(dir).await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, "the directory above it does not exist")
                .at_path(dir)
                .next("create that first"));
        }
        Err(error) => return Err(Error::io("creating the directory", dir, error)),
    }
    // Also when it was there: whoever made it may have died before this.
    let parent = parent(dir);
    let synced = disk.sync_dir(parent).await;
    synced.map_err(|error| Error::io("syncing the parent directory", parent, error))
}

/// The directory above.
pub(crate) fn parent(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => dir,
    }
}

/// Makes the names in the directory durable.
pub(crate) async fn sync<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    disk.sync_dir(dir).await.map_err(|error| Error::io("syncing the directory", dir, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;

    fn files(names: &[(u64, u64)]) -> Vec<SegmentFile> {
        let file = |&(seq, index): &(u64, u64)| {
            let name = SegmentName { seq: Seq(seq), index };
            SegmentFile { name, path: Path::new("log").join(name.to_string()) }
        };
        names.iter().map(file).collect()
    }

    #[test]
    fn reading_starts_at_the_last_name_that_is_not_above() {
        let segments = files(&[(0, 0), (1, 100), (2, 60), (3, 200)]);
        let first = |index| select(&segments, index).unwrap()[0].name.seq.0;
        assert_eq!(first(0), 0);
        assert_eq!(first(99), 2);
        assert_eq!(first(59), 0);
        assert_eq!(first(u64::MAX), 3);
    }

    #[test]
    fn gap_names_the_missing_segment() {
        let error = select(&files(&[(0, 0), (2, 10)]), 0).unwrap_err();
        assert!(error.is_damaged());
        assert!(error.to_string().contains("segment 1 is missing"), "{error}");
    }

    #[test]
    fn same_number_twice_is_refused() {
        let error = select(&files(&[(0, 0), (1, 10), (1, 11)]), 0).unwrap_err();
        assert!(error.to_string().contains("two segments"), "{error}");
    }

    #[test]
    fn released_start_is_its_own_error() {
        let error = select(&files(&[(3, 121)]), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Released);
    }
}
