//! Reads the records of a stream: a range of them, or all that come.
//!
//! The table says which entries of the log hold them. Where they lie close together, the log is read from the first to the
//! last of a *chunk*, and what belongs to others is passed over; where they lie far apart, each is looked up by itself,
//! several at a time.

use super::named::{NamedStream, beyond, released};
use super::runs::Runs;
use super::table::Gone;
use super::{entry, no_stream};
use crate::blocking::Blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::types::Entry;
use futures_core::Stream;
use futures_util::future;
use futures_util::stream::{self, StreamExt};
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Records that are looked up in the table at a time.
const CHUNK_RECORDS_MAX: usize = 512;

/// Entries of the log that are read for one that is wanted: more, and each is looked up by itself.
const ENTRIES_PER_RECORD_MAX: u64 = 16;

/// Records that are looked up in the log at the same time.
const LOOKUPS: usize = 8;

type Records = Pin<Box<dyn Stream<Item = Result<Entry>> + Send>>;

/// The record `index`, which the log's entry `at` holds. `holds`: its segment is kept until it was read; a follower keeps
/// nothing of the log from being released.
pub(super) async fn look_up(
    stream: NamedStream,
    index: u64,
    at: u64,
    holds: bool,
) -> Result<Entry> {
    let wal = &stream.shared().wal;
    let entry = match holds {
        true => wal.get(at).await,
        false => wal.tail(at).next().await.unwrap_or_else(|| Err(Error::closed())),
    };
    record(&stream, index, entry)
}

/// Records that lie close together, from the entries of the log among which they are.
fn among(
    entries: impl Stream<Item = Result<Entry>> + Send + 'static,
    stream: NamedStream,
    places: Vec<(u64, u64)>,
) -> Records {
    let mut places = places.into_iter().peekable();
    let wanted = move |entry: Result<Entry>| {
        let place = match &entry {
            Ok(entry) => places.next_if(|(_, at)| *at == entry.index),
            Err(_) => places.next(),
        };
        future::ready(place.map(|(index, _)| record(&stream, index, entry)))
    };
    Box::pin(entries.filter_map(wanted))
}

/// Records that come one after another in a stream.
struct Chunk {
    records: Records,
    /// The index behind its last.
    end: u64,
    /// The log's entry that holds its first.
    from: u64,
}

impl Chunk {
    /// The records from `from` on, as the runs have them; `None` if there are none. `holds`: somebody keeps the log from
    /// being released before them.
    fn of(stream: &NamedStream, runs: &Runs, from: u64, holds: bool) -> Option<Chunk> {
        let places: Vec<_> = runs.places(from, CHUNK_RECORDS_MAX).collect();
        let (&(_, from), &(last, to)) = (places.first()?, places.last()?);
        let (wal, of) = (&stream.shared().wal, stream.clone());
        let close = (to - from) / ENTRIES_PER_RECORD_MAX < places.len() as u64;
        let records: Records = match (close, holds) {
            (true, true) => among(wal.read(from..=to), of, places),
            (true, false) => among(wal.tail(from), of, places),
            (false, _) => {
                let each = move |(index, at)| look_up(of.clone(), index, at, holds);
                Box::pin(stream::iter(places).map(each).buffered(LOOKUPS))
            }
        };
        Some(Chunk { records, end: last + 1, from })
    }
}

/// Keeps the log from being released from some entry on.
#[derive(Debug)]
struct Pinned {
    stream: NamedStream,
    /// Where what is wanted lies, also if it is released meanwhile.
    runs: Runs,
    place: u64,
}

impl Pinned {
    /// `wanted` stays, and there is some of it.
    fn new(stream: NamedStream, wanted: &Range<u64>) -> Result<Pinned> {
        let mut table = stream.shared().index.lock();
        let known = table.stream(stream.id()).map_err(|Gone| no_stream(stream.name()))?;
        let runs = known.runs().of(wanted);
        let released_to = known.released;
        let from = match runs.first_place() {
            Some(from) if wanted.start > released_to => from,
            _ => return Err(released(wanted.start, released_to + 1)),
        };
        let place = table.pin(from);
        drop(table);
        Ok(Pinned { stream, runs, place })
    }

    /// The records from `from` on, from which everything stays.
    fn chunk(&self, from: u64) -> Option<Chunk> {
        let chunk = Chunk::of(&self.stream, &self.runs, from, true)?;
        let shared = self.stream.shared();
        shared.index.lock().move_pin(self.place, chunk.from);
        shared.let_go();
        Some(chunk)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let shared = self.stream.shared();
        shared.index.lock().unpin(self.place);
        shared.let_go();
    }
}

/// Somebody who waits for a record that is not there yet.
struct Growth {
    stream: NamedStream,
    index: u64,
    place: Option<u64>,
    /// The log ends.
    end: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
}

impl Growth {
    fn new(stream: NamedStream, index: u64) -> Growth {
        let wal = stream.shared().wal.clone();
        let end = Box::pin(async move { wal.wait_durable(u64::MAX).await });
        Growth { stream, index, place: None, end }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.look(context)? {
            return Poll::Ready(Ok(()));
        }
        let ended = ready!(self.end.as_mut().poll(context));
        // What came before the end is in the table by then.
        match self.look(context)? {
            true => Poll::Ready(Ok(())),
            false => Poll::Ready(ended),
        }
    }

    /// Whether it is there; if not, the context's waker waits for it.
    fn look(&mut self, context: &Context<'_>) -> Result<bool> {
        // A waker is the caller's own code: none is cloned or dropped under the lock.
        let waker = context.waker().clone();
        let mut table = self.stream.shared().index.lock();
        let stream = table.stream(self.stream.id());
        let there = stream.map(|stream| stream.next > self.index);
        let replaced = if let Ok(false) = there {
            let place = *self.place.get_or_insert_with(|| table.place());
            table.wait(self.stream.id(), place, waker)
        } else {
            Some(waker)
        };
        drop(table);
        drop(replaced);
        there.map_err(|Gone| no_stream(self.stream.name()))
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let own = self.stream.shared().index.lock().leave(self.stream.id(), place);
            drop(own);
        }
    }
}

/// The record `index` of a stream, from the entry of the log that holds it.
fn record(stream: &NamedStream, index: u64, entry: Result<Entry>) -> Result<Entry> {
    let entry = match entry {
        Ok(entry) => entry,
        Err(error) if error.kind() == ErrorKind::Released => {
            // It was wanted by nobody whom the table knows.
            let first = stream.first_and_next()?.0;
            return Err(released(index, first.max(index + 1)));
        }
        Err(error) => return Err(error),
    };
    match entry::record_in(&entry.data) {
        Some((id, begin)) if id == stream.id() => {
            Ok(Entry { index, data: entry.data.slice(begin..), ..entry })
        }
        _ => {
            let what = format!(
                "entry {} of the log is not record {index} of the stream {:?}",
                entry.index,
                stream.name()
            );
            let next = "look at it with `seawal cat`, and restore the log from a copy";
            Err(Error::new(ErrorKind::Damaged, what).next(next))
        }
    }
}

/// The records of a range, in order: a [`Stream`] for async callers, and for others an iterator by
/// [`StreamEntries::blocking`]. [`Entry::index`] is the index in the stream.
///
/// Ends after the last record of the range, or at the first error.
///
/// # Cancel safety
///
/// Dropping it, or a future of its next item, changes nothing.
#[must_use = "streams do nothing unless polled"]
pub struct StreamEntries {
    /// `None` when there is no more to come.
    pinned: Option<Pinned>,
    wanted: Range<u64>,
    chunk: Option<Chunk>,
    /// Comes instead of records.
    refused: Option<Error>,
}

impl StreamEntries {
    pub(super) fn new(stream: NamedStream, wanted: Result<Range<u64>>) -> StreamEntries {
        let pinned = wanted.and_then(|wanted| match wanted.is_empty() {
            true => Ok((None, wanted)),
            false => Pinned::new(stream, &wanted).map(|pinned| (Some(pinned), wanted)),
        });
        let (pinned, wanted, refused) = match pinned {
            Ok((pinned, wanted)) => (pinned, wanted, None),
            Err(error) => (None, 0..0, Some(error)),
        };
        StreamEntries { pinned, wanted, chunk: None, refused }
    }

    /// The next record; `None` after the last.
    ///
    /// # Errors
    ///
    /// See [`NamedStream::read`]; nothing comes after an error.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, no record is lost.
    pub async fn next(&mut self) -> Option<Result<Entry>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// An iterator that blocks the thread while it waits.
    pub fn blocking(self) -> Blocking<StreamEntries> {
        Blocking::new(self)
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Entry>>> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        let Some(pinned) = &self.pinned else {
            return Poll::Ready(Ok(None));
        };
        while !self.wanted.is_empty() {
            if self.chunk.is_none() {
                self.chunk = pinned.chunk(self.wanted.start);
            }
            if let Some(entry) = ready!(poll_chunk(&mut self.chunk, self.wanted.start, context))? {
                self.wanted.start = entry.index + 1;
                return Poll::Ready(Ok(Some(entry)));
            }
        }
        Poll::Ready(Ok(None))
    }
}

/// The next record of a chunk; `None` behind its last, which must have come.
fn poll_chunk(
    chunk: &mut Option<Chunk>,
    next: u64,
    context: &mut Context<'_>,
) -> Poll<Result<Option<Entry>>> {
    let Some(Chunk { records, end, .. }) = chunk else {
        // The table knows of it, or it was refused before.
        return Poll::Ready(Err(missing(next)));
    };
    if next == *end {
        *chunk = None;
        return Poll::Ready(Ok(None));
    }
    match ready!(records.poll_next_unpin(context)) {
        Some(Ok(entry)) if entry.index == next => Poll::Ready(Ok(Some(entry))),
        Some(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Ready(Err(missing(next))),
    }
}

fn missing(index: u64) -> Error {
    let what = format!("record {index} of the stream is not in the log where it was appended");
    Error::new(ErrorKind::Damaged, what).next("have the log checked with `seawal verify`")
}

impl Stream for StreamEntries {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let outcome = ready!(self.poll_record(context));
        if !matches!(outcome, Ok(Some(_))) {
            // Of the log, what the chunk reads goes first.
            self.chunk = None;
            self.pinned = None;
        }
        Poll::Ready(outcome.transpose())
    }
}

impl fmt::Debug for StreamEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamEntries").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// The records of a stream from some index on, those that are there and those that come: a [`Stream`] for async callers,
/// and for others an iterator by [`StreamTail::blocking`]. [`Entry::index`] is the index in the stream.
///
/// Each comes as soon as it is durable, in order. Who keeps up reads from memory, who falls behind from the files, and
/// neither holds the log up or keeps its files: a follower that has not read yet what is released gets
/// [`ErrorKind::Released`] when it comes there.
///
/// **The end.** When the log is closed, what is in memory still comes, then the stream ends. After a failure of the log that
/// failure comes. When the stream is removed, [`ErrorKind::NotFound`] comes.
///
/// # Cancel safety
///
/// Dropping it, or a future of its next item, changes nothing and loses no record.
#[must_use = "streams do nothing unless polled"]
pub struct StreamTail {
    /// `None` after the end.
    stream: Option<NamedStream>,
    next: u64,
    chunk: Option<Chunk>,
    growth: Option<Growth>,
    /// Comes instead of records.
    refused: Option<Error>,
}

impl StreamTail {
    pub(super) fn new(stream: NamedStream, from: u64) -> StreamTail {
        let refused = match stream.first_and_next() {
            Ok((first, _)) if from < first => Some(released(from, first)),
            Ok((_, next)) if from > next => Some(beyond(from, next)),
            outcome => outcome.err(),
        };
        StreamTail { stream: Some(stream), next: from, chunk: None, growth: None, refused }
    }

    /// The next record, when it is there; `None` when the log was closed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Released`] if the next record is not in the stream any more, with [`Error::first_index`];
    /// [`ErrorKind::OutOfRange`] at once for a start beyond its end; [`ErrorKind::NotFound`] when the stream was removed;
    /// those of [`Tail::next`](crate::Tail::next). Nothing comes after an error.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, no record is lost.
    pub async fn next(&mut self) -> Option<Result<Entry>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// An iterator that blocks the thread while it waits.
    pub fn blocking(self) -> Blocking<StreamTail> {
        Blocking::new(self)
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Entry>>> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        let Some(stream) = &self.stream else {
            return Poll::Ready(Ok(None));
        };
        loop {
            if let Some(growth) = &mut self.growth {
                match ready!(growth.poll(context)) {
                    Ok(()) => self.growth = None,
                    Err(error) if error.is_closed() => return Poll::Ready(Ok(None)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if self.chunk.is_none() {
                let next = self.next;
                self.chunk = stream.with(|known| match next > known.released {
                    true => Ok(Chunk::of(stream, known.runs(), next, false)),
                    false => Err(released(next, known.released + 1)),
                })??;
            }
            if self.chunk.is_none() {
                self.growth = Some(Growth::new(stream.clone(), self.next));
                continue;
            }
            if let Some(entry) = ready!(poll_chunk(&mut self.chunk, self.next, context))? {
                self.next = entry.index + 1;
                return Poll::Ready(Ok(Some(entry)));
            }
        }
    }
}

impl Stream for StreamTail {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let outcome = ready!(self.poll_record(context));
        if !matches!(outcome, Ok(Some(_))) {
            (self.stream, self.chunk, self.growth) = (None, None, None);
        }
        Poll::Ready(outcome.transpose())
    }
}

impl fmt::Debug for StreamTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, next, .. } = self;
        f.debug_struct("StreamTail")
            .field("stream", stream)
            .field("next", next)
            .finish_non_exhaustive()
    }
}
