//! The engines under test. One file per adapter, one line here per engine.

use crate::peer::PeerDef;

pub mod frame;
pub mod home;
#[cfg(feature = "okaywal")]
pub mod okay;
pub mod ours;
#[cfg(feature = "raft-engine")]
pub mod raft;
#[cfg(feature = "rocksdb")]
pub mod rocks;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "walrus")]
pub mod walrus;

pub fn all() -> Vec<PeerDef> {
    let mut v = Vec::new();
    v.extend(ours::defs());
    v.extend(home::defs());
    #[cfg(feature = "raft-engine")]
    v.extend(raft::defs());
    #[cfg(feature = "okaywal")]
    v.extend(okay::defs());
    #[cfg(feature = "walrus")]
    v.extend(walrus::defs());
    #[cfg(feature = "sqlite")]
    v.extend(sqlite::defs());
    #[cfg(feature = "rocksdb")]
    v.extend(rocks::defs());
    v
}
