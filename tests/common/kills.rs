//! SIGKILL at random moments, again and again, on logs in a directory of the caller's.
#![allow(dead_code)] // every test binary uses a part of this

use super::known::{Known, look};
use super::logs;
use super::random::Random;
use super::writer::{Told, Writer, feed};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// A log is started afresh after so many, so that reading it stays cheap.
const KILLS_PER_LOG: u64 = 10;

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
    let (mut writer, stdin) = Writer::start(dir, &arguments);
    if random.within(0..8) == 0 {
        // While it opens, or just after.
        thread::sleep(Duration::from_micros(random.within(0..30_000)));
        let told = writer.kill();
        drop(stdin);
        assert!(told.acks.is_empty());
        return told;
    }
    let ready = writer.ready();
    feed(stdin, seed, run, ready + 1);
    thread::sleep(Duration::from_micros(random.within(0..50_000)));
    writer.kill()
}

/// Kills writers of logs in `parent`, looks after each kill, and says how many records were acked and how many
/// segments there were. Each log is removed at its end.
pub(crate) fn kill_many(parent: &Path, seed: u64, kills: u64) -> (usize, usize) {
    let mut random = Random(seed);
    let (mut acked, mut segments) = (0, 0);
    let mut turn = 0;
    while turn < kills {
        let dir = parent.join("log");
        let mut known = Known::default();
        for _ in 0..KILLS_PER_LOG.min(kills - turn) {
            let told = run(&dir, seed, turn, &mut random);
            known.hear(seed, turn, &told);
            match look(&dir, turn) {
                Ok(entries) => known.check(seed, &entries),
                // Killed while it was created: no log yet, and nothing told.
                Err(error) => assert!(known.is_empty(), "kill {turn}: {error}"),
            }
            turn += 1;
        }
        acked += known.acked_count() as usize;
        segments += logs::segments(&dir).len();
        std::fs::remove_dir_all(&dir).unwrap();
    }
    (acked, segments)
}
