//! Reads against a model that is nothing but the list of what was appended: after each step of a life, whatever is read, at
//! either level, from memory or from files, by a tail that keeps up or one that does not, is what the model says.

use super::*;
use crate::read::tail::Tail;
use crate::types::Snapshot;
use futures_util::future::{Either, select};
use proptest::prelude::*;
use std::ops::Bound;
use std::pin::pin;

/// An append, as the bytes have it.
#[derive(Clone, Debug)]
enum Event {
    Entry(Entry),
    /// Replaces the log.
    Snapshot(u64),
}

/// The log of one life: what was appended, in the order of the bytes.
#[derive(Debug, Default)]
struct Model {
    /// Before the first event: what the snapshot covers that reading started from.
    base: u64,
    /// The snapshot that the next life is read from, and its term.
    start: Option<(u64, u64)>,
    events: Vec<Event>,
    /// So many of them, at least, are durable.
    durable: usize,
    term: u64,
    /// Payloads that were ever made.
    tags: u64,
}

/// What is valid after so many events: a base, and for each index behind it the event that it comes from.
#[derive(Clone, Debug, PartialEq)]
struct Valid {
    base: u64,
    events: Vec<usize>,
}

impl Valid {
    fn first(&self) -> u64 {
        self.base + 1
    }

    fn next(&self) -> u64 {
        self.first() + self.events.len() as u64
    }
}

impl Model {
    fn valid(&self, upto: usize) -> Valid {
        let mut valid = Valid { base: self.base, events: Vec::new() };
        for (at, event) in self.events[..upto].iter().enumerate() {
            match event {
                Event::Entry(entry) => {
                    valid.events.truncate((entry.index - valid.first()) as usize);
                    valid.events.push(at);
                }
                Event::Snapshot(index) => valid = Valid { base: *index, events: Vec::new() },
            }
        }
        valid
    }

    fn head(&self) -> Valid {
        self.valid(self.events.len())
    }

    fn entry(&self, event: usize) -> &Entry {
        match &self.events[event] {
            Event::Entry(entry) => entry,
            Event::Snapshot(_) => panic!("no entry"),
        }
    }

    fn entries(&self, valid: &Valid) -> Vec<Entry> {
        valid.events.iter().map(|&event| self.entry(event).clone()).collect()
    }

    /// New ones, and what is to be appended for them.
    fn extend(
        &mut self,
        first: u64,
        term: u64,
        count: usize,
        rng: &mut fastrand::Rng,
    ) -> Vec<Entry> {
        let entries: Vec<Entry> = (first..)
            .take(count)
            .map(|index| {
                self.tags += 1;
                let bytes = match rng.u8(..24) {
                    0 => rng.usize(60_000..200_000),
                    1..6 => rng.usize(1000..6000),
                    _ => rng.usize(..300),
                };
                Entry { index, term, data: payload(self.tags, bytes), ..Entry::default() }
            })
            .collect();
        self.term = term;
        self.events.extend(entries.iter().cloned().map(Event::Entry));
        entries
    }
}

/// A tail, and how far it should be.
struct Followed {
    tail: Tail,
    durability: Durability,
    from: u64,
    /// Events that it is through with.
    passed: usize,
    next: u64,
    /// So many entries are taken at a time.
    pace: usize,
    /// It was at the end once: what was there before the log was opened lies behind it.
    caught_up: bool,
}

/// What came of asking a tail for one more.
enum Came {
    Entry(Entry),
    Nothing,
    End,
    Failure(Error),
}

impl Followed {
    async fn ask(&mut self, sim: &Sim) -> Came {
        // Long enough for any piece of a file.
        let patience = sim.sleep(Duration::from_millis(50));
        match select(pin!(self.tail.next()), pin!(patience)).await {
            Either::Left((Some(Ok(entry)), _)) => Came::Entry(entry),
            Either::Left((Some(Err(error)), _)) => Came::Failure(error),
            Either::Left((None, _)) => Came::End,
            Either::Right(_) => Came::Nothing,
        }
    }

    /// An entry came: it lies behind the one before, within what this tail may see, and what it passed over is not valid.
    fn takes(&mut self, entry: &Entry, model: &Model, upto: usize) {
        let is_it = |event: &Event| matches!(event, Event::Entry(e) if e == entry);
        let found = model.events[self.passed..upto].iter().position(is_it).unwrap_or_else(|| {
            panic!("{} of term {}: no such entry follows at this level", entry.index, entry.term)
        });
        let at = self.passed + found;
        self.missed_none(model, at, upto);
        self.passed = at + 1;
        self.next = entry.index + 1;
    }

    /// What lies between what came last and this event is not valid any more, or was not wanted.
    fn missed_none(&self, model: &Model, before: usize, upto: usize) {
        for event in model.valid(upto).events {
            if (self.passed..before).contains(&event) {
                let index = model.entry(event).index;
                assert!(index < self.from, "{index} was left out, from {} on", self.from);
            }
        }
    }
}

struct Run {
    sim: Sim,
    options: Options,
    model: Model,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Close,
    Kill,
    PowerLoss,
    Poison,
}

impl Run {
    /// Takes steps until one ends this life.
    fn life(&mut self, steps: &mut impl Iterator<Item = (u8, u64)>) -> Option<End> {
        let sim = self.sim.clone();
        sim.block_on(async {
            let mut options = self.options.clone();
            if let Some((index, term)) = self.model.start {
                options = options.start(Start::Snapshot { index, term });
            }
            let (wal, recovery) = start_on(&self.sim, options, How::OpenOrCreate).await.unwrap();
            let found = collect(wal.read(..)).await.unwrap();
            assert_eq!(recovery.last_index, found.last().map(|entry| entry.index));
            self.survived(&found);
            // The power may have taken the term that plain appends are of.
            self.model.term = self.model.term.max(1);
            let (term, commit) = (self.model.term, self.model.base);
            wal.save(HardState { term, vote: 1, commit }, Vec::new()).await.unwrap();
            let mut tails = Vec::new();
            loop {
                let Some((kind, salt)) = steps.next() else {
                    self.end(&wal, End::Close, &mut tails).await;
                    return None;
                };
                let mut rng = fastrand::Rng::with_seed(salt);
                let end = match kind {
                    0 => Some(End::Close),
                    1 => Some(End::Kill),
                    2 => Some(End::PowerLoss),
                    3 => Some(End::Poison),
                    _ => None,
                };
                if let Some(end) = end {
                    self.end(&wal, end, &mut tails).await;
                    return Some(end);
                }
                self.step(&wal, kind, &mut rng, &mut tails).await;
                self.look(&wal, &mut rng, &mut tails).await;
            }
        })
    }

    /// What was found is one of the states that may be.
    fn survived(&mut self, found: &[Entry]) {
        let model = &self.model;
        let survived = (model.durable..=model.events.len())
            .find(|&upto| model.entries(&model.valid(upto)) == found)
            .expect("no such state of the log");
        let events: Vec<Event> = found.iter().cloned().map(Event::Entry).collect();
        let durable = events.len();
        self.model = Model { base: model.valid(survived).base, events, durable, ..*model };
    }

    async fn step(
        &mut self,
        wal: &Wal,
        kind: u8,
        rng: &mut fastrand::Rng,
        tails: &mut Vec<Followed>,
    ) {
        let model = &mut self.model;
        let durability = [Durability::Durable, Durability::Written][rng.usize(..2)];
        let wal = wal.with_durability(durability);
        let head = model.head();
        let mut durable = durability == Durability::Durable;
        match kind {
            4..=9 => {
                let count = if rng.u8(..3) == 0 { rng.usize(2..40) } else { 1 };
                let term = model.term.max(1);
                let entries = model.extend(head.next(), term, count, rng);
                let records: Vec<Bytes> = entries.into_iter().map(|entry| entry.data).collect();
                let indexes = wal.append_batch(records).await.unwrap();
                assert_eq!(indexes, head.next()..head.next() + count as u64);
            }
            10..=12 => {
                let back = rng.u64(..=head.events.len().min(9) as u64);
                let term = model.term.max(1) + rng.u64(..2);
                let count = rng.usize(1..8);
                let entries = model.extend(head.next() - back, term, count, rng);
                let commit = head.base;
                let state = HardState { term, vote: rng.u64(..3), commit };
                wal.save(state, entries).await.unwrap();
            }
            13 => {
                model.term = model.term.max(1) + rng.u64(..2);
                let state = HardState { term: model.term, vote: 1, commit: head.base };
                wal.save(state, Vec::new()).await.unwrap();
            }
            14 if !head.events.is_empty() => {
                // One that continues the log changes nothing that is read.
                let index = head.first() + rng.u64(..head.events.len() as u64);
                let term = model.entry(head.events[(index - head.first()) as usize]).term;
                wal.save_snapshot(Snapshot { index, term, ..Snapshot::default() }).await.unwrap();
            }
            15 if rng.u8(..3) == 0 => {
                // From now on the log is read from there.
                let (index, term) = (head.next() + rng.u64(..5), model.term.max(1));
                let snapshot = Snapshot { index, term, ..Snapshot::default() };
                wal.save_snapshot(snapshot).await.unwrap();
                model.events.push(Event::Snapshot(index));
                let state = HardState { term, vote: 2, commit: index };
                wal.with_durability(Durability::Durable).save(state, Vec::new()).await.unwrap();
                durable = true;
                (model.term, model.start) = (term, Some((index, term)));
            }
            16 => {
                wal.sync().await.unwrap();
                durable = true;
            }
            _ => {
                let (upto, valid) = self.seen(&wal, durability).await;
                let from = rng.u64(valid.first()..=valid.next());
                let at = (from - valid.first()) as usize;
                let passed = valid.events.get(at).copied().unwrap_or(upto);
                let tail = wal.tail(from);
                let pace = [1, 3, 20, usize::MAX][rng.usize(..4)];
                let (next, caught_up) = (from, false);
                tails.push(Followed { tail, durability, from, passed, next, pace, caught_up });
                durable = false;
            }
        }
        if durable {
            self.model.durable = self.model.events.len();
        }
    }

    /// How many events are seen at this level, and what that makes. The log is at rest: what was appended is written, and
    /// what of it is durable shows in all that is read.
    async fn seen(&mut self, wal: &Wal, durability: Durability) -> (usize, Valid) {
        if durability == Durability::Written {
            return (self.model.events.len(), self.model.head());
        }
        let wal = wal.with_durability(durability);
        let found = collect(wal.read(..)).await.unwrap();
        let first = wal.first_index();
        let model = &self.model;
        let is_it = |valid: &Valid| model.entries(valid) == found && valid.first() == first;
        let upto = (model.durable..=model.events.len())
            .find(|&upto| is_it(&model.valid(upto)))
            .expect("what is read as durable is no state of the log that may be");
        self.model.durable = upto;
        (upto, self.model.valid(upto))
    }

    /// Compares what can be read.
    async fn look(&mut self, wal: &Wal, rng: &mut fastrand::Rng, tails: &mut Vec<Followed>) {
        for durability in [Durability::Durable, Durability::Written] {
            let (_, valid) = self.seen(wal, durability).await;
            let wal = wal.with_durability(durability);
            assert_eq!(wal.first_index(), valid.first());
            let entries = self.model.entries(&valid);
            for _ in 0..3 {
                let index = rng.u64(..valid.next() + 3);
                gets(&wal, index, &valid, &entries).await;
                let (a, b) = (rng.u64(..valid.next() + 3), rng.u64(..valid.next() + 3));
                reads(&wal, (bound(a, rng), bound(b, rng)), &valid, &entries).await;
            }
        }
        let mut at = 0;
        while let Some(followed) = tails.get_mut(at) {
            let (upto, valid) = self.seen(wal, followed.durability).await;
            match follow(followed, &self.sim, &self.model, (upto, &valid)).await {
                Came::Failure(error) => {
                    assert_eq!(error.kind(), ErrorKind::Released, "{error}");
                    assert_eq!(error.first_index(), Some(valid.first()), "{error}");
                    assert!(valid.first() > followed.next, "{error}");
                    assert!(matches!(followed.ask(&self.sim).await, Came::End), "after an error");
                    tails.remove(at);
                }
                Came::End => panic!("the log is open, and a tail has ended"),
                _ => at += 1,
            }
        }
    }

    async fn end(&mut self, wal: &Wal, end: End, tails: &mut [Followed]) {
        match end {
            End::Kill | End::PowerLoss => return,
            End::Close => {
                wal.close().await.unwrap();
                self.model.durable = self.model.events.len();
            }
            End::Poison => {
                self.sim.fail_nth_of(OpKind::Write, 1, EIO);
                let next = self.model.head().next();
                let term = self.model.term.max(1);
                let doomed = payload(u64::MAX, 100);
                let entry = Entry { index: next, term, data: doomed.clone(), ..Entry::default() };
                assert!(wal.append(doomed).await.unwrap_err().is_poisoned());
                self.sim.clear_faults();
                self.seen(wal, Durability::Durable).await;
                // It may have got to the disk all the same.
                self.model.events.push(Event::Entry(entry));
            }
        }
        for followed in tails {
            followed.pace = usize::MAX;
            let upto = match followed.durability {
                Durability::Durable => self.model.durable,
                _ => self.model.events.len() - usize::from(end == End::Poison),
            };
            let valid = self.model.valid(upto);
            match follow(followed, &self.sim, &self.model, (upto, &valid)).await {
                Came::End => {
                    assert_eq!(end, End::Close, "a log that failed does not end in peace");
                    followed.missed_none(&self.model, upto, upto);
                    assert!(followed.next >= valid.first());
                }
                Came::Failure(error) if error.kind() == ErrorKind::Released => {
                    assert!(valid.first() > followed.next, "{error}");
                }
                Came::Failure(error) if end == End::Poison => {
                    assert!(error.is_poisoned(), "{error}");
                    followed.missed_none(&self.model, upto, upto);
                }
                Came::Failure(error) => {
                    // What only the files have cannot be read any more.
                    assert!(error.is_closed(), "{error}");
                    let forgets = self.options.recent_bytes_max < 8 << 20;
                    assert!(forgets || !followed.caught_up, "it is in memory: {error}");
                }
                Came::Nothing | Came::Entry(_) => panic!("a tail outlives its log: {end:?}"),
            }
        }
    }
}

/// Takes what there is, or as much as this one takes at a time.
async fn follow(
    followed: &mut Followed,
    sim: &Sim,
    model: &Model,
    (upto, valid): (usize, &Valid),
) -> Came {
    let mut left = followed.pace;
    loop {
        let came = followed.ask(sim).await;
        match &came {
            Came::Entry(entry) => followed.takes(entry, model, upto),
            Came::Nothing => {
                followed.caught_up = true;
                followed.missed_none(model, upto, upto);
                assert!(followed.next >= valid.first(), "it waits for what will never come");
                return came;
            }
            _ => return came,
        }
        left -= 1;
        if left == 0 {
            return came;
        }
    }
}

async fn gets(wal: &Wal, index: u64, valid: &Valid, entries: &[Entry]) {
    let found = wal.get(index).await;
    if index < valid.first() {
        let error = found.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Released, "{index}: {error}");
        assert_eq!(error.first_index(), Some(valid.first()), "{error}");
    } else if index >= valid.next() {
        let error = found.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{index}: {error}");
    } else {
        assert_eq!(&found.unwrap(), &entries[(index - valid.first()) as usize]);
    }
}

fn bound(index: u64, rng: &mut fastrand::Rng) -> Bound<u64> {
    match rng.u8(..5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(index),
        _ => Bound::Excluded(index),
    }
}

async fn reads(wal: &Wal, range: (Bound<u64>, Bound<u64>), valid: &Valid, entries: &[Entry]) {
    let (first, next) = (valid.first(), valid.next());
    let start = match range.0 {
        Bound::Included(index) => index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => first,
    };
    let end = match range.1 {
        Bound::Included(index) => index + 1,
        Bound::Excluded(index) => index,
        Bound::Unbounded => next.max(start),
    };
    let refused = if start > end {
        Some(ErrorKind::InvalidInput)
    } else if start < first {
        Some(ErrorKind::Released)
    } else {
        (end > next || start > next).then_some(ErrorKind::OutOfRange)
    };
    let mut stream = wal.read(range);
    match refused {
        Some(kind) => {
            let error = stream.next().await.unwrap().unwrap_err();
            assert_eq!(error.kind(), kind, "{range:?} of {first}..{next}: {error}");
            assert!(stream.next().await.is_none(), "after an error");
        }
        None => {
            let wanted = &entries[(start - first) as usize..(end - first) as usize];
            assert_eq!(collect(stream).await.unwrap(), wanted, "{range:?} of {first}..{next}");
        }
    }
}

fn run(mode: usize, recent_bytes_max: usize, seed: u64, steps: Vec<(u8, u64)>) {
    let options = modes()[mode]
        .clone()
        .recent_bytes_max(recent_bytes_max)
        .idle_mark_after(None)
        .sync_interval(Duration::from_secs(3600));
    let sim = machine(seed);
    let mut run = Run { sim: sim.clone(), options, model: Model::default() };
    let mut steps = steps.into_iter();
    while let Some(end) = run.life(&mut steps) {
        match end {
            End::PowerLoss => drop(sim.power_loss(Crash::Random)),
            End::Close => {}
            End::Kill | End::Poison => sim.kill(),
        }
        if end == End::Kill {
            // What was written is there.
            run.model.durable = run.model.events.len();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn what_is_read_is_what_was_appended(
        mode in 0usize..5,
        recent in proptest::sample::select(&[0usize, 2 << 10, 64 << 10, 8 << 20][..]),
        seed in any::<u64>(),
        steps in proptest::collection::vec((0u8..24, any::<u64>()), 1..80),
    ) {
        // Ends are rarer than what comes between them.
        let steps = steps
            .into_iter()
            .map(|(kind, salt)| if kind < 4 && salt % 4 > 0 { (4 + kind, salt) } else { (kind, salt) })
            .collect();
        run(mode, recent, seed, steps);
    }
}
