//! Appends in steady state allocate next to nothing: memory is used again, on the callers' side and on the log's.
//!
//! Counted over the whole process, for default options. `SEAWAL_ALLOCATION_SITES=1` prints where they come from.
#![allow(unsafe_code)] // an allocator is
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

use seawal::{Backend, Options, Wal};
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Barrier;

/// Counts what takes memory; what gives it back is not counted.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static COLLECTS_SITES: AtomicBool = AtomicBool::new(false);
static SITES: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);

thread_local! {
    /// This thread is noting a site, which allocates too.
    static NOTING: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
    if COLLECTS_SITES.load(Ordering::Relaxed) && !NOTING.replace(true) {
        let site = Backtrace::force_capture().to_string();
        let mut sites = SITES.lock().unwrap();
        *sites.get_or_insert_default().entry(site).or_default() += 1;
        drop(sites);
        NOTING.set(false);
    }
}

// SAFETY: all is left to the system's allocator, whose contract is the caller's; counting touches none of the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller vouches for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller vouches for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller vouches for.
        unsafe { System.realloc(memory, layout, len) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches for.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const APPENDS: usize = 20_000;
const WARM_UP: usize = 10_000;
const PAYLOAD: [u8; 256] = [7; 256];
const ALLOCATIONS_PER_APPEND_MAX: f64 = 0.1;

async fn append(wal: &Wal, times: usize) {
    for _ in 0..times {
        wal.append(&PAYLOAD[..]).await.unwrap();
    }
}

/// Allocations of the whole process over [`APPENDS`] appends.
async fn allocations(wal: &Wal, callers: usize) -> u64 {
    let barrier = Arc::new(Barrier::new(callers + 1));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (wal, barrier) = (wal.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                append(&wal, WARM_UP / callers).await;
                barrier.wait().await;
                barrier.wait().await;
                append(&wal, APPENDS / callers).await;
                barrier.wait().await;
            })
        })
        .collect();
    barrier.wait().await;
    COLLECTS_SITES.store(std::env::var_os("SEAWAL_ALLOCATION_SITES").is_some(), Ordering::Relaxed);
    let before = COUNT.load(Ordering::Relaxed);
    barrier.wait().await;
    barrier.wait().await;
    let count = COUNT.load(Ordering::Relaxed) - before;
    COLLECTS_SITES.store(false, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    count
}

fn print_sites() {
    let mut sites: Vec<_> = SITES.lock().unwrap().take().unwrap_or_default().into_iter().collect();
    sites.sort_by_key(|site| std::cmp::Reverse(site.1));
    for (site, count) in sites.iter().take(8) {
        println!("{count} times:\n{site}");
    }
}

// One test: nothing else may run in the process.
#[test]
fn appends_allocate_next_to_nothing() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut worst = (0.0, String::new());
    for backend in [Backend::Auto, Backend::Threads] {
        for callers in [1, 16, 256] {
            let root = tempfile::tempdir().unwrap();
            let options = Options::new().backend(backend);
            let (wal, _) = Wal::open_or_create_blocking(root.path().join("log"), options).unwrap();
            let count = runtime.block_on(allocations(&wal, callers));
            let per_append = count as f64 / (APPENDS / callers * callers) as f64;
            let what = format!(
                "{callers} callers, {}, {}: {per_append:.4} allocations per append, {:?}",
                wal.backend(),
                wal.sync_method(),
                wal.stats()
            );
            println!("{what}");
            print_sites();
            wal.close_blocking().unwrap();
            if per_append >= worst.0 {
                worst = (per_append, what);
            }
        }
    }
    assert!(worst.0 <= ALLOCATIONS_PER_APPEND_MAX, "{}", worst.1);
}
