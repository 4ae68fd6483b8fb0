//! What sharing syncs is worth: as many appenders, with one log for all of them, a stream of one log each, or a log each.
//!
//! `cargo run --release --example many_logs -- DIR [APPENDERS] [SECONDS] [BYTES]`
//!
//! | argument | default | what |
//! |---|---|---|
//! | DIR | | a directory for the logs, which are made anew; its parent must exist, on a real disk |
//! | APPENDERS | 50 | tasks, each of which appends its next record when the last is durable |
//! | SECONDS | 3 | for each way |
//! | BYTES | 100 | length of a record |
//!
//! Four ways, one after another: one log that all append to; a named stream each, in one log; a log each, all on one
//! submission thread; and a log each on threads of their own. A line for each: appends a second, how long one took,
//! commits, and bytes of the logs an append.

use seawal::{NamedStream, Options, Stats, Streams, SubmissionThread, Wal};
use std::path::Path;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What an appender appends to.
#[derive(Clone)]
enum Target {
    Log(Wal),
    Stream(NamedStream),
}

impl Target {
    async fn append(&self, record: &[u8]) -> seawal::Result<u64> {
        match self {
            Target::Log(log) => log.append(record).await,
            Target::Stream(stream) => stream.append(record).await,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = Path::new(args.first().ok_or("give a directory for the logs")?);
    let appenders: usize = args.get(1).map_or(Ok(50), |text| text.parse())?;
    let seconds: u64 = args.get(2).map_or(Ok(3), |text| text.parse())?;
    let bytes: usize = args.get(3).map_or(Ok(100), |text| text.parse())?;
    if appenders == 0 {
        return Err("give at least one appender".into());
    }
    let time = Duration::from_secs(seconds);
    // Many logs, each with a prepared segment: small ones.
    let options = || Options::new().segment_bytes(8_000_000);
    let home = |at: usize| -> Result<_, Failure> {
        let home = dir.join(format!("{at}"));
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(dir)?;
        Ok(home)
    };

    let log = Wal::create(home(0)?, options()).await?;
    let targets = vec![Target::Log(log.clone()); appenders];
    measure("one log", targets, || vec![log.stats()], time, bytes).await?;
    log.close().await?;

    let streams = Streams::create(home(0)?, options()).await?;
    let mut targets = Vec::new();
    for at in 0..appenders {
        targets.push(Target::Stream(streams.stream(&format!("{at}")).await?));
    }
    measure("a stream each", targets, || vec![streams.stats()], time, bytes).await?;
    streams.close().await?;

    let thread = SubmissionThread::start(&options())?;
    for way in ["a log each, one thread", "a log each, a thread each"] {
        let mut logs = Vec::new();
        for at in 0..appenders {
            let options = match way {
                "a log each, one thread" => options().submission_thread(&thread),
                _ => options(),
            };
            logs.push(Wal::create(home(at)?, options).await?);
        }
        let targets = logs.iter().cloned().map(Target::Log).collect();
        measure(way, targets, || logs.iter().map(Wal::stats).collect(), time, bytes).await?;
        for log in &logs {
            log.close().await?;
        }
    }
    Ok(())
}

async fn measure(
    way: &str,
    targets: Vec<Target>,
    stats: impl Fn() -> Vec<Stats>,
    time: Duration,
    bytes: usize,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let appender = |target: Target| {
        tokio::spawn(async move {
            let (record, mut times) = (vec![b'x'; bytes], Vec::new());
            while begun.elapsed() < time {
                let before = Instant::now();
                target.append(&record).await?;
                times.push(before.elapsed());
            }
            Ok::<_, seawal::Error>(times)
        })
    };
    let tasks: Vec<_> = targets.into_iter().map(appender).collect();
    let mut times: Vec<Duration> = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort();
    let stats = stats();
    let sum = |count: fn(&Stats) -> u64| stats.iter().map(count).sum::<u64>() as f64;
    println!(
        "{way}: {:.0} appends/s, p50 {:?}, p99 {:?}, {:.0} commits/s, {:.0} bytes each",
        times.len() as f64 / seconds,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        sum(|stats| stats.groups) / seconds,
        sum(|stats| stats.bytes) / times.len() as f64,
    );
    Ok(())
}
