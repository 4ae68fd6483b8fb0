//! The system calls that the two real disks make alike: those that the ring does not have, that are too short to be
//! worth a trip through it, or that all of `threads` is made of. They block, and know of no runtime.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{ReadWriteFlags, pwritev2};

use super::{Access, AlignedBuf, BlockingFile, DirEntry, Persist, Zeroing};

/// Mode of the files we create: the log may hold what nobody else should read.
pub(super) const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The flags of `open` beyond reading, writing and creating.
pub(super) fn open_flags(access: Access) -> i32 {
    match access {
        Access::ReadDirect => OFlag::O_DIRECT.bits(),
        Access::Read | Access::Write | Access::Create => 0,
    }
}

pub(super) fn writes(access: Access) -> bool {
    match access {
        Access::Write | Access::Create => true,
        Access::Read | Access::ReadDirect => false,
    }
}

/// Opens a file; close-on-exec, as everything that std opens.
pub(super) fn open(path: &Path, access: Access) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(writes(access))
        .create_new(access == Access::Create)
        .mode(FILE_MODE)
        .custom_flags(open_flags(access))
        .open(path)
}

/// Opens a directory, to sync it.
pub(super) fn open_dir(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(dir)
}

pub(super) fn list(dir: &Path) -> io::Result<Vec<DirEntry>> {
    std::fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            let is_file = match entry.file_type()? {
                link if link.is_symlink() => {
                    std::fs::metadata(entry.path()).is_ok_and(|target| target.is_file())
                }
                other => other.is_file(),
            };
            Ok(DirEntry { name: entry.file_name(), is_file })
        })
        .collect()
}

pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(dir)
}

/// Whether the directory `path` is `dir` or lies in it. Goes up by `..`, as the kernel understands it: links and spellings
/// do not matter.
pub(super) fn is_within(path: &Path, dir: &Path) -> io::Result<bool> {
    let identity = |path: &Path| -> io::Result<_> {
        let found = rustix::fs::stat(path)?;
        Ok((found.st_dev, found.st_ino))
    };
    let dir = identity(dir)?;
    let (mut at, mut here) = (path.to_owned(), identity(path)?);
    loop {
        if here == dir {
            return Ok(true);
        }
        at.push("..");
        let above = identity(&at)?;
        if above == here {
            return Ok(false);
        }
        here = above;
    }
}

/// Copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// What may wait to be written: a commit that has to write the file system's journal waits for it.
const COPY_SYNC_BYTES: u64 = 8 << 20;

/// Copies the first `len` bytes of a file to the same place in another; says how many it had.
pub(super) fn copy(from: &dyn BlockingFile, to: &File, len: u64) -> io::Result<u64> {
    from.will_read_on();
    let mut buf = AlignedBuf::with_len(COPY_BYTES);
    let (mut offset, mut synced) = (0, 0);
    while offset < len {
        // Whole pieces are read, for files that are read past the page cache.
        let read = from.read_at(offset, &mut buf)?;
        let wanted = (read as u64).min(len - offset) as usize;
        let mut done = 0;
        while done < wanted {
            let place = offset + done as u64;
            match write(to, &buf[done..wanted], place, Persist::Later, false)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => done += count,
            }
        }
        offset += wanted as u64;
        if read < buf.len() {
            break;
        }
        if offset - synced >= COPY_SYNC_BYTES {
            to.sync_data()?;
            synced = offset;
        }
    }
    Ok(offset)
}

/// Makes a file share the blocks of another.
pub(super) fn reflink(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    loop {
        match rustix::fs::ioctl_ficlone(&to, &from).map_err(io::Error::from) {
            Err(error) if is_interrupted(&error) => {}
            Err(error) => {
                const CANNOT: [Errno; 5] =
                    [Errno::EOPNOTSUPP, Errno::EXDEV, Errno::EINVAL, Errno::ENOTTY, Errno::ENOSYS];
                let errno = error.raw_os_error().map(Errno::from_raw);
                return Err(match errno.is_some_and(|errno| CANNOT.contains(&errno)) {
                    true => io::ErrorKind::Unsupported.into(),
                    false => error,
                });
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Reserves space; grows the file only, where the file system has no `fallocate`.
pub(super) fn allocate(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    loop {
        let result = rustix::fs::fallocate(&file, FallocateFlags::empty(), offset, len);
        match result.map_err(io::Error::from) {
            Err(error) if is_interrupted(&error) => {}
            Err(error) if is_unsupported(&error) => return grow(&file, offset, len),
            result => return result,
        }
    }
}

/// The mode of `fallocate`. The crates do not know `FALLOC_FL_WRITE_ZEROES` yet.
pub(super) fn zeroing_mode(zeroing: Zeroing) -> u32 {
    match zeroing {
        Zeroing::Written => 0x80,
        Zeroing::Unwritten => FallocateFlags::ZERO_RANGE.bits(),
    }
}

/// Makes a range zeros without writing them.
pub(super) fn zero_range(
    file: impl AsFd,
    offset: u64,
    len: u64,
    zeroing: Zeroing,
) -> io::Result<()> {
    let mode = FallocateFlags::from_bits_retain(zeroing_mode(zeroing));
    loop {
        let result = rustix::fs::fallocate(&file, mode, offset, len);
        match result.map_err(io::Error::from) {
            Err(error) if is_interrupted(&error) => {}
            Err(error) if is_unsupported(&error) => return Err(io::ErrorKind::Unsupported.into()),
            result => return result,
        }
    }
}

/// Past the page cache from now on, or through it.
pub(super) fn set_direct(file: impl AsFd, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(&file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(&file, flags)?)
}

/// Refuses a direct write that no device could take. The kernel would, too, but not on every file system: btrfs
/// silently goes through the cache.
pub(super) fn check_direct_write(offset: u64, len: usize) -> io::Result<()> {
    const SECTOR_BYTES: u64 = 512;
    if offset.is_multiple_of(SECTOR_BYTES) && (len as u64).is_multiple_of(SECTOR_BYTES) {
        return Ok(());
    }
    Err(Errno::EINVAL.into())
}

/// What is left of `allocate` without `fallocate`: the file reaches to the end of the range, as a hole.
pub(super) fn grow(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let end = offset.checked_add(len).ok_or_else(|| io::Error::from(Errno::EFBIG))?;
    if end > length(&file)? {
        truncate(&file, end)?;
    }
    Ok(())
}

pub(super) fn truncate(file: impl AsFd, len: u64) -> io::Result<()> {
    loop {
        match rustix::fs::ftruncate(&file, len).map_err(io::Error::from) {
            Err(error) if is_interrupted(&error) => {}
            result => return result,
        }
    }
}

pub(super) fn length(file: impl AsFd) -> io::Result<u64> {
    let len = rustix::fs::fstat(file)?.st_size;
    Ok(u64::try_from(len).expect("the kernel's file sizes are not negative"))
}

/// Whether the name leads to the file.
pub(super) fn is_at(file: impl AsFd, path: &Path) -> io::Result<bool> {
    let own = rustix::fs::fstat(file)?;
    match rustix::fs::stat(path).map_err(io::Error::from) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// How many names it has.
pub(super) fn links(file: impl AsFd) -> io::Result<u64> {
    #[allow(clippy::useless_conversion, reason = "its type depends on the architecture")]
    Ok(u64::from(rustix::fs::fstat(file)?.st_nlink))
}

/// The length of a file, and for how long it was not written to.
pub(super) fn length_and_age(path: &Path) -> io::Result<(u64, Duration)> {
    let metadata = std::fs::metadata(path)?;
    // A clock that was set back makes it younger.
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    Ok((metadata.len(), age))
}

/// Takes the write lock of the whole file for the open file description.
pub(super) fn try_lock(file: impl AsFd) -> io::Result<bool> {
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0, // to the end, however far it moves
        l_pid: 0, // must be zero for locks of a description
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// One write that was not interrupted. `EINTR` means that nothing was written, so it is not a short write either.
pub(super) fn write(
    file: impl AsFd,
    bytes: &[u8],
    offset: u64,
    persist: Persist,
    direct: bool,
) -> io::Result<usize> {
    if direct {
        check_direct_write(offset, bytes.len())?;
    }
    let flags = match persist {
        Persist::Later => ReadWriteFlags::empty(),
        Persist::Now => ReadWriteFlags::DSYNC,
    };
    loop {
        let count = pwritev2(&file, &[IoSlice::new(bytes)], offset, flags);
        match count.map_err(io::Error::from) {
            Err(error) if is_interrupted(&error) => {}
            result => return result,
        }
    }
}

pub(super) fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

/// The file system does not have this operation.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32)
}

/// 128 bits from the kernel.
pub(super) fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    // Requests of up to 256 bytes are never cut short.
    assert_eq!(filled, 16, "the kernel gives all 16 bytes or none");
    Ok(id)
}
