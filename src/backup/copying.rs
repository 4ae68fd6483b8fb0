//! New segments of a backup: under names of their own until all are there, durable and checked.

use super::CopyBy;
use super::source::{Source, gone, gone_or};
use super::target::{self, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, Disk, DiskFile, Lane};
use crate::recovery::sealed::{self, Manner};
use crate::recovery::walk::{Heeds, SegmentEnd, Walk};
use crate::segment::dir::{self, SegmentFile};
use crate::types::Seq;
use std::io;
use std::path::{Path, PathBuf};

/// What was just written is in the page cache.
const MANNER: Manner = Manner { heeds: Heeds::All, past_cache: false, lane: Lane::Background };

/// The segments that were copied so far.
pub(super) struct Copies<'a, D: Disk> {
    disk: &'a D,
    target: &'a Target<D>,
    copy_by: CopyBy,
    /// In order.
    made: Vec<Made>,
    /// Where checking has come to: behind this segment.
    walk: Option<(Seq, Walk)>,
    /// Copied, reflinked, linked.
    pub bytes: (u64, u64, u64),
}

struct Made {
    copying: PathBuf,
    place: PathBuf,
    /// It is a file of the log as well.
    linked: bool,
}

impl<'a, D: Disk> Copies<'a, D> {
    pub(super) fn new(disk: &'a D, target: &'a Target<D>, copy_by: CopyBy) -> Copies<'a, D> {
        Copies { disk, target, copy_by, made: Vec::new(), walk: None, bytes: (0, 0, 0) }
    }

    /// Copies the segment `at` of the source.
    pub(super) async fn make(&mut self, source: &Source, at: usize) -> Result<()> {
        let (segment, limit) = (&source.segments[at], source.limit(at));
        let copying = self.target.copying(segment);
        let linked = limit.is_none() && self.copy_by == CopyBy::HardLink;
        let place = self.target.place_of(segment);
        self.made.push(Made { copying: copying.clone(), place, linked });

        let opened = self.disk.open_past_cache(&segment.path, Lane::Background).await;
        let (from, _) = opened.map_err(|error| gone_or(&segment.path, "opening", error))?;
        if linked {
            self.bytes.2 += self.link(&from, &segment.path, &copying).await?;
            return Ok(());
        }
        let failed = |doing: &str, error| Error::io(doing, &copying, error);
        let to = self.disk.open(&copying, Access::Create, Lane::Background).await;
        let to = to.map_err(|error| failed("creating a segment of the backup", error))?;
        if limit.is_none() {
            // Not the newest: a reflink would hold up whoever writes to it.
            match to.reflink_from(&from).await {
                Ok(()) => {
                    check_named(&from, &segment.path)?;
                    to.sync_data().await.map_err(|error| failed("syncing", error))?;
                    self.bytes.1 +=
                        to.len().map_err(|error| failed("asking for the length", error))?;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(failed("sharing the blocks of a segment", error)),
            }
        }
        let whole =
            from.len().map_err(|error| Error::io("asking for the length", &segment.path, error))?;
        let wanted = limit.unwrap_or(whole);
        let copied = to.copy_from(&from, wanted).await;
        let copied = copied.map_err(|error| failed("copying a segment", error))?;
        // What was read by then is of this segment: a file that is used again has lost its name before.
        check_named(&from, &segment.path)?;
        let end = self.check(segment, &copying).await?;
        if limit.is_some_and(|limit| limit != end) {
            let what = format!("the records end at {end}, and those that are durable at {wanted}");
            return Err(Error::damaged(&segment.path, end, what));
        }
        if end < copied {
            to.truncate(end).await.map_err(|error| failed("cutting off unused space", error))?;
        }
        to.sync_data().await.map_err(|error| failed("syncing", error))?;
        self.bytes.0 += end;
        Ok(())
    }

    async fn link(&self, from: &D::File, path: &Path, copying: &Path) -> Result<u64> {
        self.disk.hard_link(path, copying).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => gone(path),
            io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem => {
                Error::io("linking a segment", copying, error)
            }
            _ => Error::new(ErrorKind::Unsupported, "a segment cannot be linked to from there")
                .at_path(copying)
                .next("have it copied; links need one file system that has them, and permission")
                .because(error),
        })?;
        check_named(from, path)?;
        from.len().map_err(|error| Error::io("asking for the length", path, error))
    }

    /// Whether what was copied is sound and continues the segment before it; says where its records end.
    async fn check(&mut self, segment: &SegmentFile, copying: &Path) -> Result<u64> {
        let seq = segment.name.seq;
        let mut walk = match self.walk.take() {
            Some((before, walk)) if before.next() == seq => walk,
            _ if seq == Seq(0) => Walk::default(),
            _ => Walk::from_unknown(MANNER.heeds),
        };
        let copy = SegmentFile { name: segment.name, path: copying.to_owned() };
        let unsound = |offset, what: String| Error::damaged(&segment.path, offset, what);
        let mut from = 0;
        loop {
            let digest = sealed::walk(self.disk, &copy, MANNER, walk, from).await?;
            walk = digest.walk;
            let end = digest.end.map_err(|error| match error.is_damaged() {
                true => unsound(error.offset().unwrap_or(0), "it cannot be copied".to_owned())
                    .because(error),
                false => error,
            })?;
            match end {
                SegmentEnd::Pause { offset } => from = offset,
                SegmentEnd::Stop(stop) => return Err(unsound(stop.offset, stop.cause.to_string())),
                SegmentEnd::End { offset: 0 } => {
                    return Err(unsound(0, "a segment without records".to_owned()));
                }
                SegmentEnd::End { offset } => {
                    self.walk = Some((seq, walk.known()));
                    return Ok(offset);
                }
            }
        }
    }

    /// Gives the copies their names: from now on they are the backup. Whichever is the newest is locked.
    pub(super) async fn name(self) -> Result<()> {
        let mut newest = None;
        for (at, Made { copying, place, linked }) in self.made.iter().enumerate() {
            let named = async {
                let lock = match linked {
                    true => None,
                    false => Some(target::lock_segment(self.disk, copying).await?),
                };
                let renamed = self.disk.rename(copying, place).await;
                renamed
                    .map_err(|error| Error::io("naming a segment of the backup", place, error))?;
                dir::sync(self.disk, &self.target.dir).await?;
                Ok(lock)
            };
            match named.await {
                Ok(lock) => newest = lock.or(newest),
                Err(error) => {
                    self.remove_from(at).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes back what was made.
    pub(super) async fn remove(self) {
        self.remove_from(0).await;
    }

    async fn remove_from(&self, at: usize) {
        for Made { copying, .. } in &self.made[at..] {
            // The next backup tries again.
            let _ = self.disk.remove_file(copying).await;
        }
    }
}

/// Fails if the segment was released, and perhaps used again for another, while it was read.
fn check_named<F: DiskFile>(file: &F, path: &Path) -> Result<()> {
    match file.is_at(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(gone(path)),
        Err(error) => Err(Error::io("asking for the name", path, error)),
    }
}
