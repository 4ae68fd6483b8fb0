//! What a test knows of a log whose writers were stopped in the midst of their work, and what it must find.
#![allow(dead_code)] // every test binary uses a part of this

use super::writer::{Told, payload};
use seawal::{Backend, Entry, Options, Reader, Result, Wal};
use std::path::Path;

/// What the tests know of a log.
#[derive(Default)]
pub(crate) struct Known {
    /// The record of index `i` is `sent[i - 1]`: which run sent it.
    sent: Vec<u64>,
    /// Acked: index and checksum, in order.
    acked: Vec<(u64, u32)>,
    /// A run found the log up to here when it opened it: that too is durable.
    ready: u64,
    /// Checksums of records that were compared byte by byte.
    compared: Vec<u32>,
}

impl Known {
    /// Nothing was ever told.
    pub(crate) fn is_empty(&self) -> bool {
        self.acked.is_empty() && self.sent.is_empty()
    }

    pub(crate) fn acked_count(&self) -> u64 {
        self.acked.len() as u64
    }

    /// What a run told fits what was known before.
    pub(crate) fn hear(&mut self, seed: u64, run: u64, told: &Told) {
        let Some(ready) = told.ready else { return };
        assert!(
            ready >= self.acked.last().map_or(0, |ack| ack.0),
            "READY {ready} is below what was acked"
        );
        assert!(ready >= self.ready, "READY {ready} is below what READY said before");
        assert!(ready as usize <= self.sent.len(), "READY {ready} is above what was sent");
        self.ready = ready;
        // What lies behind was never acked, and is gone for good: this run writes there.
        self.sent.truncate(ready as usize);
        self.compared.truncate(ready as usize);
        for (next, &(index, crc)) in (ready + 1..).zip(&told.acks) {
            assert_eq!(index, next, "acks come in order, each once");
            assert_eq!(crc, crc32c::crc32c(&payload(seed, run, index)), "the checksum of {index}");
        }
        self.acked.extend(&told.acks);
        // Nobody counted what was sent; what is found must be of this run.
        self.sent.resize(ready as usize + 1_000_000, run);
    }

    pub(crate) fn check(&mut self, seed: u64, entries: &[Entry]) {
        for (next, entry) in (1..).zip(entries) {
            assert_eq!(entry.index, next, "indexes have no gap");
            let run = self.sent.get(next as usize - 1).expect("nothing was invented");
            let crc = crc32c::crc32c(&entry.data);
            match self.compared.get(next as usize - 1) {
                Some(&before) => assert_eq!(crc, before, "record {next} changed"),
                None => {
                    let sent = payload(seed, *run, next);
                    assert!(entry.data == sent, "record {next} is not what run {run} sent");
                    self.compared.push(crc);
                }
            }
        }
        assert!(
            entries.len() as u64 >= self.ready,
            "lost behind {} of READY {}",
            entries.len(),
            self.ready
        );
        for &(index, crc) in &self.acked {
            let entry =
                entries.get(index as usize - 1).unwrap_or_else(|| panic!("acked {index} is lost"));
            assert_eq!(crc32c::crc32c(&entry.data), crc, "acked {index} is not what was acked");
        }
    }
}

/// Reads the log: on even turns without touching it, so that the next run has to recover; else by recovering here.
pub(crate) fn look(dir: &Path, turn: u64) -> Result<Vec<Entry>> {
    let options =
        Options::new().backend(if turn % 4 == 1 { Backend::Threads } else { Backend::Auto });
    if turn.is_multiple_of(2) {
        let (reader, _) = Reader::open_blocking(dir, options)?;
        return reader.read(..).blocking().collect();
    }
    let (wal, _) = Wal::open_blocking(dir, options.segment_bytes(32 << 10))?;
    let entries = wal.read(..).blocking().collect();
    wal.close_blocking()?;
    entries
}
