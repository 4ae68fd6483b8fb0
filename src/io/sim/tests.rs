//! The simulation's own promises: what a crash leaves, what a fault does, and that it is the same each time.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use nix::libc::{EFBIG, EIO, ENOSPC, EROFS};

use super::*;
use crate::io::{Access, BLOCK_BYTES, Disk, DiskFile, Lane, Persist, Zeroing};

const CONFIG: DiskConfig = DiskConfig { buffer_count: 4, buffer_bytes: 4 * BLOCK_BYTES };

const PATH: &str = "/log/a";

/// A machine with a durable, empty directory `/log`.
fn machine(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    sim.create_dir("/log");
    sim
}

async fn open(disk: &SimDisk, access: Access) -> <SimDisk as Disk>::File {
    let open = disk.open(PATH.as_ref(), access, Lane::Commit);
    open.await.unwrap()
}

async fn write<F>(disk: &SimDisk, file: &F, offset: u64, bytes: &[u8]) -> io::Result<usize>
where
    F: DiskFile<Buf = <SimDisk as Disk>::Buf>,
{
    write_and_persist(disk, file, offset, bytes, Persist::Later).await
}

async fn write_now<F>(disk: &SimDisk, file: &F, offset: u64, bytes: &[u8]) -> io::Result<usize>
where
    F: DiskFile<Buf = <SimDisk as Disk>::Buf>,
{
    write_and_persist(disk, file, offset, bytes, Persist::Now).await
}

async fn write_and_persist<F>(
    disk: &SimDisk,
    file: &F,
    offset: u64,
    bytes: &[u8],
    persist: Persist,
) -> io::Result<usize>
where
    F: DiskFile<Buf = <SimDisk as Disk>::Buf>,
{
    let mut buf = disk.buffer().await;
    buf[..bytes.len()].copy_from_slice(bytes);
    file.write_at(buf, bytes.len(), offset, persist).await.0
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.raw_os_error().expect("an error of the system"),
    }
}

/// "synced" durably, then "cached" over its first bytes and beyond its end, unsynced.
fn half_synced(sim: &Sim) {
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        write(&disk, &file, 0, b"synced").await.unwrap();
        file.sync_data().await.unwrap();
        disk.sync_dir("/log".as_ref()).await.unwrap();
        write(&disk, &file, 0, b"cached and longer").await.unwrap();
    });
}

#[test]
fn unsynced_bytes_are_lost_or_kept_as_the_crash_says() {
    for (crash, left) in
        [(Crash::LoseUnsynced, &b"synced"[..]), (Crash::KeepUnsynced, b"cached and longer")]
    {
        let sim = machine(1);
        half_synced(&sim);
        assert_eq!(sim.read_file(PATH).unwrap(), b"cached and longer");
        assert_eq!(sim.read_file_durable(PATH).unwrap(), b"synced");
        sim.power_loss(crash);
        assert_eq!(sim.read_file(PATH).unwrap(), left, "{crash:?}");
        assert_eq!(sim.read_file_durable(PATH).unwrap(), left, "{crash:?}");
    }
}

#[test]
fn unsynced_names_are_lost_whatever_was_synced_in_the_file() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        write(&disk, &file, 0, b"x").await.unwrap();
        file.sync_data().await.unwrap();
    });
    assert_eq!(sim.list_dir("/log").unwrap(), ["a"]);
    sim.power_loss(Crash::LoseUnsynced);
    assert!(sim.list_dir("/log").unwrap().is_empty());
    assert_eq!(sim.read_file(PATH).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn renames_and_removals_are_undone_unless_synced() {
    for (synced, names) in [(false, ["a", "b"]), (true, ["b2", "c"])] {
        let sim = machine(1);
        sim.write_file("/log/a", "a");
        sim.write_file("/log/b", "b");
        let disk = sim.disk(CONFIG);
        let path = |name: &str| std::path::PathBuf::from(format!("/log/{name}"));
        sim.block_on(async {
            disk.rename(&path("b"), &path("b2")).await.unwrap();
            disk.rename(&path("a"), &path("c")).await.unwrap();
            disk.open(&path("a"), Access::Create, Lane::Commit).await.unwrap();
            disk.remove_file(&path("a")).await.unwrap();
            if synced {
                disk.sync_dir("/log".as_ref()).await.unwrap();
            }
        });
        sim.power_loss(Crash::LoseUnsynced);
        assert_eq!(sim.list_dir("/log").unwrap(), names);
    }
}

#[test]
fn a_rename_within_a_directory_is_never_half_done() {
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let sim = machine(seed);
        sim.write_file("/log/a", "a");
        let disk = sim.disk(CONFIG);
        sim.block_on(disk.rename("/log/a".as_ref(), "/log/b".as_ref())).unwrap();
        sim.power_loss(Crash::Random);
        seen.insert(sim.list_dir("/log").unwrap());
    }
    let expected = [vec![OsString::from("a")], vec![OsString::from("b")]];
    assert_eq!(seen, expected.into());
}

#[test]
fn directory_changes_survive_as_a_prefix() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let sim = machine(seed);
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            for i in 0..5 {
                disk.create_dir(format!("/log/{i}").as_ref()).await.unwrap();
            }
        });
        sim.power_loss(Crash::Random);
        let names = sim.list_dir("/log").unwrap();
        let prefix: Vec<OsString> = (0..names.len()).map(|i| i.to_string().into()).collect();
        assert_eq!(names, prefix, "seed {seed}");
        lengths.insert(names.len());
    }
    assert_eq!(lengths, (0..=5).collect());
}

/// Two whole sectors and parts of two more, over durable zeros: each is old or new, on its own.
#[test]
fn sectors_survive_one_by_one() {
    let mut patterns = BTreeSet::new();
    for seed in 0..400 {
        let sim = machine(seed);
        sim.write_file(PATH, vec![0; 2048]);
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            write(&disk, &file, 500, &[1; 1100]).await.unwrap();
        });
        sim.power_loss(Crash::Random);
        let bytes = sim.read_file(PATH).unwrap();
        assert_eq!(bytes.len(), 2048);
        assert!(bytes[..500].iter().chain(&bytes[1600..]).all(|&b| b == 0));
        let parts = [500..512, 512..1024, 1024..1536, 1536..1600];
        patterns.insert(parts.map(|part| {
            assert!(bytes[part.clone()].iter().all(|&b| b == bytes[part.start]));
            bytes[part.start]
        }));
    }
    assert_eq!(patterns.len(), 16, "every combination happens");
}

#[test]
fn an_unsynced_length_survives_or_not() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let sim = machine(seed);
        sim.write_file(PATH, vec![7; 100]);
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            file.allocate(0, 1000).await.unwrap();
            file.truncate(50).await.unwrap();
        });
        sim.power_loss(Crash::Random);
        let bytes = sim.read_file(PATH).unwrap();
        assert!(bytes.iter().take(100).all(|&byte| byte == 7));
        assert!(bytes.iter().skip(100).all(|&byte| byte == 0));
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths, [50, 100, 1000].into());
}

/// Story: a sync failed, the caller asked again, the second sync succeeded, and the power went. The bytes that the
/// first one should have written are on no disk, although readers saw them all the time.
#[test]
fn a_failed_sync_loses_its_bytes_for_good() {
    let sim = machine(1);
    sim.write_file(PATH, "old.");
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        let direct = open(&disk, Access::ReadDirect).await;
        write(&disk, &file, 0, b"lost").await.unwrap();
        write(&disk, &file, 4, b"grown").await.unwrap();
        assert_eq!(&direct.read_at(0, 4096).await.unwrap()[..], b"lostgrown");

        sim.fail_next(OpKind::Sync, EIO);
        assert_eq!(errno(file.sync_data().await), EIO);
        write(&disk, &file, 4096, b"new").await.unwrap();
        assert_eq!(&file.read_at(0, 4096).await.unwrap()[..9], b"lostgrown");
        assert_eq!(&direct.read_at(0, 4096).await.unwrap()[..9], b"old.\0\0\0\0\0");
        file.sync_data().await.unwrap();
        assert_eq!(&file.read_at(0, 4096).await.unwrap()[..9], b"lostgrown");
    });
    sim.power_loss(Crash::KeepUnsynced);
    assert_eq!(&sim.read_file(PATH).unwrap()[..9], b"old.\0\0\0\0\0");
    assert_eq!(&sim.read_file(PATH).unwrap()[4096..], b"new");
}

/// Story: a sync failed, and a later write went to the same page. The page goes to the disk whole, with the bytes that
/// seemed lost.
#[test]
fn a_later_write_carries_along_what_a_failed_sync_lost() {
    let sim = machine(1);
    sim.write_file(PATH, "old....");
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        write(&disk, &file, 0, b"lost").await.unwrap();
        sim.fail_next(OpKind::Sync, EIO);
        assert_eq!(errno(file.sync_data().await), EIO);
        write(&disk, &file, 4, b"new").await.unwrap();
        file.sync_data().await.unwrap();
    });
    sim.power_loss(Crash::LoseUnsynced);
    assert_eq!(sim.read_file(PATH).unwrap(), b"lostnew");
}

/// The write ends while the sync is under way: too late for it.
#[test]
fn a_sync_does_not_cover_writes_in_flight() {
    for (awaited_first, left) in [(true, &b"new"[..]), (false, b"old")] {
        let sim = machine(1);
        sim.write_file(PATH, "old");
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            let mut buf = disk.buffer().await;
            buf[..3].copy_from_slice(b"new");
            let mut write = pin!(file.write_at(buf, 3, 0, Persist::Later));
            if awaited_first {
                write.await.0.unwrap();
                file.sync_data().await.unwrap();
            } else {
                assert!(poll_once(write.as_mut()).is_pending());
                file.sync_data().await.unwrap();
                write.await.0.unwrap();
            }
        });
        assert_eq!(sim.read_file(PATH).unwrap(), b"new");
        sim.power_loss(Crash::LoseUnsynced);
        assert_eq!(sim.read_file(PATH).unwrap(), left);
    }
}

/// A sync that is under way at the crash has promised nothing.
#[test]
fn a_sync_in_flight_makes_nothing_durable() {
    let sim = machine(1);
    sim.write_file(PATH, "old");
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        write(&disk, &file, 0, b"new").await.unwrap();
        assert!(poll_once(pin!(file.sync_data())).is_pending());
    });
    sim.power_loss(Crash::LoseUnsynced);
    assert_eq!(sim.read_file(PATH).unwrap(), b"old");
}

/// A write whose future was dropped lands all the same, and late: over one that began later and ended earlier.
#[test]
fn an_abandoned_write_lands_late() {
    let sim = machine(1);
    sim.write_file(PATH, "....");
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        sim.set_latency(OpKind::Write, Duration::from_millis(10));
        let mut buf = disk.buffer().await;
        buf.fill(0);
        assert!(poll_once(pin!(file.write_at(buf, 4, 0, Persist::Later))).is_pending());
        sim.set_latency(OpKind::Write, Duration::from_millis(1));
        write(&disk, &file, 0, b"good").await.unwrap();
        assert_eq!(sim.read_file(PATH).unwrap(), b"good");
        disk.sleep(Duration::from_millis(20)).await;
    });
    assert_eq!(sim.read_file(PATH).unwrap(), b"\0\0\0\0");
}

#[test]
fn a_write_in_flight_at_the_crash_may_land() {
    let outcome = |crash, seed| {
        let sim = machine(seed);
        sim.write_file(PATH, "old");
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            let mut buf = disk.buffer().await;
            buf[..3].copy_from_slice(b"new");
            assert!(poll_once(pin!(file.write_at(buf, 3, 0, Persist::Later))).is_pending());
        });
        sim.power_loss(crash);
        sim.read_file(PATH).unwrap()
    };
    assert_eq!(outcome(Crash::LoseUnsynced, 1), b"old");
    assert_eq!(outcome(Crash::KeepUnsynced, 1), b"new");
    let either: std::collections::BTreeSet<_> =
        (0..20).map(|seed| outcome(Crash::Random, seed)).collect();
    assert_eq!(either, [b"old".to_vec(), b"new".to_vec()].into());
}

/// Bytes of a file of blocks of one letter each.
fn blocks(letters: &[u8]) -> Vec<u8> {
    letters.iter().flat_map(|&letter| [letter; BLOCK_BYTES]).collect()
}

/// The letters back. A block of several gives `?`.
fn letters(bytes: &[u8]) -> String {
    let letter = |block: &[u8]| match block.iter().all(|byte| *byte == block[0]) {
        true => char::from(if block[0] == 0 { b'0' } else { block[0] }),
        false => '?',
    };
    bytes.chunks(BLOCK_BYTES).map(letter).collect()
}

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Blocks `....`; then, unsynced, `L` into the first and last, and, durable at once, `N` into the second.
fn some_now_some_later(sim: &Sim, direct: bool) {
    sim.write_file(PATH, blocks(b"...."));
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        file.set_direct(direct).unwrap();
        write(&disk, &file, 0, &blocks(b"L")).await.unwrap();
        write_now(&disk, &file, BLOCK, &blocks(b"N")).await.unwrap();
        write(&disk, &file, 3 * BLOCK, &blocks(b"L")).await.unwrap();
    });
}

#[test]
fn a_write_that_is_durable_at_once_is_so_alone() {
    for direct in [false, true] {
        for (crash, left) in [(Crash::LoseUnsynced, ".N.."), (Crash::KeepUnsynced, "LN.L")] {
            let sim = machine(1);
            some_now_some_later(&sim, direct);
            assert_eq!(letters(&sim.read_file(PATH).unwrap()), "LN.L");
            assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), ".N..");
            sim.power_loss(crash);
            assert_eq!(letters(&sim.read_file(PATH).unwrap()), left, "{crash:?}");
        }
        for seed in 0..20 {
            let sim = machine(seed);
            some_now_some_later(&sim, direct);
            sim.power_loss(Crash::Random);
            assert_eq!(letters(&sim.read_file(PATH).unwrap()).as_bytes()[1], b'N');
        }
    }
}

/// In direct mode a page's other bytes stay where they are; through the cache the page goes whole.
#[test]
fn direct_writes_are_not_of_whole_pages() {
    for (direct, first) in [(false, b'L'), (true, b'.')] {
        let sim = machine(1);
        let small = Geometry { direct_align: Some(512), block_bytes: 4096, copy_on_write: false };
        sim.set_geometry(small);
        sim.write_file(PATH, blocks(b"."));
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            assert_eq!(file.geometry().unwrap(), small);
            write(&disk, &file, 0, &[b'L'; 512]).await.unwrap();
            file.set_direct(direct).unwrap();
            write_now(&disk, &file, 512, &[b'N'; 512]).await.unwrap();
        });
        sim.power_loss(Crash::LoseUnsynced);
        let bytes = sim.read_file(PATH).unwrap();
        assert_eq!([bytes[0], bytes[512], bytes[1024]], [first, b'N', b'.']);
    }
}

/// One inode's metadata goes together: what was allocated and never synced is there with the first such write.
#[test]
fn a_write_that_is_durable_at_once_takes_all_lengths_along() {
    for direct in [false, true] {
        let sim = machine(1);
        sim.write_file(PATH, blocks(b"ab"));
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            file.set_direct(direct).unwrap();
            write(&disk, &file, BLOCK, &blocks(b"L")).await.unwrap();
            file.truncate(BLOCK).await.unwrap();
            file.allocate(0, 6 * BLOCK).await.unwrap();
            write_now(&disk, &file, 2 * BLOCK, &blocks(b"N")).await.unwrap();
            assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), "a0N000");
            write_now(&disk, &file, 6 * BLOCK, &blocks(b"N")).await.unwrap();
            assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), "a0N000N");
            // The bytes that were cut off do not come back.
            file.sync_data().await.unwrap();
        });
        sim.power_loss(Crash::LoseUnsynced);
        assert_eq!(letters(&sim.read_file(PATH).unwrap()), "a0N000N");
    }
}

/// Story: a write waited for a sync, another over a part of it was durable at once. Neither the sync nor a crash puts
/// the older bytes over the newer ones.
#[test]
fn older_writes_do_not_come_over_newer_ones() {
    for direct in [false, true] {
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Random] {
            for synced in [false, true] {
                let sim = machine(3);
                sim.write_file(PATH, blocks(b"..."));
                let disk = sim.disk(CONFIG);
                sim.block_on(async {
                    let file = open(&disk, Access::Write).await;
                    file.set_direct(direct).unwrap();
                    write(&disk, &file, 0, &blocks(b"LLL")).await.unwrap();
                    write_now(&disk, &file, BLOCK, &blocks(b"N")).await.unwrap();
                    if synced {
                        file.sync_data().await.unwrap();
                    }
                });
                sim.power_loss(crash);
                let left = letters(&sim.read_file(PATH).unwrap());
                assert_eq!(left.as_bytes()[1], b'N', "{crash:?}");
                if synced || crash == Crash::KeepUnsynced {
                    assert_eq!(left, "LNL");
                }
            }
        }
    }
}

/// The other way round: a write in flight that ends later is the newer one.
#[test]
fn a_write_that_ends_later_comes_over_a_durable_one() {
    for (persist, left) in [(Persist::Now, "B"), (Persist::Later, "A")] {
        let sim = machine(1);
        sim.write_file(PATH, blocks(b"."));
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            file.set_direct(true).unwrap();
            sim.set_latency(OpKind::Write, Duration::from_millis(10));
            let mut buf = disk.buffer().await;
            buf.fill(b'B');
            let mut slow = pin!(file.write_at(buf, BLOCK_BYTES, 0, persist));
            assert!(poll_once(slow.as_mut()).is_pending());
            sim.set_latency(OpKind::Write, Duration::from_millis(1));
            write_now(&disk, &file, 0, &blocks(b"A")).await.unwrap();
            assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), "A");
            slow.await.0.unwrap();
        });
        assert_eq!(letters(&sim.read_file(PATH).unwrap()), "B");
        sim.power_loss(Crash::LoseUnsynced);
        assert_eq!(letters(&sim.read_file(PATH).unwrap()), left);
    }
}

#[test]
fn a_durable_write_in_flight_at_the_crash_may_land() {
    let outcome = |crash, seed| {
        let sim = machine(seed);
        sim.write_file(PATH, blocks(b"."));
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            file.set_direct(true).unwrap();
            let mut buf = disk.buffer().await;
            buf.fill(b'N');
            assert!(poll_once(pin!(file.write_at(buf, BLOCK_BYTES, 0, Persist::Now))).is_pending());
        });
        sim.power_loss(crash);
        letters(&sim.read_file(PATH).unwrap())
    };
    assert_eq!(outcome(Crash::LoseUnsynced, 1), ".");
    assert_eq!(outcome(Crash::KeepUnsynced, 1), "N");
    let random: BTreeSet<String> = (0..50).map(|seed| outcome(Crash::Random, seed)).collect();
    assert_eq!(random, [".", "?", "N"].map(String::from).into());
}

/// Story: such a write failed; readers asked, a sync succeeded, and the power went. The bytes were there, in part, or
/// not, and the sync said nothing about them.
#[test]
fn a_failed_durable_write_is_for_the_crash_to_decide() {
    for (direct, in_cache) in [(false, "N."), (true, "..")] {
        let outcome = |crash, seed| {
            let sim = machine(seed);
            sim.write_file(PATH, blocks(b".."));
            let disk = sim.disk(CONFIG);
            sim.block_on(async {
                let file = open(&disk, Access::Write).await;
                file.set_direct(direct).unwrap();
                sim.fail_next(OpKind::Write, EIO);
                assert_eq!(errno(write_now(&disk, &file, 0, &blocks(b"N")).await), EIO);
                file.sync_data().await.unwrap();
                let reader = open(&disk, Access::ReadDirect).await;
                assert_eq!(letters(&reader.read_at(0, 3 * BLOCK_BYTES).await.unwrap()), "..");
            });
            assert_eq!(letters(&sim.read_file(PATH).unwrap()), in_cache);
            assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), "..");
            sim.power_loss(crash);
            letters(&sim.read_file(PATH).unwrap())
        };
        assert_eq!(outcome(Crash::LoseUnsynced, 1), "..");
        assert_eq!(outcome(Crash::KeepUnsynced, 1), "N.");
        let random: BTreeSet<String> = (0..50).map(|seed| outcome(Crash::Random, seed)).collect();
        assert_eq!(random, ["..", "?.", "N."].map(String::from).into());
    }
}

/// Once something newer is on the disk in its place, what a failed write left is gone.
#[test]
fn a_newer_write_ends_what_a_failed_one_left() {
    for persist in [Persist::Now, Persist::Later] {
        let sim = machine(1);
        sim.write_file(PATH, blocks(b".."));
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            file.set_direct(true).unwrap();
            sim.fail_next(OpKind::Write, EIO);
            // Beyond the end it is of no file.
            assert_eq!(errno(write_now(&disk, &file, 0, &blocks(b"NNN")).await), EIO);
            assert_eq!(file.len().unwrap(), 2 * BLOCK);
            write_and_persist(&disk, &file, 0, &blocks(b"x"), persist).await.unwrap();
            file.sync_data().await.unwrap();
        });
        sim.power_loss(Crash::KeepUnsynced);
        assert_eq!(letters(&sim.read_file(PATH).unwrap()), "xN");
    }
}

#[test]
fn writes_overtake_each_other_by_the_seed() {
    let order = |seed, spread| {
        let sim = machine(seed);
        sim.write_file(PATH, blocks(b"...."));
        sim.set_latency_spread(OpKind::Write, spread);
        let disk = sim.disk(CONFIG);
        let ended = Rc::new(RefCell::new(Vec::new()));
        sim.block_on(async {
            let file = Rc::new(open(&disk, Access::Write).await);
            file.set_direct(true).unwrap();
            for i in 0..4 {
                let (disk, file, ended) = (disk.clone(), Rc::clone(&file), Rc::clone(&ended));
                sim.spawn(async move {
                    write_now(&disk, &*file, i * BLOCK, &blocks(b"N")).await.unwrap();
                    ended.borrow_mut().push(i);
                });
            }
            disk.sleep(Duration::from_millis(1)).await;
        });
        assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), "NNNN");
        ended.take()
    };
    let spread = Duration::from_micros(100);
    let orders: std::collections::BTreeSet<_> = (0..200).map(|seed| order(seed, spread)).collect();
    assert_eq!(orders.len(), 24, "every order happens");
    assert_eq!(order(7, spread), order(7, spread));
    assert_eq!(order(7, Duration::ZERO), [0, 1, 2, 3]);
}

#[test]
fn short_durable_writes_and_full_disks_are_as_ever() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        file.set_direct(true).unwrap();
        disk.sync_dir("/log".as_ref()).await.unwrap();
        sim.short_write_next(BLOCK_BYTES);
        assert_eq!(write_now(&disk, &file, 0, &blocks(b"ab")).await.unwrap(), BLOCK_BYTES);
        sim.set_free_bytes(Some(0));
        assert_eq!(errno(write_now(&disk, &file, BLOCK, &blocks(b"b")).await), ENOSPC);
        assert_eq!(errno(file.write_zeros(0, 2 * BLOCK).await), ENOSPC);
    });
    sim.power_loss(Crash::KeepUnsynced);
    assert_eq!(letters(&sim.read_file(PATH).unwrap()), "a");
}

/// Zeros are writes like others: in pieces that are counted and can fail or be short, and durable with a sync.
#[test]
fn zeros_go_piece_by_piece_and_wait_for_a_sync() {
    let sim = machine(1);
    sim.write_file(PATH, blocks(b"xxxx"));
    let disk = sim.disk(CONFIG);
    let len = 600 * 1024;
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        file.set_direct(true).unwrap();
        sim.fail_next(OpKind::WriteZeros, EIO);
        assert_eq!(errno(file.write_zeros(0, len).await), EIO);
        assert_eq!(letters(&sim.read_file(PATH).unwrap()), "xxxx");

        sim.clear_trace();
        sim.short_write_next(5000);
        file.write_zeros(BLOCK, len).await.unwrap();
        let trace: Vec<String> =
            sim.trace().iter().map(|e| format!("{} {}", e.op, e.detail)).collect();
        let expected = [(4096, 262_144), (8192, 262_144), (270_336, 262_144), (532_480, 86_016)];
        let expected =
            expected.map(|(offset, len)| format!("write_zeros offset={offset} len={len}"));
        assert_eq!(trace, expected);
        assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), "xxxx");
        file.sync_data().await.unwrap();
    });
    sim.power_loss(Crash::LoseUnsynced);
    let bytes = sim.read_file(PATH).unwrap();
    assert_eq!(bytes.len() as u64, BLOCK + len);
    assert!(bytes[BLOCK_BYTES..].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[0], b'x');
}

#[test]
fn ranges_are_zeroed_where_the_machine_can() {
    let sim = machine(1);
    sim.write_file(PATH, blocks(b"xx"));
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        let result = file.zero_range(BLOCK, 2 * BLOCK, Zeroing::Written).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::Unsupported);
        sim.set_zeroes_ranges(true);
        file.zero_range(BLOCK, 2 * BLOCK, Zeroing::Written).await.unwrap();
        assert_eq!(letters(&file.read_at(0, 4 * BLOCK_BYTES).await.unwrap()), "x00");
        assert_eq!(letters(&sim.read_file_durable(PATH).unwrap()), "xx");
        file.sync_data().await.unwrap();
    });
    sim.power_loss(Crash::LoseUnsynced);
    assert_eq!(letters(&sim.read_file(PATH).unwrap()), "x00");
}

#[test]
fn a_disk_may_have_no_direct_io() {
    let sim = machine(1);
    sim.write_file(PATH, "x");
    sim.set_geometry(Geometry { direct_align: None, block_bytes: 4096, copy_on_write: true });
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        let error = file.set_direct(true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        file.set_direct(false).unwrap();
        write_now(&disk, &file, 1, b"y").await.unwrap();
        let direct = disk.open(PATH.as_ref(), Access::ReadDirect, Lane::Commit).await;
        assert_eq!(direct.err().unwrap().kind(), io::ErrorKind::InvalidInput);
    });
    sim.power_loss(Crash::LoseUnsynced);
    assert_eq!(sim.read_file(PATH).unwrap(), b"xy");
}

#[test]
fn a_kill_ends_the_process_and_nothing_else() {
    let sim = machine(1);
    let dropped = Rc::new(Cell::new(false));
    struct Flag(Rc<Cell<bool>>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    let disk = sim.disk(CONFIG);
    let file = sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        assert!(file.try_lock().unwrap());
        write(&disk, &file, 0, b"cached").await.unwrap();
        let flag = Flag(Rc::clone(&dropped));
        let task = disk.clone();
        disk.spawn(async move {
            let _flag = flag;
            task.sleep(Duration::MAX).await;
        });
        let mut buf = disk.buffer().await;
        buf[0] = b'!';
        assert!(poll_once(pin!(file.write_at(buf, 1, 6, Persist::Later))).is_pending());
        file
    });
    assert!(!dropped.get(), "tasks live on between runs");
    sim.kill();
    assert!(dropped.get());

    let new = sim.disk(CONFIG);
    sim.block_on(async {
        assert!(file.len().is_err(), "the old handles are dead");
        assert!(file.sync_data().await.is_err());
        let file = open(&new, Access::Write).await;
        assert_eq!(sim.read_file(PATH).unwrap(), b"cached");
        assert!(!file.try_lock().unwrap(), "the kernel holds the lock for what is in flight");
        new.sleep(Duration::from_micros(20)).await;
        assert_eq!(sim.read_file(PATH).unwrap(), b"cached!", "the kernel goes on");
        assert!(file.try_lock().unwrap(), "the lock died with its holder's last write");
    });
    sim.power_loss(Crash::LoseUnsynced);
    assert!(sim.list_dir("/log").unwrap().is_empty());
}

#[test]
fn the_nth_operation_fails_and_has_no_effect() {
    /// Seven operations; those that failed by number.
    async fn work(disk: SimDisk) -> Vec<i32> {
        let mut failed = Vec::new();
        let mut note =
            |result: io::Result<()>| failed.extend(result.err().map(|e| errno(Err::<(), _>(e))));
        let dir = std::path::Path::new("/log/sub");
        let path = std::path::Path::new("/log/b");
        note(disk.create_dir(dir).await);
        note(disk.sync_dir("/log".as_ref()).await);
        note(disk.rename(PATH.as_ref(), path).await);
        let open = disk.open(path, Access::Write, Lane::Commit).await;
        if let Ok(file) = open {
            note(write(&disk, &file, 0, b"x").await.map(drop));
            note(file.sync_data().await);
            note(file.truncate(9).await);
        } else {
            note(open.map(drop));
        }
        failed
    }

    for n in 1..=9 {
        let sim = machine(1);
        sim.write_file(PATH, "abc");
        sim.fail_nth(n, EIO);
        let failed = sim.block_on(work(sim.disk(CONFIG)));
        if n == 8 {
            // None failed: the loop over n is complete.
            assert_eq!((failed.len(), sim.operations()), (0, 7));
            assert_eq!(sim.pending_faults(), 1);
            return;
        }
        assert_eq!(failed[0], EIO, "n = {n}");
        assert_eq!(sim.pending_faults(), 0);
        let trace = sim.trace();
        assert_eq!(trace[n as usize - 1].error, Some(EIO));
        assert_eq!(trace.iter().filter(|e| e.error.is_some()).count(), 1);
        let has_dir = sim.list_dir("/log").unwrap().contains(&"sub".into());
        assert_eq!(has_dir, n != 1);
        let bytes = sim.read_file("/log/b").or(sim.read_file(PATH)).unwrap();
        assert_eq!(bytes[0] == b'x', ![3, 4, 5].contains(&n), "n = {n}");
        assert_eq!(bytes.len() == 9, ![3, 4, 7].contains(&n), "n = {n}");
    }
    unreachable!("the eighth run fails nothing");
}

#[test]
fn faults_by_kind_hit_their_kind_in_order() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    sim.fail_next(OpKind::Write, ENOSPC);
    sim.fail_next(OpKind::Write, EIO);
    sim.fail_next(OpKind::List, EIO);
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        assert_eq!(errno(write(&disk, &file, 0, b"x").await), ENOSPC);
        assert_eq!(errno(write(&disk, &file, 0, b"x").await), EIO);
        assert_eq!(write(&disk, &file, 0, b"x").await.unwrap(), 1);
        sim.clear_faults();
        assert_eq!(disk.list("/log".as_ref()).await.unwrap().len(), 1);
    });
}

#[test]
fn a_short_write_takes_the_first_bytes() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    sim.short_write_next(2);
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        assert_eq!(write(&disk, &file, 0, b"abcd").await.unwrap(), 2);
        assert_eq!(file.len().unwrap(), 2);
        assert_eq!(write(&disk, &file, 2, b"cd").await.unwrap(), 2);
    });
    assert_eq!(sim.read_file(PATH).unwrap(), b"abcd");
}

#[test]
fn space_runs_out_and_comes_back() {
    let sim = machine(1);
    sim.write_file("/log/other", vec![1; 500]);
    let disk = sim.disk(CONFIG);
    sim.set_free_bytes(Some(1000));
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        file.allocate(0, 600).await.unwrap();
        assert_eq!(errno(file.allocate(600, 401).await), ENOSPC);
        assert_eq!(file.len().unwrap(), 600, "nothing has changed");
        write(&disk, &file, 100, &[2; 500]).await.unwrap(); // inside the allocation
        write(&disk, &file, 600, &[2; 400]).await.unwrap();
        assert_eq!(errno(write(&disk, &file, 1000, b"x").await), ENOSPC);

        // A removed file's space is free when its last handle is closed.
        let path: &Path = "/log/other".as_ref();
        let other = disk.open(path, Access::Read, Lane::Commit).await.unwrap();
        disk.remove_file(path).await.unwrap();
        assert_eq!(errno(write(&disk, &file, 1000, b"x").await), ENOSPC);
        drop(other);
        write(&disk, &file, 1000, &[3; 500]).await.unwrap();
        assert_eq!(errno(write(&disk, &file, 1500, b"x").await), ENOSPC);

        sim.set_free_bytes(None);
        write(&disk, &file, 1500, b"x").await.unwrap();
        assert_eq!(errno(file.truncate(1 << 40).await), EFBIG);
    });
}

#[test]
fn a_read_only_file_system_refuses_changes() {
    let sim = machine(1);
    sim.write_file(PATH, "abc");
    let disk = sim.disk(CONFIG);
    sim.set_read_only(true);
    sim.block_on(async {
        let (path, other): (&Path, &Path) = (PATH.as_ref(), "/log/b".as_ref());
        let open = |path, access| disk.open(path, access, Lane::Commit);
        assert_eq!(errno(open(path, Access::Write).await), EROFS);
        assert_eq!(errno(open(other, Access::Create).await), EROFS);
        assert_eq!(errno(disk.create_dir(other).await), EROFS);
        assert_eq!(errno(disk.rename(path, other).await), EROFS);
        assert_eq!(errno(disk.remove_file(path).await), EROFS);
        let file = open(path, Access::Read).await.unwrap();
        assert_eq!(&file.read_at(0, 9).await.unwrap()[..], b"abc");
    });
}

#[test]
fn a_run_can_stop_before_any_operation() {
    let work = async |disk: SimDisk| {
        let file = open(&disk, Access::Create).await;
        write(&disk, &file, 0, b"1").await.unwrap();
        write(&disk, &file, 1, b"2").await.unwrap();
    };
    for (operation, left) in [(2, Some(&b""[..])), (3, Some(b"1")), (1, None)] {
        let sim = machine(1);
        let stopped = sim.block_on_until(operation, work(sim.disk(CONFIG)));
        assert!(stopped.is_none());
        assert_eq!(sim.operations(), operation - 1);
        sim.power_loss(Crash::KeepUnsynced);
        assert_eq!(sim.read_file(PATH).ok().as_deref(), left);
    }
    let sim = machine(1);
    assert!(sim.block_on_until(4, work(sim.disk(CONFIG))).is_some());
}

#[test]
fn corruption_is_seen_by_readers_and_survives() {
    let sim = machine(1);
    half_synced(&sim);
    sim.corrupt(PATH, 1, 0x20);
    assert_eq!(sim.read_file(PATH).unwrap(), b"cAched and longer");
    sim.power_loss(Crash::KeepUnsynced);
    assert_eq!(sim.read_file(PATH).unwrap(), b"cAched and longer");
}

#[test]
fn the_clock_jumps_and_tasks_take_turns() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    let (sender, receiver) = flume::bounded::<u32>(1);
    let ticks = disk.clone();
    sim.spawn(async move {
        for i in 0.. {
            ticks.sleep(Duration::from_secs(3600)).await;
            if sender.send_async(i).await.is_err() {
                return;
            }
        }
    });
    let received = sim.block_on(async {
        let mut received = Vec::new();
        while received.len() < 3 {
            received.push(receiver.recv_async().await.unwrap());
        }
        received
    });
    assert_eq!(received, [0, 1, 2]);
    assert_eq!(sim.now(), Duration::from_secs(3 * 3600));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_deadlock_is_a_panic_not_a_hang() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let mut held = Vec::new();
        loop {
            held.push(disk.buffer().await);
        }
    });
}

#[test]
#[should_panic(expected = "livelock")]
fn a_livelock_is_a_panic_not_a_hang() {
    let sim = machine(1);
    sim.block_on(std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
}

#[test]
fn tasks_run_in_the_order_in_which_they_were_woken() {
    let sim = machine(1);
    let order = Rc::new(RefCell::new(Vec::new()));
    let gate = Rc::new(tokio::sync::Notify::new());
    for i in 0..3 {
        let (order, gate) = (Rc::clone(&order), Rc::clone(&gate));
        sim.spawn(async move {
            order.borrow_mut().push(i);
            gate.notified().await;
            order.borrow_mut().push(i);
        });
    }
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        disk.sleep(Duration::from_secs(1)).await;
        gate.notify_waiters();
        disk.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(*order.borrow(), [0, 1, 2, 0, 1, 2]);
}

/// Tasks that overlap, faults, a crash by chance: twice the same with a seed, otherwise with another.
#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let sim = machine(seed);
        sim.write_file(PATH, vec![0; 8192]);
        sim.fail_nth(9, EIO);
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = Rc::new(open(&disk, Access::Write).await);
            for i in 0..6_u8 {
                let (disk_of_task, file) = (disk.clone(), Rc::clone(&file));
                disk.spawn(async move {
                    let _ = write(&disk_of_task, &*file, u64::from(i) * 1000, &[i + 1; 1500]).await;
                    disk_of_task.sleep(Duration::from_micros(7 * u64::from(i))).await;
                    let _ = file.sync_data().await;
                    let _ = write(&disk_of_task, &*file, u64::from(i) * 700, &[i + 9; 900]).await;
                });
            }
            disk.sleep(Duration::from_micros(170)).await;
        });
        let trace: Vec<String> = sim.trace().iter().map(ToString::to_string).collect();
        sim.power_loss(Crash::Random);
        (trace, sim.read_file(PATH).unwrap())
    };
    let (trace, bytes) = run(5);
    assert!(trace.len() > 12, "{trace:?}");
    assert!(trace[0].starts_with("open /log/a Write Commit at=0ns"), "{}", trace[0]);
    assert_eq!(run(5), (trace.clone(), bytes.clone()));
    let (other_trace, other_bytes) = run(6);
    assert_eq!(other_trace, trace, "the seed decides about crashes only");
    assert_ne!(other_bytes, bytes);
}

#[test]
fn tasks_go_with_the_last_handle() {
    let kept = Rc::new(());
    let sim = machine(1);
    let (disk, in_task) = (sim.disk(CONFIG), Rc::clone(&kept));
    sim.spawn(async move {
        let _in_task = in_task;
        disk.sleep(Duration::MAX).await;
    });
    sim.block_on(async {});
    drop(sim);
    assert_eq!(Rc::strong_count(&kept), 1);
}

/// Story: a sync failed half way. Some pages were on the disk, some were lost, and readers could not tell which.
#[test]
fn a_failed_sync_has_written_some_of_its_pages() {
    let outcome = |seed| {
        let sim = machine(seed);
        sim.write_file(PATH, blocks(b"..."));
        sim.set_failures_are_partial(true);
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            for (at, letter) in [b"1", b"2", b"3"].into_iter().enumerate() {
                let offset = (at * BLOCK_BYTES) as u64;
                write(&disk, &file, offset, &blocks(letter)).await.unwrap();
            }
            sim.fail_next(OpKind::Sync, EIO);
            assert_eq!(errno(file.sync_data().await), EIO);
            assert_eq!(letters(&sim.read_file(PATH).unwrap()), "123");
            file.sync_data().await.unwrap();
        });
        sim.power_loss(Crash::KeepUnsynced);
        letters(&sim.read_file(PATH).unwrap())
    };
    let seen: BTreeSet<String> = (0..100).map(outcome).collect();
    assert_eq!(seen.len(), 8, "{seen:?}");
}

/// Story: two threads synced one file at the same time, one was told of the failure, and the other reported success
/// for bytes that were lost (the "fsyncgate" of PostgreSQL).
#[test]
fn of_two_syncs_in_flight_one_is_told() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        disk.sync_dir("/log".as_ref()).await.unwrap();
        write(&disk, &file, 0, b"lost").await.unwrap();
        sim.fail_next(OpKind::Sync, EIO);
        let outcomes = futures_util::future::join(file.sync_data(), file.sync_data()).await;
        assert_eq!(errno(outcomes.0), EIO);
        outcomes.1.expect("the second one is not told");
    });
    sim.power_loss(Crash::LoseUnsynced);
    assert_eq!(sim.read_file(PATH).unwrap(), [0; 4], "but their length is there");
}

/// A write that failed may have reached the page cache in part, up to the end of a page; a sync makes that durable.
#[test]
fn a_failed_write_has_written_some_of_its_pages() {
    let outcome = |seed| {
        let sim = machine(seed);
        sim.set_failures_are_partial(true);
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Create).await;
            disk.sync_dir("/log".as_ref()).await.unwrap();
            sim.fail_next(OpKind::Write, EIO);
            assert_eq!(errno(write(&disk, &file, 2048, &blocks(b"abc")).await), EIO);
            file.sync_data().await.unwrap();
        });
        sim.power_loss(Crash::LoseUnsynced);
        sim.read_file(PATH).unwrap().len()
    };
    let seen: BTreeSet<usize> = (0..100).map(outcome).collect();
    assert_eq!(seen, [0, 4096, 8192, 12288].into());
}

#[test]
fn chance_makes_operations_fail_slow_and_short_until_it_is_cleared() {
    let run = || {
        let sim = machine(3);
        let disk = sim.disk(CONFIG);
        sim.fail_once_in(OpKind::Write, 4, EIO);
        sim.short_write_once_in(4);
        sim.slow_once_in(OpKind::Write, 4, Duration::from_secs(1));
        let outcomes = sim.block_on(async {
            let file = open(&disk, Access::Create).await;
            let mut outcomes = Vec::new();
            for _ in 0..100 {
                let begun = sim.now();
                let outcome = write(&disk, &file, 0, &[1; 9000]).await;
                let slow = sim.now() - begun >= Duration::from_secs(1);
                outcomes.push((outcome.map_err(|error| error.raw_os_error().unwrap()), slow));
            }
            sim.clear_faults();
            for _ in 0..20 {
                assert_eq!(write(&disk, &file, 0, &[1; 9000]).await.unwrap(), 9000);
            }
            outcomes
        });
        assert_eq!(sim.pending_faults(), 0);
        outcomes
    };
    let outcomes = run();
    let count = |test: fn(&(Result<usize, i32>, bool)) -> bool| {
        outcomes.iter().filter(|outcome| test(outcome)).count()
    };
    assert!((10..40).contains(&count(|(written, _)| *written == Err(EIO))));
    assert!((5..40).contains(&count(|(written, _)| written.is_ok_and(|len| len < 9000))));
    assert!((10..40).contains(&count(|(_, slow)| *slow)));
    assert_eq!(run(), outcomes, "the same each time");
}

/// All that can be left of two sectors, a length and a name, one after another.
#[test]
fn every_power_loss_is_enumerated() {
    let sim = machine(1);
    sim.write_file(PATH, vec![0; 600]);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Write).await;
        write(&disk, &file, 0, &[1; 600]).await.unwrap();
        file.allocate(0, 700).await.unwrap();
        disk.rename(PATH.as_ref(), "/log/b".as_ref()).await.unwrap();
    });
    let left: Vec<_> = sim
        .power_losses()
        .map(|left| {
            let name = left.list_dir("/log").unwrap().pop().unwrap();
            let bytes = left.read_file(Path::new("/log").join(&name)).unwrap();
            (name, bytes.len(), bytes[0], bytes[599])
        })
        .collect();
    assert_eq!(left.len(), 16);
    assert_eq!(left.iter().collect::<BTreeSet<_>>().len(), 16, "{left:?}");
}

#[test]
fn a_power_loss_says_what_it_did() {
    let sim = machine(1);
    let disk = sim.disk(CONFIG);
    sim.block_on(async {
        let file = open(&disk, Access::Create).await;
        write(&disk, &file, 0, &[1; 10]).await.unwrap();
        let mut buf = disk.buffer().await;
        buf[0] = 1;
        assert!(poll_once(pin!(file.write_at(buf, 1, 4096, Persist::Later))).is_pending());
    });
    assert_eq!(sim.in_flight(), [OpKind::Write]);
    let loss = sim.power_loss(Crash::LoseUnsynced);
    assert_eq!((loss.lost_writes, loss.kept_writes, loss.torn_writes, loss.holes), (1, 0, 0, 0));
    assert_eq!((loss.lost_lengths, loss.lost_names), (1, 1));
}

/// A page that a failing sync has written is all there, also where the file had grown into it: the first seeds took that
/// part away, and a log for damaged that a disk cannot leave like that.
#[test]
fn a_failed_sync_that_has_written_a_page_has_grown_the_file() {
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let sim = machine(seed);
        sim.write_file(PATH, vec![b'.'; 100]);
        sim.set_failures_are_partial(true);
        let disk = sim.disk(CONFIG);
        sim.block_on(async {
            let file = open(&disk, Access::Write).await;
            write(&disk, &file, 50, &[b'N'; 100]).await.unwrap();
            sim.fail_next(OpKind::Sync, EIO);
            assert_eq!(errno(file.sync_data().await), EIO);
            let direct = open(&disk, Access::ReadDirect).await;
            let bytes = direct.read_at(0, BLOCK_BYTES).await.unwrap();
            seen.insert((bytes.len(), bytes[60], bytes[149]));
        });
    }
    assert_eq!(seen, [(150, b'.', 0), (150, b'N', b'N')].into());
}
