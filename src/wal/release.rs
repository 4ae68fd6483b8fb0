//! What [`Wal`] lets go of.

use super::Wal;
use crate::commit::content::{Content, Truncation};
use crate::error::{Error, ErrorKind, Result};
use crate::read::entries::{beyond, released};
use crate::types::{Durability, Snapshot};
use tokio::sync::oneshot;

/// Letting go of entries.
impl Wal {
    /// Lets go of the entries up to and including `index`, which the application does not need any more. From now on
    /// [`Wal::first_index`] is the one after it, for all handles.
    ///
    /// Space is given back in whole segments: files that hold nothing but released entries are removed in the background,
    /// oldest first, but for those that a [`Wal::get`] or [`Wal::read`] under way still needs. Before the first of them goes,
    /// it is written down, durably, what the log begins with; so a log whose segments are gone opens as it is, at
    /// [`Start::Beginning`](crate::Start), and etcd's reader opens it at that snapshot record. A release that no segment
    /// goes by is only remembered, and written down when the log is closed: it costs commits nothing, and after a crash
    /// the entries are there again.
    ///
    /// A follower ([`Wal::tail`]) does not hold files back. One that has not read yet what was released gets
    /// [`ErrorKind::Released`] when it comes there.
    ///
    /// In a log with a hard state only entries that it says are committed can be released.
    ///
    /// ```
    /// # fn main() -> seawal::Result<()> { pollster::block_on(async {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = seawal::Wal::open_or_create(dir.path().join("log"), Default::default()).await?;
    /// wal.append_batch(["first", "second", "third"]).await?;
    /// wal.release(2).await?;
    /// assert_eq!(wal.first_index(), 3);
    /// assert!(wal.get(2).await.is_err());
    /// # wal.close().await?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`] for an entry that is not durable yet; [`ErrorKind::Released`] if more was released before;
    /// [`ErrorKind::InvalidInput`] for one that is not committed, or about to be replaced; [`ErrorKind::NoSpace`] if there is no
    /// room even to write that down: then no file goes; ask again when there is. [`ErrorKind::Poisoned`], [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Once polled, the entries are released even if the future is dropped.
    pub async fn release(&self, index: u64) -> Result<()> {
        let (first, next) = self.handle.watermark.first_and_next(Durability::Durable);
        if index.saturating_add(1) < first {
            return Err(released(index, first));
        }
        if index >= next {
            return Err(beyond(index, next));
        }
        let (reply, outcome) = oneshot::channel();
        self.shared().queue.release(index, reply)?;
        match outcome.await {
            Ok(outcome) => outcome,
            // Without an answer the submission thread died, and left word.
            Err(_) => Err(self.shared().why_gone().await),
        }
    }

    /// Releases what is durable of the entries up to `index`, if a segment goes by that.
    pub(crate) async fn let_go(&self, index: u64) -> Result<()> {
        let Some(index) = self.unwanted(index) else {
            return Ok(());
        };
        match self.release(index).await {
            // Somebody was quicker.
            Err(error) if error.kind() == ErrorKind::Released => Ok(()),
            outcome => outcome,
        }
    }

    /// The same, in the background: who is not told of a failure asks again.
    pub(crate) fn let_go_soon(&self, index: u64) {
        if let Some(index) = self.unwanted(index) {
            let _ = self.shared().queue.release(index, oneshot::channel().0);
        }
    }

    fn unwanted(&self, index: u64) -> Option<u64> {
        let index = index.min(self.durable_index());
        let frees = index >= self.first_index() && self.handle.watermark.frees(index);
        frees.then_some(index)
    }

    /// Takes back the entries behind `index`, as a Raft node does with those that its leader does not have. Durable when it
    /// returns: they are never there again, whatever crashes come. The next entry gets the index after `index`.
    ///
    /// `index` is at least the one before [`Wal::first_index`], which takes all entries back, and at most
    /// [`Wal::last_index`], which takes none. For that the entry `index` is written again, behind the others; so a
    /// follower ([`Wal::tail`]) that has read beyond it gets it once more, and then what comes, and a range that is being
    /// read ends with [`ErrorKind::Replaced`]. etcd's reader drops what was taken back too, but when *all* was: then it
    /// still shows the old entries until new ones are appended.
    ///
    /// What is appended at the same time comes before or after it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`] beyond the last entry; [`ErrorKind::Released`] before the first one;
    /// [`ErrorKind::InvalidInput`] for entries that the last hard state says are committed; those of [`Wal::append`] and,
    /// as the entry is read, of [`Wal::get`].
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all is done or nothing.
    pub async fn truncate_after(&self, index: u64) -> Result<()> {
        let shared = self.shared();
        loop {
            let Some(((base, base_term), last, changes)) = shared.queue.before_truncation(index)?
            else {
                self.sync().await?;
                continue;
            };
            if index < base {
                return Err(released(index, base + 1));
            }
            if index > last {
                return Err(beyond(index, last + 1));
            }
            if index == last {
                return self.sync().await;
            }
            let entry = match index == base {
                true => None,
                false => {
                    match self.with_durability(Durability::Written).get(index).await {
                        Ok(entry) => Some(entry),
                        // It is not written yet, or others have taken it back, and it never comes.
                        Err(error) if is_gone(&error) => {
                            self.sync().await?;
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let base = Snapshot { index: base, term: base_term, conf_state: None };
            let content = Content::Truncate(Box::new(Truncation { last: entry, base, changes }));
            match shared.queue.append(content, Durability::Durable).await {
                Err(error) if error.kind() == ErrorKind::Replaced => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    /// See [`Wal::truncate_after`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn truncate_after_blocking(&self, index: u64) -> Result<()> {
        pollster::block_on(self.truncate_after(index))
    }

    /// See [`Wal::release`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release_blocking(&self, index: u64) -> Result<()> {
        pollster::block_on(self.release(index))
    }
}

/// The entry was there a moment ago.
fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OutOfRange | ErrorKind::Released | ErrorKind::Replaced)
}
