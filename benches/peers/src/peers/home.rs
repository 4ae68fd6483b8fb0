//! What a user writes at home: a mutex, a buffer, a list of waiters, and one
//! blocking flusher on tokio's thread pool that writes and fdatasyncs a group.
//! `home` appends to a growing file; `home-prewritten` is the same code on a
//! file whose blocks were written with zeros at open (overwritten in a circle).

use super::frame;
use crate::peer::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

#[derive(Default)]
struct State {
    buf: Vec<u8>,
    waiters: Vec<oneshot::Sender<bool>>,
    flushing: bool,
}

struct Log {
    state: Mutex<State>,
    file: File,
    pos: Mutex<u64>,
    ring: u64, // 0: grow for ever
}

impl Log {
    async fn append(self: &Arc<Self>, recs: &[&[u8]]) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        let lead = {
            let mut s = self.state.lock().unwrap();
            for r in recs {
                frame::put(&mut s.buf, r);
            }
            s.waiters.push(tx);
            !std::mem::replace(&mut s.flushing, true)
        };
        if lead {
            let me = self.clone();
            tokio::task::spawn_blocking(move || me.flush());
        }
        if rx.await? {
            Ok(())
        } else {
            Err("write or fdatasync failed".into())
        }
    }

    fn flush(&self) {
        let mut spare = Vec::new();
        loop {
            let (buf, waiters) = {
                let mut s = self.state.lock().unwrap();
                if s.buf.is_empty() {
                    s.flushing = false;
                    return;
                }
                (std::mem::replace(&mut s.buf, spare), std::mem::take(&mut s.waiters))
            };
            let ok = self.write(&buf).is_ok();
            for w in waiters {
                let _ = w.send(ok);
            }
            spare = buf;
            spare.clear();
        }
    }

    fn write(&self, buf: &[u8]) -> std::io::Result<()> {
        let mut pos = self.pos.lock().unwrap();
        if self.ring > 0 && *pos + buf.len() as u64 > self.ring {
            *pos = 0;
        }
        self.file.write_all_at(buf, *pos)?;
        *pos += buf.len() as u64;
        self.file.sync_data()
    }
}

// ---- adapter ----

struct Home(Arc<Log>);
struct Appender(Arc<Log>);

impl TaskAppender for Appender {
    fn append<'a>(&'a mut self, payload: &'a [u8]) -> BoxFut<'a> {
        Box::pin(async move { self.0.append(&[payload]).await })
    }
    fn append_batch<'a>(&'a mut self, batch: &'a [&'a [u8]]) -> BoxFut<'a> {
        Box::pin(self.0.append(batch))
    }
}

impl Peer for Home {
    fn task_appender(&self, _who: usize) -> Box<dyn TaskAppender> {
        Box::new(Appender(self.0.clone()))
    }
}

fn open(dir: &Path, ring: u64) -> Result<Box<dyn Peer>> {
    let path = dir.join("log");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    if ring > 0 {
        crate::floor::prewrite(&file, ring)?;
    }
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    let log = Log { state: Mutex::default(), file, pos: Mutex::new(0), ring };
    Ok(Box::new(Home(Arc::new(log))))
}

fn load(dir: &Path, records: u64, payload: usize) -> Result<()> {
    use std::io::Write;
    let mut f = File::create(dir.join("log"))?;
    let mut p = vec![0u8; payload];
    fill(&mut p, 1);
    let mut buf = Vec::new();
    for i in 0..records {
        stamp(&mut p, i);
        frame::put(&mut buf, &p);
        if buf.len() > 1 << 20 {
            f.write_all(&buf)?;
            buf.clear();
        }
    }
    f.write_all(&buf)?;
    f.sync_all()?;
    Ok(())
}

pub fn defs() -> Vec<PeerDef> {
    vec![
        PeerDef {
            name: "home",
            style: Style::Tasks,
            durable: true,
            batch: true,
            default_on: true,
            note: "hand-made group commit on tokio's blocking pool, std::fs, growing file",
            open: |d, _| open(d, 0),
            load: Some(load),
            replay: Some(|d| frame::scan(File::open(d.join("log"))?)),
        },
        PeerDef {
            name: "home-prewritten",
            style: Style::Tasks,
            durable: true,
            batch: true,
            default_on: true,
            note:
                "the same on a 256 MiB file written with zeros beforehand, overwritten in a circle",
            open: |d, _| open(d, 256 << 20),
            load: None,
            replay: None,
        },
    ]
}
