//! [`Wal`]: create, open, append, read, close. Thin methods over the rooms below.

mod backup;
mod create;
mod engine;
mod opening;
mod reader;
mod reads;
mod release;
mod replay;
mod report;
mod thread;
mod verify;

pub use reader::Reader;
pub use replay::{Replay, Replayed};
pub use report::{Cut, Recovery, Verdict};
pub use thread::SubmissionThread;

use crate::commit::append::Append;
use crate::commit::content::Content;
use crate::commit::queue::CloseReply;
use crate::commit::ticket::Ticket;
#[cfg(any(doc, test))]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::metrics::Stats;
use crate::options::Options;
use crate::payload::Payload;
use crate::recovery::notes::Notes;
use crate::segment::method::{Method, SyncMethod};
use crate::types::{Durability, Entry, HardState, Snapshot};
use crate::watermark::Watermark;
use bytes::Bytes;
pub(crate) use engine::How;
use engine::Shared;
pub(crate) use opening::start;
#[cfg(any(test, feature = "testing"))]
pub(crate) use opening::start_on;
#[cfg(any(test, feature = "testing"))]
pub(crate) use replay::replay_on;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A write-ahead log, open for appending. Clones are handles to the same log.
///
/// Methods are called from any thread and any async runtime; `*_blocking` twins serve code that is not async (and
/// must not be called from async code). Dropping the last handle refuses new work, lets what was accepted become
/// durable in the background, and does not block; [`Wal::close`] waits for it.
#[derive(Clone, Debug)]
pub struct Wal {
    handle: Arc<Handle>,
    /// What appends through this handle wait for.
    durability: Durability,
}

#[derive(Debug)]
struct Handle {
    closer: Closer,
    watermark: Watermark,
    backend: &'static str,
    method: Option<Method>,
    notes: Notes,
}

/// Closes the log when it is dropped.
#[derive(Debug)]
struct Closer {
    shared: Arc<Shared>,
    closing: AtomicBool,
}

impl Closer {
    /// Refuses new work and asks the committer to end after what it has. `false` if that was asked before.
    fn close(&self, reply: CloseReply) -> bool {
        let first = !self.closing.swap(true, Ordering::SeqCst);
        if first {
            self.shared.queue.close(Error::closed(), reply);
        }
        first
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.close(None);
    }
}

impl Wal {
    /// Creates a log in `dir`, which may exist as long as it holds no segment; its parent must exist.
    ///
    /// When it returns, the empty log survives power loss.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exists`] if there is a log already; [`ErrorKind::NotALog`] if `dir` is a file;
    /// [`ErrorKind::NotFound`] without a parent; [`ErrorKind::NoSpace`]; [`ErrorKind::InvalidInput`] for options out
    /// of their limits; what the operating system says.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the log may or may not be there.
    pub async fn create(dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        start(dir.as_ref(), options, How::Create).await.map(|(wal, _)| wal)
    }

    /// Opens the log in `dir` and says what was found. A torn tail is cut; see [`Recovery`].
    ///
    /// When it returns, everything it reports is durable, and everything it cut is gone for good. If it fails,
    /// the log on disk is as it was, unless the failure is of the disk itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::NotALog`] for something that is no log; [`ErrorKind::Locked`] if it is
    /// open for writing elsewhere; [`ErrorKind::Damaged`] with file and offset; [`ErrorKind::Released`] and
    /// [`ErrorKind::SnapshotNotFound`] if it cannot be read from [`Options::start`]; [`ErrorKind::Unsupported`];
    /// [`ErrorKind::ReadOnly`], [`ErrorKind::PermissionDenied`]; what the operating system says.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the log is opened and closed again in the background.
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<(Wal, Recovery)> {
        start(dir.as_ref(), options, How::Open).await
    }

    /// Opens the log in `dir`, or creates it if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::open`] and [`Wal::create`].
    pub async fn open_or_create(
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(Wal, Recovery)> {
        start(dir.as_ref(), options, How::OpenOrCreate).await
    }

    /// Appends a record and waits until it is durable. Gives its index.
    ///
    /// The entry gets the next index (1 in a new log), kind [`EntryKind::Normal`](crate::EntryKind::Normal), and the
    /// highest term that the log has seen, 1 in a new one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`]; [`ErrorKind::NoSpace`]: nothing was appended, try again when there is room;
    /// [`ErrorKind::Poisoned`]: nobody knows whether the record is on disk, reopen to find out;
    /// [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll, nothing is appended. Dropped later, the record may still become durable.
    pub fn append<'a>(
        &'a self,
        record: impl Into<Payload<'a>>,
    ) -> impl Future<Output = Result<u64>> + Send {
        let mut appended = self.put(Content::one(record));
        // Not `async`: that would hold it twice.
        poll_fn(move |context| {
            Pin::new(&mut appended).poll(context).map_ok(|indexes| indexes.start)
        })
    }

    /// Appends records that become durable together: after a crash all of them are there, or none. Gives their
    /// indexes.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::append`], for the batch as a whole.
    ///
    /// # Cancel safety
    ///
    /// That of [`Wal::append`], for the batch as a whole.
    pub fn append_batch<'a, R: Into<Payload<'a>>>(
        &'a self,
        records: impl IntoIterator<Item = R>,
    ) -> impl Future<Output = Result<Range<u64>>> + Send {
        self.put(Content::many(records))
    }

    /// Appends a record without waiting for the disk: resolves as soon as the record has its place in the order,
    /// which takes time only while the queue is full. The [`Ticket`] resolves when it is durable.
    ///
    /// A ticket that fails with [`ErrorKind::NoSpace`] gives its index back, and so do all that wait behind it; but a
    /// submit that comes after that may succeed again. A caller that wants no holes in what it submits ahead stops at
    /// the first ticket that fails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`], [`ErrorKind::Poisoned`], [`ErrorKind::Closed`]; the rest comes with the ticket.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing is appended.
    pub fn submit(
        &self,
        record: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Ticket>> + Send + 'static {
        self.place(Content::one(record.into()))
    }

    /// Like [`Wal::submit`], for records that become durable together.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::submit`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Wal::submit`].
    pub fn submit_batch<R: Into<Bytes>>(
        &self,
        records: impl IntoIterator<Item = R>,
    ) -> impl Future<Output = Result<Ticket>> + Send + 'static {
        self.place(Content::many(records.into_iter().map(Into::into)))
    }

    /// Appends what a Raft node must persist (etcd's `Save`): `entries` with their own indexes and terms, then
    /// `state` unless it is empty. Durable together when it returns.
    ///
    /// The entries follow each other. The first may be the next index or a lower one; then it replaces the entry of
    /// that index and everything after it. With nothing to save it returns at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for entries that leave a gap or lie below the last snapshot; those of
    /// [`Wal::append`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Wal::append`].
    pub fn save(
        &self,
        state: HardState,
        entries: Vec<Entry>,
    ) -> impl Future<Output = Result<()>> + Send {
        let saved = self.put(Content::Save(state, entries));
        async move { saved.await.map(drop) }
    }

    /// Records that a snapshot of the state machine exists, which reading may start from once its index is
    /// committed by a saved hard state. Durable when it returns.
    ///
    /// A snapshot that does not continue the log (its index is beyond the last entry, or the entry there has another
    /// term) replaces it: the entries are gone from this handle, and the next index is the one after the snapshot.
    /// Such a log is opened with [`Start`](crate::Start) at this snapshot or a later one.
    ///
    /// Snapshots of one index have one term. A log whose owner has said otherwise is refused when it is opened there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for a snapshot at index 0 with a term; those of [`Wal::append`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Wal::append`].
    pub fn save_snapshot(&self, snapshot: Snapshot) -> impl Future<Output = Result<()>> + Send {
        let saved = self.put(Content::Snapshot(Box::new(snapshot)));
        async move { saved.await.map(drop) }
    }

    fn place(
        &self,
        content: Content<'static>,
    ) -> impl Future<Output = Result<Ticket>> + Send + 'static {
        let (shared, durability) = (Arc::clone(self.shared()), self.durability);
        async move { shared.queue.submit(content, durability).await }
    }

    /// Gives `content` its place, and waits until it got as far as this handle's appends have to.
    fn put<'a>(&'a self, content: Content<'a>) -> Append<'a> {
        self.shared().queue.append(content, self.durability)
    }

    /// Appends a record if there is room in the queue now, without waiting for anything: the [`Ticket`] resolves when it
    /// is durable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] if there is no room, or others wait for it: nothing was appended. Those of [`Wal::submit`].
    pub fn try_append<'a>(&self, record: impl Into<Payload<'a>>) -> Result<Ticket> {
        self.shared().queue.try_append(Content::one(record), self.durability)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.shared().dir
    }

    /// What a layer above the log noted before it was opened.
    pub(crate) fn notes(&self) -> &Notes {
        &self.handle.notes
    }

    /// Waits until everything that was accepted before is durable, whatever it was appended with.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Poisoned`], [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Once polled, the log is synced even if the future is dropped.
    pub fn sync(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let shared = Arc::clone(self.shared());
        async move { shared.queue.barrier()?.await.map(drop) }
    }

    /// A handle to the same log whose appends wait for this instead of [`Options::durability`], and whose reads see what
    /// has got so far.
    ///
    /// ```
    /// # fn main() -> seawal::Result<()> { pollster::block_on(async {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = seawal::Wal::open_or_create(dir.path().join("log"), Default::default()).await?;
    /// use seawal::Durability;
    /// let quick = wal.with_durability(Durability::Written);
    /// quick.append("survives the process").await?;
    /// wal.append("survives power loss, and so does all before it").await?;
    /// # wal.close().await?;
    /// # Ok(()) }) }
    /// ```
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Wal {
        Wal { handle: Arc::clone(&self.handle), durability }
    }

    /// What runs the I/O: `"uring"` or `"threads"`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.handle.backend
    }

    /// How groups become durable; for a log that was opened with [`SyncMethod::Auto`], what was chosen.
    #[must_use]
    pub fn sync_method(&self) -> SyncMethod {
        self.handle.method.map_or(SyncMethod::Auto, Method::name)
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().metrics.stats()
    }

    /// Closes the log for all its handles: what was accepted becomes durable, a mark that proves it is written, and
    /// the lock is let go. Gives the last durable index.
    ///
    /// # Errors
    ///
    /// The first failure, if the log is poisoned; [`ErrorKind::Closed`] if it was closed before.
    ///
    /// # Cancel safety
    ///
    /// Once polled, closing goes on even if the future is dropped.
    pub async fn close(&self) -> Result<u64> {
        let (reply, outcome) = tokio::sync::oneshot::channel();
        if !self.handle.closer.close(Some(reply)) {
            return Err(Error::closed());
        }
        // Without an answer the submission thread died, and left word.
        let outcome = match outcome.await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.shared().why_gone().await),
        };
        self.shared().ended().await;
        outcome
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.closer.shared
    }
}

/// Twins for code that is not async. They block the thread: do not call them from async code.
impl Wal {
    /// See [`Wal::create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create_blocking(dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        pollster::block_on(Wal::create(dir, options))
    }

    /// See [`Wal::open`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_blocking(dir: impl AsRef<Path>, options: Options) -> Result<(Wal, Recovery)> {
        pollster::block_on(Wal::open(dir, options))
    }

    /// See [`Wal::open_or_create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_or_create_blocking(
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(Wal, Recovery)> {
        pollster::block_on(Wal::open_or_create(dir, options))
    }

    /// See [`Wal::append`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn append_blocking<'a>(&'a self, record: impl Into<Payload<'a>>) -> Result<u64> {
        pollster::block_on(self.append(record))
    }

    /// See [`Wal::append_batch`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn append_batch_blocking<'a, R: Into<Payload<'a>>>(
        &'a self,
        records: impl IntoIterator<Item = R>,
    ) -> Result<Range<u64>> {
        pollster::block_on(self.append_batch(records))
    }

    /// See [`Wal::submit`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn submit_blocking(&self, record: impl Into<Bytes>) -> Result<Ticket> {
        pollster::block_on(self.submit(record))
    }

    /// See [`Wal::close`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close_blocking(&self) -> Result<u64> {
        pollster::block_on(self.close())
    }
}

#[cfg(test)]
mod tests;
