//! The whole engine on the simulated disk: crashes, faults, and what must still be true after them.
//!
//! Each test here goes red when the line that keeps its promise is taken out; `docs/testing.md` says which is which.

mod backup;
mod dying;
mod follow;
mod levels;
mod proven;
mod reads;
mod release;
mod released;
mod shared;
mod tails;
mod verify;
mod window;
mod zeros;

use super::*;
use crate::io::Disk;
use crate::io::sim::{Crash, OpKind, Sim};
use crate::read::entries::Entries;
use crate::segment::dir;
use crate::segment::method::{Packing, Prealloc};
use crate::types::Start;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

#[path = "image_tests.rs"]
mod images;

const DIR: &str = "/data/log";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Through the page cache, packed: the way of etcd.
fn options() -> Options {
    // Small, so that a short run has several cuts; a group takes more than one buffer now and then.
    Options::new()
        .segment_bytes(16 << 10)
        .group_bytes_max(4 << 10)
        .sync_method(SyncMethod::Fdatasync)
        .prealloc(Prealloc::Fallocate)
}

/// Past the page cache, several groups in flight.
fn direct() -> Options {
    options().sync_method(SyncMethod::Dsync).segment_bytes(48 << 10)
}

fn modes() -> [Options; 5] {
    [
        options(),
        options().packing(Packing::Block).prealloc(Prealloc::ZeroFill).segment_bytes(32 << 10),
        direct(),
        // A group fits into one buffer.
        direct().prealloc(Prealloc::ZeroFill).segment_bytes(32 << 10).group_bytes_max(16 << 10),
        direct().in_flight_max(1).group_delay(Duration::from_micros(300)),
    ]
}

/// For stories.
fn mode(options: &Options) -> String {
    let Options { sync_method, packing, prealloc, in_flight_max, .. } = options;
    format!("{sync_method}, {packing:?}, {prealloc}, {in_flight_max} in flight")
}

fn machine(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    sim.create_dir("/data");
    // Writes in flight overtake each other.
    sim.set_latency_spread(OpKind::Write, Duration::from_micros(60));
    // Some cuts have to hurry the filler.
    sim.set_latency_spread(OpKind::WriteZeros, Duration::from_micros(400));
    sim
}

async fn start_on(sim: &Sim, options: Options, how: How) -> Result<(Wal, Recovery)> {
    super::start_on(|config| sim.disk(config), Path::new(DIR), options, how).await
}

/// One call that appends, and what it makes of the log.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Append(Vec<Bytes>),
    /// First index, term, payloads.
    Save(u64, u64, Vec<Bytes>),
    State(HardState),
}

/// What should be in the log after the first `n` calls.
#[derive(Clone, Debug, Default, PartialEq)]
struct Image {
    entries: Vec<(u64, Bytes)>,
    state: HardState,
}

impl Image {
    fn after(calls: &[Call]) -> Image {
        let mut image = Image::default();
        let mut term = 1;
        for call in calls {
            match call {
                Call::Append(payloads) => {
                    image.entries.extend(payloads.iter().map(|data| (term, data.clone())));
                }
                Call::Save(first, new_term, payloads) => {
                    term = term.max(*new_term);
                    image.entries.truncate(*first as usize - 1);
                    image.entries.extend(payloads.iter().map(|data| (*new_term, data.clone())));
                }
                Call::State(state) => {
                    term = term.max(state.term);
                    image.state = *state;
                }
            }
        }
        image
    }
}

/// What the application knows: it survives the crash of the machine.
#[derive(Debug, Default)]
struct Known {
    created: bool,
    /// In the order they were accepted.
    calls: Vec<Call>,
    /// So many of them are durable by our word.
    acked: usize,
    first_error: Option<Error>,
}

type Shared<T> = Rc<RefCell<T>>;

/// Submits a call and notes it; awaiting the result notes the ack.
async fn call(wal: &Wal, known: &Shared<Known>, call: Call) -> Result<()> {
    let content = match call.clone() {
        Call::Append(payloads) => Content::many(payloads),
        Call::Save(first, term, payloads) => {
            let entry = |(index, data)| Entry { index, term, data, ..Entry::default() };
            Content::Save(HardState::default(), (first..).zip(payloads).map(entry).collect())
        }
        Call::State(state) => Content::Save(state, Vec::new()),
    };
    let ticket = wal.place(content).await?;
    let number = {
        let mut known = known.borrow_mut();
        known.calls.push(call);
        known.calls.len()
    };
    let outcome = ticket.await;
    let mut known = known.borrow_mut();
    match outcome {
        Ok(_) => {
            assert!(known.first_error.is_none(), "nothing is acked after a failure");
            known.acked = known.acked.max(number);
            Ok(())
        }
        Err(error) => {
            known.first_error.get_or_insert_with(|| error.clone());
            Err(error)
        }
    }
}

fn payload(tag: u64, bytes: usize) -> Bytes {
    let mut data = tag.to_le_bytes().to_vec();
    data.resize(bytes.max(8), tag as u8);
    data.into()
}

/// A life of a log: appends alone and side by side, a batch, hard states, a conflict, cuts, an idle time, a record
/// larger than a segment. Says what it took.
async fn life(sim: Sim, options: Options, known: Shared<Known>, tag: u64) -> Result<Stats> {
    let (wal, _) = start_on(&sim, options, How::OpenOrCreate).await?;
    known.borrow_mut().created = true;
    let tag = tag * 1000;
    let one = |n: u64, bytes| Call::Append(vec![payload(tag + n, bytes)]);
    for n in 0..6 {
        call(&wal, &known, one(n, 700 * n as usize)).await?;
    }
    call(&wal, &known, Call::State(HardState { term: 2, vote: 1, commit: 1 })).await?;
    side_by_side(&wal, &known, (10..18).map(|n| one(n, 900)).collect()).await?;
    let batch = (20..25).map(|n| payload(tag + n, 1200)).collect();
    call(&wal, &known, Call::Append(batch)).await?;
    let last = wal.last_index();
    let conflict = vec![payload(tag + 30, 50), payload(tag + 31, 3000)];
    call(&wal, &known, Call::Save(last - 2, 3, conflict)).await?;
    sim.disk(Options::new().disk_config()).sleep(Duration::from_millis(200)).await;
    call(&wal, &known, one(40, 20_000)).await?;
    side_by_side(&wal, &known, (50..54).map(|n| one(n, 2500)).collect()).await?;
    wal.close().await?;
    Ok(wal.stats())
}

/// All submitted before any is awaited.
async fn side_by_side(wal: &Wal, known: &Shared<Known>, calls: Vec<Call>) -> Result<()> {
    let all = futures_util::future::join_all(calls.into_iter().map(|c| call(wal, known, c))).await;
    all.into_iter().collect()
}

/// Opens what is left and compares it with what is known. Afterwards the known is what was found.
fn check(sim: &Sim, options: Options, known: &Shared<Known>, story: &str) {
    let opened = sim.block_on(start_on(sim, options, How::Open));
    let (wal, recovery) = match opened {
        Ok(opened) => opened,
        Err(error) if !known.borrow().created => {
            let kinds = [ErrorKind::NotFound, ErrorKind::NotALog];
            assert!(kinds.contains(&error.kind()), "{story}: {error}");
            *known.borrow_mut() = Known::default();
            return;
        }
        Err(error) => panic!("{story}: a log without damage must open: {error}"),
    };
    let entries: Vec<Entry> = sim.block_on(collect(wal.read(..))).expect(story);
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, (1..=entries.len() as u64).collect::<Vec<_>>(), "{story}");
    let found = Image {
        entries: entries.into_iter().map(|entry| (entry.term, entry.data)).collect(),
        state: recovery.hard_state,
    };
    let mut known = known.borrow_mut();
    let calls = known.calls.clone();
    let survived = (known.acked..=calls.len())
        .find(|&n| Image::after(&calls[..n]) == found)
        .unwrap_or_else(|| {
            panic!(
                "{story}: {} acked of {} calls, and what is left is none of the states from there on: {:?}",
                known.acked,
                calls.len(),
                found.entries.iter().map(|(term, data)| (term, data.len())).collect::<Vec<_>>()
            )
        });
    *known = Known {
        created: true,
        calls: calls[..survived].to_vec(),
        acked: survived,
        first_error: None,
    };
    drop(known);
    sim.block_on(wal.close()).expect(story);
}

async fn collect(mut entries: Entries) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    while let Some(entry) = entries.next().await {
        all.push(entry?);
    }
    Ok(all)
}

/// Entries of 3 KiB, one after another.
async fn append(wal: &Wal, entries: std::ops::RangeInclusive<u64>) {
    for index in entries {
        assert_eq!(wal.append(&payload(index, 3000)[..]).await.unwrap(), index);
    }
}

/// A log with so many of them, in segments of 16 KiB.
async fn filled(sim: &Sim, entries: u64) -> Wal {
    let wal = start_on(sim, options(), How::OpenOrCreate).await.unwrap().0;
    append(&wal, 1..=entries).await;
    wal
}

/// Until there is nothing more to do.
async fn settle(sim: &Sim) {
    sim.sleep(Duration::from_millis(300)).await;
}

/// How many operations a whole life takes.
fn operations_of_a_life(options: &Options) -> u64 {
    let sim = machine(0);
    let known = Shared::<Known>::default();
    sim.block_on(life(sim.clone(), options.clone(), known.clone(), 0)).unwrap();
    assert_eq!(known.borrow().acked, known.borrow().calls.len());
    sim.operations()
}

/// P1, P2: power is lost before any operation of a life, and again before any operation of the recovery's own life.
#[test]
fn power_loss_at_every_operation() {
    for options in modes() {
        let total = operations_of_a_life(&options);
        assert!(total > 60, "a life has {total} operations");
        for (crash, seeds) in
            [(Crash::LoseUnsynced, 1), (Crash::KeepUnsynced, 1), (Crash::Random, 2)]
        {
            for (at, seed) in (1..=total + 1).flat_map(|at| (0..seeds).map(move |seed| (at, seed)))
            {
                let story = format!("{}, {crash:?}, seed {seed}, crash at {at}", mode(&options));
                let sim = machine(seed);
                let known = Shared::<Known>::default();
                let run = life(sim.clone(), options.clone(), known.clone(), 1);
                let _ = sim.block_on_until(at, run);
                sim.power_loss(crash);
                check(&sim, options.clone(), &known, &story);
                // Another life on what is left, ended early too: nothing dead comes back.
                let again = sim.operations() + 1 + (at * 7 + seed) % total;
                let run = life(sim.clone(), options.clone(), known.clone(), 2);
                let _ = sim.block_on_until(again, run);
                sim.power_loss(crash);
                check(&sim, options.clone(), &known, &format!("{story}, then at {again}"));
            }
        }
    }
}

/// P1, P2: recovery itself is interrupted, at any of its operations.
#[test]
fn power_loss_during_recovery() {
    for options in modes() {
        let total = operations_of_a_life(&options);
        for at in (1..=total).step_by(9) {
            for during in 1..40 {
                let story =
                    format!("{}, crash at {at}, then {during} into recovery", mode(&options));
                let sim = machine(at * 41 + during);
                let known = Shared::<Known>::default();
                let run = life(sim.clone(), options.clone(), known.clone(), 1);
                let _ = sim.block_on_until(at, run);
                sim.power_loss(Crash::Random);
                let open = start_on(&sim, options.clone(), How::Open);
                let opened = sim.block_on_until(sim.operations() + during, open);
                let finished = opened.is_some();
                drop(opened);
                sim.power_loss(Crash::Random);
                check(&sim, options.clone(), &known, &story);
                if finished {
                    break;
                }
            }
        }
    }
}

/// P1: the process dies, not the machine; what it left in the page cache is made durable by whoever hands it out.
#[test]
fn process_death_then_power_loss() {
    for options in modes() {
        let total = operations_of_a_life(&options);
        for at in 1..=total + 1 {
            let story = format!("{}, killed at {at}", mode(&options));
            let sim = machine(at);
            let known = Shared::<Known>::default();
            let run = life(sim.clone(), options.clone(), known.clone(), 1);
            let _ = sim.block_on_until(at, run);
            sim.kill();
            check(&sim, options.clone(), &known, &story);
            sim.power_loss(Crash::LoseUnsynced);
            check(&sim, options.clone(), &known, &format!("{story}, then power loss"));
        }
    }
}

/// P3: any operation fails once; nothing acked is lost, and nothing is acked after a failed write or sync.
#[test]
fn every_operation_fails_once() {
    for (options, errno) in modes().into_iter().flat_map(|m| [(m.clone(), EIO), (m, ENOSPC)]) {
        let mut failed = 0;
        for n in 1.. {
            let story = format!("{}, errno {errno} at operation {n}", mode(&options));
            let sim = machine(n);
            let known = Shared::<Known>::default();
            sim.fail_nth(n, errno);
            let outcome = sim.block_on(life(sim.clone(), options.clone(), known.clone(), 1));
            if sim.pending_faults() > 0 {
                break;
            }
            failed += u64::from(outcome.is_err());
            sim.clear_faults();
            sim.power_loss(Crash::LoseUnsynced);
            // A failed call may have left records that no later call built on; `check` allows them as a continuation.
            check(&sim, options.clone(), &known, &story);
        }
        assert!(failed > 30, "{}: only {failed} failures were noticed", mode(&options));
    }
}

/// P3: after the first failed sync this handle acks nothing more, whatever the later syncs say.
#[test]
fn failed_sync_poisons() {
    let sim = machine(1);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        wal.append("before").await.unwrap();
        sim.fail_next(OpKind::Sync, EIO);
        let error = wal.append("lost").await.unwrap_err();
        assert!(error.is_poisoned(), "{error}");
        let errno = std::error::Error::source(&error)
            .and_then(std::error::Error::source)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .and_then(std::io::Error::raw_os_error);
        assert_eq!(errno, Some(EIO));
        sim.clear_trace();
        assert!(wal.append("later").await.unwrap_err().is_poisoned());
        assert!(wal.wait_durable(2).await.unwrap_err().is_poisoned());
        assert_eq!(wal.durable_index(), 1);
        let read = collect(wal.read(..)).await.unwrap();
        assert_eq!(read.len(), 1, "reads of durable records go on");
        assert!(wal.close().await.unwrap_err().is_poisoned());
        let retried = sim
            .trace()
            .into_iter()
            .find(|entry| entry.op == OpKind::Sync || entry.op == OpKind::Write);
        assert_eq!(retried, None, "nothing is retried");
    });
}

/// The page cache lies after a failed sync: it still shows the group, and a new sync succeeds. Recovery that believes
/// it would hand out a record that the next power loss takes away.
#[test]
fn recovery_does_not_believe_the_page_cache() {
    let sim = machine(1);
    let known = Shared::<Known>::default();
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        known.borrow_mut().created = true;
        call(&wal, &known, Call::Append(vec![payload(1, 2000)])).await.unwrap();
        sim.fail_next(OpKind::Sync, EIO);
        call(&wal, &known, Call::Append(vec![payload(2, 2000)])).await.unwrap_err();
    });
    sim.kill();
    check(&sim, options(), &known, "after the failed sync");
    sim.power_loss(Crash::LoseUnsynced);
    check(&sim, options(), &known, "what was handed out is durable");
}

/// After a failed sync the page cache still holds the lost group, behind the end that the disk shows. The next write to
/// that page would carry it to the disk: the dead records came back behind the recovery mark, or made a closed log look
/// damaged.
#[test]
fn what_a_failed_sync_left_in_the_page_cache_stays_dead() {
    for append_after in [false, true] {
        for packing in [options(), options().packing(Packing::Block)] {
            let sim = machine(1);
            let known = Shared::<Known>::default();
            sim.block_on(async {
                let (wal, _) = start_on(&sim, packing.clone(), How::OpenOrCreate).await.unwrap();
                known.borrow_mut().created = true;
                call(&wal, &known, Call::Append(vec![payload(1, 200)])).await.unwrap();
                sim.fail_next(OpKind::Sync, EIO);
                let lost = vec![payload(2, 200), payload(3, 6000)];
                call(&wal, &known, Call::Append(lost)).await.unwrap_err();
                assert!(wal.close().await.is_err());
            });
            // Its recovery mark goes to the page that holds the lost group; the process dies at once.
            let (_, recovery) = sim.block_on(start_on(&sim, packing.clone(), How::Open)).unwrap();
            assert_eq!(recovery.last_index, Some(1));
            {
                let mut known = known.borrow_mut();
                known.calls.truncate(1);
                known.first_error = None;
            }
            sim.kill();
            if append_after {
                sim.block_on(async {
                    let (wal, _) = start_on(&sim, packing.clone(), How::Open).await.unwrap();
                    call(&wal, &known, Call::Append(vec![payload(4, 50)])).await.unwrap();
                    wal.close().await.unwrap();
                });
            }
            check(&sim, packing.clone(), &known, "in the page cache");
            sim.power_loss(Crash::KeepUnsynced);
            check(&sim, packing, &known, "on the disk");
        }
    }
}

/// A reader has a piece that was read before a group was written, and decodes it after the group is durable: what
/// lies beyond the end at that time is not to be believed, nor taken for damage.
#[test]
fn reader_does_not_judge_a_piece_by_a_later_watermark() {
    let sim = machine(1);
    sim.set_latency(OpKind::Read, Duration::from_millis(5));
    sim.block_on(async {
        let (wal, _) =
            start_on(&sim, options().recent_bytes_max(0), How::OpenOrCreate).await.unwrap();
        wal.append_batch([payload(1, 100), payload(2, 100)]).await.unwrap();
        let reading = collect(wal.read(..));
        let replacing = async {
            sim.disk(options().disk_config()).sleep(Duration::from_millis(1)).await;
            let entry = Entry { index: 2, term: 2, data: payload(22, 100), ..Entry::default() };
            wal.save(HardState::default(), vec![entry]).await.unwrap();
        };
        let (read, ()) = futures_util::future::join(reading, replacing).await;
        let read = read.unwrap();
        assert_eq!(read.iter().map(|entry| entry.term).collect::<Vec<_>>(), [1, 2]);
    });
}

/// etcd appended to a log of ours and cut, and it is opened at a snapshot in etcd's segment: marks go on with the id
/// that the log has, or they would not count when it is opened from the beginning.
#[test]
fn log_keeps_its_id_behind_segments_of_etcd() {
    use crate::recovery::tests::{Marked, Unmarked, entry};
    let mut ours = Marked::new(8);
    let entries = [1, 2, 3].map(|index| entry(index, b"ours"));
    ours.group(crate::format::MarkKind::Entries, &entries);
    let mut etcd = Unmarked { chain: ours.chain, ..Unmarked::default() };
    etcd.record(4, None);
    etcd.record(1, None);
    etcd.record(5, Some(Bytes::from_static(&[0x08, 3, 0x10, 1])));
    etcd.entry(4, b"etcd's");
    let sim = machine(1);
    sim.write_file(format!("{DIR}/0000000000000000-0000000000000000.wal"), ours.bytes);
    sim.write_file(format!("{DIR}/0000000000000001-0000000000000003.wal"), etcd.bytes);
    sim.block_on(async {
        let start = Start::Snapshot { index: 3, term: 1 };
        let (wal, _) = start_on(&sim, options().start(start), How::Open).await.unwrap();
        assert_eq!(wal.append("ours again").await.unwrap(), 5);
        wal.close().await.unwrap();
        let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
        assert_eq!((recovery.first_index, recovery.last_index), (Some(1), Some(5)));
        assert_eq!(collect(wal.read(..)).await.unwrap().len(), 5);
    });
}

/// A process was killed while it prepared a segment: the kernel keeps that file's lock until the allocation is done.
/// Whoever has the lock of the log prepares a new one all the same; once, its first cut poisoned the log.
#[test]
fn prepared_file_of_a_dying_process_is_replaced() {
    let sim = machine(1);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        wal.close().await.unwrap();
        let path = Path::new(DIR).join(crate::segment::name::PREPARED);
        sim.write_file(&path, [7; 100]);
        let disk = sim.disk(options().disk_config());
        let (access, lane) = (crate::io::Access::Write, crate::io::Lane::Background);
        let dying = disk.open(&path, access, lane).await.unwrap();
        assert!(crate::io::DiskFile::try_lock(&dying).unwrap());
        let (wal, _) = start_on(&sim, options(), How::Open).await.unwrap();
        for n in 0..30 {
            wal.append(payload(n, 1500)).await.unwrap();
        }
        wal.close().await.unwrap();
    });
    let known = Shared::<Known>::default();
    known.borrow_mut().created = true;
    known.borrow_mut().calls = (0..30).map(|n| Call::Append(vec![payload(n, 1500)])).collect();
    known.borrow_mut().acked = 30;
    sim.power_loss(Crash::LoseUnsynced);
    check(&sim, options(), &known, "with what the dying process left");
}

/// Many small appends that wait together do not make a group larger than a segment: once, they did, and with small
/// segments there was one huge one.
#[test]
fn groups_of_small_appends_do_not_outgrow_segments() {
    let sim = machine(1);
    let options = options().group_bytes_max(1 << 20);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options, How::OpenOrCreate).await.unwrap();
        let mut tickets = Vec::new();
        for n in 0..200 {
            tickets.push(wal.submit(payload(n, 500)).await.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        wal.close().await.unwrap();
    });
    let names = sim.list_dir(DIR).unwrap();
    assert!(names.len() > 6, "{names:?}");
    for name in names {
        let bytes = sim.read_file(Path::new(DIR).join(&name)).unwrap().len();
        let space = crate::segment::pipeline::space(16 << 10);
        assert!(bytes as u64 <= space, "{name:?}: {bytes}");
    }
}

/// Two open_or_create at once: one creates the log, the other finds it; neither fails because of the other, except
/// that one writer at a time has it.
#[test]
fn open_or_create_does_not_trip_over_another() {
    for pause in 0..30 {
        let sim = machine(1);
        let other = async {
            sim.disk(options().disk_config()).sleep(Duration::from_micros(pause * 10)).await;
            let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await?;
            wal.close().await
        };
        let first = async {
            let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await?;
            wal.close().await
        };
        let (one, two) = sim.block_on(futures_util::future::join(first, other));
        one.unwrap_or_else(|error| panic!("pause {pause}: {error}"));
        two.unwrap_or_else(|error| panic!("pause {pause}: {error}"));
    }
}

/// Where the file system has no direct reads, recovery may be shown what a failed sync lost. Then it writes that again,
/// so that what it hands out is durable.
#[test]
fn without_direct_reads_the_unproven_part_is_written_again() {
    let einval = 22;
    let mut believed = 0;
    for n in 1..8 {
        let sim = machine(1);
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
            wal.append("durable").await.unwrap();
            sim.fail_next(OpKind::Sync, EIO);
            wal.append(payload(2, 11_000)).await.unwrap_err();
        });
        sim.kill();
        sim.fail_nth(n, einval);
        // Which operation is the direct open shows by what it leads to; for the others, EINVAL is a plain failure.
        let shown = match sim.block_on(start_on(&sim, options(), How::Open)) {
            Ok((_, recovery)) => recovery.last_index,
            Err(_) => continue,
        };
        sim.clear_faults();
        sim.power_loss(Crash::LoseUnsynced);
        let (_, recovery) = sim.block_on(start_on(&sim, options(), How::Open)).unwrap();
        assert_eq!(recovery.last_index, shown, "EINVAL at operation {n}");
        believed += u64::from(shown == Some(2));
    }
    assert_eq!(believed, 1, "one of the operations is the direct open");
}

/// Numbers that cannot be counted up any further are no log's own; such a log is refused before it is touched.
#[test]
fn numbers_at_their_end_are_refused() {
    let sim = machine(1);
    let mut unmarked = crate::recovery::tests::Unmarked::default();
    unmarked.record(4, None);
    unmarked.record(1, None);
    let path = format!("{DIR}/7fffffffffffffff-0000000000000000.wal");
    sim.write_file(&path, unmarked.bytes.clone());
    let error = sim.block_on(start_on(&sim, options(), How::Open)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(sim.read_file(&path).unwrap(), unmarked.bytes);
}

/// P1: the kernel takes only a part of a write. The group is not acked, and nothing is lost.
#[test]
fn short_write_is_not_acked() {
    for taken in [0, 1, 120, 512, 1000] {
        let sim = machine(1);
        let known = Shared::<Known>::default();
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
            known.borrow_mut().created = true;
            call(&wal, &known, Call::Append(vec![payload(1, 2000)])).await.unwrap();
            sim.short_write_next(taken);
            let error = call(&wal, &known, Call::Append(vec![payload(2, 2000)])).await.unwrap_err();
            assert!(error.to_string().contains("short write"), "{error}");
        });
        sim.power_loss(Crash::KeepUnsynced);
        check(&sim, options(), &known, &format!("{taken} bytes taken"));
    }
}

/// P5: a full disk refuses appends, takes no index, loses nothing, and works again when there is room.
#[test]
fn full_disk_comes_and_goes() {
    let sim = machine(1);
    let known = Shared::<Known>::default();
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        known.borrow_mut().created = true;
        let disk = sim.disk(options().disk_config());
        disk.sleep(Duration::from_millis(1)).await;
        sim.set_free_bytes(Some(0));
        let mut acked = 0;
        let error = loop {
            match wal.append(payload(acked + 1, 1000)).await {
                Ok(index) => {
                    acked += 1;
                    assert_eq!(index, acked);
                    known.borrow_mut().calls.push(Call::Append(vec![payload(acked, 1000)]));
                }
                Err(error) => break error,
            }
        };
        assert!(error.is_no_space(), "{error}");
        assert!(acked > 15, "the prepared segment was used: {acked}");
        // Several at once, all refused, and reads go on.
        let refused =
            futures_util::future::join_all((0..5).map(|n| wal.append(payload(n, 1000)))).await;
        assert!(refused.iter().all(|outcome| outcome.as_ref().is_err_and(Error::is_no_space)));
        assert_eq!(collect(wal.read(..)).await.unwrap().len() as u64, acked);
        sim.set_free_bytes(None);
        let index = wal.append(payload(acked + 1, 1000)).await.unwrap();
        assert_eq!(index, acked + 1, "the refused ones took no index");
        known.borrow_mut().calls.push(Call::Append(vec![payload(index, 1000)]));
        let all = known.borrow().calls.len();
        known.borrow_mut().acked = all;
        wal.close().await.unwrap();
    });
    sim.power_loss(Crash::LoseUnsynced);
    check(&sim, options(), &known, "after a full disk");
}

/// A disk that is full when the log is opened, with nothing left to allocate: it opens, reads, and refuses appends.
#[test]
fn log_opens_on_a_full_disk() {
    let sim = machine(1);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        wal.append("there").await.unwrap();
        wal.close().await.unwrap();
        sim.set_free_bytes(Some(0));
        let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
        assert_eq!(recovery.last_index, Some(1));
        assert_eq!(collect(wal.read(..)).await.unwrap().len(), 1);
    });
}

/// A log with segments of 32774 bytes was opened again and went on: its newest segment got just as many bytes, groups
/// filled 32768 of them, and the next segment was begun. The 6 zeros left were too few for a length field: from then on
/// every open refused the log as damaged. A segment takes whole blocks, also when it is opened again.
#[test]
fn segment_that_is_opened_again_takes_whole_blocks() {
    for (options, rest) in
        modes().into_iter().flat_map(|o| (0..8).map(move |rest| (o.clone(), rest)))
    {
        let options = options.segment_bytes((32 << 10) + rest).group_delay(Duration::ZERO);
        let story = format!("{}, {rest} bytes over", mode(&options));
        let sim = machine(rest);
        sim.block_on(async {
            let mut acked = 0;
            for _ in 0..3 {
                let (wal, recovery) =
                    start_on(&sim, options.clone(), How::OpenOrCreate).await.expect(&story);
                assert_eq!(recovery.last_index.unwrap_or(0), acked, "{story}");
                // One by one: with whole blocks each takes one, so they fill just 32768 bytes.
                for n in 0..40 {
                    acked = wal.append(payload(n, 900)).await.unwrap();
                }
                wal.close().await.unwrap();
            }
        });
    }
}

/// What was only written is synced after a while. Until that sync, or the write before it, comes back, there is nothing
/// to do: once, the loop looked at the clock again and again meanwhile.
#[test]
fn loop_sleeps_while_a_late_sync_is_under_way() {
    for options in modes() {
        for interval in [0, 10, 500] {
            let sim = machine(1);
            sim.set_latency(OpKind::Sync, Duration::from_millis(20));
            sim.set_latency(OpKind::Write, Duration::from_millis(2));
            let options = options
                .clone()
                .durability(Durability::Written)
                .sync_interval(Duration::from_micros(interval));
            sim.block_on(async {
                let (wal, _) = start_on(&sim, options, How::OpenOrCreate).await.unwrap();
                for n in 0..40 {
                    wal.append(payload(n, 1500)).await.unwrap();
                }
                sim.disk(Options::new().disk_config()).sleep(Duration::from_millis(100)).await;
                assert_eq!(wal.durable_index(), 40);
                wal.close().await.unwrap();
            });
        }
    }
}

/// A cut and a close wait for what was only written. Once, nothing was in flight and nobody asked for the sync, so they
/// waited for ever.
#[test]
fn what_was_only_written_does_not_hold_up_a_cut_or_the_end() {
    for options in modes() {
        let sim = machine(1);
        let options =
            options.durability(Durability::Written).sync_interval(Duration::from_secs(3600));
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options, How::OpenOrCreate).await.unwrap();
            for n in 0..60 {
                wal.append(payload(n, 1500)).await.unwrap();
            }
            assert_eq!(wal.close().await.unwrap(), 60);
        });
        assert!(sim.now() < Duration::from_secs(1), "{:?}", sim.now());
        assert!(sim.list_dir(DIR).unwrap().len() > 1);
    }
}

/// The pipeline prepares segments ahead: with a slow allocation, an append across a cut takes no longer for it.
#[test]
fn append_across_a_cut_does_not_wait_for_allocation() {
    let sim = machine(1);
    sim.set_latency(OpKind::Allocate, Duration::from_millis(50));
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        let disk = sim.disk(options().disk_config());
        let mut slowest = Duration::ZERO;
        for n in 0..60 {
            disk.sleep(Duration::from_millis(10)).await;
            let before = sim.now();
            wal.append(payload(n, 1500)).await.unwrap();
            slowest = slowest.max(sim.now() - before);
        }
        let cuts = sim.trace().iter().filter(|entry| entry.op == OpKind::Rename).count();
        assert!(cuts > 4, "{cuts} cuts");
        assert!(slowest < Duration::from_millis(5), "{slowest:?}");
    });
}

/// P4: after the idle time a mark proves the last group. A sector of it that is zero is damage then, not a torn tail.
#[test]
fn idle_log_proves_its_last_records() {
    let lose_a_sector_of_the_last_record = |idle: bool| {
        let sim = machine(1);
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
            wal.append(payload(7, 3000)).await.unwrap();
            let disk = sim.disk(options().disk_config());
            disk.sleep(Duration::from_millis(if idle { 500 } else { 1 })).await;
        });
        sim.power_loss(Crash::LoseUnsynced);
        let path = format!("{DIR}/0000000000000000-0000000000000000.wal");
        let mut bytes = sim.read_file(&path).unwrap();
        assert_eq!(bytes[1024..1536], [7; 512], "inside the record");
        bytes[1024..1536].fill(0);
        sim.write_file(&path, bytes.clone());
        let outcome = sim.block_on(start_on(&sim, options(), How::Open));
        (outcome.map(|(_, recovery)| recovery), sim.read_file(&path).unwrap() == bytes)
    };
    let (outcome, unchanged) = lose_a_sector_of_the_last_record(true);
    let error = outcome.unwrap_err();
    assert!(error.is_damaged() && error.to_string().contains("commit mark"), "{error}");
    assert!(unchanged, "a refused log is left as it was");
    let (outcome, _) = lose_a_sector_of_the_last_record(false);
    let recovery = outcome.unwrap();
    assert_eq!(
        recovery.verdict,
        Verdict::Torn,
        "nothing proves it: it looks like a write that was cut short"
    );
    assert_eq!(recovery.last_index, None);
}

/// P4: whichever group of a closed log loses a sector, the log is refused: the close mark proves all of them.
#[test]
fn closed_log_never_loses_a_sector_silently() {
    for options in modes() {
        let build = || {
            let sim = machine(1);
            let known = Shared::<Known>::default();
            sim.block_on(life(sim.clone(), options.clone(), known.clone(), 1)).unwrap();
            (sim, known)
        };
        let (sim, _) = build();
        let names = sim.list_dir(DIR).unwrap();
        let mut refused = 0;
        for name in names {
            let path = Path::new(DIR).join(name);
            let bytes = sim.read_file(&path).unwrap();
            for at in (0..bytes.len()).step_by(512) {
                let sector = at..bytes.len().min(at + 512);
                if bytes[sector.clone()].iter().all(|&byte| byte == 0) {
                    continue;
                }
                let (sim, known) = build();
                let mut damaged = bytes.clone();
                damaged[sector].fill(0);
                sim.write_file(&path, damaged);
                let story =
                    format!("{:?}, zero sector at {at} of {}", options.packing, path.display());
                match sim.block_on(start_on(&sim, options.clone(), How::Open)) {
                    Err(error) => {
                        assert!(error.is_damaged(), "{story}: {error}");
                        refused += 1;
                    }
                    // Only the close mark itself may go unnoticed: no record is in it.
                    Ok((wal, _)) => {
                        drop(wal);
                        sim.kill();
                        check(&sim, options.clone(), &known, &story);
                    }
                }
            }
        }
        assert!(refused > 50, "{refused}");
    }
}

/// Dead groups: what was cut never comes back, not even when the same bytes are written again behind the cut.
#[test]
fn what_was_cut_stays_dead() {
    for seed in 0..200 {
        let sim = machine(seed);
        let known = Shared::<Known>::default();
        for round in 0..4 {
            sim.block_on(async {
                let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
                known.borrow_mut().created = true;
                call(&wal, &known, Call::Append(vec![payload(1, 1500)])).await.unwrap();
                // Not waited for: it is in flight when the power goes.
                for _ in 0..2 {
                    let payloads = vec![payload(2, 1500)];
                    let _ticket = wal.submit_batch(payloads.clone()).await.unwrap();
                    known.borrow_mut().calls.push(Call::Append(payloads));
                }
                let disk = sim.disk(options().disk_config());
                disk.sleep(Duration::from_micros(60 + seed % 5 * 20)).await;
                std::mem::forget(wal);
            });
            sim.power_loss(Crash::Random);
            check(&sim, options(), &known, &format!("seed {seed}, round {round}"));
        }
    }
}

/// The tail is cleared, and that is synced, before the recovery mark is written. Else a crash could leave that mark in
/// place of the lost mark of a torn batch, and a part of the batch behind it would look like sound records.
#[test]
fn cut_is_durable_before_the_recovery_mark() {
    use crate::format::MarkKind;
    use crate::recovery::tests::{Marked, entry};
    let torn = |padding: usize| {
        let mut log = Marked::new(8);
        log.group(MarkKind::Entries, &[entry(1, &vec![1; padding])]);
        log.group(MarkKind::Entries, &[entry(2, &[2; 700]), entry(3, &[3; 3000])]);
        log
    };
    // The mark of the batch is the last thing in its sector.
    let log = (1..600).map(torn).find(|log| log.groups[2] % 512 == 512 - 120).unwrap();
    let (start, mut bytes) = (log.groups[2] as usize, log.bytes);
    bytes[start..start + 120].fill(0);
    bytes[start + 120 + 1536..][..512].fill(0);
    let path = format!("{DIR}/0000000000000000-0000000000000000.wal");
    for (at, seed) in (1..30).flat_map(|at| (0..40).map(move |seed| (at, seed))) {
        let sim = machine(seed);
        sim.write_file(&path, bytes.clone());
        let _ = sim.block_on_until(at, start_on(&sim, options(), How::Open));
        sim.power_loss(Crash::Random);
        let outcome = sim.block_on(start_on(&sim, options(), How::Open));
        let (_, recovery) =
            outcome.unwrap_or_else(|error| panic!("crash at {at}, seed {seed}: {error}"));
        assert_eq!(recovery.last_index, Some(1), "crash at {at}, seed {seed}");
    }
}

/// The head of a segment repeats the hard state, also after a reopen (etcd forgets it): the segments before may go.
#[test]
fn hard_state_is_in_every_head() {
    let sim = machine(1);
    let state = HardState { term: 4, vote: 2, commit: 100 };
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        wal.save(state, Vec::new()).await.unwrap();
        wal.close().await.unwrap();
        let (wal, _) = start_on(&sim, options(), How::Open).await.unwrap();
        for n in 1..=20 {
            wal.append(payload(n, 1500)).await.unwrap();
        }
        let snapshot = Snapshot { index: 20, term: 4, conf_state: None };
        wal.save_snapshot(snapshot.clone()).await.unwrap();
        wal.append("after").await.unwrap();
        wal.close().await.unwrap();

        let disk = sim.disk(options().disk_config());
        let segments = dir::list_log(&disk, Path::new(DIR)).await.unwrap();
        let (_, released) = segments.split_last().unwrap();
        assert!(!released.is_empty());
        for segment in released {
            disk.remove_file(&segment.path).await.unwrap();
        }
        let latest = options().start(Start::LatestSnapshot);
        let (wal, recovery) = start_on(&sim, latest, How::Open).await.unwrap();
        assert_eq!(recovery.hard_state, state);
        assert_eq!(recovery.snapshot, Some(snapshot));
        assert_eq!((wal.first_index(), wal.last_index()), (21, 21));
        let refused = start_on(&sim, options().lock_wait(Duration::ZERO), How::Read).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Released);
    });
}

/// Found by `scripts/fuzz repair`: a snapshot record at index 0 with term 1 was acked, and the log it was in refused as
/// damaged from then on, since the record of its head says 0/0.
#[test]
fn snapshot_of_nothing_has_no_term() {
    let sim = machine(1);
    let snapshot = |term| Snapshot { index: 0, term, conf_state: None };
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::OpenOrCreate).await.unwrap();
        let error = wal.save_snapshot(snapshot(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        wal.save_snapshot(snapshot(0)).await.unwrap();
        wal.append("first").await.unwrap();
        wal.close().await.unwrap();
        let (_, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
        assert_eq!(recovery.last_index, Some(1));
    });
}

/// Create gives the log its name last; a crash in it leaves no half log that would block a second try.
#[test]
fn interrupted_create_can_be_repeated() {
    for at in 1..40 {
        let sim = machine(at);
        let create = start_on(&sim, options(), How::Create);
        let finished = sim.block_on_until(at, create).is_some();
        sim.power_loss(Crash::Random);
        let again = sim.block_on(start_on(&sim, options(), How::OpenOrCreate));
        let (wal, recovery) = again.unwrap_or_else(|error| panic!("crash at {at}: {error}"));
        assert_eq!(recovery.last_index, None);
        sim.block_on(wal.append("works")).unwrap();
        if finished {
            return;
        }
    }
    panic!("create takes more operations than this test has patience for");
}

/// Story: a process was killed between the two buffers of a group. The first buffer had ended within a sector, and the
/// group would have ended in the same sector, so no sector of it was all zero, and opening called the log damaged.
/// Buffers end with blocks of the file since then.
#[test]
fn process_death_between_the_buffers_of_a_group() {
    let mut torn = 0;
    for bytes in (3700..4400).step_by(8) {
        let sim = Sim::new(1);
        sim.create_dir("/data");
        let (wal, _) = sim.block_on(start_on(&sim, options(), How::Create)).unwrap();
        let large = wal.append(payload(1, bytes));
        // After the first write.
        let _ = sim.block_on_until(sim.operations() + 2, large);
        sim.kill();
        let (_, recovery) = sim
            .block_on(start_on(&sim, options(), How::Open))
            .unwrap_or_else(|error| panic!("a record of {bytes} bytes: {error}"));
        torn += u32::from(recovery.verdict == Verdict::Torn);
    }
    assert!(torn > 20, "only {torn} groups were torn");
}

/// A fixed seed gives the same run, operation for operation.
#[test]
fn same_seed_same_trace() {
    let run = |seed| {
        let sim = machine(seed);
        let known = Shared::<Known>::default();
        let _ = sim.block_on_until(60, life(sim.clone(), options(), known.clone(), 1));
        sim.power_loss(Crash::Random);
        check(&sim, options(), &known, "replay");
        sim.trace()
    };
    assert_eq!(run(3), run(3));
}
