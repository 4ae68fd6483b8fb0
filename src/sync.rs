//! What threads meet at: the locks and atomics of std. The checks by loom (`scripts/check loom`) put loom's in their
//! place, which try every order in which the threads may get there. No other build knows of loom.
//!
//! `Arc` stays that of std also there: loom's cannot be `self`, and the checks count what is shared themselves.

#[cfg(all(test, seawal_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(all(test, seawal_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
