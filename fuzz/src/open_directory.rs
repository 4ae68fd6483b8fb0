//! Any files in a directory, opened as a log.

use crate::allocation;
use crate::files::{self, File};
use crate::input::Input;
use crate::machine::{self, machine};
use seawal::{Options, Packing, Prealloc, Start, SyncMethod};

/// Bytes of a segment: what a writer allocates is no more.
pub const SEGMENT_BYTES: u64 = 16 << 10;

/// Nothing panics or hangs, and no more memory is taken than the files could fill. If the directory opens, it is a log:
/// readers and writers see the same, and what is appended comes after what was there.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let options = options(&mut input);
    // Without direct I/O there is nothing to open with `SyncMethod::Dsync`.
    let direct_io = input.u8() & 1 == 0 || data.first().is_some_and(|ways| ways % 4 == 3);
    let files = files::files(&mut input);
    within(&files, || {
        let sim = machine(&files);
        sim.set_direct_io(direct_io);
        let reader = machine::read(&sim, &options);
        machine::assert_replays_as(&machine::replay(&sim, &options), &reader);
        let before = machine::files_of(&sim);
        let writer = machine::open(&sim, &options);
        machine::assert_agree(&reader, &writer);
        match writer {
            Ok((wal, seen)) => machine::assert_goes_on(&sim, &options, wal, &seen),
            Err(error) => {
                machine::assert_names_a_place(&error);
                assert!(machine::files_of(&sim) == before, "refused, and something has changed");
            }
        }
    });
}

/// Runs `work` in as much memory as these files are worth: pieces, copies and the machine's own ones of them, and no
/// bytes that a file only speaks of.
pub fn within<T>(files: &[File], work: impl FnOnce() -> T) -> T {
    let largest = files.iter().map(|file| file.bytes.len()).max().unwrap_or(0);
    let all: usize = files.iter().map(|file| file.bytes.len()).sum();
    // The largest file, or its list of entries (which grows by doubling), or a new segment.
    let one_max = 4 * largest + 4 * SEGMENT_BYTES as usize + (256 << 10);
    allocation::within(one_max, 16 * all + (8 << 20), work)
}

/// How the log is opened.
pub fn options(input: &mut Input<'_>) -> Options {
    let options = Options::new()
        .segment_bytes(SEGMENT_BYTES)
        .group_bytes_max(4 << 10)
        .queue_records_max(64)
        .queue_bytes_max(1 << 20);
    let ways = input.u8();
    let options = match ways % 4 {
        0 => options.sync_method(SyncMethod::Auto),
        1 => options.sync_method(SyncMethod::Fdatasync),
        2 => options.sync_method(SyncMethod::Fdatasync).packing(Packing::Block),
        _ => options.sync_method(SyncMethod::Dsync).in_flight_max(1),
    };
    let options = match ways & 4 {
        0 => options,
        _ => options.prealloc(Prealloc::Fallocate),
    };
    options.start(match ways >> 3 {
        0..=19 => Start::Beginning,
        20..=25 => Start::LatestSnapshot,
        _ => Start::Snapshot { index: input.number(), term: input.number() },
    })
}
