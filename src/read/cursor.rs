//! Goes forward through the log, in the order of the bytes.

use super::entries::released;
use super::files::Files;
use super::serve::ReadRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::Inbox;
use crate::types::{Durability, Entry, Position, Seq};
use crate::watermark::{Before, Next, Waiting, Watermark};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Entries that are taken at once: so many lie ready at a reader, at most about.
const ENTRIES_AT_ONCE_MAX: usize = 128;

/// What a cursor reads from: one log, seen in one way.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub requests: Arc<Inbox<ReadRequest>>,
    pub watermark: Watermark,
    pub durability: Durability,
}

impl Source {
    /// The first index, and the one behind the last.
    pub(crate) fn first_and_next(&self) -> (u64, u64) {
        self.watermark.first_and_next(self.durability)
    }

    /// The cursor came past the entry `index`, which is valid, and it was not there. Nothing in the format covers the type
    /// of a record: one that has become another looks like this.
    pub(crate) fn missing(&self, index: u64) -> Error {
        let place = self.watermark.place_of(self.durability, index);
        let file = place.and_then(|place| self.watermark.file_of(place.seq));
        let what = format!("entry {index} is not here, nor in what follows");
        match (place, file) {
            (Some(place), Some((path, _))) => Error::damaged(&path, place.offset, what),
            // Gone meanwhile.
            _ => Error::new(ErrorKind::Released, what).next("read from Wal::first_index on"),
        }
    }
}

/// What a cursor comes to.
#[derive(Debug)]
pub(crate) enum Come {
    Entry(Entry),
    /// The end of the log: this index comes next.
    End(u64),
}

/// A place in the log, and what lies ready from there on.
#[derive(Debug)]
pub(crate) struct Cursor {
    source: Source,
    /// Entries before this one are not wanted.
    from: u64,
    /// What comes before it was taken.
    at: Position,
    /// While reading from files.
    files: Option<Box<Files>>,
    ready: VecDeque<Entry>,
}

impl Cursor {
    /// From the entry `index` on, or from where the next one will be if it is not there yet.
    pub(crate) fn new(source: Source, index: u64) -> Cursor {
        let Source { requests, watermark, durability } = &source;
        let (at, files) = match watermark.before(*durability, index) {
            Before::Here(at) => (at, None),
            Before::Files(point) => {
                let files = Files::new(Arc::clone(requests), watermark.clone(), point);
                (point.position, Some(Box::new(files)))
            }
        };
        Cursor { source, from: index, at, files, ready: VecDeque::new() }
    }

    /// The next entry that was valid when it was taken.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Come>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Poll::Ready(Ok(Come::Entry(entry)));
            }
            if let Some(next) = ready!(self.poll_more(context))? {
                return Poll::Ready(Ok(Come::End(next)));
            }
        }
    }

    /// Makes the next entries ready; at the end of the log gives the index that comes next.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<u64>>> {
        let Source { requests, watermark, durability } = &self.source;
        let limit = match watermark.after(*durability, self.at, ENTRIES_AT_ONCE_MAX) {
            Next::End(next) => return Poll::Ready(Ok(Some(next))),
            Next::Entries(entries, end, passed) => {
                self.files = None;
                self.ready.extend(entries);
                self.at = end;
                return Poll::Ready(self.not_released(passed).map(|()| None));
            }
            Next::Files(limit) => limit,
        };
        let files = self.files.get_or_insert_with(|| {
            let from = watermark.point_at(self.at);
            Box::new(Files::new(Arc::clone(requests), watermark.clone(), from))
        });
        let found = ready!(files.poll_entries(limit, ENTRIES_AT_ONCE_MAX, context))?;
        let from = self.at;
        self.at = from.max(files.at());
        let let_go = watermark.released().0;
        let passed = watermark.with_live(*durability, |live| {
            // Reading began before the place, where a chain was known.
            let wanted = |(position, entry): &(Position, Entry)| {
                *position >= from && live.is_live(entry.index, *position)
            };
            let is_behind = |(position, entry): &&(Position, Entry)| {
                *position >= from && entry.index <= live.base().min(let_go)
            };
            let passed = found.iter().filter(is_behind).map(|(_, entry)| entry.index).max();
            self.ready.extend(found.into_iter().filter(wanted).map(|(_, entry)| entry));
            passed.unwrap_or(0)
        });
        Poll::Ready(self.not_released(passed).map(|()| None))
    }

    /// It came past the entry `index`, which was released: one that nobody wants here, unless it came back to it.
    fn not_released(&self, index: u64) -> Result<()> {
        match index >= self.from {
            true => Err(released(index, self.source.first_and_next().0)),
            false => Ok(()),
        }
    }

    /// What it reads is not in the log any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.source.watermark.file_of(self.at.seq).is_none()
    }

    /// Waits until there is more than was taken.
    pub(crate) fn poll_growth(
        &self,
        waiting: &mut Waiting,
        context: &Context<'_>,
    ) -> Poll<Result<()>> {
        waiting.poll_entry(self.source.durability, self.at, context)
    }

    /// The segment that it is in, or comes to next.
    pub(crate) fn seq(&self) -> Seq {
        self.at.seq
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}
