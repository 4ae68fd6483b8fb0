//! What is a segment, and what states can its file be in?
//!
//! A segment is one file of the log. It is *prepared* ([`pipeline`]: allocated, without a name of its own), then
//! *active* ([`active`]: the tail that groups are written to), then *sealed* (complete, never written again).
//! A directory holds any number of sealed segments and exactly one active one, the newest by sequence number
//! ([`dir`], [`name`]). This room knows nothing of the bytes inside.

pub(crate) mod active;
pub(crate) mod dir;
pub(crate) mod method;
pub(crate) mod name;
pub(crate) mod pipeline;
pub(crate) mod spares;
