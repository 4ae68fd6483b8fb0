//! From records to bytes: one group at a time, straight into the caller's buffers.
//!
//! A record's frame starts with lengths and a checksum that follow from its payload, so a group is *planned* first:
//! checksums and sizes. With a buffer that has room for all of it, it is written on the way, in one pass over the
//! payloads, and the mark at its front last ([`GroupEncoder::plan`]). A group larger than a buffer is *filled* into
//! several afterwards ([`GroupEncoder::fill`]): because the plan knows every size, its mark is final before the first
//! byte goes out.

use super::crc::Chain;
use super::frame::{FrameLength, LENGTH_FIELD_BYTES};
use super::mark::{LogId, MARK_BYTES, MARK_FRAME_BYTES, Mark, MarkKind, Shape};
use super::pb::{raftpb, walpb};
use super::record::{RecordRef, RecordType, Records};
use crate::types::{ConfState, EntryKind, HardState, Position, Snapshot};
use prost::Message;

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
    /// Groups end at a multiple of it.
    pub boundary: u64,
}

/// A planned group that is being written out. It can plan one group after another, in the same memory.
#[derive(Debug, Default)]
pub(crate) struct GroupEncoder {
    /// Of each record.
    plans: Vec<Plan>,
    mark: Option<[u8; MARK_BYTES]>,
    /// The chain before the group, and after it.
    start: Chain,
    chain: Chain,
    /// Bytes of the filler; 0 without one.
    filler: u64,
    bytes: u64,
    next_item: usize,
    /// Bytes of the item `next_item` that are out already.
    within_item: u64,
}

/// What is known of a record's frame before it is written.
#[derive(Clone, Copy, Debug)]
struct Plan {
    crc: u32,
    /// Where the frame starts in the group.
    offset: u64,
}

impl GroupEncoder {
    /// Plans a group: the mark, the records, and a filler up to the boundary.
    pub(crate) fn new(place: &Place, records: &(impl Records + ?Sized)) -> GroupEncoder {
        let mut encoder = GroupEncoder::default();
        encoder.plan(place, records, None);
        encoder
    }

    /// Forgets the group before and plans this one. With `out`, which must have room for all of it, it is written there
    /// on the way, each payload being in the CPU's cache already; then there is nothing left to [`fill`](Self::fill).
    pub(crate) fn plan(
        &mut self,
        place: &Place,
        records: &(impl Records + ?Sized),
        mut out: Option<&mut [u8]>,
    ) {
        self.plans.clear();
        let mut chain = place.chain;
        let mut shape = Shape::default();
        let mut used = MARK_FRAME_BYTES;
        let mut crc_records = 0;
        for at in 0..records.count() {
            let item = Item::record(records.get(at)).in_chain(chain);
            chain = Chain(item.crc);
            match item.record_type {
                RecordType::Crc => crc_records += 1,
                record_type => shape = shape.with(record_type as i64),
            }
            self.plans.push(Plan { crc: item.crc, offset: used });
            if let Some(out) = &mut out {
                item.write_to(&mut out[used as usize..]);
            }
            used += item.total();
        }
        let room = filler_room(place.position.offset + used, place.boundary);
        let mark = Mark {
            kind: place.kind,
            block_bytes: place.boundary,
            shape,
            records: u32::try_from(records.count() - crc_records)
                .expect("a group has fewer than 2^32 records"),
            log_id: place.log_id,
            epoch: place.epoch,
            filler_bytes: room as u32,
            position: place.position,
            group: place.group,
            group_bytes: used + room,
            first_index: place.first_index,
            durable: place.durable,
        };
        self.mark = Some(mark.to_bytes());
        (self.start, self.chain) = (place.chain, chain);
        (self.filler, self.bytes) = (room, used + room);
        (self.next_item, self.within_item) = (0, 0);
        if let Some(out) = out {
            self.item(0, records).expect("a group has a mark").write_to(out);
            if room > 0 {
                Item::filler(chain, room).write_to(&mut out[used as usize..]);
            }
            self.next_item = usize::MAX;
        }
    }

    /// Where the frame of each record lies, from the start of the group, and the chain before it.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, Chain)> + Clone {
        let before = [self.start].into_iter().chain(self.plans.iter().map(|plan| Chain(plan.crc)));
        self.plans.iter().map(|plan| plan.offset).zip(before)
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
    /// `records` are those that were planned.
    pub(crate) fn fill(&mut self, records: &(impl Records + ?Sized), out: &mut [u8]) -> usize {
        assert_eq!(records.count(), self.plans.len(), "the records that were planned");
        let mut sink = Sink { out, at: 0, skip: 0 };
        let (mut next_item, mut within_item) = (self.next_item, self.within_item);
        while let Some(item) = self.item(next_item, records) {
            sink.skip = within_item;
            let before = sink.at;
            item.write(&mut sink);
            within_item += (sink.at - before) as u64;
            if within_item < item.total() {
                break;
            }
            (next_item, within_item) = (next_item + 1, 0);
        }
        let filled = sink.at;
        (self.next_item, self.within_item) = (next_item, within_item);
        filled
    }

    /// The mark, a record, or the filler.
    fn item<'a>(&'a self, number: usize, records: &'a (impl Records + ?Sized)) -> Option<Item<'a>> {
        let Some(number) = number.checked_sub(1) else {
            return self.mark.as_ref().map(|mark| Item::crc(self.start, Payload::Bytes(mark)));
        };
        match self.plans.get(number) {
            Some(plan) => Some(Item::record(records.get(number)).with_crc(plan.crc)),
            None if number == self.plans.len() && self.filler > 0 => {
                Some(Item::filler(self.chain, self.filler))
            }
            None => None,
        }
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
struct Item<'a> {
    record_type: RecordType,
    crc: u32,
    prefix: Small,
    payload: Payload<'a>,
    padding: u8,
}

enum Payload<'a> {
    /// No data field at all.
    Absent,
    Bytes(&'a [u8]),
    Encoded(Vec<u8>),
    Zeros(usize),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Payload::Absent => 0,
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Encoded(bytes) => bytes.len(),
            Payload::Zeros(count) => *count,
        }
    }
}

impl<'a> Item<'a> {
    /// A crc record: it stands for the chain so far, and its data is not part of the chain.
    fn crc(chain: Chain, payload: Payload<'a>) -> Item<'a> {
        Item::new(RecordType::Crc, Small::default(), payload).with_crc(chain.0)
    }

    /// A record whose checksum is not known yet.
    fn record(record: RecordRef<'a>) -> Item<'a> {
        match record {
            RecordRef::Metadata(data) => {
                let data = data.map_or(Payload::Absent, Payload::Bytes);
                Item::new(RecordType::Metadata, Small::default(), data)
            }
            RecordRef::Entry { index, term, kind, data } => {
                let prefix = entry_prefix(index, term, kind, data.len());
                Item::new(RecordType::Entry, prefix, Payload::Bytes(data))
            }
            RecordRef::State(state) => {
                let message = Small::message(&state_message(state));
                Item::new(RecordType::State, message, Payload::Bytes(&[]))
            }
            RecordRef::Snapshot(snapshot)
            | RecordRef::Release(snapshot)
            | RecordRef::Truncation(snapshot) => {
                let message = snapshot_message(snapshot).encode_to_vec();
                Item::new(RecordType::Snapshot, Small::default(), Payload::Encoded(message))
            }
            RecordRef::Note(note) => {
                Item::new(RecordType::Crc, Small::default(), Payload::Encoded(note.to_bytes()))
            }
        }
    }

    /// As it continues `chain`.
    fn in_chain(self, chain: Chain) -> Item<'a> {
        if self.record_type == RecordType::Crc {
            return self.with_crc(chain.0);
        }
        let mut chain = chain.after(self.prefix.as_slice());
        match &self.payload {
            Payload::Bytes(data) => chain = chain.after(data),
            Payload::Encoded(data) => chain = chain.after(data),
            Payload::Absent | Payload::Zeros(_) => {}
        }
        self.with_crc(chain.0)
    }

    /// A crc record whose data is zeros, `room` bytes in all (16 or more).
    fn filler(chain: Chain, room: u64) -> Item<'a> {
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

    fn new(record_type: RecordType, prefix: Small, payload: Payload<'a>) -> Item<'a> {
        Item { record_type, crc: 0, prefix, payload, padding: 0 }
    }

    /// The length of a frame depends on its checksum, which is a number of varying length.
    fn with_crc(mut self, crc: u32) -> Item<'a> {
        self.crc = crc;
        self.padding = FrameLength::of_record(self.record_bytes()).padding;
        self
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

    /// Writes all of it.
    fn write_to(&self, out: &mut [u8]) {
        let mut sink = Sink { out, at: 0, skip: 0 };
        self.write(&mut sink);
        assert_eq!(sink.at as u64, self.total(), "there is room for a planned item");
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
            Payload::Encoded(bytes) => sink.bytes(bytes),
            Payload::Zeros(count) => sink.zeros(*count),
        }
        sink.zeros(self.padding.into());
    }
}

/// The protobuf bytes of an entry up to its payload. An empty payload leaves the field out, as a nil one in etcd.
fn entry_prefix(index: u64, term: u64, kind: EntryKind, data: usize) -> Small {
    let mut out = Small::default();
    out.put(&[0x08, entry_kind_message(kind) as u8, 0x10]);
    out.put_varint(term);
    out.put(&[0x18]);
    out.put_varint(index);
    if data > 0 {
        out.put(&[0x22]);
        out.put_varint(data as u64);
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

    /// A message that is known to be short.
    fn message(message: &impl Message) -> Small {
        let mut out = Small::default();
        let mut rest = &mut out.bytes[..];
        message.encode(&mut rest).expect("a short message");
        out.len = (Small::CAPACITY - rest.len()) as u8;
        out
    }

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
