//! Goes forward through the log, in the order of the bytes.

use super::entries::released;
use super::files::Files;
use super::piece::Piece;
use super::serve::ReadRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::Inbox;
use crate::live::Live;
use crate::types::{Durability, Entry, Position, Seq};
use crate::watermark::{Before, Next, Waiting, Watermark};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec;

/// Entries that are looked at once, whether they are valid: so many lie ready at a reader, at most.
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
    ready: Ready,
}

/// Entries that were taken.
#[derive(Debug, Default)]
struct Ready {
    entries: vec::IntoIter<Entry>,
    /// So many of them are valid; of the others that is to be seen.
    valid: usize,
    /// Where the entries lie, and those that were in front of them.
    seq: Seq,
    offsets: Vec<u64>,
}

impl Ready {
    /// Entries that are valid.
    fn valid(entries: Vec<Entry>) -> Ready {
        Ready { valid: entries.len(), entries: entries.into_iter(), ..Ready::default() }
    }

    /// The entries of a piece, from `from` on: reading began before it, where a chain was known.
    fn of(piece: Piece, from: Position) -> Ready {
        let Piece { entries, offsets, end: Position { seq, .. }, .. } = piece;
        let before = offsets.partition_point(|&offset| Position::new(seq, offset) < from);
        let mut entries = entries.into_iter();
        entries.by_ref().take(before).for_each(drop);
        Ready { entries, valid: 0, seq, offsets }
    }

    fn next(&mut self) -> Option<Entry> {
        self.valid = self.valid.checked_sub(1)?;
        self.entries.next()
    }

    /// Looks which of the next entries are valid, and passes over what is not. Gives the last index up to `released` of those
    /// passed over, or zero.
    fn look(&mut self, live: &Live, released: u64) -> u64 {
        let entries = self.entries.as_slice();
        let offsets = &self.offsets[self.offsets.len() - entries.len()..];
        let entries = &entries[..entries.len().min(ENTRIES_AT_ONCE_MAX)];
        let place = |at: usize| (entries[at].index, Position::new(self.seq, offsets[at]));
        let is_valid = |at: usize| live.is_live(place(at).0, place(at).1);
        let count = entries.len();
        // Mostly all of them are of one run. What lies between two of a run is of it too.
        if live.is_one_run(place(0), place(count - 1)) {
            self.valid = count;
            return 0;
        }
        let first = is_valid(0);
        let same = (1..count).take_while(|&at| is_valid(at) == first).count() + 1;
        if first {
            self.valid = same;
            return 0;
        }
        let passed = self.entries.by_ref().take(same).map(|entry| entry.index);
        passed.filter(|index| *index <= live.base().min(released)).max().unwrap_or(0)
    }
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
        Cursor { source, from: index, at, files, ready: Ready::default() }
    }

    /// The next entry that was valid when it was taken.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Come>> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Poll::Ready(Ok(Come::Entry(entry)));
            }
            if self.ready.entries.len() > 0 {
                let Source { watermark, durability, .. } = &self.source;
                let released = watermark.released().0;
                let passed =
                    watermark.with_live(*durability, |live| self.ready.look(live, released));
                if let Err(error) = self.not_released(passed) {
                    return Poll::Ready(Err(error));
                }
            } else if let Some(next) = ready!(self.poll_more(context))? {
                return Poll::Ready(Ok(Come::End(next)));
            }
        }
    }

    /// Takes the next entries; at the end of the log gives the index that comes next.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<u64>>> {
        let Source { requests, watermark, durability } = &self.source;
        let limit = match watermark.after(*durability, self.at, ENTRIES_AT_ONCE_MAX) {
            Next::End(next) => return Poll::Ready(Ok(Some(next))),
            Next::Entries(entries, end, passed) => {
                self.files = None;
                self.ready = Ready::valid(entries);
                self.at = end;
                return Poll::Ready(self.not_released(passed).map(|()| None));
            }
            Next::Files(limit) => limit,
        };
        let files = self.files.get_or_insert_with(|| {
            let from = watermark.point_at(self.at);
            Box::new(Files::new(Arc::clone(requests), watermark.clone(), from))
        });
        let piece = ready!(files.poll_piece(limit, context))?;
        self.ready = Ready::of(piece, self.at);
        self.at = self.at.max(files.at());
        Poll::Ready(Ok(None))
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

    /// The segment of what comes next.
    pub(crate) fn seq(&self) -> Seq {
        match self.ready.entries.len() {
            0 => self.at.seq,
            // Whether they are valid is still to be looked at.
            _ => self.ready.seq,
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}
