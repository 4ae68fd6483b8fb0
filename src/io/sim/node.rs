//! What a file and a directory are: the state that every reader sees, the state on the platter, and the changes in
//! between. A sync carries changes over; a crash decides about those that are left.
//!
//! # Invariants
//!
//! 1. `cached` is `durable` with all changes but the strays applied in order, unless a sync has failed, or a write
//!    through the cache with `Persist::Now`: then the bytes it lost are in `cached` and no reader finds them elsewhere.
//! 2. Changes are in the order in which they happened, and so are their numbers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;

use super::fate::Fate;

/// The unit that a device writes or does not write.
pub(super) const SECTOR_BYTES: usize = 512;
/// The unit that the page cache writes back.
pub(super) const PAGE_BYTES: usize = 4096;

pub(super) type NodeId = u64;

/// What becomes of everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crash {
    /// It is gone.
    LoseUnsynced,
    /// It reached the disk, writes in flight included.
    KeepUnsynced,
    /// Chance decides, by the seed: for each write, whether all of it is there, nothing, its first sectors, or any of
    /// its sectors; for how many of the changes of a file's length; and for how many of the changes of a directory.
    Random,
}

/// What a power loss did, for who wants to know whether his test met what it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PowerLoss {
    /// Unsynced writes that are there whole.
    pub kept_writes: usize,
    /// Unsynced writes of which nothing is there.
    pub lost_writes: usize,
    /// Unsynced writes of which a part is there.
    pub torn_writes: usize,
    /// Unsynced changes of a file's length that did not happen.
    pub lost_lengths: usize,
    /// Unsynced changes of a directory that did not happen.
    pub lost_names: usize,
    /// In some file, of two unsynced writes the later one is there, at least in part, and the earlier one is not whole.
    pub holes: usize,
}

#[derive(Clone, Default)]
pub(super) struct FileNode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<FileChange>,
    /// Space that is taken, from the file's start.
    pub allocated: u64,
    /// The description that holds the lock.
    pub lock: Option<u64>,
}

#[derive(Clone)]
struct FileChange {
    number: u64,
    what: FileEffect,
    /// Left by a write with `Persist::Now` that failed: no sync will write it, but a crash may find it written.
    stray: bool,
}

/// A write that has ended.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    pub offset: usize,
    pub bytes: &'a [u8],
    /// Past the page cache.
    pub direct: bool,
    /// Of the change.
    pub number: u64,
}

#[derive(Clone)]
enum FileEffect {
    Bytes { offset: usize, bytes: Vec<u8> },
    Len(usize),
}

impl FileNode {
    pub(super) fn cached(&self) -> &[u8] {
        &self.cached
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// What a read past the page cache shows: the disk, after the dirty pages were written to it. Bytes that a failed
    /// sync lost are in no dirty page; what a failed write left behind is not shown.
    pub(super) fn direct(&self) -> Vec<u8> {
        let mut view = self.durable.clone();
        for change in self.changes.iter().filter(|change| !change.stray) {
            change.what.apply(&mut view);
        }
        view
    }

    /// A write that waits for a sync; grows the file if need be.
    pub(super) fn write(&mut self, write: Written<'_>) {
        let (offset, bytes) = self.put_cached(write);
        self.change(write.number, FileEffect::Bytes { offset, bytes });
    }

    /// A write with `Persist::Now`: its bytes are on the disk, with the length and whatever else the inode waits to
    /// have written, and over what was written before to this place; nothing else is.
    pub(super) fn write_now(&mut self, write: Written<'_>) {
        let (offset, bytes) = self.put_cached(write);
        self.settle(|change| matches!(change.what, FileEffect::Len(_)));
        cut(&mut self.changes, offset..offset + bytes.len());
        put(&mut self.durable, offset, &bytes);
    }

    /// A write with `Persist::Now` that failed: some of it may be on the disk. Through the cache it is like a failed
    /// sync: readers see the new bytes, and the length has changed. Past the cache, readers see the old ones.
    pub(super) fn fail_write_now(&mut self, write: Written<'_>) {
        let (offset, mut bytes) = match write.direct {
            true => (write.offset, write.bytes.to_vec()),
            false => self.put_cached(write),
        };
        // The blocks beyond the end do not belong to the file.
        bytes.truncate(self.cached.len().saturating_sub(offset));
        let what = FileEffect::Bytes { offset, bytes };
        self.changes.push(FileChange { number: write.number, what, stray: true });
    }

    /// Shows readers the bytes. Gives what goes to the disk: past the page cache just these, else whole pages, with
    /// everything that the cache holds of them, also bytes that a failed sync lost before.
    fn put_cached(&mut self, write: Written<'_>) -> (usize, Vec<u8>) {
        let Written { offset, bytes, direct, number } = write;
        let end = offset + bytes.len();
        if end > self.cached.len() {
            self.set_len(end, number);
        }
        self.cached[offset..end].copy_from_slice(bytes);
        if direct {
            return (offset, bytes.to_vec());
        }
        let first = offset / PAGE_BYTES * PAGE_BYTES;
        let last = end.next_multiple_of(PAGE_BYTES).min(self.cached.len());
        (first, self.cached[first..last].to_vec())
    }

    pub(super) fn set_len(&mut self, len: usize, number: u64) {
        self.change(number, FileEffect::Len(len));
    }

    fn change(&mut self, number: u64, what: FileEffect) {
        what.apply(&mut self.cached);
        self.changes.push(FileChange { number, what, stray: false });
    }

    /// A sync that covers the changes up to `covered` has ended.
    pub(super) fn sync(&mut self, covered: u64) {
        self.settle(|change| change.number <= covered && !change.stray);
    }

    /// Takes some of the changes to the disk. What was there before them waits no longer where they are: a device keeps
    /// the order of completed writes to one place.
    fn settle(&mut self, settles: impl Fn(&FileChange) -> bool) {
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.changes) {
            if !settles(&change) {
                left.push(change);
                continue;
            }
            change.what.apply(&mut self.durable);
            match change.what {
                FileEffect::Bytes { offset, bytes } => cut(&mut left, offset..offset + bytes.len()),
                FileEffect::Len(len) => cut(&mut left, len..usize::MAX),
            }
        }
        self.changes = left;
    }

    /// A sync failed: the kernel marks the pages clean all the same, so nobody will write them any more. Some had been
    /// written before the failure, as `fate` says. The length is not in the pages; it stays to be synced if none was.
    pub(super) fn fail_sync(&mut self, covered: u64, fate: &mut impl Fate) {
        let of_sync = |change: &FileChange| {
            let in_pages = matches!(change.what, FileEffect::Bytes { .. });
            change.number <= covered && !change.stray && in_pages
        };
        let changes = std::mem::take(&mut self.changes);
        self.changes = changes.into_iter().flat_map(FileChange::into_pages).collect();
        let count = self.changes.iter().filter(|change| of_sync(change)).count();
        let mut written = fate.sectors(count).into_iter();
        self.changes.retain(|change| !of_sync(change) || written.next() == Some(true));
        // A page that was written takes along the length that makes it a part of the file.
        let any_written = self.changes.iter().any(of_sync);
        let is_len = |change: &FileChange| matches!(change.what, FileEffect::Len(_));
        self.settle(|change| {
            of_sync(change) || any_written && change.number <= covered && is_len(change)
        });
    }

    pub(super) fn crash(&mut self, fate: &mut impl Fate, loss: &mut PowerLoss) {
        let is_len = |change: &&FileChange| matches!(change.what, FileEffect::Len(_));
        let lens = self.changes.iter().filter(is_len).count();
        let mut lens_left = fate.prefix(lens);
        loss.lost_lengths += lens - lens_left;
        let mut gap = false;
        for change in self.changes.drain(..) {
            match change.what {
                FileEffect::Len(_) if lens_left == 0 => {}
                FileEffect::Len(_) => {
                    lens_left -= 1;
                    change.what.apply(&mut self.durable);
                }
                FileEffect::Bytes { offset, bytes } => {
                    let sectors: Vec<_> = pieces::<SECTOR_BYTES>(offset, &bytes).collect();
                    let survive = fate.sectors(sectors.len());
                    let is_left = |(at, survives): (usize, &bool)| {
                        *survives && sectors[at].0 < self.durable.len()
                    };
                    let survived = survive.iter().enumerate().filter(|&left| is_left(left)).count();
                    loss.holes += usize::from(gap && survived > 0);
                    match survived {
                        0 => loss.lost_writes += 1,
                        all if all == sectors.len() => loss.kept_writes += 1,
                        _ => loss.torn_writes += 1,
                    }
                    gap |= survived < sectors.len();
                    for ((offset, sector), survives) in sectors.into_iter().zip(survive) {
                        if survives {
                            put(&mut self.durable, offset, sector);
                        }
                    }
                }
            }
        }
        self.cached = self.durable.clone();
        self.allocated = self.durable.len() as u64;
        self.lock = None;
    }

    /// Sets bytes on the disk and in the cache alike.
    pub(super) fn replace(&mut self, bytes: Vec<u8>) {
        self.changes.clear();
        self.allocated = bytes.len() as u64;
        self.durable.clone_from(&bytes);
        self.cached = bytes;
    }

    /// Flips bits on the disk and in the cache alike.
    pub(super) fn corrupt(&mut self, offset: usize, xor: u8) {
        assert!(xor != 0, "this would corrupt nothing");
        assert!(
            offset < self.durable.len() || offset < self.cached.len(),
            "corrupting byte {offset} beyond the file's end"
        );
        for bytes in [&mut self.durable, &mut self.cached] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= xor;
            }
        }
        for change in &mut self.changes {
            if let FileEffect::Bytes { offset: at, bytes } = &mut change.what
                && let Some(byte) = offset.checked_sub(*at).and_then(|i| bytes.get_mut(i))
            {
                *byte ^= xor;
            }
        }
    }
}

impl FileChange {
    /// Cuts it at the borders of pages, each of which is written or not.
    fn into_pages(self) -> Vec<FileChange> {
        let FileChange { number, what, stray } = self;
        let FileEffect::Bytes { offset, bytes } = what else {
            return vec![FileChange { number, what, stray }];
        };
        pieces::<PAGE_BYTES>(offset, &bytes)
            .map(|(offset, bytes)| {
                let what = FileEffect::Bytes { offset, bytes: bytes.to_vec() };
                FileChange { number, what, stray }
            })
            .collect()
    }
}

impl FileEffect {
    fn apply(&self, target: &mut Vec<u8>) {
        match self {
            FileEffect::Bytes { offset, bytes } => put(target, *offset, bytes),
            FileEffect::Len(len) => target.resize(*len, 0),
        }
    }
}

/// Takes a part of the file out of the bytes that wait.
fn cut(changes: &mut Vec<FileChange>, part: Range<usize>) {
    for change in std::mem::take(changes) {
        let FileChange { number, what, stray } = change;
        let FileEffect::Bytes { offset, mut bytes } = what else {
            changes.push(FileChange { number, what, stray });
            continue;
        };
        let inside = |at: usize| at.saturating_sub(offset).min(bytes.len());
        let after = bytes.split_off(inside(part.end));
        bytes.truncate(part.start.saturating_sub(offset));
        for (offset, bytes) in [(offset, bytes), (part.end.max(offset), after)] {
            if !bytes.is_empty() {
                changes.push(FileChange {
                    number,
                    what: FileEffect::Bytes { offset, bytes },
                    stray,
                });
            }
        }
    }
}

/// Copies what of `bytes` is inside `target`: bytes beyond a file's end are not part of it.
fn put(target: &mut [u8], offset: usize, bytes: &[u8]) {
    let Some(target) = target.get_mut(offset..) else {
        return;
    };
    let len = bytes.len().min(target.len());
    target[..len].copy_from_slice(&bytes[..len]);
}

/// Cuts a write at the borders of the file's sectors, or pages.
fn pieces<const BYTES: usize>(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = bytes;
    let mut at = offset;
    std::iter::from_fn(move || {
        let len = (BYTES - at % BYTES).min(rest.len());
        let (sector, tail) = rest.split_at(len);
        let start = at;
        (rest, at) = (tail, at + len);
        (len > 0).then_some((start, sector))
    })
}

type Names = BTreeMap<OsString, NodeId>;

#[derive(Clone, Default)]
pub(super) struct DirNode {
    cached: Names,
    durable: Names,
    changes: Vec<(u64, DirEffect)>,
}

/// One change of a directory, which happens wholly or not at all.
#[derive(Clone)]
pub(super) enum DirEffect {
    Link(OsString, NodeId),
    Unlink(OsString),
    Rename(OsString, OsString),
}

impl DirEffect {
    fn concerns(&self, name: &OsStr) -> bool {
        match self {
            DirEffect::Link(of, _) | DirEffect::Unlink(of) => of == name,
            DirEffect::Rename(from, to) => from == name || to == name,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            DirEffect::Link(name, node) => {
                names.insert(name.clone(), *node);
            }
            DirEffect::Unlink(name) => {
                names.remove(name);
            }
            DirEffect::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl DirNode {
    pub(super) fn get(&self, name: &OsStr) -> Option<NodeId> {
        self.cached.get(name).copied()
    }

    pub(super) fn names(&self) -> &Names {
        &self.cached
    }

    /// The nodes that this directory may still need: by name now, or by name after a crash.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let linked = self.changes.iter().filter_map(|(_, effect)| match effect {
            DirEffect::Link(_, node) => Some(*node),
            DirEffect::Unlink(_) | DirEffect::Rename(..) => None,
        });
        let named = self.cached.values().chain(self.durable.values()).copied();
        named.chain(linked)
    }

    pub(super) fn change(&mut self, effect: DirEffect, number: u64) {
        effect.apply(&mut self.cached);
        self.changes.push((number, effect));
    }

    /// A name that was always there.
    pub(super) fn link_durably(&mut self, name: OsString, node: NodeId) {
        self.changes.retain(|(_, change)| !change.concerns(&name));
        self.durable.insert(name.clone(), node);
        self.cached.insert(name, node);
    }

    pub(super) fn sync(&mut self, covered: u64) {
        let uncovered = self.changes.iter().position(|c| c.0 > covered);
        self.carry_over(uncovered.unwrap_or(self.changes.len()));
    }

    fn carry_over(&mut self, count: usize) {
        for (_, effect) in self.changes.drain(..count) {
            effect.apply(&mut self.durable);
        }
    }

    pub(super) fn crash(&mut self, fate: &mut impl Fate, loss: &mut PowerLoss) {
        let surviving = fate.prefix(self.changes.len());
        loss.lost_names += self.changes.len() - surviving;
        self.carry_over(surviving);
        self.changes.clear();
        self.cached = self.durable.clone();
    }
}
