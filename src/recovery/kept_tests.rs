//! Helpers that take turns, on real threads.

use super::*;
use crate::format::{MarkKind, Record};
use crate::recovery::tests::{Marked, entry};
use crate::segment::name::SegmentName;
use std::time::Duration;

/// A file that takes its time, and sometimes fails.
struct Slow<'a> {
    bytes: &'a [u8],
    seed: u64,
    fails_at: Option<u64>,
}

impl BlockingFile for Slow<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mixed = (offset + 1).wrapping_mul(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        std::thread::sleep(Duration::from_micros((mixed >> 32) % 300));
        if self.fails_at.is_some_and(|at| (offset..offset + buf.len() as u64).contains(&at)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn will_read_on(&self) {}
}

fn turns(memory: &Arc<Chunks>) -> Turns {
    let name = SegmentName { seq: Seq(0), index: 0 };
    let segment = SegmentFile { name, path: PathBuf::from("0.wal") };
    Turns::new(&segment, memory)
}

/// Groups of all sizes, and records that reach over several chunks. Gives the number of entries.
fn log(seed: u64) -> (Vec<u8>, u64) {
    let mut log = Marked::new(8);
    let (mut index, mut random) = (0, seed);
    while log.bytes.len() < 6 << 20 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let count = 1 + (random >> 33) % 400;
        let len = match (random >> 50) % 20 {
            0 => 600 << 10,
            1 => 40_000,
            _ => (random >> 40) as usize % 3000,
        };
        let count = count.min(1 + (1 << 20) / (len as u64 + 1));
        let records: Vec<Record> =
            (0..count).map(|at| entry(index + at + 1, &vec![(index + at) as u8; len])).collect();
        index += count;
        log.group(MarkKind::Entries, &records);
    }
    (log.bytes, index)
}

/// What all turns give, in order; as far as all is sound.
fn all_turns(turns: &Turns, file: &(dyn BlockingFile + Sync)) -> (Vec<Entry>, bool) {
    let mut believed: Vec<(u64, Believed)> = std::thread::scope(|scope| {
        let helper = || {
            let mut some = Vec::new();
            while !turns.ended.load(Ordering::Relaxed) {
                some.extend(turns.take_some(file));
            }
            some
        };
        let helpers: Vec<_> = (0..3).map(|_| scope.spawn(helper)).collect();
        helpers.into_iter().flat_map(|helper| helper.join().unwrap()).collect()
    });
    believed.sort_by_key(|(number, _)| *number);
    let (mut entries, mut ended) = (Vec::new(), false);
    for (at, (number, believed)) in believed.into_iter().enumerate() {
        assert_eq!(number, at as u64);
        let Some(stretch) = believed.stretch else { break };
        assert_eq!(stretch.entries.len() as u64, stretch.facts.entries());
        entries.extend(stretch.entries);
        ended = matches!(stretch.end, Ok(SegmentEnd::End { .. }));
    }
    (entries, ended)
}

#[test]
fn turns_come_to_what_one_walk_does() {
    for seed in 0..12 {
        let (bytes, count) = log(seed);
        let turns = turns(&Arc::default());
        let file = Slow { bytes: &bytes, seed, fails_at: None };
        let (entries, ended) = all_turns(&turns, &file);
        assert!(ended);
        let indexes = entries.iter().map(|entry| entry.index);
        assert!(indexes.eq(1..=count), "seed {seed}");
        assert!(entries.iter().all(|e| e.data.iter().all(|&byte| byte == (e.index - 1) as u8)));
    }
}

#[test]
fn what_cannot_be_read_or_is_wrong_ends_the_turns() {
    for seed in 0..12 {
        let (mut bytes, count) = log(seed);
        let at = (seed + 1) * (400 << 10);
        let fails_at = (seed % 2 == 0).then_some(at);
        if fails_at.is_none() {
            bytes[at as usize] ^= 1;
        }
        let turns = turns(&Arc::default());
        let (entries, ended) = all_turns(&turns, &Slow { bytes: &bytes, seed, fails_at });
        // A bit of padding is not covered.
        assert!(!ended || entries.len() as u64 == count, "seed {seed}");
        let indexes = entries.iter().map(|entry| entry.index);
        assert!(indexes.eq(1..=entries.len() as u64), "seed {seed}");
        assert!(entries.iter().all(|e| e.data.iter().all(|&byte| byte == (e.index - 1) as u8)));
    }
}

/// Once, each small segment took the memory of a whole chunk, as long as somebody kept an entry of it.
#[test]
fn a_small_segment_takes_little_memory() {
    let mut log = Marked::new(8);
    log.group(MarkKind::Entries, &[entry(1, b"small")]);
    let memory = Arc::default();
    let turns = turns(&memory);
    let file = Slow { bytes: &log.bytes, seed: 0, fails_at: None };
    assert_eq!(all_turns(&turns, &file).0.len(), 1);
    drop(turns);
    assert_eq!(memory.spares(), 0, "it was none that could be used for others");
}
