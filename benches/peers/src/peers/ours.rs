//! seawal. Appends come from tokio tasks; the log's own thread groups and writes them.

use crate::peer::*;
use bytes::Bytes;
use seawal::{
    Backend, GroupCommit, GroupDecision, GroupPolicy, GroupView, Options, Prealloc, Reader,
    Replayed, SyncMethod, Wal,
};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// Appends that `load` keeps waiting at once.
const LOAD_IN_FLIGHT: usize = 4096;

struct Ours(Wal);

struct Appender(Wal);

impl TaskAppender for Appender {
    fn append<'a>(&'a mut self, payload: &'a [u8]) -> BoxFut<'a> {
        Box::pin(async move {
            self.0.append(payload).await?;
            Ok(())
        })
    }
    fn append_batch<'a>(&'a mut self, batch: &'a [&'a [u8]]) -> BoxFut<'a> {
        Box::pin(async move {
            self.0.append_batch(batch.iter().copied()).await?;
            Ok(())
        })
    }
}

impl Peer for Ours {
    fn task_appender(&self, _who: usize) -> Box<dyn TaskAppender> {
        Box::new(Appender(self.0.clone()))
    }
    fn close(self: Box<Self>) -> Result<()> {
        self.0.close_blocking()?;
        Ok(())
    }
}

fn options() -> Options {
    Options::new()
}

fn threads() -> Options {
    Options::new().backend(Backend::Threads)
}

fn fdatasync() -> Options {
    Options::new().sync_method(SyncMethod::Fdatasync)
}

fn fdatasync_threads() -> Options {
    fdatasync().backend(Backend::Threads)
}

fn fallocate() -> Options {
    Options::new().prealloc(Prealloc::Fallocate)
}

fn sleeps() -> Options {
    Options::new().stay_awake(Duration::ZERO)
}

/// One way of forming groups, always: what the default policy chooses from.
#[derive(Debug)]
struct Always {
    way: Way,
    expected: usize,
    answered_at: Duration,
    latency: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Natural,
    Gather,
    Overlap,
}

impl GroupPolicy for Always {
    fn next(&mut self, view: &GroupView) -> GroupDecision {
        match self.way {
            Way::Natural | Way::Overlap if view.bytes >= 128 << 10 => GroupDecision::Commit,
            Way::Overlap if view.in_flight < 2 => GroupDecision::Commit,
            _ if view.in_flight > 0 => GroupDecision::Hold,
            Way::Gather if view.appends < self.expected && !view.full => {
                match (self.answered_at + self.latency).saturating_sub(view.now) {
                    Duration::ZERO => GroupDecision::CommitAlone,
                    left => GroupDecision::Gather { appends: self.expected, at_most: left },
                }
            }
            _ => GroupDecision::CommitAlone,
        }
    }

    fn committed(&mut self, commit: &GroupCommit) {
        self.expected = commit.appends + commit.waiting;
        self.answered_at = commit.now;
        self.latency = (self.latency * 7 + commit.latency) / 8;
    }
}

fn always(way: Way) -> Options {
    let (answered_at, latency) = (Duration::ZERO, Duration::ZERO);
    Options::new().group_policy(move || Box::new(Always { way, expected: 0, answered_at, latency }))
}

fn open(dir: &Path, options: Options) -> Result<Box<dyn Peer>> {
    Ok(Box::new(Ours(Wal::open_or_create_blocking(dir, options)?.0)))
}

fn load(dir: &Path, records: u64, payload: usize) -> Result<()> {
    // The folder is not there yet, or empty.
    std::fs::create_dir_all(dir)?;
    let (wal, _) = Wal::open_or_create_blocking(dir, options())?;
    let mut record = vec![0u8; payload];
    fill(&mut record, 1);
    let mut waiting = VecDeque::with_capacity(LOAD_IN_FLIGHT);
    for n in 0..records {
        if waiting.len() == LOAD_IN_FLIGHT {
            let oldest: seawal::Ticket = waiting.pop_front().expect("it is full");
            oldest.wait_blocking()?;
        }
        stamp(&mut record, n);
        waiting.push_back(wal.submit_blocking(Bytes::copy_from_slice(&record))?);
    }
    for ticket in waiting {
        ticket.wait_blocking()?;
    }
    wal.close_blocking()?;
    Ok(())
}

fn replay(dir: &Path) -> Result<(u64, u64)> {
    let mut replay = Reader::replay(dir, options());
    let (mut n, mut bytes) = (0u64, 0u64);
    for replayed in replay.blocking() {
        match replayed {
            Replayed::Entry(entry) => {
                n += 1;
                bytes += entry.data.len() as u64;
            }
            Replayed::TruncatedAfter(_) => return Err("nothing was taken back".into()),
        }
    }
    let (_, recovery) = replay.finish_blocking()?;
    assert_eq!(recovery.last_index, Some(n));
    Ok((n, bytes))
}

/// The same in two steps.
fn open_and_read(dir: &Path) -> Result<(u64, u64)> {
    let (reader, _) = Reader::open_blocking(dir, options())?;
    let (mut n, mut bytes) = (0u64, 0u64);
    for entry in reader.read(..).blocking() {
        n += 1;
        bytes += entry?.data.len() as u64;
    }
    Ok((n, bytes))
}

pub fn defs() -> Vec<PeerDef> {
    let seawal = || PeerDef {
        name: "seawal",
        style: Style::Tasks,
        durable: true,
        batch: true,
        default_on: true,
        note: "default options",
        open: |dir, _| open(dir, options()),
        load: Some(load),
        replay: Some(replay),
    };
    // Reading and loading are those of `seawal`.
    let variant = || PeerDef { load: None, replay: None, ..seawal() };
    vec![
        seawal(),
        PeerDef {
            name: "seawal-open-read",
            note: "replay in two steps: the log is opened, and then read",
            load: Some(load),
            replay: Some(open_and_read),
            default_on: false,
            ..variant()
        },
        PeerDef {
            name: "seawal-threads",
            note: "Backend::Threads: plain system calls instead of io_uring",
            open: |dir, _| open(dir, threads()),
            ..variant()
        },
        PeerDef {
            name: "seawal-fdatasync",
            note: "SyncMethod::Fdatasync: buffered writes and fdatasync",
            open: |dir, _| open(dir, fdatasync()),
            ..variant()
        },
        PeerDef {
            name: "seawal-fdatasync-threads",
            note: "the same with plain system calls",
            default_on: false,
            open: |dir, _| open(dir, fdatasync_threads()),
            ..variant()
        },
        PeerDef {
            name: "seawal-sleeps",
            note: "no caller stays awake while his record is with the disk",
            default_on: false,
            open: |dir, _| open(dir, sleeps()),
            ..variant()
        },
        PeerDef {
            name: "seawal-fallocate",
            note: "Prealloc::Fallocate: no zeros are written ahead",
            default_on: false,
            open: |dir, _| open(dir, fallocate()),
            ..variant()
        },
        PeerDef {
            name: "seawal-1mib",
            note: "segments of 1 MiB: a cut every MiB",
            default_on: false,
            open: |dir, _| open(dir, Options::new().segment_bytes(1 << 20)),
            ..variant()
        },
        PeerDef {
            name: "seawal-4mib",
            note: "segments of 4 MiB",
            default_on: false,
            open: |dir, _| open(dir, Options::new().segment_bytes(4 << 20)),
            ..variant()
        },
        PeerDef {
            name: "seawal-natural",
            note: "a policy that always commits at once, one group at a time",
            default_on: false,
            open: |dir, _| open(dir, always(Way::Natural)),
            ..variant()
        },
        PeerDef {
            name: "seawal-gather",
            note: "a policy that always waits for the callers that are about to come back",
            default_on: false,
            open: |dir, _| open(dir, always(Way::Gather)),
            ..variant()
        },
        PeerDef {
            name: "seawal-overlap",
            note: "a policy that always commits at once, two groups at a time",
            default_on: false,
            open: |dir, _| open(dir, always(Way::Overlap)),
            ..variant()
        },
    ]
}
