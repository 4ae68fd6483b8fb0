//! A layer above the log, as the committer sees it.

use crate::format::{Note, RecordRef, Records};
use crate::types::Durability;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Sees every entry that is appended to an open log, in the order of the log, once it has got as far as
/// [`Options::durability`](crate::Options::durability) asks for: readers find it by then, and nobody who waits for it was
/// told yet. When a segment is left, it gets a *note* into the head of the next one: what it wants to know when all before
/// is gone.
///
/// It is called on the submission thread: it must be quick, and not call the log.
pub(crate) trait Observer: fmt::Debug + Send + Sync {
    /// The entries of a group: index and payload.
    fn appended(&self, entries: &mut dyn Iterator<Item = (u64, &[u8])>);

    /// What it knows behind the entry `at`, the last that it was shown; `None` if it could not go on from that. `ends`:
    /// the log is closed, and only what no note says yet is worth one.
    fn note(&self, at: u64, ends: bool) -> Option<Bytes>;

    /// The last entry that it lets go of; 0 for none.
    fn releasable(&self) -> u64;
}

/// An observer, if there is one, and how far entries have to get before he sees them.
#[derive(Debug)]
pub(crate) struct Observed {
    durability: Durability,
    by: Option<Arc<dyn Observer>>,
}

impl Observed {
    pub(crate) fn new(durability: Durability, by: Option<Arc<dyn Observer>>) -> Observed {
        Observed { durability, by }
    }

    /// A group has got so far.
    pub(super) fn show(&self, reached: Durability, group: &impl Records) {
        let Some(observer) = self.by.as_ref().filter(|_| reached == self.durability) else {
            return;
        };
        let entries = (0..group.count()).filter_map(|at| match group.get(at) {
            RecordRef::Entry { index, data, .. } => Some((index, data)),
            _ => None,
        });
        observer.appended(&mut { entries });
    }

    /// His note behind the last entry; see [`Observer::note`].
    pub(super) fn note(&self, index: u64, term: u64, ends: bool) -> Option<Note> {
        let data = self.by.as_ref()?.note(index, ends)?;
        Some(Note { index, term, data })
    }

    /// See [`Observer::releasable`].
    pub(super) fn releasable(&self) -> u64 {
        self.by.as_ref().map_or(0, |observer| observer.releasable())
    }
}
