//! From records to bytes: one group at a time, straight into the caller's buffers.
//!
//! A record's frame starts with lengths and a checksum that follow from its payload, so a group is first *planned*
//! (checksums and sizes, no copies) and then *filled* into buffers, each payload copied once. Because the plan
//! knows every size, the mark at the front of a group is final before the first byte is written, and a group
//! larger than a buffer streams through several ([`GroupEncoder::fill`]).

use super::crc::Chain;
use super::frame::{FRAME_ALIGN, FrameLength, LENGTH_FIELD_BYTES};
use super::mark::{LogId, MARK_BYTES, MARK_FRAME_BYTES, Mark, MarkKind, Shape};
use super::pb::{raftpb, walpb};
use super::record::{Record, RecordType};
use crate::types::{ConfState, Entry, EntryKind, HardState, Position, Snapshot};
use bytes::Bytes;
use prost::Message;

/// Where a group may start and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Packing {
    /// At the next multiple of eight bytes, as dense as etcd's log. A later group may rewrite the rest of a block
    /// that holds durable bytes, with the same bytes.
    #[default]
    Dense,
    /// At block boundaries, with a filler record at the end: no block with durable bytes is ever written again.
    /// A lone small append takes a block.
    Block,
}

impl Packing {
    /// The boundary in bytes, where a file-system block has `block_bytes`.
    pub(crate) fn boundary(self, block_bytes: u64) -> u64 {
        match self {
            Packing::Dense => FRAME_ALIGN,
            Packing::Block => block_bytes,
        }
    }
}

/// Where a group starts, and what its mark says of the log so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub position: Position,
    pub chain: Chain,
    pub kind: MarkKind,
    pub log_id: LogId,
    pub epoch: u32,
    pub group: u64,
    pub first_index: u64,
    pub durable: Position,
    /// See [`Packing::boundary`].
    pub boundary: u64,
}

/// A planned group that is being written out.
pub(crate) struct GroupEncoder {
    /// The mark, the records, and perhaps a filler.
    items: Vec<Item>,
    records: usize,
    chain: Chain,
    bytes: u64,
    next_item: usize,
    /// Bytes of `items[next_item]` that are out already.
    within_item: u64,
}

impl GroupEncoder {
    /// Plans a group: the mark, the records, and a filler up to the boundary.
    pub(crate) fn new<'a>(
        place: &Place,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> GroupEncoder {
        let mut items = Vec::new();
        // The mark's place; its content needs the sizes of what follows.
        items.push(Item::crc(place.chain, Payload::Zeros(MARK_BYTES)));
        debug_assert_eq!(items[0].total(), MARK_FRAME_BYTES);

        let mut chain = place.chain;
        let mut shape = Shape::default();
        for record in records {
            let item = Item::record(chain, record);
            chain = Chain(item.crc);
            shape = shape.with(item.record_type as i64);
            items.push(item);
        }
        let records = items.len() - 1;
        let used: u64 = items.iter().map(Item::total).sum();
        let room = filler_room(place.position.offset + used, place.boundary);
        if room > 0 {
            items.push(Item::filler(chain, room));
        }
        let bytes = used + room;
        let mark = Mark {
            kind: place.kind,
            block_bytes: place.boundary,
            shape,
            records: u32::try_from(records).expect("a group has fewer than 2^32 records"),
            log_id: place.log_id,
            epoch: place.epoch,
            filler_bytes: room as u32,
            position: place.position,
            group: place.group,
            group_bytes: bytes,
            first_index: place.first_index,
            durable: place.durable,
        };
        items[0].payload = Payload::Bytes(Bytes::copy_from_slice(&mark.to_bytes()));
        GroupEncoder { items, records, chain, bytes, next_item: 0, within_item: 0 }
    }

    /// Where the frame of each record lies, from the start of the group.
    pub(crate) fn record_offsets(&self) -> impl Iterator<Item = u64> {
        let mut offset = MARK_FRAME_BYTES;
        self.items[1..].iter().take(self.records).map(move |item| {
            let here = offset;
            offset += item.total();
            here
        })
    }

    /// Bytes of the whole group.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The chain after the group.
    pub(crate) fn chain(&self) -> Chain {
        self.chain
    }

    /// Writes the next bytes of the group to `out` and says how many; less than `out` holds only at the end.
    pub(crate) fn fill(&mut self, out: &mut [u8]) -> usize {
        let mut sink = Sink { out, at: 0, skip: 0 };
        while let Some(item) = self.items.get(self.next_item) {
            sink.skip = self.within_item;
            let before = sink.at;
            item.write(&mut sink);
            self.within_item += (sink.at - before) as u64;
            if self.within_item < item.total() {
                break;
            }
            self.next_item += 1;
            self.within_item = 0;
        }
        sink.at
    }
}

/// Bytes that a filler after `end` must have to reach the boundary. A frame has at least 16, so a room of 8 takes
/// the next block too.
fn filler_room(end: u64, boundary: u64) -> u64 {
    match end.next_multiple_of(boundary) - end {
        8 => 8 + boundary,
        room => room,
    }
}

/// One frame to be written. Its data is `prefix` followed by `payload`.
struct Item {
    record_type: RecordType,
    crc: u32,
    prefix: Small,
    payload: Payload,
    padding: u8,
}

enum Payload {
    /// No data field at all.
    Absent,
    Bytes(Bytes),
    Zeros(usize),
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Payload::Absent => 0,
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Zeros(count) => *count,
        }
    }
}

impl Item {
    /// A crc record: it stands for the chain so far, and its data is not part of the chain.
    fn crc(chain: Chain, payload: Payload) -> Item {
        Item::new(RecordType::Crc, chain.0, Small::default(), payload)
    }

    fn record(chain: Chain, record: &Record) -> Item {
        let (record_type, prefix, payload) = match record {
            Record::Metadata(None) => (RecordType::Metadata, Small::default(), Payload::Absent),
            Record::Metadata(Some(data)) => {
                (RecordType::Metadata, Small::default(), Payload::Bytes(data.clone()))
            }
            Record::Entry(entry) => {
                (RecordType::Entry, entry_prefix(entry), Payload::Bytes(entry.data.clone()))
            }
            Record::State(state) => message(RecordType::State, &state_message(state)),
            Record::Snapshot(snapshot) => {
                message(RecordType::Snapshot, &snapshot_message(snapshot))
            }
        };
        let mut chain = chain.after(prefix.as_slice());
        if let Payload::Bytes(data) = &payload {
            chain = chain.after(data);
        }
        Item::new(record_type, chain.0, prefix, payload)
    }

    /// A crc record whose data is zeros, `room` bytes in all (16 or more).
    fn filler(chain: Chain, room: u64) -> Item {
        let frame = room as usize - LENGTH_FIELD_BYTES;
        // Type, crc and the tag of data; then the length of data and the data.
        let head = 2 + 1 + varint_bytes(chain.0.into()) + 1;
        let payload = (frame.saturating_sub(head + 4)..=frame.saturating_sub(head))
            .rev()
            .find(|&zeros| head + varint_bytes(zeros as u64) + zeros <= frame)
            .map_or(Payload::Absent, Payload::Zeros);
        let item = Item::crc(chain, payload);
        assert_eq!(item.total(), room, "a filler ends at the boundary");
        item
    }

    fn new(record_type: RecordType, crc: u32, prefix: Small, payload: Payload) -> Item {
        let mut item = Item { record_type, crc, prefix, payload, padding: 0 };
        item.padding = FrameLength::of_record(item.record_bytes()).padding;
        item
    }

    fn data_bytes(&self) -> usize {
        self.prefix.as_slice().len() + self.payload.len()
    }

    fn record_bytes(&self) -> usize {
        let fixed = 2 + 1 + varint_bytes(self.crc.into());
        match self.payload {
            Payload::Absent => fixed,
            _ => fixed + 1 + varint_bytes(self.data_bytes() as u64) + self.data_bytes(),
        }
    }

    fn total(&self) -> u64 {
        (LENGTH_FIELD_BYTES + self.record_bytes() + usize::from(self.padding)) as u64
    }

    fn write(&self, sink: &mut Sink<'_>) {
        let mut head = Small::default();
        head.put(&FrameLength::of_record(self.record_bytes()).to_bytes());
        head.put(&[0x08, self.record_type as u8, 0x10]);
        head.put_varint(self.crc.into());
        if !matches!(self.payload, Payload::Absent) {
            head.put(&[0x1a]);
            head.put_varint(self.data_bytes() as u64);
        }
        sink.bytes(head.as_slice());
        sink.bytes(self.prefix.as_slice());
        match &self.payload {
            Payload::Absent => {}
            Payload::Bytes(bytes) => sink.bytes(bytes),
            Payload::Zeros(count) => sink.zeros(*count),
        }
        sink.zeros(self.padding.into());
    }
}

/// The protobuf bytes of an entry up to its payload. An empty payload leaves the field out, as a nil one in etcd.
fn entry_prefix(entry: &Entry) -> Small {
    let mut out = Small::default();
    out.put(&[0x08, entry_kind_message(entry.kind) as u8, 0x10]);
    out.put_varint(entry.term);
    out.put(&[0x18]);
    out.put_varint(entry.index);
    if !entry.data.is_empty() {
        out.put(&[0x22]);
        out.put_varint(entry.data.len() as u64);
    }
    out
}

fn entry_kind_message(kind: EntryKind) -> raftpb::EntryType {
    match kind {
        EntryKind::Normal => raftpb::EntryType::Normal,
        EntryKind::ConfChange => raftpb::EntryType::ConfChange,
        EntryKind::ConfChangeV2 => raftpb::EntryType::ConfChangeV2,
    }
}

fn state_message(state: &HardState) -> raftpb::HardState {
    raftpb::HardState { term: Some(state.term), vote: Some(state.vote), commit: Some(state.commit) }
}

fn snapshot_message(snapshot: &Snapshot) -> walpb::Snapshot {
    let conf_state = |conf: &ConfState| raftpb::ConfState {
        voters: conf.voters.clone(),
        learners: conf.learners.clone(),
        voters_outgoing: conf.voters_outgoing.clone(),
        learners_next: conf.learners_next.clone(),
        auto_leave: Some(conf.auto_leave),
    };
    walpb::Snapshot {
        index: Some(snapshot.index),
        term: Some(snapshot.term),
        conf_state: snapshot.conf_state.as_ref().map(conf_state),
    }
}

fn message(record_type: RecordType, message: &impl Message) -> (RecordType, Small, Payload) {
    let data = Bytes::from(message.encode_to_vec());
    (record_type, Small::default(), Payload::Bytes(data))
}

/// An upper bound of the bytes that an entry with `data` bytes of payload takes on disk.
pub(crate) fn entry_frame_bytes_max(data: usize) -> u64 {
    (LENGTH_FIELD_BYTES + 2 + 6 + 11 + Small::CAPACITY + data).next_multiple_of(8) as u64
}

fn varint_bytes(value: u64) -> usize {
    prost::length_delimiter_len(value as usize)
}

/// A few bytes without an allocation: 27 at most before the data of a record, 35 before the payload of an entry.
#[derive(Clone, Copy)]
struct Small {
    bytes: [u8; Small::CAPACITY],
    len: u8,
}

impl Default for Small {
    fn default() -> Small {
        Small { bytes: [0; Small::CAPACITY], len: 0 }
    }
}

impl Small {
    const CAPACITY: usize = 40;

    fn put(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Copies into `out` what fits, after passing over the first `skip` bytes.
struct Sink<'a> {
    out: &'a mut [u8],
    at: usize,
    skip: u64,
}

impl Sink<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let bytes = &bytes[self.passed_over(bytes.len())..];
        let count = bytes.len().min(self.out.len() - self.at);
        self.out[self.at..self.at + count].copy_from_slice(&bytes[..count]);
        self.at += count;
    }

    fn zeros(&mut self, count: usize) {
        let count = (count - self.passed_over(count)).min(self.out.len() - self.at);
        self.out[self.at..self.at + count].fill(0);
        self.at += count;
    }

    fn passed_over(&mut self, len: usize) -> usize {
        let passed = self.skip.min(len as u64);
        self.skip -= passed;
        passed as usize
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
