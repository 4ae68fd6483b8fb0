//! The codec as `benches/codec.rs` sees it. No part of the interface: it may change with any release.

use super::crc::Chain;
use super::decode;
use super::encode::{GroupEncoder, Place, entry_frame_bytes_max};
use super::frame::{FrameLength, LENGTH_FIELD_BYTES};
use super::mark::{LogId, MARK_FRAME_BYTES, MarkKind};
use super::record::{Record, RecordType};
use crate::types::{Entry, EntryKind, Position, Seq};
use bytes::Bytes;

/// Groups end at multiples of it, as with direct writes.
const BOUNDARY: u64 = 4096;

/// A group of entries of equal length, and room for its bytes.
#[derive(Debug)]
pub struct Group {
    records: Vec<Record>,
    place: Place,
    encoder: GroupEncoder,
    buffer: Vec<u8>,
}

impl Group {
    /// So many entries with so many bytes of payload each.
    #[must_use]
    pub fn new(entries: usize, payload_bytes: usize) -> Group {
        let entry = |at: usize| {
            let data = Bytes::from(vec![at as u8; payload_bytes]);
            Record::Entry(Entry { index: at as u64 + 1, term: 1, kind: EntryKind::Normal, data })
        };
        let bytes_max = entry_frame_bytes_max(payload_bytes) * entries as u64;
        let bytes_max = bytes_max + MARK_FRAME_BYTES + 2 * BOUNDARY;
        Group {
            records: (0..entries).map(entry).collect(),
            place: Place {
                position: Position::new(Seq(0), 0),
                chain: Chain::default(),
                kind: MarkKind::Entries,
                log_id: LogId([7; 16]),
                epoch: 1,
                group: 1,
                first_index: 1,
                durable: Position::new(Seq(0), 0),
                boundary: BOUNDARY,
            },
            encoder: GroupEncoder::default(),
            buffer: vec![0; bytes_max as usize],
        }
    }

    /// Plans and writes the group, as the submission thread does, in memory that is there already. Gives its bytes.
    pub fn encode(&mut self) -> &[u8] {
        self.encoder.plan(&self.place, &self.records[..], Some(&mut self.buffer));
        &self.buffer[..self.encoder.bytes() as usize]
    }
}

/// Reads the frames of a group, compares each checksum, and parses the entries. Gives how many there are.
///
/// # Panics
///
/// If a checksum or an entry is wrong.
#[must_use]
pub fn decode(group: &Bytes) -> usize {
    let (mut at, mut chain, mut entries) = (0, Chain::default(), 0);
    while at < group.len() {
        let field = group[at..at + LENGTH_FIELD_BYTES].try_into().expect("eight bytes");
        let length = FrameLength::from_bytes(field);
        let start = at + LENGTH_FIELD_BYTES;
        let record =
            decode::record(group.slice(start..start + length.record as usize)).expect("a record");
        let kind = RecordType::from_number(record.record_type).expect("a known type");
        if kind != RecordType::Crc {
            chain = chain.after(record.data.as_deref().unwrap_or_default());
        }
        assert_eq!(chain.0, record.crc, "at {at}");
        if kind == RecordType::Entry {
            decode::entry(record.data).expect("an entry");
            entries += 1;
        }
        at += length.total() as usize;
    }
    entries
}
