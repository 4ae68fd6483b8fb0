//! Every byte of a small log with a bit of it flipped, and what opening says: a matrix of byte classes and verdicts.
//!
//! There are three answers. *Torn*: cut, and what a mark proves is all there. *Damaged*: refused. *Harmless*: the same
//! entries, and nothing to report. A log that opens as clean with other entries would be a fourth, and there is none.
//!
//! ```sh
//! cargo test --all-features --test bit_flips -- --nocapture
//! ```
#![cfg(all(feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

use bytes::Bytes;
use futures_util::TryStreamExt;
use seawal::testing::Sim;
use seawal::{
    Entry, Error, HardState, Options, Packing, Replayed, Result, SyncMethod, Verdict, internals,
};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

const DIR: &str = "/log";
/// Where most bytes are alike (zeros, one long payload), every so many of them; prime, so that all places in a word and
/// in a sector have their turn.
const STRIDE: usize = 211;

/// What a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Length,
    Type,
    Crc,
    DataLength,
    Data,
    Mark,
    FillerZeros,
    Padding,
    ZerosBehind,
    Prepared,
}

/// What vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// In a segment that has a successor.
    Sealed,
    /// In the head of the newest segment.
    Head,
    /// A mark behind it knows it as durable.
    Proven,
    /// In the last groups, or behind them.
    Last,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Torn,
    Damaged,
    Harmless,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Dense,
    Blocks,
    Window,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Idle,
    Killed,
}

fn options(kind: Kind) -> Options {
    let options = Options::new().segment_bytes(48 << 10).group_bytes_max(16 << 10);
    match kind {
        Kind::Dense => options.sync_method(SyncMethod::Fdatasync).segment_bytes(16 << 10),
        Kind::Blocks => options.sync_method(SyncMethod::Fdatasync).packing(Packing::Block),
        // A group for each record: so there are several in flight.
        Kind::Window => options.sync_method(SyncMethod::Dsync).group_records_max(1),
    }
}

/// The files of a log of two segments with a few records in each.
fn files(kind: Kind, end: End) -> Vec<(String, Vec<u8>)> {
    let sim = Sim::new(1);
    sim.create_dir(DIR);
    let payload = |tag: u8, bytes| Bytes::from(vec![tag; bytes]);
    sim.block_on(async {
        let metadata = options(kind).metadata("a node");
        let wal = sim.create(DIR, metadata).await.unwrap();
        wal.append(payload(1, 40)).await.unwrap();
        let state = HardState { term: 3, vote: 1, commit: 1 };
        wal.save(state, Vec::new()).await.unwrap();
        // Nothing else has room in this segment.
        let most = if matches!(kind, Kind::Dense) { 15_000 } else { 38_000 };
        wal.append(payload(2, most)).await.unwrap();
        wal.append_batch([payload(3, 50), payload(4, 30)]).await.unwrap();
        let in_flight = match kind {
            Kind::Window => 2,
            _ => 1,
        };
        for round in 0..2 {
            let mut tickets = Vec::new();
            for at in 0..in_flight {
                let bytes = 45 + usize::from(at);
                tickets.push(wal.submit(payload(5 + round * 4 + at, bytes)).await.unwrap());
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        }
        match end {
            End::Closed => drop(wal.close().await.unwrap()),
            End::Idle => sim.sleep(Duration::from_millis(500)).await,
            End::Killed => {}
        }
    });
    sim.kill();
    let names = sim.list_dir(DIR).unwrap().into_iter().map(|name| name.into_string().unwrap());
    names.map(|name| (name.clone(), sim.read_file(format!("{DIR}/{name}")).unwrap())).collect()
}

/// A group: where it is, where its mark ends, what it knows as durable.
#[derive(Clone, Debug)]
struct Group {
    segment: usize,
    start: usize,
    mark_end: usize,
    /// Segment, offset.
    durable: (usize, usize),
}

struct Log {
    files: Vec<(String, Vec<u8>)>,
    /// Numbers of those that are segments.
    segments: Vec<usize>,
    classes: Vec<Vec<Class>>,
    groups: Vec<Group>,
    entries: Vec<Entry>,
    /// Where the group of each entry ends.
    ends: Vec<(usize, usize)>,
    state: HardState,
}

impl Log {
    fn new(files: Vec<(String, Vec<u8>)>) -> Log {
        let (entries, state) = match opened(&files, None) {
            Ok((Verdict::Clean, entries, state)) => (entries, state),
            other => panic!("not a sound log: {other:?}"),
        };
        let segments: Vec<usize> =
            (0..files.len()).filter(|&at| files[at].0.ends_with(".wal")).collect();
        let classes = files.iter().map(|file| vec![Class::Prepared; file.1.len()]).collect();
        let mut log =
            Log { files, segments, classes, groups: Vec::new(), entries, ends: Vec::new(), state };
        for number in 0..log.segments.len() {
            log.classify(number);
        }
        assert!(log.segments.len() >= 2 && log.groups.len() >= 8, "{:?}", log.groups);
        assert_eq!(log.ends.len(), log.entries.len());
        log
    }

    /// By the words of docs/format.md.
    fn classify(&mut self, segment: usize) {
        let file = self.segments[segment];
        let bytes = Bytes::copy_from_slice(&self.files[file].1);
        let classes = &mut self.classes[file];
        classes.fill(Class::ZerosBehind);
        let (mut at, mut group_end) = (0, 0);
        while let Some(frame) = internals::frame(&bytes.slice(at..)) {
            let data = frame.data.clone().unwrap_or_default();
            let mark = internals::mark_again(&data).filter(|_| frame.record_type == 4);
            if let Some(mark) = mark {
                let number = |from: usize| {
                    u64::from_le_bytes(mark[from..from + 8].try_into().unwrap()) as usize
                };
                group_end = at + number(64);
                let durable = (number(80), number(88));
                self.groups.push(Group { segment, start: at, mark_end: at + frame.bytes, durable });
            }
            if frame.record_type == 2 {
                self.ends.push((segment, group_end));
            }
            let record_bytes =
                bytes[at..at + 7].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
            let crc_end = (at + 11..).find(|&at| bytes[at] & 0x80 == 0).unwrap() + 1;
            let record_end = at + 8 + record_bytes;
            classes[at..at + 8].fill(Class::Length);
            classes[at + 8..at + 10].fill(Class::Type);
            classes[at + 10..crc_end].fill(Class::Crc);
            classes[crc_end..record_end - data.len()].fill(Class::DataLength);
            classes[record_end - data.len()..record_end].fill(match mark {
                Some(_) => Class::Mark,
                None if frame.record_type == 4 => Class::FillerZeros,
                None => Class::Data,
            });
            classes[record_end..at + frame.bytes].fill(Class::Padding);
            at += frame.bytes;
        }
    }

    /// How far the marks say that the log is durable, those left out that the byte is in.
    fn proven(&self, segment: usize, at: usize) -> (usize, usize) {
        let others = self.groups.iter().filter(|group| {
            group.segment != segment || !(group.start..group.mark_end).contains(&at)
        });
        others.map(|group| group.durable).max().unwrap_or_default()
    }

    fn part(&self, file: usize, at: usize) -> Part {
        let Some(segment) = self.segments.iter().position(|&known| known == file) else {
            return Part::Last;
        };
        let here = |group: &&Group| group.segment == segment && group.start <= at;
        let group = self.groups.iter().rfind(here).unwrap();
        let behind = self.classes[file][at] == Class::ZerosBehind;
        match () {
            () if segment + 1 < self.segments.len() => Part::Sealed,
            () if behind => Part::Last,
            () if group.start == 0 => Part::Head,
            () if (segment, group.start) < self.proven(segment, at) => Part::Proven,
            () => Part::Last,
        }
    }

    /// What opening says with these bits flipped.
    fn answer(&self, file: usize, at: usize, xor: u8) -> Answer {
        let (name, class) = (&self.files[file].0, self.classes[file][at]);
        let story = || format!("{name} at {at} ({class:?}), {xor:#04x}");
        let (verdict, entries, state) = match opened(&self.files, Some((file, at, xor))) {
            Ok(seen) => seen,
            Err(error) => {
                assert!(error.is_damaged() && error.path().is_some(), "{}: {error}", story());
                return Answer::Damaged;
            }
        };
        assert!(self.entries.starts_with(&entries), "{}: invented entries", story());
        if verdict == Verdict::Clean {
            let same = entries.len() == self.entries.len() && state == self.state;
            assert!(same, "{}: opens as clean without all of its entries", story());
            return Answer::Harmless;
        }
        let segment = self.segments.iter().position(|&known| known == file).unwrap_or(usize::MAX);
        let proven = self.proven(segment, at);
        let kept = self.ends.iter().filter(|end| **end <= proven).count();
        assert!(
            entries.len() >= kept,
            "{}: of {kept} proven entries {} are left",
            story(),
            entries.len()
        );
        Answer::Torn
    }
}

/// What a reader sees of these files, with bits of one byte flipped.
fn opened(
    files: &[(String, Vec<u8>)],
    flip: Option<(usize, usize, u8)>,
) -> Result<(Verdict, Vec<Entry>, HardState)> {
    let sim = Sim::new(0);
    for (name, bytes) in files {
        sim.write_file(format!("{DIR}/{name}"), bytes.clone());
    }
    if let Some((file, at, xor)) = flip {
        sim.corrupt(format!("{DIR}/{}", files[file].0), at, xor);
    }
    let options = Options::new().group_bytes_max(4 << 10);
    let seen: Result<_> = sim.block_on(async {
        let (reader, recovery) = sim.open_reader(DIR, options.clone()).await?;
        let entries: Vec<Entry> = reader.read(..).try_collect().await?;
        Ok((recovery.verdict, entries, recovery.hard_state))
    });
    // Who takes the entries while the log is opened is told the same.
    let replayed: Result<_> = sim.block_on(async {
        let mut replay = sim.replay_reader(DIR, options);
        let mut entries = Vec::new();
        while let Some(replayed) = replay.next().await {
            match replayed {
                Replayed::Entry(entry) => entries.push(entry),
                Replayed::TruncatedAfter(index) => entries.retain(|entry| entry.index <= index),
            }
        }
        let (_, recovery) = replay.finish().await?;
        Ok((recovery.verdict, entries, recovery.hard_state))
    });
    match (&seen, replayed) {
        (Ok(seen), Ok(replayed)) => assert_eq!(seen, &replayed, "{flip:?}"),
        (Err(seen), Err(replayed)) => assert_eq!(seen.to_string(), Error::to_string(&replayed)),
        (seen, replayed) => panic!("{flip:?}: {seen:?} and {replayed:?}"),
    }
    seen
}

type Matrix = BTreeMap<(Class, Part), BTreeMap<Answer, usize>>;

/// Flips bits all over one log.
fn flip(kind: Kind, end: End, matrix: &mut Matrix) {
    let log = Log::new(files(kind, end));
    let newest = log.segments[log.segments.len() - 1];
    for file in 0..log.files.len() {
        // However it ended, these are the same. Closing removes the prepared one.
        let once = match log.segments.contains(&file) {
            true => matches!(end, End::Closed),
            false => matches!(end, End::Killed),
        };
        if file != newest && !once {
            continue;
        }
        let every_bit = file == newest && matches!(end, End::Killed);
        let mut alike = 0;
        for at in 0..log.files[file].1.len() {
            let class = log.classes[file][at];
            let monotonous = match class {
                Class::FillerZeros | Class::ZerosBehind | Class::Prepared => true,
                Class::Data => log.files[file].1[at] == 2,
                _ => false,
            };
            alike = if monotonous { alike + 1 } else { 0 };
            // The borders, and samples.
            if alike > 3 && alike % STRIDE != 0 {
                continue;
            }
            let one = 1 << (at % 8);
            let patterns: &[u8] = match class {
                Class::Length | Class::Type if !every_bit => &[one, 0x80],
                Class::Length | Class::Type => &[1, 2, 4, 8, 16, 32, 64, 128, 0xff],
                Class::Crc | Class::DataLength => &[one, 0x10],
                _ => &[one],
            };
            let part = log.part(file, at);
            for &xor in patterns {
                let answer = log.answer(file, at, xor);
                let story = || {
                    let name = &log.files[file].0;
                    format!("{kind:?}, {end:?}, {name} at {at}, {class:?}, {part:?}, {xor:#04x}")
                };
                check(&log, file, at, xor, class, part, answer, &story);
                *matrix.entry((class, part)).or_default().entry(answer).or_default() += 1;
            }
        }
    }
}

/// What must be refused is refused, and where nothing is stored nothing is lost.
#[expect(clippy::too_many_arguments, reason = "a row of the matrix")]
fn check(
    log: &Log,
    file: usize,
    at: usize,
    xor: u8,
    class: Class,
    part: Part,
    answer: Answer,
    story: &dyn Fn() -> String,
) {
    let top_of_length =
        class == Class::Length && log.classes[file].get(at + 1) == Some(&Class::Type);
    let padding = |top: u8| if top & 0x80 == 0 { 0 } else { top & 7 };
    let top = log.files[file].1[at];
    let top_of_crc = class == Class::Crc && log.classes[file][at - 5] == Class::Crc;
    let wanted: &[Answer] = match (class, part) {
        // Never checked.
        (Class::Padding | Class::Prepared | Class::FillerZeros, _) => &[Answer::Harmless],
        (Class::ZerosBehind, Part::Sealed) => &[Answer::Harmless, Answer::Damaged],
        // Bytes behind a group are those of a write that did not come about.
        (Class::ZerosBehind, _) => &[Answer::Torn],
        // Other bits are ignored.
        (Class::Length, _) if top_of_length && padding(top) == padding(top ^ xor) => {
            &[Answer::Harmless]
        }
        // A crc has 32 bits, the varint 35.
        (Class::Crc, _) if top_of_crc && xor & 0x8f == 0 => &[Answer::Harmless],
        // It has no checksum of its own, and may reach past the end of the file.
        (Class::Length, Part::Last) => &[Answer::Torn, Answer::Damaged],
        _ => &[Answer::Damaged],
    };
    assert!(wanted.contains(&answer), "{}: {answer:?}, wanted {wanted:?}", story());
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Part::Sealed => "sealed",
            Part::Head => "head",
            Part::Proven => "proven",
            Part::Last => "last",
        })
    }
}

fn print(name: &str, matrix: &Matrix) {
    println!("\n{name:<24} {:>8} {:>8} {:>8}", "torn", "damaged", "harmless");
    for ((class, part), answers) in matrix {
        let count = |answer| answers.get(&answer).copied().unwrap_or(0);
        let [torn, damaged, harmless] =
            [Answer::Torn, Answer::Damaged, Answer::Harmless].map(count);
        let class = format!("{class:?}");
        println!("{class:<14} {part:<9} {torn:>8} {damaged:>8} {harmless:>8}");
    }
}

fn all_ends(kind: Kind) {
    let mut matrix = Matrix::new();
    for end in [End::Closed, End::Idle, End::Killed] {
        flip(kind, end, &mut matrix);
    }
    print(&format!("{kind:?}"), &matrix);
    let of_class = |wanted: Class| matrix.keys().any(|(class, _)| *class == wanted);
    for class in [Class::Length, Class::Type, Class::Crc, Class::Data, Class::Mark, Class::Padding]
    {
        assert!(of_class(class), "{class:?}");
    }
    assert!(of_class(Class::ZerosBehind) && of_class(Class::Prepared));
}

#[test]
fn dense() {
    all_ends(Kind::Dense);
}

#[test]
fn blocks() {
    all_ends(Kind::Blocks);
}

#[test]
fn window() {
    all_ends(Kind::Window);
}
