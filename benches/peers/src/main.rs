mod floor;
mod load;
mod peer;
mod peers;
mod reads;
mod redis;
mod report;
mod run;
mod stats;

use load::Cell;
use peer::Result;
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

const USAGE: &str = "peers <command> [--key value ...]
  list                            the engines and the floor's methods
  cell   --peer P --payload N --appenders C --batch B --warm S --secs S --dir D
  floor  --method M --payload N --batch B --warm S --secs S --dir D
  load   --peer P --records N --payload N --dir D     fill for the replay test
  replay --peer P --payload N --dir D                 open and read all of it
  reads-load --mb N --dir D                           a log for `reads`
  reads  --kind K --secs S --dir D                    gets, followers, opening: seawal only
  redis  --fsync always|everysec --payload N --appenders C --secs S --dir D
  run    [--quick true] [--only a,b] [--parts floor,peers,batch,replay,reads,redis,etcd]
         [--payloads 100,1024] [--appenders 1,16,256] [--batches 1024x512,100x8] [--methods m,n]
         [--rounds N] [--side-rounds N] [--warm S] [--secs S] [--floor-secs S] [--quiet-wait S]
         [--replay-mb N] [--read-kinds a,b] [--dir D] [--out FILE] [--etcd-bin FILE]
  report --in FILE                                    markdown on stdout";

pub struct Args(HashMap<String, String>);

impl Args {
    fn parse(it: impl Iterator<Item = String>) -> Result<Args> {
        let (mut m, mut it) = (HashMap::new(), it);
        while let Some(k) = it.next() {
            let k = k.strip_prefix("--").ok_or_else(|| format!("what is '{k}'?"))?.to_owned();
            m.insert(k, it.next().ok_or("a value is missing")?);
        }
        Ok(Args(m))
    }
    pub fn str(&self, k: &str, d: &str) -> String {
        self.0.get(k).cloned().unwrap_or_else(|| d.to_owned())
    }
    pub fn num<T: std::str::FromStr>(&self, k: &str, d: T) -> T {
        self.0.get(k).and_then(|v| v.parse().ok()).unwrap_or(d)
    }
    pub fn dir(&self) -> PathBuf {
        PathBuf::from(self.str("dir", "./bench-data"))
    }
    pub fn cell(&self) -> Cell {
        Cell {
            payload: self.num("payload", 1024),
            appenders: self.num("appenders", 1),
            batch: self.num("batch", 1),
            warm: self.num("warm", 0.5),
            secs: self.num("secs", 3.0),
        }
    }
}

/// Runs `f` in a fresh folder under `dir` and removes the folder afterwards.
fn scratch<T>(dir: &Path, f: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let d = dir.join(format!("cell-{}", std::process::id()));
    std::fs::create_dir_all(&d)?;
    let r = f(&d);
    let _ = std::fs::remove_dir_all(&d);
    r
}

fn def(name: &str) -> Result<peer::PeerDef> {
    peers::all()
        .into_iter()
        .find(|d| d.name == name)
        .ok_or_else(|| format!("no engine '{name}' in this build").into())
}

fn main() -> Result<()> {
    let mut argv = std::env::args().skip(1);
    let cmd = argv.next().unwrap_or_default();
    let a = Args::parse(argv)?;
    match cmd.as_str() {
        "list" => {
            for d in peers::all() {
                println!("{:20} {:?} durable={} {}", d.name, d.style, d.durable, d.note);
            }
            for m in floor::METHODS {
                println!("floor {m}");
            }
        }
        "cell" => {
            let d = def(&a.str("peer", ""))?;
            let v = scratch(&a.dir(), |p| load::run_cell(&d, p, a.cell()))?;
            println!("{v}");
        }
        "floor" => {
            let m = a.str("method", "");
            let v = scratch(&a.dir(), |p| floor::run(&m, p, a.cell()))?;
            println!("{v}");
        }
        "load" => {
            let (n, p) = (a.num("records", 1u64), a.num("payload", 1024usize));
            std::fs::create_dir_all(a.dir())?;
            match a.str("peer", "").as_str() {
                "floor" => floor::replay_load(&a.dir(), n, p)?,
                name => def(name)?.load.ok_or("no load")?(&a.dir(), n, p)?,
            }
        }
        "replay" => {
            let name = a.str("peer", "");
            let t = Instant::now();
            let (n, bytes) = match name.as_str() {
                "floor" => floor::replay(&a.dir(), a.num("payload", 1024))?,
                _ => def(&name)?.replay.ok_or("no replay")?(&a.dir())?,
            };
            let s = t.elapsed().as_secs_f64();
            let u = stats::rusage();
            let cpu = u.ru_utime.tv_sec as f64
                + u.ru_stime.tv_sec as f64
                + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) as f64 / 1e6;
            println!(
                "{}",
                json!({"records": n, "bytes": bytes, "secs": s, "mb_s": bytes as f64 / s / 1e6,
                       "records_s": n as f64 / s, "cpu_s": cpu, "rss_mb": stats::max_rss_mb()})
            );
        }
        "reads-load" => println!("{}", reads::load(&a.dir(), a.num("mb", 100))?),
        "reads" => println!("{}", reads::run(&a.str("kind", ""), &a.dir(), &a)?),
        "redis" => {
            let v = scratch(&a.dir(), |p| redis::run(p, &a))?;
            println!("{v}");
        }
        "run" => run::run(&a)?,
        "report" => print!("{}", report::markdown(&a.str("in", "results.jsonl"))?),
        _ => eprintln!("{USAGE}"),
    }
    Ok(())
}
