//! Logs that etcd wrote read to exactly what etcd reads, and take appends.
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::fixtures::{self, Unpacked};
use common::logs::{self, Contents};
use seawal::{Backend, ErrorKind, Options, Reader, Start, Verdict, Wal};
use serde_json::Value;
use std::path::Path;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Index and term in the first line of a dump.
fn start_of(lines: &[Value]) -> (u64, u64) {
    (number(&lines[0]["index"]), number(&lines[0]["term"]))
}

/// What etcd says of reading from 0: `real` has it as `read_zero`, the others as `zero`.
fn opens_from_zero(expect: &Value) -> bool {
    let zero = if expect["zero"].is_null() { &expect["read_zero"] } else { &expect["zero"] };
    number(&zero["rc"]) == 0
}

fn at(start: Start) -> Options {
    Options::new().start(start).backend(Backend::Threads)
}

fn snapshot_start((index, term): (u64, u64)) -> Start {
    if (index, term) == (0, 0) { Start::Beginning } else { Start::Snapshot { index, term } }
}

fn assert_reads_as(wal: &Path, start: Start, expected: &[Value], what: &str) -> Contents {
    let contents = Contents::read(wal, at(start)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let snapshots = Reader::snapshots_blocking(wal).unwrap();
    logs::assert_same_lines(&contents.lines(&snapshots), expected, what);
    contents
}

/// Reads a fixture from every start there is. Gives the last one, with its contents.
fn read_fixture(name: &str, unpacked: &Unpacked) -> (Start, Contents) {
    let wal = unpacked.wal();
    let expect = fixtures::expect(name);
    let before = logs::on_disk(unpacked.root());
    let mut last = None;

    if opens_from_zero(&expect) {
        let lines = fixtures::dump_lines(name).expect("a dump from 0");
        assert_eq!(start_of(&lines), (0, 0), "{name}");
        let contents = assert_reads_as(wal, Start::Beginning, &lines, &format!("{name} from 0"));
        last = Some((Start::Beginning, contents));
    } else {
        let error = Contents::read(wal, at(Start::Beginning)).expect_err(name);
        println!("{name} from 0: {error}");
        let kinds = [ErrorKind::Released, ErrorKind::Damaged];
        assert!(kinds.contains(&error.kind()), "{name} from 0: {error:?}");
        assert!(error.path().is_some_and(|path| path.starts_with(wal)), "{name}: {error}");
        assert!(error.next_step().is_some(), "{name}: {error}");
    }

    // `real` keeps its dump from the latest snapshot apart; the others keep one of it only where 0 is refused.
    let latest = fixtures::latest_lines(name)
        .or_else(|| fixtures::dump_lines(name).filter(|lines| start_of(lines) != (0, 0)));
    let from_latest = Contents::read(wal, at(Start::LatestSnapshot)).unwrap();
    if let Some(lines) = latest {
        let start = snapshot_start(start_of(&lines));
        assert_reads_as(wal, Start::LatestSnapshot, &lines, &format!("{name} from the latest"));
        let contents = assert_reads_as(wal, start, &lines, &format!("{name} from {start:?}"));
        assert_eq!(contents, from_latest, "{name}");
        last = Some((start, contents));
    } else {
        let expected = &expect["latest"];
        assert_eq!(from_latest.start, start_of(std::slice::from_ref(&expected["start"])), "{name}");
        let strip = |mut line: Value| {
            line.as_object_mut().unwrap().remove("kind");
            line
        };
        assert_eq!(strip(from_latest.summary()), expected["summary"], "{name} from the latest");
        assert_eq!(strip(from_latest.state()), expected["hardstate"], "{name} from the latest");
    }
    assert_eq!(logs::on_disk(unpacked.root()), before, "{name}: a reader changed something");
    last.expect("one start that works")
}

/// Opens a log for writing, appends, and reads all of it again after a reopen.
fn append_to(name: &str, wal: &Path, start: Start, contents: &Contents, backend: Backend) {
    let what = format!("{name} {backend} {start:?}");
    let options = || Options::new().start(start).backend(backend).segment_bytes(1 << 20);
    let mut expected = contents.entries.clone();

    let (log, recovery) = Wal::open_blocking(wal, options()).unwrap();
    assert_eq!(recovery.verdict, Verdict::Clean, "{what}");
    assert_eq!(recovery.cut, None, "{what}");
    let found = Contents::of(&log, &recovery).unwrap();
    logs::assert_same_entries(&found.entries, &expected, &what);
    assert_eq!(found.head(), contents.head(), "{what}");

    for size in [0, 100, 5000] {
        let payload = vec![b'x'; size];
        let index = log.append_blocking(payload).unwrap();
        let next = expected.last().map_or(contents.start.0, |entry| entry.index) + 1;
        assert_eq!(index, next, "{what}");
        let entry = log.read(index..).blocking().next().unwrap().unwrap();
        assert!(entry.term >= expected.last().map_or(1, |entry| entry.term), "{what}");
        assert_eq!(entry.data.len(), size, "{what}");
        expected.push(entry);
    }
    assert_eq!(log.close_blocking().unwrap(), expected.last().unwrap().index, "{what}");

    let (log, recovery) = Wal::open_blocking(wal, options()).unwrap();
    assert_eq!(recovery.verdict, Verdict::Clean, "{what}");
    logs::assert_bounds(&recovery, &expected);
    let found = Contents::of(&log, &recovery).unwrap();
    logs::assert_same_entries(&found.entries, &expected, &what);
    assert_eq!(found.head(), contents.head(), "{what}");
    log.close_blocking().unwrap();
}

fn group(group: &str) {
    let uring = Backend::Uring;
    for (at, name) in fixtures::cases(group).iter().enumerate() {
        let unpacked = fixtures::unpack(name);
        let (start, contents) = read_fixture(name, &unpacked);
        // A ring sees the same bytes: every fixture on threads, some on both.
        if at % 2 == 0 && uring_works() {
            let copy = tempfile::tempdir().unwrap();
            logs::copy_dir(unpacked.wal(), copy.path());
            append_to(name, copy.path(), start, &contents, uring);
        }
        append_to(name, unpacked.wal(), start, &contents, Backend::Threads);
    }
}

fn uring_works() -> bool {
    let dir = tempfile::tempdir().unwrap();
    match Wal::create_blocking(dir.path().join("log"), Options::new().backend(Backend::Uring)) {
        Ok(wal) => wal.close_blocking().is_ok(),
        Err(error) => {
            eprintln!("no io_uring here: {error}");
            false
        }
    }
}

#[test]
fn real() {
    group("real");
}

#[test]
fn written_by_3_4() {
    group("written");
}

#[test]
fn written_by_3_6() {
    group("written-3.6");
}

#[test]
fn the_writer_starts_where_the_reader_does() {
    let unpacked = fixtures::unpack("real/single");
    let reader = Contents::read(unpacked.wal(), at(Start::LatestSnapshot)).unwrap();
    let (wal, recovery) = Wal::open_blocking(unpacked.wal(), at(Start::LatestSnapshot)).unwrap();
    assert_eq!(Contents::of(&wal, &recovery).unwrap(), reader);
    assert_eq!(wal.first_index(), reader.start.0 + 1);
    let error = wal.read(reader.start.0..).blocking().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Released, "{error}");
    wal.close_blocking().unwrap();
}

/// A snapshot record past the commit index is none that reading may start from.
#[test]
fn snapshot_that_is_not_committed_is_passed_over() {
    let unpacked = fixtures::unpack("written/snapshots");
    let found = Reader::snapshots_blocking(unpacked.wal()).unwrap();
    let expected: Vec<(u64, u64)> = fixtures::dump_lines("written/snapshots")
        .unwrap()
        .iter()
        .filter(|line| line["kind"] == "snapshot")
        .map(|line| (number(&line["index"]), number(&line["term"])))
        .collect();
    let found: Vec<(u64, u64)> = found.iter().map(|s| (s.index, s.term)).collect();
    assert_eq!(found, expected);
}

/// etcd 3.6 writes the members into its snapshot records.
#[test]
fn members_of_a_snapshot_are_read() {
    let unpacked = fixtures::unpack("written-3.6/snapshots");
    let snapshots = Reader::snapshots_blocking(unpacked.wal()).unwrap();
    let with_members = snapshots.iter().filter(|snapshot| snapshot.index > 0);
    for snapshot in with_members {
        let conf = snapshot.conf_state.as_ref().unwrap_or_else(|| panic!("{snapshot:?}"));
        assert!(!conf.voters.is_empty(), "{snapshot:?}");
    }
}
