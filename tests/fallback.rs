//! Where io_uring cannot be had, `auto` works without it and says why, once; `uring` says why it does not.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::{cli, logs, require, seccomp};
use nix::libc::{ENOSYS, EPERM};
use seawal::{Options, Reader};
use std::process::{Command, Output};

const RECORDS: usize = 50;

/// Runs a command whose io_uring_setup is answered with `errno`.
fn where_refused(errno: i32, command: Command) -> Option<Output> {
    match seccomp::without_uring(errno, move || cli::run(command, RECORDS).unwrap()) {
        Ok(output) => Some(output),
        Err(why) => {
            require::skip("seccomp", &why);
            None
        }
    }
}

/// It worked, on threads, and said so once, with these words.
fn assert_fell_back(output: &Output, dir: &std::path::Path, words: &[&str]) {
    let errors = cli::stderr(output);
    println!("{errors}");
    cli::assert_acked(output, RECORDS);
    let warnings: Vec<&str> = errors.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{errors}");
    for word in words {
        assert!(warnings[0].contains(word), "no {word:?} in {errors}");
    }
    assert!(!errors.contains("ERROR"), "{errors}");
    let (_, recovery) = Reader::open_blocking(dir, Options::new()).unwrap();
    assert_eq!(recovery.last_index, Some(RECORDS as u64));
}

/// It did not work, changed nothing, and said why in a line.
fn assert_refused(output: &Output, dir: &std::path::Path, words: &[&str]) {
    let errors = cli::stderr(output);
    println!("{errors}");
    assert!(!output.status.success(), "{errors}");
    assert!(output.stdout.is_empty(), "{errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    for word in words {
        assert!(errors.contains(word), "no {word:?} in {errors}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(!dir.exists(), "something was created");
}

fn refused_by_seccomp(errno: i32, words: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    let (dir, other) = (root.path().join("log"), root.path().join("other"));
    let with = ["--backend", "auto", "--segment-size", "64Ki"];
    let Some(output) = where_refused(errno, cli::append(&[], &dir, &with)) else { return };
    assert_fell_back(&output, &dir, words);
    let output = where_refused(errno, cli::append(&[], &other, &["--backend", "uring"])).unwrap();
    assert_refused(&output, &other, words);
    assert_refused(&output, &other, &["--backend threads"]);
    // Asked for, threads need no warning.
    let output = where_refused(errno, cli::append(&[], &other, &["--backend", "threads"])).unwrap();
    cli::assert_acked(&output, RECORDS);
    assert!(!cli::stderr(&output).contains("WARN"), "{}", cli::stderr(&output));
}

/// Docker's default profile.
#[test]
fn seccomp_that_forbids() {
    refused_by_seccomp(EPERM, &["os error 1)", "seccomp"]);
}

/// A kernel without io_uring, and some profiles.
#[test]
fn seccomp_that_denies_there_is_such_a_call() {
    refused_by_seccomp(ENOSYS, &["os error 38)"]);
}

/// 64 KiB of locked memory, too little for the registered buffers.
#[test]
fn too_little_locked_memory() {
    let wrapper = [
        "prlimit",
        "--memlock=65536",
        "setpriv",
        "--bounding-set=-ipc_lock",
        "--inh-caps=-all",
        "--no-new-privs",
    ];
    let probe = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => return require::skip("memlock", cli::stderr(&output).trim()),
        Err(error) => return require::skip("memlock", &format!("prlimit does not run: {error}")),
    }
    let root = tempfile::tempdir().unwrap();
    let (dir, other) = (root.path().join("log"), root.path().join("other"));
    let output = cli::run(cli::append(&wrapper, &dir, &["--backend", "auto"]), RECORDS).unwrap();
    assert_fell_back(&output, &dir, &["RLIMIT_MEMLOCK", "os error 12)"]);
    let output = cli::run(cli::append(&wrapper, &other, &["--backend", "uring"]), RECORDS).unwrap();
    assert_refused(&output, &other, &["RLIMIT_MEMLOCK", "--backend threads"]);
    assert!(logs::segments(&dir).len() == 1);
}
