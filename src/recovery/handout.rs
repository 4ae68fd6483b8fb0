//! Hands out the entries of a log while it is scanned: in one pass over its files, and in the order of their bytes.
//!
//! What comes later may replace an entry, or take it back. Nobody knows when it is handed out; so it is said when it is
//! known.

use super::facts::Facts;
use super::replay::Replay;
use crate::error::{Error, Result};
use crate::types::Entry;
use std::path::Path;

/// What is handed out at once.
#[derive(Debug)]
pub(crate) enum Batch {
    Entries(Vec<Entry>),
    /// Of what was handed out, the entries behind this index are not in the log.
    TruncatedAfter(u64),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Handout {
    batches: flume::Sender<Batch>,
    /// The last entry that was handed out and is valid; 0 before the first.
    last: u64,
}

impl Handout {
    pub(crate) fn new(batches: flume::Sender<Batch>) -> Handout {
        Handout { batches, last: 0 }
    }

    /// A scan begins. If it is not the first, what was handed out so far does not count.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        match std::mem::take(&mut self.last) {
            0 => Ok(()),
            _ => self.give(Batch::TruncatedAfter(0)).await,
        }
    }

    /// Facts are taken in, and the entries among them handed out as far as they are wanted.
    pub(crate) async fn take(
        &mut self,
        replay: &mut Replay,
        facts: Facts,
        entries: Vec<Entry>,
        path: &Path,
    ) -> Result<()> {
        let mut batches = Vec::new();
        let mut entries = entries.into_iter();
        let mut last = self.last;
        let taken = replay.take_each(facts, path, |live, run| {
            let base = live.base();
            if let Some(run) = run {
                let of_run = run.count as usize;
                // Mostly that is all of them, and all are wanted.
                let wanted: Vec<_> = match of_run == entries.len() && run.first > base {
                    true => std::mem::take(&mut entries).collect(),
                    false => {
                        let of_run = entries.by_ref().take(of_run);
                        of_run.filter(|entry| entry.index > base).collect()
                    }
                };
                let after = (run.first - 1).max(base);
                if after < last {
                    batches.push(Batch::TruncatedAfter(after));
                }
                last = run.last().max(base);
                if !wanted.is_empty() {
                    batches.push(Batch::Entries(wanted));
                }
            }
            let end = live.next().saturating_sub(1);
            if end < last {
                batches.push(Batch::TruncatedAfter(end));
                last = end;
            }
        });
        self.last = last;
        for batch in batches {
            self.give(batch).await?;
        }
        taken
    }

    async fn give(&self, batch: Batch) -> Result<()> {
        // Whoever waits for them has gone, and with him who opens the log.
        self.batches.send_async(batch).await.map_err(|_| Error::closed())
    }
}
