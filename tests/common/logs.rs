//! What is in a log, in the form that etcd's dumps have, and what is in its directory, byte for byte.
#![allow(dead_code)] // every test binary uses a part of this

use bytes::Bytes;
use seawal::{
    Entry, EntryKind, Error, HardState, Options, Reader, Recovery, Replay, Replayed, Result,
    Snapshot, Wal,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A log from one start on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Index and term of the snapshot that reading started from, or 0/0.
    pub start: (u64, u64),
    pub metadata: Option<Bytes>,
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}

impl Contents {
    pub(crate) fn new(recovery: &Recovery, entries: Vec<Entry>) -> Contents {
        Contents {
            start: recovery
                .snapshot
                .as_ref()
                .map_or((0, 0), |snapshot| (snapshot.index, snapshot.term)),
            metadata: recovery.metadata.clone(),
            hard_state: recovery.hard_state,
            entries,
        }
    }

    /// Reads a log without changing it, in one step and in two, which has to come to the same.
    pub(crate) fn read(dir: &Path, options: Options) -> Result<Contents> {
        let replayed = Contents::replay(Reader::replay(dir, options.clone()));
        let contents = Contents::open_and_read(dir, options);
        match (&contents, replayed) {
            (Ok(contents), Ok((_, replayed))) => assert_eq!(contents, &replayed),
            (Err(error), Err(replayed)) => {
                assert_eq!(error.to_string(), Error::to_string(&replayed));
            }
            (contents, replayed) => panic!("{contents:?}, but replayed: {replayed:?}"),
        }
        contents
    }

    /// What a log hands out while it is opened.
    pub(crate) fn replay<L>(mut replay: Replay<L>) -> Result<(L, Contents)> {
        let mut entries: Vec<Entry> = Vec::new();
        for replayed in replay.blocking() {
            match replayed {
                Replayed::Entry(entry) => {
                    let follows = entries.last().is_none_or(|last| last.index < entry.index);
                    assert!(follows, "{entry:?} replaces what was not taken back");
                    entries.push(entry);
                }
                Replayed::TruncatedAfter(index) => entries.retain(|entry| entry.index <= index),
            }
        }
        let (log, recovery) = replay.finish_blocking()?;
        // Those that were released may come first.
        entries.retain(|entry| recovery.first_index.is_some_and(|first| first <= entry.index));
        assert_bounds(&recovery, &entries);
        Ok((log, Contents::new(&recovery, entries)))
    }

    fn open_and_read(dir: &Path, options: Options) -> Result<Contents> {
        let (reader, recovery) = Reader::open_blocking(dir, options)?;
        let entries = reader.read(..).blocking().collect::<Result<Vec<_>>>()?;
        assert_bounds(&recovery, &entries);
        Ok(Contents::new(&recovery, entries))
    }

    /// Reads an open log.
    pub(crate) fn of(wal: &Wal, recovery: &Recovery) -> Result<Contents> {
        let entries = wal.read(..).blocking().collect::<Result<Vec<_>>>()?;
        Ok(Contents::new(recovery, entries))
    }

    /// The lines of etcd's dump, with `snapshots` as the records that are valid.
    pub(crate) fn lines(&self, snapshots: &[Snapshot]) -> Vec<Value> {
        let mut lines = self.head();
        lines.extend(
            snapshots.iter().map(|s| json!({"kind": "snapshot", "index": s.index, "term": s.term})),
        );
        lines.extend(self.entries.iter().map(entry_line));
        lines.push(self.summary());
        lines
    }

    pub(crate) fn head(&self) -> Vec<Value> {
        let metadata = self.metadata.clone().unwrap_or_default();
        vec![
            json!({"kind": "start", "index": self.start.0, "term": self.start.1}),
            json!({
                "kind": "metadata",
                "len": metadata.len(),
                "present": self.metadata.is_some(),
                "data": base64(&metadata),
            }),
            self.state(),
        ]
    }

    pub(crate) fn state(&self) -> Value {
        let HardState { term, vote, commit } = self.hard_state;
        json!({"kind": "hardstate", "term": term, "vote": vote, "commit": commit})
    }

    pub(crate) fn summary(&self) -> Value {
        let index = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.index);
        json!({
            "kind": "summary",
            "entries": self.entries.len(),
            "first": index(self.entries.first()),
            "last": index(self.entries.last()),
            "digest": digest(&self.entries),
        })
    }
}

/// What recovery says of the entries is what reading gives.
pub(crate) fn assert_bounds(recovery: &Recovery, entries: &[Entry]) {
    assert_eq!(recovery.first_index, entries.first().map(|entry| entry.index));
    assert_eq!(recovery.last_index, entries.last().map(|entry| entry.index));
}

fn entry_line(entry: &Entry) -> Value {
    json!({
        "kind": "entry",
        "index": entry.index,
        "term": entry.term,
        "type": kind_name(entry.kind),
        "len": entry.data.len(),
        "sha256": hex(&Sha256::digest(&entry.data)),
    })
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Normal => "EntryNormal",
        EntryKind::ConfChange => "EntryConfChange",
        EntryKind::ConfChangeV2 => "EntryConfChangeV2",
    }
}

fn kind_number(kind: EntryKind) -> usize {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    }
}

/// The digest of the summary line; see the README of the fixtures.
pub(crate) fn digest(entries: &[Entry]) -> String {
    let mut digest = Sha256::new();
    for entry in entries {
        let Entry { index, term, kind, data } = entry;
        digest.update(format!("{index} {term} {} {} ", kind_number(*kind), data.len()));
        digest.update(data);
    }
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > chunk.len() { '=' } else { digit.into() });
        }
    }
    text
}

/// Fails with the first line that differs, not with two whole dumps.
#[track_caller]
pub(crate) fn assert_same_lines(found: &[Value], expected: &[Value], what: &str) {
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "{what}: line {}", at + 1);
    }
    assert_eq!(found.len(), expected.len(), "{what}: number of lines");
}

/// Likewise for entries.
#[track_caller]
pub(crate) fn assert_same_entries(found: &[Entry], expected: &[Entry], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let head = |entry: &Entry| (entry.index, entry.term, entry.kind, entry.data.len());
        assert_eq!(head(found), head(expected), "{what}");
        assert!(found.data == expected.data, "{what}: payload of entry {}", found.index);
    }
    assert_eq!(found.len(), expected.len(), "{what}: number of entries");
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnDisk {
    mode: u32,
    len: u64,
    /// Checksums of the pieces that are not all zero, by offset.
    pieces: Vec<(u64, u32)>,
}

/// Everything below `dir`: names, modes, lengths, contents.
pub(crate) fn on_disk(dir: &Path) -> BTreeMap<PathBuf, OnDisk> {
    let mut found = BTreeMap::new();
    collect(dir, &mut found);
    found
}

fn collect(path: &Path, found: &mut BTreeMap<PathBuf, OnDisk>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let mut this = OnDisk { mode: metadata.permissions().mode(), len: 0, pieces: Vec::new() };
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    } else {
        this.len = metadata.len();
        this.pieces = pieces(path);
    }
    found.insert(path.to_owned(), this);
}

const PIECE_BYTES: usize = 256 << 10;
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

fn pieces(path: &Path) -> Vec<(u64, u32)> {
    let mut file = File::open(path).unwrap();
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut pieces = Vec::new();
    let mut offset = 0;
    loop {
        piece.clear();
        let len = file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece).unwrap();
        if len == 0 {
            return pieces;
        }
        if piece != ZEROS[..len] {
            pieces.push((offset, crc32c::crc32c(&piece)));
        }
        offset += len as u64;
    }
}

/// Copies the files of a directory, holes staying holes.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            copy_file(&entry.path(), &target);
        }
    }
}

fn copy_file(from: &Path, to: &Path) {
    use std::os::unix::fs::FileExt;
    let (source, target) = (File::open(from).unwrap(), File::create(to).unwrap());
    let len = source.metadata().unwrap().len();
    target.set_len(len).unwrap();
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < len {
        let read = source.read_at(&mut piece, offset).unwrap();
        assert!(read > 0, "{} got shorter", from.display());
        if piece[..read] != ZEROS[..read] {
            target.write_all_at(&piece[..read], offset).unwrap();
        }
        offset += read as u64;
    }
}

/// The segments of a log, oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    paths.sort();
    paths
}

/// The end of the last byte that is not zero.
pub(crate) fn data_end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
}

/// Panics if `work` takes so long that it must be hanging.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(limit) {
        Ok(result) => {
            let _ = thread.join();
            result
        }
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what} hangs"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the result was sent"),
        },
    }
}

/// What a hang is, on the slowest machine.
pub(crate) const HANG: Duration = Duration::from_secs(60);
