//! THE LIVE READ SIDE: how does an application read the log that it is writing?
//!
//! 1. [`cursor`] goes forward through the log, entry by entry, in the order of the bytes: from the memory of recent
//!    records ([`recent`](crate::recent)) where they are there, else from the files.
//! 2. [`files`] is the second way: pieces of files, asked for ahead, several at a time, and put in order.
//! 3. [`serve`] has them made, as the submission thread is the only one that has the disk: on helper threads, which read,
//!    check and decode ([`piece`]). Of a small one it reads the bytes itself, and whoever reads decodes them.
//! 4. [`entries`] are the entries of a range: a cursor that ends. [`tail`] is one that never does.
//!
//! Nothing is handed out beyond the mark of [`watermark`](crate::watermark) that the reader goes by, and nothing that
//! does not fit its checksum. What costs CPU runs at helpers or at the reader; a slow reader falls back to the files and
//! holds nothing up, neither commits nor helpers nor memory: a few pieces lie ready for it, and no more are made.
//!
//! # The order of the bytes
//!
//! Indexes go back where Raft replaces a tail; bytes never do. So a cursor is a place, and not an index: it passes over
//! what is no longer valid when it gets there, and an entry that replaces one it has handed out comes to it later, by
//! itself. What it hands out is, at each moment, what the log was at some moment.

pub(crate) mod cursor;
pub(crate) mod entries;
pub(crate) mod files;
pub(crate) mod piece;
pub(crate) mod serve;
pub(crate) mod tail;
