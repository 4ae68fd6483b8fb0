//! One file system on one disk, which is an image in memory.

use super::image::Kind;
use super::mount::{self, Mount};
use rustix::fs::{FallocateFlags, fallocate, statvfs, syncfs};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Xfs is made no smaller than 300 MiB.
const BYTES: u64 = 400 << 20;

/// Dropped from the top to the bottom.
pub(crate) struct Disk {
    mounted: Option<Mount>,
    image: PathBuf,
    _memory: Mount,
    _home: TempDir,
}

impl Disk {
    /// An error says what the machine lacks.
    pub(crate) fn new(kind: Kind) -> Result<Disk, String> {
        Disk::of(kind, BYTES)
    }

    /// One of so many bytes.
    pub(crate) fn of(kind: Kind, bytes: u64) -> Result<Disk, String> {
        mount::alone()?;
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let memory = Mount::memory(home.path())?;
        let image = home.path().join("image");
        kind.make(&image, bytes)?;
        let at = home.path().join("mounted");
        std::fs::create_dir(&at).map_err(|error| error.to_string())?;
        let mounted = Some(Mount::image(&image, &at)?);
        Ok(Disk { mounted, image, _memory: memory, _home: home })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.mounted.as_ref().expect("it is mounted").at()
    }

    /// Nothing of the page cache is left.
    pub(crate) fn remount(&mut self) {
        let mounted = self.mounted.take().expect("it is mounted");
        let at = mounted.at().to_owned();
        mounted.unmount();
        self.mounted = Some(Mount::image(&self.image, &at).unwrap());
    }

    fn ballast(&self) -> PathBuf {
        self.dir().join("ballast")
    }

    /// Takes all space but so many bytes.
    pub(crate) fn leave(&self, bytes: u64) {
        let file = File::create(self.ballast()).unwrap();
        let space = statvfs(self.dir()).unwrap();
        let free = space.f_bavail * space.f_frsize;
        fallocate(&file, FallocateFlags::empty(), 0, free - bytes).unwrap();
        syncfs(&file).unwrap();
    }

    /// Takes all space.
    pub(crate) fn leave_nothing(&self) {
        let file = File::create(self.ballast()).unwrap();
        let mut len = 0;
        // How much is free is an estimate on some: so until there is nothing.
        for piece in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
            loop {
                match fallocate(&file, FallocateFlags::empty(), len, piece) {
                    Ok(()) => len += piece,
                    Err(Errno::NOSPC) => break,
                    Err(error) => panic!("ballast: {error}"),
                }
            }
        }
        syncfs(&file).unwrap();
    }

    /// Gives it back.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
        // Freed space can be used when the file system has recorded that it is free.
        syncfs(File::open(self.dir()).unwrap()).unwrap();
    }
}
