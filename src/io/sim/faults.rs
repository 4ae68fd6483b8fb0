//! Which operation is to fail, how long each takes, and what was done: the test writer's side of every operation.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rng::Rng;

/// A write that chance makes short takes anything up to this.
const SHORT_WRITE_MAX: usize = 16 << 10;

/// The kinds of operations that are counted, traced and can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OpKind {
    /// Of a file, also to create it.
    Open,
    /// Of a piece of a file.
    Read,
    /// Of a piece of a file.
    Write,
    /// A write of zeros, by which space is prepared.
    WriteZeros,
    /// The same by the device alone (`FALLOC_FL_WRITE_ZEROES`).
    ZeroRange,
    /// `fdatasync` of a file.
    Sync,
    /// `fallocate`.
    Allocate,
    /// `ftruncate`.
    Truncate,
    /// Of a file.
    Rename,
    /// A second name for a file.
    Link,
    /// A copy of a file that shares its blocks.
    Reflink,
    /// Of a file's name.
    Remove,
    /// Of one directory.
    CreateDir,
    /// `fsync` of a directory.
    SyncDir,
    /// Of the names in a directory.
    List,
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OpKind::Open => "open",
            OpKind::Read => "read",
            OpKind::Write => "write",
            OpKind::WriteZeros => "write_zeros",
            OpKind::ZeroRange => "zero_range",
            OpKind::Sync => "sync",
            OpKind::Allocate => "allocate",
            OpKind::Truncate => "truncate",
            OpKind::Rename => "rename",
            OpKind::Link => "link",
            OpKind::Reflink => "reflink",
            OpKind::Remove => "remove",
            OpKind::CreateDir => "create_dir",
            OpKind::SyncDir => "sync_dir",
            OpKind::List => "list",
        })
    }
}

/// One operation, as it was submitted. Prints as
/// `write /log/0.wal offset=0 len=512 at=20µs takes=30µs` (and `error=5`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceEntry {
    /// Its kind.
    pub op: OpKind,
    /// The name under which the file was opened.
    pub path: PathBuf,
    /// What it is about, in words: the offset, the length.
    pub detail: String,
    /// When it was submitted.
    pub at: Duration,
    /// How long it takes.
    pub takes: Duration,
    /// The injected error, if any; errors that follow from the disk's state are not here.
    pub error: Option<i32>,
    /// Of a write that is made short: it takes so many bytes.
    pub short: Option<usize>,
}

impl fmt::Display for TraceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op, self.path.display())?;
        if !self.detail.is_empty() {
            write!(f, " {}", self.detail)?;
        }
        write!(f, " at={:?}", self.at)?;
        if !self.takes.is_zero() {
            write!(f, " takes={:?}", self.takes)?;
        }
        if let Some(bytes) = self.short {
            write!(f, " short={bytes}")?;
        }
        match self.error {
            Some(errno) => write!(f, " error={errno}"),
            None => Ok(()),
        }
    }
}

pub(super) struct Faults {
    operations: u64,
    /// Operations that failed or were short.
    met: u64,
    trace: Vec<TraceEntry>,
    latencies: BTreeMap<OpKind, Duration>,
    spreads: BTreeMap<OpKind, Duration>,
    rng: Rng,
    /// By the number of the operation that is to fail.
    by_number: BTreeMap<u64, i32>,
    /// Oldest first; the next operation of the kind takes the first of its kind.
    by_kind: Vec<(OpKind, i32)>,
    /// Operations of a kind that are still to come before the one that is meant, and what happens to that one.
    of_kind: Vec<(OpKind, u64, Fate)>,
    short_write: Option<usize>,
    /// What happens to an operation of a kind now and then: once in so many.
    rates: Vec<(OpKind, u32, Rate)>,
    /// The operation of this number is not begun any more.
    halt_at: Option<u64>,
}

/// What happens to an operation that was counted out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fails(i32),
    Takes(Duration),
}

/// What happens to an operation by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    Fails(i32),
    Takes(Duration),
    /// A write takes a part of its bytes.
    Short,
}

/// What to do with an operation that begins.
pub(super) struct Admission {
    pub latency: Duration,
    pub error: Option<i32>,
    /// For a write: take at most so many bytes.
    pub bytes_max: Option<usize>,
    /// The same, but as the kernel does it: up to the end of a page.
    pub bytes_of_pages_max: Option<usize>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        let micros = Duration::from_micros;
        Faults {
            operations: 0,
            met: 0,
            trace: Vec::new(),
            // Long enough that things overlap as they do in life; what takes no time cannot be interrupted.
            latencies: BTreeMap::from([
                (OpKind::Write, micros(20)),
                (OpKind::WriteZeros, micros(50)),
                (OpKind::ZeroRange, micros(50)),
                (OpKind::Sync, micros(100)),
                (OpKind::SyncDir, micros(100)),
                (OpKind::Allocate, micros(50)),
            ]),
            spreads: BTreeMap::new(),
            rng: Rng::new(seed),
            by_number: BTreeMap::new(),
            by_kind: Vec::new(),
            of_kind: Vec::new(),
            short_write: None,
            rates: Vec::new(),
            halt_at: None,
        }
    }

    /// Counts, traces and judges an operation; `None` if the simulation is to stop before it.
    pub(super) fn admit(
        &mut self,
        op: OpKind,
        path: &Path,
        detail: String,
        at: Duration,
    ) -> Option<Admission> {
        let number = self.operations + 1;
        if self.halt_at == Some(number) {
            return None;
        }
        self.operations = number;
        let fates = self.take_fates(op);
        let error = fates.iter().find_map(|fate| match fate {
            Fate::Fails(errno) => Some(*errno),
            Fate::Takes(_) => None,
        });
        let by_number = self.by_number.remove(&number);
        let error = error.or(by_number).or_else(|| self.take_error(op));
        let writes = matches!(op, OpKind::Write | OpKind::WriteZeros);
        let bytes_max = (writes && error.is_none()).then(|| self.short_write.take()).flatten();
        let mut latency = self.latency(op);
        for fate in fates {
            if let Fate::Takes(time) = fate {
                latency = time;
            }
        }
        let (mut error, mut bytes_of_pages_max) = (error, None);
        for &(kind, once_in, rate) in &self.rates {
            if kind != op || !self.rng.once_in(once_in) {
                continue;
            }
            match rate {
                Rate::Fails(errno) => error = error.or(Some(errno)),
                Rate::Takes(time) => latency = time,
                Rate::Short => bytes_of_pages_max = Some(self.rng.up_to(SHORT_WRITE_MAX)),
            }
        }
        self.met += u64::from(error.is_some());
        let (path, takes) = (path.to_owned(), latency);
        self.trace.push(TraceEntry { op, path, detail, at, takes, error, short: None });
        Some(Admission { latency, error, bytes_max, bytes_of_pages_max })
    }

    /// The write that was just admitted takes so many bytes of those it should.
    pub(super) fn was_short(&mut self, bytes: usize) {
        self.met += 1;
        if let Some(last) = self.trace.last_mut() {
            last.short = Some(bytes);
        }
    }

    pub(super) fn met(&self) -> u64 {
        self.met
    }

    fn latency(&mut self, op: OpKind) -> Duration {
        let least = self.latencies.get(&op).copied().unwrap_or_default();
        let Some(spread) = self.spreads.get(&op) else {
            return least;
        };
        let nanos = usize::try_from(spread.as_nanos()).expect("a latency of a test");
        least + Duration::from_nanos(self.rng.up_to(nanos) as u64)
    }

    /// What was meant for this operation of its kind.
    fn take_fates(&mut self, op: OpKind) -> Vec<Fate> {
        for (_, to_come, _) in self.of_kind.iter_mut().filter(|(kind, ..)| *kind == op) {
            *to_come -= 1;
        }
        self.of_kind
            .extract_if(.., |(_, to_come, _)| *to_come == 0)
            .map(|(.., fate)| fate)
            .collect()
    }

    fn take_error(&mut self, op: OpKind) -> Option<i32> {
        let position = self.by_kind.iter().position(|(kind, _)| *kind == op)?;
        Some(self.by_kind.remove(position).1)
    }

    pub(super) fn fail_nth(&mut self, n: u64, errno: i32) {
        assert!(n > 0, "the next operation is the first");
        self.by_number.insert(self.operations + n, errno);
    }

    pub(super) fn fail_next(&mut self, op: OpKind, errno: i32) {
        self.by_kind.push((op, errno));
    }

    pub(super) fn fail_nth_of(&mut self, op: OpKind, n: u64, errno: i32) {
        assert!(n > 0, "the next operation is the first");
        self.of_kind.push((op, n, Fate::Fails(errno)));
    }

    pub(super) fn slow_nth_of(&mut self, op: OpKind, n: u64, latency: Duration) {
        assert!(n > 0, "the next operation is the first");
        self.of_kind.push((op, n, Fate::Takes(latency)));
    }

    pub(super) fn at_random(&mut self, op: OpKind, once_in: u32, rate: Rate) {
        self.rates.push((op, once_in, rate));
    }

    pub(super) fn short_write_next(&mut self, bytes_max: usize) {
        self.short_write = Some(bytes_max);
    }

    /// Forgets the faults that have not happened, and those of chance.
    pub(super) fn clear(&mut self) {
        self.by_number.clear();
        self.by_kind.clear();
        self.of_kind.clear();
        self.short_write = None;
        self.rates.clear();
    }

    pub(super) fn pending(&self) -> usize {
        self.by_number.len()
            + self.by_kind.len()
            + self.of_kind.len()
            + usize::from(self.short_write.is_some())
    }

    pub(super) fn halt_before(&mut self, number: Option<u64>) {
        self.halt_at = number;
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn set_latency(&mut self, op: OpKind, latency: Duration) {
        self.latencies.insert(op, latency);
    }

    pub(super) fn set_latency_spread(&mut self, op: OpKind, spread: Duration) {
        self.spreads.insert(op, spread);
    }

    pub(super) fn trace(&self) -> &[TraceEntry] {
        &self.trace
    }

    pub(super) fn clear_trace(&mut self) {
        self.trace.clear();
    }
}
