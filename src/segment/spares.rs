//! The files of a log: how many there may be, and those that can be used again.
//!
//! A segment that nobody wants any more can become a later one: its space stays reserved, so a log that keeps to a number of
//! files runs on a disk that is full otherwise, and its blocks were written before. In this order: it loses its name, the
//! directory is synced, and only then what is in it is cleared ([`pipeline`](super::pipeline)). So a crash never leaves a
//! segment of the log with other bytes than its own.

use super::name::SPARE;
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::types::Seq;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use tokio::sync::Notify;

/// How many files a log may have, and keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Segments, spares and the prepared one.
    pub files_max: usize,
    pub spares_max: usize,
}

/// See the [module](self).
pub(crate) struct Spares {
    limits: Limits,
    files: Cell<usize>,
    ready: RefCell<VecDeque<PathBuf>>,
    /// Files that are on their way here.
    expected: Cell<usize>,
    changed: Notify,
}

/// Where the next segment comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A file that is to be cleared.
    Spare(PathBuf),
    /// A new file may be made.
    New,
}

impl Spares {
    /// Of a log that has so many files.
    pub(crate) fn new(limits: Limits, files: usize) -> Spares {
        Spares {
            limits,
            files: Cell::new(files),
            ready: RefCell::default(),
            expected: Cell::default(),
            changed: Notify::new(),
        }
    }

    /// A file for the next segment; `None` if there may be no more. One that is not used after all is to be
    /// [given back](Self::gone).
    pub(crate) fn take(&self) -> Option<Source> {
        if let Some(path) = self.ready.borrow_mut().pop_front() {
            return Some(Source::Spare(path));
        }
        let may = self.files.get() < self.limits.files_max;
        may.then(|| {
            self.files.set(self.files.get() + 1);
            Source::New
        })
    }

    /// Whether [`take`](Self::take) has something to give.
    pub(crate) fn has_some(&self) -> bool {
        !self.ready.borrow().is_empty() || self.files.get() < self.limits.files_max
    }

    /// Waits until that may be so.
    pub(crate) async fn wait(&self) {
        let changed = self.changed.notified();
        if !self.has_some() {
            changed.await;
        }
    }

    /// Whether one more file is wanted here. Then it is on its way: it comes, or is gone.
    pub(crate) fn expect(&self) -> bool {
        let kept = self.ready.borrow().len() + self.expected.get();
        let wanted = kept < self.limits.spares_max;
        self.expected.set(self.expected.get() + usize::from(wanted));
        wanted
    }

    /// A file that was expected is here.
    pub(crate) fn add(&self, path: PathBuf) {
        self.expected.set(self.expected.get() - 1);
        self.ready.borrow_mut().push_back(path);
        self.changed.notify_waiters();
    }

    /// A file that was expected is not coming.
    pub(crate) fn not_coming(&self) {
        self.expected.set(self.expected.get() - 1);
    }

    /// One file less.
    pub(crate) fn gone(&self) {
        self.files.set(self.files.get() - 1);
        self.changed.notify_waiters();
    }
}

/// The name of the file that was segment `seq`.
pub(crate) fn path_of(dir: &Path, seq: Seq) -> PathBuf {
    dir.join(format!("{SPARE}{:016x}.tmp", seq.0))
}

/// Removes what an earlier run has left.
pub(crate) async fn remove_all<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    let entries = disk.list(dir).await;
    let entries = entries.map_err(|error| Error::io("listing the directory", dir, error))?;
    let is_spare = |name: &str| name.starts_with(SPARE) && name.ends_with(".tmp");
    for entry in entries.iter().filter(|entry| entry.name.to_str().is_some_and(is_spare)) {
        let path = dir.join(&entry.name);
        let removed = disk.remove_file(&path).await;
        removed.map_err(|error| Error::io("removing a spare segment left over", &path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_files_than_allowed() {
        let spares = Spares::new(Limits { files_max: 3, spares_max: 1 }, 2);
        assert!(matches!(spares.take(), Some(Source::New)));
        assert!(spares.take().is_none() && !spares.has_some());
        assert!(spares.expect());
        assert!(!spares.expect(), "one is on its way");
        spares.add(PathBuf::from("a"));
        assert!(!spares.expect(), "one is here");
        assert!(matches!(spares.take(), Some(Source::Spare(_))));
        assert!(spares.take().is_none());
        spares.gone();
        assert!(matches!(spares.take(), Some(Source::New)));
        assert!(spares.expect());
        spares.not_coming();
        assert!(spares.expect());
    }
}
