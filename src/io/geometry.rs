//! What the file system and the device below a file can do, as far as the kernel tells.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use rustix::fs::{AtFlags, Statx, StatxFlags};

use super::{BLOCK_BYTES, Geometry};

/// Magic numbers of the file systems that write over a block where it is. (xfs copies blocks that two files share; ours
/// are not shared.) Whatever is not here counts as copying: a wrong guess then costs speed only.
const IN_PLACE: [u64; 5] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x3153_464a, // jfs
    0x0102_1994, // tmpfs
    0x2011_bab0, // exfat
];

pub(super) fn geometry(file: impl AsFd) -> io::Result<Geometry> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
    let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, wanted)?;
    let file_system = rustix::fs::fstatfs(&file)?;
    let block_bytes = file_system.f_bsize as u64;
    let device_bytes = physical_block(stat.stx_dev_major, stat.stx_dev_minor).unwrap_or(0);
    Ok(Geometry {
        direct_align: direct_align(&stat, file),
        block_bytes: block_bytes.max(device_bytes).next_power_of_two(),
        copy_on_write: !IN_PLACE.contains(&(file_system.f_type as u64)),
    })
}

fn direct_align(stat: &Statx, file: impl AsFd) -> Option<u64> {
    if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) {
        let align = stat.stx_dio_mem_align.max(stat.stx_dio_offset_align);
        // Zero is how the kernel says that there is none.
        return (stat.stx_dio_offset_align > 0 && align.is_power_of_two()).then_some(align.into());
    }
    // Before kernel 6.1, and where the file system does not say: another description of the file tells whether there
    // is direct I/O at all (this one may be in use), and a block is enough for all common devices.
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let direct =
        std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
    direct.is_ok().then_some(BLOCK_BYTES as u64)
}

/// The device's physical block; `None` where the file is on no one device.
fn physical_block(major: u32, minor: u32) -> Option<u64> {
    // A partition has no queue of its own; the disk is the directory above it.
    ["queue", "../queue"].iter().find_map(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/physical_block_size");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    })
}
