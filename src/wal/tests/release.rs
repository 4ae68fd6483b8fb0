//! Entries are let go of, and taken back.

use super::*;
use crate::format::mark::MARK_FRAME_BYTES;
use crate::format::{MarkKind, Record};
use crate::io::sim::TraceEntry;
use crate::segment::name::SegmentName;
use crate::types::Seq;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

/// What an application does with its log.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Bytes>),
    Release(u64),
    Truncate(u64),
    Reopen,
}

/// What should be in the log after some steps.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// Of all indexes from 1 on.
    entries: Vec<Bytes>,
    released: u64,
}

impl Model {
    fn after(steps: &[Step]) -> Model {
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Append(payloads) => model.entries.extend(payloads.iter().cloned()),
                Step::Release(index) => model.released = model.released.max(*index),
                Step::Truncate(index) => model.entries.truncate(*index as usize),
                Step::Reopen => {}
            }
        }
        model
    }
}

/// What the application knows.
#[derive(Debug, Default)]
struct Known {
    begun: usize,
    acked: usize,
    /// What opening is not to go back behind.
    base: u64,
}

/// Appends, releases and takes back, with what comes of it in between; each step when the one before is done.
fn steps() -> Vec<Step> {
    let mut tag = 0;
    let mut append = |count: u64, bytes| {
        let payloads = (0..count).map(|_| {
            tag += 1;
            payload(tag, bytes)
        });
        Step::Append(payloads.collect())
    };
    vec![
        append(3, 900),
        Step::Truncate(1),
        append(8, 4000),
        Step::Release(3),
        append(1, 20_000),
        Step::Truncate(7),
        append(2, 8000),
        Step::Release(8),
        Step::Reopen,
        append(2, 9000),
        Step::Release(11),
        Step::Truncate(11),
        // The files that became free come round.
        append(3, 9000),
        append(3, 9000),
        Step::Release(16),
        append(3, 9000),
        append(3, 9000),
    ]
}

async fn life(sim: Sim, options: Options, known: Shared<Known>) -> Result<()> {
    let steps = steps();
    let mut wal = start_on(&sim, options.clone(), How::OpenOrCreate).await?.0;
    for (at, step) in steps.into_iter().enumerate() {
        known.borrow_mut().begun = at + 1;
        match step {
            Step::Append(payloads) => wal.append_batch(payloads).await.map(drop)?,
            Step::Release(index) => {
                wal.release(index).await?;
                assert_eq!(wal.first_index(), index + 1);
            }
            Step::Truncate(index) => {
                wal.truncate_after(index).await?;
                assert_eq!((wal.last_index(), wal.durable_index()), (index, index));
            }
            Step::Reopen => {
                let released = wal.first_index() - 1;
                wal.close().await?;
                known.borrow_mut().base = released;
                wal = start_on(&sim, options.clone(), How::Open).await?.0;
                assert_eq!(
                    wal.first_index() - 1,
                    released,
                    "closing writes down what was released"
                );
            }
        }
        known.borrow_mut().acked = at + 1;
    }
    wal.close().await.map(drop)
}

/// Whether what is in the log is what some number of steps leaves, from those that were acked on.
fn check(sim: &Sim, options: Options, known: &Known, story: &str) {
    let opened = sim.block_on(start_on(sim, options.clone(), How::OpenOrCreate));
    let (wal, recovery) = opened.unwrap_or_else(|error| panic!("{story}: {error}"));
    let steps = steps();
    let entries = sim.block_on(collect(wal.read(..))).expect(story);
    let base = wal.first_index() - 1;
    assert!(base >= known.base, "{story}: {base} after {}", known.base);
    assert_eq!(recovery.first_index, entries.first().map(|entry| entry.index), "{story}");
    let found = (known.acked..=known.begun).any(|n| {
        let model = Model::after(&steps[..n]);
        base <= model.released
            && model.entries.len() as u64 >= base
            && entries.len() == model.entries.len() - base as usize
            && entries.iter().zip(base + 1..).all(|(entry, index)| {
                entry.index == index && entry.data == model.entries[index as usize - 1]
            })
    });
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    assert!(found, "{story}: {known:?}, and behind {base} there is {indexes:?}");
    // What is there can be let go of, taken back and added to again.
    if let Some(last) = entries.last() {
        sim.block_on(async {
            wal.truncate_after(last.index - 1).await.expect(story);
            wal.append("new").await.expect(story);
            wal.release(last.index).await.expect(story);
        });
    }
    let next = wal.last_index() + 1;
    sim.block_on(wal.close()).expect(story);
    let (wal, _) = sim.block_on(start_on(sim, options, How::Open)).expect(story);
    assert_eq!(wal.last_index() + 1, next, "{story}");
    sim.block_on(wal.close()).expect(story);
}

fn crash_at_every_operation(crash: impl Fn(&Sim), name: &str) {
    let small = || direct().segment_bytes(32 << 10);
    for options in [options(), small(), small().prealloc(Prealloc::ZeroFill)] {
        let sim = machine(0);
        sim.block_on(life(sim.clone(), options.clone(), Shared::default())).unwrap();
        for at in 1..=sim.operations() + 1 {
            let story = format!("{}, {name} at {at}", mode(&options));
            let sim = machine(at);
            let known = Shared::<Known>::default();
            let run = life(sim.clone(), options.clone(), known.clone());
            let _ = sim.block_on_until(at, run);
            crash(&sim);
            check(&sim, options.clone(), &known.borrow(), &story);
        }
    }
}

#[test]
fn power_loss_at_every_operation() {
    crash_at_every_operation(|sim| _ = sim.power_loss(Crash::LoseUnsynced), "all lost");
}

#[test]
fn power_loss_in_part_at_every_operation() {
    crash_at_every_operation(|sim| _ = sim.power_loss(Crash::Random), "power lost");
}

#[test]
fn process_death_at_every_operation() {
    crash_at_every_operation(Sim::kill, "killed");
}

fn segments(sim: &Sim) -> Vec<SegmentName> {
    let names = sim.list_dir(DIR).unwrap();
    let mut names: Vec<_> =
        names.iter().filter_map(|name| SegmentName::parse(name.to_str().unwrap())).collect();
    names.sort();
    names
}

#[test]
fn files_go_and_the_rest_opens_from_its_beginning() {
    let sim = machine(1);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        let before = segments(&sim);
        wal.release(30).await.unwrap();
        settle(&sim).await;
        let after = segments(&sim);
        assert!(after.len() < before.len() && after[0].index <= 30 && after[1].index > 30);
        let error = wal.get(30).await.unwrap_err();
        assert_eq!((error.kind(), error.first_index()), (ErrorKind::Released, Some(31)));
        assert_eq!(wal.get(31).await.unwrap().data, payload(31, 3000));
        wal.close().await.unwrap();
        for start in
            [Start::Beginning, Start::LatestSnapshot, Start::Snapshot { index: 30, term: 1 }]
        {
            let (wal, recovery) = start_on(&sim, options().start(start), How::Open).await.unwrap();
            assert_eq!((recovery.first_index, recovery.last_index), (Some(31), Some(40)));
            assert_eq!(collect(wal.read(..)).await.unwrap().len(), 10);
            wal.close().await.unwrap();
        }
        let behind = Start::Snapshot { index: 0, term: 0 };
        let error = start_on(&sim, options().start(behind), How::Open).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Released, "{error}");
    });
}

#[test]
fn beyond_either_end_nothing_is_let_go_of() {
    let sim = machine(2);
    sim.block_on(async {
        let wal = filled(&sim, 20).await;
        wal.release(5).await.unwrap();
        let kind = |outcome: Result<()>| outcome.unwrap_err().kind();
        assert_eq!(kind(wal.release(21).await), ErrorKind::OutOfRange);
        assert_eq!(kind(wal.release(4).await), ErrorKind::Released);
        assert_eq!(kind(wal.truncate_after(21).await), ErrorKind::OutOfRange);
        assert_eq!(kind(wal.truncate_after(4).await), ErrorKind::Released);
        wal.release(5).await.unwrap();
        let state = HardState { term: 1, vote: 1, commit: 10 };
        wal.save(state, Vec::new()).await.unwrap();
        assert_eq!(kind(wal.release(11).await), ErrorKind::InvalidInput);
        assert_eq!(kind(wal.truncate_after(9).await), ErrorKind::InvalidInput);
        assert_eq!((wal.first_index(), wal.last_index()), (6, 20));
        wal.truncate_after(10).await.unwrap();
        wal.release(10).await.unwrap();
        assert_eq!((wal.first_index(), wal.last_index()), (11, 10));
        wal.close().await.unwrap();
        assert_eq!(kind(wal.release(10).await), ErrorKind::Closed);
    });
}

/// A reader in the middle of a range gets to its end; the files go when he is done with them.
#[test]
fn who_reads_is_not_cut_off() {
    let sim = machine(3);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        wal.close().await.unwrap();
        let none_in_memory = options().recent_bytes_max(0);
        let (wal, _) = start_on(&sim, none_in_memory, How::Open).await.unwrap();
        let mut range = wal.read(2..=36);
        assert_eq!(range.next().await.unwrap().unwrap().index, 2);
        wal.release(38).await.unwrap();
        settle(&sim).await;
        assert!(segments(&sim)[0].index < 12, "somebody reads it");
        assert!(wal.get(38).await.is_err());
        for index in 3..=30 {
            let entry = range.next().await.unwrap().unwrap();
            assert_eq!((entry.index, entry.data), (index, payload(index, 3000)));
        }
        settle(&sim).await;
        assert!(segments(&sim)[0].index > 20, "he has left the first ones");
        for index in 31..=36 {
            assert_eq!(range.next().await.unwrap().unwrap().index, index);
        }
        assert!(range.next().await.is_none());
        drop(range);
        settle(&sim).await;
        let left = segments(&sim);
        assert!(left[0].index <= 38 && left.get(1).is_none_or(|next| next.index > 38));
        wal.close().await.unwrap();
    });
}

/// A follower holds nothing back, and is told.
#[test]
fn who_follows_too_slowly_is_told() {
    let sim = machine(4);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        wal.close().await.unwrap();
        let none_in_memory = options().recent_bytes_max(0);
        let (wal, _) = start_on(&sim, none_in_memory, How::Open).await.unwrap();
        let mut tail = wal.tail(1);
        assert_eq!(tail.next().await.unwrap().unwrap().index, 1);
        wal.release(38).await.unwrap();
        settle(&sim).await;
        let error = loop {
            match tail.next().await.unwrap() {
                Ok(entry) => assert!(entry.index < 38),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Released, "{error}");
        wal.close().await.unwrap();
    });
}

/// A full disk: the release that makes room can still be written down.
#[test]
fn a_full_disk_is_made_room_on() {
    for options in modes() {
        let sim = machine(5);
        sim.block_on(async {
            let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
            wal.append_batch((1..=20).map(|index| payload(index, 3000))).await.unwrap();
            for index in 21..=40 {
                wal.append(&payload(index, 3000)[..]).await.unwrap();
            }
            sim.set_free_bytes(Some(0));
            let error = loop {
                match wal.append(&payload(1, 700)[..]).await {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            let last = wal.durable_index();
            wal.release(last).await.unwrap_or_else(|error| panic!("{}: {error}", mode(&options)));
            settle(&sim).await;
            assert_eq!(segments(&sim).len(), 1, "{}", mode(&options));
            wal.append(&payload(1, 3000)[..]).await.unwrap();
            wal.close().await.unwrap();
        });
    }
}

/// The entry is taken back, and what a tail and a range make of that.
#[test]
fn who_follows_sees_what_is_taken_back() {
    let sim = machine(6);
    sim.block_on(async {
        let wal = filled(&sim, 10).await;
        let mut tail = wal.tail(1);
        for index in 1..=10 {
            assert_eq!(tail.next().await.unwrap().unwrap().index, index);
        }
        wal.truncate_after(9).await.unwrap();
        let again = tail.next().await.unwrap().unwrap();
        assert_eq!((again.index, again.data), (9, payload(9, 3000)));
        wal.append("other").await.unwrap();
        let next = tail.next().await.unwrap().unwrap();
        assert_eq!((next.index, &next.data[..]), (10, &b"other"[..]));
        // All of it: there is nothing to be written again.
        wal.truncate_after(0).await.unwrap();
        assert_eq!((wal.first_index(), wal.last_index()), (1, 0));
        wal.append("first").await.unwrap();
        assert_eq!(tail.next().await.unwrap().unwrap().index, 1);
        wal.close().await.unwrap();
        let (wal, _) = start_on(&sim, options(), How::Open).await.unwrap();
        let entries = collect(wal.read(..)).await.unwrap();
        assert_eq!(entries.iter().map(|entry| &entry.data[..]).collect::<Vec<_>>(), [b"first"]);
        wal.close().await.unwrap();
    });
}

/// The members of a group that a snapshot names are in what the log begins with.
#[test]
fn a_release_at_a_snapshot_knows_its_members() {
    let sim = machine(7);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        let state = HardState { term: 1, vote: 1, commit: 40 };
        wal.save(state, Vec::new()).await.unwrap();
        let conf_state =
            Some(crate::types::ConfState { voters: vec![1, 2, 3], ..Default::default() });
        let snapshot = Snapshot { index: 35, term: 1, conf_state };
        wal.save_snapshot(snapshot.clone()).await.unwrap();
        wal.release(35).await.unwrap();
        wal.close().await.unwrap();
        let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
        assert_eq!(recovery.snapshot, Some(snapshot));
        wal.close().await.unwrap();
    });
}

/// Another process sees both.
#[test]
fn a_reader_sees_what_was_released_and_taken_back() {
    let sim = machine(8);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        let (reader, _) = start_on(&sim, options(), How::Read).await.unwrap();
        assert_eq!((reader.first_index(), reader.durable_index()), (1, 40));
        wal.release(30).await.unwrap();
        wal.truncate_after(39).await.unwrap();
        settle(&sim).await;
        reader.handle.watermark.look().await.unwrap();
        assert_eq!((reader.first_index(), reader.durable_index()), (31, 39));
        assert_eq!(reader.get(1).await.unwrap_err().kind(), ErrorKind::Released);
        wal.truncate_after(30).await.unwrap();
        settle(&sim).await;
        reader.handle.watermark.look().await.unwrap();
        assert_eq!((reader.first_index(), reader.durable_index()), (31, 30));
        wal.close().await.unwrap();
    });
}

fn files(sim: &Sim) -> Vec<String> {
    let names = sim.list_dir(DIR).unwrap();
    let mut names: Vec<String> =
        names.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A segment that nobody wants becomes a later one, and nothing of it is there any more.
#[test]
fn segments_are_used_again() {
    for options in modes() {
        let story = mode(&options);
        let sim = machine(9);
        sim.block_on(async {
            let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
            for index in 1..=60 {
                wal.append(&payload(index, 3000)[..]).await.unwrap();
                if index % 20 == 0 {
                    wal.release(index - 5).await.unwrap();
                    settle(&sim).await;
                    let spares = files(&sim);
                    let spares = spares.iter().filter(|name| name.starts_with("seawal-spare"));
                    assert!(spares.count() <= 1, "{story}");
                }
            }
            wal.close().await.unwrap();
            let again = |entry: &TraceEntry| {
                entry.op == OpKind::Rename && entry.path.to_str().unwrap().contains("spare")
            };
            assert!(sim.trace().iter().filter(|entry| again(entry)).count() > 1, "{story}");
            assert!(files(&sim).iter().all(|name| name.ends_with(".wal")), "{story}");
            let (wal, recovery) = start_on(&sim, options.clone(), How::Open).await.unwrap();
            assert_eq!(
                (recovery.first_index, recovery.last_index),
                (Some(56), Some(60)),
                "{story}"
            );
            let entries = collect(wal.read(..)).await.unwrap();
            assert!(entries.iter().all(|entry| entry.data == payload(entry.index, 3000)));
            wal.close().await.unwrap();
        });
    }
}

/// Of spares and prepared files nothing is left when the log is open, and other files are let be.
#[test]
fn what_was_left_over_is_removed() {
    let sim = machine(10);
    sim.block_on(async { filled(&sim, 10).await.close().await.unwrap() });
    sim.write_file(format!("{DIR}/seawal-spare-0000000000000001.tmp"), vec![7; 5000]);
    sim.write_file(format!("{DIR}/seawal-next.tmp"), vec![7; 5000]);
    sim.write_file(format!("{DIR}/seawal-spare.txt"), vec![7; 5]);
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options(), How::Open).await.unwrap();
        wal.close().await.unwrap();
    });
    let left: Vec<String> =
        files(&sim).into_iter().filter(|name| !name.ends_with(".wal")).collect();
    assert_eq!(left, ["seawal-spare.txt"]);
}

/// Four segments of 16 KiB and what is around them.
fn bounded() -> Options {
    options().log_bytes_max(4 * (24 << 10))
}

#[test]
fn a_full_log_waits_until_something_is_released() {
    let sim = machine(11);
    sim.block_on(async {
        let wal = start_on(&sim, bounded(), How::OpenOrCreate).await.unwrap().0;
        let mut accepted = 0;
        for _ in 0..6 {
            // Until it is full: then the next ones wait.
            loop {
                accepted += 1;
                let ticket = wal.submit(payload(accepted, 2000)).await.unwrap();
                let disk = sim.disk(Options::new().disk_config());
                let full = pin!(disk.sleep(Duration::from_millis(300)));
                match futures_util::future::select(pin!(ticket), full).await {
                    futures_util::future::Either::Left((outcome, _)) => drop(outcome.unwrap()),
                    futures_util::future::Either::Right(_) => break,
                }
                assert!(accepted < 400, "it never gets full");
            }
            assert_eq!(files(&sim).len(), 4);
            assert_eq!(wal.durable_index(), accepted - 1);
            // What would let nothing go, lets the append wait on.
            wal.release(wal.first_index()).await.unwrap();
            settle(&sim).await;
            assert_eq!(wal.durable_index(), accepted - 1);
            wal.release(accepted - 3).await.unwrap();
            wal.wait_durable(accepted).await.unwrap();
            assert!(files(&sim).len() <= 4);
        }
        let entries = collect(wal.read(..)).await.unwrap();
        assert!(entries.iter().all(|entry| entry.data == payload(entry.index, 2000)));
        let too_large = wal.append(vec![0; 9000]).await.unwrap_err();
        assert_eq!(too_large.kind(), ErrorKind::TooLarge, "{too_large}");
        wal.close().await.unwrap();
    });
}

#[test]
fn a_full_log_fails_if_that_is_asked_for() {
    let sim = machine(12);
    sim.block_on(async {
        let options = bounded().when_full(crate::WhenFull::Fail);
        let wal = start_on(&sim, options, How::OpenOrCreate).await.unwrap().0;
        let mut full = 0;
        for index in 1..=200 {
            if let Err(error) = wal.append(&payload(index, 2000)[..]).await {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                full += 1;
                wal.release(wal.durable_index()).await.unwrap();
                settle(&sim).await;
            }
        }
        assert!((3..20).contains(&full), "{full} times");
        wal.close().await.unwrap();
    });
}

/// Closing a full log does not wait for a release that never comes.
#[test]
fn a_full_log_can_be_closed() {
    let sim = machine(13);
    sim.block_on(async {
        let wal = start_on(&sim, bounded(), How::OpenOrCreate).await.unwrap().0;
        let mut tickets = Vec::new();
        for index in 1..=60 {
            tickets.push(wal.submit(payload(index, 2000)).await.unwrap());
        }
        settle(&sim).await;
        let durable = wal.durable_index();
        assert!(durable < 60);
        wal.close().await.unwrap();
        for (at, ticket) in (1..).zip(tickets) {
            let outcome = ticket.await;
            assert_eq!(outcome.is_ok(), at <= durable, "{at}: {outcome:?}");
        }
        let (wal, recovery) = start_on(&sim, bounded(), How::Open).await.unwrap();
        assert_eq!(recovery.last_index, Some(durable));
        wal.close().await.unwrap();
    });
}

/// What the options do not want kept goes with the next cut.
#[test]
fn only_so_much_is_kept() {
    let week = Duration::from_secs(7 * 24 * 3600);
    for (options, kept) in [
        (options().retain_segments(4), 3..=5),
        (options().retain_bytes(80_000), 3..=6),
        (options().retain_age(week), 2..=5),
    ] {
        let sim = machine(14);
        sim.block_on(async {
            let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
            for index in 1..=60 {
                wal.append(&payload(index, 3000)[..]).await.unwrap();
            }
            sim.disk(Options::new().disk_config()).sleep(2 * week).await;
            for index in 61..=75 {
                wal.append(&payload(index, 3000)[..]).await.unwrap();
            }
            settle(&sim).await;
            let left = segments(&sim).len();
            assert!(kept.contains(&left), "{options:?}: {left} segments");
            let first = wal.first_index();
            assert!(first > 1);
            wal.close().await.unwrap();
            let (wal, recovery) = start_on(&sim, options.clone(), How::Open).await.unwrap();
            assert_eq!((recovery.first_index, recovery.last_index), (Some(first), Some(75)));
            wal.close().await.unwrap();
        });
    }
}

/// Retention does not let go of what Raft may still replace.
#[test]
fn what_is_not_committed_is_kept() {
    let sim = machine(15);
    sim.block_on(async {
        let wal = start_on(&sim, options().retain_segments(2), How::OpenOrCreate).await.unwrap().0;
        wal.save(HardState { term: 1, vote: 1, commit: 0 }, Vec::new()).await.unwrap();
        for index in 1..=60 {
            wal.append(&payload(index, 3000)[..]).await.unwrap();
        }
        settle(&sim).await;
        assert_eq!(wal.first_index(), 1);
        wal.save(HardState { term: 1, vote: 1, commit: 30 }, Vec::new()).await.unwrap();
        for index in 61..=70 {
            wal.append(&payload(index, 3000)[..]).await.unwrap();
        }
        settle(&sim).await;
        assert!((20..=31).contains(&wal.first_index()), "{}", wal.first_index());
        wal.close().await.unwrap();
    });
}

/// Entry 5 was being replaced when what is behind it was taken back. The old one could still be read, and was written again,
/// behind the new one: what was acked was gone (seed 4 of `tests/simulate`).
#[test]
fn what_is_on_its_way_is_not_undone() {
    for options in modes() {
        let sim = machine(16);
        sim.block_on(async {
            let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
            wal.append_batch((1..=8).map(|index| payload(index, 300))).await.unwrap();
            let entry = |index| Entry { index, term: 2, data: "new".into(), ..Entry::default() };
            let save = wal.save(HardState::default(), vec![entry(5), entry(6)]);
            let (saved, taken_back) = futures_util::future::join(save, wal.truncate_after(5)).await;
            saved.unwrap();
            taken_back.unwrap();
            assert_eq!((wal.last_index(), wal.get(5).await.unwrap()), (5, entry(5)));
            wal.close().await.unwrap();
            let (wal, _) = start_on(&sim, options.clone(), How::Open).await.unwrap();
            assert_eq!((wal.last_index(), wal.get(5).await.unwrap()), (5, entry(5)));
            wal.close().await.unwrap();
        });
    }
}

/// Who takes back what follows an entry that is not written yet waited for it; others took it back too, and it never came
/// (seed 1688 of `tests/simulate`).
#[test]
fn two_take_back_what_is_not_written_yet() {
    for options in modes() {
        let sim = machine(18);
        sim.block_on(async {
            let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
            wal.append_batch((1..=5).map(|index| payload(index, 300))).await.unwrap();
            let append = wal.append_batch((6..=10).map(|index| payload(index, 300)));
            let taken_back =
                futures_util::future::join3(append, wal.truncate_after(9), wal.truncate_after(3));
            let (appended, nine, three) = taken_back.await;
            appended.unwrap();
            three.unwrap();
            assert_eq!(nine.unwrap_err().kind(), ErrorKind::OutOfRange);
            assert_eq!(wal.last_index(), 3);
            wal.close().await.unwrap();
        });
    }
}

/// While what follows entry 15 was being taken back, entries up to 20 were released. Entry 15 was written again all the same;
/// the next one got index 21, and after a crash, which brought the entries back, the log was damaged.
#[test]
fn what_was_released_meanwhile_is_not_written_again() {
    let sim = machine(17);
    let options = options().segment_bytes(1 << 20).recent_bytes_max(0);
    sim.block_on(async {
        let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
        wal.append_batch((1..=40).map(|index| payload(index, 300))).await.unwrap();
        let mut taken_back = pin!(wal.truncate_after(15));
        let mut context = Context::from_waker(Waker::noop());
        assert!(taken_back.as_mut().poll(&mut context).is_pending(), "it reads entry 15");
        wal.release(20).await.unwrap();
        let error = taken_back.await.unwrap_err();
        assert_eq!((error.kind(), error.first_index()), (ErrorKind::Released, Some(21)));
        assert_eq!(wal.append("next").await.unwrap(), 41);
    });
    sim.kill();
    sim.block_on(async {
        let (wal, _) = start_on(&sim, options.clone(), How::Open).await.unwrap();
        assert_eq!((wal.first_index(), wal.last_index()), (1, 41));
        wal.close().await.unwrap();
    });
}

/// A file with another name is somebody's copy: it is not written to.
#[test]
fn what_has_another_name_is_not_used_again() {
    let sim = machine(16);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        let disk = sim.disk(Options::new().disk_config());
        let names = segments(&sim);
        for name in &names {
            let from = format!("{DIR}/{name}");
            disk.hard_link(Path::new(&from), Path::new(&format!("/data/{name}"))).await.unwrap();
        }
        let copies = |sim: &Sim| -> Vec<Vec<u8>> {
            let sealed = &names[..names.len() - 1];
            sealed.iter().map(|name| sim.read_file(format!("/data/{name}")).unwrap()).collect()
        };
        let before = copies(&sim);
        wal.release(35).await.unwrap();
        settle(&sim).await;
        for index in 41..=80 {
            wal.append(&payload(index, 3000)[..]).await.unwrap();
        }
        wal.release(75).await.unwrap();
        settle(&sim).await;
        assert!(segments(&sim)[0].seq > names[names.len() - 1].seq);
        assert!(before == copies(&sim));
        wal.close().await.unwrap();
    });
}

/// What could not be removed is tried again, and a log of fixed size gets its room after all.
#[test]
fn what_was_not_removed_is_tried_again() {
    let sim = machine(17);
    sim.block_on(async {
        let options = bounded().recycle(false).when_full(crate::WhenFull::Fail);
        let wal = start_on(&sim, options, How::OpenOrCreate).await.unwrap().0;
        let mut index = 0;
        let mut fill = async || {
            while wal.append(&payload(index + 1, 2000)[..]).await.is_ok() {
                index += 1;
            }
            index
        };
        let full = fill().await;
        assert_eq!(files(&sim).len(), 4);
        sim.fail_next(OpKind::Remove, EIO);
        wal.release(full).await.unwrap();
        settle(&sim).await;
        let again = fill().await;
        assert!(again > full, "what could be removed made room");
        wal.release(again).await.unwrap();
        settle(&sim).await;
        assert!(fill().await > again + (again - full) / 2, "and so did the rest, later");
        wal.close().await.unwrap();
    });
}

/// Where no segment can go, a release is only remembered: closing writes it down, a crash takes it back.
#[test]
fn a_release_that_frees_nothing_is_written_down_when_the_log_is_closed() {
    let sim = machine(18);
    let wal = sim.block_on(async {
        let wal = filled(&sim, 5).await;
        let written = wal.stats().bytes;
        wal.release(2).await.unwrap();
        assert_eq!((wal.first_index(), wal.stats().bytes), (3, written));
        wal.close().await.unwrap();
        let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
        assert_eq!(recovery.first_index, Some(3));
        wal.release(4).await.unwrap();
        assert_eq!(wal.first_index(), 5);
        wal
    });
    sim.kill();
    drop(wal);
    sim.block_on(async {
        let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
        assert_eq!(recovery.first_index, Some(3));
        wal.close().await.unwrap();
    });
}

/// The log opens, and has these entries.
async fn assert_opens(sim: &Sim, options: Options, indexes: std::ops::RangeInclusive<u64>) {
    let (wal, recovery) = start_on(sim, options, How::Open).await.unwrap();
    let (first, last) = (Some(*indexes.start()), Some(*indexes.end()));
    assert_eq!((recovery.first_index, recovery.last_index), (first, last));
    wal.close().await.unwrap();
}

/// A segment of ours whose three entries were released, and the next one, another writer's.
fn taken_over() -> (Vec<u8>, Vec<u8>) {
    use crate::recovery::tests::{Marked, Unmarked, entry};
    let mut ours = Marked::new(8);
    ours.group(MarkKind::Entries, &[1, 2, 3].map(|index| entry(index, b"ours")));
    let released = Snapshot { index: 3, term: 1, conf_state: None };
    ours.group(MarkKind::Release, &[Record::Release(released)]);
    let mut other = Unmarked { chain: ours.chain, ..Unmarked::default() };
    other.record(4, None);
    other.record(1, None);
    other.entry(4, b"another's");
    (ours.bytes, other.bytes)
}

/// Another writer took a log of ours over behind a release, and cut: the heads of its segments do not repeat what was
/// released. Once, opening removed the only segment that said so, and the log could not be opened from its beginning any
/// more. (Found by fuzzing.)
#[test]
fn the_segment_that_says_what_was_released_stays() {
    let (ours, other) = taken_over();
    let sim = machine(21);
    sim.write_file(format!("{DIR}/0000000000000000-0000000000000000.wal"), ours);
    sim.write_file(format!("{DIR}/0000000000000001-0000000000000003.wal"), other);
    sim.block_on(async {
        for last in [4, 5, 6] {
            let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
            assert_eq!((recovery.first_index, recovery.last_index), (Some(4), Some(last)));
            append(&wal, last + 1..=last + 1).await;
            settle(&sim).await;
            assert_eq!(segments(&sim).len(), 2);
            wal.close().await.unwrap();
        }
        let (wal, _) = start_on(&sim, options(), How::Open).await.unwrap();
        append(&wal, 8..=20).await;
        settle(&sim).await;
        assert_eq!(segments(&sim)[0].seq, Seq(1), "the head of a later one says it");
        wal.close().await.unwrap();
        assert_opens(&sim, options(), 4..=20).await;
    });
}

/// What was released is said by a segment that is not read any more: a gap follows it, and the next one is another
/// writer's. Once, the head of the next segment did not repeat it, the first was removed, and the log could not be opened
/// from its beginning any more. (Found by fuzzing.)
#[test]
fn heads_repeat_a_release_that_was_not_read() {
    let (ours, other) = taken_over();
    let sim = machine(24);
    sim.write_file(format!("{DIR}/0000000000000000-0000000000000000.wal"), ours);
    sim.write_file(format!("{DIR}/0000000000000002-0000000000000003.wal"), other);
    sim.block_on(async {
        let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
        assert_eq!((recovery.first_index, recovery.last_index), (Some(4), Some(4)));
        append(&wal, 5..=20).await;
        settle(&sim).await;
        assert_eq!(segments(&sim)[0].seq, Seq(2), "the head of a later one says it");
        wal.close().await.unwrap();
        assert_opens(&sim, options(), 4..=20).await;
    });
}

/// Where no segment's name reaches back to what was released, all there are are read: and a gap between them is damage as
/// elsewhere. Once, such a log opened, and could not be read. (Found by fuzzing.)
#[test]
fn a_gap_is_found_where_no_segment_reaches_back() {
    use crate::recovery::tests::{Marked, Unmarked, entry};
    let mut ours = Marked::new(8);
    ours.group(MarkKind::Release, &[Record::Release(Snapshot { index: 4, ..Snapshot::default() })]);
    ours.group(MarkKind::Entries, &[entry(5, b"ours")]);
    let mut other = Unmarked { chain: ours.chain, ..Unmarked::default() };
    other.record(4, None);
    other.entry(6, b"another's");
    let sim = machine(22);
    sim.write_file(format!("{DIR}/0000000000000000-00000000000000e9.wal"), ours.bytes);
    sim.write_file(format!("{DIR}/0000000000000004-0000000000000028.wal"), other.bytes);
    let error = sim.block_on(start_on(&sim, options(), How::Open)).unwrap_err();
    assert!(error.is_damaged() && error.to_string().contains("segment 1 is missing"), "{error}");
}

/// Only a segment before a gap says that the snapshot was committed. Once, the log was opened there, what said so was
/// removed, and the log could not be opened any more. (Found by fuzzing.)
#[test]
fn what_lies_before_a_gap_commits_no_snapshot() {
    use crate::recovery::tests::Unmarked;
    let (mut left_over, mut newest) = (Unmarked::new(), Unmarked::new());
    left_over.record(3, Some(Bytes::from_static(&[0x08, 9, 0x10, 0, 0x18, 99])));
    newest.record(5, Some(Bytes::from_static(&[0x08, 85, 0x10, 9])));
    let sim = machine(26);
    sim.write_file(format!("{DIR}/0000000000000005-00000000000000b5.wal"), left_over.bytes);
    sim.write_file(format!("{DIR}/0000000000000007-0000000000000000.wal"), newest.bytes);
    let latest = || options().start(Start::LatestSnapshot);
    sim.block_on(async {
        let (wal, recovery) = start_on(&sim, latest(), How::Open).await.unwrap();
        assert_eq!(recovery.snapshot, None);
        append(&wal, 1..=20).await;
        settle(&sim).await;
        wal.close().await.unwrap();
        assert_opens(&sim, latest(), 1..=20).await;
    });
}

/// What was released last is not to be read any more, as a bit of it has rotted: that is told, and not that entries are
/// missing which it speaks of. (Found by the simulator, seed 4942.)
#[test]
fn a_release_that_has_rotted_is_what_is_told() {
    use crate::recovery::tests::{Marked, entry};
    let release = |index| Record::Release(Snapshot { index, term: 1, conf_state: None });
    let mut ours = Marked::new(8);
    ours.group(MarkKind::Release, &[release(58)]);
    ours.group(MarkKind::Entries, &[entry(147, b"the first that is left")]);
    ours.group(MarkKind::Release, &[release(147)]);
    ours.group(MarkKind::Entries, &[entry(148, b"behind that")]);
    let sim = machine(25);
    let path = format!("{DIR}/0000000000000000-0000000000000093.wal");
    sim.write_file(&path, ours.bytes);
    let (wal, recovery) = sim.block_on(start_on(&sim, options(), How::Open)).unwrap();
    assert_eq!((recovery.first_index, recovery.last_index), (Some(148), Some(148)));
    sim.kill();
    drop(wal);
    // Behind the mark, the length and the tag of the type: a crc record, which says what nobody looks at.
    let at = ours.groups[3] + MARK_FRAME_BYTES + 9;
    sim.corrupt(&path, at as usize, 1);
    let error = sim.block_on(start_on(&sim, options(), How::Open)).unwrap_err();
    assert!(error.is_damaged(), "{error}");
    assert_eq!(error.offset(), Some(at - 9), "{error}");
}

/// No log releases up to index 0. Once, such a record was taken in with whatever term it had, the next cut repeated it in
/// the head of its segment, and the log could not be opened any more. (Found by fuzzing.)
#[test]
fn a_release_of_nothing_is_a_snapshot_record_as_any_other() {
    use crate::recovery::tests::{Marked, entry};
    for (term, opens) in [(0, true), (7, false)] {
        let mut ours = Marked::new(8);
        let nothing = Snapshot { index: 0, term, conf_state: None };
        ours.group(MarkKind::Release, &[Record::Release(nothing)]);
        ours.group(MarkKind::Entries, &[entry(1, b"ours")]);
        let sim = machine(23);
        sim.write_file(format!("{DIR}/0000000000000000-0000000000000000.wal"), ours.bytes);
        sim.block_on(async {
            let opened = start_on(&sim, options(), How::Open).await;
            let Ok((wal, _)) = opened else {
                let error = opened.unwrap_err();
                assert!(error.is_damaged() && !opens, "{error}");
                return;
            };
            assert!(opens, "etcd's reader refuses a snapshot record of index 0 and term {term}");
            append(&wal, 2..=20).await;
            wal.close().await.unwrap();
            assert_opens(&sim, options(), 1..=20).await;
        });
    }
}

/// A record that is larger than a segment does not take the space that is left for the record of a release.
#[test]
fn a_large_record_leaves_room_for_a_release() {
    let sim = machine(20);
    sim.block_on(async {
        let wal = filled(&sim, 20).await;
        settle(&sim).await;
        sim.set_free_bytes(Some(0));
        // It would fill the next segment almost to its end.
        let error = wal.append(vec![7; 24_150]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        wal.release(20).await.unwrap();
        settle(&sim).await;
        assert!(segments(&sim).len() < 3, "{:?}", segments(&sim));
        wal.close().await.unwrap();
    });
}
