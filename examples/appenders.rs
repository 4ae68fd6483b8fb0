//! Many tasks append to one log, each its next record when the last is durable: what group commit is for.
//!
//! `cargo run --release --example appenders -- DIR [TASKS] [RECORDS] [BACKEND] [SYNC] [BYTES]`
//!
//! | argument | default | what |
//! |---|---|---|
//! | DIR | | the log, created if it is not there; its parent must exist, on a real disk |
//! | TASKS | 16 | tasks that append at the same time |
//! | RECORDS | 20,000 | records in all; what does not divide by the tasks is left out |
//! | BACKEND | auto | `auto`, `uring` or `threads` |
//! | SYNC | auto | `auto`, `dsync` (fails where there is no direct I/O) or `fdatasync` |
//! | BYTES | 1024 | length of a record |
//!
//! Prints one line: what was used, appends a second, how long an append took (half of them less than p50), and how many
//! bytes of the log each takes.

use seawal::{Backend, Options, SyncMethod, Wal};
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = args.first().ok_or("give the directory of the log")?;
    let tasks: usize = args.get(1).map_or(Ok(16), |text| text.parse())?;
    let records: usize = args.get(2).map_or(Ok(20_000), |text| text.parse())?;
    let backend: Backend = args.get(3).map_or(Ok(Backend::Auto), |text| text.parse())?;
    let method: SyncMethod = args.get(4).map_or(Ok(SyncMethod::Auto), |text| text.parse())?;
    let bytes: usize = args.get(5).map_or(Ok(1024), |text| text.parse())?;

    if tasks == 0 || records < tasks {
        return Err("give at least one task, and a record for each".into());
    }

    let options = Options::new().backend(backend).sync_method(method);
    let (wal, _) = Wal::open_or_create(dir, options).await?;
    let start = Instant::now();
    let appender = || {
        let wal = wal.clone();
        tokio::spawn(async move {
            let (record, mut times) = (vec![b'x'; bytes], Vec::new());
            for _ in 0..records / tasks {
                let before = Instant::now();
                wal.append(&record).await?;
                times.push(before.elapsed());
            }
            Ok::<_, seawal::Error>(times)
        })
    };
    let appenders: Vec<_> = (0..tasks).map(|_| appender()).collect();
    let mut times: Vec<Duration> = Vec::new();
    for appender in appenders {
        times.extend(appender.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    times.sort();
    println!(
        "{tasks} appenders of {bytes} B, {}, {}: {:.0} appends/s, p50 {:?}, p99 {:?}, {:.0} bytes each",
        wal.backend(),
        wal.sync_method(),
        times.len() as f64 / seconds,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        wal.stats().bytes as f64 / wal.stats().appends as f64,
    );
    wal.close().await?;
    Ok(())
}
