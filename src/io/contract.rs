//! One suite for all disks: what the module documentation promises, as far as a running process can see it. (What a
//! crash leaves can be seen in the simulation only: `sim/tests.rs`.)
//!
//! Each case is a generic function; `contract!` makes three tests of it. Where the machine has no ring, the `uring`
//! tests say so and pass.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;

use super::sim::Sim;
use super::*;

const CONFIG: DiskConfig = DiskConfig { buffer_count: 3, buffer_bytes: 2 * BLOCK_BYTES };

const BLOCK: u64 = BLOCK_BYTES as u64;

macro_rules! contract {
    ($($case:ident),* $(,)?) => {$(
        mod $case {
            use super::*;

            struct Case(PathBuf);

            impl OnDisk for Case {
                type Output = ();

                async fn run<D: Disk>(self, disk: D) {
                    super::$case(disk, &self.0).await;
                }
            }

            #[test]
            fn uring() {
                let dir = TempDir::new(stringify!($case));
                if let Err(error) = run(Backend::Uring, CONFIG, Case(dir.0.clone())) {
                    eprintln!("skipped: {error}");
                }
            }

            #[test]
            fn threads() {
                let dir = TempDir::new(stringify!($case));
                run(Backend::Threads, CONFIG, Case(dir.0.clone())).expect("threads start anywhere");
            }

            #[test]
            fn sim() {
                let sim = Sim::new(1);
                sim.create_dir("/dir");
                sim.block_on(Case("/dir".into()).run(sim.disk(CONFIG)));
            }
        }
    )*};
}

contract!(
    writes_are_read,
    reads_end_at_the_end,
    writes_leave_holes_and_overwrite,
    opening_is_strict,
    readers_cannot_write,
    allocation_grows_with_zeros,
    truncation_cuts_and_grows,
    names_come_and_go,
    renames_replace,
    removed_files_stay_readable,
    names_lead_to_their_files,
    directories_are_made_once,
    directories_sync,
    links_are_names_of_the_same_file,
    directories_lie_within_others,
    copies_are_files_of_their_own,
    copies_past_the_cache_end_where_they_should,
    reflinks_are_copies_or_unsupported,
    locks_exclude,
    locks_outlast_the_file_until_its_operation_ends,
    direct_reads,
    writes_that_are_durable_at_once_are_read,
    durable_writes_overlap,
    direct_mode_comes_and_goes,
    direct_mode_wants_alignment,
    direct_mode_keeps_the_lock,
    zeros_are_written,
    zero_ranges_are_zeros_or_unsupported,
    files_tell_of_their_names_and_age,
    abandoned_zeros_leave_nothing_dangling,
    geometry_is_of_powers_of_two,
    buffers_wait_and_come_back,
    buffers_of_abandoned_writes_come_back,
    abandoned_operations_harm_nothing,
    operations_overlap,
    the_background_lane_does_the_same,
    sleep_takes_its_time,
    tasks_run_beside,
    offloaded_work_reads,
    offloaded_work_that_panics_harms_nobody,
    offloaded_work_may_be_abandoned,
);

/// A directory of the real file system that goes with the test.
struct TempDir(PathBuf);

impl TempDir {
    fn new(case: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("seawal-{case}-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).expect("temporary directory");
        TempDir(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// Short forms for the cases.

async fn create<D: Disk>(disk: &D, path: &Path) -> D::File {
    disk.open(path, Access::Create, Lane::Commit).await.unwrap()
}

async fn open_to_write<D: Disk>(disk: &D, path: &Path) -> D::File {
    disk.open(path, Access::Write, Lane::Commit).await.unwrap()
}

/// Writes all of `bytes` with one write.
async fn write<D: Disk>(disk: &D, file: &D::File, offset: u64, bytes: &[u8]) {
    write_and_persist(disk, file, offset, bytes, Persist::Later).await;
}

async fn write_now<D: Disk>(disk: &D, file: &D::File, offset: u64, bytes: &[u8]) {
    write_and_persist(disk, file, offset, bytes, Persist::Now).await;
}

async fn write_and_persist<D: Disk>(
    disk: &D,
    file: &D::File,
    offset: u64,
    bytes: &[u8],
    persist: Persist,
) {
    let mut buf = disk.buffer().await;
    buf[..bytes.len()].copy_from_slice(bytes);
    let (count, buf) = file.write_at(buf, bytes.len(), offset, persist).await;
    assert_eq!(count.unwrap(), bytes.len());
    assert_eq!(&buf[..bytes.len()], bytes, "the buffer comes back untouched");
    assert_eq!(buf.len(), CONFIG.buffer_bytes);
}

async fn read<F: DiskFile>(file: &F, offset: u64, len: usize) -> Vec<u8> {
    file.read_at(offset, len).await.unwrap().to_vec()
}

async fn names<D: Disk>(disk: &D, dir: &Path) -> Vec<(String, bool)> {
    let mut entries: Vec<_> = disk
        .list(dir)
        .await
        .unwrap()
        .into_iter()
        .map(|entry| (entry.name.into_string().unwrap(), entry.is_file))
        .collect();
    entries.sort();
    entries
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.kind(),
    }
}

/// Polls once, with nobody to wake; the caller is not waiting for the future.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Starts a future and gives it up after its first poll. It may have ended by then: `threads` does commits at once.
fn start_and_drop<F: Future>(future: F) {
    let _ = poll_once(pin!(future));
}

/// Waits until something holds, up to a generous while.
async fn eventually<D: Disk>(disk: &D, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = disk.now() + Duration::from_secs(10);
    while !holds().await {
        assert!(disk.now() < deadline, "it never came to hold");
        disk.sleep(Duration::from_millis(1)).await;
    }
}

// The cases.

async fn writes_are_read<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    write(&disk, &file, 0, b"hello").await;
    let whole_buffer: Vec<u8> = (0..CONFIG.buffer_bytes).map(|i| (i % 251) as u8).collect();
    write(&disk, &file, 5, &whole_buffer).await;
    file.sync_data().await.unwrap();
    assert_eq!(file.len().unwrap(), 5 + whole_buffer.len() as u64);
    assert_eq!(read(&file, 0, 5).await, b"hello");
    assert_eq!(read(&file, 5, whole_buffer.len()).await, whole_buffer);

    let other = disk.open(&path, Access::Read, Lane::Commit).await.unwrap();
    assert_eq!(read(&other, 3, 4).await, b"lo\x00\x01");
    assert!(["uring", "threads", "sim"].contains(&disk.name()));
}

async fn reads_end_at_the_end<D: Disk>(disk: D, dir: &Path) {
    let file = create(&disk, &dir.join("a")).await;
    assert_eq!(read(&file, 0, 10).await, b"");
    write(&disk, &file, 0, b"0123456789").await;
    assert_eq!(read(&file, 6, 100).await, b"6789");
    assert_eq!(read(&file, 10, 100).await, b"");
    assert_eq!(read(&file, 1000, 100).await, b"");
    assert_eq!(read(&file, 2, 0).await, b"");
}

async fn writes_leave_holes_and_overwrite<D: Disk>(disk: D, dir: &Path) {
    let file = create(&disk, &dir.join("a")).await;
    write(&disk, &file, 4, b"end").await;
    write(&disk, &file, 1, b"ab").await;
    assert_eq!(read(&file, 0, 10).await, b"\0ab\0end");
    write(&disk, &file, 2, b"XY").await;
    assert_eq!(read(&file, 0, 10).await, b"\0aXYend");
    assert_eq!(file.len().unwrap(), 7);
}

async fn opening_is_strict<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    for access in [Access::Read, Access::Write] {
        for lane in [Lane::Commit, Lane::Background] {
            let result = disk.open(&path, access, lane).await;
            assert_eq!(kind(result), ErrorKind::NotFound, "{access:?} {lane:?}");
        }
    }
    let nowhere = dir.join("missing").join("a");
    let result = disk.open(&nowhere, Access::Create, Lane::Commit).await;
    assert_eq!(kind(result), ErrorKind::NotFound);

    let file = create(&disk, &path).await;
    write(&disk, &file, 0, b"kept").await;
    let result = disk.open(&path, Access::Create, Lane::Commit).await;
    assert_eq!(kind(result), ErrorKind::AlreadyExists);
    let again = open_to_write(&disk, &path).await;
    assert_eq!(read(&again, 0, 10).await, b"kept");

    // Modes and descriptor flags exist on real file systems only.
    if let Ok(metadata) = std::fs::metadata(&path) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
}

async fn readers_cannot_write<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    write(&disk, &file, 0, b"kept").await;
    let reader = disk.open(&path, Access::Read, Lane::Commit).await.unwrap();
    let (result, buf) = reader.write_at(disk.buffer().await, 1, 0, Persist::Later).await;
    assert_eq!(result.unwrap_err().raw_os_error(), Some(Errno::EBADF as i32));
    assert_eq!(buf.len(), CONFIG.buffer_bytes);
    assert!(reader.truncate(0).await.is_err());
    assert!(reader.allocate(0, 100).await.is_err());
    assert_eq!(read(&file, 0, 10).await, b"kept");
}

async fn allocation_grows_with_zeros<D: Disk>(disk: D, dir: &Path) {
    let file = create(&disk, &dir.join("a")).await;
    write(&disk, &file, 0, b"kept").await;
    file.allocate(0, 3 * BLOCK).await.unwrap();
    assert_eq!(file.len().unwrap(), 3 * BLOCK);
    let bytes = read(&file, 0, 4 * BLOCK_BYTES).await;
    assert_eq!(bytes.len(), 3 * BLOCK_BYTES);
    assert_eq!(&bytes[..4], b"kept");
    assert!(bytes[4..].iter().all(|&byte| byte == 0));

    file.allocate(0, BLOCK).await.unwrap();
    assert_eq!(file.len().unwrap(), 3 * BLOCK, "it never shrinks");
    file.allocate(3 * BLOCK, BLOCK).await.unwrap();
    assert_eq!(file.len().unwrap(), 4 * BLOCK);
    file.sync_data().await.unwrap();
}

async fn truncation_cuts_and_grows<D: Disk>(disk: D, dir: &Path) {
    let file = create(&disk, &dir.join("a")).await;
    write(&disk, &file, 0, b"0123456789").await;
    file.truncate(4).await.unwrap();
    assert_eq!(file.len().unwrap(), 4);
    file.truncate(8).await.unwrap();
    assert_eq!(read(&file, 0, 100).await, b"0123\0\0\0\0");
    file.truncate(0).await.unwrap();
    assert_eq!(file.len().unwrap(), 0);
}

async fn names_come_and_go<D: Disk>(disk: D, dir: &Path) {
    assert_eq!(names(&disk, dir).await, []);
    create(&disk, &dir.join("a")).await;
    create(&disk, &dir.join("b")).await;
    disk.create_dir(&dir.join("sub")).await.unwrap();
    let expected = [("a", true), ("b", true), ("sub", false)];
    let expected = expected.map(|(name, is_file)| (name.to_owned(), is_file));
    assert_eq!(names(&disk, dir).await, expected);

    disk.remove_file(&dir.join("a")).await.unwrap();
    let result = disk.remove_file(&dir.join("a")).await;
    assert_eq!(kind(result), ErrorKind::NotFound);
    assert_eq!(names(&disk, dir).await, expected[1..]);

    assert!(disk.remove_file(&dir.join("sub")).await.is_err());
    let result = disk.list(&dir.join("missing")).await;
    assert_eq!(kind(result), ErrorKind::NotFound);
    let result = disk.list(&dir.join("b")).await;
    assert_eq!(kind(result), ErrorKind::NotADirectory);
}

async fn renames_replace<D: Disk>(disk: D, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    let result = disk.rename(&a, &b).await;
    assert_eq!(kind(result), ErrorKind::NotFound);

    let file = create(&disk, &a).await;
    write(&disk, &file, 0, b"from a").await;
    create(&disk, &b).await;
    disk.rename(&a, &b).await.unwrap();
    assert_eq!(names(&disk, dir).await, [("b".to_owned(), true)]);
    let renamed = open_to_write(&disk, &b).await;
    assert_eq!(read(&renamed, 0, 10).await, b"from a");

    write(&disk, &file, 5, b"b").await;
    assert_eq!(read(&renamed, 0, 10).await, b"from b", "it is the same file");

    let sub = dir.join("sub");
    disk.create_dir(&sub).await.unwrap();
    disk.rename(&b, &sub.join("c")).await.unwrap();
    assert_eq!(names(&disk, dir).await, [("sub".to_owned(), false)]);
    assert_eq!(names(&disk, &sub).await, [("c".to_owned(), true)]);
}

async fn removed_files_stay_readable<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    write(&disk, &file, 0, b"still here").await;
    disk.remove_file(&path).await.unwrap();
    disk.sync_dir(dir).await.unwrap();
    assert_eq!(read(&file, 0, 10).await, b"still here");

    let new = create(&disk, &path).await;
    assert_eq!(new.len().unwrap(), 0, "it is another file");
}

async fn names_lead_to_their_files<D: Disk>(disk: D, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    let file = create(&disk, &a).await;
    let again = disk.open(&a, Access::Read, Lane::Commit).await.unwrap();
    assert!(file.is_at(&a).unwrap() && again.is_at(&a).unwrap());
    assert!(!file.is_at(&b).unwrap(), "there is none");
    disk.rename(&a, &b).await.unwrap();
    assert!(!again.is_at(&a).unwrap() && again.is_at(&b).unwrap());
    let other = create(&disk, &a).await;
    assert!(other.is_at(&a).unwrap() && !other.is_at(&b).unwrap());
    assert!(!file.is_at(&a).unwrap(), "another file has the name");
    disk.rename(&a, &b).await.unwrap();
    assert!(!file.is_at(&b).unwrap() && other.is_at(&b).unwrap(), "it was replaced");
    disk.remove_file(&b).await.unwrap();
    assert!(!other.is_at(&b).unwrap());
}

async fn directories_are_made_once<D: Disk>(disk: D, dir: &Path) {
    let sub = dir.join("sub");
    disk.create_dir(&sub).await.unwrap();
    let result = disk.create_dir(&sub).await;
    assert_eq!(kind(result), ErrorKind::AlreadyExists);
    create(&disk, &sub.join("a")).await;
    let result = disk.create_dir(&sub.join("a")).await;
    assert_eq!(kind(result), ErrorKind::AlreadyExists);
    let result = disk.create_dir(&dir.join("x").join("y")).await;
    assert_eq!(kind(result), ErrorKind::NotFound);
    if let Ok(metadata) = std::fs::metadata(&sub) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
    }
}

async fn directories_sync<D: Disk>(disk: D, dir: &Path) {
    create(&disk, &dir.join("a")).await;
    disk.sync_dir(dir).await.unwrap();
    let result = disk.sync_dir(&dir.join("missing")).await;
    assert_eq!(kind(result), ErrorKind::NotFound);
    let result = disk.sync_dir(&dir.join("a")).await;
    assert_eq!(kind(result), ErrorKind::NotADirectory);
}

async fn links_are_names_of_the_same_file<D: Disk>(disk: D, dir: &Path) {
    let (from, to) = (dir.join("a"), dir.join("b"));
    let file = create(&disk, &from).await;
    write(&disk, &file, 0, b"before").await;
    disk.hard_link(&from, &to).await.expect("linked");
    assert!(file.is_at(&to).expect("asked"));
    write(&disk, &file, 0, b"behind").await;
    disk.remove_file(&from).await.expect("removed");
    let other = disk.open(&to, Access::Read, Lane::Commit).await.expect("still there");
    assert_eq!(read(&other, 0, 100).await, b"behind");

    assert_eq!(kind(disk.hard_link(&from, &dir.join("c")).await), ErrorKind::NotFound);
    create(&disk, &from).await;
    assert_eq!(kind(disk.hard_link(&to, &from).await), ErrorKind::AlreadyExists);
    let nowhere = dir.join("nowhere/c");
    assert_eq!(kind(disk.hard_link(&to, &nowhere).await), ErrorKind::NotFound);
}

async fn directories_lie_within_others<D: Disk>(disk: D, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("a/b"));
    for path in [&a, &b, &dir.join("c")] {
        disk.create_dir(path).await.expect("created");
    }
    let within = |path: &Path, dir: &Path| disk.is_within(path, dir).expect("asked");
    assert!(within(&a, &a) && within(&b, &a) && within(&b, dir));
    assert!(within(&dir.join("./a/."), &a));
    assert!(!within(&a, &b) && !within(&a, &dir.join("c")) && !within(dir, &a));
    assert_eq!(kind(disk.is_within(&dir.join("d"), &a)), ErrorKind::NotFound);
    assert_eq!(kind(disk.is_within(&a, &dir.join("d"))), ErrorKind::NotFound);
}

/// A file of so many bytes, no two blocks of which are alike.
async fn make<D: Disk>(disk: &D, path: &Path, bytes: usize) -> (D::File, Vec<u8>) {
    let file = create(disk, path).await;
    let bytes: Vec<u8> = (0..bytes).map(|at| (at / 7 + at / BLOCK_BYTES) as u8).collect();
    for (at, piece) in bytes.chunks(BLOCK_BYTES).enumerate() {
        write(disk, &file, (at * BLOCK_BYTES) as u64, piece).await;
    }
    (file, bytes)
}

async fn copies_are_files_of_their_own<D: Disk>(disk: D, dir: &Path) {
    let (from, bytes) = make(&disk, &dir.join("a"), 5 * BLOCK_BYTES + 100).await;
    for (number, len) in
        [0, 1, BLOCK, 2 * BLOCK + 5, 5 * BLOCK + 100, u64::MAX].into_iter().enumerate()
    {
        let to = create(&disk, &dir.join(format!("{number}"))).await;
        let expected = &bytes[..bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        let copied = to.copy_from(&from, len).await.expect("copied");
        assert_eq!(copied, expected.len() as u64);
        assert_eq!(to.len().expect("asked"), copied);
        assert_eq!(read(&to, 0, bytes.len()).await, expected);
    }
    let read_only = disk.open(&dir.join("0"), Access::Read, Lane::Commit).await.expect("opened");
    assert!(read_only.copy_from(&from, 1).await.is_err());
}

/// What is read past the cache comes in whole blocks, and goes no further than asked for.
async fn copies_past_the_cache_end_where_they_should<D: Disk>(disk: D, dir: &Path) {
    let bytes = make(&disk, &dir.join("a"), 3 * BLOCK_BYTES + 100).await.1;
    let (from, _) = disk.open_past_cache(&dir.join("a"), Lane::Background).await.expect("opened");
    for (name, len) in [("b", BLOCK + 5), ("c", u64::MAX)] {
        let to = create(&disk, &dir.join(name)).await;
        let copied = to.copy_from(&from, len).await.expect("copied");
        assert_eq!(copied, len.min(bytes.len() as u64));
        assert_eq!(read(&to, 0, bytes.len()).await, &bytes[..copied as usize]);
    }
}

async fn reflinks_are_copies_or_unsupported<D: Disk>(disk: D, dir: &Path) {
    let (from, bytes) = make(&disk, &dir.join("a"), 2 * BLOCK_BYTES + 100).await;
    let to = create(&disk, &dir.join("b")).await;
    match to.reflink_from(&from).await {
        Ok(()) => {
            write(&disk, &from, 0, b"other").await;
            assert_eq!(read(&to, 0, 3 * BLOCK_BYTES).await, bytes);
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(to.len().expect("asked"), 0);
        }
    }
}

async fn locks_exclude<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let first = create(&disk, &path).await;
    let second = open_to_write(&disk, &path).await;
    assert!(first.try_lock().unwrap());
    assert!(first.try_lock().unwrap(), "its own lock is no obstacle");
    assert!(!second.try_lock().unwrap());
    // The lock is advisory, and of the description that has it: closing another one of the same file in the same
    // process does not let it go (as a plain POSIX lock would).
    write(&disk, &second, 0, b"x").await;
    drop(second);
    let third = open_to_write(&disk, &path).await;
    assert!(!third.try_lock().unwrap());
    // It follows the file, not the name.
    disk.rename(&path, &dir.join("b")).await.unwrap();
    let fourth = open_to_write(&disk, &dir.join("b")).await;
    assert!(!fourth.try_lock().unwrap());
    drop(first);
    assert!(third.try_lock().unwrap());
    assert!(!fourth.try_lock().unwrap());
}

async fn locks_outlast_the_file_until_its_operation_ends<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    for lane in [Lane::Commit, Lane::Background] {
        let _ = disk.remove_file(&path).await;
        let file = disk.open(&path, Access::Create, lane).await.unwrap();
        assert!(file.try_lock().unwrap());
        let mut buf = disk.buffer().await;
        buf.fill(b'x');
        {
            let mut write = pin!(file.write_at(buf, BLOCK_BYTES, 0, Persist::Later));
            let _ = poll_once(write.as_mut());
        }
        drop(file);
        // Whoever gets the lock finds the write done: it does not land on him later.
        let next = open_to_write(&disk, &path).await;
        eventually(&disk, async || next.try_lock().unwrap()).await;
        assert_eq!(next.len().unwrap(), BLOCK, "{lane:?}");
        assert!(read(&next, 0, BLOCK_BYTES).await.iter().all(|&b| b == b'x'));
    }
}

async fn direct_reads<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    write(&disk, &file, 0, &[b'1'; BLOCK_BYTES]).await;
    write(&disk, &file, BLOCK, &[b'2'; 100]).await;
    file.sync_data().await.unwrap();
    let direct = match disk.open(&path, Access::ReadDirect, Lane::Commit).await {
        Ok(direct) => direct,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            eprintln!("skipped: no direct reads in {}", dir.display());
            return;
        }
    };
    let bytes = read(&direct, 0, 4 * BLOCK_BYTES).await;
    assert_eq!(bytes.len(), BLOCK_BYTES + 100, "cut at the end of the file");
    assert!(bytes[..BLOCK_BYTES].iter().all(|&byte| byte == b'1'));
    assert!(bytes[BLOCK_BYTES..].iter().all(|&byte| byte == b'2'));
    assert_eq!(read(&direct, BLOCK, BLOCK_BYTES).await, [b'2'; 100]);
    assert_eq!(read(&direct, 2 * BLOCK, BLOCK_BYTES).await, b"");
    let first = read(&direct, 0, BLOCK_BYTES).await;
    assert_eq!(first, [b'1'; BLOCK_BYTES]);
    // Bytes that are still dirty in the cache are seen too.
    write(&disk, &file, 0, b"dirty").await;
    assert_eq!(&read(&direct, 0, BLOCK_BYTES).await[..5], b"dirty");
}

/// Past the page cache from now on; `false` (said aloud) where that cannot be.
fn go_direct<F: DiskFile>(file: &F) -> bool {
    match file.set_direct(true) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(file.geometry().unwrap().direct_align, None);
            eprintln!("skipped: no direct I/O here");
            false
        }
    }
}

async fn writes_that_are_durable_at_once_are_read<D: Disk>(disk: D, dir: &Path) {
    for (name, lane) in [("a", Lane::Commit), ("b", Lane::Background)] {
        let file = disk.open(&dir.join(name), Access::Create, lane).await.unwrap();
        write_now(&disk, &file, 0, b"hello").await;
        write(&disk, &file, 5, b" and more").await;
        write_now(&disk, &file, 6, b"AND").await;
        assert_eq!(read(&file, 0, 100).await, b"hello AND more");
        assert_eq!(file.len().unwrap(), 14);
        if go_direct(&file) {
            write_now(&disk, &file, BLOCK, &[b'x'; BLOCK_BYTES]).await;
            assert_eq!(file.len().unwrap(), 2 * BLOCK);
            let bytes = read(&file, 0, 2 * BLOCK_BYTES).await;
            assert_eq!(&bytes[..14], b"hello AND more");
            assert!(bytes[14..BLOCK_BYTES].iter().all(|&byte| byte == 0));
            assert_eq!(bytes[BLOCK_BYTES..], [b'x'; BLOCK_BYTES]);
        }
    }
    let reader = disk.open(&dir.join("a"), Access::Read, Lane::Commit).await.unwrap();
    let (result, _) = reader.write_at(disk.buffer().await, 1, 0, Persist::Now).await;
    assert_eq!(result.unwrap_err().raw_os_error(), Some(Errno::EBADF as i32));
}

/// More writes than buffers, all started at once, and one given up half-way: each ends, and gives its buffer back.
async fn durable_writes_overlap<D: Disk>(disk: D, dir: &Path) {
    for (name, direct) in [("a", false), ("b", true)] {
        let file = Rc::new(create(&disk, &dir.join(name)).await);
        file.write_zeros(0, 21 * BLOCK).await.unwrap();
        file.sync_data().await.unwrap();
        if direct && !go_direct(&*file) {
            return;
        }
        let mut buf = disk.buffer().await;
        buf.fill(20);
        start_and_drop(file.write_at(buf, BLOCK_BYTES, 20 * BLOCK, Persist::Now));
        let left = Rc::new(Cell::new(20_u64));
        for i in 0..20_u8 {
            let (disk_of_task, file, left) = (disk.clone(), Rc::clone(&file), Rc::clone(&left));
            disk.spawn(async move {
                let offset = u64::from(i) * BLOCK;
                write_now(&disk_of_task, &file, offset, &[i; BLOCK_BYTES]).await;
                assert_eq!(read(&*file, offset, BLOCK_BYTES).await, [i; BLOCK_BYTES]);
                left.set(left.get() - 1);
            });
        }
        eventually(&disk, async || left.get() == 0).await;
        let mut all = Vec::new();
        for _ in 0..CONFIG.buffer_count {
            all.push(disk.buffer().await);
        }
        let bytes = read(&*file, 0, 30 * BLOCK_BYTES).await;
        assert_eq!(bytes.len(), 21 * BLOCK_BYTES);
        for (i, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            assert!(block.iter().all(|&byte| usize::from(byte) == i), "block {i}");
        }
    }
}

/// One description, first through the cache, then past it, then through it again.
async fn direct_mode_comes_and_goes<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    write(&disk, &file, 0, &[b'1'; 2 * BLOCK_BYTES]).await;
    file.sync_data().await.unwrap();
    if !go_direct(&file) {
        return;
    }
    assert_eq!(read(&file, 0, BLOCK_BYTES).await, [b'1'; BLOCK_BYTES]);
    write(&disk, &file, BLOCK, &[b'2'; BLOCK_BYTES]).await;
    write_now(&disk, &file, 2 * BLOCK, &[b'3'; BLOCK_BYTES]).await;
    file.sync_data().await.unwrap();
    let expected: Vec<u8> = [b'1', b'2', b'3'].into_iter().flat_map(|b| [b; BLOCK_BYTES]).collect();
    assert_eq!(read(&file, 0, 4 * BLOCK_BYTES).await, expected);
    // Whoever reads through the cache sees the same.
    let reader = disk.open(&path, Access::Read, Lane::Commit).await.unwrap();
    assert_eq!(read(&reader, 0, 4 * BLOCK_BYTES).await, expected);

    file.set_direct(false).unwrap();
    assert_eq!(read(&file, 1, 4 * BLOCK_BYTES).await, expected[1..]);
    write(&disk, &file, 3 * BLOCK - 1, b"end").await;
    assert_eq!(read(&file, 3 * BLOCK - 2, 100).await, b"3end");
    file.sync_data().await.unwrap();
    assert_eq!(file.len().unwrap(), 3 * BLOCK + 2);
}

async fn direct_mode_wants_alignment<D: Disk>(disk: D, dir: &Path) {
    let file = create(&disk, &dir.join("a")).await;
    write(&disk, &file, 0, &[b'x'; BLOCK_BYTES]).await;
    file.sync_data().await.unwrap();
    if !go_direct(&file) {
        return;
    }
    for persist in [Persist::Later, Persist::Now] {
        for (offset, len) in [(1, BLOCK_BYTES), (0, 100), (BLOCK - 100, 100)] {
            let buf = disk.buffer().await;
            let (result, buf) = file.write_at(buf, len, offset, persist).await;
            assert_eq!(kind(result), ErrorKind::InvalidInput, "{len} at {offset}");
            assert_eq!(buf.len(), CONFIG.buffer_bytes);
        }
    }
    assert_eq!(kind(file.write_zeros(1, BLOCK).await), ErrorKind::InvalidInput);
    assert_eq!(kind(file.write_zeros(0, 100).await), ErrorKind::InvalidInput);
    assert_eq!(read(&file, 0, 2 * BLOCK_BYTES).await, [b'x'; BLOCK_BYTES]);
    file.write_zeros(0, 2 * BLOCK).await.unwrap();
    assert_eq!(read(&file, 0, 4 * BLOCK_BYTES).await, [0; 2 * BLOCK_BYTES]);
}

async fn direct_mode_keeps_the_lock<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    assert!(file.try_lock().unwrap());
    if !go_direct(&file) {
        return;
    }
    let other = open_to_write(&disk, &path).await;
    assert!(!other.try_lock().unwrap());
    // A write that nobody waits for holds on to the file, and so to its lock.
    let mut buf = disk.buffer().await;
    buf.fill(b'x');
    start_and_drop(file.write_at(buf, BLOCK_BYTES, 0, Persist::Now));
    drop(file);
    eventually(&disk, async || other.try_lock().unwrap()).await;
    assert_eq!(read(&other, 0, 2 * BLOCK_BYTES).await, [b'x'; BLOCK_BYTES]);
}

async fn zeros_are_written<D: Disk>(disk: D, dir: &Path) {
    const MANY: usize = 600_000; // some pieces, and a part of one
    for (name, lane) in [("a", Lane::Commit), ("b", Lane::Background)] {
        // No buffer of the pool is needed.
        let mut all = Vec::new();
        for _ in 0..CONFIG.buffer_count {
            all.push(disk.buffer().await);
        }
        let file = disk.open(&dir.join(name), Access::Create, lane).await.unwrap();
        file.write_zeros(0, 0).await.unwrap();
        assert_eq!(file.len().unwrap(), 0);
        file.write_zeros(3, MANY as u64).await.unwrap();
        drop(all);
        assert_eq!(file.len().unwrap(), 3 + MANY as u64);
        let bytes = read(&file, 0, 2 * MANY).await;
        assert_eq!(bytes.len(), 3 + MANY);
        assert!(bytes.iter().all(|&byte| byte == 0));

        write(&disk, &file, 0, b"0123456789").await;
        file.write_zeros(2, 6).await.unwrap();
        assert_eq!(read(&file, 0, 10).await, b"01\0\0\0\0\0\x0089");
        assert_eq!(file.len().unwrap(), 3 + MANY as u64, "it never shrinks");
        file.sync_data().await.unwrap();
    }
}

async fn zero_ranges_are_zeros_or_unsupported<D: Disk>(disk: D, dir: &Path) {
    for (name, zeroing) in [("a", Zeroing::Written), ("b", Zeroing::Unwritten)] {
        for lane in [Lane::Commit, Lane::Background] {
            let path = dir.join(format!("{name}-{lane:?}"));
            let file = disk.open(&path, Access::Create, lane).await.unwrap();
            write(&disk, &file, 0, &[b'x'; 2 * BLOCK_BYTES]).await;
            match file.zero_range(BLOCK, 3 * BLOCK, zeroing).await {
                Ok(()) => {
                    let bytes = read(&file, 0, 5 * BLOCK_BYTES).await;
                    assert_eq!(bytes.len(), 4 * BLOCK_BYTES);
                    assert_eq!(bytes[..BLOCK_BYTES], [b'x'; BLOCK_BYTES]);
                    assert!(bytes[BLOCK_BYTES..].iter().all(|&byte| byte == 0));
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    assert_eq!(read(&file, 0, 5 * BLOCK_BYTES).await, [b'x'; 2 * BLOCK_BYTES]);
                }
            }
        }
    }
}

async fn files_tell_of_their_names_and_age<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    write(&disk, &file, 0, b"abc").await;
    assert_eq!(file.links().unwrap(), 1);
    let (length, age) = disk.length_and_age(&path).unwrap();
    assert_eq!(length, 3);
    assert!(age < Duration::from_secs(3600), "{age:?}");
    let gone = disk.length_and_age(&dir.join("b")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    disk.remove_file(&path).await.unwrap();
    assert_eq!(file.links().unwrap(), 0);
}

async fn abandoned_zeros_leave_nothing_dangling<D: Disk>(disk: D, dir: &Path) {
    for (name, lane) in [("a", Lane::Commit), ("b", Lane::Background)] {
        let path = dir.join(name);
        let file = disk.open(&path, Access::Create, lane).await.unwrap();
        assert!(file.try_lock().unwrap());
        for _ in 0..3 {
            start_and_drop(file.write_zeros(0, 1 << 20));
            start_and_drop(file.zero_range(0, BLOCK, Zeroing::Unwritten));
        }
        // The one buffer of zeros is there again for the next.
        file.write_zeros(0, 1 << 20).await.unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        drop(file);
        let next = open_to_write(&disk, &path).await;
        eventually(&disk, async || next.try_lock().unwrap()).await;
    }
}

async fn geometry_is_of_powers_of_two<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    let geometry = file.geometry().unwrap();
    assert!(geometry.block_bytes.is_power_of_two(), "{geometry:?}");
    assert!(geometry.block_bytes >= 512, "{geometry:?}");
    assert!(geometry.direct_align.is_none_or(u64::is_power_of_two), "{geometry:?}");
    // It says what is so, and asking changes nothing.
    assert_eq!(file.set_direct(true).is_ok(), geometry.direct_align.is_some());
    assert_eq!(file.geometry().unwrap(), geometry);
    let reader = disk.open(&path, Access::Read, Lane::Commit).await.unwrap();
    assert_eq!(reader.geometry().unwrap(), geometry);
    if let Some(align) = geometry.direct_align
        && let Ok(align) = usize::try_from(align)
        && align <= CONFIG.buffer_bytes
    {
        write_now(&disk, &file, align as u64, &vec![b'x'; align]).await;
        assert_eq!(file.len().unwrap(), 2 * align as u64);
    }
}

async fn buffers_wait_and_come_back<D: Disk>(disk: D, dir: &Path) {
    let file = create(&disk, &dir.join("a")).await;

    for _ in 0..3 {
        let mut buffers = Vec::new();
        for _ in 0..CONFIG.buffer_count {
            let buffer = disk.buffer().await;
            assert_eq!(buffer.as_ptr().addr() % BLOCK_BYTES, 0);
            assert_eq!(buffer.len(), CONFIG.buffer_bytes);
            buffers.push(buffer);
        }
        let mut waits = pin!(disk.buffer());
        assert!(poll_once(waits.as_mut()).is_pending());
        // By way of a write, and short, so that a buffer which comes back cut would show.
        let (result, buffer) = file.write_at(buffers.pop().unwrap(), 1, 0, Persist::Later).await;
        assert_eq!(result.unwrap(), 1);
        drop(buffer);
        assert_eq!(waits.await.len(), CONFIG.buffer_bytes);
    }
}

async fn buffers_of_abandoned_writes_come_back<D: Disk>(disk: D, dir: &Path) {
    let (commit, background) = (Lane::Commit, Lane::Background);
    for (name, lane, persist) in [
        ("a", commit, Persist::Later),
        ("b", commit, Persist::Now),
        ("c", background, Persist::Later),
        ("d", background, Persist::Now),
    ] {
        let path = dir.join(name);
        let file = disk.open(&path, Access::Create, lane).await.unwrap();
        for round in 0..10 {
            for _ in 0..CONFIG.buffer_count {
                let mut buf = disk.buffer().await;
                buf.fill(round);
                start_and_drop(file.write_at(buf, BLOCK_BYTES, 0, persist));
            }
        }
        let mut all = Vec::new();
        for _ in 0..CONFIG.buffer_count {
            all.push(disk.buffer().await);
        }
        assert!(poll_once(pin!(disk.buffer())).is_pending(), "no more than there were");
        // All are back, so all writes have ended.
        let bytes = read(&file, 0, BLOCK_BYTES).await;
        assert_eq!(bytes.len(), BLOCK_BYTES);
        // The third write of the last round began when all earlier ones had given their buffers back.
        assert!(bytes.iter().all(|&byte| byte == 9));
    }
}

async fn abandoned_operations_harm_nothing<D: Disk>(disk: D, dir: &Path) {
    for (name, lane) in [("a", Lane::Commit), ("b", Lane::Background)] {
        let path = dir.join(name);
        let file = disk.open(&path, Access::Create, lane).await.unwrap();
        write(&disk, &file, 0, &[b'x'; BLOCK_BYTES]).await;
        for _ in 0..5 {
            start_and_drop(file.read_at(0, BLOCK_BYTES));
            start_and_drop(file.sync_data());
            start_and_drop(file.allocate(0, BLOCK));
            start_and_drop(disk.open(&path, Access::Read, lane));
            start_and_drop(disk.list(dir));
            start_and_drop(disk.sync_dir(dir));
            start_and_drop(disk.sleep(Duration::from_secs(3600)));
        }
        start_and_drop(disk.rename(&path, &dir.join("renamed")));
        eventually(&disk, async || {
            disk.list(dir).await.unwrap().iter().any(|entry| entry.name == "renamed")
        })
        .await;
        start_and_drop(disk.remove_file(&dir.join("renamed")));
        eventually(&disk, async || disk.list(dir).await.unwrap().is_empty()).await;
        assert_eq!(read(&file, 0, BLOCK_BYTES).await, [b'x'; BLOCK_BYTES]);
        assert_eq!(file.len().unwrap(), BLOCK);
    }
}

/// Several operations in flight at once, each with its own result.
async fn operations_overlap<D: Disk>(disk: D, dir: &Path) {
    let file = Rc::new(create(&disk, &dir.join("a")).await);
    let left = Rc::new(Cell::new(20_u64));
    for i in 0..20_u8 {
        let (disk_of_task, file, left) = (disk.clone(), Rc::clone(&file), Rc::clone(&left));
        disk.spawn(async move {
            let offset = u64::from(i) * 100;
            write(&disk_of_task, &file, offset, &[i; 100]).await;
            file.sync_data().await.unwrap();
            assert_eq!(read(&*file, offset, 100).await, [i; 100]);
            left.set(left.get() - 1);
        });
    }
    eventually(&disk, async || left.get() == 0).await;
    let bytes = read(&*file, 0, 3000).await;
    assert_eq!(bytes.len(), 2000);
    for (i, part) in bytes.chunks(100).enumerate() {
        assert!(part.iter().all(|&byte| usize::from(byte) == i), "part {i}");
    }
}

async fn the_background_lane_does_the_same<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let background = disk.open(&path, Access::Create, Lane::Background);
    let file = background.await.unwrap();
    assert!(file.try_lock().unwrap());
    file.allocate(0, 2 * BLOCK).await.unwrap();
    write(&disk, &file, 0, b"in the background").await;
    file.sync_data().await.unwrap();
    file.truncate(10).await.unwrap();
    assert_eq!(read(&file, 0, 100).await, b"in the bac");
    assert_eq!(file.len().unwrap(), 10);
    let result = disk.open(&path, Access::Create, Lane::Background).await;
    assert_eq!(kind(result), ErrorKind::AlreadyExists);
}

async fn sleep_takes_its_time<D: Disk>(disk: D, _dir: &Path) {
    let start = disk.now();
    disk.sleep(Duration::from_millis(20)).await;
    let slept = disk.now() - start;
    assert!(slept >= Duration::from_millis(20), "{slept:?}");
    assert!(slept < Duration::from_secs(10), "{slept:?}");
    disk.sleep(Duration::ZERO).await;
}

async fn tasks_run_beside<D: Disk>(disk: D, _dir: &Path) {
    let order = Rc::new(RefCell::new(Vec::new()));
    for (name, millis) in [("late", 60), ("early", 20)] {
        let (disk_of_task, order) = (disk.clone(), Rc::clone(&order));
        disk.spawn(async move {
            disk_of_task.sleep(Duration::from_millis(millis)).await;
            order.borrow_mut().push(name);
        });
    }
    assert!(order.borrow().is_empty(), "not before somebody waits");
    eventually(&disk, async || order.borrow().len() == 2).await;
    assert_eq!(*order.borrow(), ["early", "late"]);
    // This one is still there at the end, and must not hold up anything.
    let disk_of_task = disk.clone();
    disk.spawn(async move { disk_of_task.sleep(Duration::from_secs(3600)).await });
}

async fn offloaded_work_reads<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    let bytes: Vec<u8> = (0..3 * BLOCK_BYTES).map(|i| (i % 251) as u8).collect();
    for (at, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        write(&disk, &file, at as u64 * BLOCK, block).await;
    }
    file.sync_data().await.unwrap();
    assert!(disk.offload_max() > 0);
    for access in [Access::Read, Access::ReadDirect] {
        let Ok(file) = disk.open(&path, access, Lane::Background).await else {
            continue; // no direct I/O here
        };
        let work = |file: &dyn BlockingFile| {
            let len = file.len().unwrap();
            file.will_read_on();
            let mut buf = AlignedBuf::with_len(2 * BLOCK_BYTES);
            let mut seen = Vec::new();
            while seen.len() < len as usize {
                let count = file.read_at(seen.len() as u64, &mut buf).unwrap();
                seen.extend_from_slice(&buf[..count]);
            }
            assert_eq!(file.read_at(3 * BLOCK, &mut buf).unwrap(), 0);
            seen
        };
        // More at a time than there are helpers.
        let (left, file) = (Rc::new(Cell::new(10)), Rc::new(file));
        for _ in 0..10 {
            let (left, file, bytes) = (Rc::clone(&left), Rc::clone(&file), bytes.clone());
            disk.spawn(async move {
                assert_eq!(file.offload(work).await.unwrap(), bytes);
                left.set(left.get() - 1);
            });
        }
        eventually(&disk, async || left.get() == 0).await;
    }
}

async fn offloaded_work_that_panics_harms_nobody<D: Disk>(disk: D, dir: &Path) {
    let file = create(&disk, &dir.join("a")).await;
    write(&disk, &file, 0, b"kept").await;
    for _ in 0..3 * disk.offload_max() {
        let outcome = file.offload(|_| panic!("as intended by this test")).await;
        let error = outcome.map(|()| "no error").unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        let len = file.offload(|file| file.len().unwrap()).await.unwrap();
        assert_eq!(len, 4);
    }
}

async fn offloaded_work_may_be_abandoned<D: Disk>(disk: D, dir: &Path) {
    let path = dir.join("a");
    let file = create(&disk, &path).await;
    assert!(file.try_lock().unwrap());
    for _ in 0..5 {
        start_and_drop(file.offload(|file| {
            let mut buf = AlignedBuf::with_len(BLOCK_BYTES);
            // Until it is told to end, if it is on another thread.
            for _ in 0..1000 {
                if file.read_at(0, &mut buf).is_err() {
                    return;
                }
            }
        }));
    }
    assert_eq!(file.offload(|file| file.len().unwrap()).await.unwrap(), 0);
    drop(file);
    let next = open_to_write(&disk, &path).await;
    eventually(&disk, async || next.try_lock().unwrap()).await;
}

/// Not for `sim`, which has one thread.
#[test]
fn offloaded_work_holds_up_nobody() {
    struct Case(PathBuf);

    impl OnDisk for Case {
        type Output = ();

        async fn run<D: Disk>(self, disk: D) {
            let file = create(&disk, &self.0.join("a")).await;
            let (go, gone) = std::sync::mpsc::channel::<()>();
            let here = std::thread::current().id();
            let mut work = pin!(file.offload(move |_| {
                // Comes only if the thread that brought the work goes on.
                gone.recv_timeout(Duration::from_secs(30)).unwrap();
                std::thread::current().id()
            }));
            assert!(poll_once(work.as_mut()).is_pending());
            write(&disk, &file, 0, b"meanwhile").await;
            file.sync_data().await.unwrap();
            go.send(()).unwrap();
            assert_ne!(work.await.unwrap(), here);
        }
    }

    for backend in [Backend::Uring, Backend::Threads] {
        let dir = TempDir::new("offload");
        if let Err(error) = run(backend, CONFIG, Case(dir.0.clone())) {
            eprintln!("skipped: {error}");
        }
    }
}

/// Unlike the simulation, a real disk ends with its job: what was spawned goes with it.
#[test]
fn tasks_end_with_the_main_task() {
    struct Case(std::sync::Arc<()>);

    impl OnDisk for Case {
        type Output = ();

        async fn run<D: Disk>(self, disk: D) {
            let disk_of_task = disk.clone();
            disk.spawn(async move {
                let _kept = self.0;
                disk_of_task.sleep(Duration::MAX).await;
            });
            disk.sleep(Duration::from_millis(1)).await;
        }
    }

    for backend in [Backend::Uring, Backend::Threads] {
        let kept = std::sync::Arc::new(());
        if let Err(error) = run(backend, CONFIG, Case(kept.clone())) {
            eprintln!("skipped: {error}");
        }
        assert_eq!(std::sync::Arc::strong_count(&kept), 1, "{backend}");
    }
}

/// Not for `sim`, where a slow operation is a latency, nor for the ring, where it is the kernel's affair.
#[test]
fn the_background_lane_holds_up_no_commit() {
    struct Case(PathBuf);

    impl OnDisk for Case {
        type Output = ();

        async fn run<D: Disk>(self, disk: D) {
            let commit = create(&disk, &self.0.join("commit")).await;
            let path = self.0.join("background");
            let background = disk.open(&path, Access::Create, Lane::Background);
            let background = background.await.unwrap();
            // A queue of slow things for the helper thread.
            let ended = Rc::new(Cell::new(0));
            let background = Rc::new(background);
            for i in 0..8 {
                let (ended, background) = (Rc::clone(&ended), Rc::clone(&background));
                disk.spawn(async move {
                    background.allocate(i << 20, 1 << 20).await.unwrap();
                    background.sync_data().await.unwrap();
                    ended.set(ended.get() + 1);
                });
            }
            disk.sleep(Duration::ZERO).await;
            let mut commits = 0;
            while commits < 3 {
                // Inline: done by the first poll, however full the helper's queue is.
                let buf = disk.buffer().await;
                let mut write = pin!(commit.write_at(buf, 100, commits * 100, Persist::Later));
                assert!(poll_once(write.as_mut()).is_ready());
                assert!(poll_once(pin!(commit.sync_data())).is_ready());
                assert!(poll_once(pin!(disk.sync_dir(&self.0))).is_ready());
                commits += 1;
            }
            eventually(&disk, async || ended.get() == 8).await;
        }
    }

    let dir = TempDir::new("lanes");
    run(Backend::Threads, CONFIG, Case(dir.0.clone())).unwrap();
}
