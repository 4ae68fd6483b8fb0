//! A log hands out its entries while it is opened: the same as are read from it then, on any disk and by any number of
//! threads. (What every log of etcd's and every damaged one comes to, [`common::logs::Contents::read`] compares wherever
//! tests read one; what crashes leave, the simulator does.)
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::logs::Contents;
use common::random::Random;
use seawal::{
    Backend, Entry, Error, ErrorKind, HardState, Options, Reader, Replayed, Snapshot, Start, Wal,
};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn options(backend: Backend) -> Options {
    // Segments of a few chunks, and groups that reach over their ends.
    Options::new().segment_bytes(1 << 20).group_bytes_max(600 << 10).backend(backend)
}

/// A log of some segments: small records and large ones, entries that were replaced, and taken back, and released.
fn write(dir: &Path, seed: u64, records: usize) {
    let mut random = Random(seed + 1);
    let (wal, _) = Wal::open_or_create_blocking(dir, options(Backend::Auto)).unwrap();
    let (mut written, mut commit) = (0, 0);
    while written < records {
        let count = 1 + random.within(0..300) as usize;
        let payload = |random: &mut Random| {
            let len = match random.within(0..100) {
                0 => random.within(0..400 << 10),
                1..20 => random.within(0..9000),
                _ => random.within(0..1500),
            };
            vec![len as u8; len as usize]
        };
        let batch: Vec<_> = (0..count).map(|_| payload(&mut random)).collect();
        wal.append_batch_blocking(&batch).unwrap();
        written += count;
        let (first, last) = (wal.first_index(), wal.last_index());
        match random.within(0..6) {
            0 => wal.truncate_after_blocking(random.within(commit.max(first)..last + 1)).unwrap(),
            1 if commit >= first => {
                wal.release_blocking(random.within(first..commit + 1)).unwrap();
            }
            2 if commit < last => {
                let index = random.within(last.saturating_sub(500).max(commit)..last) + 1;
                let entry = Entry { index, term: 1 + written as u64, ..Entry::default() };
                commit = random.within(commit..index);
                let state = HardState { term: entry.term, vote: 1, commit };
                pollster::block_on(wal.save(state, vec![entry])).unwrap();
            }
            _ => {}
        }
    }
    wal.close_blocking().unwrap();
}

#[test]
fn what_is_handed_out_is_what_is_read() {
    let backends = [Backend::Auto, Backend::Threads];
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("log");
        write(&dir, seed, 8_000);
        for backend in backends {
            let contents = Contents::read(&dir, options(backend)).unwrap();
            assert!(contents.entries.len() > 100, "{}", contents.entries.len());
            // Whoever writes next gets the same, and goes on behind it.
            let (wal, replayed) = Contents::replay(Wal::replay(&dir, options(backend))).unwrap();
            assert_eq!(replayed, contents);
            let last = contents.entries.last().unwrap().index;
            assert_eq!(wal.append_blocking("more").unwrap(), last + 1);
            wal.close_blocking().unwrap();
        }
    }
}

/// The segment in the middle.
fn sealed_segment(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut segments: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    segments.sort();
    segments[segments.len() / 2].clone()
}

/// Records are believed before they are checked: none of those that are wrong is handed out, and it is said which one is.
#[test]
fn a_record_that_is_wrong_is_not_handed_out() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("log");
        let (wal, _) = Wal::open_or_create_blocking(&dir, options(Backend::Auto)).unwrap();
        for at in 0..5_u8 {
            wal.append_batch_blocking((0..600).map(|_| vec![at; 1000])).unwrap();
        }
        wal.close_blocking().unwrap();
        let path = sealed_segment(&dir);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let offset = Random(seed + 1).within(4096..file.metadata().unwrap().len() - 4096);
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 4], offset).unwrap();

        let error = Reader::open_blocking(&dir, options(Backend::Auto)).err();
        let mut replay = Reader::replay(&dir, options(Backend::Auto));
        for replayed in replay.blocking() {
            let Replayed::Entry(entry) = replayed else {
                // What is broken for one who holds no lock is looked at twice.
                assert_eq!(replayed, Replayed::TruncatedAfter(0));
                continue;
            };
            let of_batch = (entry.index - 1) / 600;
            assert!(entry.data.len() == 1000, "{entry:?}");
            assert!(entry.data.iter().all(|&byte| u64::from(byte) == of_batch), "{entry:?}");
        }
        let replayed = replay.finish_blocking().err();
        let text = |error: &Option<Error>| error.as_ref().map(Error::to_string);
        assert_eq!(text(&replayed), text(&error), "byte {offset}");
        // Type, and padding, are not covered by the format.
        assert!(replayed.is_none_or(|error| error.is_damaged()));
    }
}

#[test]
fn reading_starts_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let (wal, _) = Wal::open_or_create_blocking(&dir, Options::new()).unwrap();
    wal.append_batch_blocking(["one", "two", "three", "four"]).unwrap();
    let snapshot = Snapshot { index: 2, term: 1, conf_state: None };
    pollster::block_on(wal.save_snapshot(snapshot)).unwrap();
    wal.close_blocking().unwrap();
    let options = Options::new().start(Start::Snapshot { index: 2, term: 1 });
    let (_, contents) = Contents::replay(Reader::replay(&dir, options)).unwrap();
    let indexes: Vec<u64> = contents.entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, [3, 4]);
}

#[test]
fn what_was_taken_back_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let (wal, _) = Wal::open_or_create_blocking(&dir, Options::new()).unwrap();
    wal.append_batch_blocking(["one", "two", "three"]).unwrap();
    wal.truncate_after_blocking(0).unwrap();
    wal.append_batch_blocking(["four", "five"]).unwrap();
    wal.truncate_after_blocking(1).unwrap();
    wal.close_blocking().unwrap();
    let mut replay = Reader::replay(&dir, Options::new());
    let seen: Vec<String> = replay
        .blocking()
        .map(|replayed| match replayed {
            Replayed::Entry(entry) => String::from_utf8(entry.data.to_vec()).unwrap(),
            Replayed::TruncatedAfter(index) => index.to_string(),
        })
        .collect();
    // The last entry that is left is written again.
    assert_eq!(seen, ["one", "two", "three", "0", "four", "five", "0", "four"]);
    assert_eq!(replay.finish_blocking().unwrap().1.last_index, Some(1));
}

/// Somebody writes, and who replays takes his time: what was read before is looked at again where it ended, and nothing comes
/// twice.
#[test]
fn a_slow_reader_beside_a_writer_sees_each_entry_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let (wal, _) = Wal::open_or_create_blocking(&dir, options(Backend::Auto)).unwrap();
    let batch = || (0..200).map(|_| vec![7; 1000]);
    for _ in 0..100 {
        wal.append_batch_blocking(batch()).unwrap();
    }
    let mut replay = Reader::replay(&dir, options(Backend::Auto));
    let mut next = 1;
    for replayed in replay.blocking() {
        let Replayed::Entry(entry) = replayed else { panic!("{replayed:?} before {next}") };
        assert_eq!(entry.index, next);
        if next == 10 {
            // Until here everything there is room for was read.
            std::thread::sleep(std::time::Duration::from_millis(300));
            wal.append_batch_blocking(batch()).unwrap();
            wal.append_batch_blocking(batch()).unwrap();
        }
        next += 1;
    }
    let (reader, recovery) = replay.finish_blocking().unwrap();
    assert_eq!(recovery.last_index, Some(next - 1));
    assert!(next > 20_000);
    drop(reader);
    wal.close_blocking().unwrap();
}

/// Dropped in the middle, the log is not held.
#[test]
fn whoever_takes_no_more_lets_go_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    write(&dir, 7, 8_000);
    let mut replay = Wal::replay(&dir, options(Backend::Auto));
    assert!(matches!(replay.blocking().next(), Some(Replayed::Entry(_))));
    drop(replay);
    // Or takes none at all.
    drop(Wal::replay(&dir, options(Backend::Auto)));
    let (wal, recovery) = Wal::replay(&dir, options(Backend::Auto)).finish_blocking().unwrap();
    assert_eq!(Some(wal.last_index()), recovery.last_index);
    wal.close_blocking().unwrap();
}

#[test]
fn what_is_wrong_is_said_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("log");
    let mut replay = Wal::replay(&missing, Options::new());
    assert_eq!(replay.blocking().next(), None);
    assert_eq!(replay.finish_blocking().unwrap_err().kind(), ErrorKind::NotFound);
    let bad = Options::new().segment_bytes(1);
    let error = Wal::replay(&missing, bad).finish_blocking().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");

    let mut replay = Wal::replay_or_create(&missing, Options::new());
    assert_eq!(replay.blocking().next(), None);
    let (wal, recovery) = replay.finish_blocking().unwrap();
    assert_eq!(recovery.last_index, None);
    assert_eq!(wal.append_blocking("first").unwrap(), 1);
    // It is open.
    let options = Options::new().lock_wait(std::time::Duration::ZERO);
    let error = Wal::replay(&missing, options).finish_blocking().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    wal.close_blocking().unwrap();
}
