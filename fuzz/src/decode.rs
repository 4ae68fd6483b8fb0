//! Any bytes, through the decoder of frames, records and marks.

use crate::allocation;
use bytes::Bytes;
use seawal::Position;
use seawal::internals::{self, Frame, GroupPlace, Record};

/// Nothing panics and little memory is taken; and what is read is the same when it is written and read again.
pub fn run(data: &[u8]) {
    // A list of packed numbers takes eight bytes for each one, and grows by doubling.
    let one_max = 64 * data.len() + (16 << 10);
    allocation::within(one_max, 4 * one_max, || {
        let bytes = Bytes::copy_from_slice(data);
        frames(&bytes);
        // As one record each, too: so short inputs get far.
        for record_type in 0..=6 {
            let frame = Frame { bytes: 0, record_type, crc: 0, data: Some(bytes.clone()) };
            check(&frame);
        }
        for at in (0..data.len()).step_by(8) {
            if let Some(mark) = internals::mark_in_frame(&data[at..]) {
                let found = data[at..].windows(mark.len()).any(|window| window == mark);
                assert!(found, "a mark at {at} is not written as it was read");
            }
        }
        if let Some(mark) = internals::mark_again(data) {
            assert_eq!(mark[..], *data, "a mark is not written as it was read");
        }
    });
}

fn frames(bytes: &Bytes) {
    let mut at = 0;
    while let Some(frame) = internals::frame(&bytes.slice(at..)) {
        check(&frame);
        assert!(frame.bytes >= 8 && frame.bytes <= bytes.len() - at);
        at += frame.bytes;
    }
}

fn check(frame: &Frame) {
    let Some(record) = frame.content() else {
        return;
    };
    let zero = Position::default();
    let place = GroupPlace {
        position: zero,
        chain: frame.crc,
        kind: 2,
        log_id: [7; 16],
        epoch: 1,
        group: 1,
        first_index: 1,
        durable: zero,
        boundary: 8,
    };
    let (bytes, _) = internals::encode(&place, std::slice::from_ref(&record), 4096);
    let bytes = Bytes::from(bytes);
    let mark = internals::frame(&bytes).expect("a mark");
    let again = internals::frame(&bytes.slice(mark.bytes..)).expect("a record").content();
    assert!(again.as_ref() == Some(&record), "{record:?} comes back as {again:?}");
    // Only metadata tells absent from empty.
    assert!(!matches!(record, Record::Metadata(None)) || frame.data.is_none());
}
