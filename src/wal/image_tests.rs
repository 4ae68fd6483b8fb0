//! etcd reads what a crash left of a log of ours, and what our recovery makes of that.
//!
//! Needs etcd's Go package; see `tests/common/etcd.rs`.

use super::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use tempfile::TempDir;

#[path = "../../tests/common/etcd.rs"]
mod etcd;
#[path = "../../tests/common/require.rs"]
mod require;

/// Crashes of each kind in each mode.
const CRASHES: u64 = 12;

/// Every mode, and those in which power loss finds several groups in the page cache.
fn ways() -> Vec<Options> {
    let written = |options: Options| {
        options.durability(Durability::Written).sync_interval(Duration::from_millis(1))
    };
    let mut ways = modes().to_vec();
    ways.push(written(options().prealloc(Prealloc::ZeroFill)));
    ways.push(written(direct().prealloc(Prealloc::ZeroFill)));
    ways
}

/// A call that writes several records, as several that write one each: to etcd a batch is no unit.
fn records(calls: &[Call]) -> Vec<Call> {
    let split = |call: &Call| match call {
        Call::Append(payloads) => {
            payloads.iter().map(|data| Call::Append(vec![data.clone()])).collect()
        }
        Call::Save(first, term, payloads) => (*first..)
            .zip(payloads)
            .map(|(index, data)| Call::Save(index, *term, vec![data.clone()]))
            .collect(),
        Call::State(_) => vec![call.clone()],
    };
    calls.iter().flat_map(split).collect()
}

/// The segments as the disk has them, in a directory.
fn image(sim: &Sim) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for name in sim.list_dir(DIR).unwrap() {
        if name.as_encoded_bytes().ends_with(b".wal") {
            let bytes = sim.read_file(Path::new(DIR).join(&name)).unwrap();
            std::fs::write(to.path().join(&name), bytes).unwrap();
        }
    }
    to
}

/// A log as etcd tells of it: term, length and checksum of each entry, and the hard state.
#[derive(Debug, PartialEq)]
struct Seen {
    entries: Vec<(u64, u64, String)>,
    state: HardState,
}

impl Seen {
    fn from_lines(lines: &[Value]) -> Seen {
        let number = |line: &Value, field: &str| line[field].as_u64().unwrap();
        let of_kind = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
        let entry = |line: &Value| {
            let sum = line["sha256"].as_str().unwrap().to_owned();
            (number(line, "term"), number(line, "len"), sum)
        };
        let indexes: Vec<u64> = of_kind("entry").map(|line| number(line, "index")).collect();
        assert_eq!(indexes, (1..=indexes.len() as u64).collect::<Vec<_>>());
        let state = of_kind("hardstate").next().unwrap();
        Seen {
            entries: of_kind("entry").map(entry).collect(),
            state: HardState {
                term: number(state, "term"),
                vote: number(state, "vote"),
                commit: number(state, "commit"),
            },
        }
    }
}

/// Checksums of payloads: there are few, and they come again and again.
#[derive(Default)]
struct Sums(HashMap<Bytes, String>);

impl Sums {
    fn expected(&mut self, calls: &[Call]) -> Seen {
        let Image { entries, state } = Image::after(calls);
        let mut entry = |(term, data): (u64, Bytes)| {
            let len = data.len() as u64;
            let sum = self.0.entry(data).or_insert_with_key(|data| {
                Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
            });
            (term, len, sum.clone())
        };
        Seen { entries: entries.into_iter().map(&mut entry).collect(), state }
    }
}

/// etcd reads the image to a state that seawal may have found, or a later one: it knows no groups, so it may see a part
/// of one that was never acked.
fn read_before_recovery(dir: &Path, calls: &[Call], found: usize, sums: &mut Sums, story: &str) {
    let lines = etcd::try_etcd(&["read"], dir, &[])
        .unwrap_or_else(|why| panic!("{story}: etcd refuses what seawal reads: {why}"));
    let seen = Seen::from_lines(&lines);
    let found = records(&calls[..found]).len();
    let calls = records(calls);
    let later = (found..=calls.len()).any(|n| sums.expected(&calls[..n]) == seen);
    let kept = sums.expected(&calls[..found]);
    assert!(later, "{story}: etcd sees {seen:#?}\nseawal found {kept:#?}");
}

/// etcd reads exactly this, as a log without any fault that it may append to.
fn read_after_recovery(dir: &Path, calls: &[Call], sums: &mut Sums, story: &str) {
    let lines = etcd::try_etcd(&["read"], dir, &[]).unwrap_or_else(|why| panic!("{story}: {why}"));
    assert_eq!(Seen::from_lines(&lines), sums.expected(calls), "{story}");
    for command in ["verify", "open"] {
        let opened = etcd::try_etcd(&[command], dir, &[]);
        let opened = opened.unwrap_or_else(|why| panic!("{story}: {why}"));
        assert!(command == "verify" || opened.last() == lines.last(), "{story}: {opened:?}");
    }
}

/// What the sim has after a power loss is read by etcd, then by seawal, and compared. Afterwards the known is what seawal
/// found. Says whether there was a log.
fn compare(
    sim: &Sim,
    options: &Options,
    known: &Shared<Known>,
    sums: &mut Sums,
    story: &str,
) -> bool {
    let calls = known.borrow().calls.clone();
    let before = known.borrow().created.then(|| image(sim));
    check(sim, options.clone(), known, story);
    let Some(before) = before else { return false };
    let found = known.borrow().calls.len();
    read_before_recovery(before.path(), &calls, found, sums, story);
    true
}

#[test]
fn etcd_reads_what_a_crash_left() {
    if etcd::program().is_none() {
        return;
    }
    let mut images = 0;
    let mut sums = Sums::default();
    for (way, options) in ways().into_iter().enumerate() {
        let total = operations_of_a_life(&options);
        for crash in [Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Random] {
            for n in 0..CRASHES {
                let at = 1 + total / CRASHES * n + (n * 7 + way as u64) % (total / CRASHES);
                let story = format!("way {way}, {}, {crash:?}, crash at {at}", mode(&options));
                let sim = machine(n + 100 * way as u64);
                let known = Shared::<Known>::default();
                let run = life(sim.clone(), options.clone(), known.clone(), 1);
                let _ = sim.block_on_until(at, run);
                sim.power_loss(crash);
                images += u64::from(compare(&sim, &options, &known, &mut sums, &story));

                // Again, with a tail that was cut behind the new records.
                let again = sim.operations() + 1 + (at * 5 + n) % total;
                let story = format!("{story}, then at {again}");
                let run = life(sim.clone(), options.clone(), known.clone(), 2);
                let _ = sim.block_on_until(again, run);
                sim.power_loss(crash);
                images += u64::from(compare(&sim, &options, &known, &mut sums, &story));
                if !known.borrow().created {
                    continue;
                }
                sim.block_on(go_on(&sim, &options, &known)).expect(&story);
                let after = image(&sim);
                read_after_recovery(after.path(), &known.borrow().calls, &mut sums, &story);
                images += 1;
            }
        }
    }
    println!("{images} images");
    assert!(images >= 300, "only {images} images");
}

/// A few more appends after recovery.
async fn go_on(sim: &Sim, options: &Options, known: &Shared<Known>) -> Result<()> {
    let (wal, _) = start_on(sim, options.clone(), How::Open).await?;
    call(&wal, known, Call::Append(vec![payload(3001, 10), payload(3002, 5000)])).await?;
    call(&wal, known, Call::State(HardState { term: 7, vote: 3, commit: 1 })).await?;
    side_by_side(&wal, known, (3..7).map(|n| Call::Append(vec![payload(3000 + n, 800)])).collect())
        .await?;
    wal.close().await?;
    Ok(())
}
