//! A log of fixed size on a disk that has hardly more: it goes round in its files, and its memory stays what it is.

use super::disk::Disk;
use super::image::Kind;
use crate::common::require;
use seawal::{Options, Wal, WhenFull};
use std::collections::VecDeque;
use std::path::Path;

/// The disk, and what the log may have of it: the file system needs some for itself.
const DISK_BYTES: u64 = 24 << 20;
const LOG_BYTES: u64 = 16 << 20;
const SEGMENT_BYTES: u64 = 2 << 20;
/// Appends that wait at a time.
const WINDOW: usize = 1000;
/// A consumer lets go of what it has had, so many records at a time.
const RELEASE_EVERY: u64 = 1000;

/// What was done.
#[derive(Debug)]
pub(crate) struct Done {
    pub segments: u64,
    /// Of the process, after a tenth of the appends, and at the end.
    pub resident_before: u64,
    pub resident_after: u64,
}

/// Appends so many records, with a consumer that follows and releases. Nothing if the machine cannot do it.
pub(crate) fn go_round(appends: u64) -> Option<Done> {
    let disk = match Disk::of(Kind::Ext4, DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => {
            require::skip("loop", &why);
            return None;
        }
    };
    let dir = &disk.dir().join("log");
    // What the log may have is all that it ever takes: appends that find no room fail the test.
    let options = Options::new()
        .segment_bytes(SEGMENT_BYTES)
        .log_bytes_max(LOG_BYTES)
        .when_full(WhenFull::Fail)
        .recent_bytes_max(1 << 20);
    let (wal, _) = Wal::open_or_create_blocking(dir, options.clone()).unwrap();
    let mut tickets = VecDeque::new();
    let mut resident_before = 0;
    for serial in 1..=appends {
        tickets.push_back(wal.submit_blocking(payload(serial)).unwrap());
        if tickets.len() == WINDOW {
            let ticket = tickets.pop_front().unwrap();
            let index = futures_executor::block_on(ticket).unwrap().start;
            if index % RELEASE_EVERY == 0 {
                // The consumer: sees the record, and needs nothing up to it any more.
                assert_eq!(wal_get(&wal, index), payload(index));
                wal.release_blocking(index - 1).unwrap();
                let used = bytes_in(dir);
                assert!(used <= LOG_BYTES, "{used} bytes after {serial} appends");
            }
        }
        if serial == appends / 10 {
            resident_before = resident();
        }
    }
    for ticket in tickets {
        futures_executor::block_on(ticket).unwrap();
    }
    let resident_after = resident();
    let segments = wal.stats().cuts;
    let (first, last) = (wal.first_index(), wal.last_index());
    wal.close_blocking().unwrap();
    let (wal, recovery) = Wal::open_or_create_blocking(dir, options).unwrap();
    assert_eq!((recovery.first_index, recovery.last_index), (Some(first), Some(last)));
    assert_eq!(last, appends);
    for entry in wal.read(..).blocking() {
        let entry = entry.unwrap();
        assert_eq!(entry.data, payload(entry.index));
    }
    wal.close_blocking().unwrap();
    Some(Done { segments, resident_before, resident_after })
}

fn wal_get(wal: &Wal, index: u64) -> Vec<u8> {
    futures_executor::block_on(wal.get(index)).unwrap().data.to_vec()
}

fn payload(serial: u64) -> Vec<u8> {
    format!("record {serial} of a log that goes round").into_bytes()
}

/// What the files in a directory take on the disk.
fn bytes_in(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap();
    // Some may lose their names meanwhile.
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
