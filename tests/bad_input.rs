//! What a person gets to read who points the log at the wrong thing: a kind or text of its own for each case, with
//! the file, the place in it, and the next step. And what failed has changed nothing.
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::logs::{HANG, on_disk, segments, within};
use common::{child, fixtures, require};
use seawal::{
    Backend, Durability, Error, ErrorKind, Options, Reader, Result, Start, SyncMethod, Verdict, Wal,
};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

fn options() -> Options {
    Options::new()
        .backend(Backend::Threads)
        .segment_bytes(16 << 10)
        .lock_wait(Duration::from_millis(20))
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A log of several segments with records of 1000 bytes.
fn make_log(dir: &Path) -> Vec<PathBuf> {
    // As dense as etcd's, so that some indexes are in the first segment.
    let options = options().sync_method(SyncMethod::Fdatasync);
    let wal = Wal::create_blocking(dir, options).unwrap();
    for at in 0..60 {
        wal.append_blocking(vec![b'a' + at % 26; 1000]).unwrap();
    }
    wal.close_blocking().unwrap();
    let segments = segments(dir);
    assert!(segments.len() >= 4, "{segments:?}");
    segments
}

/// The three ways to open what must be a log.
fn open_errors(dir: &Path) -> Vec<Error> {
    vec![
        Wal::open_blocking(dir, options()).map(drop).unwrap_err(),
        Reader::open_blocking(dir, options()).map(drop).unwrap_err(),
        Reader::snapshots_blocking(dir).map(drop).unwrap_err(),
    ]
}

/// The error is of this kind, about this path, and says what, where, and what next.
#[track_caller]
fn assert_error(error: &Error, kind: ErrorKind, path: &Path, words: &str) {
    println!("{error}");
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert_eq!(error.path(), Some(path), "{text}");
    assert!(text.starts_with(&*path.to_string_lossy()), "{text}");
    assert!(text.contains(words), "no {words:?} in {text}");
    let next = error.next_step().unwrap_or_else(|| panic!("no next step in {text}"));
    assert!(text.ends_with(next), "{text}");
}

/// `act` fails, and changes nothing below `root`.
#[track_caller]
fn refused<T: std::fmt::Debug>(root: &Path, act: impl FnOnce() -> Result<T>) -> Error {
    let before = on_disk(root);
    let error = act().expect_err("it is refused");
    assert_eq!(on_disk(root), before, "something changed on disk");
    error
}

// What is there is no log.

#[test]
fn directory_that_is_not_a_log() {
    let root = temp();
    let dir = root.path();
    for other in ["notes.txt", "0.tmp", "0000000000000000.wal.broken"] {
        fs::write(dir.join(other), "not a segment").unwrap();
        let before = on_disk(dir);
        for error in open_errors(dir) {
            assert_error(&error, ErrorKind::NotALog, dir, "no segment");
        }
        assert_eq!(on_disk(dir), before);
    }
    // A directory with the name of a segment is not one, but nothing can be created beside it.
    let empty = temp();
    let named = empty.path().join("0000000000000000-0000000000000000.wal");
    fs::create_dir(&named).unwrap();
    for error in open_errors(empty.path()) {
        assert_error(&error, ErrorKind::Damaged, &named, "not a file");
    }
    let error = refused(empty.path(), || Wal::create_blocking(empty.path(), options()));
    assert_error(&error, ErrorKind::Exists, empty.path(), "there is a log already");
}

#[test]
fn missing_directory() {
    let root = temp();
    let dir = root.path().join("missing");
    let before = on_disk(root.path());
    for error in open_errors(&dir) {
        assert_error(&error, ErrorKind::NotFound, &dir, "No such file or directory");
    }
    assert_eq!(on_disk(root.path()), before);
}

#[test]
fn missing_parent_on_create() {
    let root = temp();
    let dir = root.path().join("missing").join("log");
    for act in [Wal::create_blocking(&dir, options()).map(drop), open_or_create(&dir)] {
        assert_error(&act.unwrap_err(), ErrorKind::NotFound, &dir, "the directory above it");
    }
    assert!(!dir.parent().unwrap().exists());
}

fn open_or_create(dir: &Path) -> Result<()> {
    Wal::open_or_create_blocking(dir, options()).map(drop)
}

#[test]
fn file_in_place_of_the_directory() {
    let root = temp();
    let file = root.path().join("log");
    fs::write(&file, "a file").unwrap();
    let before = on_disk(root.path());
    let mut errors = open_errors(&file);
    errors.push(Wal::create_blocking(&file, options()).unwrap_err());
    errors.push(open_or_create(&file).unwrap_err());
    // A file on the way to it, too.
    for error in errors {
        assert_error(
            &error,
            ErrorKind::NotALog,
            &file,
            "give the directory of the log, not a file",
        );
    }
    let below = file.join("log");
    assert_error(&open_or_create(&below).unwrap_err(), ErrorKind::NotALog, &below, "not a file");
    assert_eq!(on_disk(root.path()), before);
}

#[test]
fn create_where_a_log_exists() {
    let root = temp();
    make_log(root.path());
    let error = refused(root.path(), || Wal::create_blocking(root.path(), options()));
    assert_error(&error, ErrorKind::Exists, root.path(), "there is a log already; open it");
    // As etcd: anything that ends in .wal counts.
    let other = temp();
    fs::write(other.path().join("test.wal"), "").unwrap();
    let error = refused(other.path(), || Wal::create_blocking(other.path(), options()));
    assert_error(&error, ErrorKind::Exists, other.path(), "there is a log already");
}

#[test]
fn log_held_by_another_process() {
    if let Some(dir) = child::task() {
        let (wal, _) = Wal::open_blocking(Path::new(&dir), options()).unwrap();
        child::answer("open");
        child::wait_to_go_on();
        wal.append_blocking("from the child").unwrap();
        wal.close_blocking().unwrap();
        return;
    }
    let root = temp();
    let newest = make_log(root.path()).pop().unwrap();
    let (holder, answer) = child::Waiting::start(child::command(
        &[],
        "log_held_by_another_process",
        root.path().to_str().unwrap(),
    ));
    assert_eq!(answer, "open");
    let opened = || Wal::open_blocking(root.path(), options());
    // The holder may write its idle mark meanwhile, so bytes are not compared here.
    assert_error(&opened().unwrap_err(), ErrorKind::Locked, &newest, "another process");
    let (_, recovery) = Reader::open_blocking(root.path(), options()).unwrap();
    assert_eq!(recovery.last_index, Some(60));
    holder.finish();
    let (wal, recovery) = opened().unwrap();
    assert_eq!(recovery.last_index, Some(61));
    wal.close_blocking().unwrap();
}

// Segments that are wrong by name.

#[test]
fn missing_segments() {
    let root = temp();
    let dir = root.path();
    let segments = make_log(dir);
    let away = |at: usize| {
        let aside = dir.join("aside");
        fs::rename(&segments[at], &aside).unwrap();
        let error = refused(dir, || Wal::open_blocking(dir, options()));
        let by_reader = Reader::open_blocking(dir, options()).unwrap_err();
        assert_eq!(by_reader.to_string(), error.to_string());
        fs::rename(&aside, &segments[at]).unwrap();
        error
    };
    assert_error(&away(1), ErrorKind::Damaged, &segments[2], "segment 1 is missing: 2 follows 0");
    assert_error(&away(0), ErrorKind::Released, &segments[1], "no segment reaches back to index 1");
    let (wal, recovery) = Wal::open_blocking(dir, options()).unwrap();
    assert_eq!((recovery.verdict, recovery.last_index), (Verdict::Clean, Some(60)));
    wal.close_blocking().unwrap();
}

#[test]
fn names_out_of_sequence() {
    let root = temp();
    let dir = root.path();
    let segments = make_log(dir);
    let twice = dir.join("0000000000000001-00000000000000ff.wal");
    fs::copy(&segments[1], &twice).unwrap();
    let error = refused(dir, || Wal::open_blocking(dir, options()));
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("two segments have the sequence number 1"), "{error}");
    fs::remove_file(&twice).unwrap();

    let number = |at: usize| {
        dir.join(segments[at].file_name().unwrap().to_str().unwrap().replacen(
            &format!("{at:016x}-"),
            &format!("{:016x}-", at ^ 3),
            1,
        ))
    };
    let (first, second) = (number(1), number(2));
    fs::rename(&segments[1], dir.join("aside")).unwrap();
    fs::rename(&segments[2], &second).unwrap();
    fs::rename(dir.join("aside"), &first).unwrap();
    let error = refused(dir, || Wal::open_blocking(dir, options()));
    // Which now comes first is the one that was second.
    assert_error(&error, ErrorKind::Damaged, &second, "");
    assert_eq!(error.offset(), Some(0), "{error}");
}

#[test]
fn segments_of_another_log() {
    let (root, other) = (temp(), temp());
    let segments = make_log(root.path());
    let others = make_log(other.path());
    fs::copy(&others[2], &segments[2]).unwrap();
    let error = refused(root.path(), || Wal::open_blocking(root.path(), options()));
    assert_error(&error, ErrorKind::Damaged, &segments[2], "");
    assert_eq!(error.offset(), Some(0), "{error}");
}

/// Opening a pipe for reading waits for a writer, for ever.
#[test]
fn pipe_with_the_name_of_a_segment() {
    let root = temp();
    let dir = root.path().to_owned();
    let segments = make_log(&dir);
    fs::remove_file(&segments[1]).unwrap();
    let made = Command::new("mkfifo").arg(&segments[1]).status().unwrap();
    assert!(made.success());
    let error = within(HANG / 3, "opening", move || {
        Wal::open_blocking(&dir, options()).map(drop).unwrap_err()
    });
    assert_error(&error, ErrorKind::Damaged, &segments[1], "not a file");
}

// Bytes that are wrong.

#[test]
fn unknown_record_types() {
    for (name, number) in [("log-crafted-unknown-type", 9), ("log-crafted-type-zero", 0)] {
        let log = fixtures::unpack(&format!("damaged/{name}"));
        let error = refused(log.root(), || Wal::open_blocking(log.wal(), options()));
        let path = segments(log.wal()).remove(0);
        assert_error(&error, ErrorKind::Damaged, &path, &format!("unknown record type {number}"));
        assert!(error.offset().is_some_and(|offset| offset > 0 && offset % 8 == 0), "{error}");
    }
}

/// Where frames start, by their length fields.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut at = 0;
    while at + 8 <= bytes.len() {
        let field = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        if field == 0 {
            break;
        }
        offsets.push(at);
        let padding = if field >> 63 == 1 { field >> 56 & 7 } else { 0 };
        at += (8 + (field & ((1 << 56) - 1)) + padding) as usize;
    }
    offsets
}

const ABSURD_LENGTHS: [u64; 12] = [
    u64::MAX,
    u64::MAX >> 1,
    (1 << 56) - 1,
    0xff00_0000_0000_0000,
    0x8000_0000_0000_0000,
    0x8700_0000_0000_0001,
    0x87ff_ffff_ffff_fff9,
    1 << 55,
    1 << 40,
    1 << 31,
    5,
    1,
];

/// In a sealed segment, or before a mark that proves the place, an absurd length is damage, and named.
#[test]
fn absurd_lengths_where_the_log_is_proven() {
    let root = temp();
    let dir = root.path();
    let segments = make_log(dir);
    for (segment, what) in [(&segments[1], "sealed"), (segments.last().unwrap(), "newest")] {
        let bytes = fs::read(segment).unwrap();
        let offsets = frames(&bytes);
        for &offset in &[offsets[0], offsets[1], offsets[4], offsets[offsets.len() / 2]] {
            for length in ABSURD_LENGTHS {
                let file = fs::OpenOptions::new().write(true).open(segment).unwrap();
                file.write_all_at(&length.to_le_bytes(), offset as u64).unwrap();
                let error = refused(dir, || Wal::open_blocking(dir, options()));
                let what = format!("{what} {offset} {length:#x}: {error}");
                assert_eq!(error.kind(), ErrorKind::Damaged, "{what}");
                assert_eq!(error.path(), Some(&**segment), "{what}");
                assert!(error.offset().is_some_and(|at| at <= offset as u64 + 16), "{what}");
                let by_reader = Reader::open_blocking(dir, options()).unwrap_err();
                assert_eq!(by_reader.to_string(), error.to_string());
                file.write_all_at(&bytes[offset..offset + 8], offset as u64).unwrap();
            }
        }
    }
    assert_eq!(Reader::open_blocking(dir, options()).unwrap().1.last_index, Some(60));
}

/// Nothing proves the last group but itself: whatever the verdict, there is one, and nothing else is lost.
#[test]
fn absurd_lengths_in_the_last_group() {
    let root = temp();
    let segments = make_log(root.path());
    let newest = segments.last().unwrap();
    let bytes = fs::read(newest).unwrap();
    let offsets = frames(&bytes);
    for &offset in &offsets[offsets.len() - 2..] {
        for length in ABSURD_LENGTHS {
            let copy = temp();
            common::logs::copy_dir(root.path(), copy.path());
            let file = fs::OpenOptions::new()
                .write(true)
                .open(copy.path().join(newest.file_name().unwrap()))
                .unwrap();
            file.write_all_at(&length.to_le_bytes(), offset as u64).unwrap();
            match Wal::open_blocking(copy.path(), options()) {
                Ok((wal, recovery)) => {
                    assert_eq!(recovery.last_index, Some(60), "{offset} {length:#x}");
                    assert_eq!(wal.append_blocking("next").unwrap(), 61);
                    wal.close_blocking().unwrap();
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{offset} {length:#x}: {error}")
                }
            }
        }
    }
}

// Options.

#[test]
fn options_out_of_range() {
    let root = temp();
    let dir = root.path().join("log");
    let cases: Vec<(Options, &str)> = vec![
        (options().segment_bytes(0), "segment_bytes"),
        (options().segment_bytes((16 << 10) - 1), "segment_bytes"),
        (options().record_bytes_max((512 << 20) + 1), "record_bytes_max"),
        (options().record_bytes_max(usize::MAX), "record_bytes_max"),
        (options().group_bytes_max(0), "group_bytes_max"),
        (options().group_bytes_max(usize::MAX), "group_bytes_max"),
        (options().queue_bytes_max(0), "queue_bytes_max"),
        (options().queue_bytes_max(usize::MAX), "queue_bytes_max"),
        (options().metadata(vec![0; (1 << 20) + 1]), "metadata"),
    ];
    for (options, word) in cases {
        for outcome in [
            Wal::create_blocking(&dir, options.clone()).map(drop),
            Wal::open_or_create_blocking(&dir, options.clone()).map(drop),
            Wal::open_blocking(&dir, options.clone()).map(drop),
        ] {
            let error = outcome.unwrap_err();
            println!("{error}");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.next_step().is_some(), "{error}");
        }
        assert!(!dir.exists(), "{word}");
    }
}

/// The largest values that types allow are refused or work, but do not panic.
#[test]
fn options_at_their_limits() {
    for options in [
        options().lock_wait(Duration::MAX),
        options().sync_interval(Duration::MAX).durability(Durability::Written),
        options().idle_mark_after(Some(Duration::MAX)),
        options().idle_mark_after(Some(Duration::ZERO)),
        options().idle_mark_after(None).group_bytes_max(4 << 10).queue_bytes_max(4 << 10),
        options().record_bytes_max(0).metadata(vec![7; 1 << 20]),
    ] {
        let root = temp();
        let dir = root.path().join("log");
        let text = format!("{options:?}").chars().take(400).collect::<String>();
        let (wal, _) = Wal::open_or_create_blocking(&dir, options.clone())
            .unwrap_or_else(|error| panic!("{error} with {text}"));
        assert_eq!(wal.append_blocking("").unwrap(), 1, "{text}");
        wal.close_blocking().unwrap();
        let (wal, recovery) = Wal::open_blocking(&dir, options).unwrap();
        assert_eq!(recovery.last_index, Some(1), "{text}");
        wal.close_blocking().unwrap();
    }
    let root = temp();
    let dir = root.path().join("log");
    let error = Wal::create_blocking(&dir, options().segment_bytes(u64::MAX)).unwrap_err();
    println!("{error}");
    assert!(error.path().is_some() && error.next_step().is_some(), "{error}");
    assert_eq!(segments(&dir), Vec::<PathBuf>::new());
    Wal::create_blocking(&dir, options()).unwrap().close_blocking().unwrap();
}

#[test]
fn record_above_the_limit() {
    let root = temp();
    let wal = Wal::create_blocking(root.path(), options().record_bytes_max(100)).unwrap();
    for outcome in [
        wal.append_blocking(vec![0; 101]).map(drop),
        wal.append_batch_blocking([vec![0; 1], vec![0; 101]]).map(drop),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        assert!(error.to_string().contains("101") && error.to_string().contains("100"), "{error}");
        assert!(error.next_step().is_some(), "{error}");
    }
    assert_eq!(wal.append_blocking(vec![0; 100]).unwrap(), 1, "no index was taken");
    wal.close_blocking().unwrap();
}

#[test]
fn start_that_is_not_there() {
    let root = temp();
    let segments = make_log(root.path());
    let start = Start::Snapshot { index: 7, term: 1 };
    let error = refused(root.path(), || Wal::open_blocking(root.path(), options().start(start)));
    assert_error(
        &error,
        ErrorKind::SnapshotNotFound,
        &segments[0],
        "no snapshot record of index 7, term 1",
    );
    // Without any snapshot, the latest is the beginning.
    let (_, recovery) =
        Reader::open_blocking(root.path(), options().start(Start::LatestSnapshot)).unwrap();
    assert_eq!((recovery.first_index, recovery.snapshot), (Some(1), None));
}

// Directories that are fine.

#[test]
fn directory_with_other_things_in_it() {
    let root = temp();
    let dir = root.path();
    fs::create_dir(dir.join("lost+found")).unwrap();
    fs::write(dir.join("notes.txt"), "mine").unwrap();
    fs::write(dir.join(".hidden"), "mine").unwrap();
    let before = on_disk(dir);
    make_log(dir);
    let (_, recovery) = Wal::open_blocking(dir, options()).unwrap();
    assert_eq!(recovery.last_index, Some(60));
    let after = on_disk(dir);
    for (path, file) in before.iter().filter(|(path, _)| *path != dir) {
        assert_eq!(after.get(path), Some(file), "{}", path.display());
    }
}

/// A tmpfs of its own, unmounted when dropped.
struct Mount {
    _root: TempDir,
    at: PathBuf,
}

impl Mount {
    fn new() -> Option<Mount> {
        let root = temp();
        let at = root.path().join("mount");
        fs::create_dir(&at).unwrap();
        let mount = Mount { _root: root, at };
        match mount.command("mount", &["-t", "tmpfs", "-o", "size=16m", "tmpfs"]) {
            Ok(()) => Some(mount),
            Err(why) => {
                std::mem::forget(mount);
                require::skip("fs", &why);
                None
            }
        }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> std::result::Result<(), String> {
        let output = Command::new(program).args(arguments).arg(&self.at).output();
        let output = output.map_err(|error| format!("{program} does not run: {error}"))?;
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{program} fails: {why}")) }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a submission thread may just be closing its files.
        let _ = self.command("umount", &["-l"]);
    }
}

#[test]
fn mount_point_as_directory() {
    let Some(mount) = Mount::new() else { return };
    make_log(&mount.at);
    let (wal, recovery) = Wal::open_blocking(&mount.at, options()).unwrap();
    assert_eq!((recovery.verdict, recovery.last_index), (Verdict::Clean, Some(60)));
    assert_eq!(wal.append_blocking("more").unwrap(), 61);
    wal.close_blocking().unwrap();
}

#[test]
fn read_only_file_system() {
    let Some(mount) = Mount::new() else { return };
    let log = mount.at.join("log");
    let newest = make_log(&log).pop().unwrap();
    let other = mount.at.join("other");
    mount.command("mount", &["-o", "remount,ro"]).unwrap();
    let error = refused(&mount.at, || Wal::open_blocking(&log, options()));
    assert_error(&error, ErrorKind::ReadOnly, &newest, "remount the file system for writing");
    let error = refused(&mount.at, || Wal::create_blocking(&other, options()));
    assert_error(&error, ErrorKind::ReadOnly, &other, "creating the directory failed");
    let (reader, recovery) = Reader::open_blocking(&log, options()).unwrap();
    assert_eq!(recovery.last_index, Some(60));
    assert_eq!(reader.read(..).blocking().filter(Result::is_ok).count(), 60);
}

/// Runs without the capabilities that let root pass over permissions.
#[test]
fn no_permission() {
    if let Some(root) = child::task() {
        return without_permission(Path::new(&root));
    }
    let root = temp();
    let wrapper = match fs::metadata("/proc/self").unwrap() {
        proc if std::os::unix::fs::MetadataExt::uid(&proc) == 0 => {
            &["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"][..]
        }
        _ => &[],
    };
    match child::command(wrapper, "no_permission", root.path().to_str().unwrap()).output() {
        Ok(output) if child::answers(&output) == ["done"] => assert!(output.status.success()),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            if errors.contains("setpriv:") {
                return require::skip("fs", errors.trim());
            }
            panic!("{}\n{errors}", String::from_utf8_lossy(&output.stdout));
        }
        Err(error) => require::skip("fs", &format!("setpriv does not run: {error}")),
    }
}

fn without_permission(root: &Path) {
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let log = root.join("log");
    let segments = make_log(&log);
    let newest = segments.last().unwrap();

    mode(newest, 0o400);
    let error = refused(root, || Wal::open_blocking(&log, options()));
    assert_error(&error, ErrorKind::PermissionDenied, newest, "run as the user that owns the log");
    assert_eq!(Reader::open_blocking(&log, options()).unwrap().1.last_index, Some(60));
    mode(newest, 0o600);

    mode(&segments[1], 0o000);
    let error = Wal::open_blocking(&log, options()).unwrap_err();
    assert_error(&error, ErrorKind::PermissionDenied, &segments[1], "opening failed");
    mode(&segments[1], 0o600);

    mode(&log, 0o000);
    for error in open_errors(&log) {
        assert_error(&error, ErrorKind::PermissionDenied, &log, "listing the directory failed");
    }
    mode(&log, 0o700);

    let parent = root.join("parent");
    fs::create_dir(&parent).unwrap();
    mode(&parent, 0o500);
    let error = refused(&parent, || Wal::create_blocking(parent.join("log"), options()));
    assert_error(
        &error,
        ErrorKind::PermissionDenied,
        &parent.join("log"),
        "creating the directory failed",
    );
    // Without the right to add names: nothing may be left half done.
    let error = refused(&parent, || Wal::create_blocking(&parent, options()));
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    mode(&parent, 0o700);

    let (wal, recovery) = Wal::open_blocking(&log, options()).unwrap();
    assert_eq!(recovery.last_index, Some(60));
    wal.close_blocking().unwrap();
    child::answer("done");
}
