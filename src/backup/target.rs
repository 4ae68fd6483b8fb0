//! Where a backup goes: whose it is, what it holds already, and what of that the log still has.
//!
//! A segment that is in the backup is not copied again. The newest one there is compared byte for byte. Of an older one it
//! is known by its name, its length, the blocks at its ends, and the head of the one behind it: that holds the log's id, the
//! epoch and number of the group, and the checksum of everything before it. (Bytes in the middle that have rotted since are
//! not seen: `seawal verify` looks at all of it.)

use super::source::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::format::LogId;
use crate::io::{Access, BLOCK_BYTES, Disk, DiskFile, Lane};
use crate::recovery::frames::Pieces;
use crate::recovery::scan;
use crate::recovery::sealed::{self, Manner};
use crate::recovery::walk::{Heeds, SegmentEnd, Walk};
use crate::segment::dir::{self, SegmentFile};
use crate::segment::name::{PREPARED, SegmentName};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Is locked as long as somebody makes a backup here.
const LOCK: &str = "seawal-backup.tmp";

/// Behind the name of a segment that is being copied. etcd passes over such names, and so do we.
const COPYING: &str = ".tmp";

/// Compared at a time: little, so that commits on this thread do not wait for it.
const COMPARE_BYTES: u64 = 128 << 10;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// See the [module](self).
pub(super) struct Target<D: Disk> {
    pub dir: PathBuf,
    /// Oldest first.
    pub segments: Vec<SegmentFile>,
    /// Keeps others from opening it for writing.
    _newest: Option<D::File>,
    /// Keeps other backups away.
    _lock: D::File,
}

impl<D: Disk> Target<D> {
    /// Takes a directory for a backup of the log in `source`, and makes it if need be.
    pub(super) async fn open(disk: &D, source: &Path, dir: &Path) -> Result<Target<D>> {
        check_place(disk, source, dir)?;
        dir::make(disk, dir).await?;
        check_names(disk, dir).await?;
        let lock = lock(disk, dir).await?;
        match Target::held(disk, dir).await {
            Ok((segments, newest)) => {
                Ok(Target { dir: dir.to_owned(), segments, _newest: newest, _lock: lock })
            }
            Err(error) => {
                let _ = disk.remove_file(&dir.join(LOCK)).await;
                Err(error)
            }
        }
    }

    /// What is there, the newest segment locked, without what a backup that broke off has left.
    async fn held(disk: &D, dir: &Path) -> Result<(Vec<SegmentFile>, Option<D::File>)> {
        let segments = dir::list(disk, dir).await?;
        for pair in segments.windows(2) {
            dir::check_next(pair[0].name.seq, &pair[1])?;
        }
        let newest = match segments.last() {
            Some(newest) => Some(lock_segment(disk, &newest.path).await?),
            None => None,
        };
        for entry in names(disk, dir).await? {
            if is_copying(&entry.name) {
                let path = dir.join(&entry.name);
                let removed = disk.remove_file(&path).await;
                removed.map_err(|error| {
                    Error::io("removing what an earlier backup has left", &path, error)
                })?;
            }
        }
        Ok((segments, newest))
    }

    /// Others may make backups here again.
    pub(super) async fn leave(self, disk: &D) {
        // What is left is no hindrance, and the next backup removes it.
        let _ = disk.remove_file(&self.dir.join(LOCK)).await;
    }

    /// The name of a segment's copy while it is made.
    pub(super) fn copying(&self, segment: &SegmentFile) -> PathBuf {
        self.dir.join(format!("{}{COPYING}", segment.name))
    }

    /// The name of a segment's copy.
    pub(super) fn place_of(&self, segment: &SegmentFile) -> PathBuf {
        let own = self.segments.iter().find(|own| own.name == segment.name);
        own.map_or_else(|| self.dir.join(segment.name.to_string()), |own| own.path.clone())
    }

    /// Which of the source's segments are to be copied. Fails if what is here is not of this log, or not of its past.
    pub(super) async fn compare(&self, disk: &D, source: &Source) -> Result<Range<usize>> {
        let all = 0..source.segments.len();
        let (Some(newest), first) = (self.segments.last(), &source.segments[0]) else {
            return Ok(all);
        };
        let (own_id, id) = (log_id(disk, newest).await?, log_id(disk, source.newest()).await?);
        if own_id.is_some() && id.is_some() && own_id != id {
            return Err(Error::new(ErrorKind::NotABackup, "this is another log, or a copy of one")
                .at_path(&self.dir)
                .next("give a directory that is empty, or holds a backup of this log"));
        }
        if newest.name.seq > source.newest().name.seq {
            return Err(diverged(&newest.path, "the log has no such segment"));
        }
        if newest.name.seq < first.name.seq {
            let what = format!(
                "the backup ends with segment {}, and the log begins with segment {}: those in between were released \
                 before they were backed up",
                newest.name.seq, first.name.seq
            );
            return Err(Error::new(ErrorKind::Released, what)
                .at_path(&self.dir)
                .next("give another directory, and remove this one when that backup is made"));
        }
        let mut complete = true;
        for (at, segment) in source.segments.iter().enumerate() {
            let Some(own) = self.segments.iter().find(|own| own.name.seq == segment.name.seq)
            else {
                continue;
            };
            if own.name != segment.name {
                return Err(diverged(&own.path, "the log begins this segment with another index"));
            }
            let is_newest = own.name.seq == newest.name.seq;
            let compared = Compared::of(disk, own, segment, source.limit(at), is_newest).await?;
            if !compared.equal {
                return Err(self.unequal(disk, own).await);
            }
            complete = compared.complete;
        }
        let newest_at = source.segments.partition_point(|s| s.name.seq < newest.name.seq);
        Ok(newest_at + usize::from(complete)..all.end)
    }

    /// Why a segment here is not that of the log.
    async fn unequal(&self, disk: &D, own: &SegmentFile) -> Error {
        const MANNER: Manner =
            Manner { heeds: Heeds::All, past_cache: true, lane: Lane::Background };
        let (mut walk, mut from) = (Walk::from_unknown(Heeds::All), 0);
        loop {
            match sealed::walk(disk, own, MANNER, walk, from).await {
                Ok(digest) => match digest.end {
                    Ok(SegmentEnd::Pause { offset }) => (walk, from) = (digest.walk, offset),
                    Ok(SegmentEnd::End { .. }) => {
                        return diverged(&own.path, "it holds what the log does not");
                    }
                    Ok(SegmentEnd::Stop(stop)) => {
                        let what = format!("{}; the log's segment is another", stop.cause);
                        return Error::new(ErrorKind::Damaged, what)
                            .at_path(&own.path)
                            .at_offset(stop.offset)
                            .next("the backup was not touched: give another directory");
                    }
                    Err(error) => return error,
                },
                Err(error) => return error,
            }
        }
    }

    /// Removes what the source has released, oldest first; says how many.
    pub(super) async fn remove_released(&self, disk: &D, source: &Source) -> Result<usize> {
        let first = source.segments[0].name.seq;
        let released = self.segments.partition_point(|segment| segment.name.seq < first);
        for SegmentFile { path, .. } in &self.segments[..released] {
            let removed = disk.remove_file(path).await;
            removed.map_err(|error| Error::io("removing a released segment", path, error))?;
        }
        if released > 0 {
            dir::sync(disk, &self.dir).await?;
        }
        Ok(released)
    }
}

/// Not where the log itself is, by whatever name.
fn check_place<D: Disk>(disk: &D, source: &Path, dir: &Path) -> Result<()> {
    let asked = match disk.is_within(dir, source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.is_within(dir::parent(dir), source)
        }
        asked => asked,
    };
    match asked {
        Ok(true) => Err(Error::new(
            ErrorKind::InvalidInput,
            "a log cannot be backed up into its own directory, or one inside of it",
        )
        .at_path(dir)
        .next("give another directory")),
        Ok(false) => Ok(()),
        // Creating it will say what is the matter.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("looking for the directory", dir, error)),
    }
}

async fn names<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<crate::io::DirEntry>> {
    disk.list(dir).await.map_err(|error| Error::io("listing the directory", dir, error))
}

/// Only a backup, or nothing, may be there.
async fn check_names<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    for entry in names(disk, dir).await? {
        let name = entry.name.to_str().unwrap_or_default();
        let ours = SegmentName::parse(name).is_some()
            || [LOCK, PREPARED].contains(&name)
            || is_copying(&entry.name);
        if !(ours && entry.is_file || name == "lost+found" && !entry.is_file) {
            return Err(Error::new(ErrorKind::NotABackup, "no backup has such a file")
                .at_path(&dir.join(&entry.name))
                .next("give a directory that is empty, or holds a backup of this log"));
        }
    }
    Ok(())
}

fn is_copying(name: &std::ffi::OsStr) -> bool {
    let segment = name.to_str().and_then(|name| name.strip_suffix(COPYING));
    segment.is_some_and(|segment| SegmentName::parse(segment).is_some())
}

/// Keeps other backups away. A file that is left over is taken: its lock went with the process.
async fn lock<D: Disk>(disk: &D, dir: &Path) -> Result<D::File> {
    let path = dir.join(LOCK);
    let failed = |error| Error::io("locking the backup", &path, error);
    loop {
        let opened = match disk.open(&path, Access::Create, Lane::Background).await {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.open(&path, Access::Write, Lane::Background).await
            }
            opened => opened,
        };
        let file = match opened {
            // Its owner has just removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed)?,
        };
        if !file.try_lock().map_err(failed)? {
            return Err(Error::new(ErrorKind::Locked, "another backup is made here")
                .at_path(dir)
                .next("wait for it, or give another directory"));
        }
        if file.is_at(&path).map_err(failed)? {
            return Ok(file);
        }
    }
}

/// Keeps others from opening the backup for writing, as long as this is its newest segment.
pub(super) async fn lock_segment<D: Disk>(disk: &D, path: &Path) -> Result<D::File> {
    let file = disk.open(path, Access::Write, Lane::Background).await;
    let file = file.map_err(|error| Error::io("opening for writing", path, error))?;
    match file.try_lock().map_err(|error| Error::io("locking", path, error))? {
        true => Ok(file),
        false => {
            Err(Error::new(ErrorKind::Locked, "the backup is open for writing").at_path(path).next(
                "close it there, or give another directory: a copy that is written to is no backup",
            ))
        }
    }
}

/// The id in the head of a segment; `None` in a log without marks.
async fn log_id<D: Disk>(disk: &D, segment: &SegmentFile) -> Result<Option<LogId>> {
    let file = disk.open(&segment.path, Access::Read, Lane::Background).await;
    let file = file.map_err(|error| super::source::gone_or(&segment.path, "opening", error))?;
    scan::log_id_in_head(&file, segment).await
}

fn diverged(path: &Path, what: &str) -> Error {
    let what = format!("the backup is not of this log's past: {what}");
    Error::new(ErrorKind::Diverged, what)
        .at_path(path)
        .next("it was opened for writing since, or the log was restored: give another directory")
}

/// What a segment of the backup is to that of the log.
#[derive(Clone, Copy, Debug)]
struct Compared {
    /// A beginning of it.
    equal: bool,
    /// All of it.
    complete: bool,
}

impl Compared {
    /// `limit`: so much of the log's segment belongs to the backup.
    async fn of<D: Disk>(
        disk: &D,
        own: &SegmentFile,
        segment: &SegmentFile,
        limit: Option<u64>,
        newest: bool,
    ) -> Result<Compared> {
        let file = disk.open_past_cache(&segment.path, Lane::Background).await;
        let (file, _) =
            file.map_err(|error| super::source::gone_or(&segment.path, "opening", error))?;
        let asked = file.is_at(&own.path);
        if limit.is_none()
            && asked.map_err(|error| Error::io("asking for the name", &own.path, error))?
        {
            // A second name of the same file.
            return Ok(Compared { equal: true, complete: true });
        }
        let own_file = disk.open_past_cache(&own.path, Lane::Background).await;
        let (own_file, _) = own_file.map_err(|error| Error::io("opening", &own.path, error))?;
        let mut theirs = Pieces::new(&file, &segment.path)?.with_piece_bytes(COMPARE_BYTES);
        let mut ours = Pieces::new(&own_file, &own.path)?.with_piece_bytes(COMPARE_BYTES);
        let there = limit.unwrap_or(theirs.file_bytes()).min(theirs.file_bytes());
        let here = ours.file_bytes();
        let common = there.min(here);
        // Of one that is not the newest only the blocks at both ends.
        let (front, back) = match newest {
            true => (0..common, common..common),
            false => (0..common.min(BLOCK), common.saturating_sub(BLOCK)..common),
        };
        let mut equal = true;
        for stretch in [front, back] {
            let mut at = stretch.start;
            while equal && at < stretch.end {
                let len = COMPARE_BYTES.min(stretch.end - at);
                equal = ours.bytes(at, len).await? == theirs.bytes(at, len).await?;
                at += len;
            }
        }
        // Space behind the records is given back at some time, and is not copied.
        let equal = equal && is_zero(&mut ours, common..here).await?;
        let complete = equal && is_zero(&mut theirs, common..there).await?;
        Ok(Compared { equal: equal && (newest || complete), complete })
    }
}

async fn is_zero<F: DiskFile>(pieces: &mut Pieces<'_, F>, stretch: Range<u64>) -> Result<bool> {
    let mut at = stretch.start;
    while at < stretch.end {
        let bytes = pieces.bytes(at, COMPARE_BYTES.min(stretch.end - at)).await?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}
