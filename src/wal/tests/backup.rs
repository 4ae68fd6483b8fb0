//! Copies of a log that is being written.

use super::*;
use crate::backup::{Backup, CopyBy};
use crate::segment::name::SegmentName;

const TO: &str = "/backup/log";

fn machine(seed: u64) -> Sim {
    let sim = super::machine(seed);
    sim.create_dir("/backup");
    sim
}

async fn start_at(sim: &Sim, dir: &str, options: Options, how: How) -> Result<(Wal, Recovery)> {
    super::super::start_on(|config| sim.disk(config), Path::new(dir), options, how).await
}

fn segments(sim: &Sim, dir: &str) -> Vec<String> {
    let names = sim.list_dir(dir).unwrap_or_default().into_iter();
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| SegmentName::parse(name).is_some()).collect()
}

/// All names and bytes.
fn contents(sim: &Sim, dir: &str) -> Vec<(String, Vec<u8>)> {
    let names = sim.list_dir(dir).unwrap_or_default().into_iter();
    let names = names.map(|name| name.into_string().unwrap());
    names.map(|name| (name.clone(), sim.read_file(format!("{dir}/{name}")).unwrap())).collect()
}

/// The entries of the log in a directory, which is not changed.
async fn entries_at(sim: &Sim, dir: &str) -> Result<Vec<Entry>> {
    let (reader, _) = start_at(sim, dir, options(), How::Read).await?;
    collect(reader.read(..)).await
}

/// Whether a backup holds just these entries of [`append`], and nothing else lies there.
#[track_caller]
fn assert_holds(sim: &Sim, entries: &[Entry], backup: &Backup, first: u64) {
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, (first..=backup.last_index).collect::<Vec<_>>());
    assert!(entries.iter().all(|entry| entry.data == payload(entry.index, 3000)));
    let names = contents(sim, TO);
    assert_eq!(names.len(), backup.segments, "nothing else: {names:?}");
    let (newest, bytes) = names.last().unwrap();
    let seq = SegmentName::parse(newest).unwrap().seq;
    assert_eq!((seq, bytes.len() as u64), (backup.position.seq, backup.position.offset));
}

#[test]
fn a_backup_holds_what_was_durable_when_it_began() {
    for options in modes() {
        let sim = machine(1);
        sim.block_on(async {
            let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
            let writer = wal.clone();
            sim.spawn(async move {
                for index in 1..=150 {
                    if writer.append(&payload(index, 3000)[..]).await.is_err() {
                        return;
                    }
                    if index % 40 == 0 {
                        writer.release(index - 30).await.unwrap();
                    }
                }
            });
            let mut new = Vec::new();
            while wal.durable_index() < 150 {
                let (first, durable) = (wal.first_index(), wal.durable_index());
                let backup = wal.backup(TO).await.unwrap();
                let during = wal.durable_index();
                assert_eq!(backup.last_index, durable, "{}", mode(&options));
                new.push((backup.segments_new, during - durable));
                let entries = entries_at(&sim, TO).await.unwrap();
                assert_holds(&sim, &entries, &backup, first);
                sim.sleep(Duration::from_millis(1)).await;
            }
            assert!(new.len() > 3 && new.iter().any(|new| new.1 > 0), "{new:?}");
            let backup = wal.backup(TO).await.unwrap();
            let again = wal.backup(TO).await.unwrap();
            assert_eq!((again.segments_new, again.bytes_copied), (0, 0));
            assert_eq!((again.segments, again.last_index), (backup.segments, 150));
            wal.close().await.unwrap();
            // It can be appended to.
            let (copy, recovery) = start_at(&sim, TO, options.clone(), How::Open).await.unwrap();
            assert_eq!((recovery.verdict, recovery.last_index), (Verdict::Clean, Some(150)));
            assert_eq!(copy.append("more").await.unwrap(), 151);
            copy.close().await.unwrap();
        });
    }
}

#[test]
fn only_what_is_new_is_copied() {
    let sim = machine(2);
    sim.block_on(async {
        let wal = filled(&sim, 0).await;
        // Full segments keep the space behind their records, which is not copied.
        sim.fail_once_in(OpKind::Truncate, 1, EIO);
        append(&wal, 1..=40).await;
        settle(&sim).await;
        sim.clear_faults();
        let path = format!("{DIR}/{}", segments(&sim, DIR)[0]);
        assert!(sim.read_file(path).unwrap().len() > 16_000);
        let first = wal.backup(TO).await.unwrap();
        assert_eq!((first.segments_new, first.segments_removed), (first.segments, 0));
        let bytes: usize = contents(&sim, TO).iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(first.bytes_copied, bytes as u64);
        append(&wal, 41..=41).await;
        let second = wal.backup(TO).await.unwrap();
        assert!(second.segments_new <= 2 && second.bytes_copied <= 32 << 10, "{second:?}");
        wal.release(30).await.unwrap();
        settle(&sim).await;
        let third = wal.backup(TO).await.unwrap();
        assert!(third.segments_removed > 4, "{third:?}");
        assert_eq!(segments(&sim, TO), segments(&sim, DIR));
        assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &third, 31);
        wal.close().await.unwrap();
    });
}

/// No segment goes while it is copied.
#[test]
fn a_release_waits_for_the_backup() {
    let sim = machine(3);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        sim.set_latency(OpKind::Read, Duration::from_millis(5));
        let backup = std::pin::pin!(wal.backup(TO));
        let release = async {
            sim.sleep(Duration::from_millis(10)).await;
            wal.release(38).await.unwrap();
            settle_little(&sim).await;
            assert_eq!(segments(&sim, DIR)[0], "0000000000000000-0000000000000000.wal");
        };
        let (backup, ()) = futures_util::future::join(backup, release).await;
        let backup = backup.unwrap();
        assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 1);
        settle(&sim).await;
        assert!(segments(&sim, DIR).len() < 4, "then it goes");
        wal.close().await.unwrap();
    });
}

async fn settle_little(sim: &Sim) {
    sim.sleep(Duration::from_millis(20)).await;
}

/// What the application knows of its log and of the backup.
#[derive(Clone, Debug, Default)]
struct Known {
    acked: u64,
    begun: u64,
    /// The last entry in a backup that was made.
    backed_up: Option<u64>,
    /// The operation before the first backup.
    first_operation: u64,
}

/// Two backups, with a cut, a release and a reopening in between.
async fn life(sim: Sim, options: Options, known: Shared<Known>) -> Result<()> {
    let mut wal = start_on(&sim, options.clone(), How::OpenOrCreate).await?.0;
    known.borrow_mut().first_operation = sim.operations();
    for round in 0..3 {
        for index in round * 7 + 1..=round * 7 + 7 {
            known.borrow_mut().begun = index;
            wal.append(&payload(index, 3000)[..]).await?;
            known.borrow_mut().acked = index;
        }
        match round {
            1 => wal.release(9).await?,
            2 => {
                wal.release(14).await?;
                wal.close().await?;
                wal = start_on(&sim, options.clone(), How::Open).await?.0;
            }
            _ => {}
        }
        let last = known.borrow().acked;
        let backup = wal.backup(TO).await?;
        assert_eq!(backup.last_index, last);
        known.borrow_mut().backed_up = Some(last);
    }
    wal.close().await.map(drop)
}

fn crash_at_every_operation(crash: impl Fn(&Sim), name: &str) {
    for options in [options(), direct()] {
        let sim = machine(0);
        let known = Shared::<Known>::default();
        sim.block_on(life(sim.clone(), options.clone(), known.clone())).unwrap();
        let first = known.borrow().first_operation;
        for at in first..=sim.operations() + 1 {
            let story = format!("{}, {name} at {at}", mode(&options));
            let sim = machine(at);
            let known = Shared::<Known>::default();
            let _ = sim.block_on_until(at, life(sim.clone(), options.clone(), known.clone()));
            crash(&sim);
            let known = known.borrow().clone();
            check(&sim, options.clone(), &known, &story);
        }
    }
}

/// The backup is one, and no worse than before; the log is as it was; and the next backup is a backup.
fn check(sim: &Sim, options: Options, known: &Known, story: &str) {
    let copied = match sim.block_on(entries_at(sim, TO)) {
        Ok(entries) => entries,
        Err(error) => {
            let kinds = [ErrorKind::NotFound, ErrorKind::NotALog];
            let none_yet = known.backed_up.is_none() && kinds.contains(&error.kind());
            assert!(none_yet, "{story}: {known:?}: {error}");
            Vec::new()
        }
    };
    let (wal, _) = sim.block_on(start_on(sim, options, How::Open)).expect(story);
    let (first, last) = (wal.first_index(), wal.last_index());
    assert!(last >= known.acked && last <= known.begun, "{story}: {known:?}, found {last}");
    let backed_up = copied.last().map_or(0, |entry| entry.index);
    assert!(backed_up >= known.backed_up.unwrap_or(0), "{story}: {known:?}, found {backed_up}");
    assert!(backed_up <= last, "{story}: {backed_up} of {last}");
    let from = copied.first().map_or(1, |entry| entry.index);
    assert!(from <= first.max(1), "{story}: {from} and {first}");
    for (entry, index) in copied.iter().zip(from..) {
        assert_eq!((entry.index, &entry.data), (index, &payload(index, 3000)), "{story}");
    }
    sim.block_on(async {
        let backup = wal.backup(TO).await.expect(story);
        let entries = entries_at(sim, TO).await.expect(story);
        assert_eq!(backup.last_index, last, "{story}");
        assert_holds(sim, &entries, &backup, wal.first_index());
        wal.close().await.expect(story);
    });
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

/// What a backup says is durable survives the loss of power at once.
#[test]
fn what_is_backed_up_is_durable() {
    for crash in [Crash::LoseUnsynced, Crash::Random] {
        let sim = machine(4);
        sim.block_on(async {
            let wal = filled(&sim, 20).await;
            wal.backup(TO).await.unwrap();
            append(&wal, 21..=40).await;
            wal.backup(TO).await.unwrap();
        });
        sim.power_loss(crash);
        assert_eq!(sim.block_on(entries_at(&sim, TO)).unwrap().len(), 40);
    }
}

/// Every operation of a backup fails once: the error is told, source and backup are as they were, and the next one is made.
#[test]
fn a_failure_of_any_operation_harms_nothing() {
    for errno in [EIO, ENOSPC] {
        for nth in 1.. {
            let sim = machine(nth);
            let done = sim.block_on(async {
                let wal = filled(&sim, 20).await;
                wal.backup(TO).await.unwrap();
                append(&wal, 21..=30).await;
                settle(&sim).await;
                sim.fail_nth(nth, errno);
                let outcome = wal.backup(TO).await;
                let done = sim.pending_faults() > 0;
                sim.clear_faults();
                let copied = entries_at(&sim, TO).await.unwrap_or_else(|e| panic!("{nth}: {e}"));
                match &outcome {
                    Ok(_) => assert_eq!(copied.len(), 30, "{nth}"),
                    Err(error) => {
                        assert!(copied.len() >= 20, "{nth}: {error}");
                        assert_eq!(error.is_no_space(), errno == ENOSPC, "{nth}: {error}");
                        let left = sim.list_dir(TO).unwrap();
                        assert_eq!(left.len(), segments(&sim, TO).len(), "{nth}: {left:?}");
                    }
                }
                assert_eq!(wal.backup(TO).await.unwrap().last_index, 30);
                append(&wal, 31..=31).await;
                wal.close().await.unwrap();
                done
            });
            if done {
                assert!(nth > 20, "a backup has {nth} operations");
                break;
            }
        }
    }
}

/// Nothing there has changed.
async fn refused(sim: &Sim, wal: &Wal, to: &str) -> Error {
    let before = (contents(sim, to), contents(sim, DIR).len());
    let error = wal.backup(to).await.expect_err(to);
    assert_eq!((contents(sim, to), contents(sim, DIR).len()), before, "{error}");
    error
}

#[test]
fn a_log_is_not_copied_into_itself() {
    let sim = machine(5);
    sim.block_on(async {
        let wal = filled(&sim, 3).await;
        for to in [DIR, "/data/./log", "/data/log/"] {
            let error = refused(&sim, &wal, to).await;
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{to}: {error}");
        }
        let inside = wal.backup("/data/log/backup").await.unwrap_err();
        assert_eq!(inside.kind(), ErrorKind::InvalidInput, "{inside}");
        let missing = wal.backup("/nowhere/backup").await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
        wal.close().await.unwrap();
        assert!(wal.backup(TO).await.unwrap_err().is_closed());
    });
}

#[test]
fn what_is_no_backup_of_the_log_stays_as_it_is() {
    let sim = machine(6);
    sim.block_on(async {
        let wal = filled(&sim, 20).await;
        sim.write_file("/backup/files/letter.txt", *b"dear");
        let error = refused(&sim, &wal, "/backup/files").await;
        assert_eq!(error.kind(), ErrorKind::NotABackup, "{error}");
        for entries in [1, 20, 60] {
            let dir = format!("/backup/other-{entries}");
            let (other, _) = start_at(&sim, &dir, options(), How::Create).await.unwrap();
            append(&other, 1..=entries).await;
            other.close().await.unwrap();
            let error = refused(&sim, &wal, &dir).await;
            assert_eq!(error.kind(), ErrorKind::NotABackup, "{error}");
        }
        wal.close().await.unwrap();
    });
}

#[test]
fn a_backup_that_was_written_to_is_none_any_more() {
    // As it was, cut, and the log having gone on or not.
    for (more_there, more_here) in [(0, 0), (3, 0), (30, 0), (0, 3), (3, 30), (30, 3)] {
        let sim = machine(7);
        sim.block_on(async {
            let wal = filled(&sim, 20).await;
            wal.backup(TO).await.unwrap();
            let (copy, _) = start_at(&sim, TO, options(), How::Open).await.unwrap();
            let error = refused(&sim, &wal, TO).await;
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
            for _ in 0..more_there {
                copy.append(&payload(7, 3000)[..]).await.unwrap();
            }
            copy.close().await.unwrap();
            append(&wal, 21..=20 + more_here).await;
            let error = refused(&sim, &wal, TO).await;
            assert_eq!(error.kind(), ErrorKind::Diverged, "{more_there}, {more_here}: {error}");
            wal.close().await.unwrap();
        });
    }
}

#[test]
fn a_log_that_was_restored_from_an_older_backup_is_another() {
    let sim = machine(8);
    sim.block_on(async {
        let wal = filled(&sim, 20).await;
        wal.backup("/backup/older").await.unwrap();
        append(&wal, 21..=50).await;
        wal.backup(TO).await.unwrap();
        wal.close().await.unwrap();
        let (restored, _) = start_at(&sim, "/backup/older", options(), How::Open).await.unwrap();
        let error = refused(&sim, &restored, TO).await;
        assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
        restored.close().await.unwrap();
    });
}

#[test]
fn a_damaged_backup_is_not_built_upon() {
    let sim = machine(9);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        wal.backup(TO).await.unwrap();
        let names = segments(&sim, TO);
        let newest = names.last().unwrap();
        append(&wal, 41..=50).await;
        for (name, offset) in [(&names[1], 30), (&names[1], 200), (newest, 20), (newest, 6000)] {
            let path = format!("{TO}/{name}");
            sim.corrupt(&path, offset, 0x20);
            let error = refused(&sim, &wal, TO).await;
            assert!(error.is_damaged(), "{name} {offset}: {error}");
            assert_eq!(error.path(), Some(Path::new(&path)), "{error}");
            sim.corrupt(&path, offset, 0x20);
        }
        let missing = sim.disk(Options::new().disk_config());
        missing.remove_file(&Path::new(TO).join(&names[2])).await.unwrap();
        let error = refused(&sim, &wal, TO).await;
        assert!(error.is_damaged() && error.to_string().contains("is missing"), "{error}");
        wal.close().await.unwrap();
    });
}

/// A damaged segment does not get into the backup.
#[test]
fn damage_is_not_copied() {
    let sim = machine(10);
    sim.block_on(async {
        let wal = filled(&sim, 20).await;
        wal.backup(TO).await.unwrap();
        append(&wal, 21..=40).await;
        let names = segments(&sim, DIR);
        let path = format!("{DIR}/{}", names[names.len() - 2]);
        sim.corrupt(&path, 5000, 0x20);
        let error = refused(&sim, &wal, TO).await;
        assert!(error.is_damaged(), "{error}");
        assert_eq!(error.path(), Some(Path::new(&path)), "{error}");
        wal.close().await.unwrap();
    });
}

#[test]
fn what_was_released_before_it_was_copied_is_missed() {
    let sim = machine(11);
    sim.block_on(async {
        let wal = filled(&sim, 10).await;
        wal.backup(TO).await.unwrap();
        append(&wal, 11..=60).await;
        wal.release(50).await.unwrap();
        settle(&sim).await;
        let error = refused(&sim, &wal, TO).await;
        assert_eq!(error.kind(), ErrorKind::Released, "{error}");
        let backup = wal.backup("/backup/new").await.unwrap();
        let entries = entries_at(&sim, "/backup/new").await.unwrap();
        assert_eq!((entries[0].index, backup.last_index), (51, 60));
        wal.close().await.unwrap();
    });
}

#[test]
fn without_space_the_former_backup_stays() {
    let sim = machine(12);
    sim.block_on(async {
        let wal = filled(&sim, 20).await;
        wal.backup(TO).await.unwrap();
        append(&wal, 21..=60).await;
        settle(&sim).await;
        sim.set_free_bytes(Some(50_000));
        let error = refused(&sim, &wal, TO).await;
        assert!(error.is_no_space(), "{error}");
        sim.set_free_bytes(None);
        assert_eq!(wal.backup(TO).await.unwrap().last_index, 60);
        wal.close().await.unwrap();
    });
}

#[test]
fn two_backups_do_not_meet() {
    let sim = machine(13);
    sim.block_on(async {
        let wal = filled(&sim, 30).await;
        let both = futures_util::future::join(wal.backup(TO), wal.backup(TO)).await;
        let (Ok(backup), Err(error)) = both else { panic!("{both:?}") };
        assert!(error.is_locked(), "{error}");
        assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 1);
        wal.close().await.unwrap();
    });
}

/// Nobody waits for it any more: it ends, and the next one removes what it left.
#[test]
fn a_backup_that_is_dropped_ends() {
    let sim = machine(14);
    sim.block_on(async {
        let wal = filled(&sim, 30).await;
        let mut backup = Box::pin(wal.backup(TO));
        let wait = std::pin::pin!(sim.sleep(Duration::from_millis(1)));
        assert!(matches!(
            futures_util::future::select(&mut backup, wait).await,
            futures_util::future::Either::Right(_)
        ));
        drop(backup);
        settle(&sim).await;
        assert_eq!(segments(&sim, TO), [""; 0]);
        let backup = wal.backup(TO).await.unwrap();
        assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 1);
        wal.close().await.unwrap();
    });
}

#[test]
fn files_that_are_shared_take_no_space() {
    let sim = machine(15);
    sim.set_reflinks(true);
    sim.block_on(async {
        let wal = filled(&sim, 40).await;
        settle(&sim).await;
        let sealed: u64 = {
            let all = contents(&sim, DIR);
            let sealed = all.iter().filter(|(name, _)| SegmentName::parse(name).is_some());
            let sealed: Vec<_> = sealed.map(|(_, bytes)| bytes.len() as u64).collect();
            sealed[..sealed.len() - 1].iter().sum()
        };
        let backup = wal.backup(TO).await.unwrap();
        assert_eq!((backup.bytes_reflinked, backup.bytes_linked), (sealed, 0));
        assert_eq!(backup.bytes_copied, backup.position.offset);
        assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 1);
        let linked = wal.backup_by("/backup/linked", CopyBy::HardLink).await.unwrap();
        assert_eq!((linked.bytes_reflinked, linked.bytes_linked), (0, sealed));
        append(&wal, 41..=60).await;
        wal.backup_by("/backup/linked", CopyBy::HardLink).await.unwrap();
        wal.release(60).await.unwrap();
        wal.close().await.unwrap();
        assert_eq!(entries_at(&sim, "/backup/linked").await.unwrap().len(), 60);
    });
    // What they say is durable, is.
    sim.power_loss(Crash::LoseUnsynced);
    sim.block_on(async {
        assert_eq!(entries_at(&sim, TO).await.unwrap().len(), 40);
        assert_eq!(entries_at(&sim, "/backup/linked").await.unwrap().len(), 60);
    });
}

/// Of a log that another process writes, also one that died: everything that was acked, and it is durable then.
#[test]
fn a_reader_backs_up_what_was_acked() {
    for options in modes() {
        let sim = machine(16);
        sim.block_on(async {
            let wal = start_on(&sim, options.clone(), How::OpenOrCreate).await.unwrap().0;
            append(&wal, 1..=10).await;
            let (reader, _) = start_on(&sim, options.clone(), How::Read).await.unwrap();
            let reader = Reader::of(reader);
            append(&wal, 11..=40).await;
            let backup = reader.backup(TO).await.unwrap();
            assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 1);
            assert_eq!(backup.last_index, 40, "{}", mode(&options));
            let written = wal.with_durability(Durability::Written);
            assert_eq!(written.append(&payload(41, 3000)[..]).await.unwrap(), 41);
        });
        sim.kill();
        sim.block_on(async {
            let (reader, _) = start_on(&sim, options.clone(), How::Read).await.unwrap();
            let backup = Reader::of(reader).backup(TO).await.unwrap();
            assert_eq!(backup.last_index, 41, "{}", mode(&options));
        });
        sim.power_loss(Crash::LoseUnsynced);
        sim.block_on(async {
            assert_eq!(entries_at(&sim, TO).await.unwrap().len(), 41);
            // The log has not less than the backup, so that the next one goes on from there.
            let (wal, _) = start_on(&sim, options.clone(), How::Open).await.unwrap();
            append(&wal, 42..=50).await;
            let backup = wal.backup(TO).await.unwrap();
            assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 1);
            wal.close().await.unwrap();
        });
    }
}

/// Segments go away under a reader that copies them: it begins again, and what comes of it is a backup.
#[test]
fn a_reader_begins_again_when_segments_go() {
    let mut begun_again = 0;
    for seed in 0..20 {
        let sim = machine(seed);
        sim.block_on(async {
            let wal = filled(&sim, 60).await;
            let (reader, _) = start_on(&sim, options(), How::Read).await.unwrap();
            let reader = Reader::of(reader);
            sim.clear_trace();
            sim.set_latency(OpKind::Read, Duration::from_millis(1));
            let release = async {
                sim.sleep(Duration::from_millis(10 * seed)).await;
                wal.release(45).await.unwrap();
            };
            let (backup, ()) = futures_util::future::join(reader.backup(TO), release).await;
            let backup = backup.unwrap();
            let entries = entries_at(&sim, TO).await.unwrap();
            let first = entries[0].index;
            assert!([1, 46].contains(&first), "{first}");
            assert_holds(&sim, &entries, &backup, first);
            begun_again += usize::from(first == 46);
            wal.close().await.unwrap();
        });
    }
    assert!(begun_again > 2, "{begun_again}");
}

/// The file of a released segment may be used again for what comes: a reader that copies it meanwhile sees that.
#[test]
fn a_file_that_is_used_again_is_not_copied() {
    let mut begun_again = 0;
    for seed in 0..20 {
        let sim = machine(seed);
        sim.block_on(async {
            let wal = filled(&sim, 60).await;
            let (reader, _) = start_on(&sim, options(), How::Read).await.unwrap();
            let reader = Reader::of(reader);
            let (pin, ..) = wal.handle.watermark.pin_durable();
            wal.release(45).await.unwrap();
            sim.set_latency(OpKind::Read, Duration::from_millis(1));
            let again = async {
                sim.sleep(Duration::from_micros(500 + 3_500 * seed)).await;
                let disk = sim.disk(Options::new().disk_config());
                for name in &segments(&sim, DIR)[..5] {
                    let (path, other) = (Path::new(DIR).join(name), Path::new(DIR).join("x.tmp"));
                    disk.rename(&path, &other).await.unwrap();
                    sim.write_file(&other, vec![0xAA; 16 << 10]);
                }
                drop(pin);
            };
            let (backup, ()) = futures_util::future::join(reader.backup(TO), again).await;
            let backup = backup.unwrap_or_else(|error| panic!("{seed}: {error}"));
            let entries = entries_at(&sim, TO).await.unwrap();
            assert_holds(&sim, &entries, &backup, 46);
            begun_again += usize::from(backup.segments < 6);
            wal.close().await.unwrap();
        });
    }
    assert!(begun_again > 2, "{begun_again}");
}

/// A log that failed is still worth a backup: what was durable is copied.
#[test]
fn a_poisoned_log_is_backed_up() {
    let sim = machine(17);
    sim.block_on(async {
        let wal = filled(&sim, 20).await;
        sim.fail_next(OpKind::Sync, EIO);
        assert!(wal.append("lost").await.is_err());
        let backup = wal.backup(TO).await.unwrap();
        assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 1);
        assert_eq!(backup.last_index, 20);
        let _ = wal.close().await;
    });
}

/// The first backup of a log that begins with a release does not open before it holds what says so; the next one makes up
/// for a crash before that.
#[test]
fn a_first_backup_of_a_log_that_was_released_from_is_made_up_for() {
    let mut unopened = 0;
    for nth in 1.. {
        let sim = machine(nth);
        let wal = sim.block_on(async {
            let wal = filled(&sim, 40).await;
            wal.release(20).await.unwrap();
            settle(&sim).await;
            wal
        });
        let done = sim.block_on_until(sim.operations() + nth, wal.backup(TO)).is_some();
        drop(wal);
        sim.power_loss(Crash::Random);
        match sim.block_on(entries_at(&sim, TO)) {
            Ok(entries) => assert_eq!(entries[0].index, 21, "{nth}"),
            Err(error) => {
                let kinds = [ErrorKind::NotFound, ErrorKind::NotALog, ErrorKind::Released];
                assert!(!done && kinds.contains(&error.kind()), "{nth}: {error}");
                unopened += usize::from(error.kind() == ErrorKind::Released);
            }
        }
        sim.block_on(async {
            let (wal, _) = start_on(&sim, options(), How::Open).await.unwrap();
            let backup = wal.backup(TO).await.unwrap_or_else(|error| panic!("{nth}: {error}"));
            assert_holds(&sim, &entries_at(&sim, TO).await.unwrap(), &backup, 21);
            wal.close().await.unwrap();
        });
        if done {
            assert!(unopened > 0 && nth > 30);
            break;
        }
    }
}
