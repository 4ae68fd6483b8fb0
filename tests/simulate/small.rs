//! Small histories, and everything that can be left of them: power is lost before each operation, and each combination
//! of unsynced sectors, lengths and names that the disk may have then is opened.

use futures_util::future::join_all;
use seawal::testing::{Crash, Sim};
use seawal::{Options, Packing, Prealloc, Result, SyncMethod};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/log";
/// What is left of one moment, at most: of moments with more, these are the first of its combinations.
const LEFT_MAX: usize = if cfg!(debug_assertions) { 64 } else { 2048 };

/// Of moments with more, so many others by chance.
const RANDOM: u64 = if cfg!(debug_assertions) { 20 } else { 200 };

struct Mode {
    name: &'static str,
    options: Options,
}

/// Blocks of 512 bytes make groups of one sector, so that several in flight can be tried whole.
fn modes() -> Vec<Mode> {
    let options = Options::new().segment_bytes(16 << 10).group_bytes_max(4 << 10);
    let fdatasync = options.clone().sync_method(SyncMethod::Fdatasync);
    let dsync = options.sync_method(SyncMethod::Dsync).in_flight_max(3);
    vec![
        Mode { name: "dense", options: fdatasync.clone().prealloc(Prealloc::Fallocate) },
        Mode { name: "blocks, zero-filled", options: fdatasync.packing(Packing::Block) },
        Mode { name: "window", options: dsync.clone().prealloc(Prealloc::Fallocate) },
        Mode { name: "window, zero-filled", options: dsync },
    ]
}

/// What the application knows.
#[derive(Clone, Default)]
struct Known {
    submitted: Vec<Vec<u8>>,
    /// The first so many are durable.
    acked: usize,
}

fn machine(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    sim.set_block_bytes(512);
    sim.create_dir(Path::new(DIR).parent().expect("a directory"));
    sim
}

/// Appends side by side, a batch, and enough to fill a segment.
async fn history(sim: Sim, options: Options, known: Rc<RefCell<Known>>) -> Result<()> {
    let (wal, _) = sim.open_or_create(DIR, options).await?;
    let append = async |first: u8, sizes: &[usize]| {
        let records: Vec<Vec<u8>> =
            (first..).zip(sizes).map(|(byte, &size)| vec![byte; size]).collect();
        known.borrow_mut().submitted.extend(records.clone());
        let upto = known.borrow().submitted.len();
        wal.append_batch(records).await?;
        let mut known = known.borrow_mut();
        known.acked = known.acked.max(upto);
        seawal::Result::<()>::Ok(())
    };
    let small = [append(1, &[10]), append(2, &[300]), append(3, &[1])];
    join_all(small).await.into_iter().collect::<Result<()>>()?;
    append(4, &[40, 700]).await?;
    // Fills the segment, so that the next one begins another.
    append(6, &[14_200]).await?;
    let last = [append(7, &[20]), append(8, &[5, 5])];
    join_all(last).await.into_iter().collect::<Result<()>>()?;
    wal.close().await.map(drop)
}

fn check(sim: &Sim, options: Options, known: &Known, story: &str) {
    let created = !known.submitted.is_empty();
    let found: Result<Vec<Vec<u8>>> = sim.block_on(async {
        let (wal, _) = sim.open_or_create(DIR, options).await?;
        let mut found = Vec::new();
        let mut entries = wal.read(..);
        while let Some(entry) = entries.next().await {
            found.push(entry?.data.to_vec());
        }
        wal.append("goes on").await?;
        wal.close().await?;
        Ok(found)
    });
    let found = found.unwrap_or_else(|error| panic!("{story}: {error}"));
    assert!(created || found.is_empty(), "{story}");
    assert!(
        found.len() >= known.acked && known.submitted.starts_with(&found),
        "{story}: {} acked of {}, and there are {:?}",
        known.acked,
        known.submitted.len(),
        found.iter().map(|record| (record.first(), record.len())).collect::<Vec<_>>()
    );
}

/// The number of states of the disk that were opened, and of moments that had more than could be tried.
fn try_all(mode: &Mode) -> (usize, usize) {
    let (mut tried, mut cut_short) = (0, 0);
    for at in 1.. {
        let sim = machine(0);
        let known = Rc::new(RefCell::new(Known::default()));
        let run = history(sim.clone(), mode.options.clone(), Rc::clone(&known));
        let finished = sim.block_on_until(at, run).is_some();
        let known = known.borrow().clone();
        let mut left = 0;
        for (number, state) in sim.power_losses().take(LEFT_MAX).enumerate() {
            state.set_block_bytes(512);
            let story = format!("{}, power loss before operation {at}, state {number}", mode.name);
            check(&state, mode.options.clone(), &known, &story);
            left += 1;
        }
        if left == LEFT_MAX {
            // The first combinations are all alike in what was asked first.
            for seed in 0..RANDOM {
                let sim = machine(seed);
                let known = Rc::new(RefCell::new(Known::default()));
                let run = history(sim.clone(), mode.options.clone(), Rc::clone(&known));
                let _ = sim.block_on_until(at, run);
                sim.power_loss(Crash::Random);
                let story = format!("{}, power loss before operation {at}, seed {seed}", mode.name);
                check(&sim, mode.options.clone(), &known.borrow(), &story);
            }
        }
        tried += left;
        cut_short += usize::from(left == LEFT_MAX);
        if finished {
            assert!(at > 40, "a history has {at} operations");
            return (tried, cut_short);
        }
    }
    unreachable!("a history ends")
}

pub(crate) fn every_state_of_small_histories() {
    for mode in modes() {
        let began = std::time::Instant::now();
        let (tried, cut_short) = try_all(&mode);
        let time: Duration = began.elapsed();
        println!("{}: {tried} states in {time:.1?}, {cut_short} moments cut short", mode.name);
        assert!(tried > 200, "{} states of {}", tried, mode.name);
    }
}
