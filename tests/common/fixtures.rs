//! Access to the directories under `tests/fixtures/etcd` and to what etcd
//! says about them. The form of the files is in the README.md there.
//!
//! A fixture is named by group and name, for example
//! `"damaged/seg-torn-tail-zero"`. Everything here panics with the name of the
//! file when something is missing: a test cannot go on without its input.
#![allow(dead_code)] // every test binary uses a part of this

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

/// All groups of fixtures.
pub(crate) const GROUPS: [&str; 4] = ["real", "written", "written-3.6", "damaged"];

/// `tests/fixtures/etcd`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/etcd")
}

/// The fixtures of a group in order, with the group: `"real/kill9"`.
pub(crate) fn cases(group: &str) -> Vec<String> {
    let dir = root().join(group);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap_or_else(|e| panic!("{}: {e}", dir.display())))
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(format!("{group}/{}", name.strip_suffix(".tar.zst")?))
        })
        .collect();
    assert!(!names.is_empty(), "no fixtures in {}", dir.display());
    names.sort();
    names
}

/// What the fixture is and what etcd says about it.
pub(crate) fn expect(name: &str) -> Value {
    let path = beside(name, "expect.json");
    let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The expected dump from the start that its first line names: 0/0, or the
/// snapshot when the log can only be read from there. `None`: there is none.
pub(crate) fn dump_lines(name: &str) -> Option<Vec<Value>> {
    json_lines(&beside(name, "dump.jsonl"), |file| Box::new(file))
}

/// The expected dump from the last valid snapshot record (group `real` only).
pub(crate) fn latest_lines(name: &str) -> Option<Vec<Value>> {
    json_lines(&beside(name, "latest.jsonl"), |file| Box::new(file))
}

/// Every physical record of every file (kept for a few fixtures only).
pub(crate) fn raw_lines(name: &str) -> Option<Vec<Value>> {
    let path = beside(name, "raw.jsonl.zst");
    json_lines(&path, |file| Box::new(decompress(file, &path)))
}

/// An unpacked fixture. The directory goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Unpacked {
    dir: TempDir,
    wal: PathBuf,
}

impl Unpacked {
    /// The log: `wal` or `member/wal` in the unpacked directory.
    pub(crate) fn wal(&self) -> &Path {
        &self.wal
    }

    /// The unpacked directory itself.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }
}

/// Unpacks a fixture into a new temporary directory.
pub(crate) fn unpack(name: &str) -> Unpacked {
    unpack_in(name, &std::env::temp_dir())
}

/// Unpacks a fixture into a new temporary directory inside `parent`.
///
/// Blocks of zeros are not written, so that the preallocated files of 64 MB
/// cost no space and no time. That also means that their zeros are holes here,
/// while etcd's are preallocated extents; the bytes are the same.
pub(crate) fn unpack_in(name: &str, parent: &Path) -> Unpacked {
    let archive = beside(name, "tar.zst");
    let dir = TempDir::new_in(parent).unwrap_or_else(|e| panic!("{}: {e}", parent.display()));
    let file = File::open(&archive).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    unpack_archive(decompress(file, &archive), dir.path())
        .unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    let wal = ["wal", "member/wal"]
        .map(|inside| dir.path().join(inside))
        .into_iter()
        .find(|path| path.is_dir())
        .unwrap_or_else(|| panic!("{}: no wal directory in it", archive.display()));
    Unpacked { dir, wal }
}

fn beside(name: &str, extension: &str) -> PathBuf {
    root().join(format!("{name}.{extension}"))
}

fn decompress(file: File, path: &Path) -> impl Read + use<> {
    zstd::Decoder::new(file).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json_lines<'a>(
    path: &Path,
    reader: impl FnOnce(File) -> Box<dyn Read + 'a>,
) -> Option<Vec<Value>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => panic!("{}: {e}", path.display()),
    };
    let mut text = String::new();
    reader(file).read_to_string(&mut text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().enumerate().map(|(i, line)| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), i + 1))
    });
    Some(lines.collect())
}

fn unpack_archive(reader: impl Read, to: &Path) -> io::Result<()> {
    for entry in tar::Archive::new(reader).entries()? {
        let mut entry = entry?;
        let inside = entry.path()?.into_owned();
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !inside.components().all(plain) {
            return Err(io::Error::other(format!("path {}", inside.display())));
        }
        let path = to.join(inside);
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            fs::create_dir_all(&path)?;
        } else if kind.is_file() {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            write_sparse(&mut entry, &path)?;
        } else {
            return Err(io::Error::other(format!("{} is a {kind:?}", path.display())));
        }
        set_mode(&path, entry.header().mode()?)?;
    }
    Ok(())
}

const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

fn write_sparse(from: &mut impl Read, path: &Path) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut chunk = Vec::with_capacity(64 * BLOCK);
    let mut len = 0; // of the file so far
    let mut at = 0; // where the file stands
    loop {
        chunk.clear();
        from.by_ref().take(64 * BLOCK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return file.set_len(len);
        }
        for block in chunk.chunks(BLOCK) {
            // Comparing slices is one memcmp, also in a debug build.
            if block != &ZEROS[..block.len()] {
                if at != len {
                    at = file.seek(SeekFrom::Start(len))?;
                }
                file.write_all(block)?;
                at += block.len() as u64;
            }
            len += block.len() as u64;
        }
    }
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777))
}

#[cfg(not(unix))]
fn set_mode(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}
