//! Mounts that only this test sees, and that go away with it.
//!
//! A test calls [`alone`] first: its thread, and all that it starts, gets a view of the mounts of its own. Whatever is
//! mounted there is unmounted by the kernel when the process is gone, and a loop device is given back when nothing is
//! mounted from it any more: so nothing is left behind even by a test that was killed.

use crate::common::logs::HANG;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Takes the calling thread, and what it starts from now on, away from the mounts of everybody else.
pub(crate) fn alone() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("the thread gets no mounts of its own: {error}"))?;
    // Without this, new mounts would be told to everybody all the same.
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(|error| format!("mounts cannot be made private: {error}"))
}

/// Runs a program that has nothing to say unless it fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), errors.trim()))
}

/// A file system that is mounted on a directory, until this is dropped.
pub(crate) struct Mount {
    at: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Memory as a file system.
    pub(crate) fn memory(at: &Path) -> Result<Mount, String> {
        run("mount", &["-t", "tmpfs", "tmpfs", text(at)])?;
        Ok(Mount { at: at.to_owned(), mounted: true })
    }

    /// The file system in an image, through a loop device.
    pub(crate) fn image(image: &Path, at: &Path) -> Result<Mount, String> {
        run("mount", &["-o", "loop,noatime", text(image), text(at)])?;
        Ok(Mount { at: at.to_owned(), mounted: true })
    }

    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts it. A process that was killed, or a log that was closed, may hold it for a moment: its last requests
    /// to a ring are still under way. So may a loop device, of an image that lies in it.
    pub(crate) fn unmount(mut self) {
        let began = Instant::now();
        loop {
            match umount2(&self.at, MntFlags::empty()) {
                Ok(()) => break,
                Err(Errno::EBUSY) if began.elapsed() < HANG => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("unmounting {}: {error}", self.at.display()),
            }
        }
        self.mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Somebody may still use it, if the test panicked: it goes when they have gone.
            let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        }
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}
