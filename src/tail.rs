//! The end of a log that is ready for appending: the one value that recovery hands to the write side.

use crate::format::{Chain, LogId, RecordRef};
use crate::types::{HardState, Snapshot};
use bytes::Bytes;

/// How the next group continues the log.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    pub chain: Chain,
    /// The index that the next plain append gets.
    pub next_index: u64,
    /// The term that plain appends get.
    pub term: u64,
    /// Repeated in the head of each segment.
    pub state: HardState,
    /// Likewise: the record of the last release.
    pub released: Option<Snapshot>,
    /// The last snapshot record.
    pub snapshot: Option<Snapshot>,
    /// Likewise.
    pub metadata: Option<Bytes>,
    pub log_id: LogId,
    /// Of this open.
    pub epoch: u32,
    /// Number of the last group.
    pub group: u64,
}

impl Tail {
    /// What a record changes beside the entries.
    pub(crate) fn take_in(&mut self, record: RecordRef<'_>) {
        let term = match record {
            RecordRef::Entry { term, .. } => term,
            RecordRef::State(state) => state.term,
            RecordRef::Snapshot(snapshot) | RecordRef::Release(snapshot) => snapshot.term,
            RecordRef::Metadata(_) | RecordRef::Truncation(_) | RecordRef::Note(_) => 0,
        };
        self.term = self.term.max(term);
        match record {
            RecordRef::State(state) => self.state = *state,
            RecordRef::Snapshot(snapshot) => self.snapshot = Some(snapshot.clone()),
            RecordRef::Release(snapshot) => self.released = Some(snapshot.clone()),
            RecordRef::Entry { .. }
            | RecordRef::Metadata(_)
            | RecordRef::Truncation(_)
            | RecordRef::Note(_) => {}
        }
    }
}
