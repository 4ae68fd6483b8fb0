//! Backups of logs that are being written: real files, real processes, both backends.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use common::fixtures;
use common::logs::Contents;
use seawal::{Backend, CopyBy, Entry, ErrorKind, Options, Reader, Start, Wal};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn options(backend: Backend) -> Options {
    Options::new().backend(backend).segment_bytes(256 << 10)
}

fn payload(index: u64) -> String {
    format!("{index}:{}", "x".repeat((index * 7919 % 3000) as usize))
}

fn seawal(args: &[&str], dir: &Path, to: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawal"));
    command.arg(args[0]).arg(dir);
    command.args(to).args(&args[1..]).env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn entries(dir: &Path) -> Vec<Entry> {
    let options = Options::new().backend(Backend::Threads);
    let (reader, _) = Reader::open_blocking(dir, options).unwrap();
    reader.read(..).blocking().map(Result::unwrap).collect()
}

/// Whether a directory is a log with just the entries from 1 to `last`.
#[track_caller]
fn assert_holds(dir: &Path, last: u64) {
    let entries = entries(dir);
    assert_eq!(entries.len() as u64, last);
    for (entry, index) in entries.iter().zip(1..) {
        assert_eq!((entry.index, &entry.data[..]), (index, payload(index).as_bytes()));
    }
    let verdict = seawal(&["verify"], dir, None);
    assert_eq!(verdict.status.code(), Some(0), "{}", text(&verdict.stdout));
}

/// The library's own process: appends go on while one backup after another is made.
#[test]
fn backups_beside_appends_in_one_process() {
    for backend in [Backend::Auto, Backend::Threads] {
        let dir = tempfile::tempdir().unwrap();
        let (log, to) = (dir.path().join("log"), dir.path().join("backup"));
        let (wal, _) = Wal::open_or_create_blocking(&log, options(backend)).unwrap();
        let acked = Arc::new(AtomicU64::new(0));
        let writer = {
            let (wal, acked) = (wal.clone(), Arc::clone(&acked));
            std::thread::spawn(move || {
                for index in 1..=1500 {
                    assert_eq!(wal.append_blocking(payload(index).as_bytes()).unwrap(), index);
                    acked.store(index, Ordering::SeqCst);
                }
            })
        };
        let mut backups = 0;
        while !writer.is_finished() {
            let before = acked.load(Ordering::SeqCst);
            let backup = wal.backup_blocking(&to).unwrap();
            assert!(backup.last_index >= before, "{} of {before}", backup.last_index);
            assert_holds(&to, backup.last_index);
            backups += 1;
        }
        writer.join().unwrap();
        assert!(backups > 2, "{backups}");
        assert_eq!(wal.backup_blocking(&to).unwrap().last_index, 1500);
        wal.close_blocking().unwrap();
        assert_holds(&to, 1500);
        // Restoring: it is a log as any other.
        let (restored, recovery) = Wal::open_blocking(&to, options(backend)).unwrap();
        assert_eq!((recovery.last_index, recovery.cut), (Some(1500), None));
        assert_eq!(restored.append_blocking(payload(1501).as_bytes()).unwrap(), 1501);
        restored.close_blocking().unwrap();
        assert_holds(&to, 1501);
    }
}

/// `seawal append` writes, `seawal backup` copies, again and again; each copy holds what was acked before it began.
#[test]
fn backups_beside_a_process_that_appends() {
    for backend in ["auto", "threads"] {
        let dir = tempfile::tempdir().unwrap();
        let (log, to) = (dir.path().join("log"), dir.path().join("backup"));
        let mut writer = Command::new(env!("CARGO_BIN_EXE_seawal"));
        writer.args(["append", "--ack", "--backend", backend, "--segment-size", "256Ki"]).arg(&log);
        writer.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut writer = writer.spawn().unwrap();
        let mut stdin = writer.stdin.take().unwrap();
        let mut acks = BufReader::new(writer.stdout.take().unwrap()).lines();
        assert_eq!(acks.next().unwrap().unwrap(), "READY 0");
        let acked = Arc::new(AtomicU64::new(0));
        let listener = {
            let acked = Arc::clone(&acked);
            std::thread::spawn(move || {
                for ack in acks {
                    let ack = ack.unwrap();
                    let index = ack.split(' ').nth(1).unwrap().parse().unwrap();
                    acked.store(index, Ordering::SeqCst);
                }
            })
        };
        let source = std::thread::spawn(move || {
            for index in 1..=1500 {
                writeln!(stdin, "{}", payload(index)).unwrap();
                if index % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(25));
                }
            }
        });
        let mut backups = 0;
        while !source.is_finished() {
            let before = acked.load(Ordering::SeqCst);
            if before == 0 {
                continue;
            }
            let made = seawal(&["backup", "--json"], &log, Some(&to));
            assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
            let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
            let last = made["last_index"].as_u64().unwrap();
            assert!(last >= before, "{last} of {before}");
            assert_holds(&to, last);
            backups += 1;
        }
        source.join().unwrap();
        assert!(writer.wait().unwrap().success());
        listener.join().unwrap();
        assert!(backups > 2, "{backups}");
        let made = seawal(&["backup"], &log, Some(&to));
        assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
        assert!(text(&made.stdout).contains("up to index 1500, in "), "{}", text(&made.stdout));
        assert_holds(&to, 1500);
    }
}

fn log_of(dir: &Path, entries: u64) -> Wal {
    let (wal, _) = Wal::open_or_create_blocking(dir, options(Backend::Threads)).unwrap();
    let records: Vec<String> = (1..=entries).map(payload).collect();
    for batch in records.chunks(20) {
        wal.append_batch_blocking(batch.iter().map(String::as_str)).unwrap();
    }
    wal
}

/// By whatever name the directory is given.
#[test]
fn the_logs_own_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let wal = log_of(&log, 3);
    symlink(&log, dir.path().join("link")).unwrap();
    std::fs::create_dir(log.join("inside")).unwrap();
    symlink(log.join("inside"), dir.path().join("link-inside")).unwrap();
    let names = ["log", "link", "log/../log", "link/../log/.", "link/inside", "link-inside/new"];
    for name in names.map(|name| dir.path().join(name)) {
        let error = wal.backup_blocking(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}: {error}", name.display());
        let refused = seawal(&["backup"], &log, Some(&name));
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("into its own directory"));
    }
    assert_eq!(std::fs::read_dir(log.join("inside")).unwrap().count(), 0);
    wal.close_blocking().unwrap();
}

#[test]
fn the_command_says_what_is_the_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (log, to) = (dir.path().join("log"), dir.path().join("backup"));
    let no_log = seawal(&["backup"], &log, Some(&to));
    assert_eq!(no_log.status.code(), Some(3), "{}", text(&no_log.stderr));
    assert!(!to.exists());
    log_of(&log, 3).close_blocking().unwrap();
    let nowhere = seawal(&["backup"], &log, Some(&dir.path().join("no/where")));
    assert_eq!(nowhere.status.code(), Some(3), "{}", text(&nowhere.stderr));
    assert!(text(&nowhere.stderr).contains("the directory above it does not exist"));
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("letter.txt"), "dear").unwrap();
    let foreign = seawal(&["backup"], &log, Some(&to));
    assert_eq!(foreign.status.code(), Some(1), "{}", text(&foreign.stderr));
    assert!(text(&foreign.stderr).contains("letter.txt: no backup has such a file"));
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 1);
    // Root may do anything.
    if !is_root() {
        std::fs::remove_file(to.join("letter.txt")).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o500)).unwrap();
        let denied = seawal(&["backup"], &log, Some(&to));
        assert_eq!(denied.status.code(), Some(4), "{}", text(&denied.stderr));
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Sealed segments are the log's own files then; releasing them takes nothing from the backup.
#[test]
fn hard_links_are_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let (log, to) = (dir.path().join("log"), dir.path().join("backup"));
    let wal = log_of(&log, 600);
    let backup = wal.backup_by_blocking(&to, CopyBy::HardLink).unwrap();
    assert!(backup.segments > 3 && backup.bytes_linked > 600 << 10, "{backup:?}");
    let links: Vec<u64> = std::fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().nlink())
        .collect();
    assert_eq!(links.iter().filter(|links| **links == 2).count(), backup.segments - 1);
    wal.release_blocking(600).unwrap();
    wal.close_blocking().unwrap();
    assert_holds(&to, 600);
    let command = seawal(&["backup", "--hard-links"], &to, Some(&dir.path().join("again")));
    assert_eq!(command.status.code(), Some(0), "{}", text(&command.stderr));
    assert!(text(&command.stdout).contains(" linked)"), "{}", text(&command.stdout));
    assert_holds(&dir.path().join("again"), 600);
}

/// etcd's own logs have no marks: they are copied as they are, and again.
#[test]
fn logs_of_etcd_are_copied() {
    for name in fixtures::cases("real") {
        let unpacked = fixtures::unpack(&name);
        let log = unpacked.wal();
        let to = unpacked.root().join("backup");
        let latest = || Options::new().backend(Backend::Threads).start(Start::LatestSnapshot);
        let (reader, recovery) = Reader::open_blocking(log, latest()).unwrap();
        let backup = reader.backup_blocking(&to).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(Some(backup.last_index), recovery.last_index, "{name}");
        let expected = Contents::read(log, latest()).unwrap();
        assert_eq!(Contents::read(&to, latest()).unwrap(), expected, "{name}");
        let again = reader.backup_blocking(&to).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((again.segments_new, again.segments), (0, backup.segments), "{name}");
        // Written to, it gets an id of its own, and is a backup no more.
        let (copy, _) = Wal::open_blocking(&to, latest()).unwrap();
        copy.close_blocking().unwrap();
        let error = reader.backup_blocking(&to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Diverged, "{name}: {error}");
    }
}

/// Where nothing can be shared, bytes are copied; and links that were asked for are refused.
#[test]
fn another_file_system_gets_a_copy() {
    let memory = Path::new("/dev/shm");
    let dir = tempfile::tempdir().unwrap();
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
    if device(memory).is_err() || device(memory).unwrap() == device(dir.path()).unwrap() {
        println!("skipped: there is no other file system");
        return;
    }
    let there = tempfile::tempdir_in(memory).unwrap();
    let wal = log_of(&dir.path().join("log"), 600);
    let error = wal.backup_by_blocking(there.path(), CopyBy::HardLink).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(std::fs::read_dir(there.path()).unwrap().count(), 0);
    let backup = wal.backup_blocking(there.path()).unwrap();
    assert!(backup.bytes_copied > 600 << 10 && backup.bytes_reflinked == 0, "{backup:?}");
    wal.close_blocking().unwrap();
    assert_holds(there.path(), 600);
}
