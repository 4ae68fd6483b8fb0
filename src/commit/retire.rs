//! Removes the segments that nobody wants any more, or keeps their files for later ones.
//!
//! A release is durable before the first file goes ([`Mover::release`](crate::watermark::Mover::release) is told after
//! that), and files go oldest first. So whatever part of it a crash undoes, what the log begins with is known, and what is
//! left before that is passed over by the next opening, and removed.

use crate::io::{Access, Disk, DiskFile, Lane};
use crate::retained::Segment;
use crate::segment::dir;
use crate::segment::spares::{self, Spares};
use crate::watermark::Watermark;
use std::cell::{OnceCell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};

type Tell = Box<dyn Fn(&Path)>;

/// One at a time, in the background or when the log is closed.
pub(crate) struct Retire<D> {
    disk: D,
    dir: PathBuf,
    watermark: Watermark,
    spares: Rc<Spares>,
    at_work: Arc<Mutex<()>>,
    /// What could not be removed.
    again: RefCell<Vec<Segment>>,
    /// Is told of each file that is not part of the log any more.
    tell: OnceCell<Tell>,
}

impl<D: Disk> Retire<D> {
    pub(crate) fn new(
        disk: D,
        dir: &Path,
        watermark: Watermark,
        spares: Rc<Spares>,
    ) -> Rc<Retire<D>> {
        let (dir, at_work, again) = (dir.to_owned(), Arc::default(), RefCell::default());
        Rc::new(Retire { disk, dir, watermark, spares, at_work, again, tell: OnceCell::new() })
    }

    /// From now on tells of each file that is not part of the log any more.
    pub(crate) fn tell(&self, tell: impl Fn(&Path) + 'static) {
        let _ = self.tell.set(Box::new(tell));
    }

    /// As long as this is held, no file becomes another segment's. `None` while one may be about to.
    pub(crate) fn hold(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.at_work).try_lock_owned().ok()
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

    /// A file that cannot be removed costs space until this is tried again, with the next ones or by the next opening.
    async fn remove(&self, segments: Vec<Segment>) {
        let mut unwanted = self.again.take();
        unwanted.extend(segments);
        if unwanted.is_empty() {
            return;
        }
        let mut renamed = Vec::new();
        for segment in unwanted {
            let (seq, path) = (segment.seq, segment.path.clone());
            self.tell.get().into_iter().for_each(|tell| tell(&path));
            let failed = |error| {
                tracing::warn!(path = %path.display(), %error, "a released segment is still there");
            };
            if self.spares.expect() {
                let spare = spares::path_of(&self.dir, seq);
                match self.rename(&path, &spare).await {
                    Ok(true) => {
                        renamed.push(spare);
                        continue;
                    }
                    Ok(false) => {}
                    Err(error) => failed(error),
                }
                self.spares.not_coming();
            }
            match self.disk.remove_file(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    failed(error);
                    self.again.borrow_mut().push(segment);
                }
                _ => self.spares.gone(),
            }
        }
        let synced = dir::sync(&self.disk, &self.dir).await;
        if let Err(error) = &synced {
            tracing::warn!(%error, "released segments may be there again after a crash");
        }
        for spare in renamed {
            // With its old name it could still be part of the log after a crash: then it must hold what it holds.
            if synced.is_ok() {
                self.spares.add(spare);
                continue;
            }
            self.spares.not_coming();
            // By whatever name, it is removed when the log is opened next.
            let _ = self.disk.remove_file(&spare).await;
            self.spares.gone();
        }
    }

    /// Takes its name from a segment that can be used again, if nobody else has another name for it.
    async fn rename(&self, path: &Path, spare: &Path) -> io::Result<bool> {
        let file = self.disk.open(path, Access::Read, Lane::Background).await?;
        self.disk.rename(path, spare).await?;
        // Asked when its old name is gone: by that it can get no more.
        if file.links()? == 1 {
            return Ok(true);
        }
        self.disk.remove_file(spare).await?;
        Ok(false)
    }
}
