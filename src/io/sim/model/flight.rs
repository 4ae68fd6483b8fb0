//! Operations under way: writes and syncs, which take effect when they end.
//!
//! A flight is taken off the list when the clock reaches its end, and its outcome is laid out for whoever asks; if the
//! asker's future was dropped, for nobody. Until then it keeps its description open and owns its buffer.

use std::io;
use std::time::Duration;

use super::{Description, DescriptionId, Model, to_usize};
use crate::io::pool::Lease;
use crate::io::sim::fate::{Fate, Nothing};
use crate::io::sim::faults::OpKind;
use crate::io::sim::node::{NodeId, PAGE_BYTES, Written};
use crate::io::{AlignedBuf, Persist};

pub(in crate::io::sim) type FlightId = u64;

/// An operation that takes effect when it ends.
pub(in crate::io::sim) enum Flight {
    Write { write: Write, buf: Lease<AlignedBuf> },
    Sync { description: DescriptionId, covered: u64, error: Option<i32> },
    SyncDir { dir: NodeId, covered: u64, error: Option<i32> },
}

/// A write under way: of the first `len` bytes of its buffer.
#[derive(Clone, Copy)]
pub(in crate::io::sim) struct Write {
    pub description: DescriptionId,
    pub len: usize,
    pub offset: u64,
    pub persist: Persist,
    pub error: Option<i32>,
    pub op: OpKind,
}

/// How it ended.
pub(in crate::io::sim) enum Outcome {
    Written(io::Result<usize>, Lease<AlignedBuf>),
    Synced(io::Result<()>),
}

/// A write to `offset` that ends early ends with a page: so much of it, when it should take up to `bytes`.
pub(in crate::io::sim) fn whole_pages(offset: u64, bytes: usize) -> usize {
    let end = (to_usize(offset) + bytes) / PAGE_BYTES * PAGE_BYTES;
    end.saturating_sub(to_usize(offset))
}

impl Flight {
    pub(super) fn op(&self) -> OpKind {
        match self {
            Flight::Write { write, .. } => write.op,
            Flight::Sync { .. } => OpKind::Sync,
            Flight::SyncDir { .. } => OpKind::SyncDir,
        }
    }

    pub(super) fn description(&self) -> Option<DescriptionId> {
        match self {
            Flight::Write { write: Write { description, .. }, .. }
            | Flight::Sync { description, .. } => Some(*description),
            Flight::SyncDir { .. } => None,
        }
    }
}

impl Model {
    pub(in crate::io::sim) fn submit(&mut self, flight: Flight, ends_at: Duration) -> FlightId {
        if let Some(description) = flight.description() {
            self.description_mut(description).flights += 1;
        }
        self.flights_made += 1;
        self.flights.insert((ends_at, self.flights_made), flight);
        self.flights_made
    }

    pub(in crate::io::sim) fn next_end(&self) -> Option<Duration> {
        self.flights.keys().next().map(|(ends_at, _)| *ends_at)
    }

    /// Ends the operations whose time has come.
    pub(in crate::io::sim) fn settle(&mut self, now: Duration) {
        while let Some(first) = self.flights.first_entry()
            && first.key().0 <= now
        {
            let ((_, id), flight) = first.remove_entry();
            let description = flight.description();
            let outcome = self.end(flight);
            if !self.abandoned.remove(&id) {
                self.outcomes.insert(id, outcome);
            }
            if let Some(description) = description {
                self.description_mut(description).flights -= 1;
                self.let_go(description);
            }
        }
    }

    pub(super) fn end(&mut self, flight: Flight) -> Outcome {
        match flight {
            Flight::Write { write, buf } => {
                Outcome::Written(self.write(write, &buf[..write.len]), buf)
            }
            Flight::Sync { description, covered, error } => {
                let node = self.descriptions[&description].node;
                let (file, failing) = self.file_and_failing(node);
                Outcome::Synced(match error {
                    Some(errno) => {
                        match failing {
                            Some(rng) => file.fail_sync(covered, rng),
                            None => file.fail_sync(covered, &mut Nothing),
                        }
                        Err(io::Error::from_raw_os_error(errno))
                    }
                    None => {
                        file.sync(covered);
                        Ok(())
                    }
                })
            }
            Flight::SyncDir { dir, covered, error } => Outcome::Synced(match error {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => {
                    self.dir_mut(dir).sync(covered);
                    self.collect();
                    Ok(())
                }
            }),
        }
    }

    fn write(&mut self, write: Write, bytes: &[u8]) -> io::Result<usize> {
        let Write { description, offset, persist, error, .. } = write;
        let Description { node, direct, .. } = self.descriptions[&description];
        let failed = error.map(io::Error::from_raw_os_error);
        if persist == Persist::Later
            && let Some(error) = failed
        {
            let taken = self.failing.as_mut().map_or(0, |rng| rng.prefix(bytes.len()));
            let taken = if taken == bytes.len() { taken } else { whole_pages(offset, taken) };
            if taken > 0 {
                let taken = Write { len: taken, error: None, ..write };
                // What there was no space for is not there either.
                let _ = self.write(taken, &bytes[..taken.len]);
            }
            return Err(error);
        }
        self.reserve(node, offset, bytes.len() as u64)?;
        let number = self.next_change();
        let written = Written { offset: to_usize(offset), bytes, direct, number };
        let file = self.file_mut(node);
        match (persist, failed) {
            (_, Some(error)) => {
                file.fail_write_now(written);
                return Err(error);
            }
            (Persist::Later, None) => file.write(written),
            (Persist::Now, None) => file.write_now(written),
        }
        Ok(bytes.len())
    }

    pub(in crate::io::sim) fn take_outcome(&mut self, id: FlightId) -> Option<Outcome> {
        self.outcomes.remove(&id)
    }

    /// Nobody will ask for the outcome.
    pub(in crate::io::sim) fn abandon(&mut self, id: FlightId) {
        if self.outcomes.remove(&id).is_none() {
            self.abandoned.insert(id);
        }
    }

    pub(in crate::io::sim) fn close(&mut self, id: DescriptionId) {
        // Descriptions of an earlier life are gone already.
        if let Some(description) = self.descriptions.get_mut(&id) {
            description.closed = true;
            self.let_go(id);
        }
    }

    pub(super) fn description_mut(&mut self, id: DescriptionId) -> &mut Description {
        self.descriptions.get_mut(&id).expect("lives until its last operation has ended")
    }

    fn let_go(&mut self, id: DescriptionId) {
        let description = &self.descriptions[&id];
        if !description.closed || description.flights > 0 {
            return;
        }
        let node = description.node;
        self.descriptions.remove(&id);
        let file = self.file_mut(node);
        file.lock.take_if(|holder| *holder == id);
        self.collect();
    }
}
