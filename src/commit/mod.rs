//! WRITE SIDE: how do appends become durable?
//!
//! A sync costs far more than a write, and it covers everything written before it. So appends that wait at the same
//! time become durable together, as a *group*: that is group commit. It needs no timer: while one group is being
//! written, the next one gathers.
//!
//! # The life of one append
//!
//! 1. [`queue`]: when the [`append`] is first polled, it is checked under one lock, once, takes room (or waits for it, [`room`]), gets its index,
//!    joins the youngest [`group`] or begins the next one, and leaves its waker. A payload of up to 2 KiB is copied
//!    into the group's memory; a larger one is shared, not copied ([`content`]).
//! 2. The caller holds a [`ticket`]: the number of the group and his place in its list of those who wait ([`waiters`]).
//! 3. [`committer`]: the submission thread wakes, or was still looking ([`spin`]), and asks the [`policy`]: commit the
//!    oldest group now, or let it grow a little?
//! 4. If the active segment has no room for the group, everything in flight is made durable, and there is a cut
//!    (`segment::pipeline` has the next segment ready).
//! 5. [`stage`]: the group gets its place, right behind the one before it, whether that is durable or not. In one pass
//!    its records are checksummed and encoded into a registered buffer (`format::encode`), behind a mark that says what
//!    was durable at that moment. A group larger than a buffer goes through several, one after another.
//! 6. It is written, and the kernel's count is checked. With direct writes (`SyncMethod::Dsync`) the write is durable
//!    when it comes back, and several groups are in flight ([`slots`]); a group that the policy commits alone is
//!    written by a plain call, which is quicker than a ring with one write in it. Through the page cache
//!    (`SyncMethod::Fdatasync`) one group is in flight: a write, then a sync that began after the write came back.
//! 7. [`flight`]: groups may come back in any order; they are answered in the order of the log.
//! 8. *Written*: the kernel has the group, and so everything before it. Who waits for no more than that is woken.
//! 9. *Durable*: [`watermark`](crate::watermark) moves over the group, and all others in its list are woken. Lists,
//!    groups and encoders go back to be used again: in the long run an append whose payload is copied allocates nothing
//!    here.
//!
//! A group in which nobody waits for the disk (`Durability::Written`) is only written. It is synced with the next group
//! that needs it, by `Wal::sync`, before a cut, or after `Options::sync_interval`, whichever is first.
//!
//! # Cancel safety
//!
//! A future dropped before 1 is done leaves nothing behind; if it waited for room, its turn is the next one's. Dropped
//! later, it takes its waker out of the list; the record stays in the order and becomes durable with its group, though
//! nobody waits: no slot, buffer or index belongs to the caller's future.
//!
//! # Failure
//!
//! No space for the group (4): it and all that wait behind it fail, their indexes are given out again, and the log goes
//! on. Nothing is in flight then, so no index that fails was staged.
//!
//! A write or sync failed (6): nothing more is staged. The loop waits until everything in flight has come back; groups
//! before the failed one that are durable are still acked. The failed one, all behind it and all that wait get the
//! cause, though a group behind it may be whole on the disk: the reopen decides, by what it finds. The log is poisoned:
//! nothing is retried, nothing more is acked.

pub(crate) mod append;
mod awake;
pub(crate) mod committer;
pub(crate) mod content;
pub(crate) mod flight;
pub(crate) mod group;
#[cfg(all(test, seawal_loom))]
mod loom_tests;
pub(crate) mod observer;
pub(crate) mod policy;
pub(crate) mod queue;
mod release;
pub(crate) mod rest;
pub(crate) mod retention;
pub(crate) mod retire;
mod room;
mod slots;
pub(crate) mod spin;
mod stage;
pub(crate) mod ticket;
mod waiters;
