//! Stories of readers: where what they read comes from, what it costs, and what becomes of it when the disk is not to be
//! trusted.

use super::*;
use crate::read::tail::Tail;
use futures_util::FutureExt;
use futures_util::future::{Either, join, join_all, select};
use std::pin::pin;

/// Nothing is kept in memory: all that is read comes from the files.
fn forgetful(segment_bytes: u64) -> Options {
    options().recent_bytes_max(0).idle_mark_after(None).segment_bytes(segment_bytes)
}

async fn create(sim: &Sim, options: &Options) -> Wal {
    start_on(sim, options.clone(), How::OpenOrCreate).await.unwrap().0
}

async fn take(tail: &mut Tail, count: usize) -> Vec<Entry> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(tail.next().await.expect("the log is open").unwrap());
    }
    taken
}

/// The entries of these records, from index 1 on.
fn entries_of(records: &[Bytes]) -> Vec<Entry> {
    let entry = |(index, data): (u64, &Bytes)| Entry {
        index,
        term: 1,
        data: data.clone(),
        ..Entry::default()
    };
    (1..).zip(records).map(entry).collect()
}

/// Through a dozen cuts, in every way of writing: who asks after each append finds the record in memory.
#[test]
fn a_tail_that_keeps_up_reads_no_file() {
    for options in modes() {
        let sim = machine(1);
        sim.block_on(async {
            let wal = create(&sim, &options).await;
            let mut tail = wal.tail(1);
            for n in 1..=400 {
                wal.append(payload(n, 2000)).await.unwrap();
                let entry = tail.next().now_or_never().expect("it is in memory").unwrap().unwrap();
                assert_eq!((entry.index, entry.data), (n, payload(n, 2000)));
            }
            let stats = wal.stats();
            assert!(stats.cuts > 10, "{} cuts", stats.cuts);
            assert_eq!(stats.pieces_read, 0, "{}", mode(&options));
            wal.close().await.unwrap();
            assert!(tail.next().await.is_none());
        });
    }
}

/// A tail stops for a while, and what it had not read is gone from memory: it goes on in the files, over all cuts, and at
/// the end of the log in memory again.
#[test]
fn a_tail_that_fell_behind_comes_back() {
    for options in modes() {
        let options = options.recent_bytes_max(64 << 10);
        let sim = machine(2);
        sim.block_on(async {
            let wal = create(&sim, &options).await;
            let mut tail = wal.tail(1);
            let records: Vec<Bytes> = (1..=200).map(|n| payload(n, 2000)).collect();
            for (n, record) in records.iter().enumerate() {
                wal.append(record.clone()).await.unwrap();
                if n < 5 {
                    take(&mut tail, 1).await;
                }
            }
            assert_eq!(wal.stats().pieces_read, 0);
            assert_eq!(take(&mut tail, 195).await, entries_of(&records)[5..]);
            let pieces = wal.stats().pieces_read;
            assert!(pieces > 0, "400 KB do not lie in 64 KiB");
            for n in 201..230 {
                wal.append(payload(n, 2000)).await.unwrap();
                assert_eq!(take(&mut tail, 1).await[0].data, payload(n, 2000));
            }
            assert_eq!(wal.stats().pieces_read, pieces, "it has come back");
            wal.close().await.unwrap();
        });
    }
}

/// A hundred follow one log, fast ones and slow ones, and each is given all of it.
#[test]
fn a_hundred_tails() {
    let sim = machine(3);
    let options = direct().recent_bytes_max(32 << 10);
    sim.block_on(async {
        let wal = create(&sim, &options).await;
        let records: Vec<Bytes> = (1..=60).map(|n| payload(n, 1500)).collect();
        let levels = [Durability::Durable, Durability::Written];
        let tails = (0..100).map(|n| {
            let (sim, mut tail) = (sim.clone(), wal.with_durability(levels[n % 2]).tail(1));
            async move {
                let mut taken = Vec::new();
                while taken.len() < 60 {
                    taken.extend(take(&mut tail, 1).await);
                    sim.sleep(Duration::from_micros(n as u64 * 20)).await;
                }
                taken
            }
        });
        let appends = async {
            for record in &records {
                wal.append(record.clone()).await.unwrap();
            }
        };
        let ((), all) = join(appends, join_all(tails)).await;
        let wanted = entries_of(&records);
        assert!(all.iter().all(|taken| *taken == wanted));
        wal.close().await.unwrap();
    });
}

/// Who takes an entry and leaves it at that has had a piece read, not the next ones too.
#[test]
fn pieces_are_read_when_they_are_wanted() {
    let sim = machine(4);
    sim.block_on(async {
        let wal = create(&sim, &forgetful(8 << 20)).await;
        wal.append_batch((1..=2000).map(|n| payload(n, 1000))).await.unwrap();
        let mut read = wal.read(..);
        assert_eq!(read.next().await.unwrap().unwrap().index, 1);
        sim.sleep(Duration::from_millis(50)).await;
        assert_eq!(wal.stats().pieces_read, 1);
        for index in 2..=2000 {
            assert_eq!(read.next().await.unwrap().unwrap().index, index);
        }
        wal.close().await.unwrap();
    });
}

/// An entry somewhere in 4 MB: about 64 KiB before it are read, and not the segment.
#[test]
fn a_get_reads_a_piece_and_not_the_segment() {
    let sim = machine(4);
    sim.block_on(async {
        let wal = create(&sim, &forgetful(8 << 20)).await;
        for at in 0..40 {
            wal.append_batch((1..=100).map(|n| payload(at * 100 + n, 1000))).await.unwrap();
        }
        for index in [1, 77, 2000, 2001, 3333, 3999] {
            let before = wal.stats().pieces_read;
            assert_eq!(wal.get(index).await.unwrap().data, payload(index, 1000));
            let pieces = wal.stats().pieces_read - before;
            assert!((1..=2).contains(&pieces), "{pieces} pieces for entry {index}");
        }
        assert_eq!(wal.stats().cuts, 0);
        wal.close().await.unwrap();
    });
}

/// Frames end wherever they like: before, behind and across the ends of pieces, and one is longer than several of those.
#[test]
fn frames_lie_across_pieces() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut records: Vec<Bytes> = (1..=80)
        .map(|n| {
            payload(n, rng.usize([8, 300, 60_000, 200_000][n as usize % 4]..=200_000) % 200_000)
        })
        .collect();
    records.insert(20, payload(1000, 5 << 20));
    records.insert(60, payload(1001, (1 << 20) - 40));
    let wanted = entries_of(&records);
    for segment_bytes in [64 << 10, 64 << 20] {
        let sim = machine(5);
        let options = forgetful(segment_bytes);
        sim.block_on(async {
            let wal = create(&sim, &options).await;
            let mut tail = wal.tail(1);
            for record in &records {
                wal.append(record.clone()).await.unwrap();
            }
            assert!(take(&mut tail, wanted.len()).await == wanted);
            wal.close().await.unwrap();
            // Found by recovery, and not by what was noted when it was written.
            let wal = create(&sim, &options).await;
            assert!(collect(wal.read(..)).await.unwrap() == wanted);
            for entry in &wanted {
                assert!(wal.get(entry.index).await.unwrap() == *entry, "{}", entry.index);
            }
            wal.close().await.unwrap();
        });
    }
}

#[test]
fn what_is_collected_has_a_limit() {
    let sim = machine(6);
    sim.block_on(async {
        let wal = create(&sim, &options()).await;
        wal.append_batch((1..=3).map(|n| payload(n, 100))).await.unwrap();
        assert_eq!(wal.read(..).collect_within(300).await.unwrap().len(), 3);
        let error = wal.read(..).collect_within(299).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        assert!(error.to_string().contains("300 bytes"), "{error}");
        wal.close().await.unwrap();
    });
}

/// A byte of a durable record rots while the log is open. What lies before it is read; it is not, nor anything behind it, and
/// whoever comes there is told the file and the place. A length that became zero does not look like the end of the file.
#[test]
fn rot_under_an_open_log_is_damage() {
    let sim = machine(7);
    let records: Vec<Bytes> = (1..=20).map(|n| payload(n, 1024)).collect();
    sim.block_on(async {
        let (wal, path, file) = on_disk(&sim, &records).await;
        let (frame, data) = frame_of(&file, &records[9]);
        let length: Vec<(usize, u8)> = (frame..frame + 7).map(|at| (at, file[at])).collect();
        let mut rots = vec![length.into_iter().filter(|(_, byte)| *byte > 0).collect()];
        rots.extend((0..1024).step_by(61).map(|n| vec![(data + n, 1 << (n % 8))]));
        rots.extend((frame..frame + 7).map(|at| vec![(at, 1 << 6)]));
        for rot in rots {
            rot.iter().for_each(|&(at, xor)| sim.corrupt(&path, at, xor));
            let damaged = |error: Error| {
                assert!(error.is_damaged(), "{rot:?}: {error}");
                assert_eq!(error.path(), Some(Path::new(&path)), "{rot:?}: {error}");
                assert_eq!(error.offset(), Some(frame as u64), "{rot:?}: {error}");
            };
            damaged(wal.get(10).await.unwrap_err());
            let mut read = wal.read(..);
            let mut tail = wal.tail(1);
            for record in &records[..9] {
                assert_eq!(read.next().await.unwrap().unwrap().data, record);
                assert_eq!(take(&mut tail, 1).await[0].data, record);
            }
            for next in [read.next().await, tail.next().await] {
                match next.expect("an error comes") {
                    Ok(entry) => panic!("{rot:?}: handed out, {}", entry.data == records[9]),
                    Err(error) => damaged(error),
                }
            }
            assert!(read.next().await.is_none() && tail.next().await.is_none());
            rot.iter().for_each(|&(at, xor)| sim.corrupt(&path, at, xor));
        }
        assert_eq!(wal.get(10).await.unwrap().data, records[9]);
        wal.close().await.unwrap();
    });
}

/// Nothing in etcd's format covers the type of a record: an entry that became something else is passed over by whoever
/// looks for entries. That there is a hole shows by the indexes, also where it is the last entry.
#[test]
fn an_entry_that_became_something_else_is_missed() {
    let sim = machine(7);
    let records: Vec<Bytes> = (1..=5).map(|n| payload(n, 1024)).collect();
    sim.block_on(async {
        let (wal, path, file) = on_disk(&sim, &records).await;
        for (at, record) in records.iter().enumerate() {
            let (frame, _) = frame_of(&file, record);
            assert_eq!(file[frame + 8..frame + 10], [8, 2], "an entry");
            sim.corrupt(&path, frame + 9, 1);
            let index = at as u64 + 1;
            let (mut read, mut tail) = (wal.read(..), wal.tail(1));
            for record in &records[..at] {
                assert_eq!(read.next().await.unwrap().unwrap().data, record);
                assert_eq!(take(&mut tail, 1).await[0].data, record);
            }
            let outcomes = [Some(wal.get(index).await), read.next().await, tail.next().await];
            for outcome in outcomes {
                let error = outcome.expect("an error comes").unwrap_err();
                assert!(error.is_damaged(), "{index}: {error}");
                assert_eq!(error.path(), Some(Path::new(&path)), "{index}: {error}");
                assert!(error.to_string().contains(&format!("entry {index} ")), "{error}");
            }
            sim.corrupt(&path, frame + 9, 1);
        }
        wal.close().await.unwrap();
    });
}

/// A log of these records that keeps nothing in memory, and its one segment.
async fn on_disk(sim: &Sim, records: &[Bytes]) -> (Wal, String, Vec<u8>) {
    let wal = create(sim, &forgetful(1 << 20)).await;
    for record in records {
        wal.append(record.clone()).await.unwrap();
    }
    let path = format!("{DIR}/{:016x}-{:016x}.wal", 0, 0);
    let file = sim.read_file(&path).unwrap();
    (wal, path, file)
}

/// Where the frame of a record of 1,024 bytes begins, and where its payload.
fn frame_of(file: &[u8], record: &[u8]) -> (usize, usize) {
    let data = (0..file.len()).find(|at| file[*at..].starts_with(record)).expect("it is there");
    let length = |at| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) << 8 >> 8;
    let is_frame = |at: &usize| at.is_multiple_of(8) && (1024..1060).contains(&length(*at));
    let frame = (data - 40..data).rfind(is_frame).expect("a frame begins before it");
    (frame, data)
}

/// The kernel has a record, the disk does not yet: one tail sees it, the other waits for the sync.
#[test]
fn each_tail_goes_by_its_own_mark() {
    for options in modes() {
        for recent_bytes_max in [0, 8 << 20] {
            let options = options
                .clone()
                .idle_mark_after(None)
                .sync_interval(Duration::from_secs(3600))
                .recent_bytes_max(recent_bytes_max);
            let sim = machine(8);
            sim.block_on(async {
                let wal = create(&sim, &options).await;
                let quick = wal.with_durability(Durability::Written);
                let (mut durable, mut written) = (wal.tail(1), quick.tail(1));
                quick.append("soon").await.unwrap();
                assert_eq!(take(&mut written, 1).await[0].data, "soon");
                let patience = sim.sleep(Duration::from_millis(50));
                match select(pin!(durable.next()), pin!(patience)).await {
                    Either::Left((early, _)) => panic!("not durable yet: {early:?}"),
                    Either::Right(_) => {}
                }
                wal.sync().await.unwrap();
                assert_eq!(take(&mut durable, 1).await[0].data, "soon");
                wal.close().await.unwrap();
            });
        }
    }
}

/// A write fails and the log is poisoned. What was durable is still read, from memory and from the files; a tail is told of
/// the failure behind it.
#[test]
fn a_poisoned_log_is_read() {
    for recent_bytes_max in [0, 8 << 20] {
        let sim = machine(9);
        sim.block_on(async {
            let wal = create(&sim, &options().recent_bytes_max(recent_bytes_max)).await;
            let records: Vec<Bytes> = (1..=30).map(|n| payload(n, 1500)).collect();
            for record in &records {
                wal.append(record.clone()).await.unwrap();
            }
            let mut tail = wal.tail(1);
            sim.fail_next(OpKind::Write, EIO);
            assert!(wal.append("lost").await.unwrap_err().is_poisoned());
            assert_eq!(take(&mut tail, 30).await, entries_of(&records));
            assert!(tail.next().await.unwrap().unwrap_err().is_poisoned());
            assert!(tail.next().await.is_none());
            assert_eq!(wal.get(7).await.unwrap().data, records[6]);
            assert_eq!(collect(wal.read(..)).await.unwrap(), entries_of(&records));
            assert!(wal.close().await.is_err());
        });
    }
}

/// Raft replaces entries of a range while it is read. Old entries in front and new ones behind were never one log: whoever
/// reads is told.
#[test]
fn a_range_is_of_one_log() {
    for recent_bytes_max in [0, 8 << 20] {
        let sim = machine(9);
        sim.block_on(async {
            let options = super::options().recent_bytes_max(recent_bytes_max);
            let wal = create(&sim, &options).await;
            let entry =
                |index, term| Entry { index, term, data: payload(index, 50), ..Entry::default() };
            let entries = |range: std::ops::Range<u64>, term| {
                range.map(|index| entry(index, term)).collect::<Vec<_>>()
            };
            wal.save(HardState::default(), entries(1..401, 1)).await.unwrap();
            let (mut long, mut short) = (wal.read(..), wal.read(1..=20));
            for index in 1..=10 {
                assert_eq!(long.next().await.unwrap().unwrap().index, index);
                assert_eq!(short.next().await.unwrap().unwrap().index, index);
            }
            wal.save(HardState::default(), entries(5..401, 2)).await.unwrap();
            let mut terms = Vec::new();
            let error = loop {
                match long.next().await.expect("the range has not ended") {
                    Ok(entry) => terms.push(entry.term),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Replaced, "{error}");
            assert!(terms.iter().all(|term| *term == 1), "{terms:?}");
            assert!(long.next().await.is_none());
            // What is handed out to its end was the log at some time.
            while let Some(entry) = short.next().await {
                assert_eq!(entry.unwrap().term, 1);
            }
            let again = collect(wal.read(..)).await.unwrap();
            assert!(again.iter().all(|entry| (entry.index < 5) == (entry.term == 1)));
            wal.close().await.unwrap();
        });
    }
}
