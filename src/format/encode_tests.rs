use super::*;
use crate::format::Record;
use crate::format::decode;
use crate::types::Entry;
use crate::types::Seq;
use bytes::Bytes;
use proptest::prelude::*;

#[path = "../../tests/common/fixtures.rs"]
mod fixtures;

fn place(offset: u64, chain: Chain, boundary: u64) -> Place {
    Place {
        position: Position::new(Seq(3), offset),
        chain,
        kind: MarkKind::Entries,
        log_id: LogId(*b"0123456789abcdef"),
        epoch: 2,
        group: 17,
        first_index: 5,
        durable: Position::new(Seq(3), offset),
        boundary,
    }
}

fn bytes_of(place: &Place, records: &[Record]) -> Vec<u8> {
    let mut group = GroupEncoder::new(place, records);
    let mut out = vec![0xee; group.bytes() as usize];
    assert_eq!(group.fill(records, &mut out), out.len());
    assert_eq!(group.fill(records, &mut [0; 64]), 0, "nothing follows");
    out
}

/// All frames of `bytes`, with their offsets.
fn frames(bytes: &[u8]) -> Vec<(usize, decode::RawRecord)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = FrameLength::from_bytes(bytes[at..at + 8].try_into().unwrap());
        let record = Bytes::copy_from_slice(&bytes[at + 8..at + 8 + length.record as usize]);
        found.push((at, decode::record(record).unwrap()));
        at += length.total() as usize;
    }
    assert_eq!(at, bytes.len());
    found
}

fn content(record: &decode::RawRecord) -> Record {
    let data = record.data.clone();
    match RecordType::from_number(record.record_type).unwrap() {
        RecordType::Metadata => Record::Metadata(data),
        RecordType::Entry => Record::Entry(decode::entry(data).unwrap()),
        RecordType::State => Record::State(decode::state(&data.unwrap_or_default()).unwrap()),
        RecordType::Snapshot => {
            Record::Snapshot(decode::snapshot(&data.unwrap_or_default()).unwrap())
        }
        RecordType::Crc => panic!("a crc record is no content"),
    }
}

#[test]
fn bytes_of_an_entry_are_those_of_prost() {
    for (index, term, data) in [(0, 0, &b""[..]), (1, 1, b"x"), (u64::MAX, u64::MAX, b"payload")] {
        let entry = Entry { index, term, kind: EntryKind::ConfChange, data: data.into() };
        let message = raftpb::Entry {
            r#type: Some(raftpb::EntryType::ConfChange as i32),
            term: Some(term),
            index: Some(index),
            data: (!data.is_empty()).then(|| data.into()),
        };
        let ours =
            [entry_prefix(entry.index, entry.term, entry.kind, entry.data.len()).as_slice(), data]
                .concat();
        assert_eq!(ours, message.encode_to_vec());
    }
}

#[test]
fn every_room_is_filled_exactly() {
    // The crc varint of a filler takes 1 to 5 bytes, its length field 1 to 3.
    for chain in [0, 0x7f, 0x3fff, 0x1f_ffff, 0xfff_ffff, 0xffff_ffff].map(Chain) {
        for room in (16..70_000u64).step_by(8) {
            assert_eq!(Item::filler(chain, room).total(), room);
        }
    }
}

#[test]
fn blocks_end_at_a_boundary_and_dense_groups_do_not_grow() {
    for data in 0..9000 {
        let entry = Record::Entry(Entry { data: vec![1; data].into(), ..Entry::default() });
        let group = GroupEncoder::new(&place(8192, Chain(9), 4096), std::slice::from_ref(&entry));
        assert_eq!(group.bytes() % 4096, 0, "{data}");
        let dense = GroupEncoder::new(&place(8192, Chain(9), 8), std::slice::from_ref(&entry));
        assert!(dense.bytes() <= MARK_FRAME_BYTES + entry_frame_bytes_max(data), "{data}");
    }
}

/// Segments of real etcd logs: each record is read and encoded again, and gives the same bytes.
#[test]
fn etcd_bytes_come_out_the_same() {
    let mut compared = 0;
    for name in [
        "padding",
        "conflict",
        "snapshots",
        "hardstate",
        "confchange",
        "metadata",
        "empty-metadata",
        "no-metadata",
        "segments",
    ] {
        let log = fixtures::unpack(&format!("written/{name}"));
        let mut names: Vec<_> =
            std::fs::read_dir(log.wal()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let mut chain = Chain::default();
        for path in names.iter().filter(|path| path.extension().is_some_and(|e| e == "wal")) {
            let bytes = std::fs::read(path).unwrap();
            let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| (at + 8) & !7);
            for (at, record) in frames(&bytes[..used]) {
                let read;
                let item = match record.record_type {
                    4 => Item::crc(chain, Payload::Absent),
                    2 if record.data.as_ref().is_some_and(|data| data.ends_with(b"\x22\x00")) => {
                        // Present but empty data: we leave the field out, as for a nil payload.
                        chain = Chain(record.crc);
                        continue;
                    }
                    _ => {
                        read = content(&record);
                        Item::record((&read).into()).in_chain(chain)
                    }
                };
                chain = Chain(item.crc);
                let total = item.total() as usize;
                let mut again = vec![0; total];
                item.write(&mut Sink { out: &mut again, at: 0, skip: 0 });
                assert_eq!(
                    again,
                    bytes[at..at + total],
                    "written/{name} {} at {at}",
                    path.display()
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 800, "{compared}");
}

fn any_record() -> impl Strategy<Value = Record> {
    let data = proptest::collection::vec(any::<u8>(), 0..600);
    let kind = prop_oneof![
        Just(EntryKind::Normal),
        Just(EntryKind::ConfChange),
        Just(EntryKind::ConfChangeV2)
    ];
    let numbers = || prop_oneof![0u64..300, any::<u64>()];
    let members = || proptest::collection::vec(any::<u64>(), 0..4);
    let conf_state = (members(), members(), members(), members(), any::<bool>()).prop_map(
        |(voters, learners, voters_outgoing, learners_next, auto_leave)| ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        },
    );
    prop_oneof![
        4 => (numbers(), numbers(), kind, data.clone()).prop_map(|(index, term, kind, data)| {
            Record::Entry(Entry { index, term, kind, data: data.into() })
        }),
        1 => proptest::option::of(data).prop_map(|data| Record::Metadata(data.map(Bytes::from))),
        1 => (numbers(), numbers(), numbers())
            .prop_map(|(term, vote, commit)| Record::State(HardState { term, vote, commit })),
        1 => (numbers(), numbers(), proptest::option::of(conf_state))
            .prop_map(|(index, term, conf_state)| Record::Snapshot(Snapshot { index, term, conf_state })),
    ]
}

/// The record as prost encodes it.
fn by_prost(record: &Record, chain: Chain) -> (Chain, Vec<u8>) {
    let (record_type, data) = match record {
        Record::Metadata(data) => (1, data.clone()),
        Record::Entry(entry) => {
            let message = raftpb::Entry {
                r#type: Some(entry_kind_message(entry.kind) as i32),
                term: Some(entry.term),
                index: Some(entry.index),
                data: (!entry.data.is_empty()).then(|| entry.data.clone()),
            };
            (2, Some(message.encode_to_vec().into()))
        }
        Record::State(state) => (3, Some(state_message(state).encode_to_vec().into())),
        Record::Snapshot(snapshot) | Record::Release(snapshot) | Record::Truncation(snapshot) => {
            (5, Some(snapshot_message(snapshot).encode_to_vec().into()))
        }
        Record::Note(note) => {
            let (r#type, data) = (Some(4), Some(note.to_bytes().into()));
            let record = walpb::Record { r#type, crc: Some(chain.0), data };
            return (chain, record.encode_to_vec());
        }
    };
    let chain = chain.after(data.as_deref().unwrap_or_default());
    let record = walpb::Record { r#type: Some(record_type), crc: Some(chain.0), data };
    (chain, record.encode_to_vec())
}

proptest! {
    /// Records are written by hand, into buffers that are there; the bytes are those of prost.
    #[test]
    fn records_are_those_of_prost(
        records in proptest::collection::vec(any_record(), 1..8),
        chain in any::<u32>().prop_map(Chain),
    ) {
        let bytes = bytes_of(&place(4096, chain, 8), &records);
        let (mut chain, mut at) = (chain, MARK_FRAME_BYTES as usize);
        for record in &records {
            let (after, expected) = by_prost(record, chain);
            let length = FrameLength::of_record(expected.len());
            prop_assert_eq!(&bytes[at..at + 8], &length.to_bytes());
            prop_assert_eq!(&bytes[at + 8..at + 8 + expected.len()], &expected[..]);
            let padding = &bytes[at + 8 + expected.len()..at + length.total() as usize];
            prop_assert!(padding.iter().all(|&byte| byte == 0));
            (chain, at) = (after, at + length.total() as usize);
        }
        prop_assert_eq!(at, bytes.len());
    }

    /// One pass over the payloads, with room for all, gives the same bytes as a plan that is filled.
    #[test]
    fn one_pass_changes_nothing(
        records in proptest::collection::vec(any_record(), 0..8),
        dense in any::<bool>(),
    ) {
        let place = place(4096, Chain(77), if dense { 8 } else { 4096 });
        let whole = bytes_of(&place, &records);
        let mut out = vec![0xee; whole.len() + 100];
        let mut group = GroupEncoder::default();
        // Memory of another group before it.
        group.plan(&place, &records[..records.len() / 2], None);
        group.plan(&place, &records[..], Some(&mut out));
        prop_assert_eq!(group.bytes() as usize, whole.len());
        prop_assert_eq!(&out[..whole.len()], &whole[..]);
        prop_assert!(out[whole.len()..].iter().all(|&byte| byte == 0xee), "no byte behind it");
        prop_assert_eq!(group.fill(&records[..], &mut [0; 64]), 0);
    }

    /// What is encoded is read back: the mark, the records with a chain that holds, the filler.
    #[test]
    fn groups_come_back(
        records in proptest::collection::vec(any_record(), 0..20),
        chain in any::<u32>().prop_map(Chain),
        block in 0u64..50,
        dense in any::<bool>(),
    ) {
        let boundary = if dense { 8 } else { 4096 };
        let place = place(block * 4096, chain, boundary);
        let group = GroupEncoder::new(&place, &records[..]);
        let (end_chain, offsets) = (group.chain(), group.places().map(|(offset, _)| offset).collect::<Vec<_>>());
        let bytes = bytes_of(&place, &records);
        prop_assert_eq!(bytes.len() as u64 % boundary, 0);
        let frames = frames(&bytes);

        let mark = Mark::from_bytes(frames[0].1.data.as_ref().unwrap()).unwrap();
        prop_assert!(mark.counts(Some(place.log_id), place.position));
        prop_assert_eq!(mark.group_bytes, bytes.len() as u64);
        prop_assert_eq!(mark.records as usize, records.len());
        prop_assert_eq!(frames[0].1.crc, chain.0);

        let mut running = chain;
        for ((record, offset), (at, raw)) in records.iter().zip(&offsets).zip(&frames[1..]) {
            prop_assert_eq!(*offset, *at as u64);
            running = running.after(raw.data.as_deref().unwrap_or_default());
            prop_assert_eq!(running.0, raw.crc);
            prop_assert_eq!(&content(raw), record);
        }
        prop_assert_eq!(running, end_chain);

        let filler = &frames[1 + records.len()..];
        let filler_bytes = filler.first().map_or(0, |(at, _)| bytes.len() - at);
        prop_assert_eq!(u64::from(mark.filler_bytes), filler_bytes as u64);
        for (_, raw) in filler {
            prop_assert_eq!((raw.record_type, raw.crc), (4, end_chain.0));
            prop_assert!(raw.data.iter().flatten().all(|&byte| byte == 0));
        }
    }

    /// Buffers of any size give the same bytes.
    #[test]
    fn streaming_changes_nothing(
        records in proptest::collection::vec(any_record(), 0..8),
        sizes in proptest::collection::vec(1usize..700, 1..40),
    ) {
        let place = place(4096, Chain(77), 4096);
        let whole = bytes_of(&place, &records);
        let mut group = GroupEncoder::new(&place, &records[..]);
        let mut streamed = Vec::new();
        for size in sizes.into_iter().cycle() {
            let mut buffer = vec![0xee; size];
            let filled = group.fill(&records[..], &mut buffer);
            streamed.extend_from_slice(&buffer[..filled]);
            if filled < size {
                break;
            }
        }
        prop_assert_eq!(streamed, whole);
    }
}

/// A new log with metadata "meta", and the entry "hello" appended in a group of its own.
fn worked_example() -> Vec<u8> {
    let at = |offset| Position::new(Seq(0), offset);
    let head = Place {
        position: at(0),
        chain: Chain::default(),
        kind: MarkKind::Head,
        log_id: LogId(*b"0123456789abcdef"),
        epoch: 0,
        group: 1,
        first_index: 1,
        durable: at(0),
        boundary: 8,
    };
    let records = [Record::Metadata(Some("meta".into())), Record::Snapshot(Snapshot::default())];
    let group = GroupEncoder::new(&head, &records[..]);
    let end = at(group.bytes());
    let next = Place {
        position: end,
        chain: group.chain(),
        kind: MarkKind::Entries,
        epoch: 1,
        group: 2,
        durable: end,
        ..head
    };
    let entry = Entry { index: 1, term: 1, data: "hello".into(), ..Entry::default() };
    [bytes_of(&head, &records), bytes_of(&next, &[Record::Entry(entry)])].concat()
}

/// The hexdump in docs/format.md is not prose that drifts: it is what the encoder writes.
#[test]
fn documented_hexdump_is_true() {
    let doc = include_str!("../../docs/format.md");
    let (_, dump) = doc.split_once("```hexdump\n").expect("docs/format.md has a hexdump");
    let (dump, _) = dump.split_once("```").expect("the hexdump ends");
    let documented: Vec<u8> = dump
        .lines()
        .filter_map(|line| line.split(';').next()?.split_once("  "))
        .flat_map(|(_, bytes)| bytes.split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits"))
        .collect();
    let real = worked_example();
    let lines: Vec<String> = real
        .chunks(16)
        .enumerate()
        .map(|(n, row)| {
            format!(
                "{:04x}  {}",
                n * 16,
                row.iter().map(|b| format!("{b:02x} ")).collect::<String>()
            )
        })
        .collect();
    assert!(documented == real, "docs/format.md should show:\n{}", lines.join("\n"));
}
