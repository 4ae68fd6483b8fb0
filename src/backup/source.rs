//! What is to be copied: the segments of a log, and the place up to which it is durable.

use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, Disk, DiskFile, Lane};
use crate::recovery::scan;
use crate::segment::dir::{self, SegmentFile};
use crate::segment::name::SegmentName;
use crate::types::{Position, Start};
use crate::watermark::{Pin, Watermark};
use std::path::{Path, PathBuf};

/// Who says what there is.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The process that writes it.
    Open(Watermark),
    /// The files: another process may write them.
    Files,
}

impl Origin {
    /// Whether segments may go away.
    pub(super) fn may_move(&self) -> bool {
        matches!(self, Origin::Files)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Source {
    pub dir: PathBuf,
    /// Oldest first, without a gap; all but the newest are sealed.
    pub segments: Vec<SegmentFile>,
    /// In the newest.
    pub end: Position,
    pub last_index: u64,
    /// Keeps them.
    _pin: Option<Pin>,
}

impl Source {
    pub(super) async fn take<D: Disk>(disk: &D, dir: &Path, origin: &Origin) -> Result<Source> {
        match origin {
            Origin::Open(watermark) => Ok(Source::pinned(dir, watermark)),
            Origin::Files => Source::found(disk, dir).await,
        }
    }

    fn pinned(dir: &Path, watermark: &Watermark) -> Source {
        let (pin, segments, end, last_index) = watermark.pin_durable();
        let segments = segments.into_iter().map(|segment| SegmentFile {
            name: SegmentName { seq: segment.seq, index: segment.index },
            path: segment.path,
        });
        let segments = segments.collect();
        Source { dir: dir.to_owned(), segments, end, last_index, _pin: Some(pin) }
    }

    /// What is sound in the files will be in the log for ever once it is durable: whoever opens it next keeps it. So it is
    /// taken as opening would find it, past the page cache where the file system can, and synced.
    async fn found<D: Disk>(disk: &D, dir: &Path) -> Result<Source> {
        // Before the scan: if a segment is not here any more, what released it is in what the scan finds.
        let mut segments = dir::list_log(disk, dir).await?;
        let scan = scan::scan_unlocked(disk, dir, Start::LatestSnapshot, None).await?;
        let end = scan.end;
        let listed = segments.last().map(|newest| newest.name.seq);
        let begun_since = scan.segments.iter().filter(|segment| Some(segment.name.seq) > listed);
        segments.extend(begun_since.cloned());
        segments.retain(|segment| segment.name.seq <= end.seq);
        let gap = segments.windows(2).rposition(|pair| pair[0].name.seq.next() != pair[1].name.seq);
        segments.drain(..gap.map_or(0, |at| at + 1));
        let newest = scan.newest();
        let failed = |error| Error::io("syncing the log", &newest.path, error);
        let file = disk.open(&newest.path, Access::Read, Lane::Background).await;
        let file = file.map_err(|error| gone_or(&newest.path, "opening", error))?;
        file.sync_data().await.map_err(failed)?;
        let last_index = scan.replay.live.next() - 1;
        Ok(Source { dir: dir.to_owned(), segments, end, last_index, _pin: None })
    }

    pub(super) fn newest(&self) -> &SegmentFile {
        &self.segments[self.segments.len() - 1]
    }

    /// How many bytes of a segment belong to the copy; `None` for all.
    pub(super) fn limit(&self, at: usize) -> Option<u64> {
        (at + 1 == self.segments.len()).then_some(self.end.offset)
    }
}

/// What the system says of a segment's file. One that is not there was released.
pub(super) fn gone_or(path: &Path, doing: &str, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => gone(path),
        _ => Error::io(doing, path, error),
    }
}

pub(super) fn gone(path: &Path) -> Error {
    let what = "the segment was released while the log was copied";
    Error::new(ErrorKind::Released, what).at_path(path).next(
        "try again; or back the log up in the process that writes it, which waits with the release",
    )
}
