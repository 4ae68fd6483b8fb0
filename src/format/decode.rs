//! From bytes to records: the pair of [`encode`](super::encode).
//!
//! Everything here takes bytes that anyone may have written. Nothing panics, and no memory is taken for a length
//! before the caller has checked that the file holds that many bytes.
//!
//! Logs are read by the gigabyte, and nearly every record is laid out as the encoders of etcd and of this crate lay it
//! out: each field at most once, in the order of the numbers, varints as short as they can be. That much is parsed here
//! by hand, on plain slices. Whatever looks any other way is for prost to parse, or to refuse: what bytes mean, and
//! which are an error, is prost's word alone.

use super::crc::Chain;
use super::pb::{raftpb, walpb};
use super::record::RecordType;
use crate::types::{ConfState, Entry, EntryKind, HardState, Snapshot};
use bytes::{Buf, Bytes};
use prost::{DecodeError, Message};
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// A record as it is stored, its data not interpreted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord<D = Bytes> {
    pub record_type: i64,
    pub crc: u32,
    pub data: Option<D>,
}

impl<D: Deref<Target = [u8]>> RawRecord<D> {
    pub(crate) fn is_crc(&self) -> bool {
        self.record_type == RecordType::Crc as i64
    }

    pub(crate) fn is_entry(&self) -> bool {
        self.record_type == RecordType::Entry as i64
    }

    /// What its checksum has to be if `before` is the chain before it. A crc record stands for the chain so far, and its data
    /// is not part of it; where nothing came before (0), it says what the chain is.
    pub(crate) fn chain_after(&self, before: Chain) -> Chain {
        match &self.data {
            _ if self.is_crc() && before == Chain(0) => Chain(self.crc),
            Some(data) if !self.is_crc() => before.after(data),
            _ => before,
        }
    }
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
pub(crate) fn record(mut bytes: Bytes) -> Result<RawRecord, DecodeError> {
    match usual_record(&bytes) {
        Some(RawRecord { record_type, crc, data }) => {
            let data = data.map(<[u8]>::len).map(|len| {
                bytes.advance(bytes.len() - len);
                bytes
            });
            Ok(RawRecord { record_type, crc, data })
        }
        None => any_record(bytes),
    }
}

/// As [`record`], without counting references: the data is borrowed, or copied where the record is an unusual one.
pub(crate) fn record_in(bytes: &[u8]) -> Result<RawRecord<Cow<'_, [u8]>>, DecodeError> {
    let (record_type, crc, data) = match usual_record(bytes) {
        Some(RawRecord { record_type, crc, data }) => (record_type, crc, data.map(Cow::Borrowed)),
        None => {
            let RawRecord { record_type, crc, data } = any_record(Bytes::copy_from_slice(bytes))?;
            (record_type, crc, data.map(|data| Cow::Owned(data.into())))
        }
    };
    Ok(RawRecord { record_type, crc, data })
}

fn any_record(bytes: Bytes) -> Result<RawRecord, DecodeError> {
    let record = walpb::Record::decode(bytes)?;
    Ok(RawRecord {
        record_type: record.r#type.unwrap_or(0),
        crc: record.crc.unwrap_or(0),
        data: record.data,
    })
}

/// The record, if it is laid out as encoders do it; its data is the end of `bytes`.
fn usual_record(bytes: &[u8]) -> Option<RawRecord<&[u8]>> {
    let mut fields = Fields(bytes);
    let record_type = fields.number(1)?.cast_signed();
    let crc = u32::try_from(fields.number(2)?).ok()?;
    let data = fields.last_bytes(3)?;
    Some(RawRecord { record_type, crc, data })
}

/// The rest of a message whose fields are taken in the order of their numbers. A method gives `None` for what the
/// usual encoders do not write.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The varint field `number`, at most 15; zero if it is absent.
    fn number(&mut self, number: u8) -> Option<u64> {
        match self.0.split_first() {
            Some((&tag, rest)) if tag == number << 3 => {
                self.0 = rest;
                self.varint()
            }
            _ => Some(0),
        }
    }

    /// The field `number` of bytes with which the message ends; `Some(None)` if it has ended before.
    fn last_bytes(&mut self, number: u8) -> Option<Option<&'a [u8]>> {
        let Some((&tag, rest)) = self.0.split_first() else {
            return Some(None);
        };
        if tag != number << 3 | 2 {
            return None;
        }
        self.0 = rest;
        let len = self.varint()?;
        (len == self.0.len() as u64).then_some(Some(self.0))
    }

    /// At most nine bytes, and no more of them than needed.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, &byte) in self.0.iter().take(9).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                if byte == 0 && at > 0 {
                    return None;
                }
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }
}

/// The numbers of an entry, and its payload.
struct UsualEntry<'a> {
    kind: EntryKind,
    term: u64,
    index: u64,
    data: Option<&'a [u8]>,
}

fn usual_entry(bytes: &[u8]) -> Option<UsualEntry<'_>> {
    let mut fields = Fields(bytes);
    let kind = match fields.number(1)? {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        2 => EntryKind::ConfChangeV2,
        _ => return None,
    };
    let (term, index) = (fields.number(2)?, fields.number(3)?);
    let data = fields.last_bytes(4)?;
    Some(UsualEntry { kind, term, index, data })
}

/// The data of an entry record. Absent fields read as zero (etcd 3.7 leaves them out).
pub(crate) fn entry(data: Option<Bytes>) -> Result<Entry, BadPayload> {
    let mut bytes = data.unwrap_or_default();
    match usual_entry(&bytes) {
        Some(UsualEntry { kind, term, index, data }) => {
            let len = data.map_or(0, <[u8]>::len);
            bytes.advance(bytes.len() - len);
            Ok(Entry { index, term, kind, data: bytes })
        }
        None => any_entry(bytes),
    }
}

/// Index and term of an entry, which parses if [`entry`] says so. Its payload is not touched.
pub(crate) fn entry_numbers(data: &[u8]) -> Result<(u64, u64), BadPayload> {
    match usual_entry(data) {
        Some(UsualEntry { index, term, .. }) => Ok((index, term)),
        None => any_entry(Bytes::copy_from_slice(data)).map(|entry| (entry.index, entry.term)),
    }
}

fn any_entry(bytes: Bytes) -> Result<Entry, BadPayload> {
    let entry = raftpb::Entry::decode(bytes)?;
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
pub(crate) fn state(data: &[u8]) -> Result<HardState, BadPayload> {
    let state = raftpb::HardState::decode(data)?;
    Ok(HardState {
        term: state.term.unwrap_or(0),
        vote: state.vote.unwrap_or(0),
        commit: state.commit.unwrap_or(0),
    })
}

/// The data of a snapshot record.
pub(crate) fn snapshot(data: &[u8]) -> Result<Snapshot, BadPayload> {
    let snapshot = walpb::Snapshot::decode(data)?;
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
            let _ = state(&bytes);
            let _ = snapshot(&bytes);
        }

        #[test]
        fn parses_arbitrary_bytes_as_prost_does(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            as_prost(&bytes);
        }

        /// Bytes that look like fields: tags of all kinds, varints short and long, lengths that fit or not.
        #[test]
        fn parses_rows_of_fields_as_prost_does(
            fields in proptest::collection::vec((0u8..6, 0u8..6, number(), 0usize..3), 0..6),
            extra in 0usize..3,
        ) {
            let mut bytes = Vec::new();
            for (number, wire_type, value, overlong) in fields {
                bytes.push(number << 3 | wire_type);
                put_varint(&mut bytes, value, overlong);
                if wire_type == 2 {
                    bytes.extend(std::iter::repeat_n(7, value.min(20) as usize));
                }
            }
            as_prost(&bytes);
            as_prost(&bytes[..bytes.len().saturating_sub(extra)]);
        }

        #[test]
        fn parses_what_encoders_write_and_what_becomes_of_it_as_prost_does(
            record_type in proptest::option::of(prop_oneof![0i64..7, any::<i64>()]),
            crc in proptest::option::of(any::<u32>()),
            kind in proptest::option::of(prop_oneof![0i32..4, any::<i32>()]),
            term in proptest::option::of(number()),
            index in proptest::option::of(number()),
            data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
            edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let data = data.map(Bytes::from);
            let record = walpb::Record { r#type: record_type, crc, data: data.clone() };
            let entry = raftpb::Entry { r#type: kind, term, index, data };
            for mut bytes in [record.encode_to_vec(), entry.encode_to_vec()] {
                as_prost(&bytes);
                for (at, byte) in &edits {
                    if !bytes.is_empty() {
                        let at = at.index(bytes.len());
                        bytes[at] = *byte;
                        as_prost(&bytes);
                        as_prost(&bytes[..at]);
                    }
                }
            }
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..4, 0u64..300, any::<u64>()]
    }

    fn put_varint(bytes: &mut Vec<u8>, mut value: u64, overlong: usize) {
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        for _ in 0..overlong {
            *bytes.last_mut().unwrap() |= 0x80;
            bytes.push(0);
        }
    }

    /// All ways to parse `bytes` give what prost gives, errors included.
    fn as_prost(bytes: &[u8]) {
        let owned = Bytes::copy_from_slice(bytes);
        let by_prost = any_record(owned.clone());
        assert_eq!(record(owned.clone()), by_prost);
        let borrowed = record_in(bytes).map(|RawRecord { record_type, crc, data }| RawRecord {
            record_type,
            crc,
            data: data.map(|data| Bytes::from(data.into_owned())),
        });
        assert_eq!(borrowed, by_prost);
        let by_prost = any_entry(owned.clone());
        assert_eq!(entry(Some(owned)), by_prost);
        let numbers = by_prost.map(|entry| (entry.index, entry.term));
        assert_eq!(entry_numbers(bytes), numbers);
    }

    /// Else all of the above would be about prost alone.
    #[test]
    fn what_encoders_write_is_parsed_by_hand() {
        for index in [0, 1, 1 << 40, u64::MAX >> 1] {
            let entry = raftpb::Entry {
                r#type: Some(0),
                term: Some(3),
                index: Some(index),
                data: Some(Bytes::from_static(b"data")),
            }
            .encode_to_vec();
            assert!(
                usual_entry(&entry).is_some_and(|e| e.index == index && e.data == Some(b"data"))
            );
            let record =
                walpb::Record { r#type: Some(2), crc: Some(u32::MAX), data: Some(entry.into()) };
            assert!(usual_record(&record.encode_to_vec()).is_some());
        }
        let bare = walpb::Record { r#type: Some(4), crc: Some(0), data: None };
        assert_eq!(usual_record(&bare.encode_to_vec()).unwrap().data, None);
    }
}
