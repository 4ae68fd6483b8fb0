//! An application tests its own recovery: a small key-value store, and a machine that loses power at each moment of its
//! life.
//!
//! ```text
//! cargo run --features testing --example crash_test
//! ```

use seawal::testing::{Crash, OpKind, Sim};
use seawal::{Options, Result, Wal};
use std::cell::RefCell;
use std::collections::BTreeMap;

const DIR: &str = "/store";

/// The store: a map in memory, and each change of it in the log.
struct Store {
    map: BTreeMap<String, String>,
    wal: Wal,
}

impl Store {
    /// In production this would call `Wal::open_or_create`; that is all the difference.
    async fn open(sim: &Sim) -> Result<Store> {
        let (wal, _) = sim.open_or_create(DIR, Options::new().segment_bytes(64 << 10)).await?;
        let mut map = BTreeMap::new();
        let mut entries = wal.read(..);
        while let Some(entry) = entries.next().await {
            let change = String::from_utf8_lossy(&entry?.data).into_owned();
            if let Some((key, value)) = change.split_once('=') {
                map.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(Store { map, wal })
    }

    async fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.wal.append(format!("{key}={value}")).await?;
        self.map.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

/// Sets one key to 1, 2, 3, … and notes how far it got. The note is not on the machine: it survives everything.
async fn count_up(sim: &Sim, acked: &RefCell<u64>) -> Result<()> {
    let mut store = Store::open(sim).await?;
    for value in 1..=20 {
        store.set("counter", &value.to_string()).await?;
        *acked.borrow_mut() = value;
    }
    store.wal.close().await.map(drop)
}

/// What the store says after it was opened again.
fn value_after(sim: &Sim) -> u64 {
    let store = sim.block_on(Store::open(sim)).expect("a store without damage opens");
    store.map.get("counter").map_or(0, |value| value.parse().expect("what was set"))
}

/// Power goes before each operation of the disk, once with each seed. Gives the number of crashes.
fn lose_power_everywhere() -> u64 {
    let mut crashes = 0;
    for operation in 1.. {
        let mut finished = true;
        for seed in 0..5 {
            let sim = Sim::new(seed);
            let acked = RefCell::new(0);
            finished = sim.block_on_until(operation, count_up(&sim, &acked)).is_some();
            sim.power_loss(Crash::Random);
            let (acked, found) = (acked.into_inner(), value_after(&sim));
            assert!(
                found == acked || found == acked + 1,
                "power loss before operation {operation}, seed {seed}: {acked} was acked, and {found} is there"
            );
            crashes += 1;
        }
        if finished {
            break;
        }
    }
    crashes
}

/// The disk fails once. The store says so, and after a restart it has what it had promised.
fn fail_a_write() {
    let sim = Sim::new(1);
    let acked = RefCell::new(0);
    sim.fail_nth_of(OpKind::Write, 12, 5);
    let error = sim.block_on(count_up(&sim, &acked)).expect_err("the disk failed");
    assert!(error.is_poisoned(), "{error}");
    sim.kill();
    let (acked, found) = (acked.into_inner(), value_after(&sim));
    assert!(found == acked || found == acked + 1, "{acked} was acked, and {found} is there");
}

fn main() {
    println!("{} power losses, and nothing was lost", lose_power_everywhere());
    fail_a_write();
    println!("one failed write, and nothing was lost");
}

#[test]
fn nothing_is_lost() {
    main();
}
