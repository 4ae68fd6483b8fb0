//! From records to bytes and back: a group of entries encoded into a buffer that is there already, its frames decoded and
//! checked, and a log read from the page cache.
//!
//! ```sh
//! cargo bench --features internals --bench codec
//! ```

#![allow(missing_docs, reason = "criterion's macros")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seawal::internals::{Group, decode};
use seawal::{Options, Reader, Wal};
use std::hint::black_box;

/// Entries in a group, and bytes of payload in each.
const GROUPS: [(usize, usize); 4] = [(1, 100), (256, 100), (256, 1024), (16, 64 << 10)];

fn encode_and_decode(criterion: &mut Criterion) {
    for name in ["encode", "decode"] {
        let mut benches = criterion.benchmark_group(name);
        for (entries, payload_bytes) in GROUPS {
            let mut group = Group::new(entries, payload_bytes);
            let bytes = Bytes::copy_from_slice(group.encode());
            assert_eq!(decode(&bytes), entries);
            // Payload, not the frames around it.
            benches.throughput(Throughput::Bytes((entries * payload_bytes) as u64));
            let id = BenchmarkId::from_parameter(format!("{entries}x{payload_bytes}"));
            match name {
                "encode" => benches.bench_function(id, |bench| {
                    bench.iter(|| black_box(group.encode()).len());
                }),
                _ => benches.bench_function(id, |bench| {
                    bench.iter(|| decode(black_box(&bytes)));
                }),
            };
        }
        benches.finish();
    }
}

/// Reads a log of several segments in order. All but the newest come from the page cache.
fn read(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let log = dir.path().join("log");
    let (records, payload_bytes) = (64 << 10, 1024);
    let options = Options::new().segment_bytes(8_000_000);
    let (wal, _) = Wal::open_or_create_blocking(&log, options.clone()).expect("a new log");
    for _ in 0..records / 1024 {
        wal.append_batch_blocking(vec![vec![7; payload_bytes]; 1024]).expect("appended");
    }
    wal.close_blocking().expect("closed");

    let mut benches = criterion.benchmark_group("read");
    benches.sample_size(10);
    benches.throughput(Throughput::Bytes((records * payload_bytes) as u64));
    benches.bench_function(
        BenchmarkId::from_parameter(format!("{records}x{payload_bytes}")),
        |bench| {
            bench.iter(|| {
                let (reader, _) = Reader::open_blocking(&log, options.clone()).expect("opened");
                let entries = reader.read(..).blocking().map(|entry| entry.expect("an entry"));
                assert_eq!(entries.map(black_box).count(), records);
            });
        },
    );
    benches.finish();
}

criterion_group!(benches, encode_and_decode, read);
criterion_main!(benches);
