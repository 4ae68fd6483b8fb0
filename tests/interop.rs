//! etcd reads what seawal writes, and the other way round, with etcd's own Go package (see `interop/main.go`).
//!
//! Skips without `go` or that package, unless `SEAWAL_REQUIRE` names `interop`.
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::etcd::{etcd, program};
use common::logs::{self, Contents};
use seawal::{
    Backend, ConfState, Durability, Entry, HardState, Options, Packing, Prealloc, Reader, Result,
    Snapshot, Start, Streams, SyncMethod, Verdict, Wal,
};
use std::path::Path;
use std::time::{Duration, Instant};

fn options() -> Options {
    Options::new().backend(Backend::Threads).segment_bytes(1 << 20)
}

/// The words with which the program starts where we do.
fn start_words(start: Start) -> Vec<String> {
    match start {
        Start::Beginning => vec![],
        Start::LatestSnapshot => vec!["latest".into()],
        Start::Snapshot { index, term } => vec![index.to_string(), term.to_string()],
    }
}

/// etcd reads, verifies and opens the log to what we read.
#[track_caller]
fn same_in_etcd(dir: &Path, start: Start, what: &str) -> Contents {
    let ours = Contents::read(dir, options().start(start))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let lines = ours.lines(&Reader::snapshots_blocking(dir).unwrap());
    let words = start_words(start);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    logs::assert_same_lines(&etcd(&["read"], dir, &words), &lines, &format!("{what}: read"));
    etcd(&["verify"], dir, &words);
    // Opening for writing takes locks and may change the tail: on a copy.
    let copy = tempfile::tempdir().unwrap();
    logs::copy_dir(dir, copy.path());
    let opened = etcd(&["open"], copy.path(), &words);
    assert_eq!(opened.last(), Some(&ours.summary()), "{what}: open");
    assert_eq!(opened[2], ours.state(), "{what}: open");
    ours
}

/// Byte `j` of entry `index`, as the program fills them.
fn payload(index: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((index.wrapping_mul(31) + at as u64) % 251) as u8).collect()
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry { index, term, data: payload(index, bytes).into(), ..Entry::default() }
}

fn block<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(future)
}

fn save(wal: &Wal, term: u64, vote: u64, commit: u64, entries: Vec<Entry>) {
    block(wal.save(HardState { term, vote, commit }, entries)).unwrap();
}

/// Waits for the idle mark: the newest segment then grows no more.
fn idle(dir: &Path) {
    let used = || {
        let newest = logs::segments(dir).pop().unwrap();
        (newest.clone(), logs::data_end(&std::fs::read(&newest).unwrap()))
    };
    let mut before = used();
    let deadline = Instant::now() + logs::HANG;
    loop {
        std::thread::sleep(Duration::from_millis(150));
        let now = used();
        if now == before {
            return;
        }
        assert!(Instant::now() < deadline, "the log does not come to rest");
        before = now;
    }
}

/// One way to write a log.
struct Kind {
    name: &'static str,
    options: fn() -> Options,
    write: fn(&Wal, &Path),
}

fn buffered() -> Options {
    options().sync_method(SyncMethod::Fdatasync)
}

fn dense() -> Options {
    buffered().packing(Packing::Dense).prealloc(Prealloc::Fallocate).idle_mark_after(None)
}

fn blocks() -> Options {
    buffered().packing(Packing::Block).idle_mark_after(None)
}

/// Where the file system has no direct I/O, this is another `dense`.
fn direct() -> Options {
    options().sync_method(SyncMethod::Auto).idle_mark_after(None)
}

fn small_direct_segments() -> Options {
    direct().segment_bytes(32 << 10)
}

/// One of each way to write, with small segments.
const SMALL: &[fn() -> Options] = &[
    small_segments,
    || small_segments().prealloc(Prealloc::ZeroFill),
    || blocks().segment_bytes(16 << 10),
    small_direct_segments,
    || small_direct_segments().prealloc(Prealloc::Fallocate),
];

fn small_segments() -> Options {
    dense().segment_bytes(16 << 10)
}

fn with_idle_marks() -> Options {
    buffered().idle_mark_after(Some(Duration::from_millis(1)))
}

fn plain(wal: &Wal, _: &Path) {
    for size in [0, 1, 7, 8, 100, 4000, 4096, 9000, 3] {
        wal.append_blocking(payload(wal.last_index() + 1, size)).unwrap();
    }
}

fn many(wal: &Wal, _: &Path) {
    for at in 0..100 {
        let next = wal.last_index() + 1;
        let batch: Vec<Vec<u8>> = (0..at % 5 + 1).map(|i| payload(next + i, 300)).collect();
        wal.append_batch_blocking(batch).unwrap();
    }
}

fn rests(wal: &Wal, dir: &Path) {
    for at in 0..4 {
        wal.append_blocking(payload(at, 700)).unwrap();
        idle(dir);
    }
}

fn raft(wal: &Wal, _: &Path) {
    let base = wal.last_index();
    save(wal, 2, 5, base, (base + 1..=base + 10).map(|i| entry(i, 2, 50)).collect());
    save(wal, 3, 7, base + 4, vec![]);
    // A conflict: 5 to 10 are replaced.
    save(wal, 3, 7, base + 4, (base + 5..=base + 7).map(|i| entry(i, 3, 60)).collect());
    save(wal, 0, 0, 0, (base + 8..=base + 12).map(|i| entry(i, 3, 6000)).collect());
    save(wal, 4, 0, base + 12, vec![]);
    wal.append_blocking("plain, in the highest term").unwrap();
}

fn large(wal: &Wal, _: &Path) {
    wal.append_blocking("before").unwrap();
    wal.append_blocking(payload(2, 3_000_000)).unwrap();
    wal.append_batch_blocking([payload(3, 700_000), payload(4, 1_500_000), payload(5, 0)]).unwrap();
    wal.append_blocking("after").unwrap();
}

const KINDS: &[Kind] = &[
    Kind { name: "dense", options: dense, write: plain },
    Kind { name: "blocks", options: blocks, write: plain },
    Kind { name: "many segments", options: small_segments, write: many },
    Kind {
        name: "many segments of blocks",
        options: || blocks().segment_bytes(32 << 10),
        write: many,
    },
    Kind { name: "idle marks", options: with_idle_marks, write: rests },
    Kind {
        name: "idle marks in blocks",
        options: || with_idle_marks().packing(Packing::Block),
        write: rests,
    },
    Kind { name: "raft", options: dense, write: raft },
    Kind {
        name: "raft in small segments of blocks",
        options: || blocks().segment_bytes(16 << 10),
        write: raft,
    },
    Kind { name: "large records", options: dense, write: large },
    Kind {
        name: "large records in small groups",
        options: || blocks().group_bytes_max(4096),
        write: large,
    },
    Kind { name: "metadata", options: || small_segments().metadata("meta"), write: many },
    Kind { name: "empty metadata", options: || small_segments().metadata(""), write: many },
    Kind { name: "direct", options: direct, write: plain },
    Kind { name: "many direct segments", options: small_direct_segments, write: many },
    Kind {
        name: "many direct segments without zeros",
        options: || small_direct_segments().prealloc(Prealloc::Fallocate),
        write: many,
    },
    Kind {
        name: "idle marks, direct",
        options: || direct().idle_mark_after(Some(Duration::from_millis(1))),
        write: rests,
    },
    Kind {
        name: "raft in small direct segments",
        options: || direct().segment_bytes(16 << 10),
        write: raft,
    },
    Kind { name: "large direct records", options: || direct().group_bytes_max(4096), write: large },
    Kind {
        name: "written before it is durable",
        options: || {
            let soon = Duration::from_millis(5);
            small_direct_segments().durability(Durability::Written).sync_interval(soon)
        },
        write: many,
    },
    Kind {
        name: "written before it is durable, dense",
        options: || {
            let soon = Duration::from_millis(5);
            small_segments().durability(Durability::Written).sync_interval(soon)
        },
        write: many,
    },
];

/// Ends the writing: by closing, or by dropping the handle, which ends it in the background.
fn end(wal: Wal, close: bool) {
    if close {
        wal.close_blocking().unwrap();
    }
    drop(wal);
}

/// Opens, retrying while a dropped handle still holds the lock.
fn open(dir: &Path, options: Options) -> Result<(Wal, seawal::Recovery)> {
    Wal::open_blocking(dir, options.lock_wait(logs::HANG))
}

/// A handle that was dropped ends in the background: whoever gets the lock comes after it.
fn wait_until_let_go(dir: &Path, kind: &Kind) {
    open(dir, (kind.options)()).unwrap().0.close_blocking().unwrap();
}

fn there_and_back(kind: &Kind, close: bool) {
    let name = format!("{}, {}", kind.name, if close { "closed" } else { "dropped" });
    let root = tempfile::tempdir().unwrap();
    let dir = &root.path().join("log");
    let wal = Wal::create_blocking(dir, (kind.options)()).unwrap();
    same_in_etcd_while_open(dir, &name);
    (kind.write)(&wal, dir);
    same_in_etcd_while_open(dir, &format!("{name}, open"));
    end(wal, close);
    if !close {
        wait_until_let_go(dir, kind);
    }
    same_in_etcd(dir, Start::Beginning, &name);

    // Opened several times, with and without writing.
    for round in 0..3 {
        let (wal, recovery) = open(dir, (kind.options)()).unwrap();
        assert_eq!(recovery.verdict, Verdict::Clean, "{name}");
        if round > 0 {
            wal.append_blocking(format!("round {round}")).unwrap();
        }
        end(wal, close);
        if !close {
            wait_until_let_go(dir, kind);
        }
        same_in_etcd(dir, Start::Beginning, &format!("{name}, round {round}"));
    }

    // etcd goes on, then we, then etcd again; with and without a conflict.
    for (round, conflict) in ["0", "3"].into_iter().enumerate() {
        let name = format!("{name}, appended by etcd with conflict {conflict}");
        let segment = ["--segment-size", ["20000", "1000000"][round]];
        let said =
            etcd(&["append", "--conflict", conflict, segment[0], segment[1]], dir, &["7", "900"]);
        let ours = same_in_etcd(dir, Start::Beginning, &name);
        assert_eq!(said.last(), Some(&ours.summary()), "{name}");

        let (wal, recovery) = open(dir, (kind.options)()).unwrap();
        assert_eq!(recovery.verdict, Verdict::Clean, "{name}: {recovery:?}");
        assert_eq!(Contents::of(&wal, &recovery).unwrap(), ours, "{name}");
        for _ in 0..20 {
            wal.append_blocking(payload(wal.last_index() + 1, 1500)).unwrap();
        }
        end(wal, true);
        let after = same_in_etcd(dir, Start::Beginning, &format!("{name}, and by us"));
        assert_eq!(after.entries.len(), ours.entries.len() + 20, "{name}");
        logs::assert_same_entries(&after.entries[..ours.entries.len()], &ours.entries, &name);
    }
}

/// A log that is open: nobody else may write, but etcd's reader takes no locks.
fn same_in_etcd_while_open(dir: &Path, what: &str) {
    idle(dir);
    let ours = Contents::read(dir, options()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let read = etcd(&["read"], dir, &[]);
    assert_eq!(read.last(), Some(&ours.summary()), "{what}");
    etcd(&["verify"], dir, &[]);
}

#[test]
fn what_seawal_wrote_and_closed() {
    if program().is_some() {
        KINDS.iter().for_each(|kind| there_and_back(kind, true));
    }
}

#[test]
fn what_seawal_wrote_and_dropped() {
    if program().is_some() {
        // Every other one: it takes long, and ends like any other.
        KINDS.iter().step_by(2).for_each(|kind| there_and_back(kind, false));
    }
}

/// What is left of a log after a release, from the snapshot record that it was written down by.
#[test]
fn what_seawal_released() {
    if program().is_none() {
        return;
    }
    for (at, options) in SMALL.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let dir = &root.path().join("log");
        let wal = Wal::create_blocking(dir, options()).unwrap();
        let mut released = 0;
        for round in 0..3 {
            many(&wal, dir);
            released = wal.last_index() - 7 - round;
            wal.release_blocking(released).unwrap();
        }
        wal.close_blocking().unwrap();
        let name = format!("released, options {at}");
        assert!(logs::segments(dir).len() < 4, "{name}");
        let start = Start::Snapshot { index: released, term: 1 };
        let ours = same_in_etcd(dir, start, &name);
        assert_eq!(ours.entries[0].index, released + 1, "{name}");
        assert_eq!(Contents::read(dir, options()).unwrap().entries, ours.entries, "{name}");
        // We go on, and release in between; then with a hard state.
        let (wal, _) = open(dir, options()).unwrap();
        let backup = root.path().join("backup");
        wal.backup_blocking(&backup).unwrap();
        let copied = same_in_etcd(&backup, start, &format!("{name}, its backup"));
        assert_eq!(copied.entries, ours.entries, "{name}");
        many(&wal, dir);
        wal.backup_blocking(&backup).unwrap();
        let copied = same_in_etcd(&backup, start, &format!("{name}, its backup again"));
        assert_eq!(copied.entries.len() as u64, wal.last_index() - released, "{name}");
        let last = wal.last_index();
        save(&wal, 5, 1, last, vec![entry(last + 1, 5, 10)]);
        wal.release_blocking(last - 3).unwrap();
        end(wal, true);
        same_in_etcd(dir, Start::Snapshot { index: last - 3, term: 1 }, &format!("{name}, again"));
    }
}

/// A log of named streams is a log: etcd's reader opens all of it, and what releases have left of it.
#[test]
fn streams_of_seawal() {
    if program().is_none() {
        return;
    }
    for (at, options) in SMALL.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let dir = &root.path().join("log");
        let fill = |from: u64| async move {
            let (streams, _) = Streams::open_or_create(dir, options()).await?;
            let (one, two) = (streams.stream("one").await?, streams.stream("two").await?);
            for index in from..from + 150 {
                assert_eq!(one.append(payload(index, 900)).await?, index);
                assert_eq!(two.append(payload(index + 1, 1200)).await?, index);
            }
            Ok::<_, seawal::Error>((streams, one, two))
        };
        let (streams, ..) = block(fill(1)).unwrap();
        block(streams.close()).unwrap();
        let name = format!("streams, options {at}");
        // We begin behind a note, and etcd where the record of the release says: one entry later.
        let same = |what: &str| {
            let left = Contents::read(dir, options()).unwrap().entries;
            let first = left[0].index;
            let (start, skipped) = match first {
                1 => (Start::Beginning, 0),
                index => (Start::Snapshot { index, term: 1 }, 1),
            };
            let ours = same_in_etcd(dir, start, &format!("{name}, {what}"));
            assert_eq!(ours.entries, left[skipped..], "{name}, {what}");
            first
        };
        // A segment with nothing in it but the creation of a stream may be gone.
        assert!(same("all") < 4);
        let (streams, one, two) = block(fill(151)).unwrap();
        block(one.release(280)).unwrap();
        block(two.release(290)).unwrap();
        block(streams.close()).unwrap();
        assert!(same("what is left") > 400);
    }
}

/// What etcd's reader makes of entries that were taken back.
#[test]
fn what_seawal_took_back() {
    if program().is_none() {
        return;
    }
    for (at, options) in SMALL.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let dir = &root.path().join("log");
        let wal = Wal::create_blocking(dir, options()).unwrap();
        many(&wal, dir);
        let last = wal.last_index();
        wal.truncate_after_blocking(last - 60).unwrap();
        end(wal, true);
        let name = format!("taken back, options {at}");
        let ours = same_in_etcd(dir, Start::Beginning, &name);
        assert_eq!(ours.entries.len() as u64, last - 60, "{name}");
        let (wal, _) = open(dir, options()).unwrap();
        wal.truncate_after_blocking(0).unwrap();
        idle(dir);
        // As docs/format.md says: it still shows them, until there are new ones.
        assert_eq!(Contents::read(dir, options()).unwrap().entries, [], "{name}");
        let theirs = etcd(&["read"], dir, &[]);
        assert_ne!(theirs.last(), Some(&Contents::read(dir, options()).unwrap().summary()));
        wal.append_blocking("the first again").unwrap();
        end(wal, true);
        let ours = same_in_etcd(dir, Start::Beginning, &format!("{name}, all"));
        assert_eq!(ours.entries.len(), 1, "{name}");
    }
}

#[test]
fn what_etcd_wrote() {
    if program().is_none() {
        return;
    }
    let cases = [(0, 0, 64000), (1, 1, 64000), (200, 300, 16384), (50, 70_000, 100_000)];
    for (case, (entries, size, segment)) in cases.into_iter().enumerate() {
        // Two ways each, so that every way has its turn.
        for way in [case, case + 2].map(|way| way % SMALL.len()) {
            let options = SMALL[way];
            let name = format!("{entries} entries of {size} bytes by etcd, way {way}");
            let root = tempfile::tempdir().unwrap();
            let dir = &root.path().join("log");
            let arguments = ["create", "--segment-size", &segment.to_string()];
            let said = etcd(&arguments, dir, &["meta", &entries.to_string(), &size.to_string()]);
            let ours = same_in_etcd(dir, Start::Beginning, &name);
            assert_eq!(said.last(), Some(&ours.summary()), "{name}");
            assert_eq!(ours.metadata.as_deref(), Some(&b"meta"[..]), "{name}");
            for (at, entry) in ours.entries.iter().enumerate() {
                assert!(
                    entry.data == payload(at as u64 + 1, size),
                    "{name}: payload of {}",
                    entry.index
                );
            }

            let mut before = ours;
            for round in 0..3 {
                let name = format!("{name}, round {round}");
                let (wal, recovery) = open(dir, options()).unwrap();
                assert_eq!(recovery.verdict, Verdict::Clean, "{name}");
                assert_eq!(Contents::of(&wal, &recovery).unwrap(), before, "{name}");
                for _ in 0..30 {
                    wal.append_blocking(payload(wal.last_index() + 1, 500)).unwrap();
                }
                wal.close_blocking().unwrap();
                let after = same_in_etcd(dir, Start::Beginning, &name);
                assert_eq!(after.entries.len(), before.entries.len() + 30, "{name}");
                assert_eq!(after.hard_state, before.hard_state, "{name}");
                etcd(&["append", "--segment-size", "10000"], dir, &["5", "40"]);
                before = same_in_etcd(dir, Start::Beginning, &format!("{name}, etcd again"));
            }
        }
    }
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    let conf_state = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    Snapshot { index, term, conf_state: Some(conf_state) }
}

#[test]
fn from_a_snapshot() {
    if program().is_none() {
        return;
    }
    for options in SMALL {
        let root = tempfile::tempdir().unwrap();
        let dir = &root.path().join("log");
        let wal = Wal::create_blocking(dir, options()).unwrap();
        save(&wal, 1, 1, 0, (1..=40).map(|i| entry(i, 1, 700)).collect());
        save(&wal, 1, 1, 30, vec![]);
        block(wal.save_snapshot(snapshot(20, 1))).unwrap();
        save(&wal, 2, 2, 35, (41..=80).map(|i| entry(i, 2, 700)).collect());
        save(&wal, 2, 2, 70, vec![]);
        block(wal.save_snapshot(snapshot(60, 2))).unwrap();
        // Not committed yet: none to start from.
        block(wal.save_snapshot(snapshot(80, 2))).unwrap();
        save(&wal, 2, 2, 75, (81..=90).map(|i| entry(i, 2, 700)).collect());
        wal.close_blocking().unwrap();

        let starts = [
            (Start::Beginning, 1),
            (Start::Snapshot { index: 20, term: 1 }, 21),
            (Start::Snapshot { index: 60, term: 2 }, 61),
            (Start::LatestSnapshot, 61),
        ];
        for (start, first) in starts {
            let ours = same_in_etcd(dir, start, &format!("{start:?}"));
            assert_eq!(ours.entries.first().unwrap().index, first);
            assert_eq!(ours.entries.last().unwrap().index, 90);
        }
        let valid = Reader::snapshots_blocking(dir).unwrap();
        let conf: Vec<_> =
            valid.iter().map(|snapshot| (snapshot.index, snapshot.conf_state.is_some())).collect();
        assert_eq!(conf, [(0, false), (20, true), (60, true)]);

        // Both append from there.
        let latest = Start::LatestSnapshot;
        for _ in 0..2 {
            etcd(&["append"], dir, &["5", "300", "latest"]);
            let ours = same_in_etcd(dir, latest, "appended by etcd");
            let (wal, recovery) = open(dir, options().start(latest)).unwrap();
            assert_eq!(Contents::of(&wal, &recovery).unwrap(), ours);
            let next = ours.entries.last().unwrap().index + 1;
            assert_eq!(wal.append_blocking("ours").unwrap(), next);
            // A conflict after reading from a snapshot.
            save(&wal, 9, 2, 75, vec![entry(next, 9, 10), entry(next + 1, 9, 10)]);
            wal.close_blocking().unwrap();
            same_in_etcd(dir, latest, "appended by us");
            same_in_etcd(dir, Start::Beginning, "appended by us, from the beginning");
        }
    }
}

/// A snapshot from the leader replaces the log: entries go on after it.
#[test]
fn snapshot_past_the_end() {
    if program().is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let dir = &root.path().join("log");
    let wal = Wal::create_blocking(dir, small_segments()).unwrap();
    save(&wal, 1, 1, 5, (1..=9).map(|i| entry(i, 1, 2000)).collect());
    block(wal.save_snapshot(snapshot(100, 3))).unwrap();
    save(&wal, 3, 0, 100, vec![]);
    assert_eq!(wal.last_index(), 100);
    save(&wal, 3, 0, 104, (101..=120).map(|i| entry(i, 3, 2000)).collect());
    wal.close_blocking().unwrap();
    for start in [Start::LatestSnapshot, Start::Snapshot { index: 100, term: 3 }] {
        let ours = same_in_etcd(dir, start, "after the snapshot");
        assert_eq!((ours.start, ours.entries.len()), ((100, 3), 20));
    }
    etcd(&["append"], dir, &["5", "300", "latest"]);
    let ours = same_in_etcd(dir, Start::LatestSnapshot, "appended by etcd");
    assert_eq!(ours.entries.last().unwrap().index, 125);
}

#[test]
fn both_backends_write_the_same_kind_of_log() {
    if program().is_none() {
        return;
    }
    for (way, options) in SMALL.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let dir = &root.path().join("log");
        let mut expected = Vec::new();
        for backend in [Backend::Threads, Backend::Auto, Backend::Threads, Backend::Auto] {
            let (wal, _) = Wal::open_or_create_blocking(dir, options().backend(backend)).unwrap();
            for _ in 0..25 {
                wal.append_blocking(payload(wal.last_index() + 1, 1200)).unwrap();
            }
            wal.close_blocking().unwrap();
            let ours = same_in_etcd(dir, Start::Beginning, &format!("way {way}, {backend}"));
            assert_eq!(ours.entries[..expected.len()], expected[..]);
            expected = ours.entries;
        }
        assert_eq!(expected.len(), 100);
    }
}
