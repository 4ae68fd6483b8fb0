//! Removes the segments that nobody wants any more.
//!
//! A release is durable before the first file goes ([`Mover::release`](crate::watermark::Mover::release) is told after
//! that), and files go oldest first. So whatever part of it a crash undoes, what the log begins with is known, and what is
//! left before that is passed over by the next opening, and removed.

use crate::io::Disk;
use crate::retained::Segment;
use crate::segment::dir;
use crate::watermark::Watermark;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::sync::Mutex;

/// One at a time, in the background or when the log is closed.
pub(crate) struct Retire<D> {
    disk: D,
    dir: PathBuf,
    watermark: Watermark,
    at_work: Mutex<()>,
}

impl<D: Disk> Retire<D> {
    pub(crate) fn new(disk: D, dir: &Path, watermark: Watermark) -> Rc<Retire<D>> {
        Rc::new(Retire { disk, dir: dir.to_owned(), watermark, at_work: Mutex::new(()) })
    }

    /// Removes what is not wanted, for as long as it runs.
    pub(crate) async fn run(self: Rc<Retire<D>>) {
        loop {
            let segments = self.watermark.unwanted().await;
            let _at_work = self.at_work.lock().await;
            self.remove(segments).await;
        }
    }

    /// Removes what is not wanted now.
    pub(crate) async fn finish(&self) {
        let _at_work = self.at_work.lock().await;
        self.remove(self.watermark.take_unwanted()).await;
    }

    /// A file that cannot be removed costs space until the next opening, which tries again.
    async fn remove(&self, segments: Vec<Segment>) {
        if segments.is_empty() {
            return;
        }
        for Segment { path, .. } in segments {
            match self.disk.remove_file(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a released segment was not removed");
                }
                _ => {}
            }
        }
        if let Err(error) = dir::sync(&self.disk, &self.dir).await {
            tracing::warn!(%error, "released segments may be there again after a crash");
        }
    }
}
