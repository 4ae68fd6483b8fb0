//! Jobs that read a log from its files, beside whoever has it open for writing.

use crate::error::{Error, ErrorKind, Result};
use crate::io::{self, Backend, Disk, OnDisk};
use crate::options::Options;
use crate::recovery::scan::{self, Scan};
use crate::segment::dir::{self, SegmentFile};
use crate::types::Start;
use std::path::Path;

/// Runs a job that reads. The ring would bring nothing here, and may not be allowed.
pub(super) fn run<J: OnDisk>(job: J) -> Result<J::Output> {
    let outcome = io::run(Backend::Threads, Options::new().disk_config(), job);
    outcome
        .map_err(|error| Error::new(ErrorKind::Io, "setting up the reader failed").because(error))
}

/// Reads the log from `start` to its end. Changes nothing.
pub(super) fn scan(dir: &Path, start: Start) -> Result<Scan> {
    run(ScanJob { dir, start })?
}

struct ScanJob<'a> {
    dir: &'a Path,
    start: Start,
}

impl OnDisk for ScanJob<'_> {
    type Output = Result<Scan>;

    async fn run<D: Disk>(self, disk: D) -> Result<Scan> {
        scan::scan_unlocked(&disk, self.dir, self.start, None).await
    }
}

/// The segments in the directory of a log.
pub(super) fn segments(dir: &Path) -> Result<Vec<SegmentFile>> {
    run(ListJob(dir))?
}

struct ListJob<'a>(&'a Path);

impl OnDisk for ListJob<'_> {
    type Output = Result<Vec<SegmentFile>>;

    async fn run<D: Disk>(self, disk: D) -> Self::Output {
        dir::list_log(&disk, self.0).await
    }
}
