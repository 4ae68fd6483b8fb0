//! What opening a log found, for its owner.

use crate::recovery::repair::Repaired;
use crate::recovery::scan::Scan;
use crate::recovery::verdict::Row;
use crate::types::{HardState, Position, Snapshot};
use bytes::Bytes;
use std::path::PathBuf;

/// Whether the log ended as it should. A damaged log does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The log ends where the last group ends.
    Clean,
    /// The last write before a crash reached the disk only in part. It was never reported durable, and was cut.
    Torn,
}

/// What was cut from the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub path: PathBuf,
    /// Where the log ends now.
    pub position: Position,
    /// Bytes from there to the last one that was not zero.
    pub bytes: u64,
    /// Why, in words.
    pub reason: String,
    /// A copy of the segment as it was. Made when no commit mark vouches for the tail (a log of etcd's); not when
    /// the log was opened for reading only.
    pub backup: Option<PathBuf>,
}

/// What was found when a log was opened. All of it is durable, unless the log was opened for reading only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Whether the log ended as it should.
    pub verdict: Verdict,
    /// What was cut: always if the verdict is [`Verdict::Torn`]; if it is clean, bytes behind the end that are no
    /// records.
    pub cut: Option<Cut>,
    /// The first index, if there are entries.
    pub first_index: Option<u64>,
    /// The last index, if there are entries.
    pub last_index: Option<u64>,
    /// The snapshot that reading starts from; `None` at the beginning.
    pub snapshot: Option<Snapshot>,
    /// The last hard state; all zero when none was saved.
    pub hard_state: HardState,
    /// The metadata the log was created with.
    pub metadata: Option<Bytes>,
    /// Segments that were read.
    pub segments: usize,
}

impl Recovery {
    pub(crate) fn new(scan: &Scan, repaired: Option<&Repaired>) -> Recovery {
        let garbage = scan.row == Row::EndBeforeGarbage;
        let cut = (scan.is_torn() || garbage).then(|| Cut {
            path: scan.newest().path.clone(),
            position: scan.end,
            bytes: scan.data_end - scan.end.offset,
            reason: match &scan.stop {
                Some(stop) => format!("{}; {}", scan.row.reason(), stop.cause),
                None => scan.row.reason().to_owned(),
            },
            backup: repaired.and_then(|repaired| repaired.backup.clone()),
        });
        let replay = &scan.replay;
        Recovery {
            verdict: if scan.is_torn() { Verdict::Torn } else { Verdict::Clean },
            cut,
            first_index: replay.live.first(),
            last_index: replay.live.last(),
            snapshot: replay.start.clone().filter(|snapshot| snapshot.index > 0),
            hard_state: replay.state,
            metadata: replay.metadata.clone(),
            segments: scan.segments.len(),
        }
    }
}
