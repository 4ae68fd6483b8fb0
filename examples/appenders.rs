//! Many tasks append to one log, each its next record when the last is durable: what group commit is for.
//!
//! `cargo run --release --example appenders -- DIR [TASKS] [RECORDS] [uring|threads]`

use seawal::{Backend, Options, Wal};
use std::time::{Duration, Instant};

const RECORD: &[u8] = &[b'x'; 1024];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = args.first().ok_or("give the directory of the log")?;
    let tasks: usize = args.get(1).map_or(Ok(16), |text| text.parse())?;
    let records: usize = args.get(2).map_or(Ok(20_000), |text| text.parse())?;
    let backend: Backend = args.get(3).map_or(Ok(Backend::Auto), |text| text.parse())?;

    let (wal, _) = Wal::open_or_create(dir, Options::new().backend(backend)).await?;
    let start = Instant::now();
    let appender = || {
        let wal = wal.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            for _ in 0..records / tasks {
                let before = Instant::now();
                wal.append(RECORD).await?;
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
        "{tasks} appenders of 1 KiB, {}: {:.0} appends/s, p50 {:?}, p99 {:?}",
        wal.backend(),
        times.len() as f64 / seconds,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    );
    wal.close().await?;
    Ok(())
}
