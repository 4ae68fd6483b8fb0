//! On a ring, no system call writes to a segment or syncs one: what goes to the disk goes through io_uring.
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

/// How often each call was made on a segment, or on the file that becomes the next one.
fn calls_on_segments(backend: &str) -> Option<BTreeMap<String, usize>> {
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
        let arguments = ["--backend", backend, "--segment-size", "32Ki"];
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
            if !found.is_empty() {
                return Some(found);
            }
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
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

#[test]
fn a_ring_writes_and_syncs_without_system_calls() {
    let Some(calls) = calls_on_segments("uring") else { return };
    assert_eq!(calls, BTreeMap::new());
}

/// The test of the test.
#[test]
fn threads_are_seen() {
    let Some(calls) = calls_on_segments("threads") else { return };
    println!("{calls:?}");
    assert!(calls.get("fdatasync").is_some_and(|&count| count > 10), "{calls:?}");
    let writes = calls
        .iter()
        .filter(|(name, _)| name.contains("write"))
        .map(|(_, count)| count)
        .sum::<usize>();
    assert!(writes > 10, "{calls:?}");
}
