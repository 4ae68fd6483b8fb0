//! Waiting without going to sleep: to wake a sleeping thread takes longer than a caller needs to come back.
//!
//! It is bounded, and stops by itself where it does not pay: after each time in vain, twice as many chances are
//! left out.

use crate::io::Disk;
use std::time::Duration;

/// Chances left out after many failures in a row.
const SKIPS_MAX: u32 = 1024;

/// Which chances to wait awake are taken.
#[derive(Debug)]
pub(super) struct Chances {
    /// To be left out after the next failure, and those still to be left out.
    penalty: u32,
    skips: u32,
}

impl Default for Chances {
    fn default() -> Chances {
        Chances { penalty: 1, skips: 0 }
    }
}

impl Chances {
    /// A chance: whether to take it.
    pub(super) fn take(&mut self) -> bool {
        let taken = self.skips == 0;
        self.skips = self.skips.saturating_sub(1);
        taken
    }

    /// It paid.
    pub(super) fn paid(&mut self) {
        self.penalty = 1;
    }

    /// It was in vain.
    pub(super) fn missed(&mut self) {
        self.skips = self.penalty;
        self.penalty = (self.penalty * 2).min(SKIPS_MAX);
    }
}

#[derive(Debug)]
pub(crate) struct Spin {
    limit: Duration,
    chances: Chances,
}

impl Spin {
    /// Spins for at most `limit`; never if that is zero.
    pub(crate) fn new(limit: Duration) -> Spin {
        Spin { limit, chances: Chances::default() }
    }

    /// Waits until `ready`, at most so long; says whether it is.
    pub(crate) fn until<D: Disk>(
        &mut self,
        disk: &D,
        at_most: Option<Duration>,
        ready: impl Fn() -> bool,
    ) -> bool {
        if self.limit.is_zero() || !self.chances.take() {
            return false;
        }
        let limit = at_most.map_or(self.limit, |time| time.min(self.limit));
        let came = disk.spin(limit, ready);
        match came {
            true => self.chances.paid(),
            // Cut short, it says nothing.
            false if limit < self.limit => {}
            false => self.chances.missed(),
        }
        came
    }
}
