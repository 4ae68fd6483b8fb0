//! The segment that groups are written to: its file, how far it is filled, and how far it has space.
//!
//! Two rules keep a commit honest. A write counts only when the kernel took all of it, and a sync is asked for only
//! after every write it has to cover came back. And nothing is written beyond the allocated space, so that a full
//! disk shows before a group has its place in the log.

use super::method::Method;
use super::name::SegmentName;
use super::pipeline::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{BLOCK_BYTES, Disk, DiskFile, Lane, Persist};
use crate::types::{Position, Seq};
use std::path::Path;
use std::rc::Rc;

pub(crate) struct Active<D: Disk> {
    pub disk: D,
    /// Shared with the writes in flight.
    pub file: Rc<D::File>,
    pub path: Rc<Path>,
    pub seq: Seq,
    pub method: Method,
    /// Where the next byte goes.
    pub offset: u64,
    /// The file has space up to here.
    pub allocated: u64,
    /// The blocks were written with zeros up to here: beyond, a commit takes longer.
    pub zeroed: u64,
}

impl<D: Disk> Active<D> {
    /// Begins a segment in a prepared file: writes the head that `fill` gives (`head_bytes` in all), makes it durable,
    /// and only then gives the file its name. The name is durable after the next sync of the directory.
    pub(crate) async fn begin(
        disk: &D,
        prepared: Prepared<D::File>,
        dir: &Path,
        name: SegmentName,
        method: Method,
        head_bytes: u64,
        fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<Active<D>> {
        let mut file = prepared.file;
        file.set_lane(Lane::Commit);
        let mut segment = Active {
            disk: disk.clone(),
            file: Rc::new(file),
            path: prepared.path.into(),
            seq: name.seq,
            method,
            offset: 0,
            allocated: prepared.allocated,
            zeroed: prepared.zeroed,
        };
        segment.reserve(head_bytes).await?;
        segment.commit(fill).await?;
        let path = dir.join(name.to_string());
        disk.rename(&segment.path, &path)
            .await
            .map_err(|error| Error::io("naming the segment", &path, error))?;
        segment.path = path.into();
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

    /// Writes what `fill` puts into one buffer after another, until it leaves one not full, and makes it durable.
    /// Nothing else may be in flight.
    pub(crate) async fn commit(&mut self, fill: impl FnMut(&mut [u8]) -> usize) -> Result<()> {
        let (file, path) = (&self.file, &self.path);
        let persist = self.method.persist();
        self.offset = write(&self.disk, &**file, path, self.offset, persist, fill).await?;
        match persist {
            Persist::Now => Ok(()),
            Persist::Later => sync(&**file, path).await,
        }
    }
}

/// Writes what `fill` puts into one buffer after another, until it leaves one not full. Gives the end of what was
/// written.
///
/// Each buffer but the last ends with a block of the file. So if the process dies between two of them, sectors are left
/// that were not written at all, by which recovery knows a torn group; a sector written in part would look like damage.
pub(crate) async fn write<D: Disk>(
    disk: &D,
    file: &D::File,
    path: &Path,
    mut offset: u64,
    persist: Persist,
    mut fill: impl FnMut(&mut [u8]) -> usize,
) -> Result<u64> {
    loop {
        let mut buffer = disk.buffer().await;
        let room = buffer.len() - (offset % BLOCK_BYTES as u64) as usize;
        let len = fill(&mut buffer[..room]);
        let full = len == room;
        if len > 0 {
            let how = if persist == Persist::Now { How::Durably } else { How::Written };
            write_buffer(file, path, offset, how, buffer, len).await?;
            offset += len as u64;
        }
        if !full {
            return Ok(offset);
        }
    }
}

/// How a buffer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// A sync has to follow.
    Written,
    Durably,
    /// The same, and nothing else is to be done meanwhile.
    DurablyAlone,
}

/// Writes the first `len` bytes of a buffer, all of them.
pub(crate) async fn write_buffer<F: DiskFile>(
    file: &F,
    path: &Path,
    offset: u64,
    how: How,
    buffer: F::Buf,
    len: usize,
) -> Result<()> {
    let (written, _) = match how {
        How::Written => file.write_at(buffer, len, offset, Persist::Later).await,
        How::Durably => file.write_at(buffer, len, offset, Persist::Now).await,
        How::DurablyAlone => file.write_alone(buffer, len, offset).await,
    };
    let written = written.map_err(|error| Error::io("writing", path, error).at_offset(offset))?;
    if written == len {
        return Ok(());
    }
    let what = format!("short write: the kernel took {written} of {len} bytes");
    Err(Error::new(ErrorKind::Io, what)
        .at_path(path)
        .at_offset(offset)
        .next("check the device and its free space, then reopen the log"))
}

/// Makes all writes durable that have come back.
pub(crate) async fn sync<F: DiskFile>(file: &F, path: &Path) -> Result<()> {
    file.sync_data().await.map_err(|error| Error::io("syncing", path, error))
}
