//! Images of file systems.

use super::mount::{run, text};
use std::fs::File;
use std::path::Path;

/// What is made in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    /// Blocks are not overwritten in place.
    pub(crate) fn copies_on_write(self) -> bool {
        self == Kind::Btrfs
    }

    /// Makes a file system of so many bytes. The image is a file with holes: it takes the memory of what is written.
    pub(crate) fn make(self, image: &Path, bytes: u64) -> Result<(), String> {
        let sized = File::create_new(image).and_then(|file| file.set_len(bytes));
        sized.map_err(|error| format!("{}: {error}", image.display()))?;
        let image = text(image);
        match self {
            // No blocks are kept for root, who runs this.
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-m", "0", image]),
            // With reflinks, for copies of the images that lie in it.
            Kind::Xfs => run("mkfs.xfs", &["-q", "-m", "reflink=1", image]),
            Kind::Btrfs => run("mkfs.btrfs", &["-q", image]),
        }
    }
}

/// The kernel remembers a btrfs by its id when it is not mounted any more, and then refuses an older copy of it.
pub(crate) fn forget_unmounted(kind: Kind) {
    if kind == Kind::Btrfs {
        run("btrfs", &["device", "scan", "--forget"]).unwrap();
    }
}
