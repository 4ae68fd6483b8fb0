//! Real file systems, in images behind loop devices: full disks, power cuts and SIGKILL on ext4, xfs and btrfs.
//!
//! `SEAWAL_CUT_SEED=N` and `SEAWAL_KILL_SEED=N` repeat a run as far as time allows; `SEAWAL_CUTS=N` changes the number
//! of power cuts of each log, `SEAWAL_FS_KILLS=N` that of kills on each file system, `SEAWAL_BOUNDED_APPENDS=N` that of
//! appends to a log of fixed size.
//!
//! Each test has mounts of its own, and images in memory: tests do not meet, and nothing is left when one is killed.
//!
//! Skips without root, loop devices and the tools of the file systems, unless `SEAWAL_REQUIRE` names `loop`.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod bounded;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod full;
mod image;
mod machine;
mod mount;
mod power;

use common::kills::kill_many;
use common::random::{number_from, seed_from};
use common::require;
use disk::Disk;
use image::Kind;
use power::{Driver, Plan};
use seawal::{Backend, SyncMethod};

/// Power cuts of a log, with each driver and in each way.
const CUTS: u64 = 5;
/// Appends of 40 bytes to a log of 16 MiB.
const BOUNDED_APPENDS: u64 = 500_000;
/// On each file system; `tests/kill.rs` has more.
const KILLS: u64 = 16;

fn full_disk(kind: Kind) {
    for backend in [Backend::Uring, Backend::Threads] {
        for method in [SyncMethod::Dsync, SyncMethod::Fdatasync] {
            let Some(done) = full::fill(kind, backend, method) else { return };
            println!("{kind:?}, {backend:?}, {method}: {done:?}");
            assert!(done.bytes > 12 << 20, "the disk was full early: {done:?}");
            // Otherwise what was reserved need not hold, and the log may have to be opened again.
            if !kind.copies_on_write() {
                assert_eq!(done.poisoned, 0, "{done:?}");
                assert!(done.without_room > 0, "no append in reserved space: {done:?}");
            }
        }
    }
}

#[test]
fn full_disk_on_ext4() {
    full_disk(Kind::Ext4);
}

#[test]
fn full_disk_on_xfs() {
    full_disk(Kind::Xfs);
}

#[test]
fn full_disk_on_btrfs() {
    full_disk(Kind::Btrfs);
}

#[test]
fn a_log_of_fixed_size_goes_round() {
    let appends = number_from("SEAWAL_BOUNDED_APPENDS").unwrap_or(BOUNDED_APPENDS);
    let Some(done) = bounded::go_round(appends) else { return };
    println!("{appends} appends: {done:?}");
    assert!(done.segments > 2 * 8, "it did not go round: {done:?}");
    // What grows with the log grows by more than that; other tests of this process take memory too.
    assert!(done.resident_after < done.resident_before + (64 << 20), "{done:?}");
}

fn power_cuts(kind: Kind, drivers: &'static [Driver]) {
    let seed = seed_from("SEAWAL_CUT_SEED");
    let cuts = number_from("SEAWAL_CUTS").unwrap_or(CUTS);
    let Some(done) = (Plan { kind, drivers, cuts, seed }).run() else { return };
    println!("{kind:?}: {done:?}");
    assert!(done.acked_in_time > 10 * done.cuts, "too little was acked: the test tests nothing");
    assert!(done.segments > done.cuts, "there was no rotation");
}

#[test]
fn power_cuts_on_ext4() {
    power_cuts(Kind::Ext4, &[Driver::Uring, Driver::Threads]);
}

#[test]
fn power_cuts_on_xfs() {
    power_cuts(Kind::Xfs, &[Driver::Uring, Driver::Threads]);
}

#[test]
fn power_cuts_on_btrfs() {
    power_cuts(Kind::Btrfs, &[Driver::Uring, Driver::Threads]);
}

#[test]
fn power_cuts_where_io_uring_is_refused() {
    power_cuts(Kind::Ext4, &[Driver::Refused]);
}

fn sigkill(kind: Kind) {
    let seed = seed_from("SEAWAL_KILL_SEED");
    let kills = number_from("SEAWAL_FS_KILLS").unwrap_or(KILLS);
    let disk = match Disk::new(kind) {
        Ok(disk) => disk,
        Err(why) => return require::skip("loop", &why),
    };
    let (acked, segments) = kill_many(disk.dir(), seed, kills);
    println!("{kind:?}: {kills} kills, {acked} records acked, {segments} segments");
    assert!(acked as u64 > kills, "only {acked} records were acked: the test tests nothing");
}

#[test]
fn sigkill_on_ext4() {
    sigkill(Kind::Ext4);
}

#[test]
fn sigkill_on_xfs() {
    sigkill(Kind::Xfs);
}

#[test]
fn sigkill_on_btrfs() {
    sigkill(Kind::Btrfs);
}
