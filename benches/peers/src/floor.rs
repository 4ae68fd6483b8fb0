//! The physical floor: one thread, one file, write + make durable, nothing else.
//!
//! A method is `<io>/<layout>`. Layouts: `append` (the file grows), `unwritten`
//! (fallocated, extents not yet written), `prewritten` (zeros written and synced
//! beforehand, then overwritten in a circle, as in a recycled segment).

use crate::load::{hist, result, Cell};
use crate::peer::{fill, stamp, Result};
use crate::stats;
use io_uring::{opcode, squeue::Flags, types, IoUring};
use serde_json::Value;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

pub const METHODS: &[&str] = &[
    "fdatasync/append",
    "fdatasync/unwritten",
    "fdatasync/prewritten",
    "fsync/prewritten",
    "odsync/prewritten",
    "dio-odsync/append",
    "dio-odsync/unwritten",
    "dio-odsync-hugepages/unwritten",
    "dio-odsync/prewritten",
    "dio-fdatasync/prewritten",
    "uring-write+fdatasync-linked/append",
    "uring-write+fdatasync-linked/unwritten",
    "uring-write+fdatasync-linked/prewritten",
    "uring-write,then-fdatasync-syscall/prewritten",
    "pwrite,then-uring-fdatasync/prewritten",
    "uring-dio-write+fdatasync-linked/prewritten",
    "uring-dio-write,then-fdatasync-syscall/prewritten",
    "uring-dio-rwf_dsync/unwritten",
    "uring-dio-rwf_dsync/prewritten",
    "uring-dio-rwf_dsync-qd2/prewritten",
    "uring-dio-rwf_dsync-qd4/prewritten",
    "uring-dio-rwf_dsync-qd8/prewritten",
    "uring-dio-rwf_dsync-qd8/unwritten",
    "nosync-dio/prewritten",
];

const ALIGN: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

pub fn prewrite(f: &File, len: u64) -> std::io::Result<()> {
    let z = vec![0u8; 4 << 20];
    let mut at = 0;
    while at < len {
        let n = z.len().min((len - at) as usize);
        f.write_all_at(&z[..n], at)?;
        at += n as u64;
    }
    f.sync_all()
}

/// An aligned buffer, in huge pages or in none.
struct Buf {
    ptr: *mut u8,
    len: usize,
}

impl Buf {
    fn new(len: usize, huge: bool) -> Buf {
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        let all = len.next_multiple_of(HUGE_PAGE);
        let layout = std::alloc::Layout::from_size_align(all, HUGE_PAGE).unwrap();
        let ptr = unsafe { std::alloc::alloc(layout) };
        assert!(!ptr.is_null());
        unsafe {
            libc::madvise(ptr.cast(), all, advice);
            ptr.write_bytes(0, len);
        }
        let b = Buf { ptr, len };
        for (i, c) in b.slice().chunks_mut(1 << 20).enumerate() {
            fill(c, i as u64);
        }
        b
    }
    #[allow(clippy::mut_from_ref)]
    fn slice(&self) -> &mut [u8] {
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}

#[derive(PartialEq, Clone, Copy)]
enum Sync {
    Fdatasync,
    Fsync,
    None, // durable by O_DSYNC, or not at all
    UringFdatasync,
}

struct Plan {
    ring: bool,
    linked: bool,
    dsync_flag: bool,
    direct: bool,
    odsync: bool,
    sync: Sync,
    qd: usize,
}

fn plan(io: &str) -> Result<Plan> {
    let mut p = Plan {
        ring: io.starts_with("uring"),
        linked: io.contains("linked"),
        dsync_flag: io.contains("rwf_dsync"),
        direct: io.contains("dio"),
        odsync: io.contains("odsync"),
        sync: Sync::Fdatasync,
        qd: 1,
    };
    if let Some(q) = io.split("-qd").nth(1) {
        p.qd = q.parse()?;
    }
    if io == "fsync" {
        p.sync = Sync::Fsync;
    } else if p.odsync || p.dsync_flag || p.linked || io.starts_with("nosync") {
        p.sync = Sync::None;
    } else if io == "pwrite,then-uring-fdatasync" {
        p.ring = true;
        p.sync = Sync::UringFdatasync;
    }
    Ok(p)
}

fn up(n: u64) -> u64 {
    n.div_ceil(ALIGN as u64) * ALIGN as u64
}

fn new_ring() -> Result<IoUring> {
    let r = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(32);
    Ok(match r {
        Ok(r) => r,
        Err(_) => IoUring::new(32)?,
    })
}

pub fn run(method: &str, dir: &Path, c: Cell) -> Result<Value> {
    let (io, layout) = method.split_once('/').ok_or("method")?;
    let p = plan(io)?;
    let dev = stats::device_stat_path(dir);
    let op = (c.payload * c.batch) as u64;
    let path = dir.join("floor.dat");

    let prep = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    let mut size = 0u64; // 0: no end
    match layout {
        "append" => {}
        "unwritten" => {
            size = (op * 20_000).clamp(1 << 30, 8 << 30);
            let r = unsafe { libc::fallocate(prep.as_raw_fd(), 0, 0, size as i64) };
            if r != 0 {
                return Err(std::io::Error::last_os_error().into());
            }
        }
        "prewritten" => {
            size = up(op * 64 * p.qd as u64).clamp(64 << 20, 512 << 20);
            prewrite(&prep, size)?;
        }
        _ => return Err("layout".into()),
    }
    prep.sync_all()?;
    File::open(dir)?.sync_all()?;

    let mut flags = 0;
    if p.direct {
        flags |= libc::O_DIRECT;
    }
    if p.odsync {
        flags |= libc::O_DSYNC;
    }
    let f = File::options().read(true).write(true).custom_flags(flags).open(&path)?;
    drop(prep);

    // Room for a batch at any offset in its first block.
    let bufs: Vec<Buf> = (0..p.qd)
        .map(|_| Buf::new(up(op + ALIGN as u64) as usize, io.ends_with("hugepages")))
        .collect();
    let mut ring = if p.ring { Some(new_ring()?) } else { None };
    if let Some(r) = &mut ring {
        let iov: Vec<libc::iovec> =
            bufs.iter().map(|b| libc::iovec { iov_base: b.ptr.cast(), iov_len: b.len }).collect();
        unsafe { r.submitter().register_buffers(&iov)? };
        r.submitter().register_files(&[f.as_raw_fd()])?;
    }

    let start = Instant::now();
    let warm_end = start + Duration::from_secs_f64(c.warm);
    let end = warm_end + Duration::from_secs_f64(c.secs);
    let (mut h, mut ops, mut n) = (hist(), 0u64, 0u64);
    let mut pos = 0u64;
    let mut first: Option<(stats::Snap, Instant)> = None;
    let mut t0 = start;

    // Where the next batch goes: (offset in file, length, offset in buffer).
    let mut next = |exact_blocks: bool| -> Option<(u64, usize)> {
        let span = if exact_blocks { up(op) } else { op };
        if size > 0 && pos + up(span + ALIGN as u64) > size {
            if layout == "unwritten" {
                return None; // used up: stop rather than overwrite
            }
            pos = 0;
        }
        let at = pos;
        pos += span;
        if p.direct {
            // Whole blocks: the last partial block is written again next time.
            let from = at / ALIGN as u64 * ALIGN as u64;
            Some((from, (up(at + span) - from) as usize))
        } else {
            Some((at, op as usize))
        }
    };

    if p.qd > 1 {
        let r = ring.as_mut().unwrap();
        let mut began = vec![start; p.qd];
        let mut inflight = 0;
        let mut done = false;
        let mut free: Vec<usize> = (0..p.qd).collect();
        while !done || inflight > 0 {
            while !done {
                let Some(i) = free.pop() else { break };
                let Some((at, len)) = next(true) else {
                    done = true;
                    break;
                };
                n += 1;
                stamp(bufs[i].slice(), n);
                began[i] = Instant::now();
                let e = opcode::WriteFixed::new(types::Fixed(0), bufs[i].ptr, len as u32, i as u16)
                    .offset(at)
                    .rw_flags(libc::RWF_DSYNC)
                    .build()
                    .user_data(i as u64);
                unsafe { r.submission().push(&e)? };
                inflight += 1;
            }
            r.submit_and_wait(1)?;
            let now = Instant::now();
            if first.is_none() && now >= warm_end {
                first = Some((stats::snap(dev.as_deref()), Instant::now()));
            }
            let cq: Vec<_> = r.completion().collect();
            for e in cq {
                if e.result() < 0 {
                    return Err(std::io::Error::from_raw_os_error(-e.result()).into());
                }
                let i = e.user_data() as usize;
                inflight -= 1;
                free.push(i);
                if now >= warm_end && now <= end {
                    h.record((now - began[i]).as_nanos() as u64)?;
                    ops += 1;
                }
            }
            done |= now > end;
        }
    } else {
        while t0 < end {
            let Some((at, len)) = next(false) else { break };
            n += 1;
            stamp(bufs[0].slice(), n);
            let data = &bufs[0].slice()[..len];
            match &mut ring {
                None => f.write_all_at(data, at)?,
                Some(_) if p.sync == Sync::UringFdatasync => f.write_all_at(data, at)?,
                Some(r) => {
                    let mut w =
                        opcode::WriteFixed::new(types::Fixed(0), bufs[0].ptr, len as u32, 0)
                            .offset(at);
                    if p.dsync_flag {
                        w = w.rw_flags(libc::RWF_DSYNC);
                    }
                    let mut e = w.build().user_data(len as u64);
                    if p.linked {
                        e = e.flags(Flags::IO_LINK);
                    }
                    unsafe { r.submission().push(&e)? };
                    if p.linked {
                        push_fsync(r)?;
                    }
                    reap(r, if p.linked { 2 } else { 1 })?;
                }
            }
            match p.sync {
                Sync::Fdatasync => f.sync_data()?,
                Sync::Fsync => f.sync_all()?,
                Sync::None => {}
                Sync::UringFdatasync => {
                    let r = ring.as_mut().unwrap();
                    push_fsync(r)?;
                    reap(r, 1)?;
                }
            }
            let t1 = Instant::now();
            if t1 >= warm_end {
                if first.is_none() {
                    first = Some((stats::snap(dev.as_deref()), Instant::now()));
                } else if t1 <= end {
                    h.record((t1 - t0).as_nanos() as u64)?;
                    ops += 1;
                }
            }
            t0 = Instant::now();
        }
    }
    let last = stats::snap(dev.as_deref());
    let (a, ta) = first.ok_or("no operation ended inside the window")?;
    let window = (Instant::now() - ta).as_secs_f64();
    Ok(result(&c, ops.max(1), window, &h, &last.since(&a)))
}

fn push_fsync(r: &mut IoUring) -> Result<()> {
    let e =
        opcode::Fsync::new(types::Fixed(0)).flags(types::FsyncFlags::DATASYNC).build().user_data(0);
    unsafe { r.submission().push(&e)? };
    Ok(())
}

fn reap(r: &mut IoUring, want: usize) -> Result<()> {
    r.submit_and_wait(want)?;
    let mut got = 0;
    while got < want {
        let Some(e) = r.completion().next() else {
            r.submit_and_wait(1)?;
            continue;
        };
        if e.result() < 0 {
            return Err(std::io::Error::from_raw_os_error(-e.result()).into());
        }
        if e.result() as u64 != e.user_data() {
            return Err("short write".into());
        }
        got += 1;
    }
    Ok(())
}

/// The floor of a replay: read a file front to back and checksum it.
pub fn replay_load(dir: &Path, records: u64, payload: usize) -> Result<()> {
    let f = File::create(dir.join("floor.dat"))?;
    let b = Buf::new(4 << 20, false);
    let len = records * payload as u64;
    let mut at = 0;
    while at < len {
        let n = b.len.min((len - at) as usize);
        f.write_all_at(&b.slice()[..n], at)?;
        at += n as u64;
    }
    f.sync_all()?;
    Ok(())
}

pub fn replay(dir: &Path, payload: usize) -> Result<(u64, u64)> {
    use std::io::Read;
    let mut f = File::open(dir.join("floor.dat"))?;
    let mut b = vec![0u8; 1 << 20];
    let mut crc = crc32fast::Hasher::new();
    let mut bytes = 0u64;
    loop {
        let n = f.read(&mut b)?;
        if n == 0 {
            break;
        }
        crc.update(&b[..n]);
        bytes += n as u64;
    }
    std::hint::black_box(crc.finalize());
    Ok((bytes / payload as u64, bytes))
}
