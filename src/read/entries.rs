//! The entries of a range.

use super::cursor::{Come, Cursor, Source};
use crate::blocking::Blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Entry, Seq};
use crate::watermark::Pin as SegmentPin;
use bytes::Bytes;
use futures_core::Stream;
use std::future::{Future, poll_fn};
use std::ops::{Bound, Range, RangeBounds};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The entries of a range of indexes, in order: a [`Stream`] for async callers, and for others an iterator by
/// [`Entries::blocking`].
///
/// Ends after the last entry of the range, or at the first error. If Raft replaces entries of the range meanwhile, what
/// was handed out and what comes would not be one log: then [`ErrorKind::Replaced`] comes instead of the rest. If the
/// range gets shorter without that, the stream ends where the log does.
///
/// Payloads share memory with others that were read or written at the same time, up to 256 KiB or a group: copy what is kept
/// for long.
///
/// # Cancel safety
///
/// Dropping the stream, or a future of its next item, loses nothing but the work done.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Entries {
    /// `None` when there is no more to come.
    cursor: Option<Pinned>,
    /// Where the range begins.
    first: u64,
    /// Indexes still to be handed out.
    wanted: Range<u64>,
    /// Comes instead of entries.
    refused: Option<Error>,
}

/// A cursor, and what keeps the segments that it comes through from being removed.
#[derive(Debug)]
struct Pinned {
    cursor: Cursor,
    pin: SegmentPin,
    seq: Seq,
}

impl Pinned {
    fn new(cursor: Cursor, pin: SegmentPin) -> Pinned {
        let seq = cursor.seq();
        pin.move_to(seq);
        Pinned { cursor, pin, seq }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Come>> {
        let come = ready!(self.cursor.poll_next(context));
        if self.cursor.seq() > self.seq {
            self.seq = self.cursor.seq();
            self.pin.move_to(self.seq);
        }
        Poll::Ready(come)
    }
}

impl Entries {
    /// The entries of a range, or why there is no such range.
    pub(crate) fn new(source: Source, range: impl RangeBounds<u64>) -> Entries {
        // Before it is looked what there is.
        let pin = source.watermark.pin();
        match bounds(source.first_and_next(), range, released, beyond) {
            Ok(wanted) if wanted.is_empty() => {
                Entries { cursor: None, first: wanted.start, wanted, refused: None }
            }
            Ok(wanted) => {
                let cursor = Pinned::new(Cursor::new(source, wanted.start), pin);
                Entries { cursor: Some(cursor), first: wanted.start, wanted, refused: None }
            }
            Err(error) => Entries { cursor: None, first: 0, wanted: 0..0, refused: Some(error) },
        }
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Released`] and [`ErrorKind::OutOfRange`] at once for a range that the log does not hold;
    /// [`ErrorKind::Replaced`]; [`ErrorKind::Damaged`]; [`ErrorKind::Closed`]; what the operating system says. Nothing comes
    /// after an error.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, no entry is lost.
    pub async fn next(&mut self) -> Option<Result<Entry>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// All of them, with payloads of at most so many bytes together.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] if they have more; those of [`Entries::next`].
    pub async fn collect_within(mut self, payload_bytes_max: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        while let Some(entry) = self.next().await {
            let entry = entry?;
            bytes = bytes.saturating_add(entry.data.len());
            if bytes > payload_bytes_max {
                let what = format!(
                    "the payloads up to index {} have {bytes} bytes; the limit is {payload_bytes_max}",
                    entry.index
                );
                return Err(Error::new(ErrorKind::TooLarge, what)
                    .next("read a smaller range, or take the entries one by one"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// An iterator that blocks the thread while it waits.
    pub fn blocking(self) -> Blocking<Entries> {
        Blocking::new(self)
    }

    fn poll_entry(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Entry>>> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        while let Some(cursor) = &mut self.cursor {
            let come = ready!(cursor.poll_next(context))?;
            let wanted = self.wanted.start;
            match come {
                Come::Entry(entry) if entry.index < self.first => {}
                Come::Entry(entry) if entry.index < wanted => {
                    return Poll::Ready(Err(replaced(entry.index)));
                }
                Come::Entry(entry) if entry.index == wanted => {
                    self.wanted.start += 1;
                    if self.wanted.is_empty() {
                        self.cursor = None;
                    }
                    return Poll::Ready(Ok(Some(entry)));
                }
                // The range was replaced by a shorter one while it was read.
                Come::End(next) if next <= wanted => break,
                Come::Entry(_) | Come::End(_) => {
                    return Poll::Ready(Err(missing(cursor.cursor.source(), wanted)));
                }
            }
        }
        Poll::Ready(Ok(None))
    }
}

/// Payloads up to this length are copied for who wants a single one: it shall not keep a whole piece in memory.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// A single entry.
pub(crate) fn get(source: Source, index: u64) -> impl Future<Output = Result<Entry>> + Send {
    let mut entries = Entries::new(source, index..=index);
    async move {
        let gone = || beyond(index, index);
        let mut entry = entries.next().await.unwrap_or_else(|| Err(gone()))?;
        if entry.data.len() <= COPIED_BYTES_MAX {
            entry.data = Bytes::copy_from_slice(&entry.data);
        }
        Ok(entry)
    }
}

/// The indexes of a range of what is there from `first` to before `next`; an open end is the end. `released` and `beyond`
/// say what is not there, given an index and the end that it lies behind.
pub(crate) fn bounds(
    (first, next): (u64, u64),
    range: impl RangeBounds<u64>,
    released: fn(u64, u64) -> Error,
    beyond: fn(u64, u64) -> Error,
) -> Result<Range<u64>> {
    let start = match range.start_bound() {
        Bound::Included(&index) => index,
        Bound::Excluded(&index) => index.saturating_add(1),
        Bound::Unbounded => first,
    };
    let end = match range.end_bound() {
        Bound::Included(&index) => index.saturating_add(1),
        Bound::Excluded(&index) => index,
        Bound::Unbounded => next.max(start),
    };
    if start > end {
        let what = format!("the range from {start} to before {end} runs backwards");
        return Err(Error::new(ErrorKind::InvalidInput, what).next("swap its ends"));
    }
    if start < first {
        return Err(released(start, first));
    }
    // `next` itself is a place to start from: what is read from there on is nothing yet.
    if end > next {
        return Err(beyond(if start > next { start } else { end - 1 }, next));
    }
    Ok(start..end)
}

/// There is no entry `index` any more.
pub(crate) fn released(index: u64, first: u64) -> Error {
    Error::new(
        ErrorKind::Released,
        format!("index {index} is not in the log any more: the first is {first}"),
    )
    .with_first_index(first)
    .next("read from Wal::first_index on")
}

/// What was handed out of the range is not the log any more.
fn replaced(index: u64) -> Error {
    let what = format!("entry {index} was replaced after it was read, and so was all behind it");
    Error::new(ErrorKind::Replaced, what).next("read the range again")
}

/// A cursor came past the place of the entry `index`.
pub(super) fn missing(source: &Source, index: u64) -> Error {
    match source.first_and_next() {
        // A snapshot stands for it.
        (first, _) if index < first => released(index, first),
        _ => source.missing(index),
    }
}

/// There is no entry `index` yet.
pub(crate) fn beyond(index: u64, next: u64) -> Error {
    let what = match next {
        1 => format!("index {index} is not in the log: it is empty"),
        _ => format!("index {index} is not in the log: the last is {}", next - 1),
    };
    Error::new(ErrorKind::OutOfRange, what).next("wait for it: Wal::wait_durable, Wal::tail")
}

impl Stream for Entries {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let outcome = ready!(self.poll_entry(context));
        if !matches!(outcome, Ok(Some(_))) {
            self.cursor = None;
        }
        Poll::Ready(outcome.transpose())
    }
}
