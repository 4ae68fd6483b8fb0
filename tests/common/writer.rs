//! The real command as a writer that is stopped in the midst of its work, and the records that it is sent.
#![allow(dead_code)] // every test binary uses a part of this

use super::cli::SEAWAL;
use super::logs::HANG;
use super::random::Random;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;

const HEAD_BYTES: usize = 16;

/// The record that run `run` sends for `index`. It says so itself, and its length and content follow from that.
pub(crate) fn payload(seed: u64, run: u64, index: u64) -> Vec<u8> {
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

/// What a run told until it was stopped.
#[derive(Clone, Default)]
pub(crate) struct Told {
    pub ready: Option<u64>,
    /// Index and checksum.
    pub acks: Vec<(u64, u32)>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        match line.trim_end().split(' ').collect::<Vec<_>>()[..] {
            ["READY", index] if self.ready.is_none() => self.ready = Some(index.parse().unwrap()),
            ["ACK", index, crc] if self.ready.is_some() && crc.len() == 8 => {
                self.acks.push((index.parse().unwrap(), u32::from_str_radix(crc, 16).unwrap()));
            }
            _ => panic!("a line of stdout: {line:?}"),
        }
    }
}

/// `seawal append --ack`.
pub(crate) struct Writer {
    child: Child,
    lines: mpsc::Receiver<String>,
    told: Told,
}

impl Writer {
    pub(crate) fn start(dir: &Path, arguments: &[String]) -> (Writer, ChildStdin) {
        let mut child = Command::new(SEAWAL)
            .args(["append", "--ack", "--frame", "len32"])
            .args(arguments)
            .arg(dir)
            // Torn tails are what comes of it.
            .env("RUST_LOG", "error")
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
        (Writer { child, lines, told: Told::default() }, stdin)
    }

    fn wait_for_line(&mut self) {
        let line = self.lines.recv_timeout(HANG).expect("the writer says nothing");
        self.told.hear(&line);
    }

    /// Waits until the log is open, and says where it ends.
    pub(crate) fn ready(&mut self) -> u64 {
        self.wait_for_line();
        self.told.ready.expect("READY comes first")
    }

    /// Waits for so many acks.
    pub(crate) fn wait_for_acks(&mut self, count: u64) {
        while (self.told.acks.len() as u64) < count {
            self.wait_for_line();
        }
    }

    /// What it has told up to now.
    pub(crate) fn told(&mut self) -> Told {
        while let Ok(line) = self.lines.try_recv() {
            self.told.hear(&line);
        }
        self.told.clone()
    }

    /// Kills it, and says all that it told.
    pub(crate) fn kill(mut self) -> Told {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert!(!status.success(), "it ended by itself: {status}");
        while let Ok(line) = self.lines.recv() {
            self.told.hear(&line);
        }
        std::mem::take(&mut self.told)
    }
}

/// A test that panics leaves no writer behind: it would hold the file system that it writes to.
impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends records until the reader of the pipe is gone.
pub(crate) fn feed(mut stdin: ChildStdin, seed: u64, run: u64, first: u64) {
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
