//! Streams on the simulated disk: crashes, releases, followers, and what must still be true after them.

use super::*;
use crate::io::sim::{Crash, OpKind, Sim};
use crate::segment::method::{Packing, Prealloc, SyncMethod};
use crate::streams::reading::{StreamEntries, StreamTail};
use crate::types::{Durability, Entry};
use futures_util::StreamExt;
use futures_util::future::{Either, join, join_all, select};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/log";
const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

fn options() -> Options {
    Options::new()
        .segment_bytes(16 << 10)
        .group_bytes_max(4 << 10)
        .sync_method(SyncMethod::Fdatasync)
        .prealloc(Prealloc::Fallocate)
}

fn modes() -> [Options; 4] {
    let direct = options().sync_method(SyncMethod::Dsync).segment_bytes(48 << 10);
    [
        options(),
        options().packing(Packing::Block).recent_bytes_max(0),
        direct.clone().recent_bytes_max(2 << 10),
        direct.prealloc(Prealloc::ZeroFill).recycle(false),
    ]
}

fn machine(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    sim.set_latency_spread(OpKind::Write, Duration::from_micros(60));
    sim
}

async fn open(sim: &Sim, options: Options) -> Streams {
    sim.open_streams(DIR, options).await.unwrap().0
}

fn payload(tag: u64, bytes: usize) -> Bytes {
    tag.to_le_bytes().iter().copied().cycle().take(bytes).collect::<Vec<u8>>().into()
}

async fn read(stream: &NamedStream, from: u64) -> Result<Vec<Entry>> {
    let entries = stream.read(from..).collect::<Vec<_>>().await;
    entries.into_iter().collect()
}

async fn settle(sim: &Sim) {
    sim.sleep(Duration::from_millis(300)).await;
}

fn segments(sim: &Sim) -> usize {
    let names = sim.list_dir(DIR).unwrap();
    names.iter().filter(|name| name.to_str().unwrap().ends_with(".wal")).count()
}

/// A stream as a list of payloads.
#[derive(Clone, Debug, Default, PartialEq)]
struct Listed {
    records: Vec<Bytes>,
    released: u64,
}

type Model = BTreeMap<&'static str, Listed>;

/// What the application knows: what is there, and what will be after the step that was begun.
#[derive(Debug, Default)]
struct Known {
    done: Model,
    doing: Option<Model>,
    /// After a close, what was released stays released.
    closed: bool,
}

type Shared = Rc<RefCell<Known>>;

/// What was found is what there was before the step that was begun, or behind it; of the releases, some may be forgotten.
async fn found(streams: &Streams, known: &Shared) {
    let mut seen = Model::new();
    for info in streams.list() {
        let stream = streams.get(&info.name).unwrap();
        let name = NAMES.into_iter().find(|name| **name == *info.name).expect("a name of ours");
        let entries = read(&stream, info.first_index).await.unwrap();
        let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, (info.first_index..=info.last_index).collect::<Vec<u64>>(), "{name}");
        let records = entries.into_iter().map(|entry| entry.data).collect();
        seen.insert(name, Listed { records, released: info.first_index - 1 });
    }
    let mut known = known.borrow_mut();
    let is = |model: &&Model| {
        model.keys().eq(seen.keys())
            && model.iter().all(|(name, listed)| {
                let seen = &seen[name];
                let exactly = seen.released == listed.released;
                seen.released <= listed.released
                    && (!known.closed || exactly)
                    && seen.released as usize + seen.records.len() == listed.records.len()
                    && seen.records[..] == listed.records[seen.released as usize..]
            })
    };
    let model = [Some(&known.done), known.doing.as_ref()].into_iter().flatten().find(is);
    let counts = |model: &Model| {
        let count = |l: &Listed| (l.released, l.records.len());
        model.iter().map(|(name, l)| (*name, count(l))).collect::<Vec<_>>()
    };
    let (was, will) = (counts(&known.done), known.doing.as_ref().map(&counts));
    let mut model = model
        .unwrap_or_else(|| panic!("{:?}, and there was {was:?} or {will:?}", counts(&seen)))
        .clone();
    for (name, listed) in &mut model {
        listed.released = seen[name].released;
    }
    *known = Known { done: model, doing: None, closed: false };
}

/// Somebody who follows a stream, and what he should see next.
struct Follower {
    name: &'static str,
    tail: StreamTail,
    next: u64,
}

impl Follower {
    /// Sees what is there. `false` when he is told that he sees no more.
    async fn look(&mut self, sim: &Sim, model: &Model, count: usize) -> bool {
        for _ in 0..count {
            let patience = sim.sleep(Duration::from_millis(50));
            let next = match select(pin!(self.tail.next()), pin!(patience)).await {
                Either::Left((next, _)) => next.expect("the log is open"),
                Either::Right(_) => {
                    assert_eq!(self.next, model[self.name].records.len() as u64 + 1);
                    return true;
                }
            };
            match next {
                Ok(entry) => {
                    let record = &model[self.name].records[entry.index as usize - 1];
                    assert_eq!((entry.index, &entry.data), (self.next, record));
                    self.next += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Released, "{error}");
                    let released = model[self.name].released;
                    assert!(self.next <= released, "{error}");
                    assert_eq!(error.first_index(), Some(released + 1));
                    return false;
                }
            }
        }
        true
    }
}

async fn life(sim: Sim, options: Options, known: Shared, steps: Vec<(u8, usize, u64)>) -> bool {
    let streams = open(&sim, options).await;
    found(&streams, &known).await;
    let mut follower: Option<Follower> = None;
    let mut reading: Option<(StreamEntries, Vec<Bytes>)> = None;
    for (kind, which, salt) in steps {
        let mut rng = fastrand::Rng::with_seed(salt);
        let name = NAMES[which];
        let mut model = known.borrow().done.clone();
        let stream = streams.get(name);
        assert_eq!(stream.is_some(), model.contains_key(name));
        let payloads = |rng: &mut fastrand::Rng| -> Vec<Bytes> {
            let count = if rng.bool() { 1 } else { rng.usize(2..9) };
            (0..count).map(|_| payload(rng.u64(..), rng.usize(..3000))).collect()
        };
        let begin = |model: &Model| known.borrow_mut().doing = Some(model.clone());
        match (kind, stream) {
            (0..=4, Some(stream)) => {
                let records = payloads(&mut rng);
                let listed = model.get_mut(name).unwrap();
                let first = listed.records.len() as u64 + 1;
                listed.records.extend(records.iter().cloned());
                begin(&model);
                let count = records.len() as u64;
                let indexes = stream.append_batch(records).await.unwrap();
                assert_eq!(indexes, first..first + count);
            }
            (0..=4, None) => {
                model.insert(name, Listed::default());
                begin(&model);
                assert_eq!(streams.stream(name).await.unwrap().last_index().unwrap(), 0);
            }
            (5, _) => {
                let all: Vec<NamedStream> = NAMES.iter().filter_map(|n| streams.get(n)).collect();
                let records: Vec<Bytes> = all.iter().flat_map(|_| payloads(&mut rng)).collect();
                let batch: Vec<_> = all.iter().cycle().zip(records.iter().cloned()).collect();
                let mut wanted = Vec::new();
                for (stream, record) in &batch {
                    let name = NAMES.into_iter().find(|name| *name == stream.name()).unwrap();
                    let listed = model.get_mut(name).unwrap();
                    listed.records.push(record.clone());
                    wanted.push(listed.records.len() as u64);
                }
                begin(&model);
                assert_eq!(streams.append_batch(batch).await.unwrap(), wanted);
            }
            (6..=8, Some(stream)) => {
                let listed = model.get_mut(name).unwrap();
                let last = listed.records.len() as u64;
                let index = match rng.u8(..3) {
                    0 => rng.u64(listed.released.saturating_sub(2)..=last + 1),
                    _ => last - rng.u64(..3).min(last - listed.released),
                };
                let refused = match index {
                    _ if index < listed.released => Some(ErrorKind::Released),
                    _ if index > last => Some(ErrorKind::OutOfRange),
                    _ => None,
                };
                if refused.is_none() {
                    listed.released = index;
                    begin(&model);
                }
                let outcome = stream.release(index).await;
                assert_eq!(outcome.err().map(|error| error.kind()), refused, "{index}");
            }
            (9, Some(_)) if rng.bool() => {
                model.remove(name);
                begin(&model);
                streams.remove(name).await.unwrap();
                // What lies ready still comes.
                if let Some(mut followed) = follower.take_if(|follower| follower.name == name) {
                    let error = loop {
                        match followed.tail.next().await.unwrap() {
                            Ok(entry) => assert!(entry.index >= followed.next),
                            Err(error) => break error,
                        }
                    };
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                }
            }
            (10, Some(stream)) => {
                let listed = &model[name];
                let next = rng.u64(listed.released + 1..=listed.records.len() as u64 + 1);
                follower = Some(Follower { name, tail: stream.tail(next), next });
            }
            (11, Some(stream)) => {
                let listed = &model[name];
                let from = rng.u64(listed.released + 1..=listed.records.len() as u64 + 1);
                let wanted = listed.records[from as usize - 1..].to_vec();
                reading = Some((stream.read(from..), wanted));
            }
            (12, _) => settle(&sim).await,
            (13, _) => {
                streams.close().await.unwrap();
                known.borrow_mut().closed = true;
                return true;
            }
            _ => {}
        }
        {
            let mut known = known.borrow_mut();
            known.done = known.doing.take().unwrap_or_else(|| known.done.clone());
        }
        let model = known.borrow().done.clone();
        look(&streams, &model, &mut rng).await;
        if let Some(f) = &mut follower
            && !f.look(&sim, &model, rng.usize(..20)).await
        {
            follower = None;
        }
        // A range that is being read stays, whatever is released meanwhile; but not if its stream is removed.
        if rng.u8(..3) == 0
            && let Some((entries, wanted)) = reading.take()
        {
            let found = entries.map(|entry| entry.map(|e| e.data)).collect::<Vec<_>>().await;
            match found.into_iter().collect::<Result<Vec<Bytes>>>() {
                Ok(found) => assert!(found == wanted),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
    }
    false
}

async fn look(streams: &Streams, model: &Model, rng: &mut fastrand::Rng) {
    for (name, Listed { records, released }) in model {
        let stream = streams.get(name).unwrap();
        let last = records.len() as u64;
        assert_eq!(stream.first_index().unwrap(), released + 1);
        assert_eq!(stream.last_index().unwrap(), last);
        let index = rng.u64(..last + 3);
        match stream.get(index).await {
            Ok(entry) => {
                assert!(index > *released);
                assert_eq!((entry.index, &entry.data), (index, &records[index as usize - 1]));
            }
            Err(error) if index <= *released => assert_eq!(error.kind(), ErrorKind::Released),
            Err(error) => {
                assert!(index > last, "{error}");
                assert_eq!(error.kind(), ErrorKind::OutOfRange);
            }
        }
    }
    let (name, listed) = match model.iter().nth(rng.usize(..model.len().max(1))) {
        Some(one) => one,
        None => return,
    };
    let from = rng.u64(listed.released + 1..=listed.records.len() as u64 + 1);
    let entries = read(&streams.get(name).unwrap(), from).await.unwrap();
    assert!(entries.iter().map(|e| &e.data).eq(&listed.records[from as usize - 1..]), "{name}");
}

type Life = (u8, u64, Vec<(u8, usize, u64)>);

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn streams_are_lists_whatever_happens(
        mode in 0..4_usize,
        seed in any::<u64>(),
        lives in prop::collection::vec(
            (0..8_u8, any::<u64>(), prop::collection::vec((0..14_u8, 0..4_usize, any::<u64>()), 1..60)),
            1..6,
        ),
    ) {
        let lives: Vec<Life> = lives;
        let options = &modes()[mode];
        let sim = machine(seed);
        let known = Shared::default();
        for (end, operations, steps) in lives {
            let at = if end % 3 == 0 { u64::MAX } else { sim.operations() + 1 + operations % 400 };
            let life = life(sim.clone(), options.clone(), known.clone(), steps);
            let closed = sim.block_on_until(at, life);
            match end {
                _ if closed == Some(true) => {}
                0..4 => sim.kill(),
                _ => drop(sim.power_loss(Crash::Random)),
            }
        }
        sim.block_on(life(sim.clone(), options.clone(), known, Vec::new()));
    }
}

/// What an application does with two streams, each step when the one before is done, so that segments come and go.
async fn two_streams(sim: Sim, options: Options, known: Shared) {
    let streams = open(&sim, options).await;
    found(&streams, &known).await;
    for (at, name) in (0..24_u64).zip(NAMES[..2].iter().copied().cycle()) {
        let mut model = known.borrow().done.clone();
        let listed = model.entry(name).or_default();
        let records: Vec<Bytes> = (0..4).map(|n| payload(at * 10 + n, 700)).collect();
        if at > 1 {
            listed.records.extend(records.iter().cloned());
        }
        known.borrow_mut().doing = Some(model.clone());
        let stream = streams.stream(name).await.unwrap();
        if at > 1 {
            stream.append_batch(records).await.unwrap();
        }
        known.borrow_mut().done = model.clone();
        let listed = model.get_mut(name).unwrap();
        let released = (listed.records.len() as u64).saturating_sub(3);
        listed.released = released;
        known.borrow_mut().doing = Some(model.clone());
        stream.release(released).await.unwrap();
        known.borrow_mut().done = model;
    }
    streams.close().await.unwrap();
    known.borrow_mut().closed = true;
}

/// What was appended is there after a crash at any operation, under its index, and what was removed with the segments is
/// missed by nobody.
#[test]
fn crash_at_every_operation() {
    for options in [&modes()[0], &modes()[2]] {
        let sim = machine(0);
        sim.block_on(two_streams(sim.clone(), options.clone(), Shared::default()));
        assert!(segments(&sim) < 4, "segments have gone");
        for at in 1..=sim.operations() {
            for crash in [Some(Crash::LoseUnsynced), Some(Crash::Random), None] {
                let sim = machine(at);
                let known = Shared::default();
                let run = two_streams(sim.clone(), options.clone(), known.clone());
                let _ = sim.block_on_until(at, run);
                match crash {
                    Some(crash) => drop(sim.power_loss(crash)),
                    None => sim.kill(),
                }
                sim.block_on(async {
                    let streams = open(&sim, options.clone()).await;
                    found(&streams, &known).await;
                    let stream = streams.stream("alpha").await.unwrap();
                    let next = stream.last_index().unwrap() + 1;
                    assert_eq!(stream.append("more").await.unwrap(), next);
                    streams.close().await.unwrap();
                });
            }
        }
    }
}

/// Indexes are those of the order in the log, also when many append at once.
#[test]
fn many_append_at_the_same_time() {
    let sim = machine(3);
    sim.block_on(async {
        let streams = open(&sim, options().segment_bytes(64 << 10)).await;
        let mut all = Vec::new();
        for name in NAMES {
            all.push(streams.stream(name).await.unwrap());
        }
        let append = |n: u64| {
            let stream = all[n as usize % 4].clone();
            async move { (stream.append(n.to_string()).await.unwrap(), n) }
        };
        let appended = join_all((0..200).map(append)).await;
        for (at, stream) in all.iter().enumerate() {
            let entries = read(stream, 1).await.unwrap();
            assert_eq!(entries.len(), 50);
            for (index, n) in appended.iter().filter(|(_, n)| n % 4 == at as u64) {
                assert_eq!(entries[*index as usize - 1].data, n.to_string());
            }
        }
        streams.close().await.unwrap();
    });
}

/// One that is rarely written keeps the segments behind its oldest record, and it is said which.
#[test]
fn the_oldest_keeps_the_log() {
    let sim = machine(4);
    sim.block_on(async {
        let streams = open(&sim, options()).await;
        let rare = streams.stream("rare").await.unwrap();
        let busy = streams.stream("busy").await.unwrap();
        assert_eq!(streams.oldest(), None);
        rare.append("kept").await.unwrap();
        for _ in 0..60 {
            let index = busy.append(vec![1; 2000]).await.unwrap();
            busy.release(index).await.unwrap();
        }
        settle(&sim).await;
        assert!(segments(&sim) > 5);
        let oldest = streams.oldest().unwrap();
        assert_eq!((&*oldest.name, oldest.first_index, oldest.last_index), ("rare", 1, 1));
        assert_eq!(rare.get(1).await.unwrap().data, "kept");
        rare.release(1).await.unwrap();
        settle(&sim).await;
        assert!(segments(&sim) < 4, "{}", segments(&sim));
        streams.close().await.unwrap();
        let streams = open(&sim, options()).await;
        let rare = streams.get("rare").unwrap();
        assert_eq!((rare.first_index().unwrap(), rare.last_index().unwrap()), (2, 1));
        assert_eq!(rare.append("next").await.unwrap(), 2);
        streams.close().await.unwrap();
    });
}

/// What a range wants stays in the log until it was read, however far its records lie apart.
#[test]
fn a_range_that_is_read_stays() {
    let sim = machine(11);
    sim.block_on(async {
        let streams = open(&sim, options()).await;
        let rare = streams.stream("rare").await.unwrap();
        let busy = streams.stream("busy").await.unwrap();
        for n in 0..20 {
            rare.append(vec![n; 100]).await.unwrap();
            busy.append_batch((0..40).map(|_| vec![1; 100])).await.unwrap();
        }
        let entries = rare.read(3..=12);
        rare.release(20).await.unwrap();
        busy.release(800).await.unwrap();
        settle(&sim).await;
        let kept = segments(&sim);
        assert!(kept > 4, "{kept}");
        let records: Vec<_> = entries.map(|entry| entry.unwrap().data[0]).collect().await;
        assert_eq!(records, (2..12).collect::<Vec<u8>>());
        settle(&sim).await;
        assert!(segments(&sim) < kept / 2, "{} of {kept}", segments(&sim));
        // Longer than is looked up at once; and of a stream that goes.
        let all = async |stream: &NamedStream| {
            stream.append_batch((0..1500u64).map(|n| n.to_string())).await
        };
        let (kept, gone) =
            (streams.stream("kept").await.unwrap(), streams.stream("gone").await.unwrap());
        all(&kept).await.unwrap();
        all(&gone).await.unwrap();
        let read = [kept.read(..), gone.read(..)];
        kept.release(1500).await.unwrap();
        streams.remove("gone").await.unwrap();
        for n in 0..60 {
            let index = busy.append(vec![n; 2000]).await.unwrap();
            busy.release(index).await.unwrap();
        }
        settle(&sim).await;
        for entries in read {
            let records: Vec<_> = entries.map(|entry| entry.unwrap().data).collect().await;
            assert!(records.iter().enumerate().all(|(n, record)| *record == n.to_string()));
            assert_eq!(records.len(), 1500);
        }
        let error = rare.read(3..).next().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.first_index()), (ErrorKind::Released, Some(21)));
        streams.close().await.unwrap();
    });
}

/// In a log of fixed size appends wait for releases, and those never for appends: small records and large ones, many at a
/// time and one after another, in whole blocks or packed, with few streams or as many as there may be.
#[test]
fn a_log_of_fixed_size_goes_round() {
    let blocks = options().packing(Packing::Block);
    let direct = options().sync_method(SyncMethod::Dsync);
    let cases = [
        (options().queue_records_max(2), 4, 700, 4),
        (options(), 200, 300, 4),
        (blocks, 1, 100, 1),
        (direct.clone(), 1, 100, 1),
        (direct, 60, 900, 50),
    ];
    for (at, (options, tasks, bytes, count)) in cases.into_iter().enumerate() {
        let sim = machine(at as u64);
        let size = 4 * ((16 << 10) + (8 << 10));
        let small = options.log_bytes_max(size);
        let each = 2400 / tasks;
        sim.block_on(async {
            let streams = open(&sim, small.clone()).await;
            let names: Vec<String> = (0..count).map(|n| format!("stream {n}")).collect();
            for name in &names {
                streams.stream(name).await.unwrap();
            }
            let worker = |task: usize| {
                let stream = streams.get(&names[task % count]).unwrap();
                async move {
                    for n in 0..each {
                        let index = stream.append(vec![n as u8; bytes]).await.unwrap();
                        match stream.release(index).await {
                            Err(error) if error.kind() == ErrorKind::Released => {}
                            outcome => outcome.unwrap(),
                        }
                    }
                }
            };
            join_all((0..tasks).map(worker)).await;
            assert!(segments(&sim) <= 4);
            streams.close().await.unwrap();
            let streams = open(&sim, small).await;
            let appended: u64 = streams.list().iter().map(|info| info.last_index).sum();
            assert_eq!(appended as usize, each * tasks, "case {at}");
            streams.close().await.unwrap();
        });
    }
}

/// Streams that come and go, and nothing else, fill no log.
#[test]
fn streams_that_come_and_go_leave_nothing() {
    let sim = machine(14);
    sim.block_on(async {
        let size = 4 * ((16 << 10) + (8 << 10));
        let streams = open(&sim, options().packing(Packing::Block).log_bytes_max(size)).await;
        for n in 0..100 {
            let name = format!("stream {n}");
            let stream = streams.stream(&name).await.unwrap();
            stream.append("a record").await.unwrap();
            streams.remove(&name).await.unwrap();
        }
        assert!(streams.list().is_empty());
        streams.close().await.unwrap();
    });
}

/// Where nobody releases, a log of fixed size is full, and goes on when somebody does: also after a crash.
#[test]
fn a_full_log_goes_on_when_something_is_released() {
    let sim = machine(15);
    let size = 4 * ((16 << 10) + (8 << 10));
    let full = options().log_bytes_max(size).when_full(crate::WhenFull::Fail);
    let fill = async |streams: &Streams| {
        let stream = streams.stream("one").await.unwrap();
        loop {
            if let Err(error) = stream.append(vec![1; 1000]).await {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                return stream;
            }
        }
    };
    let streams = sim.block_on(async {
        let streams = open(&sim, full.clone()).await;
        let stream = fill(&streams).await;
        let last = stream.last_index().unwrap();
        assert!(last > 40, "{last}");
        stream.release(last - 5).await.unwrap();
        settle(&sim).await;
        let stream = fill(&streams).await;
        assert!(stream.last_index().unwrap() > last + 10);
        streams
    });
    sim.kill();
    drop(streams);
    sim.block_on(async {
        let streams = open(&sim, full).await;
        let stream = fill(&streams).await;
        let last = stream.last_index().unwrap();
        stream.release(last).await.unwrap();
        settle(&sim).await;
        assert_eq!(stream.append("goes on").await.unwrap(), last + 1);
        streams.close().await.unwrap();
    });
}

/// A full disk takes no index away: the next record that fits gets the next one.
#[test]
fn a_full_disk_leaves_no_holes() {
    let sim = machine(6);
    sim.block_on(async {
        let streams = open(&sim, options()).await;
        let (one, other) =
            (streams.stream("one").await.unwrap(), streams.stream("other").await.unwrap());
        sim.set_free_bytes(Some(0));
        let mut last = 0;
        let error = loop {
            // What is larger may fail where what is smaller still fits.
            let (large, small) = join(one.append(vec![1; 3000]), other.append(vec![2; 30])).await;
            if let Err(error) = large {
                last = small.unwrap_or(last);
                break error;
            }
            last = small.unwrap();
        };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        let before = one.last_index().unwrap();
        sim.set_free_bytes(None);
        assert_eq!(one.append("fits").await.unwrap(), before + 1);
        assert_eq!(other.append("fits").await.unwrap(), last + 1);
        streams.close().await.unwrap();
        let streams = open(&sim, options()).await;
        let entries = read(&streams.get("one").unwrap(), 1).await.unwrap();
        assert_eq!(
            entries.last().map(|entry| (entry.index, &entry.data[..])),
            Some((before + 1, &b"fits"[..]))
        );
        streams.close().await.unwrap();
    });
}

#[test]
fn followers_see_the_end() {
    let sim = machine(7);
    sim.block_on(async {
        let streams = open(&sim, options()).await;
        let stream = streams.stream("followed").await.unwrap();
        let mut removed = stream.tail(1);
        streams.remove("followed").await.unwrap();
        assert_eq!(removed.next().await.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
        assert!(removed.next().await.is_none());
        for error in [
            stream.append("no").await.unwrap_err(),
            stream.get(1).await.unwrap_err(),
            stream.release(0).await.unwrap_err(),
            stream.first_index().unwrap_err(),
            streams.remove("followed").await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }

        let stream = streams.stream("followed").await.unwrap();
        assert_eq!(stream.append("first").await.unwrap(), 1, "another of the same name");
        let (mut tail, mut waiting) = (stream.tail(1), stream.tail(2));
        let waited = waiting.next();
        let closed = async {
            sim.sleep(Duration::from_millis(5)).await;
            streams.close().await.unwrap();
        };
        assert!(join(waited, closed).await.0.is_none());
        assert_eq!(tail.next().await.unwrap().unwrap().data, "first");
        assert!(tail.next().await.is_none());
    });
    sim.block_on(async {
        let streams = open(&sim, options()).await;
        let stream = streams.get("followed").unwrap();
        let mut tail = stream.tail(2);
        sim.fail_next(OpKind::Write, 5);
        assert!(stream.append("fails").await.is_err());
        assert!(tail.next().await.unwrap().unwrap_err().is_poisoned());
    });
}

#[test]
fn written_streams_show_what_is_written() {
    let sim = machine(8);
    sim.block_on(async {
        let options = options().durability(Durability::Written);
        let streams = open(&sim, options).await;
        let stream = streams.stream("quick").await.unwrap();
        let syncs = || sim.trace().iter().filter(|entry| entry.op == OpKind::Sync).count();
        let before = syncs();
        assert_eq!(stream.append("survives the process").await.unwrap(), 1);
        assert_eq!(stream.get(1).await.unwrap().data, "survives the process");
        assert_eq!(syncs(), before);
        streams.sync().await.unwrap();
        assert!(syncs() > before);
        streams.close().await.unwrap();
    });
}

#[test]
fn bad_input_is_refused() {
    let sim = machine(9);
    sim.block_on(async {
        for bad in [
            options().metadata("mine"),
            options().start(Start::LatestSnapshot),
            options().retain_segments(3),
        ] {
            let error = sim.open_streams(DIR, bad).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let (wal, _) = sim.open_or_create("/plain", options()).await.unwrap();
        wal.append("plain").await.unwrap();
        wal.close().await.unwrap();
        let error = sim.open_streams("/plain", options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotALog, "{error}");

        let streams = open(&sim, options().record_bytes_max(1000)).await;
        for name in ["", &"n".repeat(256)] {
            let error = streams.stream(name).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let stream = streams.stream(&"n".repeat(255)).await.unwrap();
        assert_eq!(stream.append(vec![0; 1000]).await.unwrap(), 1);
        let error = stream.append(vec![0; 1001]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        // At once, too: each takes its room when it is begun.
        let names: Vec<String> = (0..100).map(|n| format!("stream {n}")).collect();
        let created = join_all(names.iter().map(|name| streams.stream(name))).await;
        let refused: Vec<Error> = created.into_iter().filter_map(Result::err).collect();
        assert!(refused.iter().all(|error| error.kind() == ErrorKind::TooLarge));
        // A quarter of 16 KiB: 64 and 9 for each, but for the long one.
        assert_eq!(100 - refused.len(), 51);
        streams.remove("stream 3").await.unwrap();
        streams.stream("stream x").await.unwrap();
        assert_eq!(stream.append_batch([""; 0]).await.unwrap(), 2..2);
        for (range, kind) in [
            (0..2, ErrorKind::Released),
            (1..3, ErrorKind::OutOfRange),
            (3..3, ErrorKind::OutOfRange),
        ] {
            let error = stream.read(range).next().await.unwrap().unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        #[allow(clippy::reversed_empty_ranges)]
        let error = stream.read(2..1).next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let (other, _) = sim.open_streams("/other", options()).await.unwrap();
        let error = other.append_batch([(&stream, "x")]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        other.close().await.unwrap();
        streams.close().await.unwrap();

        // Another writes to it only as Streams would.
        let error = sim.open("/other", options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let error = sim.create("/mine", options().metadata(note::STREAMS)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let layer = options().for_layer(note::STREAMS, 0, Arc::new(Index::default()));
        let (wal, _) = sim.open("/other", layer).await.unwrap();
        wal.append("plain").await.unwrap();
        wal.close().await.unwrap();
        let error = sim.open_streams("/other", options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        // There are more streams than such segments know of.
        let large = || options().segment_bytes(64 << 10);
        let (many, _) = sim.open_streams("/many", large()).await.unwrap();
        for n in 0..100 {
            many.stream(&n.to_string()).await.unwrap();
        }
        many.close().await.unwrap();
        let error = sim.open_streams("/many", options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        let (many, _) = sim.open_streams("/many", large()).await.unwrap();
        assert_eq!(many.list().len(), 100);
    });
}

/// Where one of several streams is gone, nothing is appended to the others.
#[test]
fn a_batch_for_a_removed_stream_is_refused_as_a_whole() {
    let sim = machine(12);
    sim.block_on(async {
        let streams = open(&sim, options()).await;
        let (one, gone) =
            (streams.stream("one").await.unwrap(), streams.stream("gone").await.unwrap());
        streams.remove("gone").await.unwrap();
        let error = streams.append_batch([(&one, "a"), (&gone, "b")]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(one.last_index().unwrap(), 0);
        streams.close().await.unwrap();
    });
}

/// Whoever follows a stream keeps no file, whether he has read a little of what there is or waits.
#[test]
fn a_follower_keeps_nothing() {
    let sim = machine(13);
    sim.block_on(async {
        for recent in [0, 8 << 20] {
            let dir = format!("/log-{recent}");
            let options = options().recent_bytes_max(recent);
            let (streams, _) = sim.open_streams(&dir, options).await.unwrap();
            let (one, two) =
                (streams.stream("one").await.unwrap(), streams.stream("two").await.unwrap());
            for n in 0..60 {
                one.append(vec![n; 1000]).await.unwrap();
                two.append_batch(vec![vec![n; 50]; 20]).await.unwrap();
            }
            let mut tails = [one.tail(1), two.tail(1), one.tail(61)];
            for tail in &mut tails[..2] {
                assert_eq!(tail.next().await.unwrap().unwrap().index, 1);
            }
            one.release(60).await.unwrap();
            two.release(1200).await.unwrap();
            settle(&sim).await;
            let names = sim.list_dir(&dir).unwrap();
            let left = names.iter().filter(|name| name.to_str().unwrap().ends_with(".wal"));
            assert!(left.count() < 4);
            streams.close().await.unwrap();
        }
    });
}

/// A backup of a log of streams is one.
#[test]
fn a_backup_opens() {
    let sim = machine(10);
    sim.block_on(async {
        let streams = open(&sim, options()).await;
        let stream = streams.stream("kept").await.unwrap();
        for n in 0..30 {
            stream.append(vec![n; 2000]).await.unwrap();
        }
        stream.release(20).await.unwrap();
        settle(&sim).await;
        streams.backup("/copy").await.unwrap();
        stream.append("not in it").await.unwrap();
        let (copy, _) = sim.open_streams("/copy", options()).await.unwrap();
        let copied = copy.get("kept").unwrap();
        assert_eq!(copied.last_index().unwrap(), 30);
        assert_eq!(copied.get(25).await.unwrap().data, vec![24; 2000]);
        copy.close().await.unwrap();
        streams.close().await.unwrap();
    });
}
