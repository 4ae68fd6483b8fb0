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
/// It shows the log as opening it for writing would have found it, and changes nothing on disk. A torn tail is passed
/// over. The last records may not be proven durable then: if somebody is writing, a loss of power may still take them.
/// While a [`Tail`] of it waits for more, or at [`Reader::refresh`], it looks for what was appended since; then it shows
/// that, in all that is read from it.
///
/// Of what was appended since, it shows what the log proves durable: what a later group, or the mark that the writer leaves
/// when nothing was appended for [`Options::idle_mark_after`](crate::Options), says of what is before it. In a log
/// without such marks (etcd's) it shows every record that is sound. A writer in the middle of something is never taken
/// for damage, and one that dies, and another that opens the log, changes nothing that was shown.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) wal: Wal,
}

impl Reader {
    /// Opens the log in `dir`. Of the options, [`Options::backend`] and [`Options::start`] matter, and
    /// [`Options::recent_bytes_max`] for what is appended meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::open`], except those of locking and writing.
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<(Reader, Recovery)> {
        let (wal, recovery) = super::start(dir.as_ref(), options, How::Read).await?;
        Ok((Reader::of(wal), recovery))
    }

    /// What it reads with; nothing can be appended by it.
    #[cfg(feature = "cli")]
    pub(crate) fn wal(&self) -> &Wal {
        &self.wal
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
    ///
    /// While it waits, the files are looked at every 1 to 50 ms. Besides what [`Tail::next`] says, it fails with
    /// [`ErrorKind::Damaged`](crate::ErrorKind) when something that was durable is broken,
    /// [`ErrorKind::Released`](crate::ErrorKind) when a segment is gone before it was read, and
    /// [`ErrorKind::Replaced`](crate::ErrorKind) when this is no longer the log that was opened.
    ///
    /// ```
    /// # fn main() -> seawal::Result<()> { pollster::block_on(async {
    /// # use seawal::{Options, Reader, Wal};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("log");
    /// # let (wal, _) = Wal::open_or_create(&dir, Options::new()).await?;
    /// let (reader, _) = Reader::open(&dir, Options::new()).await?;
    /// let mut tail = reader.tail(1);
    /// // In another process, perhaps:
    /// wal.append("first").await?;
    /// let entry = tail.next().await.expect("the reader is open")?;
    /// assert_eq!((entry.index, &entry.data[..]), (1, &b"first"[..]));
    /// # wal.close().await?;
    /// # Ok(()) }) }
    /// ```
    pub fn tail(&self, from: u64) -> Tail {
        self.wal.tail(from)
    }

    /// Looks for what was appended since the log was opened, or looked at: [`Reader::get`] and [`Reader::read`] show it
    /// then. Gives the last index that is shown.
    ///
    /// # Errors
    ///
    /// Those of [`Reader::tail`], which stay: open the log again.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn refresh(&self) -> Result<u64> {
        self.wal.handle.watermark.look().await?;
        Ok(self.last_index())
    }

    /// The first index there is; one more than [`Reader::last_index`] when there are none.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.wal.first_index()
    }

    /// The last index that is shown; one less than [`Reader::first_index`] when there are none.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.wal.durable_index()
    }
}
