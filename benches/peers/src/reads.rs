//! What only a log that is read while it is written, and that forgets, can be asked: single records, followers, the cost of
//! a busy reader, of releases and of backups, and how long opening takes.

use crate::peer::Result;
use crate::{stats, Args};
use bytes::Bytes;
use hdrhistogram::Histogram;
use seawal::{HardState, Options, Snapshot, Start, Wal};
use serde_json::{json, Value};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is measured, and in which order.
pub const KINDS: [&str; 17] = [
    "get-memory",
    "get-files",
    "get-files-cold",
    "appends-alone",
    "appends-reader",
    "appends-tail",
    "appends-tails-100",
    "appends-cuts",
    "appends-release",
    "appends-remove",
    "appends-retain",
    "appends-backup",
    "open-100",
    "open-1000",
    "open-10000",
    "read-10000",
    "idle",
];

/// Those that work on a log that was written before, of so many MB of 1 KiB records.
pub fn log_mb(kind: &str) -> Option<u64> {
    match kind {
        "get-files" | "get-files-cold" => Some(1000),
        "read-10000" => Some(10_000),
        _ => kind.strip_prefix("open-").and_then(|mb| mb.parse().ok()),
    }
}

/// Writes the log: 1 KiB records, a hard state and a snapshot record near its end.
pub fn load(dir: &Path, mb: u64) -> Result<Value> {
    let (wal, _) = Wal::open_or_create_blocking(dir, Options::new())?;
    let batch: Vec<Bytes> = (0..512_u64)
        .map(|n| {
            let mut record = vec![0; 1024];
            crate::peer::fill(&mut record, n);
            record.into()
        })
        .collect();
    let mut last = 0;
    for _ in 0..mb * 1_000_000 / (512 * 1024) {
        last = wal.append_batch_blocking(batch.iter().cloned())?.end - 1;
    }
    let runtime = runtime()?;
    runtime.block_on(async {
        wal.save(HardState { term: 1, vote: 1, commit: last }, Vec::new()).await?;
        wal.save_snapshot(Snapshot { index: last, term: 1, conf_state: None }).await
    })?;
    for _ in 0..100 {
        wal.append_blocking(&batch[0][..])?;
    }
    wal.close_blocking()?;
    Ok(json!({"records": last}))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

pub fn run(kind: &str, dir: &Path, a: &Args) -> Result<Value> {
    let secs = Duration::from_secs_f64(a.num("secs", 2.0));
    match kind {
        "get-memory" => get(dir, secs, true),
        "get-files" | "get-files-cold" => get(dir, secs, false),
        "appends-alone" => appends(dir, secs, Beside::Nothing),
        "appends-reader" => appends(dir, secs, Beside::Reader),
        "appends-tail" => appends(dir, secs, Beside::Tails(1)),
        "appends-tails-100" => appends(dir, secs, Beside::Tails(100)),
        "appends-cuts" => appends(dir, secs, Beside::Cuts),
        "appends-release" => appends(dir, secs, Beside::Release { recycle: true }),
        "appends-remove" => appends(dir, secs, Beside::Release { recycle: false }),
        "appends-retain" => appends(dir, secs, Beside::Retain),
        "appends-backup" => appends(dir, secs, Beside::Backup),
        "read-10000" => read_all(dir),
        "idle" => idle(dir),
        _ => open(dir),
    }
}

fn micros(histogram: &Histogram<u64>) -> Value {
    let at = |q| histogram.value_at_quantile(q) as f64 / 1000.0;
    json!({"p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "count": histogram.len()})
}

fn with(mut a: Value, b: Value) -> Value {
    let (Value::Object(into), Value::Object(from)) = (&mut a, b) else { unreachable!("objects") };
    into.extend(from);
    a
}

/// A generator that is good enough to pick records.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Single records at random, one after another.
fn get(dir: &Path, secs: Duration, memory: bool) -> Result<Value> {
    let options = if memory { Options::new() } else { Options::new().start(Start::Beginning) };
    let (wal, _) = Wal::open_or_create_blocking(dir, options)?;
    if memory {
        for _ in 0..4 {
            wal.append_batch_blocking((0..1000).map(|_| Bytes::from(vec![7; 1024])))?;
        }
    }
    let (first, last) = (wal.first_index(), wal.durable_index());
    let runtime = runtime()?;
    let histogram = runtime.block_on(async {
        let mut histogram = Histogram::<u64>::new(3)?;
        let (mut state, begun) = (88172645463325252, Instant::now());
        while begun.elapsed() < secs {
            let index = first + next_random(&mut state) % (last - first + 1);
            let t = Instant::now();
            let entry = wal.get(index).await?;
            histogram.record(t.elapsed().as_nanos() as u64)?;
            assert_eq!((entry.index, entry.data.len()), (index, 1024));
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(histogram)
    });
    let out = with(
        micros(&histogram.map_err(|e| e.to_string())?),
        json!({"pieces_read": wal.stats().pieces_read}),
    );
    wal.close_blocking()?;
    Ok(out)
}

#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    /// Somebody who reads the whole log from its files, over and over.
    Reader,
    /// So many who follow.
    Tails(usize),
    /// Nothing, but segments of 8 MB, as the following have.
    Cuts,
    /// Somebody who releases every millisecond what was appended by then, but the last 1,000; files are used again, or
    /// removed.
    Release {
        recycle: bool,
    },
    /// The log keeps four segments by itself.
    Retain,
    /// Somebody who brings a backup up to date, over and over.
    Backup,
}

impl Beside {
    fn options(self) -> Options {
        let small = Options::new().segment_bytes(8_000_000);
        match self {
            Beside::Nothing | Beside::Reader | Beside::Tails(_) => Options::new(),
            Beside::Cuts | Beside::Backup => small,
            Beside::Release { recycle } => small.recycle(recycle),
            Beside::Retain => small.retain_segments(4),
        }
    }
}

/// 16 appenders of 1 KiB, one record each at a time, and what goes on beside them.
fn appends(dir: &Path, secs: Duration, beside: Beside) -> Result<Value> {
    let (wal, _) = Wal::open_or_create_blocking(dir, beside.options())?;
    let runtime = runtime()?;
    let (stop, seen, read) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let outcome = runtime.block_on(async {
        // Something to read.
        for _ in 0..100 {
            wal.append_batch((0..512).map(|_| Bytes::from(vec![7; 1024]))).await?;
        }
        let mut tails: Vec<tokio::task::JoinHandle<seawal::Result<()>>> = Vec::new();
        match beside {
            Beside::Nothing | Beside::Cuts | Beside::Retain => {}
            Beside::Release { .. } => {
                let (wal, stop, seen) = (wal.clone(), Arc::clone(&stop), Arc::clone(&seen));
                tails.push(tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        wal.release(wal.durable_index() - 1000).await?;
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                }));
            }
            Beside::Backup => {
                let (wal, stop, seen) = (wal.clone(), Arc::clone(&stop), Arc::clone(&seen));
                let to = dir.with_extension("backup");
                tails.push(tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        wal.backup(&to).await?;
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    std::fs::remove_dir_all(&to).expect("it is there");
                    Ok(())
                }));
            }
            Beside::Reader => {
                let (wal, stop, read) = (wal.clone(), Arc::clone(&stop), Arc::clone(&read));
                tails.push(tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let mut entries = wal.read(..wal.durable_index());
                        while let Some(entry) = entries.next().await {
                            read.fetch_add(entry?.data.len() as u64, Ordering::Relaxed);
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                        }
                    }
                    Ok(())
                }));
            }
            Beside::Tails(count) => {
                for _ in 0..count {
                    let (mut tail, seen) = (wal.tail(wal.durable_index() + 1), Arc::clone(&seen));
                    tails.push(tokio::spawn(async move {
                        while let Some(entry) = tail.next().await {
                            seen.fetch_add(1, Ordering::Relaxed);
                            entry?;
                        }
                        Ok(())
                    }));
                }
            }
        }
        let measuring = Arc::new(AtomicBool::new(false));
        let appenders: Vec<tokio::task::JoinHandle<seawal::Result<Histogram<u64>>>> = (0..16)
            .map(|_| {
                let (wal, stop, measuring) =
                    (wal.clone(), Arc::clone(&stop), Arc::clone(&measuring));
                tokio::spawn(async move {
                    let mut histogram = Histogram::<u64>::new(3).expect("three digits");
                    let payload = vec![7; 1024];
                    while !stop.load(Ordering::Relaxed) {
                        let t = Instant::now();
                        wal.append(&payload).await?;
                        if measuring.load(Ordering::Relaxed) {
                            histogram.record(t.elapsed().as_nanos() as u64).expect("no limit");
                        }
                    }
                    Ok(histogram)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        measuring.store(true, Ordering::Relaxed);
        let (begun, before) = (Instant::now(), seen.load(Ordering::Relaxed));
        let (pieces, bytes) = (wal.stats().pieces_read, read.load(Ordering::Relaxed));
        tokio::time::sleep(secs).await;
        let took = begun.elapsed().as_secs_f64();
        let records = seen.load(Ordering::Relaxed) - before;
        let pieces = wal.stats().pieces_read - pieces;
        let bytes = read.load(Ordering::Relaxed) - bytes;
        let cuts = wal.stats().cuts;
        stop.store(true, Ordering::Relaxed);
        let mut all = Histogram::<u64>::new(3)?;
        for appender in appenders {
            all.add(appender.await??)?;
        }
        let more = json!({
            "appends_s": all.len() as f64 / took,
            "tail_records_s": records as f64 / took,
            "cuts": cuts,
            "read_mb_s": bytes as f64 / took / 1e6,
            "pieces_read": pieces,
            "rss_mb": stats::max_rss_mb(),
        });
        if matches!(beside, Beside::Release { .. } | Beside::Backup) {
            // They stop by themselves, and need the log until then.
            for tail in std::mem::take(&mut tails) {
                tail.await??;
            }
        }
        wal.close().await?;
        for tail in tails {
            tail.await??;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(with(micros(&all), more))
    });
    Ok(outcome.map_err(|e| e.to_string())?)
}

/// How long opening takes, from the beginning and at the latest snapshot, which is in the last segment.
fn open(dir: &Path) -> Result<Value> {
    let took = |start| -> Result<f64> {
        let t = Instant::now();
        let (wal, _) = Wal::open_blocking(dir, Options::new().start(start))?;
        let ms = t.elapsed().as_secs_f64() * 1000.0;
        wal.close_blocking()?;
        Ok(ms)
    };
    let latest = took(Start::LatestSnapshot)?;
    let rss_latest = stats::max_rss_mb();
    let beginning = took(Start::Beginning)?;
    Ok(json!({
        "open_latest_ms": latest, "open_ms": beginning, "rss_latest_mb": rss_latest, "rss_mb": stats::max_rss_mb(),
    }))
}

fn read_all(dir: &Path) -> Result<Value> {
    let t = Instant::now();
    let (wal, _) = Wal::open_blocking(dir, Options::new())?;
    let mut bytes = 0;
    for entry in wal.read(..).blocking() {
        bytes += entry?.data.len() as u64;
    }
    let secs = t.elapsed().as_secs_f64();
    wal.close_blocking()?;
    Ok(json!({"mb_s": bytes as f64 / secs / 1e6, "secs": secs, "rss_mb": stats::max_rss_mb()}))
}

/// Memory of an open log that does nothing.
fn idle(dir: &Path) -> Result<Value> {
    let before = stats::rss_mb();
    let (wal, _) = Wal::open_or_create_blocking(dir, Options::new())?;
    std::thread::sleep(Duration::from_millis(500));
    let rss = stats::rss_mb();
    wal.close_blocking()?;
    Ok(json!({"rss_added_mb": rss - before}))
}
