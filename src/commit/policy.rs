//! When are the appends that wait committed? A pure piece: it sees numbers and answers with a decision.
//!
//! While a group is being written, the next one gathers: that is natural batching, and needs no policy. A policy
//! decides about the rest: whether to begin while few wait, since more are about to come, and whether to begin a second
//! group while one is in flight.

// Public with the feature `experimental`.
#![cfg_attr(not(feature = "experimental"), allow(unreachable_pub))]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a policy sees. Times are since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupView {
    /// The time now.
    pub now: Duration,
    /// Calls in the group that would be committed next; at least one.
    pub appends: usize,
    /// Bytes in it.
    pub bytes: u64,
    /// It has reached its limits: waiting does not make it larger.
    pub full: bool,
    /// Groups that are being written or synced.
    pub in_flight: usize,
    /// Calls in those groups.
    pub appends_in_flight: usize,
    /// As many groups may be in flight.
    pub in_flight_max: usize,
}

/// A group that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupCommit {
    /// The time now.
    pub now: Duration,
    /// Calls in it.
    pub appends: usize,
    /// Bytes of it.
    pub bytes: u64,
    /// From the decision to commit it until it was durable.
    pub latency: Duration,
    /// Groups that were in flight when it began, itself included.
    pub in_flight: usize,
    /// Calls that wait now.
    pub waiting: usize,
}

/// What to do with the group that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupDecision {
    /// Commit it now, beside others that may follow.
    Commit,
    /// Commit it now and begin nothing else before it is done: a small group is then written by a plain call, which is
    /// quicker than a ring with one write in it.
    CommitAlone,
    /// Ask again when so many calls are in it, or after this time, or when a group in flight is durable.
    Gather {
        /// Calls.
        appends: usize,
        /// At most this long.
        at_most: Duration,
    },
    /// Ask again when a group in flight is durable, or the group is full. With nothing in flight this is
    /// [`GroupDecision::CommitAlone`].
    Hold,
}

/// Decides when a group is committed. Asked on the submission thread, for each group at least once: it must be quick.
pub trait GroupPolicy: fmt::Debug + Send {
    /// Calls wait, and there is room for one more group in flight: what to do?
    fn next(&mut self, view: &GroupView) -> GroupDecision;

    /// A group is durable.
    fn committed(&mut self, commit: &GroupCommit) {
        let _ = commit;
    }
}

/// Makes the policy of a log. In the options, so it can be cloned.
#[derive(Clone)]
pub(crate) struct PolicyMaker(pub Arc<dyn Fn() -> Box<dyn GroupPolicy> + Send + Sync>);

impl fmt::Debug for PolicyMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicyMaker")
    }
}

/// Every group waits for a fixed time (MySQL's `binlog_group_commit_sync_delay`), unless it is full.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed {
    delay: Duration,
    /// When the group that waits was first seen.
    since: Option<Duration>,
}

impl Fixed {
    /// A group waits for `delay`; zero commits at once.
    #[must_use]
    pub fn new(delay: Duration) -> Fixed {
        Fixed { delay, since: None }
    }
}

impl GroupPolicy for Fixed {
    fn next(&mut self, view: &GroupView) -> GroupDecision {
        let since = *self.since.get_or_insert(view.now);
        let left = (since + self.delay).saturating_sub(view.now);
        if view.full || left.is_zero() {
            self.since = None;
            return GroupDecision::Commit;
        }
        // Until it is full, or the time is over.
        GroupDecision::Gather { appends: usize::MAX, at_most: left }
    }
}

/// How groups follow each other, and what writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    /// One at a time, and at once: what arrives meanwhile is the next. Written by a plain call.
    #[default]
    Natural,
    /// One at a time, and only when the callers that were answered last have come back: N callers in a closed loop then
    /// share one commit instead of taking turns in two halves. Written by a plain call.
    Gather,
    /// A second one while the first is in flight. Written by the ring, where there is one.
    Overlap,
    /// One at a time, and at once, by the ring.
    Ring,
}

impl Way {
    const ALL: [Way; 4] = [Way::Natural, Way::Gather, Way::Overlap, Way::Ring];
}

/// The default. Which way is best depends on how long a commit takes against how long callers take to come back, and
/// how much of both is CPU: it tries each way for a short time, keeps to the one that commits most appends a second, and
/// looks at the others again now and then, ever more rarely while nothing changes. Where there is no difference, as with
/// a single caller or on a log that is not busy, appends are committed at once.
///
/// Groups from [`LARGE_BYTES`] on are written beside others, whatever the way, unless that is to gather: then the disk is
/// busy with bytes, not with flushes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Adaptive {
    way: Way,
    /// Appends a second of each way in its last trials, the newest first; 0 if there were not so many.
    rates: [[f64; TRIALS_KEPT]; Way::ALL.len()],
    trial: Trial,
    /// Trials of the best way until the others are looked at again, and how many that is to be.
    stay: u32,
    stay_next: u32,
    /// Ways that were looked at in this round, the one it began with included.
    looked_at: usize,
    /// The best one of the last round.
    chosen: Way,
    /// Calls that were answered last, or waited then, and when that was.
    expected: usize,
    answered_at: Duration,
    /// How long a commit takes, smoothed.
    latency: Duration,
}

/// A short time of one way.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    begun: Duration,
    commits: u32,
    appends: usize,
}

/// Groups from here on are written beside others, unless they are gathered.
const LARGE_BYTES: u64 = 128 << 10;
/// A trial is at least this long. Its first commits belong to the way before it, and do not count.
const TRIAL: Duration = Duration::from_millis(5);
const TRIAL_COMMITS: u32 = 32;
/// A trial ends after this time at the latest, with however few commits: a way can be a hundred times slower.
const TRIAL_MAX: Duration = Duration::from_millis(20);
/// A way is judged by the best of so many.
const TRIALS_KEPT: usize = 3;
const TRIAL_COMMITS_LEFT_OUT: u32 = 2;
/// Another way has to be so much better.
const BETTER: f64 = 1.03;
/// Trials to stay with a way, at first and at last.
const STAY: u32 = 8;
const STAY_MAX: u32 = 128;
/// Callers are waited for as long as so many commits take: whether that pays shows in the trial.
const PATIENCE: u32 = 2;
/// Without a commit for so long, the log was idle, and what was learnt says nothing of what comes.
const PAUSE: Duration = Duration::from_millis(20);

impl GroupPolicy for Adaptive {
    fn next(&mut self, view: &GroupView) -> GroupDecision {
        let large = view.bytes >= LARGE_BYTES && self.way != Way::Gather;
        if large || view.full && view.in_flight > 0 {
            return GroupDecision::Commit;
        }
        match self.way {
            Way::Overlap if view.in_flight < 2 => GroupDecision::Commit,
            Way::Ring if view.in_flight == 0 => GroupDecision::Commit,
            _ if view.in_flight > 0 => GroupDecision::Hold,
            Way::Gather if view.appends < self.expected && !view.full => {
                match (self.answered_at + self.latency * PATIENCE).saturating_sub(view.now) {
                    Duration::ZERO => GroupDecision::CommitAlone,
                    left => GroupDecision::Gather { appends: self.expected, at_most: left },
                }
            }
            _ => GroupDecision::CommitAlone,
        }
    }

    fn committed(&mut self, commit: &GroupCommit) {
        if commit.now > self.answered_at + PAUSE {
            *self = Adaptive { latency: self.latency, ..Adaptive::default() };
        }
        self.expected = commit.appends + commit.waiting;
        self.answered_at = commit.now;
        self.latency = (self.latency * 7 + commit.latency) / 8;
        let trial = &mut self.trial;
        trial.commits += 1;
        if trial.commits <= TRIAL_COMMITS_LEFT_OUT {
            (trial.begun, trial.appends) = (commit.now, 0);
            return;
        }
        trial.appends += commit.appends;
        let time = commit.now.saturating_sub(trial.begun);
        if trial.commits >= TRIAL_COMMITS && time >= TRIAL || time >= TRIAL_MAX {
            let rate = trial.appends as f64 / time.as_secs_f64();
            self.end_trial(rate);
        }
    }
}

impl Adaptive {
    fn end_trial(&mut self, rate: f64) {
        let rates = &mut self.rates[self.way as usize];
        rates.rotate_right(1);
        rates[0] = rate;
        self.trial = Trial::default();
        self.stay = self.stay.saturating_sub(1);
        if self.stay > 0 {
            return;
        }
        self.looked_at += 1;
        if self.looked_at < Way::ALL.len() {
            self.way = Way::ALL[(self.way as usize + 1) % Way::ALL.len()];
        } else {
            self.looked_at = 0;
            self.choose();
        }
    }

    /// Stays with the best way.
    fn choose(&mut self) {
        // Whatever else runs on the machine only makes a trial worse: the better one of the last says more.
        let rate = |way: Way| self.rates[way as usize].into_iter().fold(0.0, f64::max);
        let natural = (Way::Natural, rate(Way::Natural) * BETTER);
        let best = Way::ALL
            .into_iter()
            .fold(natural, |best, way| if rate(way) > best.1 { (way, rate(way)) } else { best });
        self.way = best.0;
        let changed = std::mem::replace(&mut self.chosen, best.0) != best.0;
        self.stay_next = if changed { STAY } else { (self.stay_next * 2).clamp(STAY, STAY_MAX) };
        self.stay = self.stay_next;
    }
}

#[cfg(test)]
mod tests;
