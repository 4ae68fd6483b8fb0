//! THE LIVE READ SIDE: how does an application read the log that it is writing?
//!
//! 1. [`cursor`] goes forward through the log, entry by entry, in the order of the bytes: from the memory of recent
//!    records ([`recent`](crate::recent)) where they are there, else from the files.
//! 2. [`files`] is the second way: pieces of files, asked for ahead, checked and decoded by whoever reads.
//! 3. [`serve`] reads those pieces, on the submission thread, which is the only one that has the disk.
//! 4. [`entries`] are the entries of a range: a cursor that ends. [`tail`] is one that never does.
//!
//! Nothing is handed out beyond the mark of [`watermark`](crate::watermark) that the reader goes by, and nothing that
//! does not fit its checksum. What costs CPU runs at the reader; a slow reader falls back to the files and holds nothing
//! up, neither commits nor memory.
//!
//! # The order of the bytes
//!
//! Indexes go back where Raft replaces a tail; bytes never do. So a cursor is a place, and not an index: it passes over
//! what is no longer valid when it gets there, and an entry that replaces one it has handed out comes to it later, by
//! itself. What it hands out is, at each moment, what the log was at some moment.

pub(crate) mod cursor;
pub(crate) mod entries;
pub(crate) mod files;
pub(crate) mod serve;
pub(crate) mod tail;
