//! A machine whose power can be cut at any moment: a file system on a disk that forgets what was not flushed.
//!
//! Two disks lie in one another, each an image behind a loop device. A loop device passes writes on to its image
//! through the page cache of the file system that the image lies in, and says that they are done; at a flush it syncs
//! the image:
//!
//! ```text
//! fs       the file system under test, with the log
//!            │ writes, flushes (loop device)
//! plate    xfs with the image of `fs`         its page cache is the volatile cache of the disk under `fs`
//!            │ what was flushed, and what was written back meanwhile (loop device)
//! shelf    xfs with the image of `plate`      does not forget
//!            │ (loop device)
//! memory   tmpfs with the image of `shelf`
//! ```
//!
//! A cut is a copy of an image by FICLONE, made while everything runs. Xfs shares the extents of the source with the
//! copy under the exclusive lock of the source, and writes the page cache back before: so the copy has all writes that
//! the loop device had completed when it got the lock, no write that it began later, and of none a part. That is what
//! a disk holds that is cut off between two of its commands. Which image is copied decides what the disk forgets:
//!
//! - [`Cache::Kept`]: a copy of the image of `fs`. Everything that the disk completed is there, flushed or not. What
//!   the file system under test had not given to the disk yet is lost.
//! - [`Cache::Lost`]: a copy of the image of `plate`. What the disk completed lies in the page cache of `plate`, and
//!   that is lost; what was flushed was synced, and is there. Some of the rest may be there as well, as the kernel's
//!   writeback likes.
//!
//! Both are what a disk with a volatile cache may leave of it, as long as it honours flushes. So whatever was durable
//! before the copy began must be in it. Not tried here, but by the simulated disk: a write of which some sectors are
//! there, and later writes without earlier ones but for what writeback makes of it.
//!
//! After a cut the copy takes the place of the original: the machine is switched on again, and file systems replay
//! their journals. An image and its copy are never mounted at the same time, which neither xfs nor btrfs likes.

use super::image::{Kind, forget_unmounted};
use super::mount::{self, Mount};
use rustix::fs::ioctl_ficlone;
use std::fs::{self, File};
use std::path::PathBuf;
use tempfile::TempDir;

const SHELF_BYTES: u64 = 2 << 30;
const PLATE_BYTES: u64 = 1 << 30;
/// Xfs is made no smaller than 300 MiB.
const DISK_BYTES: u64 = 400 << 20;

/// What becomes of writes that the disk completed and nobody flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    Kept,
    Lost,
}

/// Dropped from the top to the bottom.
pub(crate) struct Machine {
    kind: Kind,
    fs: Option<Mount>,
    plate: Option<Mount>,
    _shelf: Mount,
    _memory: Mount,
    home: TempDir,
}

impl Machine {
    /// An error says what the machine that runs the tests lacks.
    pub(crate) fn new(kind: Kind) -> Result<Machine, String> {
        mount::alone()?;
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let memory = Mount::memory(home.path())?;
        let at = |name: &str| {
            let at = home.path().join(name);
            fs::create_dir(&at).map_err(|error| error.to_string())?;
            Ok::<PathBuf, String>(at)
        };
        let shelf_image = home.path().join("shelf.image");
        Kind::Xfs.make(&shelf_image, SHELF_BYTES)?;
        let shelf = Mount::image(&shelf_image, &at("shelf")?)?;
        let plate_image = shelf.at().join("plate.image");
        Kind::Xfs.make(&plate_image, PLATE_BYTES)?;
        let plate = Mount::image(&plate_image, &at("plate")?)?;
        let disk_image = plate.at().join("disk.image");
        kind.make(&disk_image, DISK_BYTES)?;
        let fs = Mount::image(&disk_image, &at("fs")?)?;
        Ok(Machine { kind, fs: Some(fs), plate: Some(plate), _shelf: shelf, _memory: memory, home })
    }

    /// A directory in the file system under test.
    pub(crate) fn dir(&self) -> PathBuf {
        self.home.path().join("fs")
    }

    fn disk(&self) -> PathBuf {
        self.home.path().join("plate/disk.image")
    }

    fn plate(&self) -> PathBuf {
        self.home.path().join("shelf/plate.image")
    }

    /// Cuts the power, as far as the copy is concerned: what runs, runs on, and has to be killed before
    /// [`Machine::switch_on`].
    pub(crate) fn cut(&self, cache: Cache) -> Cut {
        let image = match cache {
            Cache::Kept => self.disk(),
            Cache::Lost => self.plate(),
        };
        let copy = image.with_extension("copy");
        let (source, target) = (File::open(&image).unwrap(), File::create_new(&copy).unwrap());
        ioctl_ficlone(target, source).unwrap();
        Cut { image, copy, cache }
    }

    /// Goes on with what the cut left.
    pub(crate) fn switch_on(&mut self, cut: Cut) {
        self.fs.take().expect("it is mounted").unmount();
        forget_unmounted(self.kind);
        if cut.cache == Cache::Lost {
            self.plate.take().expect("it is mounted").unmount();
        }
        fs::rename(&cut.copy, &cut.image).unwrap();
        if cut.cache == Cache::Lost {
            let at = self.home.path().join("plate");
            self.plate = Some(Mount::image(&self.plate(), &at).unwrap());
        }
        self.mount_fs();
    }

    /// Switches it off and on in good order.
    pub(crate) fn restart(&mut self) {
        self.fs.take().expect("it is mounted").unmount();
        self.mount_fs();
    }

    fn mount_fs(&mut self) {
        self.fs = Some(Mount::image(&self.disk(), &self.dir()).unwrap());
    }
}

/// The copy that a cut left.
pub(crate) struct Cut {
    image: PathBuf,
    copy: PathBuf,
    cache: Cache,
}
