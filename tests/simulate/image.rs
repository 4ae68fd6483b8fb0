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
    /// The entries behind this index are taken back. If it was released, there is nothing to be written again.
    Truncate {
        index: u64,
        may_be_released: bool,
    },
}

/// What is in a log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// What comes before the first entry was released.
    pub base: u64,
    pub entries: Vec<Entry>,
    pub state: HardState,
}

/// The log as its reader sees it, but for what was released: all entries there ever were.
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
            Call::Truncate { index, .. } => self.entries.truncate(*index as usize),
        }
    }

    /// Whether what was found is just what is here.
    pub(crate) fn is(&self, found: &Found) -> bool {
        let Found { base, entries, state } = found;
        self.state == *state
            && self.last_index() == base + entries.len() as u64
            && (base + 1..)
                .zip(entries)
                .all(|(index, entry)| entry.index == index && self.has(entry))
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
