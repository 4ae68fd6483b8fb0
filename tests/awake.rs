//! A caller who is alone stays awake while the disk has his record, if he may, and lets others run.
//!
//! One test: a process has one caller awake at a time.
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

use seawal::{Options, Wal};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

const APPENDS: u32 = 50;

/// Appends one after another; says how often the appends were polled, and how often another task had its turn meanwhile.
fn append(options: Options) -> (u32, u32) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (polls, turns) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (counted, turned) = (Arc::clone(&polls), Arc::clone(&turns));
    let appends = runtime.spawn(async move {
        let (wal, _) = Wal::open_or_create(dir.path(), options).await.unwrap();
        for _ in 0..APPENDS {
            // It is ready to run all the time, but nothing hurries it.
            let other = Arc::clone(&turned);
            let other = tokio::spawn(async move {
                loop {
                    other.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
            let mut append = pin!(wal.append("x"));
            poll_fn(|context| {
                counted.fetch_add(1, Ordering::Relaxed);
                append.as_mut().poll(context)
            })
            .await
            .unwrap();
            other.abort();
        }
        // Who goes while he waits leaves the place to the next.
        let mut gone = Box::pin(wal.append("x"));
        poll_fn(|context| {
            assert!(gone.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(gone);
        wal.close().await.unwrap();
    });
    runtime.block_on(appends).unwrap();
    (polls.load(Ordering::Relaxed), turns.load(Ordering::Relaxed))
}

#[test]
fn who_is_alone_stays_awake() {
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) == 1 {
        eprintln!("skipped: nobody stays awake on one core");
        return;
    }
    let asleep = Options::new().stay_awake(Duration::ZERO);
    let (polls, _) = append(asleep);
    assert!(polls <= 2 * APPENDS, "he is polled when he has his answer: {polls}");

    for round in 0..2 {
        let awake = Options::new().stay_awake(Duration::from_millis(10));
        let (polls, turns) = append(awake);
        assert!(polls > 3 * APPENDS, "round {round}: {polls}");
        assert!(turns > APPENDS, "round {round}: {turns}");
    }
}
