//! The codec as `benches/codec.rs` and the targets in `fuzz/` see it. No part of the interface: it may change with any
//! release.

use super::crc::Chain;
use super::decode;
use super::encode::{GroupEncoder, Place, entry_frame_bytes_max};
use super::frame::{FrameLength, LENGTH_FIELD_BYTES};
use super::mark::{LogId, MARK_BYTES, MARK_FRAME_BYTES, Mark, MarkKind};
use super::record::{Record as Encodable, RecordType};
use crate::types::{Entry, EntryKind, HardState, Position, Seq, Snapshot};
use bytes::Bytes;

/// What a record carries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named by their types")]
pub enum Record {
    Metadata(Option<Bytes>),
    Entry(Entry),
    State(HardState),
    Snapshot(Snapshot),
}

impl From<Record> for Encodable {
    fn from(record: Record) -> Encodable {
        match record {
            Record::Metadata(data) => Encodable::Metadata(data),
            Record::Entry(entry) => Encodable::Entry(entry),
            Record::State(state) => Encodable::State(state),
            Record::Snapshot(snapshot) => Encodable::Snapshot(snapshot),
        }
    }
}

/// Where a group starts, and what its mark is to say.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "as in docs/format.md")]
pub struct GroupPlace {
    pub position: Position,
    pub chain: u32,
    /// 1 to 7.
    pub kind: u8,
    pub log_id: [u8; 16],
    pub epoch: u32,
    pub group: u64,
    pub first_index: u64,
    pub durable: Position,
    /// 8 or a power of two above it.
    pub boundary: u64,
}

/// The bytes of a group, and the chain after it. They are made in both ways that the encoder has: in one go, and in
/// pieces of `piece_bytes`.
///
/// # Panics
///
/// If the two differ.
#[must_use]
pub fn encode(place: &GroupPlace, records: &[Record], piece_bytes: usize) -> (Vec<u8>, u32) {
    let records: Vec<Encodable> = records.iter().cloned().map(Encodable::from).collect();
    let place = Place {
        position: place.position,
        chain: Chain(place.chain),
        kind: match place.kind {
            1 => MarkKind::Head,
            2 => MarkKind::Entries,
            3 => MarkKind::Idle,
            4 => MarkKind::Close,
            5 => MarkKind::Recovery,
            6 => MarkKind::Truncation,
            _ => MarkKind::Release,
        },
        log_id: LogId(place.log_id),
        epoch: place.epoch,
        group: place.group,
        first_index: place.first_index,
        durable: place.durable,
        boundary: place.boundary,
    };
    let mut encoder = GroupEncoder::new(&place, &records[..]);
    let mut pieces = Vec::new();
    let mut piece = vec![0xee; piece_bytes.max(1)];
    loop {
        let filled = encoder.fill(&records[..], &mut piece);
        pieces.extend_from_slice(&piece[..filled]);
        if filled < piece.len() {
            break;
        }
    }
    assert_eq!(pieces.len() as u64, encoder.bytes());
    let mut whole = vec![0xee; pieces.len()];
    encoder.plan(&place, &records[..], Some(&mut whole));
    assert!(whole == pieces, "in one go and in pieces: {place:?}, {records:?}");
    (whole, encoder.chain().0)
}

/// A frame that is wholly there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in docs/format.md")]
pub struct Frame {
    /// Of the whole frame, with its padding.
    pub bytes: usize,
    pub record_type: i64,
    pub crc: u32,
    pub data: Option<Bytes>,
}

/// The frame at the start of `bytes`. `None` at the end of the records, and if there is no whole and sound one.
#[must_use]
pub fn frame(bytes: &Bytes) -> Option<Frame> {
    let field: [u8; LENGTH_FIELD_BYTES] = bytes.get(..LENGTH_FIELD_BYTES)?.try_into().ok()?;
    let length = FrameLength::from_bytes(field);
    if field == [0; LENGTH_FIELD_BYTES] || length.total() > bytes.len() as u64 {
        return None;
    }
    let end = LENGTH_FIELD_BYTES + length.record as usize;
    let record = decode::record(bytes.slice(LENGTH_FIELD_BYTES..end)).ok()?;
    let (record_type, crc, data) = (record.record_type, record.crc, record.data);
    Some(Frame { bytes: length.total() as usize, record_type, crc, data })
}

impl Frame {
    /// What the record carries; `None` if it is a crc record, of an unknown type, or does not parse.
    #[must_use]
    pub fn content(&self) -> Option<Record> {
        let data = self.data.clone();
        Some(match RecordType::from_number(self.record_type)? {
            RecordType::Metadata => Record::Metadata(data),
            RecordType::Entry => Record::Entry(decode::entry(data).ok()?),
            RecordType::State => Record::State(decode::state(&data.unwrap_or_default()).ok()?),
            RecordType::Snapshot => {
                Record::Snapshot(decode::snapshot(&data.unwrap_or_default()).ok()?)
            }
            RecordType::Crc => return None,
        })
    }
}

/// The checksum after `data`.
#[must_use]
pub fn chain_after(chain: u32, data: &[u8]) -> u32 {
    Chain(chain).after(data).0
}

/// Reads a mark and writes it again; `None` if it is none.
#[must_use]
pub fn mark_again(bytes: &[u8]) -> Option<[u8; MARK_BYTES]> {
    Mark::from_bytes(bytes).ok().map(Mark::to_bytes)
}

/// As [`mark_again`], of what may be a frame with a mark, as recovery looks for it.
#[must_use]
pub fn mark_in_frame(frame: &[u8]) -> Option<[u8; MARK_BYTES]> {
    Mark::in_frame(frame).map(Mark::to_bytes)
}

/// Groups end at multiples of it, as with direct writes.
const BOUNDARY: u64 = 4096;

/// A group of entries of equal length, and room for its bytes.
#[derive(Debug)]
pub struct Group {
    records: Vec<Encodable>,
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
            Encodable::Entry(Entry { index: at as u64 + 1, term: 1, kind: EntryKind::Normal, data })
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
