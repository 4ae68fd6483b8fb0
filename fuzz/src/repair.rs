//! A sound log, damaged, opened and opened again.

use crate::files::{self, File};
use crate::input::Input;
use crate::machine::{self, DIR, Seen, machine};
use crate::open_directory::{self, within};
use bytes::Bytes;
use seawal::internals::{self, Frame, Record};
use seawal::testing::{Crash, Sim};
use seawal::{Durability, Entry, HardState, Options, Packing, Snapshot, SyncMethod, Verdict, Wal};
use std::collections::HashSet;
use std::time::Duration;

/// A damaged log is refused, or gives a prefix of what was there; and what it gives it gives from then on.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let way = input.u8();
    // The damage comes first: so the log can take what is left.
    let damage: Vec<Damage> = (0..1 + input.one_of(4)).map(|_| Damage::new(&mut input)).collect();
    let options = open_directory::options(&mut Input::new(&[way >> 1 & 7]));
    let sound = match way & 1 {
        0 => written(&mut input),
        _ => files::files(&mut input),
    };
    within(&sound, || check(&sound, &damage, &options, way & 16 != 0));
}

fn check(sound: &[File], damage: &[Damage], options: &Options, dies: bool) {
    let sim = machine(sound);
    if machine::read(&sim, options).is_err() {
        // No log, or not one that can be read from its beginning.
        return;
    }
    let history = History::of(sound);
    let mut damaged = sound.to_vec();
    for damage in damage {
        damage.apply(&mut damaged, &history);
    }
    let sim = machine(&damaged);
    let reader = machine::read(&sim, options);
    let writer = machine::open(&sim, options);
    machine::assert_agree(&reader, &writer);
    let (wal, seen) = match writer {
        Ok(opened) => opened,
        Err(error) => {
            machine::assert_names_a_place(&error);
            assert!(machine::files_of(&sim) == sorted(damaged), "refused, and changed: {error}");
            return;
        }
    };
    history.assert_prefix(&seen, damage);
    if dies {
        drop(wal);
        sim.power_loss(Crash::LoseUnsynced);
    } else {
        sim.block_on(wal.close()).expect("closed");
    }
    // As a reader: nothing is repaired any more.
    let again = machine::read(&sim, options).expect("what opened opens again");
    assert_eq!(again.recovery.verdict, Verdict::Clean, "{:?} after {:?}", again.recovery, seen);
    assert_eq!(again.recovery.cut, None);
    assert!(again.entries == seen.entries, "other entries the second time");
    assert_eq!(again.recovery.hard_state, seen.recovery.hard_state);
    let (wal, again) = machine::open(&sim, options).expect("what opened opens again");
    machine::assert_goes_on(&sim, options, wal, &again);
}

fn sorted(mut files: Vec<File>) -> Vec<File> {
    files.retain(|file| !file.name.contains('/'));
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// The files of a log that was written by the instructions of the input.
fn written(input: &mut Input<'_>) -> Vec<File> {
    let options = Options::new().segment_bytes(16 << 10).group_bytes_max(4 << 10);
    let options = match input.one_of(4) {
        0 => options.sync_method(SyncMethod::Fdatasync),
        1 => options.sync_method(SyncMethod::Fdatasync).packing(Packing::Block),
        2 => options.sync_method(SyncMethod::Dsync),
        _ => options.sync_method(SyncMethod::Dsync).in_flight_max(1),
    };
    let sim = Sim::new(u64::from(input.u8()));
    sim.create_dir(DIR);
    let (mut wal, _) = sim.block_on(sim.open_or_create(DIR, options.clone())).expect("a new log");
    for _ in 0..input.one_of(24) {
        match input.one_of(8) {
            6 => sim.block_on(sim.sleep(Duration::from_millis(500))),
            7 => {
                match input.one_of(4) {
                    0 => drop(sim.block_on(wal.close()).expect("closed")),
                    1 => sim.kill(),
                    2 => drop(sim.power_loss(Crash::LoseUnsynced)),
                    _ => drop(sim.power_loss(Crash::Random)),
                }
                drop(wal);
                wal = sim.block_on(sim.open(DIR, options.clone())).expect("a log of ours opens").0;
            }
            other => sim.block_on(instruction(&wal, other, input)),
        }
    }
    match input.one_of(3) {
        0 => drop(sim.block_on(wal.close()).expect("closed")),
        1 => drop(sim.power_loss(Crash::Random)),
        _ => sim.kill(),
    }
    machine::files_of(&sim)
}

async fn instruction(wal: &Wal, number: usize, input: &mut Input<'_>) {
    let payload = |input: &mut Input<'_>| {
        let (byte, len) = (input.u8(), input.u16() % 3000);
        Bytes::from(vec![byte; len.into()])
    };
    match number {
        0 => drop(wal.append(payload(input)).await.expect("appended")),
        // In flight together.
        1 => drop(wal.submit(payload(input)).await.expect("taken")),
        2 => {
            let batch: Vec<Bytes> = (0..1 + input.one_of(4)).map(|_| payload(input)).collect();
            wal.append_batch(batch).await.expect("appended");
        }
        3 => {
            let written = wal.with_durability(Durability::Written);
            written.append(payload(input)).await.expect("written");
        }
        4 => {
            // As after a Raft conflict: from an earlier index on.
            let last = wal.last_index();
            let index = last + 1 - u64::from(input.u8()).min(last);
            let term = input.u8().into();
            let entry = Entry { index, term, data: payload(input), ..Entry::default() };
            let state = HardState { term, vote: 1, commit: index - 1 };
            // A term that goes back is the caller's mistake.
            let _ = wal.save(state, vec![entry]).await;
        }
        _ => {
            let snapshot = Snapshot { index: wal.last_index(), term: 1, conf_state: None };
            let _ = wal.save_snapshot(snapshot).await;
        }
    }
}

/// One thing that happens to the files.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        file: u8,
        at: u32,
        bit: u8,
    },
    ZeroSectors {
        file: u8,
        at: u32,
        count: u8,
    },
    ZeroBytes {
        file: u8,
        at: u32,
        count: u16,
    },
    Truncate {
        file: u8,
        at: u32,
    },
    Copy {
        file: u8,
        at: u32,
        from: u32,
        count: u16,
    },
    /// The bytes of one segment under the name of another.
    Replace {
        file: u8,
        by: u8,
    },
    /// A copy as the next segment.
    Follow {
        file: u8,
        index: u8,
    },
    Remove {
        file: u8,
    },
    Length {
        file: u8,
        at: u32,
        value: u64,
    },
    Extend {
        file: u8,
        bytes: Vec<u8>,
        count: u16,
    },
}

impl Damage {
    fn new(input: &mut Input<'_>) -> Damage {
        let (kind, file) = (input.one_of(12), input.u8());
        match kind {
            0..=2 => Damage::Flip { file, at: input.u32(), bit: input.u8() % 8 },
            3 => Damage::ZeroSectors { file, at: input.u32(), count: 1 + input.u8() % 8 },
            4 => Damage::ZeroBytes { file, at: input.u32(), count: input.u16() },
            5 => Damage::Truncate { file, at: input.u32() },
            6 => {
                let (at, from) = (input.u32(), input.u32());
                Damage::Copy { file, at, from, count: input.u16() }
            }
            7 => Damage::Replace { file, by: input.u8() },
            8 => Damage::Follow { file, index: input.u8() },
            9 => Damage::Remove { file },
            10 => Damage::Length { file, at: input.u32(), value: input.u64() },
            _ => {
                let (len, count) = (input.u8() % 32, input.u16() % 8192);
                Damage::Extend { file, bytes: input.bytes(len.into()).to_vec(), count }
            }
        }
    }

    /// Whether a segment is lost or replaced as a whole.
    fn is_of_whole_files(&self) -> bool {
        matches!(self, Damage::Replace { .. } | Damage::Follow { .. } | Damage::Remove { .. })
    }

    fn apply(&self, files: &mut Vec<File>, history: &History) {
        let segments: Vec<usize> = (0..files.len()).filter(|&at| files[at].is_segment()).collect();
        let pick = |number: u8| segments.get(usize::from(number) % segments.len().max(1)).copied();
        let (&Damage::Flip { file, .. }
        | &Damage::ZeroSectors { file, .. }
        | &Damage::ZeroBytes { file, .. }
        | &Damage::Truncate { file, .. }
        | &Damage::Copy { file, .. }
        | &Damage::Replace { file, .. }
        | &Damage::Follow { file, .. }
        | &Damage::Remove { file }
        | &Damage::Length { file, .. }
        | &Damage::Extend { file, .. }) = self;
        let Some(number) = pick(file) else {
            return;
        };
        let name = files[number].name.clone();
        let newest = files[segments[segments.len() - 1]].name.clone();
        let bytes = &mut files[number].bytes;
        let len = bytes.len();
        let inside = |at: u32| at as usize % len.max(1);
        let upto = |from: usize, count: usize| from..len.min(from + count);
        match self {
            &Damage::Flip { at, bit, .. } => {
                let at = inside(at);
                // Nothing in etcd's format covers the type of a record: that one cannot be told.
                if let Some(byte) = bytes.get_mut(at)
                    && !history.bare_types.contains(&(name, at))
                {
                    *byte ^= 1 << bit;
                }
            }
            &Damage::ZeroSectors { at, count, .. } => {
                bytes[upto(inside(at) / 512 * 512, 512 * usize::from(count))].fill(0);
            }
            &Damage::ZeroBytes { at, count, .. } => bytes[upto(inside(at), count.into())].fill(0),
            &Damage::Truncate { at, .. } => bytes.truncate(inside(at)),
            &Damage::Copy { at, from, count, .. } => {
                let (from, to) = (upto(inside(from), count.into()), inside(at));
                let count = from.len().min(len - to);
                bytes.copy_within(from.start..from.start + count, to);
            }
            &Damage::Replace { by, .. } => {
                let by = pick(by).expect("there are segments");
                files[number].bytes = files[by].bytes.clone();
            }
            &Damage::Follow { index, .. } => {
                let seq =
                    newest.split_once('-').and_then(|(seq, _)| u64::from_str_radix(seq, 16).ok());
                let Some(seq) = seq.filter(|seq| *seq < u64::MAX - 1) else {
                    return;
                };
                let name = files::segment_name(seq + 1, index.into());
                let bytes = bytes.clone();
                files.push(File { name, bytes });
            }
            Damage::Remove { .. } => drop(files.remove(number)),
            &Damage::Length { at, value, .. } => {
                let range = upto(inside(at) / 8 * 8, 8);
                if range.len() == 8 {
                    bytes[range].copy_from_slice(&value.to_le_bytes());
                }
            }
            Damage::Extend { bytes: more, count, .. } => {
                bytes.resize(len + usize::from(*count), 0);
                bytes.extend(more);
            }
        }
    }
}

/// What the records of a log say, in their order.
#[derive(Debug, Default)]
struct History {
    /// Records that stand or fall together.
    units: Vec<Vec<Record>>,
    /// Where the types of records lie that no mark covers.
    bare_types: HashSet<(String, usize)>,
}

impl History {
    fn of(files: &[File]) -> History {
        let mut history = History::default();
        let numbers = |file: &File| {
            let (seq, index) = file.name.strip_suffix(".wal")?.split_once('-')?;
            let is_hex = |digits: &str| {
                (1..=16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
            };
            let hex = |digits| u64::from_str_radix(digits, 16).ok().filter(|_| is_hex(digits));
            Some((hex(seq)?, hex(index)?))
        };
        let mut segments: Vec<_> =
            files.iter().filter_map(|file| Some((numbers(file)?, &file.name, file))).collect();
        segments.sort_by_key(|&(numbers, name, _)| (numbers, name));
        // What is read from its beginning begins at the last segment that says so by its name.
        let first = segments.iter().rposition(|((_, index), ..)| *index == 0).unwrap_or(0);
        for (.., file) in &segments[first..] {
            history.segment(file);
        }
        history
    }

    fn segment(&mut self, file: &File) {
        let bytes = Bytes::copy_from_slice(&file.bytes);
        let (mut at, mut group_end) = (0, 0);
        while let Some(frame) = internals::frame(&bytes.slice(at..)) {
            let marked = at < group_end;
            if frame.record_type == 4
                && !marked
                && let Some(len) = group_bytes(&frame)
            {
                group_end = at.saturating_add(len);
                self.units.push(Vec::new());
            } else {
                if !marked {
                    self.units.push(Vec::new());
                    self.bare_types.insert((file.name.clone(), at + 9));
                }
                let unit = self.units.last_mut().expect("one was just begun");
                unit.extend(frame.content());
            }
            at += frame.bytes;
        }
    }

    /// What was seen is what the log held at some time, group by group.
    fn assert_prefix(&self, seen: &Seen, damage: &[Damage]) {
        // Without marks nothing tells a shorter log, or the segment of another place.
        if !self.bare_types.is_empty() && damage.iter().any(Damage::is_of_whole_files) {
            return;
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut state = HardState::default();
        let mut found = false;
        // Entries up to there may have been released.
        let from = seen.recovery.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        for unit in [&Vec::new()].into_iter().chain(&self.units) {
            for record in unit {
                match record {
                    Record::Entry(entry) => {
                        let keep = entries.partition_point(|known| known.index < entry.index);
                        entries.truncate(keep);
                        entries.push(entry.clone());
                    }
                    Record::State(next) => state = *next,
                    _ => {}
                }
            }
            let shown = entries.iter().filter(|entry| entry.index > from);
            found |= shown.eq(&seen.entries) && state == seen.recovery.hard_state;
        }
        assert!(found, "this was never in the log: {seen:?}; {damage:?}");
    }
}

fn group_bytes(frame: &Frame) -> Option<usize> {
    let mark = internals::mark_again(frame.data.as_ref()?)?;
    let bytes = u64::from_le_bytes(mark[64..72].try_into().expect("eight bytes"));
    usize::try_from(bytes).ok()
}
