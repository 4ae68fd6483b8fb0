//! How writes become durable: asked for in the options, decided for each log by what its file system can do.

use crate::error::{Error, ErrorKind, Result};
use crate::io::{BLOCK_BYTES, Geometry, Persist};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// How a group becomes durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncMethod {
    /// [`Dsync`](SyncMethod::Dsync) where the file system has direct I/O and overwrites in place, else
    /// [`Fdatasync`](SyncMethod::Fdatasync).
    #[default]
    Auto,
    /// A write through the page cache, then `fdatasync`: two operations, one group at a time. Groups can be packed as
    /// densely as etcd's ([`Packing::Dense`]).
    Fdatasync,
    /// One direct write that returns when it is durable (`O_DIRECT`, `RWF_DSYNC`). Groups take whole blocks, so that
    /// no durable byte is ever written again, and several can be in flight
    /// ([`Options::in_flight_max`](crate::Options::in_flight_max)).
    Dsync,
}

impl fmt::Display for SyncMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SyncMethod::Auto => "auto",
            SyncMethod::Fdatasync => "fdatasync",
            SyncMethod::Dsync => "dsync",
        })
    }
}

impl FromStr for SyncMethod {
    type Err = Error;

    /// Parses the name that `Display` prints.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for any other text; the names are lower-case.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(SyncMethod::Auto),
            "fdatasync" => Ok(SyncMethod::Fdatasync),
            "dsync" => Ok(SyncMethod::Dsync),
            other => {
                let what = format!("no sync method is called {other:?}");
                Err(Error::new(ErrorKind::InvalidInput, what).next("use auto, fdatasync or dsync"))
            }
        }
    }
}

/// How the space of the next segment is prepared, ahead of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prealloc {
    /// Its space is reserved. The first write to a block then takes a commit of the file system's journal.
    Fallocate,
    /// Its space is reserved and written with zeros, in the background and at a bounded pace, so that a commit takes
    /// one write and one flush of the device. Costs every byte of the log a second write. Left out where appends use
    /// segments up so fast that it would not pay, and on copy-on-write file systems.
    #[default]
    ZeroFill,
}

impl fmt::Display for Prealloc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Prealloc::Fallocate => "fallocate",
            Prealloc::ZeroFill => "zero-fill",
        })
    }
}

impl FromStr for Prealloc {
    type Err = Error;

    /// Parses the name that `Display` prints.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for any other text; the names are lower-case.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "fallocate" => Ok(Prealloc::Fallocate),
            "zero-fill" => Ok(Prealloc::ZeroFill),
            other => {
                let what = format!("no preallocation is called {other:?}");
                Err(Error::new(ErrorKind::InvalidInput, what).next("use fallocate or zero-fill"))
            }
        }
    }
}

/// Where a group may start and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Packing {
    /// At the next multiple of eight bytes, as dense as etcd's log. A later group may rewrite the rest of a block
    /// that holds durable bytes, with the same bytes.
    #[default]
    Dense,
    /// At block boundaries, with a filler record at the end: no block with durable bytes is ever written again.
    /// A lone small append takes a block.
    Block,
}

impl Packing {
    /// The boundary in bytes, where a file-system block has `block_bytes`.
    pub(crate) fn boundary(self, block_bytes: u64) -> u64 {
        match self {
            Packing::Dense => FRAME_BYTES,
            Packing::Block => block_bytes,
        }
    }
}

/// Records begin at multiples of it.
const FRAME_BYTES: u64 = 8;

/// What was decided for an open log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// Writes go past the page cache, and are durable when they come back.
    pub direct: bool,
    /// Groups start and end at multiples of it.
    pub boundary: u64,
}

impl Method {
    /// Through the page cache.
    pub(crate) fn buffered(packing: Packing, block_bytes: u64) -> Method {
        Method { direct: false, boundary: packing.boundary(block_bytes) }
    }

    /// What `wanted` means for the file at `path`.
    pub(crate) fn choose(
        wanted: SyncMethod,
        packing: Packing,
        geometry: &Geometry,
        path: &Path,
    ) -> Result<Method> {
        let buffered = Method::buffered(packing, geometry.block_bytes);
        // Buffers are aligned to a block of ours.
        let align = geometry.direct_align.filter(|&align| align <= BLOCK_BYTES as u64);
        let direct = align.map(|align| Method {
            direct: true,
            boundary: align.max(geometry.block_bytes).max(BLOCK_BYTES as u64),
        });
        match (wanted, direct) {
            (SyncMethod::Fdatasync, _) | (SyncMethod::Auto, None) => Ok(buffered),
            (SyncMethod::Auto, Some(_)) if geometry.copy_on_write => Ok(buffered),
            (SyncMethod::Auto | SyncMethod::Dsync, Some(direct)) => Ok(direct),
            (SyncMethod::Dsync, None) => {
                let what = "this file system has no direct I/O, which SyncMethod::Dsync needs";
                Err(Error::new(ErrorKind::Unsupported, what)
                    .at_path(path)
                    .next("use SyncMethod::Auto or SyncMethod::Fdatasync"))
            }
        }
    }

    pub(crate) fn persist(self) -> Persist {
        if self.direct { Persist::Now } else { Persist::Later }
    }

    /// Which one it is, for reports.
    pub(crate) fn name(self) -> SyncMethod {
        if self.direct { SyncMethod::Dsync } else { SyncMethod::Fdatasync }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(direct_align: Option<u64>, block_bytes: u64, copy_on_write: bool) -> Geometry {
        Geometry { direct_align, block_bytes, copy_on_write }
    }

    fn choose(wanted: SyncMethod, geometry: Geometry) -> Result<Method> {
        Method::choose(wanted, Packing::Dense, &geometry, Path::new("/log"))
    }

    #[test]
    fn auto_is_direct_where_that_is_safe_and_fast() {
        let auto = |geometry| choose(SyncMethod::Auto, geometry).unwrap();
        assert_eq!(auto(geometry(Some(512), 4096, false)), Method { direct: true, boundary: 4096 });
        assert_eq!(auto(geometry(None, 4096, false)), Method { direct: false, boundary: 8 });
        assert!(!auto(geometry(Some(512), 4096, true)).direct, "copy on write");
        assert!(!auto(geometry(Some(65536), 65536, false)).direct, "buffers are aligned to 4096");
    }

    #[test]
    fn blocks_are_as_large_as_the_largest_unit() {
        let dsync = |geometry| choose(SyncMethod::Dsync, geometry).unwrap().boundary;
        assert_eq!(dsync(geometry(Some(512), 512, false)), 4096);
        assert_eq!(dsync(geometry(Some(512), 16384, false)), 16384);
    }

    #[test]
    fn dsync_asked_for_is_dsync_or_an_error() {
        assert!(choose(SyncMethod::Dsync, geometry(Some(512), 4096, true)).unwrap().direct);
        let error = choose(SyncMethod::Dsync, geometry(None, 4096, false)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn names_go_there_and_back() {
        for method in [SyncMethod::Auto, SyncMethod::Fdatasync, SyncMethod::Dsync] {
            assert_eq!(method.to_string().parse::<SyncMethod>().unwrap(), method);
        }
        assert!("O_DSYNC".parse::<SyncMethod>().is_err());
        for prealloc in [Prealloc::Fallocate, Prealloc::ZeroFill] {
            assert_eq!(prealloc.to_string().parse::<Prealloc>().unwrap(), prealloc);
        }
        assert!("zeros".parse::<Prealloc>().is_err());
    }
}
