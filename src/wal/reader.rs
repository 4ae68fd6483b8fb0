//! [`Reader`]: a log that is only read.

use super::engine::{self, How};
use super::{Recovery, Wal};
use crate::error::Result;
use crate::options::Options;
use crate::read::entries::Entries;
use crate::read::tail::Tail;
use crate::types::{Entry, Snapshot};
use std::future::Future;
use std::ops::RangeBounds;
use std::path::Path;

/// A log opened for reading only: another process may have it open for writing, or nobody.
///
/// It shows the log as it was when it was opened, and changes nothing on disk. A torn tail is passed over.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) wal: Wal,
}

impl Reader {
    /// Opens the log in `dir`. Of the options, [`Options::backend`] and [`Options::start`] matter.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::open`], except those of locking and writing.
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<(Reader, Recovery)> {
        let (wal, recovery) = super::start(dir.as_ref(), options, How::Read).await?;
        Ok((Reader::of(wal), recovery))
    }

    pub(crate) fn of(wal: Wal) -> Reader {
        Reader { wal }
    }

    /// See [`Reader::open`]; blocks the thread.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_blocking(dir: impl AsRef<Path>, options: Options) -> Result<(Reader, Recovery)> {
        pollster::block_on(Reader::open(dir, options))
    }

    /// The snapshot records in `dir` whose index is committed by the last hard state, in the order they were saved:
    /// those that [`Start`](crate::Start) may name (etcd's `ValidSnapshotEntries`). Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind), [`ErrorKind::NotALog`](crate::ErrorKind); what the operating system
    /// says.
    pub fn snapshots_blocking(dir: impl AsRef<Path>) -> Result<Vec<Snapshot>> {
        engine::snapshots(dir.as_ref())
    }

    /// The entry `index`; see [`Wal::get`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn get(&self, index: u64) -> impl Future<Output = Result<Entry>> + Send + 'static {
        self.wal.get(index)
    }

    /// The entries of `range`, in order; see [`Wal::read`].
    pub fn read(&self, range: impl RangeBounds<u64>) -> Entries {
        self.wal.read(range)
    }

    /// The entries from `from` on, those that are there and those that come; see [`Wal::tail`].
    pub fn tail(&self, from: u64) -> Tail {
        self.wal.tail(from)
    }
}
