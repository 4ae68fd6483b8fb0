//! [`Replay`]: a log that hands out its entries while it is opened.

use super::engine::How;
use super::opening::Opening;
use super::{Reader, Recovery, Wal};
use crate::blocking::Blocking;
use crate::error::Result;
#[cfg(any(test, feature = "testing"))]
use crate::io::{Disk, DiskConfig};
use crate::options::Options;
use crate::recovery::handout::{Batch, Handout};
use crate::types::Entry;
use flume::r#async::RecvStream;
use futures_core::Stream;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

/// Batches that wait to be taken: a chunk of the file each, or a group where that is larger.
const BATCHES_MAX: usize = 4;

/// What a log hands out while it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The next entry.
    ///
    /// Its index is one above that of the entry before it, or above the index of
    /// [`TruncatedAfter`](Replayed::TruncatedAfter), or it begins the log; or it is still higher, where what is missing was
    /// released.
    Entry(Entry),
    /// Of the entries so far, those behind this index are not in the log: they were replaced (a Raft conflict), or taken
    /// back. Forget them. 0 is all of them.
    TruncatedAfter(u64),
}

/// A log that is being opened, and its entries meanwhile: opening and reading, in one pass over the files (etcd's
/// `ReadAll`).
///
/// A restart that needs all entries takes half the time that it takes to open the log first and to [read](Wal::read) it then,
/// as each byte is read and checked once. The price: entries come in the order in which they were written, and are taken
/// back if the log turns out to have replaced them later ([`Replayed::TruncatedAfter`]). What counts is known in the end.
///
/// A [`Stream`] of what the log holds from [`Options::start`] on, as far as it is sound; entries that were released may come
/// first, [`Recovery::first_index`] says what is left. When it ends, [`Replay::finish`] gives the log, or says why it
/// cannot be opened: then what was handed out is worth nothing, unless you want to see what is left of a broken log. With
/// [`Replay::finish`], not before, all that was handed out is durable.
///
/// Payloads share memory, as those of [`Entries`](crate::Entries) do. Besides what the caller keeps, some 30 MB are taken; in a
/// log of large records or batches, about ten of them.
///
/// ```
/// # fn main() -> seawal::Result<()> { pollster::block_on(async {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("log");
/// use seawal::{Options, Replayed, Wal};
///
/// # let (wal, _) = Wal::open_or_create(&dir, Options::new()).await?;
/// # wal.append_batch(["one", "two", "three"]).await?;
/// # wal.truncate_after(2).await?;
/// # wal.close().await?;
/// let mut state = Vec::new();
/// let mut replay = Wal::replay(&dir, Options::new());
/// while let Some(replayed) = replay.next().await {
///     match replayed {
///         Replayed::Entry(entry) => state.push(entry),
///         Replayed::TruncatedAfter(index) => state.retain(|entry| entry.index <= index),
///     }
/// }
/// let (wal, recovery) = replay.finish().await?;
/// assert_eq!(recovery.last_index, state.last().map(|entry| entry.index));
/// # assert_eq!(state.len(), 2);
/// # wal.close().await?;
/// # Ok(()) }) }
/// ```
///
/// # Cancel safety
///
/// Dropped, also in the middle, the log is closed again in the background, or not opened at all. Dropping a future of
/// [`Replay::next`] loses nothing.
#[derive(Debug)]
#[must_use = "the log is closed again if this is dropped"]
pub struct Replay<L = Wal> {
    opening: Result<Opening>,
    /// It has a place of its own, so that this can be moved.
    batches: Pin<Box<RecvStream<'static, Batch>>>,
    entries: vec::IntoIter<Entry>,
    log_of: fn(Wal) -> L,
}

impl Wal {
    /// Opens the log in `dir` as [`Wal::open`] does, and hands out its entries meanwhile. Errors come from
    /// [`Replay::finish`]: they are those of [`Wal::open`].
    pub fn replay(dir: impl AsRef<Path>, options: Options) -> Replay<Wal> {
        Replay::new(dir.as_ref(), options, How::Open, |wal| wal)
    }

    /// As [`Wal::replay`], but creates the log if there is none: nothing is handed out then. Errors are those of
    /// [`Wal::open_or_create`].
    pub fn replay_or_create(dir: impl AsRef<Path>, options: Options) -> Replay<Wal> {
        Replay::new(dir.as_ref(), options, How::OpenOrCreate, |wal| wal)
    }
}

impl Reader {
    /// Opens the log in `dir` as [`Reader::open`] does, and hands out its entries meanwhile. Errors come from
    /// [`Replay::finish`]: they are those of [`Reader::open`].
    ///
    /// Where somebody writes the log at the same time, or it is torn or damaged, it is looked at again from its beginning, up
    /// to five times; then [`Replayed::TruncatedAfter`] 0 comes first.
    pub fn replay(dir: impl AsRef<Path>, options: Options) -> Replay<Reader> {
        Replay::new(dir.as_ref(), options, How::Read, Reader::of)
    }
}

impl<L> Replay<L> {
    fn new(dir: &Path, options: Options, how: How, log_of: fn(Wal) -> L) -> Replay<L> {
        let begin = |handout| Opening::begin(dir, options, how, Some(handout));
        Replay::with(begin, log_of)
    }

    fn with(begin: impl FnOnce(Handout) -> Result<Opening>, log_of: fn(Wal) -> L) -> Replay<L> {
        let (sender, batches) = flume::bounded(BATCHES_MAX);
        let opening = begin(Handout::new(sender));
        let batches = Box::pin(batches.into_stream());
        Replay { opening, batches, entries: Vec::new().into_iter(), log_of }
    }

    /// What comes next; `None` when the log is read to its end, or is broken: see [`Replay::finish`].
    ///
    /// # Cancel safety
    ///
    /// Dropped early, nothing is lost.
    pub async fn next(&mut self) -> Option<Replayed> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// An iterator over what comes next, which blocks the thread while it waits.
    pub fn blocking(&mut self) -> Blocking<&mut Self> {
        Blocking::new(self)
    }

    /// Passes over what was not taken yet, and gives the open log and what was found.
    ///
    /// # Errors
    ///
    /// Those of opening it.
    ///
    /// # Cancel safety
    ///
    /// That of [`Replay`].
    pub async fn finish(mut self) -> Result<(L, Recovery)> {
        let opening = self.opening?;
        while poll_fn(|context| self.batches.as_mut().poll_next(context)).await.is_some() {}
        let (wal, recovery) = opening.opened().await?;
        Ok(((self.log_of)(wal), recovery))
    }

    /// See [`Replay::finish`]; blocks the thread.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn finish_blocking(self) -> Result<(L, Recovery)> {
        pollster::block_on(self.finish())
    }
}

impl<L> Stream for Replay<L> {
    type Item = Replayed;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Replayed>> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Poll::Ready(Some(Replayed::Entry(entry)));
            }
            match ready!(self.batches.as_mut().poll_next(context)) {
                Some(Batch::Entries(entries)) => self.entries = entries.into_iter(),
                Some(Batch::TruncatedAfter(index)) => {
                    return Poll::Ready(Some(Replayed::TruncatedAfter(index)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

/// As [`Wal::replay`], as a task of a disk whose thread this is.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn replay_on<D: Disk, L>(
    disk: impl FnOnce(DiskConfig) -> D,
    dir: &Path,
    options: Options,
    how: How,
    log_of: fn(Wal) -> L,
) -> Replay<L> {
    let begin = |handout| Opening::begin_on(disk, dir, options, how, Some(handout));
    Replay::with(begin, log_of)
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::options::Options;
    use crate::testing::Sim;

    /// Once, the simulated disk was made with them first, and panicked.
    #[test]
    fn bad_options_are_an_error_on_a_simulated_machine_too() {
        let sim = Sim::new(1);
        let bad = Options::new().group_bytes_max(0);
        let error = sim.block_on(sim.replay_or_create("/log", bad).finish()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
