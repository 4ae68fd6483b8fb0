//! Waiting without going to sleep: to wake a sleeping thread takes longer than a caller needs to come back.
//!
//! It is bounded, and stops by itself where it does not pay: after each time in vain, twice as many chances are
//! left out.

use crate::io::Disk;
use std::time::Duration;

/// Chances left out after many failures in a row.
const SKIPS_MAX: u32 = 1024;

#[derive(Debug)]
pub(crate) struct Spin {
    limit: Duration,
    /// Chances to leave out after the next failure, and those still to leave out.
    penalty: u32,
    skips: u32,
}

impl Spin {
    /// Spins for at most `limit`; never if that is zero.
    pub(crate) fn new(limit: Duration) -> Spin {
        Spin { limit, penalty: 1, skips: 0 }
    }

    /// Waits until `ready`, at most so long; says whether it is.
    pub(crate) fn until<D: Disk>(
        &mut self,
        disk: &D,
        at_most: Option<Duration>,
        ready: impl Fn() -> bool,
    ) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        let limit = at_most.map_or(self.limit, |time| time.min(self.limit));
        let came = disk.spin(limit, ready);
        match came {
            true => self.penalty = 1,
            // Cut short, it says nothing.
            false if limit < self.limit => {}
            false => {
                self.skips = self.penalty;
                self.penalty = (self.penalty * 2).min(SKIPS_MAX);
            }
        }
        came
    }
}
