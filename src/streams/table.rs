//! Which streams there are, and which entry of the log holds which record.
//!
//! Nothing but the order of the log decides that. The number of a stream is the index of the entry that created it; of two
//! that create one name, the first counts. The index of a record is one more than that of the stream's record before it. So
//! the table follows from the entries: from those that are found when the log is opened, and then from those that are
//! appended.
//!
//! # What was released
//!
//! Of a log whose oldest segments are gone, the beginning of the count is gone too. So the head of each segment has a *note*
//! of all streams, as they are behind the last entry before it. The log is released up to the first entry behind a note,
//! and no further ([`Table::releasable`]): by that the segments before the note's go, and the note is there. Who opens the
//! log finds what is left of it from the note on, and counts on from what that says.

use super::entry::{self, Kind, StreamState, StreamsNote};
use super::runs::Runs;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::task::Waker;

/// Bytes of a stream's name, at most.
const NAME_BYTES_MAX: usize = 255;

/// What a stream takes in a note besides its name, at most: a tag and a number for each field.
const STREAM_STATE_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct Stream {
    pub name: Arc<str>,
    /// Records up to this index were released.
    pub released: u64,
    /// The index of its next record.
    pub next: u64,
    runs: Runs,
}

impl Stream {
    /// The log's entry that holds the record `index`; `None` if it is not there, or not any more.
    pub(super) fn place_of(&self, index: u64) -> Option<u64> {
        self.runs.place_of(index)
    }

    /// The entries that hold its records.
    pub(super) fn runs(&self) -> &Runs {
        &self.runs
    }
}

/// A stream was removed, or never was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The last entry that was taken in.
    seen: u64,
    streams: HashMap<u64, Stream>,
    names: BTreeMap<Arc<str>, u64>,
    /// Of all names.
    name_bytes: usize,
    /// Of each stream with records, the entry of its first.
    firsts: BTreeSet<(u64, u64)>,
    /// Entries from which on somebody reads.
    pins: BTreeMap<u64, u64>,
    /// The entries that notes go with, those aside that the log has gone beyond.
    notes: Vec<u64>,
    /// What the last one says of releases, until all entries are counted.
    releases: Vec<StreamState>,
    /// Something was released that the last one does not say.
    released_since: bool,
    /// Those who wait for the next record of a stream, by their places.
    waiting: BTreeMap<(u64, u64), Waker>,
    /// Those of them who are to be woken.
    due: Vec<Waker>,
    /// Of pins and of those who wait.
    places: u64,
}

impl Table {
    /// Of a log that begins behind the entry `base`, with the note of that; with what the last note says of releases, and
    /// the entries that notes go with.
    pub(super) fn new(
        base: u64,
        first: Option<&[u8]>,
        last: Option<&[u8]>,
        notes: &[u64],
    ) -> Result<Table, String> {
        let mut table = Table { seen: base, notes: notes.to_vec(), ..Table::default() };
        match first {
            Some(note) => table.begin(entry::note(note)?)?,
            None if base == 0 => {}
            None => {
                return Err(format!(
                    "the entries up to {base} are gone, and no note says which streams there were"
                ));
            }
        }
        table.releases = last.map(entry::note).transpose()?.unwrap_or_default().streams;
        Ok(table)
    }

    /// After all entries that were found.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        for state in mem::take(&mut self.releases) {
            let (id, released) = (state.stream(), state.released());
            match self.streams.get(&id) {
                Some(Stream { name, next, .. }) if released >= *next => {
                    return Err(format!(
                        "a note says that record {released} of {name:?} was released: {next} is the next"
                    ));
                }
                _ => self.release(id, released),
            }
        }
        self.released_since = false;
        Ok(())
    }

    /// The streams as a note knows them.
    fn begin(&mut self, note: StreamsNote) -> Result<(), String> {
        for state in note.streams {
            let (id, name, next) = (state.stream(), state.name(), state.next());
            // A stream has no more records than there are entries behind the one that created it.
            let fits = (1..=self.seen).contains(&id)
                && (1..=self.seen - id + 1).contains(&next)
                && state.released() < next
                && is_name(name)
                && !self.streams.contains_key(&id)
                && !self.names.contains_key(name);
            if !fits {
                return Err(format!("the note behind entry {} is none: {state:?}", self.seen));
            }
            let (name, runs) = (name.into(), Runs::default());
            // What came before is gone.
            self.add(id, Stream { name, released: next - 1, next, runs });
        }
        Ok(())
    }

    /// Takes in the next entry; or says why it is none of a log of streams.
    pub(super) fn take(&mut self, at: u64, data: &[u8]) -> Result<(), String> {
        self.seen = at;
        match entry::kind(data)? {
            Kind::Record(id) => self.record(id, at),
            Kind::Create(name) if is_name(&name) => {
                let (name, runs) = (name.into(), Runs::default());
                self.add(at, Stream { name, released: 0, next: 1, runs });
            }
            Kind::Create(name) => return Err(format!("a stream of the name {name:?}")),
            Kind::Remove(id) => self.remove(id),
        }
        Ok(())
    }

    fn record(&mut self, id: u64, at: u64) {
        // Of one that was removed meanwhile, it is nobody's.
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let index = stream.next;
        stream.next += 1;
        if index > stream.released {
            if stream.runs.first_place().is_none() {
                self.firsts.insert((at, id));
            }
            stream.runs.push(index, at);
        }
        self.wake(id);
    }

    /// Adds a stream, unless there is one of its name.
    fn add(&mut self, id: u64, stream: Stream) {
        if self.names.contains_key(&stream.name) {
            return;
        }
        self.names.insert(Arc::clone(&stream.name), id);
        self.name_bytes += stream.name.len();
        self.streams.insert(id, stream);
    }

    fn remove(&mut self, id: u64) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.names.remove(&stream.name);
        self.name_bytes -= stream.name.len();
        if let Some(at) = stream.runs.first_place() {
            self.firsts.remove(&(at, id));
        }
        self.wake(id);
    }

    fn wake(&mut self, id: u64) {
        if !self.waiting.is_empty() {
            let due = self.waiting.extract_if((id, 0)..=(id, u64::MAX), |_, _| true);
            self.due.extend(due.map(|(_, waker)| waker));
        }
    }

    /// Those who are to be woken, when the table was let go of.
    pub(super) fn take_due(&mut self) -> Vec<Waker> {
        mem::take(&mut self.due)
    }

    pub(super) fn id_of(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    pub(super) fn stream(&self, id: u64) -> Result<&Stream, Gone> {
        self.streams.get(&id).ok_or(Gone)
    }

    /// In the order of their names.
    pub(super) fn streams(&self) -> impl Iterator<Item = (u64, &Stream)> {
        self.names.values().map(|id| (*id, &self.streams[id]))
    }

    /// The index in its stream of the record in the log's entry `at`; `None` if it was released.
    pub(super) fn index_at(&self, id: u64, at: u64) -> Result<Option<u64>, Gone> {
        Ok(self.stream(id)?.runs.index_at(at))
    }

    /// The stream whose oldest record keeps all that comes behind it.
    pub(super) fn oldest(&self) -> Option<&Stream> {
        let (_, id) = self.firsts.first()?;
        Some(&self.streams[id])
    }

    /// The records of a stream up to `index`, which it has, are not wanted any more.
    pub(super) fn release(&mut self, id: u64, index: u64) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.released < index)
        else {
            return;
        };
        let before = stream.runs.first_place();
        stream.released = index;
        stream.runs.forget_up_to(index);
        let after = stream.runs.first_place();
        if before != after {
            before.map(|at| self.firsts.remove(&(at, id)));
            after.map(|at| self.firsts.insert((at, id)));
        }
        self.released_since = true;
    }

    /// From now on the log's entries from `at` on stay; gives the place of the pin.
    pub(super) fn pin(&mut self, at: u64) -> u64 {
        let place = self.place();
        self.pins.insert(place, at);
        place
    }

    pub(super) fn move_pin(&mut self, place: u64, at: u64) {
        self.pins.insert(place, at);
    }

    pub(super) fn unpin(&mut self, place: u64) {
        self.pins.remove(&place);
    }

    /// A place for a pin, or for somebody who waits.
    pub(super) fn place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    /// `waker` waits for the next record of a stream, or its end. Gives the one before him at his place.
    pub(super) fn wait(&mut self, id: u64, place: u64, waker: Waker) -> Option<Waker> {
        self.waiting.insert((id, place), waker)
    }

    /// He waits no more. Gives his waker.
    pub(super) fn leave(&mut self, id: u64, place: u64) -> Option<Waker> {
        self.waiting.remove(&(id, place))
    }

    /// The last entry of the log that may be released with all before it; 0 for none. It is the first behind a note.
    pub(super) fn releasable(&self) -> u64 {
        let first = self.firsts.first().map(|(at, _)| *at);
        let wanted = self.pins.values().copied().chain(first).min();
        let unwanted = wanted.map_or(self.seen, |at| at - 1);
        let usable = self.notes.partition_point(|note| *note < unwanted);
        usable.checked_sub(1).map_or(0, |last| self.notes[last] + 1)
    }

    /// What a note takes, at most, with one more name of so many bytes.
    pub(super) fn note_bytes_with(&self, names: usize, bytes: usize) -> usize {
        (self.streams.len() + names) * STREAM_STATE_BYTES + self.name_bytes + bytes
    }

    /// The note behind the entry `at`; `None` if that is not the last it has seen, or there is nothing new to say as the log
    /// `ends`.
    pub(super) fn note(&mut self, at: u64, ends: bool) -> Option<StreamsNote> {
        if at != self.seen || at == 0 || (ends && !self.released_since) {
            return None;
        }
        self.released_since = false;
        // What the log was released to is behind the last but one of these.
        let gone = self.releasable().saturating_sub(1);
        self.notes.drain(..self.notes.partition_point(|note| *note < gone));
        if self.notes.last().is_none_or(|last| *last < at) {
            self.notes.push(at);
        }
        let state = |(id, stream): (u64, &Stream)| StreamState {
            stream: Some(id),
            name: Some(stream.name.to_string()),
            next: Some(stream.next),
            released: Some(stream.released),
        };
        Some(StreamsNote { streams: self.streams().map(state).collect() })
    }
}

pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
