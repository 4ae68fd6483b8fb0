//! What [`Wal`] reads.

use super::Wal;
use crate::error::Result;
use crate::read::cursor::Source;
use crate::read::entries::{self, Entries};
use crate::read::tail::Tail;
use crate::types::{Durability, Entry};
use std::future::Future;
use std::ops::RangeBounds;
use std::sync::Arc;

/// Reading: it never holds appends up, and checks every checksum it passes.
///
/// What is seen is what the handle's appends wait for: what is durable, or, by
/// [`with_durability(Written)`](Wal::with_durability), what is written. So a record is there to be read when its append
/// has returned.
impl Wal {
    /// The entry `index`.
    ///
    /// ```
    /// # fn main() -> seawal::Result<()> { pollster::block_on(async {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = seawal::Wal::open_or_create(dir.path().join("log"), Default::default()).await?;
    /// let index = wal.append("something").await?;
    /// assert_eq!(wal.get(index).await?.data, "something");
    /// # wal.close().await?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Released`](crate::ErrorKind) below [`Wal::first_index`],
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind) beyond the last entry; [`ErrorKind::Damaged`](crate::ErrorKind);
    /// [`ErrorKind::Closed`](crate::ErrorKind); what the operating system says.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub fn get(&self, index: u64) -> impl Future<Output = Result<Entry>> + Send + 'static + use<> {
        entries::get(self.source(), index)
    }

    /// The entries of `range`, in order. An open end is the end of the log as it is now.
    ///
    /// A range that reaches beyond either end of the log gives an error as its only item:
    /// [`ErrorKind::Released`](crate::ErrorKind) before [`Wal::first_index`], else
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind).
    pub fn read(&self, range: impl RangeBounds<u64>) -> Entries {
        Entries::new(self.source(), range)
    }

    /// The entries from `from` on, those that are there and those that come: see [`Tail`].
    ///
    /// `from` is at least [`Wal::first_index`], and at most the next index.
    ///
    /// ```
    /// # fn main() -> seawal::Result<()> { pollster::block_on(async {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = seawal::Wal::open_or_create(dir.path().join("log"), Default::default()).await?;
    /// let mut tail = wal.tail(1);
    /// wal.append("first").await?;
    /// let entry = tail.next().await.expect("the log is open")?;
    /// assert_eq!((entry.index, &entry.data[..]), (1, &b"first"[..]));
    /// # wal.close().await?;
    /// # Ok(()) }) }
    /// ```
    pub fn tail(&self, from: u64) -> Tail {
        Tail::new(self.source(), from)
    }

    /// The first index there is; the one after [`Wal::last_index`] when there are no entries.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.handle.watermark.first_and_next(self.durability).0
    }

    /// The last index that was accepted, durable or not; one less than [`Wal::first_index`] when there are none.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.shared().queue.last_index()
    }

    /// The last durable index; one less than [`Wal::first_index`] when there are none.
    #[must_use]
    pub fn durable_index(&self) -> u64 {
        self.handle.watermark.first_and_next(Durability::Durable).1 - 1
    }

    /// Waits until there is a durable entry of this index, or a later one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Poisoned`](crate::ErrorKind), [`ErrorKind::Closed`](crate::ErrorKind): it will not become durable
    /// through this handle.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn wait_durable(&self, index: u64) -> Result<()> {
        self.handle.watermark.wait(Durability::Durable, index).await
    }

    pub(super) fn source(&self) -> Source {
        Source {
            requests: Arc::clone(&self.shared().reads),
            watermark: self.handle.watermark.clone(),
            durability: self.durability,
        }
    }
}
