//! Logs on the simulated machine.

use crate::files::File;
use futures_util::TryStreamExt;
use seawal::testing::Sim;
use seawal::{Entries, Entry, Error, ErrorKind, Options, Recovery, Replayed, Result, Wal};

pub const DIR: &str = "/log";

/// What a log says of itself when it is opened.
#[derive(Debug)]
pub struct Seen {
    pub recovery: Recovery,
    pub entries: Vec<Entry>,
}

impl Seen {
    async fn new(recovery: Recovery, entries: Entries) -> Seen {
        let entries: Vec<Entry> = match entries.try_collect().await {
            Ok(entries) => entries,
            Err(error) => panic!("a log opens ({recovery:?}), and does not read: {error}"),
        };
        let indexes = (recovery.first_index, recovery.last_index);
        let of_entries = entries.first().zip(entries.last()).map(|(a, b)| (a.index, b.index));
        assert_eq!(indexes.0.zip(indexes.1), of_entries, "the entries are those of the report");
        let rising = entries.windows(2).all(|pair| pair[1].index == pair[0].index + 1);
        assert!(rising, "indexes without gaps");
        Seen { recovery, entries }
    }
}

/// A machine with these files in the directory of the log.
#[must_use]
pub fn machine(files: &[File]) -> Sim {
    let sim = Sim::new(1);
    sim.create_dir(DIR);
    for file in files {
        sim.write_file(format!("{DIR}/{}", file.name), file.bytes.clone());
    }
    sim
}

/// The files of the directory, those in directories left out.
#[must_use]
pub fn files_of(sim: &Sim) -> Vec<File> {
    let names = sim.list_dir(DIR).expect("the directory is there");
    let file = |name: std::ffi::OsString| {
        let name = name.into_string().expect("names are text");
        let bytes = sim.read_file(format!("{DIR}/{name}")).ok()?;
        Some(File { name, bytes })
    };
    names.into_iter().filter_map(file).collect()
}

/// What a reader sees.
///
/// # Errors
///
/// If it is refused.
pub fn read(sim: &Sim, options: &Options) -> Result<Seen> {
    sim.block_on(async {
        let (reader, recovery) = sim.open_reader(DIR, options.clone()).await?;
        Ok(Seen::new(recovery, reader.read(..)).await)
    })
}

/// Opens the log for writing, and reads it.
///
/// # Errors
///
/// If it is refused.
pub fn open(sim: &Sim, options: &Options) -> Result<(Wal, Seen)> {
    sim.block_on(async {
        let (wal, recovery) = sim.open(DIR, options.clone()).await?;
        let entries = wal.read(..);
        let seen = Seen::new(recovery, entries).await;
        Ok((wal, seen))
    })
}

/// What a log hands out while a reader opens it.
///
/// # Errors
///
/// If it is refused.
pub fn replay(sim: &Sim, options: &Options) -> Result<(Recovery, Vec<Entry>)> {
    sim.block_on(async {
        let mut replay = sim.replay_reader(DIR, options.clone());
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(replayed) = replay.next().await {
            match replayed {
                Replayed::Entry(entry) => {
                    let follows = entries.last().is_none_or(|last| last.index < entry.index);
                    assert!(follows, "{} replaces what was not taken back", entry.index);
                    entries.push(entry);
                }
                Replayed::TruncatedAfter(index) => entries.retain(|entry| entry.index <= index),
            }
        }
        let (_, recovery) = replay.finish().await?;
        entries.retain(|entry| recovery.first_index.is_some_and(|first| first <= entry.index));
        Ok((recovery, entries))
    })
}

/// What a log hands out while it is opened is what is read from it then.
pub fn assert_replays_as(replayed: &Result<(Recovery, Vec<Entry>)>, reader: &Result<Seen>) {
    match (replayed, reader) {
        (Ok((recovery, entries)), Ok(seen)) => {
            assert!(*entries == seen.entries, "other entries were handed out than are read");
            assert_eq!(recovery.verdict, seen.recovery.verdict);
            assert_eq!(recovery.hard_state, seen.recovery.hard_state);
        }
        (Err(replayed), Err(error)) => assert_eq!(replayed.to_string(), error.to_string()),
        (replayed, reader) => panic!("replayed {replayed:?}, read {reader:?}"),
    }
}

/// Reader and writer say the same of the same files.
pub fn assert_agree(reader: &Result<Seen>, writer: &Result<(Wal, Seen)>) {
    match (reader, writer) {
        (Ok(by_reader), Ok((_, by_writer))) => {
            assert!(by_reader.entries == by_writer.entries, "reader and writer see other entries");
            let (a, b) = (&by_reader.recovery, &by_writer.recovery);
            assert_eq!(a.verdict, b.verdict);
            assert_eq!(a.hard_state, b.hard_state);
            assert_eq!(a.snapshot, b.snapshot);
            assert_eq!(a.metadata, b.metadata);
            let place = |seen: &Recovery| seen.cut.as_ref().map(|cut| (cut.position, cut.bytes));
            assert_eq!(place(a), place(b));
        }
        (Err(by_reader), Err(by_writer)) => {
            assert_eq!(by_reader.to_string(), by_writer.to_string());
        }
        // It says that it is one of streams.
        (Ok(_), Err(error)) if error.to_string().contains("which only Streams can write to") => {}
        // Nothing can be appended any more, but it can be read.
        (Ok(_), Err(error)) if is_at_its_end(error) => {}
        (Ok(seen), Err(error)) => {
            panic!("a reader opens it ({seen:?}), a writer does not: {error}")
        }
        (Err(error), Ok((_, seen))) => {
            panic!("a writer opens it ({seen:?}), a reader does not: {error}")
        }
    }
}

fn is_at_its_end(error: &Error) -> bool {
    error.to_string().contains("of this log is at its end")
}

/// A refusal names the file, or the directory if there is no log at all, and says what to do.
pub fn assert_names_a_place(error: &Error) {
    let path = error.path().unwrap_or_else(|| panic!("no path: {error}"));
    assert!(path.starts_with(DIR), "{error}");
    assert!(error.next_step().is_some(), "no next step: {error}");
}

/// It is a log as any other: what is appended comes after what was there, and both are there when it is opened again.
pub fn assert_goes_on(sim: &Sim, options: &Options, wal: Wal, seen: &Seen) {
    let next = wal.last_index() + 1;
    if next == u64::MAX {
        // The last index of all is taken: nothing comes after it.
        let error = sim.block_on(wal.append("no more")).expect_err("no index is left");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        return;
    }
    let payload = b"appended by the fuzz target".to_vec();
    sim.block_on(async {
        assert_eq!(wal.append(payload.clone()).await.expect("an append"), next);
        wal.close().await.expect("closed");
    });
    drop(wal);
    let (wal, again) = match open(sim, options) {
        Ok(opened) => opened,
        // Each opening counts up the epoch, and that was the last.
        Err(error) if is_at_its_end(&error) => return,
        Err(error) => panic!("a closed log opens: {error}"),
    };
    assert_eq!(again.recovery.verdict, seawal::Verdict::Clean, "{:?}", again.recovery);
    assert_eq!(again.recovery.cut, None);
    assert_eq!(again.recovery.hard_state, seen.recovery.hard_state);
    let (last, before) = again.entries.split_last().expect("the new entry");
    assert!(before == seen.entries, "the entries are those of before");
    assert_eq!((last.index, &last.data[..]), (next, &payload[..]));
    sim.block_on(async { wal.close().await.expect("closed") });
}
