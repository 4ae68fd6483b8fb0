//! A reader beside a writer, as if in another process: both on one simulated disk, in whatever order chance has them.

use super::window::at_once;
use super::*;
use crate::format::MarkKind;
use crate::read::tail::Tail;
use crate::recovery::tests::{Marked, Unmarked, entry};
use futures_util::future::{Either, select};
use std::pin::pin;

/// Longer, in virtual time, than anything takes here.
const NEVER: Duration = Duration::from_secs(300);

/// Every mode; groups of a call each in a full window; and what is only written.
fn ways() -> Vec<Options> {
    let mut ways = modes().to_vec();
    ways.push(at_once(direct().prealloc(Prealloc::ZeroFill).in_flight_max(8)));
    for options in [options(), direct()] {
        let written = options.durability(Durability::Written);
        ways.push(written.sync_interval(Duration::from_millis(3)));
    }
    ways
}

async fn sleep(sim: &Sim, time: Duration) {
    sim.disk(Options::new().disk_config()).sleep(time).await;
}

async fn reader(sim: &Sim) -> Result<Reader> {
    let options = Options::new().recent_bytes_max(8 << 10);
    Ok(Reader::of(start_on(sim, options, How::Read).await?.0))
}

/// The next item, which comes within reason.
async fn next(sim: &Sim, tail: &mut Tail, story: &str) -> Option<Result<Entry>> {
    within(sim, tail.next(), story).await
}

async fn within<T>(sim: &Sim, future: impl Future<Output = T>, story: &str) -> T {
    match select(pin!(future), pin!(sleep(sim, NEVER))).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => panic!("nothing comes: {story}"),
    }
}

/// Nothing comes for so long.
async fn nothing(sim: &Sim, tail: &mut Tail, time: Duration) {
    if let Either::Left((item, _)) = select(pin!(tail.next()), pin!(sleep(sim, time))).await {
        panic!("{item:?} came");
    }
}

/// Of a read, as the trace tells of it.
fn len(detail: &str) -> u64 {
    detail.split("len=").nth(1).unwrap().parse().unwrap()
}

/// What a reader was given, in its order.
type Given = Shared<Vec<Entry>>;

/// Follows the log from its first entry on and notes what comes, up to the entry `last`; checks of each that it is durable
/// by the word of the writer.
async fn follow(sim: &Sim, writer: &Shared<Option<Wal>>, given: &Given, last: u64, story: &str) {
    let reader = reader(sim).await.expect(story);
    let known = reader.last_index();
    let mut tail = reader.tail(1);
    loop {
        let entry = next(sim, &mut tail, story).await.expect(story).expect(story);
        let index = entry.index;
        given.borrow_mut().push(entry);
        // What the opening itself found may be ahead of the writer's word.
        if let Some(wal) = &*writer.borrow() {
            assert!(index <= known.max(wal.durable_index()), "{index} is not durable: {story}");
        }
        if index >= last {
            return;
        }
    }
}

fn is_in_order(given: &Given, story: &str) {
    let given = given.borrow();
    for (at, entry) in given.iter().enumerate() {
        assert_eq!(entry.index, at as u64 + 1, "{story}");
        assert_eq!(entry.data, record(entry.index), "{story}");
    }
}

/// The payload of the entry `index`: of many lengths, some larger than a write buffer.
fn record(index: u64) -> Bytes {
    payload(
        index,
        (index * index * 7919 % 61) as usize * if index.is_multiple_of(13) { 200 } else { 20 },
    )
}

/// Appends until there are `last` entries, in bursts, with pauses in which a reader may look, or the idle mark is written.
async fn write(sim: &Sim, wal: &Wal, last: u64, rng: &mut fastrand::Rng) -> Result<()> {
    while wal.last_index() < last {
        let first = wal.last_index() + 1;
        let upto = (first + rng.u64(0..12)).min(last);
        let appends: Vec<_> = (first..=upto).map(|index| wal.append(record(index))).collect();
        if rng.bool() {
            for outcome in futures_util::future::join_all(appends).await {
                outcome?;
            }
        } else {
            for append in appends {
                append.await?;
            }
        }
        match rng.u32(0..8) {
            0 => sleep(sim, Duration::from_millis(130)).await,
            1..4 => sleep(sim, Duration::from_micros(rng.u64(0..3000))).await,
            _ => {}
        }
    }
    Ok(())
}

/// Rule (a) and (b): exactly what was appended, in its order, only what is durable, never an error.
#[test]
fn tail_sees_what_another_process_appends() {
    const LAST: u64 = 120;
    for options in ways() {
        for seed in 0..6 {
            let story = format!("{}, seed {seed}", mode(&options));
            let sim = machine(seed);
            let (writer, given) = (Shared::<Option<Wal>>::default(), Given::default());
            sim.block_on(async {
                let mut rng = fastrand::Rng::with_seed(seed);
                let (wal, _) = start_on(&sim, options.clone(), How::Create).await.unwrap();
                *writer.borrow_mut() = Some(wal.clone());
                write(&sim, &wal, seed * 7, &mut rng).await.unwrap();
                let write = write(&sim, &wal, LAST, &mut rng);
                let follow = follow(&sim, &writer, &given, LAST, &story);
                let (outcome, ()) = futures_util::future::join(write, follow).await;
                outcome.expect(&story);
                wal.close().await.unwrap();
            });
            is_in_order(&given, &story);
        }
    }
}

/// Rule (a): power is lost at any operation. Everything that was handed out before is there.
#[test]
fn what_was_handed_out_survives_power_loss() {
    const LAST: u64 = 60;
    let mut handed_out = 0;
    for (options, seed) in ways().into_iter().cycle().zip(0..240) {
        let crash = [Crash::LoseUnsynced, Crash::Random][seed as usize % 2];
        let story = format!("{}, seed {seed}, {crash:?}", mode(&options));
        let sim = machine(seed);
        let (writer, given) = (Shared::<Option<Wal>>::default(), Given::default());
        let mut rng = fastrand::Rng::with_seed(seed);
        // The opening shows what it finds, durable or not: here it finds nothing.
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options.clone(), How::Create).await.unwrap();
            *writer.borrow_mut() = Some(wal);
        });
        let at = sim.operations() + rng.u64(20..600);
        let end = sim.block_on_until(at, async {
            let wal = writer.borrow().clone().unwrap();
            let write = async {
                sleep(&sim, Duration::from_millis(5)).await;
                write(&sim, &wal, LAST, &mut rng).await
            };
            let follow = follow(&sim, &writer, &given, LAST, &story);
            futures_util::future::join(write, follow).await.0.unwrap();
        });
        drop(writer.take());
        if end.is_some() {
            continue;
        }
        sim.power_loss(crash);
        let (wal, _) = sim.block_on(start_on(&sim, options, How::Open)).expect(&story);
        let left = sim.block_on(collect(wal.read(..))).expect(&story);
        is_in_order(&given, &story);
        let given = given.borrow();
        assert!(left.len() >= given.len(), "{} of {}: {story}", left.len(), given.len());
        assert_eq!(left[..given.len()], given[..], "{story}");
        handed_out += given.len();
        sim.block_on(wal.close()).expect(&story);
    }
    assert!(handed_out > 1000, "{handed_out}");
}

/// Rule (d): writers fail in the middle of something, their successors cut what is torn and go on, and the reader does not
/// notice.
#[test]
fn tail_goes_on_across_writers() {
    const LAST: u64 = 150;
    let mut deaths = 0;
    for options in ways() {
        for seed in 0..6 {
            let story = format!("{}, seed {seed}", mode(&options));
            let sim = machine(seed);
            sim.set_failures_are_partial(seed % 2 == 0);
            let (writer, given) = (Shared::<Option<Wal>>::default(), Given::default());
            sim.block_on(async {
                let wal = start_on(&sim, options.clone(), How::Create).await.unwrap().0;
                wal.close().await.unwrap();
                let lives = async {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    loop {
                        let (wal, _) =
                            start_on(&sim, options.clone(), How::Open).await.expect(&story);
                        *writer.borrow_mut() = Some(wal.clone());
                        let op = [OpKind::Write, OpKind::Sync][rng.usize(0..2)];
                        sim.fail_nth_of(op, rng.u64(3..40), EIO);
                        let outcome = write(&sim, &wal, LAST, &mut rng).await;
                        // Nobody knows of a failed writer what is durable.
                        *writer.borrow_mut() = None;
                        let _ = wal.close().await;
                        sim.clear_faults();
                        match outcome {
                            Ok(()) => break,
                            Err(_) => deaths += 1,
                        }
                        sleep(&sim, Duration::from_millis(rng.u64(0..300))).await;
                    }
                    // The last may have failed after its last append: what that wrote is proven by who comes then.
                    let wal = start_on(&sim, options.clone(), How::Open).await.expect(&story).0;
                    wal.close().await.expect(&story);
                };
                let follow = follow(&sim, &writer, &given, LAST, &story);
                futures_util::future::join(lives, follow).await;
            });
            is_in_order(&given, &story);
        }
    }
    assert!(deaths > 60, "{deaths}");
}

/// Conflicts come as they come in the process that writes: the new entries behind those that they replace.
#[test]
fn conflicts_come_in_their_order() {
    let sim = machine(1);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, direct(), How::Create).await.unwrap();
        let reader = reader(&sim).await.unwrap();
        let mut tail = reader.tail(1);
        for n in 1..=5 {
            wal.append(payload(n, 50)).await.unwrap();
        }
        for n in 1..=5 {
            assert_eq!(next(&sim, &mut tail, "first").await.unwrap().unwrap().index, n);
        }
        let new =
            |index| Entry { index, term: 2, data: payload(100 + index, 9), ..Entry::default() };
        let state = HardState { term: 2, vote: 1, commit: 2 };
        wal.save(state, vec![new(3), new(4)]).await.unwrap();
        for n in 3..=4 {
            assert_eq!(next(&sim, &mut tail, "second").await.unwrap().unwrap(), new(n));
        }
        assert_eq!(reader.last_index(), 4);
        assert_eq!(reader.get(3).await.unwrap(), new(3));
        assert_eq!(reader.get(5).await.unwrap_err().kind(), ErrorKind::OutOfRange);
        wal.close().await.unwrap();
    });
}

/// Without a tail that waits nothing is read; a tail that waits for nothing reads little.
#[test]
fn looking_costs_nothing_while_nobody_waits() {
    let sim = machine(1);
    sim.block_on(async {
        let options = direct().segment_bytes(4 << 20);
        let (wal, _) = start_on(&sim, options, How::Create).await.unwrap();
        let reader = reader(&sim).await.unwrap();
        wal.append("one").await.unwrap();
        sleep(&sim, Duration::from_secs(1)).await;
        let before = sim.operations();
        sleep(&sim, Duration::from_secs(60)).await;
        assert_eq!((sim.operations() - before, reader.last_index()), (0, 0));

        assert_eq!(within(&sim, reader.refresh(), "a look").await.unwrap(), 1);
        assert_eq!(reader.get(1).await.unwrap().data, "one");
        sleep(&sim, Duration::from_secs(1)).await;
        let after = sim.operations();
        sleep(&sim, Duration::from_secs(60)).await;
        assert_eq!(sim.operations(), after, "it was one look");

        let mut tail = reader.tail(2);
        nothing(&sim, &mut tail, Duration::from_secs(1)).await;
        sim.clear_trace();
        nothing(&sim, &mut tail, Duration::from_secs(60)).await;
        let reads: Vec<u64> = sim
            .trace()
            .iter()
            .filter(|entry| entry.op == OpKind::Read)
            .map(|entry| len(&entry.detail))
            .collect();
        let looks = 60_000 / 50;
        assert!(reads.len() <= 3 * looks, "{} reads", reads.len());
        let bytes: u64 = reads.iter().sum();
        // The rest of the segment is not read to its end, however often it is looked at.
        assert!(bytes <= 3 * 4096 * looks as u64 + (16 << 20), "{bytes} bytes");
        wal.append("two").await.unwrap();
        assert_eq!(next(&sim, &mut tail, "two").await.unwrap().unwrap().data, "two");
        wal.close().await.unwrap();
    });
}

/// A log by hand, of which a test decides what is there when.
struct ByHand {
    sim: Sim,
    log: Marked,
}

fn first() -> String {
    format!("{DIR}/{:016x}-{:016x}.wal", 0, 0)
}

impl ByHand {
    /// `groups` groups of an entry each; each proves those before it.
    fn new(boundary: u64, groups: u64) -> ByHand {
        let sim = machine(1);
        let mut log = Marked::new(boundary);
        for index in 1..=groups {
            log.group(MarkKind::Entries, &[entry(index, &[index as u8; 600])]);
        }
        ByHand { sim, log }
    }

    /// Puts some of it there, with space behind it.
    fn put(&self, bytes: &[u8]) {
        let mut file = bytes.to_vec();
        file.resize(128 << 10, 0);
        self.sim.write_file(first(), file);
    }

    /// The first `groups` groups of entries.
    fn upto(&self, groups: usize) -> &[u8] {
        let end = self.log.groups.get(groups + 1).map_or(self.log.bytes.len(), |&end| end as usize);
        &self.log.bytes[..end]
    }

    async fn gives(&self, tail: &mut Tail, indexes: std::ops::RangeInclusive<u64>) {
        for index in indexes {
            let entry = next(&self.sim, tail, "by hand").await.unwrap().unwrap();
            assert_eq!((entry.index, &entry.data[..]), (index, &[index as u8; 600][..]));
        }
    }

    async fn fails(&self, tail: &mut Tail, kind: ErrorKind) -> Error {
        let error = next(&self.sim, tail, "by hand").await.unwrap().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.next_step().is_some(), "{error}");
        error
    }
}

/// Rule (b): a group that is being written, in any part, is waited for.
#[test]
fn what_is_being_written_is_no_damage() {
    for boundary in [8, 4096] {
        let hand = ByHand::new(boundary, 6);
        let (from, to) = (hand.log.groups[4] as usize, hand.log.groups[5] as usize);
        hand.sim.block_on(async {
            for cut in (from..to).step_by(512) {
                hand.put(hand.upto(3));
                let reader = reader(&hand.sim).await.unwrap();
                let mut tail = reader.tail(4);
                // The front of it is there, then its end and not its front, then those behind it and not the group.
                for hole in [cut..to, from..cut, from..to] {
                    let mut bytes = hand.upto(4).to_vec();
                    bytes[hole].fill(0);
                    hand.put(&bytes);
                    nothing(&hand.sim, &mut tail, Duration::from_secs(2)).await;
                }
                // No mark proves the group before it was written.
                hand.put(hand.upto(4));
                nothing(&hand.sim, &mut tail, Duration::from_secs(2)).await;
                hand.put(hand.upto(5));
                hand.gives(&mut tail, 4..=4).await;
                hand.put(hand.upto(6));
                hand.gives(&mut tail, 5..=5).await;
            }
        });
    }
}

/// A group of which a part was read is seen as soon as it is whole.
#[test]
fn group_is_seen_as_soon_as_it_is_whole() {
    let mut hand = ByHand::new(8, 3);
    let both = [entry(4, &[4; 600]), entry(5, &[5; 600])];
    hand.log.group(MarkKind::Entries, &both);
    hand.log.group(MarkKind::Idle, &[]);
    let end = hand.log.groups[5] as usize;
    hand.sim.block_on(async {
        hand.put(hand.upto(3));
        let reader = reader(&hand.sim).await.unwrap();
        let mut tail = reader.tail(4);
        // The first of its records is whole.
        let mut bytes = hand.upto(4).to_vec();
        bytes[end - 500..].fill(0);
        hand.put(&bytes);
        nothing(&hand.sim, &mut tail, Duration::from_millis(20)).await;
        hand.put(&hand.log.bytes);
        let before = hand.sim.now();
        hand.gives(&mut tail, 4..=5).await;
        assert!(hand.sim.now() - before <= Duration::from_millis(50));
    });
}

/// A segment has its name only when its head is durable.
#[test]
fn segment_without_a_head_is_reported() {
    for third in [false, true] {
        let hand = ByHand::new(8, 4);
        hand.sim.block_on(async {
            hand.put(hand.upto(3));
            let reader = reader(&hand.sim).await.unwrap();
            let mut tail = reader.tail(4);
            nothing(&hand.sim, &mut tail, Duration::from_millis(10)).await;
            hand.sim.write_file(second(4), vec![0; 64 << 10]);
            if third {
                hand.sim.write_file(format!("{DIR}/{:016x}-{:016x}.wal", 2, 4), hand.upto(1));
            }
            let error = hand.fails(&mut tail, ErrorKind::Damaged).await;
            assert_eq!((error.path(), error.offset()), (Some(Path::new(&second(4))), Some(0)));
            let says = if third { "has no records" } else { "its head was durable" };
            assert!(error.to_string().contains(says), "{error}");
        });
    }
}

/// Rule (b): what a later mark proves, or a later segment, and is broken when it is read again, is damage, and is said to be
/// where it is; what was sound before it comes first.
#[test]
fn damage_is_reported() {
    for boundary in [8, 4096] {
        for flip in [20, 200, 400] {
            let hand = ByHand::new(boundary, 6);
            let group = hand.log.groups[4];
            hand.sim.block_on(async {
                hand.put(hand.upto(1));
                let reader = reader(&hand.sim).await.unwrap();
                let mut tail = reader.tail(2);
                let mut bytes = hand.upto(6).to_vec();
                bytes[group as usize + flip] ^= 1;
                hand.put(&bytes);
                hand.gives(&mut tail, 2..=3).await;
                let error = hand.fails(&mut tail, ErrorKind::Damaged).await;
                assert_eq!(error.path(), Some(Path::new(&first())), "{error}");
                let at = error.offset().unwrap();
                assert!((group..group + flip as u64 + 1).contains(&at), "{error}");
                // It stays so, and what was shown stays, too.
                assert!(reader.refresh().await.unwrap_err().is_damaged());
                assert_eq!(reader.get(3).await.unwrap().index, 3);
            });
        }
    }
}

/// A hole that nothing can be written to any more: the group behind it knows it as durable.
#[test]
fn proven_hole_is_reported() {
    let hand = ByHand::new(4096, 6);
    let (from, to) = (hand.log.groups[4], hand.log.groups[5]);
    hand.sim.block_on(async {
        hand.put(hand.upto(3));
        let reader = reader(&hand.sim).await.unwrap();
        let mut tail = reader.tail(3);
        hand.gives(&mut tail, 3..=3).await;
        let mut bytes = hand.upto(6).to_vec();
        bytes[from as usize..to as usize].fill(0);
        hand.put(&bytes);
        let error = hand.fails(&mut tail, ErrorKind::Damaged).await;
        assert_eq!(error.offset(), Some(from), "{error}");
    });
}

/// Rule (b): it was read in the middle of something, and is sound when it is read again.
#[test]
fn what_is_sound_when_it_is_read_again_is_no_damage() {
    let hand = ByHand::new(4096, 6);
    let group = hand.log.groups[4] as usize;
    hand.sim.block_on(async {
        hand.put(hand.upto(3));
        let reader = reader(&hand.sim).await.unwrap();
        let mut tail = reader.tail(4);
        let mut bytes = hand.upto(6).to_vec();
        bytes[group + 200] ^= 1;
        hand.put(&bytes);
        let opened = hand.sim.trace().len();
        let judged = async {
            loop {
                sleep(&hand.sim, Duration::from_millis(1)).await;
                let trace = hand.sim.trace();
                // What lies behind the place is read to the end of the file.
                let mut reads = trace[opened..].iter().filter(|entry| entry.op == OpKind::Read);
                if reads.any(|entry| len(&entry.detail) > 100_000) {
                    return;
                }
            }
        };
        match select(pin!(next(&hand.sim, &mut tail, "entry 4")), pin!(judged)).await {
            Either::Left((item, _)) => panic!("{item:?} came"),
            Either::Right(_) => hand.put(hand.upto(6)),
        }
        hand.gives(&mut tail, 4..=5).await;
    });
}

fn second(index: u64) -> String {
    format!("{DIR}/{:016x}-{index:016x}.wal", 1)
}

/// etcd's logs have no marks: what is sound is shown, across a cut.
#[test]
fn log_without_marks_is_followed() {
    let sim = machine(1);
    let mut log = Unmarked::new();
    sim.write_file(first(), log.bytes.clone());
    sim.block_on(async {
        let reader = reader(&sim).await.unwrap();
        let mut tail = reader.tail(1);
        for index in 1..=20 {
            log.entry(index, &[index as u8; 900]);
            // Half of it first.
            let half = log.bytes.len() - 450;
            sim.write_file(first(), [&log.bytes[..half], &[0; 4096]].concat());
            nothing(&sim, &mut tail, Duration::from_millis(300)).await;
            sim.write_file(first(), [&log.bytes[..], &[0; 4096]].concat());
            assert_eq!(next(&sim, &mut tail, "etcd").await.unwrap().unwrap().index, index);
        }
        let mut next_segment = Unmarked { chain: log.chain, ..Unmarked::default() };
        next_segment.record(4, None);
        next_segment.record(1, None);
        next_segment.entry(21, b"in the next segment");
        log.entry(21, b"replaced");
        sim.write_file(second(21), next_segment.bytes.clone());
        assert_eq!(
            next(&sim, &mut tail, "cut").await.unwrap().unwrap().data,
            "in the next segment"
        );
    });
}

/// Broken in a segment that another follows: it was complete.
#[test]
fn damage_in_a_sealed_segment_is_reported() {
    let sim = machine(1);
    let mut log = Unmarked::new();
    log.entry(1, b"one");
    sim.write_file(first(), log.bytes.clone());
    sim.block_on(async {
        let reader = reader(&sim).await.unwrap();
        let mut tail = reader.tail(2);
        let end = log.bytes.len();
        log.entry(2, &[2; 900]);
        let mut bytes = log.bytes.clone();
        bytes[end + 500] ^= 1;
        sim.write_file(first(), bytes);
        nothing(&sim, &mut tail, Duration::from_secs(3)).await;
        let mut next_segment = Unmarked { chain: log.chain, ..Unmarked::default() };
        next_segment.record(4, None);
        sim.write_file(second(3), next_segment.bytes.clone());
        let error = next(&sim, &mut tail, "sealed").await.unwrap().unwrap_err();
        assert!(error.is_damaged() && error.offset() == Some(end as u64), "{error}");
        assert!(error.to_string().contains("a later segment was started"), "{error}");
    });
}

/// One that is there without the one before it is none that a writer makes.
#[test]
fn missing_segment_is_reported() {
    let hand = ByHand::new(8, 4);
    hand.sim.block_on(async {
        hand.put(hand.upto(3));
        let reader = reader(&hand.sim).await.unwrap();
        let mut tail = reader.tail(4);
        hand.sim.write_file(format!("{DIR}/{:016x}-{:016x}.wal", 2, 9), hand.upto(1));
        let error = hand.fails(&mut tail, ErrorKind::Damaged).await;
        assert!(error.to_string().contains("segment 1 is missing"), "{error}");
    });
}

/// Rule (c): what happens to the files under the reader.
#[test]
fn files_that_go_or_change_are_reported() {
    /// What becomes of the file that is followed; whether its name goes, and what comes there then.
    type Change = fn(&ByHand) -> (bool, Option<usize>);
    let changes: [(&str, ErrorKind, Change); 6] = [
        ("another log in its place", ErrorKind::Replaced, |hand| {
            let mut other = Marked::new(8);
            for index in 1..=9 {
                other.group(MarkKind::Entries, &[entry(index, &[99; 300])]);
            }
            hand.put(&other.bytes);
            (false, None)
        }),
        ("cut below what was shown", ErrorKind::Replaced, |hand| {
            hand.put(hand.upto(2));
            (false, None)
        }),
        ("shorter", ErrorKind::Replaced, |hand| {
            hand.sim.write_file(first(), hand.upto(1));
            (false, None)
        }),
        ("removed", ErrorKind::Replaced, |_| (true, None)),
        ("a copy in its place", ErrorKind::Replaced, |_| (true, Some(3))),
        ("released", ErrorKind::Released, |hand| {
            hand.sim.write_file(format!("{DIR}/{:016x}-{:016x}.wal", 7, 900), hand.upto(2));
            (true, None)
        }),
    ];
    for (what, kind, change) in changes {
        for (boundary, followed) in [(8, false), (8, true), (4096, false), (4096, true)] {
            // A copy is as good as the file if it was not open yet.
            if what == "a copy in its place" && !followed {
                continue;
            }
            let hand = ByHand::new(boundary, 6);
            hand.sim.block_on(async {
                hand.put(hand.upto(3));
                let reader = reader(&hand.sim).await.unwrap();
                let mut tail = reader.tail(4);
                let mut shown = 3;
                if followed {
                    hand.put(hand.upto(5));
                    hand.gives(&mut tail, 4..=4).await;
                    nothing(&hand.sim, &mut tail, Duration::from_millis(300)).await;
                    shown = 4;
                }
                let (goes, comes) = change(&hand);
                if goes {
                    let disk = hand.sim.disk(Options::new().disk_config());
                    disk.remove_file(Path::new(&first())).await.unwrap();
                }
                if let Some(groups) = comes {
                    hand.put(hand.upto(groups));
                }
                let error = hand.fails(&mut tail, kind).await;
                assert!(error.next_step().unwrap().contains("open"), "{what}: {error}");
                assert_eq!(reader.last_index(), shown, "{what}");
            });
        }
    }
}

/// Rule (d): what was sound, and not proven, and not shown, may be others after a writer that did not find it on the disk.
#[test]
fn what_was_not_shown_may_change() {
    let hand = ByHand::new(8, 6);
    let mut other = Marked::new(8);
    for index in 1..=9 {
        let byte = if index < 5 { index } else { 100 + index };
        other.group(MarkKind::Entries, &[entry(index, &[byte as u8; 600])]);
    }
    hand.sim.block_on(async {
        hand.put(hand.upto(3));
        let reader = reader(&hand.sim).await.unwrap();
        let mut tail = reader.tail(4);
        // The fifth is walked over and waits for its proof.
        hand.put(hand.upto(5));
        hand.gives(&mut tail, 4..=4).await;
        nothing(&hand.sim, &mut tail, Duration::from_millis(30)).await;
        hand.put(&other.bytes);
        for index in 5..=8 {
            let entry = next(&hand.sim, &mut tail, "others").await.unwrap().unwrap();
            assert_eq!((entry.index, entry.data[0]), (index, 100 + index as u8));
        }
    });
}

/// The same, when what comes instead is shorter: nothing lies where the reader had come to.
#[test]
fn what_was_not_shown_may_get_shorter() {
    let hand = ByHand::new(8, 5);
    let mut other = Marked::new(8);
    for index in 1..=6 {
        let bytes = if index < 5 { 600 } else { 20 };
        other.group(MarkKind::Entries, &[entry(index, &vec![index as u8; bytes])]);
    }
    assert!(other.bytes.len() < hand.log.bytes.len());
    hand.sim.block_on(async {
        hand.put(hand.upto(3));
        let reader = reader(&hand.sim).await.unwrap();
        let mut tail = reader.tail(4);
        hand.put(hand.upto(5));
        hand.gives(&mut tail, 4..=4).await;
        nothing(&hand.sim, &mut tail, Duration::from_millis(30)).await;
        hand.put(&other.bytes);
        let entry = next(&hand.sim, &mut tail, "shorter").await.unwrap().unwrap();
        assert_eq!((entry.index, entry.data.len()), (5, 20));
    });
}

/// A tail that falls behind reads from the files; a sealed segment that is gone then was released.
#[test]
fn released_segment_is_reported_to_who_falls_behind() {
    let sim = machine(1);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::Create).await.unwrap();
        let reader = reader(&sim).await.unwrap();
        let mut tail = reader.tail(1);
        for index in 1..=100 {
            wal.append(payload(index, 900)).await.unwrap();
        }
        wal.close().await.unwrap();
        assert_eq!(within(&sim, reader.refresh(), "a look").await.unwrap(), 100);
        let disk = sim.disk(Options::new().disk_config());
        disk.remove_file(Path::new(&first())).await.unwrap();
        let error = next(&sim, &mut tail, "released").await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Released, "{error}");
        // Who needs only what is there goes on.
        assert_eq!(reader.get(100).await.unwrap().index, 100);
    });
}

/// A look at a log of many segments takes no more memory than a piece, and reads each byte a few times at most.
#[test]
fn catching_up_reads_each_byte_a_few_times() {
    let sim = machine(1);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, direct().segment_bytes(4 << 20), How::Create).await.unwrap();
        let reader = reader(&sim).await.unwrap();
        let mut bytes = 0;
        for index in 1..=300 {
            let data = payload(index, 30_000);
            bytes += data.len() as u64;
            wal.append(data).await.unwrap();
        }
        wal.close().await.unwrap();
        sim.clear_trace();
        assert_eq!(within(&sim, reader.refresh(), "a look").await.unwrap(), 300);
        let reads: Vec<u64> = sim
            .trace()
            .iter()
            .filter(|entry| entry.op == OpKind::Read)
            .map(|entry| len(&entry.detail))
            .collect();
        assert!(reads.iter().all(|&len| len <= (1 << 20) + 8192), "{reads:?}");
        let read: u64 = reads.iter().sum();
        assert!(read <= 2 * bytes, "{read} of {bytes}");
        assert!(reads.len() <= 60, "{} reads of {bytes} bytes", reads.len());
    });
}

/// A refresh shows all that was there when it was asked for, also where that takes more steps than others wait for; and it
/// ends while a writer goes on and on.
#[test]
fn a_refresh_comes_to_the_end() {
    let sim = machine(5);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::Create).await.unwrap();
        wal.append(payload(0, 100)).await.unwrap();
        let reader = reader(&sim).await.unwrap();
        for n in 1..=200 {
            wal.append(payload(n, 8000)).await.unwrap();
        }
        sleep(&sim, Duration::from_millis(200)).await;
        assert!(wal.stats().cuts > 64, "more segments than steps");
        within(&sim, reader.refresh(), "a long way").await.unwrap();
        assert_eq!(reader.last_index(), 201);

        // Whenever the reader has read, there is more.
        sim.set_latency(OpKind::Read, Duration::from_millis(1));
        sim.set_latency(OpKind::Sync, Duration::from_micros(100));
        let busy = async {
            for n in 1..=3000 {
                wal.append(payload(n, 100)).await.unwrap();
            }
        };
        let refreshes = async {
            for _ in 0..3 {
                reader.refresh().await.unwrap();
            }
            wal.durable_index()
        };
        let ((), seen) = futures_util::future::join(busy, refreshes).await;
        assert!(seen < 3201, "it waited until the writer had nothing more to write");
        wal.close().await.unwrap();
    });
}
