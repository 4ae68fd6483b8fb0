//! What the entries and the notes of a log of streams hold: messages of `proto/streampb.proto`.
//!
//! A record's own bytes come last in its message, so that they are a slice of the entry's.

use crate::format::pb::streampb::{CreateStream, RemoveStream, StreamEntry};
pub(super) use crate::format::pb::streampb::{StreamState, StreamsNote};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Bytes of a record's message besides its own, at most.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 1 + 10 + 1 + 10;

/// A stream in a note has four fields, and its name is not empty.
const STATE_BYTES_MIN: u64 = 9;

/// What an entry is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A record of this stream.
    Record(u64),
    Create(String),
    Remove(u64),
}

/// A record of a stream.
pub(super) fn record(stream: u64, data: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(RECORD_OVERHEAD_BYTES + data.len());
    encode_key(1, WireType::Varint, &mut message);
    encode_varint(stream, &mut message);
    encode_key(2, WireType::LengthDelimited, &mut message);
    encode_varint(data.len() as u64, &mut message);
    message.put_slice(data);
    message.freeze()
}

pub(super) fn create(name: &str) -> Bytes {
    let create = Some(CreateStream { name: Some(name.to_owned()) });
    encoded(StreamEntry { create, ..StreamEntry::default() })
}

pub(super) fn remove(stream: u64) -> Bytes {
    let remove = Some(RemoveStream { stream: Some(stream) });
    encoded(StreamEntry { remove, ..StreamEntry::default() })
}

/// What a note says.
pub(super) fn note(data: &[u8]) -> Result<StreamsNote, String> {
    let bad = |error: prost::DecodeError| format!("a note that does not parse: {error}");
    // No memory is taken for states of nothing.
    let mut rest = data;
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(bad)?;
        let len = decode_varint(&mut rest).map_err(bad)?;
        let known = (tag, wire_type) == (1, WireType::LengthDelimited);
        if !known || len < STATE_BYTES_MIN || len > rest.len() as u64 {
            return Err("a note that holds something else than streams".to_owned());
        }
        rest = &rest[len as usize..];
    }
    StreamsNote::decode(data).map_err(bad)
}

fn encoded(message: StreamEntry) -> Bytes {
    message.encode_to_vec().into()
}

/// What an entry is, or why it is none of a log of streams.
pub(super) fn kind(entry: &[u8]) -> Result<Kind, String> {
    if let Some((stream, _)) = record_in(entry) {
        return Ok(Kind::Record(stream));
    }
    let message = StreamEntry::decode(entry).map_err(|error| error.to_string())?;
    match message {
        StreamEntry { create: Some(create), stream: None, remove: None, .. } => {
            Ok(Kind::Create(create.name.unwrap_or_default()))
        }
        StreamEntry { remove: Some(remove), stream: None, .. } => {
            Ok(Kind::Remove(remove.stream.unwrap_or_default()))
        }
        _ => Err("it is no record, and nothing else that is known".to_owned()),
    }
}

/// The stream of a record, and where its bytes begin.
pub(super) fn record_in(entry: &[u8]) -> Option<(u64, usize)> {
    let mut rest = entry.strip_prefix(&[1 << 3])?;
    let stream = decode_varint(&mut rest).ok()?;
    let mut rest = rest.strip_prefix(&[2 << 3 | 2])?;
    let len = decode_varint(&mut rest).ok()?;
    (rest.len() as u64 == len).then_some((stream, entry.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_messages_of_the_proto_file() {
        for (stream, len) in [(1, 0), (300, 5), (u64::MAX, 70_000)] {
            let data = vec![7; len];
            let bytes = record(stream, &data);
            assert!(bytes.len() <= RECORD_OVERHEAD_BYTES + len);
            let message = StreamEntry { stream: Some(stream), ..StreamEntry::default() };
            let message = StreamEntry { data: Some(data.clone().into()), ..message };
            assert_eq!(StreamEntry::decode(&bytes[..]).unwrap(), message);
            assert_eq!(kind(&bytes), Ok(Kind::Record(stream)));
            let (_, begin) = record_in(&bytes).unwrap();
            assert_eq!(bytes[begin..], data[..]);
        }
    }

    #[test]
    fn other_entries_are_told_apart() {
        assert_eq!(kind(&create("a name")), Ok(Kind::Create("a name".to_owned())));
        assert_eq!(kind(&remove(9)), Ok(Kind::Remove(9)));
        for other in [&b""[..], b"plain", b"\x08", b"\x08\x01", b"\x08\x01\x12\x05abc"] {
            assert!(kind(other).is_err(), "{other:?}");
        }
    }
}
