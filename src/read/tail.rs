//! Follows the log.

use super::cursor::{Come, Cursor, Source};
use super::entries::{beyond, missing, released};
use crate::blocking::Blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::types::Entry;
use crate::watermark::Waiting;
use futures_core::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The entries from some index on, those that are there and those that come: a [`Stream`] for async callers, and for
/// others an iterator by [`Tail::blocking`].
///
/// It goes by what the handle that made it waits for: durable entries, or with
/// [`Durability::Written`](crate::Durability::Written) written ones. Each comes as soon as it has got so far, in order.
/// Any number may follow one log. Who keeps up reads from memory ([`Options::recent_bytes_max`](crate::Options)), who
/// falls behind from the files, and neither holds the log up.
///
/// **Conflicts.** Where Raft replaces entries, the new ones come after those that they replace, with lower indexes: an
/// entry whose index is not above that of the one before it replaces that one and all that follow it. What was replaced
/// before the reader came to it is left out; up to 128 entries lie ready at the reader.
///
/// **The end.** When the log is closed, what is in memory still comes, then the stream ends. After a failure of the log
/// that failure comes, behind everything that got durable.
///
/// Payloads share memory with others that were written or read at the same time, up to 256 KiB or a group: copy what is kept
/// for long.
///
/// # Cancel safety
///
/// Dropping it, or a future of its next item, changes nothing and loses no entry.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Tail {
    /// `None` after the end.
    cursor: Option<Cursor>,
    /// Lower indexes are not wanted.
    from: u64,
    /// The index behind the last one that was handed out.
    next: u64,
    waiting: Waiting,
    /// Comes instead of entries.
    refused: Option<Error>,
}

impl Tail {
    /// From `from` on, which is there or the next one.
    pub(crate) fn new(source: Source, from: u64) -> Tail {
        let (first, next) = source.first_and_next();
        let waiting = source.watermark.waiting();
        let refused = if from < first {
            Some(released(from, first))
        } else {
            (from > next).then(|| beyond(from, next))
        };
        let cursor = refused.is_none().then(|| Cursor::new(source, from));
        Tail { cursor, from, next: from, waiting, refused }
    }

    /// The next entry, when it is there; `None` when the log was closed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Released`](crate::ErrorKind) if the next entry is not in the log any more, with
    /// [`Error::first_index`]; [`ErrorKind::OutOfRange`](crate::ErrorKind) at once for a start beyond the end of the log;
    /// [`ErrorKind::Poisoned`](crate::ErrorKind) after a failure of the log; [`ErrorKind::Closed`](crate::ErrorKind) if it
    /// was closed before this reader had read what only the files have; [`ErrorKind::Damaged`](crate::ErrorKind); what the
    /// operating system says. Nothing comes after an error.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, no entry is lost.
    pub async fn next(&mut self) -> Option<Result<Entry>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// An iterator that blocks the thread while it waits.
    pub fn blocking(self) -> Blocking<Tail> {
        Blocking::new(self)
    }

    fn poll_entry(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Entry>>> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        let Some(cursor) = &mut self.cursor else {
            return Poll::Ready(Ok(None));
        };
        loop {
            let come = match ready!(cursor.poll_next(context)) {
                // Nothing keeps its file for it: that is gone, or another segment by now.
                Err(error) if error.kind() == ErrorKind::Released || cursor.is_gone() => {
                    let first = cursor.source().first_and_next().0;
                    return Poll::Ready(Err(released(self.next.min(first - 1), first)));
                }
                come => come?,
            };
            match come {
                Come::Entry(entry) if entry.index < self.from => {}
                Come::Entry(entry) if entry.index <= self.next => {
                    self.next = entry.index + 1;
                    return Poll::Ready(Ok(Some(entry)));
                }
                Come::Entry(_) => return Poll::Ready(Err(missing(cursor.source(), self.next))),
                // Fewer than were handed out are left after a conflict, and none are missing.
                Come::End(next) if next > self.next => {
                    return Poll::Ready(Err(missing(cursor.source(), self.next)));
                }
                Come::End(_) => match ready!(cursor.poll_growth(&mut self.waiting, context)) {
                    Ok(()) => {}
                    Err(error) if error.is_closed() => return Poll::Ready(Ok(None)),
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }
}

impl Stream for Tail {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let outcome = ready!(self.poll_entry(context));
        if !matches!(outcome, Ok(Some(_))) {
            self.cursor = None;
        }
        Poll::Ready(outcome.transpose())
    }
}
