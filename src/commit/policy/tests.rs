//! The policies in a small world: callers, a disk, and a clock that knows only microseconds.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What happens at some time. In this order where times are equal: who was answered at the same time comes back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The oldest group in flight is durable.
    Durable,
    /// A caller appends.
    Append,
    /// The policy wanted to be asked again.
    Ask(u64),
}

/// Commits take `commit_us`, and a bit more for each group beside them.
#[derive(Clone, Debug)]
struct World {
    policy: Box<dyn CloneablePolicy>,
    /// Of each append.
    bytes_each: u64,
    commit_us: u64,
    /// What a group costs that another group is beside.
    beside_us: u64,
    /// Callers come back after this; `None` if they do not.
    return_us: Option<u64>,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    /// When each of those that wait came.
    waiting: Vec<u64>,
    in_flight: std::collections::VecDeque<Group>,
    last_end: u64,
    asked: u64,
    answered: u64,
    groups: u64,
    /// The longest that anyone waited for his group to begin with nothing in flight.
    delay_max: u64,
    idle_since: u64,
}

#[derive(Clone, Debug)]
struct Group {
    begun: u64,
    appends: usize,
    in_flight: usize,
}

trait CloneablePolicy: GroupPolicy {
    fn boxed(&self) -> Box<dyn CloneablePolicy>;
}

impl<P: GroupPolicy + Clone + 'static> CloneablePolicy for P {
    fn boxed(&self) -> Box<dyn CloneablePolicy> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn CloneablePolicy> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

/// One group at a time, at once.
#[derive(Clone, Debug)]
struct Natural;

impl GroupPolicy for Natural {
    fn next(&mut self, view: &GroupView) -> GroupDecision {
        if view.in_flight > 0 { GroupDecision::Hold } else { GroupDecision::Commit }
    }
}

fn micros(time: u64) -> Duration {
    Duration::from_micros(time)
}

impl World {
    fn new(policy: impl GroupPolicy + Clone + 'static, commit_us: u64) -> World {
        World {
            policy: Box::new(policy),
            bytes_each: 100,
            commit_us,
            beside_us: commit_us / 10,
            return_us: None,
            now: 0,
            events: BinaryHeap::new(),
            waiting: Vec::new(),
            in_flight: std::collections::VecDeque::new(),
            last_end: 0,
            asked: 0,
            answered: 0,
            groups: 0,
            delay_max: 0,
            idle_since: 0,
        }
    }

    /// So many callers, each of whom appends again some time after he was answered.
    fn closed(
        policy: impl GroupPolicy + Clone + 'static,
        callers: u64,
        commit_us: u64,
        return_us: u64,
    ) -> World {
        let mut world = World { return_us: Some(return_us), ..World::new(policy, commit_us) };
        // Not together: then they take turns in two halves, unless somebody gathers them.
        world.appends_at((0..callers).map(|n| n * 3));
        world
    }

    fn appends_at(&mut self, times: impl IntoIterator<Item = u64>) {
        self.events.extend(times.into_iter().map(|at| Reverse((self.now + at, Event::Append))));
    }

    fn run(&mut self, time_us: u64) {
        let end = self.now + time_us;
        while let Some(&Reverse((at, event))) = self.events.peek()
            && at <= end
        {
            self.events.pop();
            self.now = at;
            match event {
                Event::Append => {
                    self.waiting.push(at);
                    // All that happens now happens before anyone is asked.
                    if self.events.peek().is_some_and(|Reverse(next)| *next == (at, Event::Append))
                    {
                        continue;
                    }
                }
                Event::Durable => self.durable(),
                Event::Ask(asked) if asked == self.asked => {}
                Event::Ask(_) => continue,
            }
            self.decide();
        }
        self.now = end;
    }

    fn durable(&mut self) {
        let Group { begun, appends, in_flight } = self.in_flight.pop_front().unwrap();
        self.answered += appends as u64;
        self.policy.committed(&GroupCommit {
            now: micros(self.now),
            appends,
            bytes: appends as u64 * self.bytes_each,
            latency: micros(self.now - begun),
            in_flight,
            waiting: self.waiting.len(),
        });
        if let Some(after) = self.return_us {
            self.appends_at((0..appends as u64).map(|_| after));
        }
        self.idle_since = self.now;
    }

    fn decide(&mut self) {
        self.asked += 1;
        while !self.waiting.is_empty() && self.in_flight.len() < 4 {
            let view = GroupView {
                now: micros(self.now),
                appends: self.waiting.len(),
                bytes: self.waiting.len() as u64 * self.bytes_each,
                full: false,
                in_flight: self.in_flight.len(),
                appends_in_flight: self.in_flight.iter().map(|group| group.appends).sum(),
                in_flight_max: 4,
            };
            match self.policy.next(&view) {
                GroupDecision::Gather { appends, at_most } if appends > view.appends => {
                    assert!(at_most > Duration::ZERO, "that would be for ever");
                    let at = self.now + (at_most.as_micros() as u64).max(1);
                    self.events.push(Reverse((at, Event::Ask(self.asked))));
                    return;
                }
                GroupDecision::Hold if view.in_flight > 0 => return,
                _ => self.commit(),
            }
        }
    }

    fn commit(&mut self) {
        if self.in_flight.is_empty() {
            let could = self.waiting[0].max(self.idle_since);
            self.delay_max = self.delay_max.max(self.now - could);
        }
        let in_flight = self.in_flight.len() + 1;
        let takes = self.commit_us + self.beside_us * (in_flight as u64 - 1);
        self.last_end = self.last_end.max(self.now + takes);
        self.events.push(Reverse((self.last_end, Event::Durable)));
        let appends = std::mem::take(&mut self.waiting).len();
        self.in_flight.push_back(Group { begun: self.now, appends, in_flight });
        self.groups += 1;
    }

    /// Appends a second, and appends a group, of a time after all is settled.
    fn settled(mut self) -> (f64, f64) {
        self.run(2_000_000);
        let (answered, groups) = (self.answered, self.groups);
        self.run(1_000_000);
        let appends = (self.answered - answered) as f64;
        (appends, appends / (self.groups - groups) as f64)
    }
}

/// Callers come back sooner than a commit takes: they share one commit, instead of taking turns in two halves.
#[test]
fn quick_callers_are_gathered() {
    for (callers, commit, back) in [(16, 200, 30), (16, 100, 50), (256, 200, 60), (2, 200, 20)] {
        let world = |policy| World::closed(policy, callers, commit, back);
        let (rate, group) = world(Adaptive::default()).settled();
        let (natural, _) = World::closed(Natural, callers, commit, back).settled();
        let story = format!("{callers} callers, {commit} us, back in {back} us: {rate} {group}");
        assert!(group > 0.8 * callers as f64, "nearly all in a group: {story}");
        assert!(rate > 1.2 * natural, "natural batching: {natural}: {story}");
    }
}

/// Large groups too are gathered where each waits for the one before it, as first writes to reserved blocks do: each of them
/// writes the same inode.
#[test]
fn large_groups_are_gathered_where_that_is_quicker() {
    let world = World::closed(Adaptive::default(), 16, 500, 100);
    let (rate, group) = World { bytes_each: 64 << 10, beside_us: 400, ..world }.settled();
    assert!(group > 14.0, "{group}");
    assert!(rate > 0.9 * 16.0 * 1_000_000.0 / 600.0, "{rate}");
}

/// Callers take longer to come back than a commit takes, and not all at once: nothing is gained by waiting for them, and
/// no time is lost with it.
#[test]
fn slow_callers_are_not_waited_for() {
    for (callers, commit, back) in [(16, 100, 300), (64, 100, 1000), (4, 50, 500)] {
        let (rate, _) = World::closed(Adaptive::default(), callers, commit, back).settled();
        let (natural, _) = World::closed(Natural, callers, commit, back).settled();
        assert!(
            rate > 0.95 * natural,
            "{callers} callers, {commit} us, back in {back} us: {rate} against {natural}"
        );
    }
}

/// A single caller gains nothing from any waiting, and never waits.
#[test]
fn single_caller_is_never_delayed() {
    for (commit, back) in [(100, 10), (100, 100), (100, 1000), (1000, 30)] {
        let mut world = World::closed(Adaptive::default(), 1, commit, back);
        world.run(5_000_000);
        assert_eq!(world.delay_max, 0, "{commit} us, back in {back} us");
        assert!(world.groups <= world.answered + 1);
        assert!(world.answered + 1 >= 5_000_000 / (commit + back));
    }
}

/// Appends that come on their own, whatever is answered: nobody waits longer for his group to begin than two commits
/// take, and that only while gathering is tried.
#[test]
fn open_stream_is_delayed_by_two_commits_at_most() {
    for (commit, every) in [(100, 7), (100, 90), (100, 130), (300, 50), (100, 5000)] {
        let mut world = World::new(Adaptive::default(), commit);
        // Not in step with anything.
        world.appends_at((0..2_000_000 / every).map(|n| n * every + n * n % 5));
        world.run(2_100_000);
        assert_eq!(world.answered, 2_000_000 / every, "all are answered");
        // Commits beside others take longer.
        let latency = commit + 4 * world.beside_us;
        assert!(
            world.delay_max <= 2 * latency,
            "{commit} us, every {every} us: {}",
            world.delay_max
        );
    }
}

/// Whatever was learnt of many callers, a single one that comes after a pause is answered at once; and many that come
/// after a pause are gathered as soon as by a policy that has seen nothing.
#[test]
fn pause_makes_it_forget() {
    let mut world = World::closed(Adaptive::default(), 64, 200, 30);
    world.run(2_000_000);
    // The callers go; a second later there is one.
    world.return_us = None;
    world.run(1_000_000);
    assert!(world.waiting.is_empty() && world.in_flight.is_empty());
    let answered = world.answered;
    world.delay_max = 0;
    world.return_us = Some(30);
    world.appends_at([0]);
    world.run(1_000_000);
    assert_eq!(world.delay_max, 0);
    assert!(world.answered - answered > 4000, "one after another");

    world.return_us = None;
    world.run(1_000_000);
    let answered = world.answered;
    world.return_us = Some(30);
    world.appends_at((0..64).map(|_| 0));
    let mut fresh = World { return_us: Some(30), ..World::new(Adaptive::default(), 200) };
    fresh.appends_at((0..64).map(|_| 0));
    world.run(200_000);
    fresh.run(200_000);
    let (after, new) = ((world.answered - answered) as f64, fresh.answered as f64);
    assert!((after / new - 1.0).abs() < 0.1, "{after} against {new}");
}

/// Callers who become others without any pause: what is best now is found within a second or so.
#[test]
fn change_is_noticed() {
    let mut world = World::closed(Adaptive::default(), 16, 200, 2000);
    world.run(2_000_000);
    world.return_us = Some(30);
    let (_, group) = world.settled();
    assert!(group > 12.0, "{group}");
}

/// A group that is full does not wait, whatever was learnt.
#[test]
fn full_group_never_waits() {
    let mut world = World::closed(Adaptive::default(), 64, 200, 30);
    for _ in 0..300 {
        world.run(5_000);
        let mut policy = world.policy.clone();
        let full =
            GroupView { now: micros(world.now), appends: 1, full: true, ..GroupView::default() };
        assert_eq!(policy.next(&GroupView { in_flight: 3, ..full }), GroupDecision::Commit);
    }
}

/// A large group does not wait for the one before it, unless callers are gathered.
#[test]
fn large_group_is_written_beside_others() {
    for way in Way::ALL {
        let mut policy = Adaptive { way, ..Adaptive::default() };
        let view = GroupView { appends: 1, bytes: LARGE_BYTES, in_flight: 1, ..Default::default() };
        let gathers = way == Way::Gather;
        let expected = if gathers { GroupDecision::Hold } else { GroupDecision::Commit };
        assert_eq!(policy.next(&view), expected, "{way:?}");
    }
}

/// A fixed delay is kept to the microsecond, counted from the first that waits; a full group does not wait.
#[test]
fn fixed_delay_is_kept() {
    let mut world = World::new(Fixed::new(micros(300)), 100);
    world.appends_at([0, 100, 299, 1000, 1301]);
    world.run(10_000);
    assert_eq!((world.groups, world.answered, world.delay_max), (3, 5, 300));
    let mut fixed = Fixed::new(micros(300));
    let view = GroupView { appends: 1, ..GroupView::default() };
    assert!(
        matches!(fixed.next(&view), GroupDecision::Gather { at_most, .. } if at_most == micros(300))
    );
    assert_eq!(fixed.next(&GroupView { full: true, ..view }), GroupDecision::Commit);
    let mut none = Fixed::new(Duration::ZERO);
    assert_eq!(none.next(&view), GroupDecision::Commit);
}
