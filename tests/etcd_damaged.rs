//! Damaged logs get etcd 3.6.14's verdict, and where that loses or invents data, a stricter one.
//!
//! The cases and what etcd says are in `fixtures/etcd/damaged`; a star in the table of the README marks those where
//! etcd's answer loses or invents data without saying so. [`STARRED`] has our answer to each of them.
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::fixtures::{self, Unpacked};
use common::logs::{self, Contents};
use seawal::{Backend, Error, ErrorKind, Options, Reader, Recovery, Start, Verdict, Wal};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What opening for writing gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// As etcd 3.6.14: what its write mode finds, or what its repair leaves.
    AsEtcd,
    /// Opens and has no entries.
    NoEntries,
    /// The same entries as etcd, but told as a torn tail, and with a copy of what is cut.
    TornNotClean,
    Refused(ErrorKind),
}

use Answer::{AsEtcd, NoEntries, Refused, TornNotClean};

const HEAD_FIRST: &str = "a segment gets its name only after its head is durable";
const LENGTH_IS_UNCHECKED: &str = "a length field has no checksum: one that reaches past the end of the file may be \
     what an unfinished write left";
const WHOLLY_WRITTEN: &str = "the frame lies within the file and no sector of it is zero, so it was wholly written: \
     a flipped bit, not a torn write";
const MISALIGNED: &str = "frames end at multiples of eight: this length field was not written so";
const GARBAGE: &str =
    "a frame that reaches past the end of the file is what an unfinished write leaves";
const NOTHING_SHOWS_IT: &str =
    "what is left is a sound log; without marks nothing tells it from a shorter one";
const SEALED: &str = "as etcd: a sealed segment was complete, so it is damage";
const ETCD_22442: &str = "etcd's issue 22442: Raft dropped the entries that etcd gives back";

/// Our answer to each starred case, with the reason.
const STARRED: &[(&str, Answer, &str)] = &[
    ("log-crafted-count-no-flag", Refused(ErrorKind::Damaged), MISALIGNED),
    (
        "log-crafted-empty-entry",
        Refused(ErrorKind::Damaged),
        "an entry of index 0 is not one: etcd drops the entries before it",
    ),
    ("log-crafted-overwrite-below-snapshot", NoEntries, ETCD_22442),
    (
        "log-crafted-snapshot-missing",
        Refused(ErrorKind::SnapshotNotFound),
        "etcd forgets its own error in write mode",
    ),
    ("log-crafted-snapshot-over-tail", NoEntries, ETCD_22442),
    ("restarts-flip-sealed-length", AsEtcd, SEALED),
    ("restarts-truncated-sealed-mid-frame", AsEtcd, SEALED),
    ("seg-empty-last-file", Refused(ErrorKind::Damaged), HEAD_FIRST),
    ("seg-flip-length-last", AsEtcd, LENGTH_IS_UNCHECKED),
    ("seg-flip-length-small", Refused(ErrorKind::Damaged), WHOLLY_WRITTEN),
    ("seg-flip-padding-count", Refused(ErrorKind::Damaged), MISALIGNED),
    ("seg-flip-sealed-length", AsEtcd, SEALED),
    ("seg-garbage-at-tail", AsEtcd, GARBAGE),
    (
        "seg-hole-of-one-record",
        TornNotClean,
        "records follow the hole, so something is cut: say so, keep a copy",
    ),
    ("seg-index-in-name-wrong", AsEtcd, "the index in a name only says where to start reading"),
    ("seg-missing-last", AsEtcd, NOTHING_SHOWS_IT),
    ("seg-torn-not-last", AsEtcd, "one Save that lost a page in its middle looks like this"),
    ("seg-truncated-at-boundary", AsEtcd, NOTHING_SHOWS_IT),
    ("seg-truncated-sealed-mid-frame", AsEtcd, SEALED),
    ("seg-zero-last-file", Refused(ErrorKind::Damaged), HEAD_FIRST),
    ("single-empty-last-file", Refused(ErrorKind::Damaged), HEAD_FIRST),
    ("single-flip-length-last", AsEtcd, LENGTH_IS_UNCHECKED),
    ("single-flip-length-small", Refused(ErrorKind::Damaged), WHOLLY_WRITTEN),
    ("single-flip-padding-count", Refused(ErrorKind::Damaged), MISALIGNED),
    ("single-garbage-at-tail", AsEtcd, GARBAGE),
    ("single-hole-of-one-record", TornNotClean, "as seg-hole-of-one-record"),
    ("single-torn-not-last", AsEtcd, "as seg-torn-not-last"),
    ("single-truncated-at-boundary", AsEtcd, NOTHING_SHOWS_IT),
    ("single-zero-last-file", Refused(ErrorKind::Damaged), HEAD_FIRST),
];

/// The starred names of the table in the README of the fixtures.
fn starred_in_readme() -> BTreeSet<String> {
    let text = fs::read_to_string(fixtures::root().join("README.md")).unwrap();
    let (_, damaged) = text.split_once("## damaged/").expect("the section of damaged cases");
    damaged
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .filter_map(|(name, _)| name.trim().strip_suffix(" *"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_table_has_exactly_the_starred_cases() {
    let ours: BTreeSet<String> = STARRED.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(ours.len(), STARRED.len(), "a case is there twice");
    assert_eq!(ours, starred_in_readme());
    let all: BTreeSet<String> = fixtures::cases("damaged").into_iter().collect();
    for name in ours {
        assert!(all.contains(&format!("damaged/{name}")), "{name}");
    }
}

/// Read from the latest snapshot, where the damage lies before what is needed: etcd reads all segments and refuses; here
/// such a log opens, and `verify` finds the damage.
const UNNEEDED: &[&str] = &[
    "restarts-flip-sealed",
    "restarts-flip-sealed-crc-field",
    "restarts-flip-sealed-length",
    "restarts-truncated-sealed-boundary",
    "restarts-truncated-sealed-mid-frame",
    "restarts-zero-sector-sealed",
    "restarts-zeros-in-sealed",
];

struct Case {
    name: String,
    expect: Value,
    log: Unpacked,
}

impl Case {
    fn load(name: &str) -> Case {
        Case { name: name.to_owned(), expect: fixtures::expect(name), log: fixtures::unpack(name) }
    }

    fn answer(&self) -> Answer {
        let short = self.name.trim_start_matches("damaged/");
        STARRED.iter().find(|row| row.0 == short).map_or(AsEtcd, |row| row.1)
    }

    /// etcd 3.6.14's verdict.
    fn verdict(&self) -> &str {
        self.expect["verdict-3.6.14"].as_str().unwrap()
    }

    fn start(&self) -> Start {
        let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
        match &self.expect["start"].as_array().unwrap()[..] {
            [latest] if latest == "latest" => Start::LatestSnapshot,
            [index, term] => match (number(index), number(term)) {
                (0, 0) => Start::Beginning,
                (index, term) => Start::Snapshot { index, term },
            },
            other => panic!("{}: start {other:?}", self.name),
        }
    }

    fn options(&self) -> Options {
        Options::new().start(self.start()).backend(Backend::Threads).segment_bytes(1 << 20)
    }

    fn wal(&self) -> &Path {
        self.log.wal()
    }

    fn check(&self) {
        let refused = |kinds: &[ErrorKind]| self.check_refused(self.start(), kinds);
        match (self.answer(), self.verdict()) {
            (Refused(kind), _) => refused(&[kind]),
            (NoEntries, "opens") => {
                let recovery = self.check_opens(Verdict::Clean, None);
                assert_eq!(recovery.last_index, None, "{}", self.name);
            }
            (TornNotClean, "opens") => self.check_torn("write"),
            (AsEtcd, "opens") => {
                self.check_opens(Verdict::Clean, Some(&self.summary("write")));
            }
            (AsEtcd, "repairable") => self.check_torn("repair"),
            (AsEtcd, "refused") if self.is_unneeded() => self.check_found_by_verify(),
            (AsEtcd, "refused" | "panic") => refused(&[ErrorKind::Damaged, ErrorKind::Released]),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    fn is_unneeded(&self) -> bool {
        UNNEEDED.contains(&self.name.trim_start_matches("damaged/"))
    }

    /// Opens, and checking it on request finds what opening did not look at: one failure, in the segment that reading from
    /// before it stumbles over.
    fn check_found_by_verify(&self) {
        let name = &self.name;
        assert_eq!(self.start(), Start::LatestSnapshot, "{name}");
        self.check_opens(Verdict::Clean, None);
        let (reader, recovery) = Reader::open_blocking(self.wal(), self.options()).unwrap();
        let (wal, _) = Wal::open_blocking(self.wal(), self.options()).unwrap();
        let before = recovery.snapshot.map_or(0, |snapshot| snapshot.index);
        for found in [reader.verify(), wal.verify()] {
            let (sound, damaged): (Vec<_>, Vec<_>) = found.blocking().partition(Result::is_ok);
            println!("{name}: {} sound segments, {damaged:?}", sound.len());
            let [Err(error)] = &damaged[..] else { panic!("{name}: {damaged:?}") };
            assert!(error.is_damaged(), "{name}: {error}");
            self.check_text(error);
            // The oldest segment was released: start from a snapshot before the damage, if there is one.
            let refused = Reader::snapshots_blocking(self.wal()).err();
            if let Some(refused) = refused.filter(Error::is_damaged) {
                let place = |error: &Error| (error.path().map(Path::to_owned), error.offset());
                assert_eq!(place(error), place(&refused), "{name}: {error}; {refused}");
            }
            assert!(before > 0, "{name}");
        }
        wal.close_blocking().unwrap();
    }

    fn summary(&self, mode: &str) -> Value {
        let mut summary = self.expect["etcd-3.6.14"][mode]["summary"].clone();
        summary.as_object_mut().unwrap().insert("kind".into(), "summary".into());
        summary
    }

    fn check_refused(&self, start: Start, kinds: &[ErrorKind]) {
        let options = || self.options().start(start);
        let name = &self.name;
        let before = logs::on_disk(self.log.root());
        let by_writer = match Wal::open_blocking(self.wal(), options()) {
            Ok((_, recovery)) => panic!("{name} opens: {recovery:?}"),
            Err(error) => error,
        };
        assert_eq!(logs::on_disk(self.log.root()), before, "{name}: something changed");
        println!("{name}: {by_writer}");
        let by_reader = Contents::read(self.wal(), options()).expect_err(name);
        assert_eq!(by_reader.to_string(), by_writer.to_string(), "{name}");
        assert!(kinds.contains(&by_writer.kind()), "{name}: {by_writer:?}");
        self.check_text(&by_writer);
    }

    /// Names a file of the log, says something of its own, and what to do next.
    fn check_text(&self, error: &Error) {
        let name = &self.name;
        let path = error.path().unwrap_or_else(|| panic!("{name}: no path in {error:?}"));
        assert_eq!(path.parent(), Some(self.wal()), "{name}");
        assert!(path.extension().is_some_and(|extension| extension == "wal"), "{name}: {path:?}");
        let text = error.to_string();
        assert!(text.contains(&*path.to_string_lossy()), "{name}: {text}");
        assert!(error.next_step().is_some_and(|step| text.ends_with(step)), "{name}: {text}");
        let names_only = ["-missing-", "-sequence-gap", "snapshot-missing"];
        if !names_only.iter().any(|part| name.contains(part)) {
            let offset = error.offset().unwrap_or_else(|| panic!("{name}: no offset in {text}"));
            let len = fs::metadata(path).unwrap().len();
            assert!(offset <= len, "{name}: offset {offset} of {len}");
            assert!(text.contains(&format!(" at {offset}: ")), "{name}: {text}");
        }
    }

    /// Opens, has the entries of `expected` (if given), and is a log as any other from then on.
    fn check_opens(&self, verdict: Verdict, expected: Option<&Value>) -> Recovery {
        let name = &self.name;
        let by_reader = Contents::read(self.wal(), self.options())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (wal, recovery) = Wal::open_blocking(self.wal(), self.options())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(recovery.verdict, verdict, "{name}: {recovery:?}");
        // Bytes that are no records are cleared from behind a clean end, and a copy kept as of a torn tail.
        let garbage = name.ends_with("-garbage-after-zero");
        assert_eq!(recovery.cut.is_some(), verdict == Verdict::Torn || garbage, "{name}");
        let kept = recovery.cut.as_ref().is_none_or(|cut| cut.backup.as_ref().unwrap().exists());
        assert!(kept, "{name}");
        let contents = Contents::of(&wal, &recovery).unwrap();
        assert_eq!(contents, by_reader, "{name}: writer and reader differ");
        if let Some(summary) = expected {
            assert_eq!(&contents.summary(), summary, "{name}");
        }

        let mut entries = contents.entries;
        let next = wal.last_index() + 1;
        for index in next..next + 3 {
            assert_eq!(wal.append_blocking(vec![b'y'; 700]).unwrap(), index, "{name}");
            entries.push(wal.read(index..).blocking().next().unwrap().unwrap());
        }
        wal.close_blocking().unwrap();
        let (wal, again) = Wal::open_blocking(self.wal(), self.options()).unwrap();
        assert_eq!(again.verdict, Verdict::Clean, "{name}: {again:?}");
        let contents = Contents::of(&wal, &again).unwrap();
        logs::assert_same_entries(&contents.entries, &entries, name);
        wal.close_blocking().unwrap();
        recovery
    }

    /// Is cut where etcd cuts, with a copy of what was there.
    fn check_torn(&self, mode: &str) {
        let name = &self.name;
        let newest = logs::segments(self.wal()).pop().unwrap();
        let original = fs::read(&newest).unwrap();
        let recovery = self.check_tail_after_cut(&newest, mode);
        let cut = recovery.cut.unwrap();
        println!(
            "{name}: {} at {}: {} bytes cut, {}",
            cut.path.display(),
            cut.position,
            cut.bytes,
            cut.reason
        );
        assert_eq!(cut.path, newest, "{name}");

        let backup = cut.backup.unwrap_or_else(|| panic!("{name}: no copy"));
        assert_eq!(backup.as_os_str(), &*format!("{}.broken", newest.display()), "{name}");
        let copy = fs::read(&backup).unwrap();
        let end = logs::data_end(&original);
        assert!(copy.len() >= end, "{name}: the copy is too short");
        assert!(copy[..end] == original[..end], "{name}: the copy differs");
        assert!(copy[end..].iter().all(|&byte| byte == 0), "{name}: the copy has more");
        let (from, to) = (cut.position.offset as usize, end);
        let eight = 8; // the end is told in whole words
        assert!(cut.bytes as usize >= to - from, "{name}: {} of {}", cut.bytes, to - from);
        assert!((cut.bytes as usize) < to - from + eight, "{name}: {} of {}", cut.bytes, to - from);
    }

    fn check_tail_after_cut(&self, newest: &Path, mode: &str) -> Recovery {
        let name = &self.name;
        // Opened and closed alone first, to see the tail before something is appended.
        let copy = tempfile::tempdir().unwrap();
        logs::copy_dir(self.wal(), copy.path());
        let (wal, recovery) = Wal::open_blocking(copy.path(), self.options()).unwrap();
        let cut = recovery.cut.unwrap_or_else(|| panic!("{name}: nothing cut"));
        let bytes = fs::read(copy.path().join(newest.file_name().unwrap())).unwrap();
        wal.close_blocking().unwrap();
        let from = cut.position.offset as usize;
        let stale = fs::read(newest).unwrap();
        // The recovery mark, and the filler that seals an unaligned tail, are all that may follow.
        let marks_end = (from + 2 * 4096).next_multiple_of(4096).min(bytes.len());
        assert!(bytes[marks_end..].iter().all(|&byte| byte == 0), "{name}: the tail is not zero");
        if logs::data_end(&stale) > from + 64 {
            let end = logs::data_end(&stale).min(bytes.len());
            assert!(bytes[from..end] != stale[from..end], "{name}: the torn bytes are still there");
        }
        self.check_opens(Verdict::Torn, Some(&self.summary(mode)))
    }
}

/// Checks all cases of a kind, also after one that fails.
fn all_of(part: &str) {
    let names: Vec<String> = fixtures::cases("damaged")
        .into_iter()
        .filter(|name| name.trim_start_matches("damaged/").starts_with(part))
        .collect();
    assert!(!names.is_empty());
    let failed: Vec<&String> = names
        .iter()
        .filter(|name| std::panic::catch_unwind(|| Case::load(name).check()).is_err())
        .collect();
    assert!(failed.is_empty(), "{} of {} cases fail: {failed:#?}", failed.len(), names.len());
}

#[test]
fn crafted() {
    all_of("log-crafted-");
}

#[test]
fn segments() {
    all_of("seg-");
}

#[test]
fn single() {
    all_of("single-");
}

#[test]
fn restarts() {
    all_of("restarts-");
}

#[test]
fn every_case_is_in_one_of_the_tests() {
    let parts = ["log-crafted-", "seg-", "single-", "restarts-"];
    for name in fixtures::cases("damaged") {
        let short = name.trim_start_matches("damaged/");
        assert!(parts.iter().any(|part| short.starts_with(part)), "{name}");
    }
}
