//! Recovery on logs made by hand: what real crashes leave, and what no crash leaves.

use super::scan::{Scan, scan, scan_unlocked};
use super::verdict::{Row, Verdict};
use crate::error::{ErrorKind, Result};
use crate::format::frame::FrameLength;
use crate::format::mark::{MARK_BYTES, MARK_FRAME_BYTES};
use crate::format::pb::{raftpb, walpb};
use crate::format::{Chain, GroupEncoder, LogId, Mark, MarkKind, Place, Record};
use crate::io::sim::{Crash, Sim};
use crate::io::{Access, Disk, DiskConfig, Lane};
use crate::segment::dir;
use crate::types::{Entry, Position, Seq, Snapshot, Start};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use std::path::Path;

const DIR: &str = "/log";
const FIRST: &str = "/log/0000000000000000-0000000000000000.wal";
const CONFIG: DiskConfig = DiskConfig { buffer_count: 2, buffer_bytes: 4096 };

pub(crate) fn entry(index: u64, data: &[u8]) -> Record {
    Record::Entry(Entry { index, term: 1, data: Bytes::copy_from_slice(data), ..Entry::default() })
}

/// A log of seawal's: a head, then a group for each list of records. Gives the offsets of the groups.
pub(crate) struct Marked {
    pub(crate) bytes: Vec<u8>,
    pub(crate) groups: Vec<u64>,
    pub(crate) chain: Chain,
    boundary: u64,
}

impl Marked {
    pub(crate) fn new(boundary: u64) -> Marked {
        let mut log =
            Marked { bytes: Vec::new(), groups: Vec::new(), chain: Chain::default(), boundary };
        log.group(MarkKind::Head, &[Record::Metadata(None), Record::Snapshot(Snapshot::default())]);
        log
    }

    /// Each mark knows everything before it as durable.
    pub(crate) fn group(&mut self, kind: MarkKind, records: &[Record]) {
        let position = Position::new(Seq(0), self.bytes.len() as u64);
        let place = Place {
            position,
            chain: self.chain,
            kind,
            log_id: LogId(*b"the id of a log!"),
            epoch: 1,
            group: self.groups.len() as u64 + 1,
            first_index: 1,
            durable: position,
            boundary: self.boundary,
        };
        let mut group = GroupEncoder::new(&place, records);
        let mut bytes = vec![0; group.bytes() as usize];
        group.fill(records, &mut bytes);
        self.chain = group.chain();
        self.groups.push(position.offset);
        self.bytes.extend(bytes);
    }
}

/// A log as etcd writes it.
#[derive(Default)]
pub(crate) struct Unmarked {
    pub(crate) bytes: Vec<u8>,
    pub(crate) chain: Chain,
    pub(crate) offsets: Vec<usize>,
}

impl Unmarked {
    pub(crate) fn new() -> Unmarked {
        let mut log = Unmarked::default();
        log.record(4, None);
        log.record(1, None);
        log.record(5, Some(Bytes::from_static(&[0x08, 0, 0x10, 0])));
        log
    }

    pub(crate) fn entry(&mut self, index: u64, data: &[u8]) {
        let entry = raftpb::Entry {
            r#type: Some(0),
            term: Some(1),
            index: Some(index),
            data: Some(Bytes::copy_from_slice(data)),
        };
        self.record(2, Some(entry.encode_to_vec().into()));
    }

    pub(crate) fn record(&mut self, record_type: i64, data: Option<Bytes>) {
        if record_type != 4 {
            self.chain = self.chain.after(data.as_deref().unwrap_or_default());
        }
        let crc = Some(self.chain.0);
        let record = walpb::Record { r#type: Some(record_type), crc, data }.encode_to_vec();
        let length = FrameLength::of_record(record.len());
        self.offsets.push(self.bytes.len());
        self.bytes.extend(length.to_bytes());
        self.bytes.extend(record);
        self.bytes.extend(std::iter::repeat_n(0, length.padding.into()));
    }
}

fn scan_bytes(bytes: &[u8]) -> Result<Scan> {
    scan_files(&[(FIRST, bytes)])
}

fn scan_files(files: &[(&str, &[u8])]) -> Result<Scan> {
    let sim = Sim::new(0);
    for (path, bytes) in files {
        sim.write_file(path, *bytes);
    }
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let segments = dir::list_log(&disk, Path::new(DIR)).await?;
        scan(&disk, &segments, Start::Beginning, None).await
    })
}

fn preallocated(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    file.resize(bytes.len() + 20_000, 0);
    file
}

fn zeroed(bytes: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
    let mut file = bytes.to_vec();
    file[range].fill(0);
    file
}

/// Any sector of the last group is lost, at any place the group can start: torn, cut at its start, nothing of it
/// left. A mark whose data was lost must not pass as a filler, with the records behind it believed.
#[test]
fn any_lost_sector_of_the_last_group_is_a_torn_tail() {
    for boundary in [8, 4096] {
        for shift in (0..520).step_by(8) {
            let mut log = Marked::new(boundary);
            log.group(MarkKind::Entries, &[entry(1, &vec![1; 100 + shift])]);
            log.group(MarkKind::Entries, &[entry(2, &[2; 700]), entry(3, &[3; 900])]);
            let (start, file) = (log.groups[2] as usize, preallocated(&log.bytes));
            let used = log.bytes.iter().rposition(|&byte| byte != 0).unwrap();
            for sector in start / 512..=used / 512 {
                let lost = (sector * 512).max(start)..(sector + 1) * 512;
                let story = format!("boundary {boundary}, shift {shift}, lost {lost:?}");
                let scan = scan_bytes(&zeroed(&file, lost.clone())).expect(&story);
                let only_filler_zeros = file[lost].iter().all(|&byte| byte == 0);
                if only_filler_zeros {
                    continue;
                }
                assert_eq!(scan.row.verdict(), Verdict::Torn, "{story}");
                assert_eq!(scan.end.offset as usize, start, "{story}");
                assert_eq!(scan.replay.live.last(), Some(1), "{story}");
            }
        }
    }
}

/// The head of a filler can lie across a sector border. If its end is lost, the group is torn, not damaged.
#[test]
fn lost_head_of_a_filler_is_a_torn_tail() {
    for chain in [0x7f, 0x3fff, 0xfff_ffff, 0xffff_ffff].map(Chain) {
        for len in (0..1024).step_by(8) {
            let mut log = Marked::new(4096);
            log.chain = chain;
            log.group(MarkKind::Entries, &[entry(1, &vec![1; 600 + len])]);
            let (start, file) = (log.groups[1] as usize, preallocated(&log.bytes));
            for sector in start / 512..log.bytes.len() / 512 {
                let lost = sector * 512..(sector + 1) * 512;
                if file[lost.clone()].iter().all(|&byte| byte == 0) {
                    continue;
                }
                let mut log = zeroed(&file, lost.clone());
                // The chain was set by hand: let the group be the first that a reader sees.
                log.drain(..start);
                let story = format!("chain {chain:?}, payload {}, lost {lost:?}", 600 + len);
                let at_its_place = [vec![0; start], log].concat();
                let extent = torn_extent(&at_its_place, start as u64);
                assert!(extent, "{story}");
            }
        }
    }
}

/// Whether the group at `start` has a sector piece in its extent that is zero, or no mark any more.
fn torn_extent(file: &[u8], start: u64) -> bool {
    let frame = &file[start as usize..];
    let Some(mark) = Mark::in_frame(frame) else {
        return true;
    };
    let sim = Sim::new(0);
    sim.write_file(FIRST, file);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let path = Path::new(FIRST);
        let file = disk.open(path, Access::Read, Lane::Commit).await.unwrap();
        let mut pieces = super::frames::Pieces::new(&file, path).unwrap();
        let extent = super::walk::extent_of(&mark, start);
        super::survey::is_unwritten(&mut pieces, extent).await.unwrap()
    })
}

/// The same loss, with a later mark that knows the group as durable: damage, wherever the sector is.
#[test]
fn any_lost_sector_of_a_proven_group_is_damage() {
    for boundary in [8, 4096] {
        for shift in (0..520).step_by(56) {
            let mut log = Marked::new(boundary);
            log.group(MarkKind::Entries, &[entry(1, &vec![1; 100 + shift])]);
            log.group(MarkKind::Entries, &[entry(2, &[2; 700]), entry(3, &[3; 900])]);
            log.group(MarkKind::Idle, &[]);
            let (start, end) = (log.groups[2] as usize, log.groups[3] as usize);
            let file = preallocated(&log.bytes);
            for sector in start / 512..=(end - 1) / 512 {
                let lost = (sector * 512).max(start)..((sector + 1) * 512).min(end);
                if file[lost.clone()].iter().all(|&byte| byte == 0) {
                    continue;
                }
                let story = format!("boundary {boundary}, shift {shift}, lost {lost:?}");
                let error = scan_bytes(&zeroed(&file, lost)).expect_err(&story);
                assert!(
                    error.is_damaged() && error.to_string().contains("commit mark"),
                    "{story}: {error}"
                );
            }
        }
    }
}

/// A flipped bit is never a torn tail where it can be told: the group was wholly written. And whatever the verdict,
/// no record with other bytes than were written is believed.
#[test]
fn flipped_bits_are_never_believed() {
    let mut log = Marked::new(8);
    log.group(MarkKind::Entries, &[entry(1, &[1; 64])]);
    log.group(MarkKind::Entries, &[entry(2, &[2; 64])]);
    log.group(MarkKind::Idle, &[]);
    let file = preallocated(&log.bytes);
    let sound = scan_bytes(&file).unwrap();
    for bit in 0..log.groups[3] as usize * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match scan_bytes(&flipped) {
            Err(error) => assert!(error.is_damaged(), "bit {bit}: {error}"),
            Ok(scan) => {
                assert_eq!(scan.row, Row::CleanEnd, "bit {bit}: proven groups are never cut");
                assert_eq!(scan.replay.live.last(), sound.replay.live.last(), "bit {bit}");
                assert_eq!(scan.chain, sound.chain, "bit {bit}");
            }
        }
    }
}

/// A payload can hold the very bytes of a later mark. At another place than it says, it proves nothing.
#[test]
fn mark_inside_a_payload_proves_nothing() {
    let mut later = Marked::new(8);
    later.group(MarkKind::Entries, &[entry(1, &[1; 2000])]);
    later.group(MarkKind::Idle, &[]);
    let image = &later.bytes[later.groups[2] as usize..];
    let mut log = Marked::new(8);
    log.group(MarkKind::Entries, &[entry(1, &image.repeat(20))]);
    let start = log.groups[1] as usize;
    let file = preallocated(&log.bytes);
    let lost = (start / 512 + 1) * 512;
    let scan = scan_bytes(&zeroed(&file, lost..lost + 512)).unwrap();
    assert_eq!(scan.row, Row::TornUnit);
}

/// A batch is one group: after a torn write all of it is there, or nothing.
#[test]
fn torn_batch_leaves_nothing_of_itself() {
    let mut log = Marked::new(8);
    let batch: Vec<Record> = (1..=50).map(|index| entry(index, &[7; 90])).collect();
    log.group(MarkKind::Entries, &batch);
    for end in (log.groups[1] as usize + 8..log.bytes.len()).step_by(512) {
        let scan = scan_bytes(&log.bytes[..end]).unwrap();
        assert_eq!(scan.replay.live.last(), None, "cut at {end}");
        assert_eq!(scan.end.offset, log.groups[1], "cut at {end}");
    }
}

/// A log that marks vouch for, then etcd appended to it: the tail is judged by etcd's rules.
#[test]
fn tail_of_etcd_behind_marks() {
    let mut log = Marked::new(8);
    log.group(MarkKind::Entries, &[entry(1, b"ours")]);
    let mut etcd = Unmarked { chain: log.chain, ..Unmarked::default() };
    etcd.entry(2, &[5; 3000]);
    let file = [&log.bytes[..], &etcd.bytes].concat();
    let scan = scan_bytes(&preallocated(&file)).unwrap();
    assert_eq!((scan.row, scan.replay.live.last()), (Row::CleanEnd, Some(2)));
    assert!(!scan.ends_in_group);
    let sector = (log.bytes.len() / 512 + 2) * 512;
    let scan = scan_bytes(&zeroed(&preallocated(&file), sector..sector + 512)).unwrap();
    assert_eq!((scan.row, scan.replay.live.last()), (Row::TornUnit, Some(1)));
}

/// Records behind a hole in etcd's log: etcd opens and forgets them silently; we cut, and keep a copy.
#[test]
fn hole_in_a_log_without_marks_is_told_from_garbage() {
    let mut log = Unmarked::new();
    for index in 1..=5 {
        log.entry(index, &[index as u8; 100]);
    }
    let (hole, after) = (log.offsets[5], log.offsets[6]);
    let scan = scan_bytes(&zeroed(&log.bytes, hole..after)).unwrap();
    assert_eq!((scan.row, scan.replay.live.last()), (Row::TornHole, Some(2)));
    let mut garbage = preallocated(&log.bytes);
    garbage[log.bytes.len() + 4096..][..300].fill(0x5a);
    let scan = scan_bytes(&garbage).unwrap();
    assert_eq!((scan.row, scan.replay.live.last()), (Row::EndBeforeGarbage, Some(5)));
}

/// Whatever lies behind the end of a log of etcd's is kept when it is cleared: one record behind a hole cannot be told
/// from garbage.
#[test]
fn bytes_behind_the_end_are_kept() {
    let mut log = Unmarked::new();
    for index in 1..=3 {
        log.entry(index, &[index as u8; 100]);
    }
    let holed = zeroed(&log.bytes, log.offsets[4]..log.offsets[5]);
    let sim = Sim::new(0);
    sim.write_file(FIRST, holed.clone());
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let wait = std::time::Duration::ZERO;
        let (file, segments) = dir::lock_newest(&disk, Path::new(DIR), wait).await.unwrap();
        let scan = scan(&disk, &segments, Start::Beginning, None).await.unwrap();
        assert_eq!((scan.row, scan.replay.live.last()), (Row::EndBeforeGarbage, Some(1)));
        let dir = Path::new(DIR);
        super::repair::repair(&disk, dir, &file, &scan, 16 << 10).await.unwrap();
    });
    assert_eq!(sim.read_file(format!("{FIRST}.broken")).unwrap(), holed);
}

/// Evidence first: at any crash in the middle of a repair, what is cut is still in the log, or in the copy.
#[test]
fn what_no_mark_vouches_for_is_copied_before_it_is_cut() {
    let mut log = Unmarked::new();
    for index in 1..=3 {
        log.entry(index, &[index as u8; 2000]);
    }
    let sector = (log.offsets[4] / 512 + 2) * 512;
    let torn = zeroed(&preallocated(&log.bytes), sector..sector + 512);
    let data_end = torn.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let copy = format!("{FIRST}.broken");
    let repair = async |sim: &Sim| -> Result<()> {
        let disk = sim.disk(CONFIG);
        let wait = std::time::Duration::ZERO;
        let (file, segments) = dir::lock_newest(&disk, Path::new(DIR), wait).await?;
        let scan = scan(&disk, &segments, Start::Beginning, None).await?;
        assert_eq!(scan.row, Row::TornUnit);
        super::repair::repair(&disk, Path::new(DIR), &file, &scan, 16 << 10).await?;
        Ok(())
    };
    for at in 1..100 {
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Random] {
            let sim = Sim::new(at);
            sim.write_file(FIRST, torn.clone());
            let finished =
                sim.block_on_until(at, repair(&sim)).map(|repaired| repaired.unwrap()).is_some();
            sim.power_loss(crash);
            let holds_all = |path: &str| {
                sim.read_file(path)
                    .is_ok_and(|bytes| bytes.get(..data_end) == Some(&torn[..data_end]))
            };
            let (copied, untouched) = (holds_all(&copy), holds_all(FIRST));
            assert!(copied || untouched, "{crash:?} at {at}");
            if finished {
                assert!(copied);
                return;
            }
        }
    }
    panic!("the repair takes more operations than this test has patience for");
}

/// Later versions will write other marks. They are refused by name, not taken for damage or passed over.
#[test]
fn mark_of_a_newer_version_is_unsupported() {
    let mut log = Marked::new(8);
    log.group(MarkKind::Entries, &[entry(1, b"x")]);
    let start = log.groups[1] as usize;
    let at = start + log.bytes[start..].windows(4).position(|four| four == b"SWLM").unwrap();
    log.bytes[at + 4] = 2;
    let crc = crc32c::crc32c(&log.bytes[at..at + MARK_BYTES - 4]);
    log.bytes[at + MARK_BYTES - 4..at + MARK_BYTES].copy_from_slice(&crc.to_le_bytes());
    let error = scan_bytes(&log.bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.offset(), Some(start as u64));
}

/// A segment of another log, with a chain that happens to fit, is not taken for a part of this one.
#[test]
fn mark_of_another_log_is_damage() {
    let mut log = Marked::new(8);
    log.group(MarkKind::Entries, &[entry(1, b"x")]);
    let start = log.groups[1] as usize;
    let mut mark = Mark::in_frame(&log.bytes[start..start + MARK_FRAME_BYTES as usize]).unwrap();
    mark.log_id = LogId(*b"some other log's");
    let at = start + log.bytes[start..].windows(4).position(|four| four == b"SWLM").unwrap();
    log.bytes[at..at + MARK_BYTES].copy_from_slice(&mark.to_bytes());
    assert!(scan_bytes(&log.bytes).unwrap_err().is_damaged());
}

/// Without the lock, a scan may meet a group that is just being written. What looks torn is looked at again.
#[test]
fn write_in_progress_is_not_taken_for_a_torn_tail() {
    let mut log = Marked::new(8);
    log.group(MarkKind::Entries, &[entry(1, &[1; 2000])]);
    let whole = preallocated(&log.bytes);
    let sector = (log.groups[1] as usize / 512 + 1) * 512;
    let sim = Sim::new(0);
    sim.write_file(FIRST, zeroed(&whole, sector..sector + 512));
    let disk = sim.disk(CONFIG);
    let writer = (sim.clone(), disk.clone());
    disk.spawn(async move {
        writer.1.sleep(std::time::Duration::from_millis(1)).await;
        writer.0.write_file(FIRST, whole);
    });
    let scan = sim.block_on(scan_unlocked(&disk, Path::new(DIR), Start::Beginning, None)).unwrap();
    assert_eq!((scan.row, scan.replay.live.last()), (Row::CleanEnd, Some(1)));
}

/// A writer that is so busy that every look sees another place broken: what is sound is the log.
#[test]
fn busy_writer_is_not_damage() {
    let sim = Sim::new(0);
    let disk = sim.disk(CONFIG);
    let show = |sim: &Sim, groups: u64| {
        let mut log = Marked::new(8);
        for index in 1..=groups + 1 {
            log.group(MarkKind::Entries, &[entry(index, &[1; 2000])]);
        }
        // Wholly written, but not as it was meant: no torn write looks so.
        let at = log.groups[groups as usize] as usize + 300;
        log.bytes[at] ^= 0xff;
        sim.write_file(FIRST, log.bytes);
    };
    show(&sim, 1);
    let writer = (sim.clone(), disk.clone());
    disk.spawn(async move {
        for groups in 2..20 {
            writer.1.sleep(std::time::Duration::from_millis(20)).await;
            show(&writer.0, groups);
        }
    });
    let scan = sim.block_on(scan_unlocked(&disk, Path::new(DIR), Start::Beginning, None)).unwrap();
    assert!(scan.replay.live.last() >= Some(3), "{:?}", scan.replay.live.last());
}

#[test]
fn segment_without_a_head_is_damage() {
    let log = Unmarked::new();
    let second = "/log/0000000000000001-0000000000000001.wal";
    for head in [&[][..], &[0; 4096]] {
        assert!(scan_bytes(head).unwrap_err().is_damaged());
        assert!(scan_files(&[(FIRST, &log.bytes), (second, head)]).unwrap_err().is_damaged());
    }
}

/// Found by `scripts/fuzz open_directory`: a second segment that began with metadata, its checksum right, without the
/// crc record that says the chain. The log opened, took an entry into that segment, and reading it was a checksum
/// mismatch: a reader begins at the head of the segment its entry is in.
#[test]
fn segment_that_does_not_say_the_chain_is_damage() {
    let mut log = Unmarked::new();
    log.entry(1, b"one");
    let first = std::mem::take(&mut log.bytes);
    log.entry(2, b"two");
    let second = "/log/0000000000000001-0000000000000002.wal";
    let error = scan_files(&[(FIRST, &first), (second, &log.bytes)]).unwrap_err();
    assert!(error.is_damaged() && error.path() == Some(Path::new(second)), "{error}");
}

/// Found by `scripts/fuzz repair`: the first segment of a log was emptied. The head of the second one was believed, since
/// nothing said what it continues; no entry was left in it that would have shown the gap, and the log opened without its
/// acked entries.
#[test]
fn sealed_segment_without_records_is_damage() {
    let mut log = Unmarked::new();
    let crc_record_bytes = log.offsets[1];
    log.entry(1, b"one");
    let first = std::mem::take(&mut log.bytes);
    log.record(4, None);
    log.record(1, None);
    let second = "/log/0000000000000001-0000000000000002.wal";
    scan_files(&[(FIRST, &first), (second, &log.bytes)]).expect("whole");
    for (left, path) in [(0, FIRST), (8, FIRST), (crc_record_bytes, second)] {
        let error = scan_files(&[(FIRST, &first[..left]), (second, &log.bytes)]).unwrap_err();
        assert!(error.is_damaged() && error.path() == Some(Path::new(path)), "{left}: {error}");
    }
}

/// A segment may end behind its crc record, as etcd has it, and another one may follow it: the first mend of the above
/// refused that, and so a log that it had opened, as soon as it was cut.
#[test]
fn sealed_segment_of_a_crc_record_alone_is_sound() {
    let mut log = Unmarked::new();
    let first = log.bytes[..log.offsets[1]].to_vec();
    scan_files(&[(FIRST, &first)]).expect("as etcd has it");
    log.bytes.clear();
    log.chain = Chain(0);
    log.record(4, None);
    log.record(1, None);
    log.entry(1, b"one");
    let second = "/log/0000000000000001-0000000000000001.wal";
    scan_files(&[(FIRST, &first), (second, &log.bytes)]).expect("the chain goes on");
}

/// A frame may claim any length. It is refused or cut before memory is taken for it.
#[test]
fn absurd_lengths_take_no_memory() {
    let mut log = Unmarked::new();
    let end = log.bytes.len();
    for length in [1 << 20, 1 << 40, (1 << 56) - 1] {
        log.bytes.truncate(end);
        log.bytes.extend(FrameLength { record: length, padding: 0 }.to_bytes());
        log.bytes.extend([0xff; 600]);
        let scan = scan_bytes(&log.bytes).unwrap();
        assert_eq!(
            scan.row,
            Row::TornUnit,
            "etcd 3.6 takes a length beyond the file for a torn write"
        );
        assert_eq!(scan.end.offset as usize, end);
    }
}

/// Direct reads see what the disk has; where they are not to be had, the unproven part is written again.
#[test]
fn files_are_read_past_the_page_cache() {
    let sim = Sim::new(0);
    sim.write_file(FIRST, Marked::new(8).bytes);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
        let scan = scan(&disk, &segments, Start::Beginning, None).await.unwrap();
        assert!(scan.read_direct);
        disk.open(Path::new(FIRST), Access::ReadDirect, Lane::Commit).await.unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No bytes make recovery panic, and what it accepts it accepts again after its own repair.
    #[test]
    fn arbitrary_damage_does_not_panic(
        marked in any::<bool>(),
        edits in proptest::collection::vec((0usize..12_000, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        cut in 0usize..14_000,
    ) {
        let mut bytes = if marked {
            let mut log = Marked::new(8);
            for index in 1..=8 {
                log.group(MarkKind::Entries, &[entry(index, &[index as u8; 1000])]);
            }
            log.bytes
        } else {
            let mut log = Unmarked::new();
            for index in 1..=8 {
                log.entry(index, &[index as u8; 1000]);
            }
            log.bytes
        };
        bytes.resize(12_100, 0);
        for (at, edit) in edits {
            bytes[at..at + edit.len()].copy_from_slice(&edit);
        }
        bytes.truncate(cut);
        let _ = scan_bytes(&bytes);
    }
}
