//! Notes: what a layer above the log wants to find again when the segments before are gone.
//!
//! A note is the data of a crc record within a group, mostly in the head of a segment. To the log it is bytes that go with
//! an index: what the layer knew behind that entry. etcd's reader passes over it, as over marks. Layout, little-endian:
//! magic "SWNT", the index and the term of the entry (u64 each), the layer's bytes, and a CRC-32C of all that.

use bytes::{BufMut, Bytes};

const MAGIC: [u8; 4] = *b"SWNT";
const HEAD_BYTES: usize = MAGIC.len() + 8 + 8;
const CRC_BYTES: usize = 4;

/// The metadata of logs with notes: those of named streams.
pub(crate) const STREAMS: &[u8] = b"seawal streams 1";

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub index: u64,
    pub term: u64,
    pub data: Bytes,
}

/// What stands where a note may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    Note {
        index: u64,
        term: u64,
        data: &'a [u8],
    },
    /// It begins like one.
    Broken,
    Other,
}

impl Note {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.data.len() + CRC_BYTES);
        bytes.put_slice(&MAGIC);
        bytes.put_u64_le(self.index);
        bytes.put_u64_le(self.term);
        bytes.put_slice(&self.data);
        let crc = crc32c::crc32c(&bytes);
        bytes.put_u32_le(crc);
        bytes
    }
}

impl Seen<'_> {
    pub(crate) fn in_record(data: &[u8]) -> Seen<'_> {
        if !data.starts_with(&MAGIC) {
            return Seen::Other;
        }
        let Some((covered, crc)) = data.split_last_chunk::<CRC_BYTES>() else {
            return Seen::Broken;
        };
        let number = |at: usize| covered.get(at..)?.first_chunk().map(|n| u64::from_le_bytes(*n));
        match (number(4), number(12)) {
            (Some(index), Some(term)) if crc32c::crc32c(covered) == u32::from_le_bytes(*crc) => {
                Seen::Note { index, term, data: &covered[HEAD_BYTES..] }
            }
            _ => Seen::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_and_a_broken_one_does_not() {
        for data in [&b""[..], b"what the layer knows"] {
            let bytes = Note { index: 7, term: 2, data: Bytes::from_static(data) }.to_bytes();
            assert_eq!(Seen::in_record(&bytes), Seen::Note { index: 7, term: 2, data });
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 4;
                let expected = if at < 4 { Seen::Other } else { Seen::Broken };
                assert_eq!(Seen::in_record(&broken), expected, "{at}");
                assert!(!matches!(Seen::in_record(&bytes[..at]), Seen::Note { .. }));
            }
        }
        assert_eq!(Seen::in_record(&[0; 40]), Seen::Other);
    }
}
