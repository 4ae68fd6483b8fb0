//! Who waits for which group, and what became of those groups.
//!
//! Groups are resolved in the order of their numbers. What was resolved well needs no memory: its number says it. Of a
//! group that failed the error is kept until all its tickets have it.

use crate::error::{Error, Result};
use crate::types::Durability;
use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

/// Wakers in the places that were given out; `None` in the place of one who has gone.
pub(super) type Wakers = Vec<Option<Waker>>;

/// Lists kept to be used again.
const SPARE_LISTS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// The number of the first group that is not resolved.
    first: u64,
    groups: VecDeque<Places>,
    failed: BTreeMap<u64, Failure>,
    /// Memory of lists, to be used again.
    spare: Vec<Wakers>,
}

#[derive(Debug, Default)]
struct Places {
    written: bool,
    /// Tickets that have no answer.
    tickets: usize,
    for_written: Wakers,
    for_durable: Wakers,
}

#[derive(Debug)]
struct Failure {
    error: Error,
    tickets: usize,
}

impl Places {
    fn list(&mut self, durability: Durability) -> &mut Wakers {
        match durability {
            Durability::Written => &mut self.for_written,
            Durability::Durable => &mut self.for_durable,
        }
    }
}

impl Waiters {
    /// A group begins; says its number.
    pub(super) fn begin(&mut self) -> u64 {
        let mut list = || self.spare.pop().unwrap_or_default();
        let (for_written, for_durable) = (list(), list());
        self.groups.push_back(Places { for_written, for_durable, ..Places::default() });
        self.first + self.groups.len() as u64 - 1
    }

    /// A ticket for a group.
    pub(super) fn join(&mut self, group: u64) {
        let places = self.places(group).expect("a group that forms is not resolved");
        places.tickets += 1;
    }

    fn places(&mut self, group: u64) -> Option<&mut Places> {
        self.groups.get_mut(group.checked_sub(self.first)? as usize)
    }

    /// Whether the group got as far as that; if not, whom to wake. `place` is where he is in the list already. The waker
    /// that he had there before is to be dropped outside of any lock.
    pub(super) fn poll(
        &mut self,
        group: u64,
        durability: Durability,
        place: &mut Option<usize>,
        context: &Context<'_>,
    ) -> (Poll<Result<()>>, Option<Waker>) {
        let Some(places) = self.places(group) else {
            let outcome = self.failed.get(&group).map_or(Ok(()), |f| Err(f.error.clone()));
            return (Poll::Ready(outcome), None);
        };
        if places.written && durability == Durability::Written {
            return (Poll::Ready(Ok(())), None);
        }
        let list = places.list(durability);
        let replaced = match *place {
            None => {
                *place = Some(list.len());
                list.push(Some(context.waker().clone()));
                None
            }
            Some(place) => match &mut list[place] {
                Some(known) if known.will_wake(context.waker()) => None,
                other => other.replace(context.waker().clone()),
            },
        };
        (Poll::Pending, replaced)
    }

    /// He waits no more. The waker is to be dropped outside of any lock.
    pub(super) fn leave(
        &mut self,
        group: u64,
        durability: Durability,
        place: Option<usize>,
    ) -> Option<Waker> {
        self.places(group)?.list(durability).get_mut(place?)?.take()
    }

    /// A ticket goes, answered or not.
    pub(super) fn drop_ticket(&mut self, group: u64) {
        if let Some(places) = self.places(group) {
            places.tickets -= 1;
        } else if let Some(failure) = self.failed.get_mut(&group) {
            failure.tickets -= 1;
            if failure.tickets == 0 {
                self.failed.remove(&group);
            }
        }
    }

    /// The kernel has the group: those are to be woken who wait for that.
    pub(super) fn written(&mut self, group: u64) -> Wakers {
        let places = self.places(group).expect("a group is written before it is resolved");
        places.written = true;
        std::mem::take(&mut places.for_written)
    }

    /// The end of the first group: everyone in it is to be woken.
    pub(super) fn resolve(&mut self, group: u64, outcome: Result<()>) -> [Wakers; 2] {
        assert_eq!(group, self.first, "groups are resolved in order");
        let places = self.groups.pop_front().expect("a group is resolved once");
        self.first += 1;
        if let Err(error) = outcome
            && places.tickets > 0
        {
            self.failed.insert(group, Failure { error, tickets: places.tickets });
        }
        [places.for_written, places.for_durable]
    }

    /// The end of all groups: everyone is to be woken.
    pub(super) fn resolve_all(&mut self, error: &Error) -> Vec<Wakers> {
        let numbers = self.first..self.first + self.groups.len() as u64;
        numbers.flat_map(|group| self.resolve(group, Err(error.clone()))).collect()
    }

    /// An empty list whose memory can be used again.
    pub(super) fn give_back(&mut self, list: Wakers) {
        debug_assert!(list.is_empty());
        if self.spare.len() < SPARE_LISTS_MAX {
            self.spare.push(list);
        }
    }

    /// Groups before this number are resolved.
    pub(super) fn resolved_before(&self) -> u64 {
        self.first
    }

    /// Groups that are not resolved.
    pub(super) fn unresolved(&self) -> usize {
        self.groups.len()
    }

    /// Failed groups whose tickets are not all gone.
    pub(super) fn failures(&self) -> usize {
        self.failed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn poll(waiters: &mut Waiters, group: u64, wanted: Durability) -> Poll<Result<()>> {
        waiters.poll(group, wanted, &mut None, &Context::from_waker(Waker::noop())).0
    }

    #[test]
    fn written_comes_before_durable() {
        let mut waiters = Waiters::default();
        let group = waiters.begin();
        waiters.join(group);
        assert!(poll(&mut waiters, group, Durability::Written).is_pending());
        assert!(poll(&mut waiters, group, Durability::Durable).is_pending());
        assert_eq!(waiters.written(group).len(), 1);
        assert!(poll(&mut waiters, group, Durability::Written).is_ready());
        assert!(poll(&mut waiters, group, Durability::Durable).is_pending());
        assert_eq!(waiters.resolve(group, Ok(()))[1].len(), 2);
        assert!(poll(&mut waiters, group, Durability::Durable).is_ready());
    }

    #[test]
    fn failure_is_kept_as_long_as_a_ticket_may_ask() {
        let mut waiters = Waiters::default();
        let group = waiters.begin();
        waiters.join(group);
        waiters.join(group);
        waiters.drop_ticket(group);
        waiters.resolve(group, Err(Error::new(ErrorKind::Io, "no")));
        assert_eq!(waiters.failures(), 1);
        let outcome = poll(&mut waiters, group, Durability::Durable);
        assert!(matches!(outcome, Poll::Ready(Err(_))));
        waiters.drop_ticket(group);
        assert_eq!(waiters.failures(), 0);
    }

    #[test]
    fn who_goes_takes_his_waker_along() {
        let mut waiters = Waiters::default();
        let group = waiters.begin();
        let mut place = None;
        let context = Context::from_waker(Waker::noop());
        let wanted = Durability::Durable;
        assert!(waiters.poll(group, wanted, &mut place, &context).0.is_pending());
        assert!(waiters.leave(group, wanted, place).is_some());
        assert!(waiters.leave(group, wanted, place).is_none());
        assert_eq!(waiters.resolve(group, Ok(()))[1].iter().flatten().count(), 0);
    }

    #[test]
    fn nobody_hangs_at_the_end() {
        let mut waiters = Waiters::default();
        let groups = [waiters.begin(), waiters.begin()];
        groups.into_iter().for_each(|group| waiters.join(group));
        assert!(poll(&mut waiters, groups[1], Durability::Durable).is_pending());
        let woken = waiters.resolve_all(&Error::closed());
        assert_eq!(woken.iter().flatten().count(), 1);
        assert!(matches!(poll(&mut waiters, groups[0], Durability::Written), Poll::Ready(Err(_))));
    }
}
