//! Writes `fuzz/seeds`: inputs to start from, made of etcd's logs in tests/fixtures and of seawal's own.
//!
//! ```sh
//! cargo run --manifest-path fuzz/Cargo.toml --example seeds
//! ```

use seawal::testing::Sim;
use seawal::{Entry, HardState, Options, Packing, SyncMethod};
use seawal_fuzz::files::{File, describe};
use seawal_fuzz::machine::{DIR, files_of};
use std::fs;
use std::io::Read;
use std::path::Path;

/// A larger input slows every other one down.
const SEED_BYTES_MAX: usize = 2 << 10;
/// Of ours, which have whole blocks.
const OWN_BYTES_MAX: usize = 24 << 10;
/// All together, so that they can be checked in.
const ALL_BYTES_MAX: usize = 190_000;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut logs = Vec::new();
    for group in ["damaged", "written", "written-3.6"] {
        let dir = root.join("../tests/fixtures/etcd").join(group);
        let mut archives: Vec<_> = fs::read_dir(&dir)
            .expect("fixtures")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        archives.sort();
        for path in archives {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let Some(name) = name.strip_suffix(".tar.zst") else {
                continue;
            };
            logs.push((format!("etcd-{group}-{name}"), unpacked(&path)));
        }
    }
    let etcd = logs.len();
    for sync in ["dense", "blocks", "window"] {
        for end in ["closed", "killed"] {
            logs.push((format!("seawal-{sync}-{end}"), own(sync, end)));
        }
    }

    let seeds = root.join("seeds");
    // What was found once (found-*) stays.
    let mut all = 0;
    let mut write = |target: &str, name: &str, bytes: &[u8]| {
        let max = if name.starts_with("seawal") { OWN_BYTES_MAX } else { SEED_BYTES_MAX };
        if bytes.len() > max || all + bytes.len() > ALL_BYTES_MAX {
            println!("{target}/{name}: {} bytes, left out", bytes.len());
            return;
        }
        all += bytes.len();
        fs::create_dir_all(seeds.join(target)).expect("a directory");
        fs::write(seeds.join(target).join(name), bytes).expect("a seed");
    };
    for (number, (name, files)) in logs.iter().enumerate() {
        // As it is opened by default.
        let blob = describe(files);
        write("open_directory", name, &[&[0, 0], &blob[..]].concat());
        let damaged = name.starts_with("etcd-damaged");
        if !damaged {
            // One flip, in the file and at the place that the number says.
            let at = (number as u32 * 97).to_le_bytes();
            let damage = [&[1, 0, 0, 0][..], &at, &[3]].concat();
            write("repair", name, &[&damage, &blob[..]].concat());
        }
        if number >= etcd || !damaged {
            let newest = files.iter().rfind(|file| file.is_segment());
            let bytes = newest.map(|file| used(&file.bytes)).unwrap_or_default();
            write("decode", name, bytes);
        }
    }
    // Logs by instructions: a damage of each kind, and ten appends, saves and the like.
    for kind in 0..12u8 {
        let mut bytes = vec![kind << 1, 0, kind, 0];
        bytes.extend([0x51, 1, 0, 0, 3, 1, 0, 0, 7, 9, 1]);
        bytes.extend([kind, 7, 10]);
        for number in 0..10u8 {
            bytes.extend([number.wrapping_mul(3).wrapping_add(kind), 0x41 + number, 90, number]);
        }
        write("repair", &format!("instructions-{kind}"), &bytes);
    }
    for boundary in 0..3u8 {
        let mut bytes = vec![boundary, 3, 0, 16, 1, 2, 3, 4, 1];
        bytes.extend([7; 16]);
        bytes.extend([1, 0, 0, 0, 5, 9, 3, 8, 100, 1]);
        for kind in 0..6u8 {
            bytes.extend([kind, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        }
        write("encode_differential", &format!("boundary-{boundary}"), &bytes);
    }
    println!("{all} bytes in all");
}

fn used(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    &bytes[..end.next_multiple_of(8).min(bytes.len())]
}

/// The segments in an archive.
fn unpacked(path: &Path) -> Vec<File> {
    let file = fs::File::open(path).expect("a fixture");
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).expect("zstd"));
    let mut files = Vec::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let inside = entry.path().expect("a path").into_owned();
        let name = inside.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let of_log = inside.parent().is_some_and(|dir| dir.ends_with("wal"));
        if of_log && name.ends_with(".wal") && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("bytes");
            // Preallocated by 64 MB: some zeros will do.
            let len = (used(&bytes).len() + 8192).min(bytes.len());
            bytes.truncate(len);
            files.push(File { name, bytes });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// A small log of ours.
fn own(sync: &str, end: &str) -> Vec<File> {
    let options = Options::new().segment_bytes(16 << 10);
    let options = match sync {
        "dense" => options.sync_method(SyncMethod::Fdatasync),
        "blocks" => options.sync_method(SyncMethod::Fdatasync).packing(Packing::Block),
        _ => options.sync_method(SyncMethod::Dsync),
    };
    let sim = Sim::new(1);
    sim.create_dir(DIR);
    sim.block_on(async {
        let wal = sim.create(DIR, options).await.expect("a new log");
        wal.append("one").await.expect("appended");
        wal.append_batch(["two", "three"]).await.expect("appended");
        let entry = Entry { index: 3, term: 2, data: "again".into(), ..Entry::default() };
        let state = HardState { term: 2, vote: 1, commit: 2 };
        wal.save(state, vec![entry]).await.expect("saved");
        if end == "closed" {
            wal.close().await.expect("closed");
        }
    });
    sim.kill();
    files_of(&sim)
}
