//! The table against a plain list of all entries; and a table that is made of what is left of a log against the one that
//! saw all of it.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A stream as a list: the entry of each record.
#[derive(Clone, Debug, Default, PartialEq)]
struct Listed {
    id: u64,
    places: Vec<u64>,
    released: u64,
}

#[derive(Default)]
struct Log {
    entries: Vec<Bytes>,
    table: Table,
    streams: BTreeMap<&'static str, Listed>,
    /// Streams that are gone.
    removed: Vec<u64>,
    /// In the heads of segments: the entry each goes with, and what it says.
    notes: Vec<(u64, Vec<u8>)>,
}

impl Log {
    fn push(&mut self, entry: Bytes) -> u64 {
        self.entries.push(entry.clone());
        let at = self.entries.len() as u64;
        self.table.take(at, &entry).unwrap();
        at
    }

    fn note(&mut self) {
        let at = self.entries.len() as u64;
        if let Some(note) = self.table.note(at, false) {
            self.notes.push((at, note.encode_to_vec()));
        }
    }

    fn step(&mut self, kind: u8, name: &'static str, salt: u64) {
        match kind {
            0 => {
                let id = self.push(entry::create(name));
                self.streams.entry(name).or_insert(Listed { id, ..Listed::default() });
            }
            1 if salt.is_multiple_of(3) => {
                if let Some(Listed { id, .. }) = self.streams.remove(name) {
                    self.push(entry::remove(id));
                    self.removed.push(id);
                }
            }
            // One that was on its way when the stream was removed.
            1 => {
                if let Some(&id) = self.removed.last() {
                    self.push(entry::record(id, b"late"));
                }
            }
            2 | 3 => self.note(),
            4 | 5 => {
                if let Some(listed) = self.streams.get_mut(name) {
                    let left = listed.places.len() as u64 - listed.released;
                    listed.released += if left > 0 { salt % (left + 1) } else { 0 };
                    self.table.release(listed.id, listed.released);
                }
            }
            _ => {
                if let Some(id) = self.streams.get(name).map(|listed| listed.id) {
                    for _ in 0..=salt % 5 {
                        let at = self.push(entry::record(id, &salt.to_le_bytes()));
                        self.streams.get_mut(name).unwrap().places.push(at);
                    }
                }
            }
        }
    }

    /// The table of what is left when the log was released up to there: it begins behind the last note before.
    fn left(&self, released: u64) -> Result<Table, String> {
        let of = |(at, note): &(u64, Vec<u8>)| (*at <= released).then(|| (*at, note.clone()));
        let base = self.notes.iter().rev().find_map(of);
        let (base, first) = base.map_or((0, None), |(at, note)| (at, Some(note)));
        let notes: Vec<u64> =
            self.notes.iter().map(|note| note.0).filter(|at| *at >= base).collect();
        let last = self.notes.last().map(|note| &note.1[..]);
        let mut table = Table::new(base, first.as_deref(), last, &notes)?;
        for (at, entry) in (1..).zip(&self.entries).skip(base as usize) {
            table.take(at, entry)?;
        }
        table.finish()?;
        Ok(table)
    }
}

/// The table tells of these streams; of what was released it may know less.
fn assert_tells(table: &Table, streams: &BTreeMap<&'static str, Listed>, exactly: bool) {
    let names: Vec<&str> = table.streams().map(|(_, stream)| &*stream.name).collect();
    assert_eq!(names, streams.keys().copied().collect::<Vec<_>>());
    for (name, Listed { id, places, released }) in streams {
        assert_eq!(table.id_of(name), Some(*id));
        let stream = table.stream(*id).unwrap();
        assert_eq!(stream.next, places.len() as u64 + 1, "{name}");
        assert!(stream.released <= *released && (!exactly || stream.released == *released));
        for index in 0..places.len() as u64 + 2 {
            let there = index > stream.released && index <= places.len() as u64;
            let place = there.then(|| places[index as usize - 1]);
            assert_eq!(stream.place_of(index), place, "{name} {index}");
            if let Some(at) = place {
                assert_eq!(table.index_at(*id, at), Ok(Some(index)));
            }
        }
    }
    let first = streams.values().filter_map(|listed| {
        let stream = table.stream(listed.id).unwrap();
        listed.places.get(stream.released as usize).map(|at| (*at, listed.id))
    });
    let oldest = table.oldest().map(|stream| table.id_of(&stream.name).unwrap());
    assert_eq!(oldest, first.min().map(|(_, id)| id));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn what_is_left_of_a_log_tells_the_same(
        steps in prop::collection::vec((0..12_u8, prop::sample::select(&NAMES[..]), any::<u64>()), 1..120),
    ) {
        let mut log = Log::default();
        let mut releasable = Vec::new();
        for (kind, name, salt) in steps {
            log.step(kind, name, salt);
            releasable.push(log.table.releasable());
        }
        assert_tells(&log.table, &log.streams, true);
        // No stream wants anything of it, it is the first behind a note, and it does not get less.
        let wanted = log.streams.values().filter_map(|l| l.places.get(l.released as usize)).min();
        let last = log.table.releasable();
        prop_assert!(wanted.is_none_or(|at| *at > last));
        prop_assert!(last == 0 || log.notes.iter().any(|note| note.0 + 1 == last));
        prop_assert!(last <= log.entries.len() as u64);
        prop_assert!(releasable.is_sorted());
        for released in releasable {
            assert_tells(&log.left(released).unwrap(), &log.streams, false);
        }
        // Closed, and opened again: nothing is forgotten.
        let end = log.entries.len() as u64;
        if let Some(note) = log.table.note(end, true) {
            log.notes.push((end, note.encode_to_vec()));
        }
        assert_tells(&log.left(last).unwrap(), &log.streams, true);
    }

    /// Whatever a note holds, it is believed or refused, and nothing else happens.
    #[test]
    fn hostile_notes_do_no_harm(
        states in prop::collection::vec((0..6_u64, 0..4_usize, any::<(bool, u64)>(), any::<(bool, u64)>()), 0..5),
        base in prop::sample::select(&[0, 1, 5, u64::MAX - 9][..]),
        as_last in any::<bool>(),
        entries in prop::collection::vec((0..3_u8, 0..8_u64), 0..6),
    ) {
        let number = |(large, n): (bool, u64)| if large { n } else { n % 5 };
        let state = |(id, name, next, released): (_, usize, _, _)| StreamState {
            stream: Some(id),
            name: Some(["", "a", "b", "c"][name].to_owned()),
            next: Some(number(next)),
            released: Some(number(released)),
        };
        let note = StreamsNote { streams: states.into_iter().map(state).collect() }.encode_to_vec();
        let (first, last) = if as_last { (None, Some(&note[..])) } else { (Some(&note[..]), None) };
        let Ok(mut table) = Table::new(base, first, last, &[base]) else { return Ok(()) };
        for (at, (kind, id)) in (base + 1..).zip(entries) {
            let entry = match kind {
                0 => entry::create("a"),
                1 => entry::remove(id),
                _ => entry::record(id, b"x"),
            };
            table.take(at, &entry).unwrap();
        }
        if table.finish().is_ok() {
            for (_, stream) in table.streams() {
                prop_assert!(stream.released < stream.next);
            }
            let _ = (table.oldest().map(|stream| stream.next), table.releasable());
            table.note(table.seen, false);
        }
    }
}

/// What was released beyond the last note cannot be read any more: that is told, and nothing is made up.
#[test]
fn what_no_note_tells_of_is_refused() {
    let why = Table::new(5, None, None, &[]).unwrap_err();
    assert!(why.contains("up to 5 are gone, and no note"), "{why}");
}

#[test]
fn notes_take_no_more_than_is_counted() {
    let mut table = Table::default();
    for at in 1..=3 {
        table.take(at, &entry::create(&format!("stream {at:03}"))).unwrap();
    }
    assert_eq!(table.note_bytes_with(0, 0), 3 * (STREAM_STATE_BYTES + 10));
    assert_eq!(table.note_bytes_with(2, 9), 5 * STREAM_STATE_BYTES + 39);
    let bytes = table.note(3, false).unwrap().encoded_len();
    assert!(bytes <= table.note_bytes_with(0, 0), "{bytes}");
    table.take(4, &entry::remove(2)).unwrap();
    assert_eq!(table.note_bytes_with(0, 0), 2 * (STREAM_STATE_BYTES + 10));
    assert_eq!(table.note(3, false), None, "it has seen more");
    assert_eq!(table.note(4, true), None, "there is nothing new to say");
}
