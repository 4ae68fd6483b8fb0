//! Our encoder, which writes protobuf by hand into buffers, against prost and the words of docs/format.md.

use crate::allocation;
use crate::input::Input;
use crate::pb::{raftpb, walpb};
use bytes::Bytes;
use prost::Message;
use seawal::internals::{self, GroupPlace, Record};
use seawal::{ConfState, Entry, EntryKind, HardState, Position, Seq, Snapshot};

/// The same bytes, whatever the sizes of the buffers; and reading them gives the records back.
pub fn run(data: &[u8]) {
    // Memory that grows by doubling, three copies of the payloads, fillers.
    let one_max = 16 * data.len() + (256 << 10);
    allocation::within(one_max, 8 * one_max, || {
        let mut input = Input::new(data);
        let boundary = [8, 512, 4096][input.one_of(3)];
        let place = GroupPlace {
            position: Position::new(
                Seq(input.number()),
                u64::from(input.u16()).next_multiple_of(boundary),
            ),
            chain: input.u32(),
            kind: 1 + input.u8() % 5,
            log_id: std::array::from_fn(|_| input.u8()),
            epoch: input.u32(),
            group: input.number(),
            first_index: input.number(),
            durable: Position::new(Seq(input.number()), input.number()),
            boundary,
        };
        let piece_bytes = 1 + usize::from(input.u16() % 5000);
        let mut records = Vec::new();
        while !input.is_empty() && records.len() < 64 {
            records.push(record(&mut input));
        }
        check(&place, &records, piece_bytes);
    });
}

/// A record of any kind.
pub fn record(input: &mut Input<'_>) -> Record {
    match input.one_of(6) {
        0 => Record::Metadata(None),
        1 => Record::Metadata(Some(payload(input))),
        2 => Record::State(HardState {
            term: input.number(),
            vote: input.number(),
            commit: input.number(),
        }),
        3 => {
            let (index, term) = (input.number(), input.number());
            Record::Snapshot(Snapshot { index, term, conf_state: conf_state(input) })
        }
        _ => {
            let kinds = [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2];
            let kind = kinds[input.one_of(3)];
            let (index, term) = (input.number(), input.number());
            Record::Entry(Entry { index, term, kind, data: payload(input) })
        }
    }
}

fn payload(input: &mut Input<'_>) -> Bytes {
    // Lengths around those where a varint grows come from one byte.
    let len = match input.u8() {
        255 => input.u16() as usize % 20_000,
        around @ 250.. => 16_384 - 3 + usize::from(around - 250),
        small => small.into(),
    };
    let mut bytes = input.bytes(len).to_vec();
    bytes.resize(len, 0x5a);
    bytes.into()
}

fn conf_state(input: &mut Input<'_>) -> Option<ConfState> {
    if input.u8() % 2 == 0 {
        return None;
    }
    let mut members = || (0..input.one_of(5)).map(|_| input.number()).collect::<Vec<_>>();
    let [voters, learners, voters_outgoing, learners_next] = [(); 4].map(|()| members());
    let auto_leave = input.u8() % 2 == 1;
    Some(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave })
}

/// Compares the group with what prost makes of it, and reads it back.
pub fn check(place: &GroupPlace, records: &[Record], piece_bytes: usize) {
    let (ours, chain_after) = internals::encode(place, records, piece_bytes);
    let mut chain = place.chain;
    let mut expected = Vec::new();
    for record in records {
        let (record_type, data) = message(record);
        chain = crc32c::crc32c_append(chain, data.as_deref().unwrap_or_default());
        expected.extend(framed(record_type, chain, data));
    }
    assert_eq!(chain, chain_after, "the chain");
    let mark_bytes = 120;
    let end = place.position.offset as usize + mark_bytes + expected.len();
    let filler = filler_room(end, place.boundary as usize);
    let group_bytes = mark_bytes + expected.len() + filler;
    let mark = mark(place, records, group_bytes as u64, filler as u32);
    assert_eq!(internals::mark_again(&mark), Some(mark), "the mark");
    let mut head = framed(4, place.chain, Some(mark.to_vec().into()));
    // The frame of a mark has one length, however short the crc is.
    head.resize(mark_bytes, 0);
    expected.splice(0..0, head);
    let sound = ours.len() == group_bytes && ours[..expected.len()] == expected;
    assert!(sound, "{place:?}, {records:?}\n{ours:02x?}\n{expected:02x?}");

    let bytes = Bytes::from(ours);
    let mut at = mark_bytes;
    for record in records {
        let frame = internals::frame(&bytes.slice(at..)).expect("a frame for each record");
        assert_eq!(frame.content().as_ref(), Some(record));
        at += frame.bytes;
    }
    assert_eq!(bytes.len() - at, filler);
    if filler > 0 {
        let frame = internals::frame(&bytes.slice(at..)).expect("a filler");
        assert_eq!((frame.bytes, frame.record_type, frame.crc), (filler, 4, chain));
        assert!(frame.data.iter().flatten().all(|&byte| byte == 0), "a filler is zeros");
        assert!((end + filler).is_multiple_of(place.boundary as usize));
    }
}

/// As docs/format.md has it: a filler takes 16 bytes at least.
fn filler_room(end: usize, boundary: usize) -> usize {
    match (boundary - end % boundary) % boundary {
        8 => 8 + boundary,
        room => room,
    }
}

/// The type and the data of a record.
fn message(record: &Record) -> (i64, Option<Bytes>) {
    let (record_type, data) = match record {
        Record::Metadata(data) => return (1, data.clone()),
        Record::Entry(entry) => {
            let message = raftpb::Entry {
                r#type: Some(match entry.kind {
                    EntryKind::Normal => 0,
                    EntryKind::ConfChange => 1,
                    EntryKind::ConfChangeV2 => 2,
                }),
                term: Some(entry.term),
                index: Some(entry.index),
                data: (!entry.data.is_empty()).then(|| entry.data.clone()),
            };
            (2, message.encode_to_vec())
        }
        Record::State(state) => {
            let &HardState { term, vote, commit } = state;
            let message =
                raftpb::HardState { term: Some(term), vote: Some(vote), commit: Some(commit) };
            (3, message.encode_to_vec())
        }
        Record::Snapshot(snapshot) => {
            let conf_state = snapshot.conf_state.as_ref().map(|conf| raftpb::ConfState {
                voters: conf.voters.clone(),
                learners: conf.learners.clone(),
                voters_outgoing: conf.voters_outgoing.clone(),
                learners_next: conf.learners_next.clone(),
                auto_leave: Some(conf.auto_leave),
            });
            let (index, term) = (Some(snapshot.index), Some(snapshot.term));
            (5, walpb::Snapshot { index, term, conf_state }.encode_to_vec())
        }
    };
    (record_type, Some(data.into()))
}

/// A record in its frame, by the words of docs/format.md.
pub fn framed(record_type: i64, crc: u32, data: Option<Bytes>) -> Vec<u8> {
    let record = walpb::Record { r#type: Some(record_type), crc: Some(crc), data };
    let record = record.encode_to_vec();
    let padding = (8 - record.len() % 8) % 8;
    let mut out = (record.len() as u64).to_le_bytes().to_vec();
    if padding > 0 {
        out[7] = 0x80 | padding as u8;
    }
    out.extend(record);
    out.resize(out.len() + padding, 0);
    out
}

/// The mark, by the table of docs/format.md.
fn mark(place: &GroupPlace, records: &[Record], group_bytes: u64, filler: u32) -> [u8; 100] {
    let types: Vec<u8> = records.iter().map(|record| message(record).0 as u8).collect();
    let mut out = b"SWLM".to_vec();
    out.extend([1, place.kind, 0, place.boundary.trailing_zeros() as u8]);
    out.extend(crc32c::crc32c(&types).to_le_bytes());
    out.extend((records.len() as u32).to_le_bytes());
    out.extend(place.log_id);
    out.extend(place.epoch.to_le_bytes());
    out.extend(filler.to_le_bytes());
    let Position { seq, offset } = place.position;
    for number in [seq.0, offset, place.group, group_bytes, place.first_index] {
        out.extend(number.to_le_bytes());
    }
    for number in [place.durable.seq.0, place.durable.offset] {
        out.extend(number.to_le_bytes());
    }
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out.try_into().expect("a mark has 100 bytes")
}
