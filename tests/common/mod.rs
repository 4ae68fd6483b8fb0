//! What several tests share.

pub(crate) mod child;
#[cfg(feature = "cli")]
pub(crate) mod cli;
pub(crate) mod etcd;
pub(crate) mod fixtures;
pub(crate) mod logs;
pub(crate) mod require;
