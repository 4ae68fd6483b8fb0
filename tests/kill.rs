//! SIGKILL at random moments: every acked record is there afterwards, in its place, and nothing that was not sent.
//!
//! `SEAWAL_KILL_SEED=N` repeats a run as far as time allows; `SEAWAL_KILLS=N` changes their number.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::logs::HANG;
use seawal::{Backend, Entry, Options, Reader, Result, Wal};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const KILLS: u64 = 200;
/// A log is started afresh after so many, so that reading it stays cheap.
const KILLS_PER_LOG: u64 = 10;

/// Splitmix64: small, and good enough to choose moments and sizes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }
}

const HEAD_BYTES: usize = 16;

/// The record that run `run` sends for `index`. It says so itself, and its length and content follow from that.
fn payload(seed: u64, run: u64, index: u64) -> Vec<u8> {
    let mut random = Random(seed ^ run.rotate_left(32) ^ index);
    let len = match random.within(0..20) {
        0 => random.within(8_000..30_000),
        1..=4 => 0,
        _ => random.within(0..1_500),
    };
    let mut bytes = [run.to_le_bytes(), index.to_le_bytes()].concat();
    while bytes.len() < HEAD_BYTES + len as usize {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(HEAD_BYTES + len as usize);
    bytes
}

/// What the tests know of a log.
#[derive(Default)]
struct Known {
    /// The record of index `i` is `sent[i - 1]`: which run sent it.
    sent: Vec<u64>,
    /// Acked: index and checksum, in order.
    acked: Vec<(u64, u32)>,
    /// Checksums of records that were compared byte by byte.
    compared: Vec<u32>,
}

/// What a run told before it was killed.
struct Told {
    ready: Option<u64>,
    acks: Vec<(u64, u32)>,
}

struct Writer {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Writer {
    fn start(dir: &Path, arguments: &[String]) -> (Writer, ChildStdin) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_seawal"))
            .args(["append", "--ack", "--frame", "len32"])
            .args(arguments)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // A line without its end was not told.
            while stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.ends_with('\n') {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        (Writer { child, lines }, stdin)
    }

    fn ready(&self) -> u64 {
        let line = self.lines.recv_timeout(HANG).expect("READY");
        line.trim_end()
            .strip_prefix("READY ")
            .unwrap_or_else(|| panic!("{line:?}"))
            .parse()
            .unwrap()
    }

    fn kill(mut self, ready: Option<u64>) -> Told {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert!(!status.success(), "it ended by itself: {status}");
        let mut ready = ready;
        let mut acks = Vec::new();
        for line in self.lines {
            match line.trim_end().split(' ').collect::<Vec<_>>()[..] {
                ["READY", index] if ready.is_none() => ready = Some(index.parse().unwrap()),
                ["ACK", index, crc] if crc.len() == 8 => {
                    acks.push((index.parse().unwrap(), u32::from_str_radix(crc, 16).unwrap()));
                }
                _ => panic!("a line of stdout: {line:?}"),
            }
        }
        Told { ready, acks }
    }
}

/// Sends records until the reader of the pipe is gone.
fn feed(mut stdin: ChildStdin, seed: u64, run: u64, first: u64) {
    thread::spawn(move || {
        for index in first.. {
            let payload = payload(seed, run, index);
            let frame = [&(payload.len() as u32).to_le_bytes()[..], &payload].concat();
            if stdin.write_all(&frame).is_err() {
                return;
            }
        }
    });
}

const BACKENDS: [&str; 2] = ["auto", "threads"];

/// How commits become durable, and how segments are prepared. Where the file system has no direct I/O, `auto` does
/// without.
const WAYS: [&[&str]; 4] = [
    &["--sync", "auto", "--prealloc", "zero-fill"],
    &["--sync", "auto", "--prealloc", "fallocate"],
    &["--sync", "fdatasync", "--packing", "dense", "--prealloc", "zero-fill"],
    &["--sync", "fdatasync", "--packing", "block", "--prealloc", "fallocate"],
];

/// One life of the writer.
fn run(dir: &Path, seed: u64, run: u64, random: &mut Random) -> Told {
    let backend = BACKENDS[(run % 2) as usize];
    let way = WAYS[(run / 2 % WAYS.len() as u64) as usize];
    let segment = random.within(16 << 10..64 << 10).to_string();
    let arguments: Vec<String> = ["--backend", backend, "--segment-size", &segment]
        .iter()
        .chain(way)
        .map(|&word| word.to_owned())
        .collect();
    let (writer, stdin) = Writer::start(dir, &arguments);
    if random.within(0..8) == 0 {
        // While it opens, or just after.
        thread::sleep(Duration::from_micros(random.within(0..30_000)));
        let told = writer.kill(None);
        drop(stdin);
        assert!(told.acks.is_empty());
        return told;
    }
    let ready = writer.ready();
    feed(stdin, seed, run, ready + 1);
    thread::sleep(Duration::from_micros(random.within(0..50_000)));
    writer.kill(Some(ready))
}

impl Known {
    /// What a run told fits what was known before.
    fn hear(&mut self, seed: u64, run: u64, told: &Told) {
        let Some(ready) = told.ready else { return };
        assert!(
            ready >= self.acked.last().map_or(0, |ack| ack.0),
            "READY {ready} is below what was acked"
        );
        assert!(ready as usize <= self.sent.len(), "READY {ready} is above what was sent");
        // What lies behind was never acked, and is gone for good: this run writes there.
        self.sent.truncate(ready as usize);
        self.compared.truncate(ready as usize);
        for (next, &(index, crc)) in (ready + 1..).zip(&told.acks) {
            assert_eq!(index, next, "acks come in order, each once");
            assert_eq!(crc, crc32c::crc32c(&payload(seed, run, index)), "the checksum of {index}");
        }
        self.acked.extend(&told.acks);
        // Nobody counted what was sent; what is found must be of this run.
        self.sent.resize(ready as usize + 1_000_000, run);
    }

    fn check(&mut self, seed: u64, entries: &[Entry]) {
        for (next, entry) in (1..).zip(entries) {
            assert_eq!(entry.index, next, "indexes have no gap");
            let run = self.sent.get(next as usize - 1).expect("nothing was invented");
            let crc = crc32c::crc32c(&entry.data);
            match self.compared.get(next as usize - 1) {
                Some(&before) => assert_eq!(crc, before, "record {next} changed"),
                None => {
                    let sent = payload(seed, *run, next);
                    assert!(entry.data == sent, "record {next} is not what run {run} sent");
                    self.compared.push(crc);
                }
            }
        }
        for &(index, crc) in &self.acked {
            let entry =
                entries.get(index as usize - 1).unwrap_or_else(|| panic!("acked {index} is lost"));
            assert_eq!(crc32c::crc32c(&entry.data), crc, "acked {index} is not what was acked");
        }
    }
}

/// Reads the log: on even turns without touching it, so that the next run has to recover; else by recovering here.
fn look(dir: &Path, turn: u64) -> Result<Vec<Entry>> {
    let options =
        Options::new().backend(if turn % 4 == 1 { Backend::Threads } else { Backend::Auto });
    if turn.is_multiple_of(2) {
        let (reader, _) = Reader::open_blocking(dir, options)?;
        return reader.read(..).blocking().collect();
    }
    let (wal, _) = Wal::open_blocking(dir, options.segment_bytes(32 << 10))?;
    let entries = wal.read(..).blocking().collect();
    wal.close_blocking()?;
    entries
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn kill_many(seed: u64, kills: u64) -> (usize, usize) {
    let mut random = Random(seed);
    let (mut acked, mut segments) = (0, 0);
    let mut turn = 0;
    while turn < kills {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("log");
        let mut known = Known::default();
        for _ in 0..KILLS_PER_LOG.min(kills - turn) {
            let told = run(&dir, seed, turn, &mut random);
            known.hear(seed, turn, &told);
            match look(&dir, turn) {
                Ok(entries) => known.check(seed, &entries),
                // Killed while it was created: no log yet, and nothing told.
                Err(error) => {
                    assert!(known.acked.is_empty() && known.sent.is_empty(), "kill {turn}: {error}")
                }
            }
            turn += 1;
        }
        acked += known.acked.len();
        segments += common::logs::segments(&dir).len();
    }
    (acked, segments)
}

#[test]
fn every_acked_record_survives_sigkill() {
    let seed = number_from("SEAWAL_KILL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    });
    // Shown when the test fails.
    println!("SEAWAL_KILL_SEED={seed}");
    let kills = number_from("SEAWAL_KILLS").unwrap_or(KILLS);
    let (acked, segments) = kill_many(seed, kills);
    println!("{kills} kills, {acked} records acked, {segments} segments");
    assert!(acked as u64 > kills, "only {acked} records were acked: the test tests nothing");
    assert!(segments as u64 > kills / 4, "only {segments} segments: there was no rotation");
}
