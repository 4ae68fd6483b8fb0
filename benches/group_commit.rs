//! Durable appends: tasks that each append their next record when the last is durable, by backend and sync method.
//!
//! ```sh
//! cargo bench --bench group_commit                    # all
//! cargo bench --bench group_commit -- uring/dsync/16  # by a part of the name
//! ```
//!
//! The log is written below `target/tmp`, which has to be on a real disk with a few GB free; it is removed after each
//! case. Criterion's time is per append, so that of one commit is as many times larger as tasks share it; for percentiles
//! see `examples/appenders.rs` and `seawal append`.

#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seawal::{Backend, Options, SyncMethod, Wal};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const APPENDERS: [u64; 3] = [1, 16, 256];
const PAYLOADS: [usize; 2] = [100, 1024];

/// The time that `tasks` tasks take for `appends` appends in all.
async fn append(wal: &Wal, tasks: u64, appends: u64, payload: &'static [u8]) -> Duration {
    let begun = Instant::now();
    let appender = |task: u64| {
        let wal = wal.clone();
        // The first ones take what does not divide.
        let own = appends / tasks + u64::from(task < appends % tasks);
        tokio::spawn(async move {
            for _ in 0..own {
                wal.append(payload).await.expect("appended");
            }
        })
    };
    let appenders: Vec<_> = (0..tasks).map(appender).collect();
    for appender in appenders {
        appender.await.expect("no panic");
    }
    begun.elapsed()
}

fn case(criterion: &mut Criterion, runtime: &Runtime, backend: Backend, method: SyncMethod) {
    let options = Options::new().backend(backend).sync_method(method);
    let dir = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let probe = dir();
    let opened = Wal::create_blocking(probe.path(), options.clone());
    if let Err(error) = opened.and_then(|wal| wal.close_blocking()) {
        // A kernel without io_uring, a file system without direct I/O.
        eprintln!("{backend}/{method} is skipped: {error}");
        return;
    }
    let mut benches = criterion.benchmark_group(format!("{backend}/{method}"));
    benches.throughput(Throughput::Elements(1));
    for payload_bytes in PAYLOADS {
        let payload: &'static [u8] = vec![b'x'; payload_bytes].leak();
        for tasks in APPENDERS {
            let id = BenchmarkId::from_parameter(format!("{tasks}x{payload_bytes}"));
            benches.bench_function(id, |bench| {
                let dir = dir();
                let wal = Wal::create_blocking(dir.path(), options.clone()).expect("a new log");
                bench
                    .iter_custom(|appends| runtime.block_on(append(&wal, tasks, appends, payload)));
                wal.close_blocking().expect("closed");
            });
        }
    }
    benches.finish();
}

fn group_commit(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    for backend in [Backend::Uring, Backend::Threads] {
        for method in [SyncMethod::Dsync, SyncMethod::Fdatasync] {
            case(criterion, &runtime, backend, method);
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = group_commit
}
criterion_main!(benches);
