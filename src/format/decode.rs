//! From bytes to records: the pair of [`encode`](super::encode).
//!
//! Everything here takes bytes that anyone may have written. Nothing panics, and no memory is taken for a length
//! before the caller has checked that the file holds that many bytes.

use super::pb::{raftpb, walpb};
use crate::types::{ConfState, Entry, EntryKind, HardState, Snapshot};
use bytes::Bytes;
use prost::{DecodeError, Message};
use std::fmt;

/// A record as it is stored, its data not interpreted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord {
    pub record_type: i64,
    pub crc: u32,
    pub data: Option<Bytes>,
}

/// Why the data of a record is not what its type says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadPayload {
    Protobuf(DecodeError),
    UnknownEntryType(i32),
}

impl fmt::Display for BadPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadPayload::Protobuf(error) => write!(f, "{error}"),
            BadPayload::UnknownEntryType(number) => write!(f, "unknown entry type {number}"),
        }
    }
}

impl From<DecodeError> for BadPayload {
    fn from(error: DecodeError) -> BadPayload {
        BadPayload::Protobuf(error)
    }
}

/// Reads the record of a frame, without its padding. Payloads are slices of `bytes`, not copies.
pub(crate) fn record(bytes: Bytes) -> Result<RawRecord, DecodeError> {
    let record = walpb::Record::decode(bytes)?;
    Ok(RawRecord {
        record_type: record.r#type.unwrap_or(0),
        crc: record.crc.unwrap_or(0),
        data: record.data,
    })
}

/// The data of an entry record. Absent fields read as zero (etcd 3.7 leaves them out).
pub(crate) fn entry(data: Option<Bytes>) -> Result<Entry, BadPayload> {
    let entry = raftpb::Entry::decode(data.unwrap_or_default())?;
    let kind = entry.r#type.unwrap_or(0);
    Ok(Entry {
        index: entry.index.unwrap_or(0),
        term: entry.term.unwrap_or(0),
        kind: match raftpb::EntryType::try_from(kind) {
            Ok(raftpb::EntryType::Normal) => EntryKind::Normal,
            Ok(raftpb::EntryType::ConfChange) => EntryKind::ConfChange,
            Ok(raftpb::EntryType::ConfChangeV2) => EntryKind::ConfChangeV2,
            Err(_) => return Err(BadPayload::UnknownEntryType(kind)),
        },
        data: entry.data.unwrap_or_default(),
    })
}

/// The data of a hard state record.
pub(crate) fn state(data: Option<Bytes>) -> Result<HardState, BadPayload> {
    let state = raftpb::HardState::decode(data.unwrap_or_default())?;
    Ok(HardState {
        term: state.term.unwrap_or(0),
        vote: state.vote.unwrap_or(0),
        commit: state.commit.unwrap_or(0),
    })
}

/// The data of a snapshot record.
pub(crate) fn snapshot(data: Option<Bytes>) -> Result<Snapshot, BadPayload> {
    let snapshot = walpb::Snapshot::decode(data.unwrap_or_default())?;
    Ok(Snapshot {
        index: snapshot.index.unwrap_or(0),
        term: snapshot.term.unwrap_or(0),
        conf_state: snapshot.conf_state.map(|conf| ConfState {
            voters: conf.voters,
            learners: conf.learners,
            voters_outgoing: conf.voters_outgoing,
            learners_next: conf.learners_next,
            auto_leave: conf.auto_leave.unwrap_or(false),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = record(bytes.clone());
            let _ = entry(Some(bytes.clone()));
            let _ = state(Some(bytes.clone()));
            let _ = snapshot(Some(bytes));
        }
    }
}
