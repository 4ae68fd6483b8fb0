//! What the bytes mean. Pure: no I/O, no async, no unsafe.
//!
//! The normative text is `docs/format.md`; a test checks its worked hexdump. In one drawing:
//!
//! ```text
//! segment 0                                                    segment 1
//! ┌──────────┬──────────┬─────────┬──────┬───────┬─────┬────┐  ┌──────────┬──────────┬───────┬──────┬──
//! │ crc+mark │ metadata │ snap 0/0│ mark │ entry │ ... │ 0… │  │ crc+mark │ metadata │ state │ mark │ …
//! └──────────┴──────────┴─────────┴──────┴───────┴─────┴────┘  └──────────┴──────────┴───────┴──────┴──
//!  head, itself a group            one group per sync    end    head repeats crc, metadata, hard state
//! ```
//!
//! Each box is a frame ([`frame`]) around a record ([`record`]); records are chained by a rolling checksum
//! ([`crc`]). This much is etcd's format. A [`mark`] is a crc record that carries data, which etcd's reader skips:
//! it says how far a group reaches, and how far the log was durable when the group was written.

#[allow(unreachable_pub, missing_docs, reason = "generated")]
#[rustfmt::skip]
pub(crate) mod pb;

pub(crate) mod crc;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod frame;
#[cfg(feature = "internals")]
#[allow(unreachable_pub, reason = "public by another name")]
pub mod internals;
pub(crate) mod mark;
pub(crate) mod note;
pub(crate) mod record;

pub(crate) use crc::Chain;
pub(crate) use encode::{GroupEncoder, Place};
pub(crate) use mark::{LogId, Mark, MarkKind, Shape};
pub(crate) use note::Note;
pub(crate) use record::{Record, RecordRef, RecordType, Records};
