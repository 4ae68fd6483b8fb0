//! Several segments at a time find what one walk through all of them finds, and no more is read than is needed.

use super::facts::{Facts, Item};
use super::scan::scan;
use super::sealed::{self, Manner, Sealed};
use super::starts;
use super::tests::Unmarked;
use super::walk::{Heeds, SegmentEnd, Walk};
use crate::format::pb::{raftpb, walpb};
use crate::io::sim::{OpKind, Sim, SimDisk, TraceEntry};
use crate::io::{DiskConfig, Lane};
use crate::segment::dir::{self, SegmentFile};
use crate::types::{Snapshot, Start};
use proptest::prelude::*;
use prost::Message;
use std::path::{Path, PathBuf};

const DIR: &str = "/log";
const CONFIG: DiskConfig = DiskConfig { buffer_count: 2, buffer_bytes: 4096 };
const MANNER: Manner = Manner { heeds: Heeds::All, past_cache: false, lane: Lane::Commit };

fn path(seq: usize, index: u64) -> String {
    format!("{DIR}/{seq:016x}-{index:016x}.wal")
}

fn entry_of_term(log: &mut Unmarked, index: u64, term: u64, data: &[u8]) {
    let entry = raftpb::Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data: Some(bytes::Bytes::copy_from_slice(data)),
    };
    log.record(2, Some(entry.encode_to_vec().into()));
}

fn state(log: &mut Unmarked, commit: u64) {
    let state = raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(commit) };
    log.record(3, Some(state.encode_to_vec().into()));
}

fn snapshot(log: &mut Unmarked, index: u64) {
    let term = Some(u64::from(index > 0));
    let snapshot = walpb::Snapshot { index: Some(index), term, conf_state: None };
    log.record(5, Some(snapshot.encode_to_vec().into()));
}

/// A segment for each list of payload lengths.
fn segments_of(lengths: &[Vec<usize>]) -> Vec<(String, Vec<u8>)> {
    let mut log = Unmarked::default();
    let mut index = 0;
    let mut files = Vec::new();
    for (seq, lengths) in lengths.iter().enumerate() {
        let name = path(seq, index);
        log.record(4, None);
        log.record(1, None);
        if seq == 0 {
            snapshot(&mut log, 0);
        }
        for &len in lengths {
            index += 1;
            log.entry(index, &vec![index as u8; len]);
        }
        files.push((name, std::mem::take(&mut log.bytes)));
    }
    files
}

fn on_disk(files: &[(String, Vec<u8>)]) -> (Sim, SimDisk) {
    let sim = Sim::new(1);
    for (path, bytes) in files {
        sim.write_file(path, bytes.clone());
    }
    let disk = sim.disk(CONFIG);
    (sim, disk)
}

/// All there is to tell of a walk through sealed segments.
#[derive(Debug, PartialEq)]
struct Told {
    items: Vec<Item>,
    ends: Vec<String>,
    walk: String,
}

impl Told {
    fn take(&mut self, facts: Facts, end: &crate::Result<SegmentEnd>) -> bool {
        self.items.extend(facts.items);
        self.ends.push(match end {
            Ok(end) => format!("{end:?}"),
            Err(error) => error.to_string(),
        });
        matches!(end, Ok(SegmentEnd::End { .. } | SegmentEnd::Pause { .. }))
    }
}

fn nothing() -> Told {
    Told { items: Vec::new(), ends: Vec::new(), walk: String::new() }
}

async fn at_a_time(disk: &SimDisk, segments: &[SegmentFile]) -> Told {
    let mut told = nothing();
    let mut sealed = Sealed::new(disk, segments, MANNER, Walk::default());
    while let Some(part) = sealed.next().await {
        if !told.take(part.facts, &part.end) {
            return told;
        }
    }
    told.walk = comparable(&sealed.walk);
    told
}

async fn one_by_one(disk: &SimDisk, segments: &[SegmentFile]) -> Told {
    let mut told = nothing();
    let mut walk = Walk::default();
    for segment in segments {
        let mut from = Some(0);
        while let Some(at) = from.take() {
            let digest = sealed::walk(disk, segment, MANNER, walk, at).await.unwrap();
            walk = digest.walk;
            if let Ok(SegmentEnd::Pause { offset }) = digest.end {
                from = Some(offset);
            }
            if !told.take(digest.facts, &digest.end) {
                return told;
            }
        }
    }
    told.walk = comparable(&walk);
    told
}

fn comparable(walk: &Walk) -> String {
    let Walk { chain, chained, log_id, last_mark, proven, ends_in_group, .. } = walk;
    format!("{chain:?} {chained} {log_id:?} {last_mark:?} {proven} {ends_in_group}")
}

fn same_either_way(files: &[(String, Vec<u8>)]) {
    let (sim, disk) = on_disk(files);
    sim.block_on(async {
        let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
        assert_eq!(at_a_time(&disk, &segments).await, one_by_one(&disk, &segments).await);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is damaged, or missing: the same facts, and the same failure at the same place.
    #[test]
    fn several_at_a_time_find_what_one_walk_finds(
        lengths in proptest::collection::vec(proptest::collection::vec(0usize..600, 0..6), 1..6),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0usize..200, 1u8..), 0..3),
        cut in proptest::option::of((any::<proptest::sample::Index>(), any::<proptest::sample::Index>())),
        swap in proptest::option::of((any::<proptest::sample::Index>(), any::<proptest::sample::Index>())),
    ) {
        let mut files = segments_of(&lengths);
        let count = files.len();
        if let Some((a, b)) = swap {
            let (a, b) = (a.index(count), b.index(count));
            let bytes = files[a].1.clone();
            files[a].1 = std::mem::replace(&mut files[b].1, bytes);
        }
        for (segment, at, flip) in flips {
            if let Some(byte) = files[segment.index(count)].1.get_mut(at) {
                *byte ^= flip;
            }
        }
        if let Some((segment, at)) = cut {
            let bytes = &mut files[segment.index(count)].1;
            let len = at.index(bytes.len() + 1);
            bytes.truncate(len);
        }
        same_either_way(&files);
    }

    /// From the end as from the start: the last snapshot that the last hard state covers, whether or not heads repeat it.
    #[test]
    fn latest_snapshot_is_the_last_valid_one(
        records in proptest::collection::vec(
            proptest::collection::vec(
                prop_oneof![(0u64..6).prop_map(Err), (0u64..6).prop_map(Ok)], 0..4),
            1..5),
        heads_repeat in any::<bool>(),
    ) {
        let mut log = Unmarked::default();
        let mut last = None;
        let mut files = Vec::new();
        for (seq, records) in records.iter().enumerate() {
            log.record(4, None);
            log.record(1, None);
            if let Some(commit) = last.filter(|_| heads_repeat) {
                state(&mut log, commit);
            }
            for record in records {
                match *record {
                    Ok(commit) => {
                        state(&mut log, commit);
                        last = Some(commit);
                    }
                    Err(index) => snapshot(&mut log, index),
                }
            }
            files.push((path(seq, 0), std::mem::take(&mut log.bytes)));
        }
        let (sim, disk) = on_disk(&files);
        let (latest, all) = sim.block_on(async {
            let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
            (
                starts::latest_start(&disk, &segments).await.unwrap(),
                starts::snapshots(&disk, &segments).await.unwrap(),
            )
        });
        let last = all.last().map(|last| (last.index, last.term));
        prop_assert_eq!(latest, last.filter(|last| last.0 > 0));
    }
}

/// Facts that are too many for one digest: the walk pauses, also ahead of its turn, and goes on.
#[test]
fn varied_segments_are_walked_in_parts() {
    let mut log = Unmarked::default();
    let mut files = Vec::new();
    for seq in 0..3 {
        let name = path(seq, seq as u64 * 70_000);
        log.record(4, None);
        log.record(1, None);
        // No two of them are of one term.
        for index in seq as u64 * 70_000 + 1..=(seq as u64 + 1) * 70_000 {
            entry_of_term(&mut log, index, index, b"x");
        }
        files.push((name, std::mem::take(&mut log.bytes)));
    }
    same_either_way(&files);
    let (sim, disk) = on_disk(&files);
    sim.block_on(async {
        let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
        let scan = scan(&disk, &segments, Start::Beginning, None).await.unwrap();
        assert_eq!(scan.replay.live.last(), Some(210_000));
        assert_eq!(scan.replay.live.term_of(100_000), Some(100_000));
        let told = at_a_time(&disk, &segments).await;
        assert!(told.ends.len() >= 9, "only {} parts", told.ends.len());
    });
}

/// Frames larger than a piece, and of all sizes around it.
#[test]
fn large_frames_are_walked() {
    let pieces = 256 << 10;
    let lengths =
        vec![vec![10, pieces - 100, pieces, 3 * pieces, 20], vec![pieces + 5000; 3], vec![1]];
    let files = segments_of(&lengths);
    same_either_way(&files);
    let (sim, disk) = on_disk(&files);
    sim.block_on(async {
        let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
        let scan = scan(&disk, &segments, Start::Beginning, None).await.unwrap();
        assert_eq!(scan.replay.live.last(), Some(9));
    });
}

/// A log of many segments with a snapshot near its end is opened there by reading what is near its end.
#[test]
fn latest_snapshot_reads_only_what_it_needs() {
    let mut log = Unmarked::default();
    let mut files = Vec::new();
    let mut index = 0;
    for seq in 0..20 {
        let name = path(seq, index);
        log.record(4, None);
        log.record(1, None);
        if seq > 0 {
            state(&mut log, index);
        }
        for _ in 0..10 {
            index += 1;
            log.entry(index, &[7; 500]);
        }
        state(&mut log, index);
        if seq % 8 == 0 {
            snapshot(&mut log, index - 2);
        }
        files.push((name, std::mem::take(&mut log.bytes)));
    }
    // Nothing of the others can be read.
    for (_, bytes) in &mut files[..16] {
        bytes.fill(0xff);
    }
    let (sim, disk) = on_disk(&files);
    sim.block_on(async {
        let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
        let scan = scan(&disk, &segments, Start::LatestSnapshot, None).await.unwrap();
        let expected = Snapshot { index: 168, term: 1, conf_state: None };
        assert_eq!(scan.replay.start, Some(expected));
        assert_eq!(scan.replay.live.last(), Some(200));
        let old = |path: &Path| files[..16].iter().any(|(old, _)| Path::new(old) == path);
        assert!(sim.trace().iter().any(|e| e.op == OpKind::Read && !old(&e.path)));
        // Of the others nothing but the head, where the id of the log may be.
        let read_old = |e: &&TraceEntry| e.op == OpKind::Read && old(&e.path);
        for read in sim.trace().iter().filter(read_old) {
            assert_eq!(read.detail, "offset=0 len=4096", "{read:?}");
        }
        assert!(starts::snapshots(&disk, &segments).await.unwrap_err().is_damaged());
    });
}

/// Nothing is lost, and nobody waits for ever, if a read fails in the middle of it.
#[test]
fn failed_read_is_told_with_its_place() {
    let files = segments_of(&vec![vec![400; 20]; 5]);
    let mut told: Vec<PathBuf> = Vec::new();
    for nth in 1..=5 {
        let (sim, disk) = on_disk(&files);
        sim.fail_nth_of(OpKind::Read, nth, 5);
        let error = sim.block_on(async {
            let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
            scan(&disk, &segments, Start::Beginning, None).await.unwrap_err()
        });
        assert_eq!(error.offset(), Some(0), "{error}");
        told.extend(error.path().map(Path::to_owned));
    }
    // The newest is read beside the others.
    told.sort();
    assert_eq!(told, files.iter().map(|(path, _)| PathBuf::from(path)).collect::<Vec<_>>());
}
