//! Several groups in flight: a write that comes back late, one that fails, and power loss with a hole in the window.

use super::*;
use crate::commit::policy::{GroupDecision, GroupPolicy, GroupView, PolicyMaker};
use futures_util::future::{Either, select};
use std::pin::pin;

/// Each append is a group of its own, which begins at once.
#[derive(Debug)]
struct AtOnce;

impl GroupPolicy for AtOnce {
    fn next(&mut self, _view: &GroupView) -> GroupDecision {
        GroupDecision::Commit
    }
}

pub(super) fn at_once(options: Options) -> Options {
    let policy = PolicyMaker(Arc::new(|| Box::new(AtOnce)));
    Options { group_policy: Some(policy), ..options.group_records_max(1) }
}

/// Past the page cache, so many groups in flight, and all of a test in one segment. With large buffers, a group is
/// written from the one that it was encoded into, else through one after another.
fn windowed(groups: usize, prealloc: Prealloc, buffer: usize) -> Options {
    let options = direct().segment_bytes(256 << 10).group_bytes_max(buffer);
    at_once(options.in_flight_max(groups).prealloc(prealloc))
}

fn windows() -> impl Iterator<Item = (usize, Options)> {
    [
        (3, Prealloc::Fallocate, 4 << 10),
        (4, Prealloc::ZeroFill, 32 << 10),
        (8, Prealloc::Fallocate, 32 << 10),
    ]
    .into_iter()
    .map(|(groups, prealloc, buffer)| (groups, windowed(groups, prealloc, buffer)))
}

const CRASHES: [Crash; 3] = [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Random];

fn one(tag: usize, bytes: usize) -> Call {
    Call::Append(vec![payload(tag as u64, bytes)])
}

fn calls(tags: std::ops::Range<usize>, bytes: usize) -> Vec<Call> {
    tags.map(|tag| one(tag, bytes)).collect()
}

/// A machine whose writes come back in the order in which they were asked for, unless a test says otherwise.
fn steady_machine(seed: u64) -> Sim {
    let sim = machine(seed);
    sim.set_latency_spread(OpKind::Write, Duration::ZERO);
    sim
}

async fn sleep(sim: &Sim, time: Duration) {
    sim.disk(Options::new().disk_config()).sleep(time).await;
}

/// Opens, and waits until the next segment is prepared: no write but those of the test is under way then.
async fn open(sim: &Sim, options: &Options, known: &Shared<Known>) -> Wal {
    let (wal, _) = start_on(sim, options.clone(), How::OpenOrCreate).await.unwrap();
    known.borrow_mut().created = true;
    sleep(sim, Duration::from_millis(50)).await;
    wal
}

/// Appends side by side, for a short time: what is not answered then is still in flight, or waits for what is.
async fn for_a_while(sim: &Sim, wal: &Wal, known: &Shared<Known>, calls: Vec<Call>) {
    let appends = pin!(side_by_side(wal, known, calls));
    let end = pin!(sleep(sim, Duration::from_millis(2)));
    if let Either::Left((outcome, _)) = select(appends, end).await {
        outcome.unwrap();
    }
}

/// Where the writes from here on went.
fn written(sim: &Sim) -> Vec<(u64, Duration)> {
    let offset = |detail: &str| {
        let offset = detail.strip_prefix("offset=").unwrap();
        offset.split(' ').next().unwrap().parse().unwrap()
    };
    let trace = sim.trace();
    let writes = trace.iter().filter(|entry| entry.op == OpKind::Write);
    writes.map(|entry| (offset(&entry.detail), entry.at)).collect()
}

fn segment(seq: u64) -> String {
    format!("{DIR}/{seq:016x}-0000000000000000.wal")
}

/// P1, P2: one write of a full window hangs, those behind it are on the disk, and the power goes. Nothing behind the
/// hole was acked, the log ends there, and what lies behind it on the disk never comes back: not behind new groups, not
/// behind the same bytes again, not after another hole and another crash of any kind.
#[test]
fn hole_in_the_window_ends_the_log() {
    for (groups, options) in windows() {
        for (hole, bytes) in (1..=groups).flat_map(|hole| [(hole, 700), (hole, 6000)]) {
            for (again, seed) in CRASHES.into_iter().zip(1..) {
                let story = format!("{}, hole {hole}, {bytes} bytes", mode(&options));
                let sim = steady_machine(seed);
                let known = Shared::<Known>::default();
                let window = calls(2..groups + 2, bytes);
                sim.block_on(async {
                    let wal = open(&sim, &options, &known).await;
                    call(&wal, &known, one(1, bytes)).await.unwrap();
                    sim.clear_trace();
                    sim.slow_nth_of(OpKind::Write, hole as u64, Duration::from_secs(1));
                    for_a_while(&sim, &wal, &known, window.clone()).await;
                });
                // A large group takes several writes, one after another.
                let mut writes = written(&sim);
                let begun = writes[0].1;
                writes.retain(|(_, at)| *at == begun);
                assert_eq!(writes.len(), groups, "all at once: {story}");
                assert_eq!(known.borrow().acked, hole, "those before the hole: {story}");
                let on_disk = sim.read_file_durable(segment(0)).unwrap();
                for (at, (offset, _)) in writes.iter().enumerate() {
                    let there = on_disk[*offset as usize..][..512].iter().any(|&byte| byte != 0);
                    assert_eq!(there, at + 1 != hole, "write {at} is on the disk: {story}");
                }
                sim.power_loss(Crash::LoseUnsynced);
                check(&sim, options.clone(), &known, &story);
                assert_eq!(known.borrow().calls.len(), hole, "cut at the hole: {story}");

                // The same appends, with a hole one further, and a crash that may write what hung.
                sim.block_on(async {
                    let wal = open(&sim, &options, &known).await;
                    sim.slow_nth_of(OpKind::Write, 2, Duration::from_secs(1));
                    for_a_while(&sim, &wal, &known, window[hole - 1..].to_vec()).await;
                });
                sim.power_loss(again);
                check(&sim, options.clone(), &known, &format!("{story}, then {again:?}"));
                // And a single other one.
                sim.block_on(async {
                    let wal = open(&sim, &options, &known).await;
                    call(&wal, &known, one(99, bytes)).await.unwrap();
                });
                sim.power_loss(again);
                check(&sim, options.clone(), &known, &format!("{story}, then {again:?} twice"));
            }
        }
    }
}

/// The write that hung is torn: some of its sectors are on the disk, and all of what is behind it. Still the log ends
/// there, or behind the whole window if chance wrote all of it.
#[test]
fn torn_write_in_the_window_ends_the_log() {
    let (mut cut, mut whole) = (0, 0);
    for seed in 0..60 {
        let options = windowed(4, Prealloc::ZeroFill, [4 << 10, 32 << 10][seed as usize / 2 % 2]);
        let hole = 1 + seed as usize % 4;
        let sim = steady_machine(seed);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let wal = open(&sim, &options, &known).await;
            sim.slow_nth_of(OpKind::Write, hole as u64, Duration::from_secs(1));
            let bytes = if seed % 3 == 0 { 100 } else { 3000 };
            for_a_while(&sim, &wal, &known, calls(0..4, bytes)).await;
        });
        let crash = if seed % 10 == 9 { Crash::KeepUnsynced } else { Crash::Random };
        assert_eq!(known.borrow().acked, hole - 1);
        sim.power_loss(crash);
        check(&sim, options, &known, &format!("seed {seed}"));
        match known.borrow().calls.len() {
            4 => whole += 1,
            left => {
                assert_eq!(left, hole - 1, "seed {seed}");
                cut += 1;
            }
        }
    }
    assert!(cut > 30 && whole > 3, "{cut} {whole}");
}

fn errno(error: &Error) -> Option<i32> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        source = error.source();
    }
    None
}

/// P3: one write of a full window fails, early or late. Those before it are acked when they come back; the failed one
/// and all behind it are not, though the disk has written them, and get the cause. Nothing is written after it.
#[test]
fn failed_write_in_the_window_acks_what_is_before_it() {
    for (groups, options) in windows() {
        for failed in 1..=groups {
            for (crash, late) in
                CRASHES.into_iter().flat_map(|c| [0, 1, failed, groups].map(|l| (c, l)))
            {
                let story =
                    format!("{}, {failed} fails, {late} is late, {crash:?}", mode(&options));
                let sim = steady_machine(failed as u64);
                let known = Shared::<Known>::default();
                sim.block_on(async {
                    let wal = open(&sim, &options, &known).await;
                    call(&wal, &known, one(1, 700)).await.unwrap();
                    sim.clear_trace();
                    sim.fail_nth_of(OpKind::Write, failed as u64, EIO);
                    if late > 0 {
                        sim.slow_nth_of(OpKind::Write, late as u64, Duration::from_millis(1));
                    }
                    // More than the window holds: the rest waits, and must not be written.
                    let all = calls(2..groups + 5, 700).into_iter().map(|c| call(&wal, &known, c));
                    let outcomes = futures_util::future::join_all(all).await;
                    for (at, outcome) in outcomes.into_iter().enumerate() {
                        match outcome {
                            Ok(()) => assert!(at + 1 < failed, "{at}: {story}"),
                            Err(error) => {
                                assert!(at + 1 >= failed, "{at}: {story}: {error}");
                                assert!(error.is_poisoned(), "{story}: {error}");
                                assert_eq!(errno(&error), Some(EIO), "{story}: {error}");
                            }
                        }
                    }
                    assert_eq!(wal.durable_index(), failed as u64, "{story}");
                    let writes = written(&sim).len();
                    if late == 0 {
                        let seen = groups..groups + failed;
                        assert!(seen.contains(&writes), "{writes} writes, none after: {story}");
                    }
                    assert!(wal.append("later").await.unwrap_err().is_poisoned(), "{story}");
                    assert!(wal.sync().await.unwrap_err().is_poisoned(), "{story}");
                    assert!(wal.try_append("later").unwrap_err().is_poisoned(), "{story}");
                    let read = collect(wal.read(..)).await.unwrap();
                    assert_eq!(read.len(), failed, "reads of durable records go on: {story}");
                    assert!(wal.close().await.unwrap_err().is_poisoned(), "{story}");
                    assert_eq!(written(&sim).len(), writes, "nothing is retried: {story}");
                });
                // The handle is closed, the process lives on and opens the log again.
                if late == 0 {
                    check(&sim, options.clone(), &known, &story);
                }
                sim.power_loss(crash);
                check(&sim, options.clone(), &known, &story);
            }
        }
    }
}

/// P1: writes that come back in any order are answered in the order of the log.
#[test]
fn window_is_answered_in_order() {
    for seed in 0..20 {
        let options = windowed(8, Prealloc::Fallocate, 32 << 10);
        let sim = machine(seed);
        sim.set_latency_spread(OpKind::Write, Duration::from_millis(1));
        let known = Shared::<Known>::default();
        let order = Shared::<Vec<usize>>::default();
        sim.block_on(async {
            let wal = open(&sim, &options, &known).await;
            let noted = |at: usize| {
                let (wal, order) = (wal.clone(), order.clone());
                async move {
                    wal.append(payload(at as u64, 700)).await.unwrap();
                    order.borrow_mut().push(at);
                    assert!(wal.durable_index() > at as u64);
                }
            };
            // Polled one by one, so that the order of answers shows.
            let all: futures_util::stream::FuturesUnordered<_> = (0..40).map(noted).collect();
            futures_util::StreamExt::collect::<Vec<()>>(all).await;
            wal.close().await.unwrap();
        });
        assert_eq!(*order.borrow(), (0..40).collect::<Vec<_>>(), "seed {seed}");
    }
}
