//! WRITE SIDE: how do appends become durable?
//!
//! A sync costs far more than a write, and it covers everything written before it. So appends that wait at the same
//! time share one: that is group commit. It needs no timer: while one sync is in flight, the next group gathers.
//!
//! The life of one append:
//!
//! 1. [`queue`]: the caller waits for room in the queue, gets its index under a lock, and leaves its payload.
//! 2. [`ticket`]: it holds a ticket, which resolves when the record is durable.
//! 3. [`committer`]: the submission thread takes all that waits, up to a limit, as one group.
//! 4. The group is planned (`format::encode`): checksums, sizes, its mark.
//! 5. If the active segment has no room for it, there is a cut (`segment::pipeline` has the next one ready).
//! 6. It is encoded into registered buffers, each is written, and the kernel's count is checked.
//! 7. One fdatasync.
//! 8. [`watermark`](crate::watermark): the durable position moves over the group.
//! 9. The tickets of the group resolve.
//!
//! # Cancel safety
//!
//! A future dropped before 1 is done leaves nothing behind. Dropped later, the record is in the order and becomes
//! durable with its group, though nobody waits: no slot, buffer or index belongs to the caller's future.
//!
//! # Failure
//!
//! No space for the group (5): its appends and all behind them fail, their indexes are given out again, and the log
//! goes on. Any failure in 6 and 7: the log is poisoned; nothing is retried, nothing more is acked.

pub(crate) mod committer;
pub(crate) mod queue;
pub(crate) mod ticket;
