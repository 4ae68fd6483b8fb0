//! Memory in the measure of the input: a length that somebody wrote into a file must not become an allocation before
//! it was held against what the file has.
//!
//! libFuzzer's own `-malloc_limit_mb` sees allocations only under a sanitizer, and its limit is a fixed one. This
//! allocator works on any toolchain, with a limit for each input. Who goes beyond it is aborted on the spot, so that
//! the stack in libFuzzer's report is that of the allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Bytes of one allocation, at most.
static ONE_MAX: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Bytes that live at a time, at most.
static LIVE_MAX: AtomicUsize = AtomicUsize::new(usize::MAX);
static LIVE: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    let beyond = bytes > ONE_MAX.load(Ordering::Relaxed) || live > LIVE_MAX.load(Ordering::Relaxed);
    // The backtrace of a panic takes what it needs.
    if beyond && !std::thread::panicking() {
        let (one, all) = (ONE_MAX.load(Ordering::Relaxed), LIVE_MAX.load(Ordering::Relaxed));
        unlimited();
        eprintln!(
            "allocation of {bytes} bytes, {live} live: more than this input allows ({one} in one, {all} live)"
        );
        std::process::abort();
    }
}

fn uncount(bytes: usize) {
    LIVE.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: all is left to the system's allocator, whose contract is the caller's; counting touches none of the memory.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller vouches for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller vouches for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // Both live for a moment.
        count(len);
        uncount(layout.size());
        // SAFETY: as the caller vouches for.
        unsafe { System.realloc(memory, layout, len) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        uncount(layout.size());
        // SAFETY: as the caller vouches for.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn unlimited() {
    ONE_MAX.store(usize::MAX, Ordering::Relaxed);
    LIVE_MAX.store(usize::MAX, Ordering::Relaxed);
}

/// Runs `work`, in which no allocation is larger than `one_max` bytes, and no more than `live_max` live at a time
/// beyond those that live now.
pub fn within<T>(one_max: usize, live_max: usize, work: impl FnOnce() -> T) -> T {
    LIVE_MAX.store(LIVE.load(Ordering::Relaxed) + live_max, Ordering::Relaxed);
    ONE_MAX.store(one_max, Ordering::Relaxed);
    let result = work();
    unlimited();
    result
}
