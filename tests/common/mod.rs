//! What several tests share.

pub(crate) mod child;
#[cfg(feature = "cli")]
pub(crate) mod cli;
pub(crate) mod etcd;
pub(crate) mod fixtures;
#[cfg(feature = "cli")]
pub(crate) mod kills;
#[cfg(feature = "cli")]
pub(crate) mod known;
pub(crate) mod logs;
pub(crate) mod random;
pub(crate) mod require;
pub(crate) mod seccomp;
#[cfg(feature = "cli")]
pub(crate) mod writer;
