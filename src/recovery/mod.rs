//! READ SIDE: what did a crash leave, and what do we conclude?
//!
//! 1. [`frames`] reads a file as frames, in large pieces.
//! 2. [`walk`] follows the chain and the groups, and notes what is sound ([`facts`]); [`sealed`] does that with several
//!    segments at a time, away from the submission thread. Where the entries are wanted as well, [`kept`] does it one
//!    segment after the other, and [`handout`] gives them to whoever opens the log.
//! 3. [`replay`] makes of it the state of the log.
//! 4. [`survey`] looks at what lies behind the sound part.
//! 5. [`verdict`] says what that means, by a table.
//! 6. [`scan`] does 1 to 5 for a whole log, from one of its [`starts`], and changes nothing.
//! 7. [`repair`] makes a scanned log ready for appending: cuts a torn tail, clears what is behind the end, syncs.
//! 8. [`verify`] checks the sealed segments of an open log, one by one.
//! 9. [`follow`] goes on from a scan while another process appends, by 1, 2, 4 and 5.
//!
//! The write side gets one plain value from here, the [`Tail`](crate::tail::Tail).

pub(crate) mod checks;
mod facts;
pub(crate) mod follow;
pub(crate) mod frames;
pub(crate) mod handout;
mod kept;
pub(crate) mod notes;
pub(crate) mod repair;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod sealed;
pub(crate) mod starts;
mod survey;
pub(crate) mod verdict;
pub(crate) mod verify;
pub(crate) mod walk;

#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
pub(crate) mod tests;
