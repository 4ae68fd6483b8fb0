//! Groups between staged and durable, in the order of the log.
//!
//! # Invariants
//!
//! 1. Flights leave in the order in which they were staged, and only when they are durable, and so is everything
//!    before them.
//! 2. A flight that was written to be durable by itself ([`Persist::Now`]) is durable when it has come back. Any other
//!    one is durable after a sync that began when it had come back.
//! 3. After the first failure nothing behind it leaves, and no flight is staged.

use super::group::Group;
use crate::error::{Error, Result};
use crate::format::GroupEncoder;
use crate::io::Persist;
use crate::types::Position;
use std::collections::VecDeque;
use std::time::Duration;

/// A group on its way to the disk.
#[derive(Debug)]
pub(crate) struct Flight {
    pub number: u64,
    pub group: Group,
    pub encoder: GroupEncoder,
    pub start: Position,
    pub end: Position,
    pub persist: Persist,
    /// When it was staged, and how many were being written then, itself included.
    pub begun: Duration,
    pub in_flight: usize,
    pub outcome: Result<()>,
}

/// What stays here while the flight is with the disk.
#[derive(Debug)]
struct Place {
    begun: Duration,
    persist: Persist,
    appends: usize,
    wants_disk: bool,
    back: Option<Flight>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Flights {
    places: VecDeque<Place>,
    /// The number of the first place.
    first: u64,
    /// So many of the first have come back, one after another.
    back: usize,
    /// So many of the first were given out as written.
    told: usize,
    /// So many of the first are known not to want the disk.
    unwanted: usize,
    /// Places that need a sync and have none.
    unsynced: usize,
    /// Everything before this number is covered by a sync.
    synced: u64,
    /// Flights that are durable by themselves, back or not: as many as this may be lost in one crash.
    alone: usize,
    appends: usize,
    flush: bool,
    last_staged: Option<Duration>,
    /// Some flight failed; it may not be its turn yet.
    stopped: bool,
    failure: Option<Error>,
}

impl Flights {
    /// A group is staged: it gets the next number.
    pub(crate) fn stage(&mut self, group: &Group, persist: Persist, now: Duration) -> u64 {
        assert!(!self.stopped, "nothing is staged after a failure");
        self.places.push_back(Place {
            begun: now,
            persist,
            appends: group.appends,
            wants_disk: group.wants_disk,
            back: None,
        });
        self.appends += group.appends;
        self.unsynced += usize::from(persist == Persist::Later);
        self.alone += usize::from(persist == Persist::Now);
        self.last_staged = Some(now);
        self.first + self.places.len() as u64 - 1
    }

    /// A flight has come back from the disk.
    pub(crate) fn came_back(&mut self, flight: Flight) {
        let at = (flight.number - self.first) as usize;
        self.stopped |= flight.outcome.is_err();
        self.places[at].back = Some(flight);
        while let Some(Place { back: Some(flight), .. }) = self.places.get(self.back) {
            if let Err(error) = &flight.outcome {
                self.failure.get_or_insert_with(|| error.clone());
                return;
            }
            self.back += 1;
        }
    }

    /// A sync has ended that covers everything before this number.
    pub(crate) fn synced(&mut self, upto: u64, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                let from = (self.synced.max(self.first) - self.first) as usize;
                let covered = self.places.range(from..(upto - self.first) as usize);
                let later = |place: &&Place| place.persist == Persist::Later;
                self.unsynced -= covered.filter(later).count();
                self.synced = upto;
                self.flush &= self.unsynced > 0;
            }
            Err(error) => self.fail(error),
        }
    }

    /// The next flight, in order, that is written, and was not given here before.
    pub(crate) fn next_written(&mut self) -> Option<&Flight> {
        if self.told == self.back {
            return None;
        }
        self.told += 1;
        self.places[self.told - 1].back.as_ref()
    }

    /// The first flight, if it is durable.
    pub(crate) fn next_durable(&mut self) -> Option<Flight> {
        let place = self.places.front()?;
        let durable = place.persist == Persist::Now || self.first < self.synced;
        if self.back == 0 || !durable {
            return None;
        }
        let place = self.places.pop_front()?;
        self.first += 1;
        self.back -= 1;
        self.told = self.told.saturating_sub(1);
        self.unwanted = self.unwanted.saturating_sub(1);
        self.appends -= place.appends;
        self.alone -= usize::from(place.persist == Persist::Now);
        place.back
    }

    /// Somebody waits for the disk, and a sync now would be all that is missing.
    pub(crate) fn disk_is_wanted(&mut self) -> bool {
        if self.flush {
            return self.back == self.places.len();
        }
        while self.unwanted < self.back && !self.places[self.unwanted].wants_disk {
            self.unwanted += 1;
        }
        self.unwanted < self.back
    }

    /// Everything shall become durable, so that the segment can be left.
    pub(crate) fn flush(&mut self) {
        self.flush = self.unsynced > 0;
    }

    /// A sync now covers everything before this number.
    pub(crate) fn back_before(&self) -> u64 {
        self.first + self.back as u64
    }

    /// A sync now would cover something that needs it.
    pub(crate) fn needs_sync(&self) -> bool {
        self.unsynced > 0
            && self.places.iter().take(self.back).any(|place| place.persist == Persist::Later)
            && self.back_before() > self.synced
    }

    /// Flights that are not durable by themselves and have no sync yet.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced
    }

    /// When the oldest of those was staged.
    pub(crate) fn unsynced_since(&self) -> Option<Duration> {
        if self.unsynced == 0 {
            return None;
        }
        let covered = (self.synced.max(self.first) - self.first) as usize;
        let mut places = self.places.iter().skip(covered);
        places.find(|place| place.persist == Persist::Later).map(|place| place.begun)
    }

    pub(crate) fn last_staged(&self) -> Option<Duration> {
        self.last_staged
    }

    /// Flights that are durable by themselves, and are not acked: some may be back before those that they follow.
    pub(crate) fn alone(&self) -> usize {
        self.alone
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Calls in them.
    pub(crate) fn appends(&self) -> usize {
        self.appends
    }

    pub(crate) fn fail(&mut self, error: Error) {
        self.stopped = true;
        self.failure.get_or_insert(error);
    }

    /// Something failed: nothing may be staged.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What poisons the log. Everything before it was given out.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::group::Room;
    use crate::error::ErrorKind;
    use crate::types::Durability;

    fn stage(flights: &mut Flights, wanted: Durability, persist: Persist) -> Flight {
        let mut group = Group::default();
        group.join(wanted, Room::default());
        let now = Duration::from_secs(1);
        let position = Position::default();
        Flight {
            number: flights.stage(&group, persist, now),
            group,
            encoder: GroupEncoder::default(),
            start: position,
            end: position,
            persist,
            begun: now,
            in_flight: 1,
            outcome: Ok(()),
        }
    }

    fn durable(flights: &mut Flights) -> Vec<u64> {
        std::iter::from_fn(|| flights.next_durable()).map(|flight| flight.number).collect()
    }

    #[test]
    fn leave_in_order_whatever_comes_back_first() {
        let mut flights = Flights::default();
        let mut staged: Vec<Flight> =
            (0..3).map(|_| stage(&mut flights, Durability::Durable, Persist::Now)).collect();
        flights.came_back(staged.pop().unwrap());
        flights.came_back(staged.pop().unwrap());
        assert_eq!(durable(&mut flights), [0; 0]);
        flights.came_back(staged.pop().unwrap());
        assert_eq!(durable(&mut flights), [0, 1, 2]);
    }

    #[test]
    fn nothing_behind_a_failure_leaves() {
        let mut flights = Flights::default();
        let mut staged: Vec<Flight> =
            (0..3).map(|_| stage(&mut flights, Durability::Durable, Persist::Now)).collect();
        flights.came_back(staged.pop().unwrap());
        let mut failed = staged.pop().unwrap();
        failed.outcome = Err(Error::new(ErrorKind::Io, "no"));
        flights.came_back(failed);
        assert!(flights.failure().is_none(), "the first may still be acked");
        flights.came_back(staged.pop().unwrap());
        assert_eq!(durable(&mut flights), [0]);
        assert!(flights.failure().is_some());
        assert_eq!(durable(&mut flights), [0; 0]);
    }

    #[test]
    fn what_was_only_written_waits_for_a_sync() {
        let mut flights = Flights::default();
        let first = stage(&mut flights, Durability::Written, Persist::Later);
        let second = stage(&mut flights, Durability::Durable, Persist::Later);
        flights.came_back(first);
        assert!(!flights.disk_is_wanted(), "nobody waits for the first");
        flights.came_back(second);
        assert!(flights.disk_is_wanted() && flights.needs_sync());
        let upto = flights.back_before();
        let third = stage(&mut flights, Durability::Written, Persist::Later);
        flights.came_back(third);
        flights.synced(upto, Ok(()));
        assert_eq!(durable(&mut flights), [0, 1], "the third came back after the sync began");
        assert_eq!(flights.unsynced(), 1);
        assert!(!flights.disk_is_wanted());
        flights.flush();
        assert!(flights.disk_is_wanted());
        flights.synced(flights.back_before(), Ok(()));
        assert_eq!(durable(&mut flights), [2]);
        assert_eq!(flights.unsynced_since(), None);
    }

    #[test]
    fn failed_sync_acks_nothing() {
        let mut flights = Flights::default();
        let flight = stage(&mut flights, Durability::Durable, Persist::Later);
        flights.came_back(flight);
        flights.synced(flights.back_before(), Err(Error::new(ErrorKind::Io, "no")));
        assert_eq!(durable(&mut flights), [0; 0]);
        assert!(flights.failure().is_some());
    }
}
