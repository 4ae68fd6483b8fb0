//! SIGKILL at random moments: every acked record is there afterwards, in its place, and nothing that was not sent.
//!
//! `SEAWAL_KILL_SEED=N` repeats a run as far as time allows; `SEAWAL_KILLS=N` changes their number.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use common::kills::kill_many;
use common::random::{number_from, seed_from};

const KILLS: u64 = 200;

#[test]
fn every_acked_record_survives_sigkill() {
    let seed = seed_from("SEAWAL_KILL_SEED");
    let kills = number_from("SEAWAL_KILLS").unwrap_or(KILLS);
    let parent = tempfile::tempdir().unwrap();
    let (acked, segments) = kill_many(parent.path(), seed, kills);
    println!("{kills} kills, {acked} records acked, {segments} segments");
    assert!(acked as u64 > kills, "only {acked} records were acked: the test tests nothing");
    assert!(segments as u64 > kills / 4, "only {segments} segments: there was no rotation");
}
