//! [`NamedStream`]: append to a stream, read, follow and release it.

use super::reading::{self, StreamEntries, StreamTail};
use super::table::{Gone, Stream};
use super::{Shared, index_of, no_stream};
use crate::error::{Error, ErrorKind, Result};
use crate::payload::Payload;
use crate::read::entries;
use crate::types::Entry;
use std::fmt;
use std::ops::{Range, RangeBounds};
use std::sync::Arc;

/// A stream of a log of [`Streams`](super::Streams). Clones are handles to the same stream.
///
/// All methods but [`name`](Self::name) fail with [`ErrorKind::NotFound`] once the stream was removed.
#[derive(Clone)]
pub struct NamedStream {
    shared: Arc<Shared>,
    id: u64,
    name: Arc<str>,
}

impl NamedStream {
    pub(super) fn new(shared: Arc<Shared>, id: u64, name: Arc<str>) -> NamedStream {
        NamedStream { shared, id, name }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends a record and waits until it is durable. Gives its index in the stream: 1 for the first.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::append`](crate::Wal::append); [`ErrorKind::Released`] if somebody released the record before its
    /// index was known here.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll, nothing is appended. Dropped later, the record may still become durable.
    pub async fn append<'a>(&'a self, record: impl Into<Payload<'a>>) -> Result<u64> {
        let entry = self.shared.record(self.id, record.into())?;
        self.there()?;
        let at = self.shared.append(entry).await?;
        index_of(&self.shared.index.lock(), self.id, &self.name, at)
    }

    /// Appends records that become durable together: after a crash all of them are there, or none. Gives their indexes.
    ///
    /// # Errors
    ///
    /// Those of [`NamedStream::append`], for the batch as a whole.
    ///
    /// # Cancel safety
    ///
    /// That of [`NamedStream::append`], for the batch as a whole.
    pub async fn append_batch<'a, R: Into<Payload<'a>>>(
        &'a self,
        records: impl IntoIterator<Item = R>,
    ) -> Result<Range<u64>> {
        let entry = |record: R| self.shared.record(self.id, record.into());
        let entries = records.into_iter().map(entry).collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            let next = self.first_and_next()?.1;
            return Ok(next..next);
        }
        self.there()?;
        let places = self.shared.append_batch(entries).await?;
        let count = places.end - places.start;
        // They lie one behind the other: the last is released last.
        let at = places.end - 1;
        let last = index_of(&self.shared.index.lock(), self.id, &self.name, at)?;
        Ok(last + 1 - count..last + 1)
    }

    /// The record `index`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Released`] below [`NamedStream::first_index`], [`ErrorKind::OutOfRange`] beyond the last record; those
    /// of [`Wal::get`](crate::Wal::get).
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn get(&self, index: u64) -> Result<Entry> {
        let place = self.with(|stream| match stream.place_of(index) {
            Some(at) => Ok(at),
            None if index <= stream.released => Err(released(index, stream.released + 1)),
            None => Err(beyond(index, stream.next)),
        })?;
        reading::look_up(self.clone(), index, place?, true).await
    }

    /// The records of `range`, in order. An open end is the end of the stream as it is now. What the range wants stays in
    /// the log until it was read, though it be released meanwhile.
    ///
    /// A range that reaches beyond either end of the stream gives an error as its only item: [`ErrorKind::Released`]
    /// before [`NamedStream::first_index`], else [`ErrorKind::OutOfRange`].
    pub fn read(&self, range: impl RangeBounds<u64>) -> StreamEntries {
        let known = self.first_and_next();
        let wanted = known.and_then(|known| entries::bounds(known, range, released, beyond));
        StreamEntries::new(self.clone(), wanted)
    }

    /// The records from `from` on, those that are there and those that come: see [`StreamTail`].
    ///
    /// `from` is at least [`NamedStream::first_index`], and at most the next index.
    pub fn tail(&self, from: u64) -> StreamTail {
        StreamTail::new(self.clone(), from)
    }

    /// The first index there is; one more than [`NamedStream::last_index`] when there are no records.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the stream was removed.
    pub fn first_index(&self) -> Result<u64> {
        Ok(self.first_and_next()?.0)
    }

    /// The last index; one less than [`NamedStream::first_index`] when there are no records.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the stream was removed.
    pub fn last_index(&self) -> Result<u64> {
        Ok(self.first_and_next()?.1 - 1)
    }

    /// Lets go of the records up to and including `index`. From now on [`NamedStream::first_index`] is the one after it.
    ///
    /// Segments of the log go when nothing in them is wanted by any stream; that is written down before, durably, and this
    /// waits for it. A release that no segment goes by costs nothing and is written down later, at the latest when the log
    /// is closed: after a crash the records may be there again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfRange`] beyond the last record; [`ErrorKind::Released`] if more was released before; those of
    /// [`Wal::release`](crate::Wal::release), when the records are released all the same, but no file goes.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the records are released even if the future is dropped.
    pub async fn release(&self, index: u64) -> Result<()> {
        let unwanted = {
            let mut table = self.shared.index.lock();
            let stream = table.stream(self.id).map_err(|Gone| no_stream(&self.name))?;
            let (first, next) = (stream.released + 1, stream.next);
            if index < stream.released {
                return Err(released(index, first));
            }
            if index >= next {
                return Err(beyond(index, next));
            }
            table.release(self.id, index);
            table.releasable()
        };
        self.shared.wal.let_go(unwanted).await
    }

    /// Whether it was not removed.
    pub(super) fn there(&self) -> Result<()> {
        self.with(|_| ())
    }

    pub(super) fn first_and_next(&self) -> Result<(u64, u64)> {
        self.with(|stream| (stream.released + 1, stream.next))
    }

    /// Looks at the stream.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Stream) -> T) -> Result<T> {
        let table = self.shared.index.lock();
        table.stream(self.id).map(look).map_err(|Gone| no_stream(&self.name))
    }
}

impl fmt::Debug for NamedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedStream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// There is no record `index` any more.
pub(super) fn released(index: u64, first: u64) -> Error {
    let what = format!("index {index} is not in the stream any more: the first is {first}");
    Error::new(ErrorKind::Released, what)
        .with_first_index(first)
        .next("read from NamedStream::first_index on")
}

/// There is no record `index` yet.
pub(super) fn beyond(index: u64, next: u64) -> Error {
    let what = match next {
        1 => format!("index {index} is not in the stream: it is empty"),
        _ => format!("index {index} is not in the stream: the last is {}", next - 1),
    };
    Error::new(ErrorKind::OutOfRange, what).next("follow it: NamedStream::tail")
}
