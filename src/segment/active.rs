//! The segment that groups are written to: its file, how far it is filled, and how far it has space.
//!
//! Two rules keep a commit honest. A write counts only when the kernel took all of it, and a sync is asked for only
//! after every write it has to cover came back. And nothing is written beyond the allocated space, so that a full
//! disk shows before a group has its place in the log.

use super::name::SegmentName;
use super::pipeline::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Disk, DiskFile, Lane};
use crate::types::{Position, Seq};
use std::path::{Path, PathBuf};

pub(crate) struct Active<D: Disk> {
    pub disk: D,
    pub file: D::File,
    pub path: PathBuf,
    pub seq: Seq,
    /// Where the next byte goes.
    pub offset: u64,
    /// The file has space up to here.
    pub allocated: u64,
}

impl<D: Disk> Active<D> {
    /// Begins a segment in a prepared file: writes the head that `fill` gives (`head_bytes` in all), makes it durable,
    /// and only then gives the file its name. The name is durable after the next sync of the directory.
    pub(crate) async fn begin(
        disk: &D,
        prepared: Prepared<D::File>,
        dir: &Path,
        name: SegmentName,
        head_bytes: u64,
        fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<Active<D>> {
        let mut file = prepared.file;
        file.set_lane(Lane::Commit);
        let mut segment = Active {
            disk: disk.clone(),
            file,
            path: prepared.path,
            seq: name.seq,
            offset: 0,
            allocated: prepared.allocated,
        };
        segment.reserve(head_bytes).await?;
        segment.write(fill).await?;
        segment.sync().await?;
        let path = dir.join(name.to_string());
        disk.rename(&segment.path, &path)
            .await
            .map_err(|error| Error::io("naming the segment", &path, error))?;
        segment.path = path;
        Ok(segment)
    }

    pub(crate) fn position(&self) -> Position {
        Position::new(self.seq, self.offset)
    }

    /// Makes sure that the next `bytes` have space.
    pub(crate) async fn reserve(&mut self, bytes: u64) -> Result<()> {
        let end = self.offset + bytes;
        if end > self.allocated {
            self.file
                .allocate(self.allocated, end - self.allocated)
                .await
                .map_err(|error| Error::io("reserving space", &self.path, error))?;
            self.allocated = end;
        }
        Ok(())
    }

    /// Writes the bytes that `fill` puts into one buffer after another, until it leaves one not full.
    pub(crate) async fn write(&mut self, mut fill: impl FnMut(&mut [u8]) -> usize) -> Result<()> {
        loop {
            let mut buffer = self.disk.buffer().await;
            let len = fill(&mut buffer);
            let full = len == buffer.len();
            if len > 0 {
                let (written, _) = self.file.write_at(buffer, len, self.offset).await;
                let written = written.map_err(|error| {
                    Error::io("writing", &self.path, error).at_offset(self.offset)
                })?;
                if written != len {
                    let what = format!("short write: the kernel took {written} of {len} bytes");
                    return Err(Error::new(ErrorKind::Io, what)
                        .at_path(&self.path)
                        .at_offset(self.offset)
                        .next("check the device and its free space, then reopen the log"));
                }
                self.offset += len as u64;
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Makes everything written so far durable.
    pub(crate) async fn sync(&self) -> Result<()> {
        self.file.sync_data().await.map_err(|error| Error::io("syncing", &self.path, error))
    }
}
