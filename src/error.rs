//! What can go wrong, in words for the person who has to act on it.
//!
//! An error says what happened, where (path, offset) and what to do next. There is one type; programs branch on
//! [`Error::kind`] and the predicates, people read the text. It is cheap to clone, because one failure may be the
//! answer to a thousand appends.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such directory.
    NotFound,
    /// There is something, but not a log: a file, or a directory without segments.
    NotALog,
    /// A log is there already.
    Exists,
    /// Another process, or another handle of this one, has the log open for writing.
    Locked,
    /// No permission.
    PermissionDenied,
    /// The file system is mounted read only.
    ReadOnly,
    /// Bytes that were once durable are gone or changed. Never cut automatically.
    Damaged,
    /// An unfinished last group, in a log that was opened for reading only. Opening for writing cuts it.
    TornTail,
    /// The log was written by a newer version, or uses a feature this version does not know.
    Unsupported,
    /// There is no record of the snapshot that reading was to start from.
    SnapshotNotFound,
    /// An index beyond the last one there is.
    OutOfRange,
    /// An index before the first one there is: it was released, or a snapshot stands for it.
    /// [`Error::first_index`] says which is the first.
    Released,
    /// What a [`Reader`](crate::Reader) has read of a log that another process writes is not there any more: another log,
    /// or a copy, was put in its place, or somebody cut it. Open it again.
    Replaced,
    /// There is something that is no backup of this log: other files, or another log.
    NotABackup,
    /// A backup of this log that holds what the log does not: it was opened for writing since, or the log was restored from
    /// an older one.
    Diverged,
    /// A value passed by the caller is not acceptable; nothing was done.
    InvalidInput,
    /// The record is larger than the limit in the options.
    TooLarge,
    /// No space for the next segment. The append took no index; try again when there is room.
    NoSpace,
    /// The queue has no room now; only calls that do not wait say so. Nothing was appended.
    Full,
    /// A write or sync of this handle failed before. Reopen the log to find out what reached the disk.
    Poisoned,
    /// The log was closed.
    Closed,
    /// Another failure of the operating system.
    Io,
}

/// A failure: what, where, and what to do next.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    what: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    first_index: Option<u64>,
    next: Option<&'static str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Error {
        Error {
            inner: Arc::new(Inner {
                kind,
                what: what.into(),
                path: None,
                offset: None,
                first_index: None,
                next: None,
                source: None,
            }),
        }
    }

    /// The operating system refused `doing` (a verb phrase: "opening for writing") at `path`.
    pub(crate) fn io(doing: &str, path: &Path, error: io::Error) -> Error {
        use io::ErrorKind as K;
        let (kind, next) = match error.kind() {
            K::NotFound => (ErrorKind::NotFound, "check the path"),
            K::NotADirectory => (ErrorKind::NotALog, "give the directory of the log, not a file"),
            K::PermissionDenied => (
                ErrorKind::PermissionDenied,
                "run as the user that owns the log, or change its permissions",
            ),
            K::ReadOnlyFilesystem => (
                ErrorKind::ReadOnly,
                "remount the file system for writing, or use the commands that only read",
            ),
            K::StorageFull | K::QuotaExceeded => {
                (ErrorKind::NoSpace, "free some space and try again")
            }
            _ => (ErrorKind::Io, "check the device and the kernel log"),
        };
        Error::new(kind, format!("{doing} failed")).at_path(path).next(next).because(error)
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Damaged, what)
            .at_path(path)
            .at_offset(offset)
            .next("not a torn tail, so nothing was cut: restore the segment from a copy, or look at it with `seawal dump`")
    }

    pub(crate) fn at_path(self, path: &Path) -> Error {
        self.change(|inner| inner.path = Some(path.to_owned()))
    }

    pub(crate) fn at_offset(self, offset: u64) -> Error {
        self.change(|inner| inner.offset = Some(offset))
    }

    pub(crate) fn with_first_index(self, index: u64) -> Error {
        self.change(|inner| inner.first_index = Some(index))
    }

    /// What the reader of the message should do.
    pub(crate) fn next(self, next: &'static str) -> Error {
        self.change(|inner| inner.next = Some(next))
    }

    pub(crate) fn because(self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.change(|inner| inner.source = Some(Arc::new(source)))
    }

    /// This handle is poisoned, and `cause` did it.
    pub(crate) fn poisoned(cause: &Error) -> Error {
        if cause.kind() == ErrorKind::Poisoned {
            return cause.clone();
        }
        Error::new(ErrorKind::Poisoned, "the log takes no more appends after a failure")
            .next("reopen the log: opening finds out what reached the disk")
            .because(cause.clone())
    }

    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the log is closed").next("open it again")
    }

    fn change(self, set: impl FnOnce(&mut Inner)) -> Error {
        // Errors are built before they are shared, so this never clones in practice.
        let mut inner = Arc::try_unwrap(self.inner).unwrap_or_else(|shared| Inner {
            kind: shared.kind,
            what: shared.what.clone(),
            path: shared.path.clone(),
            offset: shared.offset,
            first_index: shared.first_index,
            next: shared.next,
            source: shared.source.clone(),
        });
        set(&mut inner);
        Error { inner: Arc::new(inner) }
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The file or directory it happened at.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// The byte in that file.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.inner.offset
    }

    /// The first index there is, of [`ErrorKind::Released`].
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        self.inner.first_index
    }

    /// What to do next.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        self.inner.next
    }

    /// Whether bytes that were once durable are gone or changed.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.kind() == ErrorKind::Damaged
    }

    /// Whether the log ends in an unfinished group, which opening for writing cuts.
    #[must_use]
    pub fn is_torn_tail(&self) -> bool {
        self.kind() == ErrorKind::TornTail
    }

    /// Whether an earlier failure made this handle refuse appends.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.kind() == ErrorKind::Poisoned
    }

    /// Whether there was no space for the next segment. The append may be repeated when there is room.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        self.kind() == ErrorKind::NoSpace
    }

    /// Whether the log was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// Whether another holds the lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.kind() == ErrorKind::Locked
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        if let Some(path) = &inner.path {
            write!(f, "{}", path.display())?;
            if let Some(offset) = inner.offset {
                write!(f, " at {offset}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&inner.what)?;
        if let Some(source) = &inner.source {
            write!(f, ": {source}")?;
        }
        if let Some(next) = inner.next {
            write!(f, "; {next}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_what_where_and_what_next() {
        let error = Error::damaged(Path::new("log/0.wal"), 8192, "checksum mismatch");
        assert!(
            error.to_string().starts_with("log/0.wal at 8192: checksum mismatch; not a torn tail")
        );
    }

    #[test]
    fn chain_reaches_the_operating_system() {
        let cause = Error::io("syncing", Path::new("x"), io::Error::from_raw_os_error(5));
        let poisoned = Error::poisoned(&cause);
        let source = poisoned.source().unwrap().source().unwrap();
        let errno = source.downcast_ref::<io::Error>().unwrap().raw_os_error();
        assert_eq!(errno, Some(5));
    }

    #[test]
    fn poisoning_twice_keeps_the_first_cause() {
        let first = Error::poisoned(&Error::new(ErrorKind::Io, "first"));
        assert_eq!(Error::poisoned(&first).to_string(), first.to_string());
    }
}
