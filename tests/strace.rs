//! What goes to a segment without io_uring, on a ring: nothing with fdatasync; with dsync, only writes that are durable
//! by themselves, of groups that go alone. All else goes through the ring, when the log is opened, recovered,
//! zero-filled and cut, too. (Opening and cutting do make other calls: `fcntl` for locks and direct I/O, `ftruncate`.)
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::{cli, logs, require};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What may write or sync by itself.
const CALLS: &str =
    "write,writev,pwrite64,pwritev,pwritev2,fdatasync,fsync,sync_file_range,sync,syncfs,msync";

/// Enough for some rotations.
const RECORDS: usize = 4000;

const DSYNC: &[&str] = &["--sync", "auto"];
const DSYNC_FALLOCATE: &[&str] = &["--sync", "auto", "--prealloc", "fallocate"];
const FDATASYNC: &[&str] = &["--sync", "fdatasync"];

/// How often each call was made on a segment, or on the file that becomes the next one. A write that is durable by
/// itself has `+dsync` behind its name, and one to a file that is not yet in use `+prepared`.
fn calls_on_segments(backend: &str, way: &[&str]) -> Option<BTreeMap<String, usize>> {
    match Command::new("strace").arg("-V").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            require::skip("strace", &cli::stderr(&output));
            return None;
        }
        Err(error) => {
            require::skip("strace", &format!("strace does not run: {error}"));
            return None;
        }
    }
    let root = tempfile::tempdir().unwrap();
    let (dir, trace) = (root.path().join("log"), root.path().join("trace"));
    let trace_name = trace.to_str().unwrap();
    let wrapper = ["strace", "-f", "-yy", "-qq", "-o", trace_name, "-e", &format!("trace={CALLS}")];
    // Twice: once to create it, and once to recover it.
    for (ready, records) in [(0, RECORDS), (RECORDS, 10)] {
        let arguments = [&["--backend", backend, "--segment-size", "32Ki"], way].concat();
        let output = cli::run(cli::append(&wrapper, &dir, &arguments), records).unwrap();
        let errors = cli::stderr(&output);
        if !output.status.success() && ready == 0 && errors.contains("ptrace") {
            require::skip("strace", errors.trim());
            return None;
        }
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(&format!("READY {ready}\n")), "{text}");
        assert_eq!(text.lines().count(), records + 1);
        if ready == 0 {
            assert!(logs::segments(&dir).len() > 3, "there was no rotation");
            let found = count(&trace, &dir);
            if backend == "threads" {
                return Some(found);
            }
            assert!(found.keys().all(|name| name == "pwritev2+dsync"), "{found:?}");
        }
    }
    Some(count(&trace, &dir))
}

/// Lines such as `123 fdatasync(7</log/0-0.wal>) = 0`.
fn count(trace: &Path, dir: &Path) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(trace).unwrap();
    assert!(text.lines().count() > 0, "strace saw nothing, not even stdout");
    let mut calls = BTreeMap::new();
    let begin = format!("<{}/", dir.display());
    for line in text.lines() {
        let Some((call, first)) = line.split_once('(') else { continue };
        let argument = first.split(", ").next().unwrap_or_default();
        let of_segment = argument.contains(".wal") || argument.contains("seawal-next.tmp");
        if argument.contains(&begin) && of_segment {
            let name = call.split_whitespace().last().unwrap_or_default();
            let dsync = if first.contains("RWF_DSYNC") { "+dsync" } else { "" };
            let prepared = if argument.contains("seawal-next.tmp") { "+prepared" } else { "" };
            *calls.entry(format!("{name}{dsync}{prepared}")).or_default() += 1;
        }
    }
    calls
}

#[test]
fn a_ring_writes_and_syncs_without_system_calls() {
    let Some(calls) = calls_on_segments("uring", FDATASYNC) else { return };
    assert_eq!(calls, BTreeMap::new());
}

#[test]
fn a_ring_is_passed_by_only_by_durable_writes_of_groups() {
    for way in [DSYNC, DSYNC_FALLOCATE] {
        let Some(calls) = calls_on_segments("uring", way) else { return };
        println!("{way:?}: {calls:?}");
        let others: Vec<_> = calls.keys().filter(|name| *name != "pwritev2+dsync").collect();
        assert!(others.is_empty(), "{way:?}: {calls:?}");
    }
}

/// The test of the test.
#[test]
fn threads_are_seen() {
    for way in [DSYNC, DSYNC_FALLOCATE, FDATASYNC] {
        let Some(calls) = calls_on_segments("threads", way) else { return };
        println!("{way:?}: {calls:?}");
        let count = |name: &str| calls.get(name).copied().unwrap_or_default();
        let writes = count("pwritev2") + count("pwritev2+dsync") + count("pwritev2+prepared");
        assert!(writes > 10, "{way:?}: {calls:?}");
        // One or the other; where the file system has no direct I/O, always the other.
        assert!(count("pwritev2+dsync") + count("fdatasync") > 10, "{way:?}: {calls:?}");
        assert!(way != FDATASYNC || count("pwritev2+dsync") == 0, "{way:?}: {calls:?}");
    }
}
