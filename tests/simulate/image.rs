//! What an application finds in a log, and what each call makes of it.

use bytes::Bytes;
use seawal::{Entry, EntryKind, HardState, Snapshot};

/// A call that appends.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// Records of the next indexes.
    Append(Vec<Bytes>),
    /// Entries from this index on, in this term, in place of those that are there.
    Save {
        first: u64,
        term: u64,
        records: Vec<Bytes>,
    },
    State(HardState),
    Snapshot(Snapshot),
}

/// The log as its reader sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Image {
    /// Term and record of index 1 and on.
    pub entries: Vec<(u64, Bytes)>,
    pub state: HardState,
    /// The highest term in the log: that of plain appends.
    pub term: u64,
    /// Of the last snapshot. Readers from the beginning do not see it.
    pub snapshot: u64,
    /// Of the last snapshot that may be there. What it covers does not change any more.
    pub settled: u64,
}

impl Image {
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::Append(records) => {
                self.term = self.term.max(1);
                let term = self.term;
                self.entries.extend(records.iter().map(|data| (term, data.clone())));
            }
            Call::Save { first, term, records } => {
                self.term = self.term.max(*term);
                self.entries.truncate(*first as usize - 1);
                self.entries.extend(records.iter().map(|data| (*term, data.clone())));
            }
            Call::State(state) => {
                self.term = self.term.max(state.term);
                self.state = *state;
            }
            Call::Snapshot(snapshot) => {
                self.snapshot = snapshot.index;
                self.settled = snapshot.index;
            }
        }
    }

    /// Whether `entries` and `state` are just what is here.
    pub(crate) fn is(&self, entries: &[Entry], state: &HardState) -> bool {
        self.state == *state
            && self.entries.len() == entries.len()
            && entries.iter().zip(1..).all(|(entry, index)| entry.index == index && self.has(entry))
    }

    /// Whether this entry is here.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        let at = usize::try_from(entry.index).ok().and_then(|index| index.checked_sub(1));
        entry.kind == EntryKind::Normal
            && at
                .and_then(|at| self.entries.get(at))
                .is_some_and(|(term, data)| *term == entry.term && *data == entry.data)
    }
}
