//! The kinds of records, and what each carries.

use super::note::Note;
use crate::types::{Entry, EntryKind, HardState, Snapshot};
use bytes::Bytes;

/// The type field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RecordType {
    Metadata = 1,
    Entry = 2,
    State = 3,
    Crc = 4,
    Snapshot = 5,
}

impl RecordType {
    pub(crate) fn from_number(number: i64) -> Option<RecordType> {
        Some(match number {
            1 => RecordType::Metadata,
            2 => RecordType::Entry,
            3 => RecordType::State,
            4 => RecordType::Crc,
            5 => RecordType::Snapshot,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            RecordType::Metadata => "metadata",
            RecordType::Entry => "entry",
            RecordType::State => "state",
            RecordType::Crc => "crc",
            RecordType::Snapshot => "snapshot",
        }
    }
}

/// What a writer puts into a group; crc records are the encoder's own business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// `None` is *not set*, which is other bytes than empty.
    Metadata(Option<Bytes>),
    Entry(Entry),
    State(HardState),
    Snapshot(Snapshot),
    /// A snapshot record that says what was released: in a group of [`MarkKind::Release`](super::MarkKind), and in heads.
    Release(Snapshot),
    /// A snapshot record behind which all entries were taken back: in a group of
    /// [`MarkKind::Truncation`](super::MarkKind).
    Truncation(Snapshot),
    /// The one crc record that is not the encoder's own: see [`Note`].
    Note(Note),
}

/// A record to be written, whoever holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordRef<'a> {
    Metadata(Option<&'a [u8]>),
    Entry { index: u64, term: u64, kind: EntryKind, data: &'a [u8] },
    State(&'a HardState),
    Snapshot(&'a Snapshot),
    Release(&'a Snapshot),
    Truncation(&'a Snapshot),
    Note(&'a Note),
}

impl<'a> From<&'a Record> for RecordRef<'a> {
    fn from(record: &'a Record) -> RecordRef<'a> {
        match record {
            Record::Metadata(data) => RecordRef::Metadata(data.as_deref()),
            Record::Entry(entry) => RecordRef::Entry {
                index: entry.index,
                term: entry.term,
                kind: entry.kind,
                data: &entry.data,
            },
            Record::State(state) => RecordRef::State(state),
            Record::Snapshot(snapshot) => RecordRef::Snapshot(snapshot),
            Record::Release(snapshot) => RecordRef::Release(snapshot),
            Record::Truncation(snapshot) => RecordRef::Truncation(snapshot),
            Record::Note(note) => RecordRef::Note(note),
        }
    }
}

/// Records in a row.
pub(crate) trait Records {
    fn count(&self) -> usize;
    /// # Panics
    ///
    /// If there are not so many.
    fn get(&self, at: usize) -> RecordRef<'_>;
    /// The payload, if it may be kept for long: it is not a part of something larger.
    fn whole(&self, _at: usize) -> Option<&Bytes> {
        None
    }
}

impl Records for [Record] {
    fn count(&self) -> usize {
        self.len()
    }

    fn get(&self, at: usize) -> RecordRef<'_> {
        (&self[at]).into()
    }
}
