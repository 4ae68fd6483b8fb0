//! Makes an empty log.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chain, GroupEncoder, LogId, MarkKind, Place, Record};
use crate::io::{self, Disk};
use crate::options::Options;
use crate::segment::active::Active;
use crate::segment::dir;
use crate::segment::method::Method;
use crate::segment::name::{PREPARED, SegmentName};
use crate::segment::pipeline::{self, LeftOver, Preparation};
use crate::types::{Position, Seq, Snapshot};
use std::path::Path;
use std::time::Duration;

/// Puts an empty log into `dir`. The log is there from the moment its first segment has its name, and it gets that
/// name only when the segment, and the directory's own name, are durable.
pub(super) async fn create<D: Disk>(disk: &D, dir: &Path, options: &Options) -> Result<()> {
    let exists = || {
        Error::new(ErrorKind::Exists, "there is a log already")
            .at_path(dir)
            .next("open it, or choose another directory")
    };
    if has_log(disk, dir).await? {
        return Err(exists());
    }
    dir::make(disk, dir).await?;

    let whose = LeftOver::MayBeAnothers;
    let preparation =
        Preparation { segment_bytes: options.segment_bytes, zero_fill: false, direct: false };
    let prepared = pipeline::prepare(disk, dir, preparation, whose).await?;
    // Whoever created the log since we looked has let go of the prepared name.
    let outcome = match has_log(disk, dir).await {
        Ok(true) => Err(exists()),
        Ok(false) => write_first_segment(disk, dir, options, prepared).await,
        Err(error) => Err(error),
    };
    // Where a log is, the name is its owner's to remove.
    if outcome.as_ref().is_err_and(|error| error.kind() != ErrorKind::Exists) {
        let _ = disk.remove_file(&dir.join(PREPARED)).await;
    }
    outcome
}

async fn write_first_segment<D: Disk>(
    disk: &D,
    dir: &Path,
    options: &Options,
    prepared: pipeline::Prepared<D::File>,
) -> Result<()> {
    let start = Position::new(Seq(0), 0);
    let method = Method::buffered(options.packing, io::BLOCK_BYTES as u64);
    let place = Place {
        position: start,
        chain: Chain::default(),
        kind: MarkKind::Head,
        log_id: new_id(disk)?,
        epoch: 0,
        group: 1,
        first_index: 1,
        durable: start,
        boundary: method.boundary,
    };
    let records =
        [Record::Metadata(options.metadata.clone()), Record::Snapshot(Snapshot::default())];
    let mut encoder = GroupEncoder::new(&place, &records[..]);
    let name = SegmentName { seq: start.seq, index: 0 };
    let (bytes, fill) = (encoder.bytes(), |buffer: &mut [u8]| encoder.fill(&records[..], buffer));
    // The name becomes durable with the directory sync of the opening that follows, before anyone is told.
    Active::begin(disk, prepared, dir, name, method, bytes, fill).await.map(drop)
}

/// Creates the log unless there is one, or somebody creates one meanwhile.
pub(super) async fn create_if_missing<D: Disk>(
    disk: &D,
    dir: &Path,
    options: &Options,
) -> Result<()> {
    let deadline = disk.now().saturating_add(options.lock_wait);
    loop {
        if has_log(disk, dir).await? {
            return Ok(());
        }
        match create(disk, dir, options).await {
            Err(error) if error.kind() == ErrorKind::Exists => return Ok(()),
            Err(error) if error.is_locked() && disk.now() < deadline => {
                disk.sleep(Duration::from_millis(5)).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether `dir` holds anything by the name of a segment, as etcd asks it.
async fn has_log<D: Disk>(disk: &D, dir: &Path) -> Result<bool> {
    match disk.list(dir).await {
        Ok(entries) => {
            Ok(entries.iter().any(|entry| entry.name.as_encoded_bytes().ends_with(b".wal")))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("listing the directory", dir, error)),
    }
}

pub(super) fn new_id<D: Disk>(disk: &D) -> Result<LogId> {
    let id = disk.random_id();
    id.map(LogId).map_err(|error| {
        Error::new(ErrorKind::Io, "drawing a random id for the log failed").because(error)
    })
}
