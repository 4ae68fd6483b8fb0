//! Counters of an open log. No exporter: whoever has one reads [`Stats`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Written by the submission thread.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub groups: Counter,
    pub appends: Counter,
    pub bytes: Counter,
    pub syncs: Counter,
    pub cuts: Counter,
    pub cuts_unready: Counter,
    pub pieces_read: Counter,
}

impl Metrics {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            groups: self.groups.get(),
            appends: self.appends.get(),
            bytes: self.bytes.get(),
            syncs: self.syncs.get(),
            cuts: self.cuts.get(),
            cuts_unready: self.cuts_unready.get(),
            pieces_read: self.pieces_read.get(),
        }
    }
}

/// What a log has done since it was opened. The numbers are read one after another: a commit may come in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Groups that became durable.
    pub groups: u64,
    /// Calls in them: appends, batches, saves, syncs.
    pub appends: u64,
    /// Bytes that these groups take on disk.
    pub bytes: u64,
    /// `fdatasync`s of the active segment for groups. None where writes are durable by themselves.
    pub syncs: u64,
    /// Segments begun.
    pub cuts: u64,
    /// Segments begun in a file whose space was not prepared to the end: not zero-filled yet, though that was asked
    /// for, or not even allocated. Commits into it take longer.
    pub cuts_unready: u64,
    /// Pieces of files that were read for readers. None for those that find what they want among the recent records.
    pub pieces_read: u64,
}
