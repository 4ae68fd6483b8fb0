//! Releases and truncations against a model that is nothing but a list of payloads and a number: after each step of a life,
//! between crashes and reopens, everything that is read, and every refusal, is what the model says.

use super::*;
use crate::read::tail::Tail;
use futures_util::future::{Either, select};
use proptest::prelude::*;
use std::pin::pin;

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// Of all indexes from 1 on.
    entries: Vec<Bytes>,
    released: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.len() as u64
    }
}

/// What the application knows: the log as it is, as it will be after the step that was begun, and what of the releases
/// cannot come back.
#[derive(Clone, Debug, Default)]
struct Known {
    done: Model,
    doing: Option<Model>,
    released_for_sure: u64,
}

/// An entry in the order of the bytes, for who follows.
struct Event {
    index: u64,
    data: Bytes,
    valid: bool,
}

struct Followed {
    tail: Tail,
    from: u64,
    events: Vec<Event>,
    /// So many are behind it: one of these, where what was written again is what was there.
    passed: Vec<usize>,
}

impl Followed {
    fn new(wal: &Wal, model: &Model, from: u64) -> Followed {
        let mut followed =
            Followed { tail: wal.tail(from), from, events: Vec::new(), passed: vec![0] };
        followed.appended(from, &model.entries[from as usize - 1..]);
        followed
    }

    fn appended(&mut self, first: u64, payloads: &[Bytes]) {
        let event = |(index, data): (u64, &Bytes)| Event { index, data: data.clone(), valid: true };
        let wanted = (first..).zip(payloads).filter(|(index, _)| *index >= self.from);
        self.events.extend(wanted.map(event));
    }

    /// The entries behind `index` were taken back; that one was written again, if it is there.
    fn taken_back(&mut self, index: u64, base: u64) {
        let (gone_from, mut again) = (if index > base { index } else { index + 1 }, None);
        for event in self.events.iter_mut().filter(|event| event.valid && event.index >= gone_from)
        {
            event.valid = false;
            if event.index == index {
                again = Some(event.data.clone());
            }
        }
        again.into_iter().for_each(|data| self.appended(index, &[data]));
    }

    /// Asks for so many. Says whether it was told that what it wants is released.
    async fn ask(&mut self, sim: &Sim, count: usize, base: u64) -> bool {
        for _ in 0..count {
            let patience = sim.sleep(Duration::from_millis(50));
            let next = match select(pin!(self.tail.next()), pin!(patience)).await {
                Either::Left((next, _)) => next.expect("the log is open"),
                Either::Right(_) => {
                    let missed = |passed: &usize| {
                        let missed = self.events[*passed..].iter().find(|event| event.valid);
                        missed.map(|event| event.index)
                    };
                    let missed: Vec<_> = self.passed.iter().map(missed).collect();
                    assert!(missed.contains(&None), "{missed:?} was left out");
                    return false;
                }
            };
            match next {
                Ok(entry) => {
                    let is_it = |e: &Event| (e.index, &e.data) == (entry.index, &entry.data);
                    let mut passed = Vec::new();
                    for &before in &self.passed {
                        for (at, event) in self.events.iter().enumerate().skip(before) {
                            if is_it(event) && !passed.contains(&(at + 1)) {
                                passed.push(at + 1);
                            }
                            if event.valid {
                                break;
                            }
                        }
                    }
                    assert!(!passed.is_empty(), "{} does not follow", entry.index);
                    self.passed = passed;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Released, "{error}");
                    assert_eq!(error.first_index(), Some(base + 1), "{error}");
                    let first = self.passed.iter().min().copied().unwrap_or(0);
                    let mut ahead = self.events[first..].iter();
                    assert!(ahead.any(|event| event.index <= base), "nothing of it was released");
                    return true;
                }
            }
        }
        false
    }
}

async fn life(sim: Sim, options: Options, known: Shared<Known>, steps: Vec<(u8, u64)>) -> bool {
    let (wal, recovery) = start_on(&sim, options, How::OpenOrCreate).await.unwrap();
    found(&wal, &recovery, &known).await;
    let mut followed: Option<Followed> = None;
    for (kind, salt) in steps {
        let mut rng = fastrand::Rng::with_seed(salt);
        let mut model = known.borrow().done.clone();
        let (base, last) = (model.released, model.last());
        match kind {
            0..=4 => {
                let count = if rng.bool() { 1 } else { rng.u64(2..12) };
                let payloads: Vec<Bytes> =
                    (0..count).map(|_| payload(rng.u64(..), rng.usize(..5000))).collect();
                model.entries.extend(payloads.iter().cloned());
                known.borrow_mut().doing = Some(model);
                let indexes = wal.append_batch(payloads.clone()).await.unwrap();
                assert_eq!(indexes, last + 1..last + 1 + count);
                followed.iter_mut().for_each(|f| f.appended(last + 1, &payloads));
            }
            5 | 6 => {
                let index = rng.u64(base.saturating_sub(2)..=last + 1);
                model.released = base.max(index);
                let refused = refusal(index, base, last);
                if refused.is_none() {
                    known.borrow_mut().doing = Some(model);
                }
                let outcome = wal.release(index).await;
                assert_eq!(outcome.err().map(|error| error.kind()), refused, "{index}");
            }
            7 | 8 => {
                let index = match rng.u8(..4) {
                    0 => base,
                    1 => rng.u64(base.saturating_sub(2)..=last + 1),
                    _ => last - rng.u64(..4).min(last - base),
                };
                let refused = refusal(index, base, last);
                if refused.is_none() {
                    model.entries.truncate(index as usize);
                    known.borrow_mut().doing = Some(model);
                }
                let outcome = wal.truncate_after(index).await;
                assert_eq!(outcome.err().map(|error| error.kind()), refused, "{index}");
                if refused.is_none() && index < last {
                    followed.iter_mut().for_each(|f| f.taken_back(index, base));
                }
            }
            9 => {
                let from = rng.u64(base + 1..=last + 1);
                followed = Some(Followed::new(&wal, &model, from));
            }
            10 => settle(&sim).await,
            _ => {
                wal.close().await.unwrap();
                known.borrow_mut().released_for_sure = base;
                return true;
            }
        }
        {
            let mut known = known.borrow_mut();
            known.done = known.doing.take().unwrap_or_else(|| known.done.clone());
        }
        let model = known.borrow().done.clone();
        look(&wal, &model, &mut rng).await;
        if let Some(f) = &mut followed
            && f.ask(&sim, rng.usize(..20), model.released).await
        {
            followed = None;
        }
    }
    false
}

async fn settle(sim: &Sim) {
    sim.sleep(Duration::from_millis(20)).await;
}

fn refusal(index: u64, base: u64, last: u64) -> Option<ErrorKind> {
    match index {
        _ if index < base => Some(ErrorKind::Released),
        _ if index > last => Some(ErrorKind::OutOfRange),
        _ => None,
    }
}

/// What was found is the log before the step that was begun, or after it; of the releases, those for sure.
async fn found(wal: &Wal, recovery: &Recovery, known: &Shared<Known>) {
    let base = wal.first_index() - 1;
    let entries = collect(wal.read(..)).await.unwrap();
    assert_eq!(recovery.first_index, entries.first().map(|entry| entry.index));
    assert_eq!(recovery.last_index, entries.last().map(|entry| entry.index));
    let mut known = known.borrow_mut();
    assert!(base >= known.released_for_sure, "{base} is less than what was written down");
    let is = |model: &&Model| {
        base <= model.released
            && model.last() == base + entries.len() as u64
            && entries.iter().all(|entry| entry.data == model.entries[entry.index as usize - 1])
    };
    let model = [Some(&known.done), known.doing.as_ref()].into_iter().flatten().find(is);
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    let model = model.unwrap_or_else(|| panic!("behind {base} there is {indexes:?}: {known:?}"));
    let done = Model { released: base, ..model.clone() };
    *known = Known { done, doing: None, released_for_sure: base };
}

async fn look(wal: &Wal, model: &Model, rng: &mut fastrand::Rng) {
    let (base, last) = (model.released, model.last());
    assert_eq!((wal.first_index(), wal.last_index(), wal.durable_index()), (base + 1, last, last));
    for _ in 0..3 {
        let index = rng.u64(..last + 3);
        match wal.get(index).await {
            Ok(entry) => {
                assert!(index > base && index <= last, "{index}");
                assert_eq!((entry.index, &entry.data), (index, &model.entries[index as usize - 1]));
            }
            Err(error) => {
                let kind = if index <= base { ErrorKind::Released } else { ErrorKind::OutOfRange };
                assert!(index <= base || index > last, "{index}: {error}");
                assert_eq!(error.kind(), kind, "{index} of {base} to {last}: {error}");
            }
        }
        let from = rng.u64(..last + 3);
        let read = collect(wal.read(from..)).await;
        let refused = match from {
            _ if from <= base => Some(ErrorKind::Released),
            _ if from > last + 1 => Some(ErrorKind::OutOfRange),
            _ => None,
        };
        match read {
            Ok(entries) => {
                assert_eq!(refused, None, "{from}..");
                let wanted = model.entries[from as usize - 1..].iter();
                assert!(entries.iter().map(|entry| &entry.data).eq(wanted), "{from}..");
            }
            Err(error) => assert_eq!(Some(error.kind()), refused, "{from}..: {error}"),
        }
    }
}

/// How a life ends, after how many operations, and its steps.
type Life = (u8, u64, Vec<(u8, u64)>);

fn run(mode: usize, recent: usize, recycle: bool, seed: u64, lives: Vec<Life>) {
    let options = modes()[mode].clone().recent_bytes_max(recent).recycle(recycle);
    let sim = machine(seed);
    let known = Shared::<Known>::default();
    for (end, operations, steps) in lives {
        let at = if end % 3 == 0 { u64::MAX } else { sim.operations() + 1 + operations % 300 };
        let closed =
            sim.block_on_until(at, life(sim.clone(), options.clone(), known.clone(), steps));
        match end {
            _ if closed == Some(true) => {}
            0..4 => sim.kill(),
            _ => drop(sim.power_loss(Crash::Random)),
        }
    }
    sim.block_on(life(sim.clone(), options, known, Vec::new()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn what_is_let_go_of_is_gone_and_the_rest_is_there(
        mode in 0usize..5,
        recent in proptest::sample::select(&[0usize, 2 << 10, 8 << 20][..]),
        recycle in any::<bool>(),
        seed in any::<u64>(),
        lives in proptest::collection::vec(
            (0u8..8, any::<u64>(), proptest::collection::vec((0u8..12, any::<u64>()), 1..40)),
            1..6,
        ),
    ) {
        run(mode, recent, recycle, seed, lives);
    }
}
