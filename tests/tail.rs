//! `seawal tail`, and other readers beside a process that appends: real files, real processes, both backends.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use seawal::{Backend, Options, Reader};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing takes as long.
const HANG: Duration = Duration::from_secs(60);

fn seawal(command: &str, log: &Path, args: &[&str]) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_seawal"));
    process.arg(command).arg(log).args(args).env_remove("RUST_LOG");
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process
}

fn run(command: &str, log: &Path, args: &[&str]) -> Output {
    seawal(command, log, args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command prints that succeeds and has nothing to say beside.
#[track_caller]
fn printed(command: &str, log: &Path, args: &[&str]) -> String {
    let output = run(command, log, args);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    text(&output.stdout)
}

/// The line that a command says when it refuses.
#[track_caller]
fn refused(command: &str, log: &Path, args: &[&str]) -> String {
    let output = run(command, log, args);
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{args:?}: {stderr}");
    assert_eq!(output.stdout, b"", "{args:?}");
    stderr
}

fn lines(range: std::ops::RangeInclusive<u64>) -> String {
    range.map(line).collect()
}

fn line(number: u64) -> String {
    format!("{number}:{}\n", "x".repeat((number * 7919 % 613) as usize))
}

/// A process that is killed at the end of its test, and read with a limit.
struct Process {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Process {
    fn start(command: &mut Command) -> (Process, ChildStdin) {
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { break };
                if sender.send(line + "\n").is_err() {
                    break;
                }
            }
        });
        (Process { child, lines }, stdin)
    }

    #[track_caller]
    fn line(&mut self) -> String {
        match self.lines.recv_timeout(HANG) {
            Ok(line) => line,
            Err(why) => {
                let _ = self.child.kill();
                let mut stderr = String::new();
                let _ = self.child.stderr.take().unwrap().read_to_string(&mut stderr);
                panic!("{why}; stderr: {stderr}");
            }
        }
    }

    /// Has to come next.
    #[track_caller]
    fn gives(&mut self, range: std::ops::RangeInclusive<u64>) {
        for number in range {
            assert_eq!(self.line(), line(number));
        }
    }

    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        let deadline = Instant::now() + HANG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    (dir, log)
}

/// Small segments: a short test has many cuts.
const SMALL: &[&str] = &["--segment-size", "64Ki", "--group-bytes-max", "4Ki", "--ack"];

/// A process that appends what is written to its input. It has the log open.
fn writer(log: &Path, args: &[&str]) -> (Process, ChildStdin) {
    let (mut writer, stdin) = Process::start(&mut seawal("append", log, &[SMALL, args].concat()));
    assert!(writer.line().starts_with("READY "));
    (writer, stdin)
}

fn appended(log: &Path, range: std::ops::RangeInclusive<u64>) {
    let (mut writer, mut input) = writer(log, &[]);
    input.write_all(lines(range).as_bytes()).unwrap();
    drop(input);
    assert_eq!(writer.ends(), Some(0));
}

/// The output of one process is the input of another: as it comes, across cuts, the end of the writer, its death, and its
/// successors.
#[test]
fn tail_follows_another_process() {
    for backend in ["auto", "threads"] {
        for sync in ["dsync", "fdatasync"] {
            let (_dir, log) = place();
            let args = ["--backend", backend, "--sync", sync];
            let (mut first, mut input) = writer(&log, &args);
            let (mut tail, _) = Process::start(&mut seawal("tail", &log, &["-f", "-n", "3"]));
            let mut next = 1;
            for burst in [1, 2, 700, 1, 30, 5] {
                let upto = next + burst - 1;
                input.write_all(lines(next..=upto).as_bytes()).unwrap();
                tail.gives(next..=upto);
                next = upto + 1;
            }
            drop(input);
            assert_eq!(first.ends(), Some(0));

            let (mut second, mut input) = writer(&log, &args);
            input.write_all(lines(next..=next + 99).as_bytes()).unwrap();
            // In the middle of something, perhaps: those that were acked are there.
            assert!(second.line().starts_with(&format!("ACK {next} ")));
            second.child.kill().unwrap();
            second.ends();
            let (mut third, input) = writer(&log, &args);
            drop(input);
            assert_eq!(third.ends(), Some(0));
            let there = printed("cat", &log, &[]).lines().count() as u64;
            assert!(there >= next);
            appended(&log, there + 1..=there + 10);
            tail.gives(next..=there + 10);
            assert_eq!(tail.child.try_wait().unwrap(), None, "it follows on");
        }
    }
}

/// The library's reader, on both backends, beside a process that appends; what it has shown it goes on showing.
#[test]
fn reader_follows_another_process() {
    for backend in [Backend::Auto, Backend::Threads] {
        let (_dir, log) = place();
        let (mut writer, mut input) = writer(&log, &[]);
        let options = Options::new().backend(backend);
        let (reader, _) = Reader::open_blocking(&log, options).unwrap();
        let mut tail = reader.tail(1).blocking();
        for burst in [1..=1, 2..=900, 901..=902] {
            input.write_all(lines(burst.clone()).as_bytes()).unwrap();
            for number in burst {
                let entry = tail.next().unwrap().unwrap();
                assert_eq!((entry.index, text(&entry.data) + "\n"), (number, line(number)));
            }
        }
        drop(input);
        assert_eq!(writer.ends(), Some(0));
        appended(&log, 903..=950);
        assert_eq!(pollster::block_on(reader.refresh()).unwrap(), 950);
        let all = reader.read(..).blocking().map(|entry| entry.unwrap().index);
        assert!(all.eq(1..=950));
    }
}

/// Whoever reads its output is gone: it ends, also while nothing comes, and says nothing.
#[test]
fn tail_ends_with_its_reader() {
    let (_dir, log) = place();
    appended(&log, 1..=20);
    for quiet in [true, false] {
        let mut child = seawal("tail", &log, &["--follow"]).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert_eq!(first, line(if quiet { 11 } else { 12 }));
        drop(stdout);
        if !quiet {
            appended(&log, 22..=30);
        }
        let deadline = Instant::now() + HANG;
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
        appended(&log, 21..=21);
    }
}

#[test]
fn tail_prints_the_last_entries() {
    let (_dir, log) = place();
    appended(&log, 1..=200);
    assert_eq!(printed("tail", &log, &[]), lines(191..=200));
    assert_eq!(printed("tail", &log, &["-n", "3"]), lines(198..=200));
    assert_eq!(printed("tail", &log, &["--lines", "0"]), "");
    assert_eq!(printed("tail", &log, &["-n", "18446744073709551615"]), lines(1..=200));
    assert_eq!(printed("tail", &log, &["--from", "150"]), lines(150..=200));
    let json = printed("tail", &log, &["-n1", "--format", "json", "--no-data"]);
    assert!(json.starts_with(r#"{"index":200,"term":1,"#) && !json.contains("data"), "{json}");
    let raw = printed("tail", &log, &["-n", "2", "--format", "raw"]);
    assert_eq!(raw, lines(199..=200).replace('\n', ""));
    assert_eq!(run("tail", &log, &["-n", "2", "--from", "3"]).status.code(), Some(64));
    assert_eq!(run("tail", &log.join("none"), &["-f"]).status.code(), Some(3));
}

/// One line: what the log holds, and what to do.
#[test]
fn bounds_that_the_log_does_not_hold_are_refused() {
    let (_dir, log) = place();
    appended(&log, 1..=200);
    for (command, args, says) in [
        ("cat", ["--from", "0"], "1 to 200; raise --from to 1"),
        ("cat", ["--from", "201"], "1 to 200; lower --from"),
        ("cat", ["--to", "201"], "1 to 200; lower --to"),
        ("cat", ["--to", "0"], "1 to 200; raise --to to 1"),
        ("tail", ["--from", "201"], "1 to 200; lower --from"),
        ("tail", ["--from", "0"], "1 to 200; raise --from to 1"),
    ] {
        let line = refused(command, &log, &args);
        assert!(line.contains(&format!("index {} is not in the log", args[1])), "{line}");
        assert!(line.contains(says), "{line}");
    }
    assert!(refused("tail", &log, &["-f", "--from", "202"]).contains("1 to 200; lower --from"));
    assert_eq!(printed("cat", &log, &["--from", "200", "--to", "200"]), line(200));

    let (_dir, empty) = place();
    drop(writer(&empty, &[]));
    assert!(refused("cat", &empty, &["--to", "1"]).contains("which holds no entries"));
    assert_eq!(printed("cat", &empty, &[]) + &printed("tail", &empty, &[]), "");
    // The next entry is one to wait for.
    let (mut tail, _) = Process::start(&mut seawal("tail", &empty, &["-f", "--from", "1"]));
    appended(&empty, 1..=5);
    tail.gives(1..=5);
}

/// Readers that open the log again and again in the middle of what a writer does: never damage, always a prefix.
#[test]
fn cat_beside_a_busy_writer_sees_no_damage() {
    for args in [["--sync", "dsync"], ["--sync", "fdatasync"], ["--durability", "written"]] {
        let (_dir, log) = place();
        let (writer, mut input) = writer(&log, &args);
        let feeder = std::thread::spawn(move || {
            let mut number = 1;
            let end = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < end {
                input.write_all(lines(number..=number + 19).as_bytes()).unwrap();
                number += 20;
                std::thread::sleep(Duration::from_micros(300));
            }
            number - 1
        });
        let mut looks = 0;
        let mut seen = 0;
        while !feeder.is_finished() {
            let output = run("cat", &log, &[]);
            assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
            let count = text(&output.stdout).lines().count() as u64;
            assert!(text(&output.stdout) == lines(1..=count), "{args:?}");
            assert!(count >= seen, "{args:?}");
            (looks, seen) = (looks + 1, count);
        }
        let last = feeder.join().unwrap();
        drop(writer);
        assert!(looks > 2 && seen > 0 && seen <= last, "{args:?}: {looks} looks, {seen} of {last}");
    }
}
