//! The kinds of records, and what each carries.

use crate::types::{Entry, HardState, Snapshot};
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
}
