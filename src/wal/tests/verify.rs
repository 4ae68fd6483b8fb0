//! Checking an open log: what opening did not look at is found, and nothing else suffers.

use super::*;
use crate::format::frame::FrameLength;
use crate::recovery::verify::VerifiedSegment;
use crate::types::Seq;
use futures_util::StreamExt;

fn options() -> Options {
    super::options().start(Start::LatestSnapshot)
}

/// Some segments, a snapshot, and some more.
async fn make(sim: &Sim) -> Wal {
    let (wal, _) = start_on(sim, super::options(), How::OpenOrCreate).await.unwrap();
    wal.save(HardState { term: 1, vote: 0, commit: 40 }, Vec::new()).await.unwrap();
    for n in 1..=40 {
        wal.append(payload(n, 1500)).await.unwrap();
    }
    wal.save_snapshot(Snapshot { index: 40, term: 1, conf_state: None }).await.unwrap();
    for n in 41..=80 {
        wal.append(payload(n, 1500)).await.unwrap();
    }
    wal
}

async fn segments(sim: &Sim) -> Vec<dir::SegmentFile> {
    let disk = sim.disk(super::options().disk_config());
    dir::list_log(&disk, Path::new(DIR)).await.unwrap()
}

/// Where groups may end: frames of segments that are packed.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(field) = bytes.get(at..at + 8).filter(|field| *field != [0; 8]) {
        let length = FrameLength::from_bytes(field.try_into().unwrap());
        at += length.total() as usize;
        ends.push(at);
    }
    ends
}

async fn all(wal: &Wal) -> Vec<Result<VerifiedSegment>> {
    wal.verify().collect().await
}

#[test]
fn clean_log_yields_all_sealed_segments() {
    let sim = machine(1);
    sim.block_on(async {
        let wal = make(&sim).await;
        let segments = segments(&sim).await;
        let (_, sealed) = segments.split_last().unwrap();
        let sealed = &segments[..sealed.len()];
        assert!(sealed.len() > 5);
        let found: Vec<VerifiedSegment> = all(&wal).await.into_iter().map(Result::unwrap).collect();
        let mut total = 0;
        assert_eq!(found.len(), sealed.len());
        for (at, (found, segment)) in found.iter().zip(sealed).enumerate() {
            let bytes = sim.read_file(&segment.path).unwrap().len() as u64;
            total += bytes;
            let expected = VerifiedSegment {
                seq: segment.name.seq,
                path: segment.path.clone(),
                bytes,
                bytes_total: total,
                segments_left: sealed.len() - at - 1,
            };
            assert_eq!(found, &expected);
        }
        wal.close().await.unwrap();
        let closed = all(&wal).await;
        assert_eq!(closed.len(), 1);
        assert!(closed[0].as_ref().unwrap_err().is_closed());
    });
}

/// Opened at the latest snapshot, a log with damage before it opens. Checking finds each damage at the place where
/// opening from the beginning finds it, and goes on behind it.
#[test]
fn damage_before_the_snapshot_is_found() {
    let sim = machine(1);
    sim.block_on(async {
        let wal = make(&sim).await;
        wal.close().await.unwrap();
        let segments = segments(&sim).await;
        for damaged in [0, 1, 2] {
            sim.corrupt(&segments[damaged].path, 5000, 0x10);
            let (wal, recovery) = start_on(&sim, options(), How::Open).await.unwrap();
            assert_eq!(recovery.snapshot.as_ref().map(|s| s.index), Some(40));
            let refused = start_on(&sim, super::options(), How::Read).await.unwrap_err();
            let (reader, _) = start_on(&sim, options(), How::Read).await.unwrap();
            for found in [all(&wal).await, all(&reader).await] {
                assert_eq!(found.len(), segments.len() - 1);
                for (at, outcome) in found.iter().enumerate() {
                    assert_eq!(outcome.is_err(), at == damaged, "{at}: {outcome:?}");
                }
                let error = found[damaged].as_ref().unwrap_err();
                assert!(error.is_damaged(), "{error}");
                assert_eq!((error.path(), error.offset()), (refused.path(), refused.offset()));
                assert_eq!(error.to_string(), refused.to_string());
            }
            wal.close().await.unwrap();
            drop(reader);
            sim.corrupt(&segments[damaged].path, 5000, 0x10);
        }
    });
}

/// A segment that is sound by itself, but not what the one before it goes on with.
#[test]
fn segments_that_do_not_continue_each_other_are_found() {
    let sim = machine(1);
    sim.block_on(async {
        let wal = make(&sim).await;
        let segments = segments(&sim).await;
        let disk = sim.disk(super::options().disk_config());
        // Cut off behind its head: sound, but short.
        let whole = sim.read_file(&segments[1].path).unwrap();
        sim.write_file(&segments[1].path, whole[..4096].to_vec());
        let found = all(&wal).await;
        let bad: Vec<usize> = (0..found.len()).filter(|&at| found[at].is_err()).collect();
        assert!(!bad.is_empty() && bad.iter().all(|at| [1, 2].contains(at)), "{bad:?}");
        sim.write_file(&segments[1].path, whole);
        // The same with the last one: it shows at the head of the active one, which is not looked into otherwise.
        let (active, last) = (&segments[segments.len() - 1], &segments[segments.len() - 2]);
        let whole = sim.read_file(&last.path).unwrap();
        sim.write_file(&last.path, whole[..frame_ends(&whole)[4]].to_vec());
        let found = all(&wal).await;
        assert_eq!(found.len(), segments.len());
        let error = found[segments.len() - 1].as_ref().unwrap_err();
        assert!(error.is_damaged(), "{error}");
        assert_eq!((error.path(), error.offset()), (Some(&*active.path), Some(0)));
        assert_eq!(found.iter().filter(|outcome| outcome.is_err()).count(), 1);
        sim.write_file(&last.path, whole);
        // Gone altogether.
        disk.remove_file(&segments[2].path).await.unwrap();
        let found = all(&wal).await;
        assert_eq!(found.len(), segments.len() - 1);
        let error = found[2].as_ref().unwrap_err();
        assert!(error.to_string().contains("segment 2 is missing"), "{error}");
        assert_eq!(found.iter().filter(|outcome| outcome.is_err()).count(), 1);
        wal.close().await.unwrap();
    });
}

#[test]
fn appends_and_cuts_go_on_meanwhile() {
    for options in modes() {
        let sim = machine(1);
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options, How::OpenOrCreate).await.unwrap();
            let mut n = 0;
            while wal.stats().cuts < 4 {
                n += 1;
                wal.append(payload(n, 1500)).await.unwrap();
            }
            let mut verification = wal.verify();
            let cuts = wal.stats().cuts;
            let mut found = Vec::new();
            // A cut or more between any two of them.
            while let Some(segment) = verification.next().await {
                found.push(segment.unwrap().seq);
                let before = wal.stats().cuts;
                while wal.stats().cuts == before {
                    n += 1;
                    wal.append(payload(n, 1500)).await.unwrap();
                }
            }
            let expected: Vec<Seq> = (0..cuts).map(Seq).collect();
            assert_eq!(found, expected, "those that were sealed when it was asked for");
            assert_eq!(all(&wal).await.len() as u64, wal.stats().cuts);
            wal.close().await.unwrap();
        });
    }
}

/// Dropped after its first item, it reads no more than the segment it had begun.
#[test]
fn dropping_it_ends_it() {
    let sim = machine(1);
    sim.block_on(async {
        let wal = make(&sim).await;
        let mut verification = wal.verify();
        verification.next().await.unwrap().unwrap();
        drop(verification);
        sim.sleep(Duration::from_secs(1)).await;
        let reads = |sim: &Sim| sim.trace().iter().filter(|e| e.op == OpKind::Read).count();
        let before = reads(&sim);
        sim.sleep(Duration::from_secs(60)).await;
        assert_eq!(reads(&sim), before);
        let opened: std::collections::BTreeSet<_> = sim
            .trace()
            .iter()
            .filter(|e| e.op == OpKind::Read && e.detail.contains("offloaded"))
            .map(|e| e.path.clone())
            .collect();
        assert!(opened.len() <= 3, "{opened:?}");
        wal.close().await.unwrap();
    });
}

/// Closing does not wait for it, and the stream says that the log is gone.
#[test]
fn closing_ends_it() {
    let sim = machine(1);
    sim.block_on(async {
        let wal = make(&sim).await;
        let mut verification = wal.verify();
        wal.close().await.unwrap();
        let mut last = None;
        while let Some(outcome) = verification.next().await {
            last = Some(outcome);
        }
        assert!(last.unwrap().unwrap_err().is_closed());
    });
}
