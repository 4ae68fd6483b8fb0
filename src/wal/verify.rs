//! `verify`, of [`Wal`] and of [`Reader`]: is what lies on the disk still what was written?

use super::engine::Shared;
use super::{Reader, Wal};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::recovery::verify::Verification;
use crate::types::Durability;
use std::sync::Arc;

impl Wal {
    /// Checks all sealed segments in the log's directory, also those before the start, which opening and reading may never
    /// look at: one item for each that is sound, oldest first, and an error for each that is not; checking goes on with the
    /// next one then. Nothing is changed on disk. The active segment is left out, but for its head, which shows whether the
    /// one before it lost its end: opening judged it. Which one that is, is decided here: of later cuts the stream knows nothing.
    ///
    /// A segment is sound if it is whole and its records continue the checksums of the segment before it. It is read in
    /// the background, past the page cache where the file system can, and checked on another thread; appends go on. One
    /// that is released meanwhile is passed over.
    ///
    /// # Errors
    ///
    /// As items: [`ErrorKind::Damaged`] with file and offset; what the operating system says of a file. As the last one
    /// [`ErrorKind::Closed`] or [`ErrorKind::Poisoned`], if the log ends before all was checked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the checking at its next read.
    ///
    /// ```
    /// # fn main() -> seawal::Result<()> { pollster::block_on(async {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = seawal::Wal::open_or_create(dir.path().join("log"), Default::default()).await?;
    /// for segment in wal.verify().blocking() {
    ///     match segment {
    ///         Ok(segment) => println!("{} is sound, {} left", segment.seq, segment.segments_left),
    ///         Err(error) => println!("{error}"),
    ///     }
    /// }
    /// # wal.close().await?;
    /// # Ok(()) }) }
    /// ```
    pub fn verify(&self) -> Verification {
        let Shared { verifications, dir, .. } = &**self.shared();
        let active = self.handle.watermark.position(Durability::Durable).seq;
        Verification::new(Arc::clone(verifications), dir.clone(), active)
    }
}

impl Reader {
    /// Checks all segments that were sealed when the log was opened; see [`Wal::verify`].
    pub fn verify(&self) -> Verification {
        self.wal.verify()
    }
}
