//! The whole comparison: every cell is a process of its own, the engines take
//! turns inside a cell, and the cells are gone through in rounds.

use crate::peer::Result;
use crate::{floor, peers, reads, report, stats, Args};
use serde_json::{json, Value};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Ctx {
    exe: PathBuf,
    dir: PathBuf,
    out: File,
    etcd: Option<PathBuf>,
    settle: Duration,
    began: Instant,
    quiet_wait: Duration,
    busy_before: f64,
    writes_before: u64,
}

/// Writes everything back and lets discards and the journal finish, so that
/// one cell's leftovers are not charged to the next; then waits, for a while,
/// until nothing else keeps the machine busy.
fn settle(c: &mut Ctx) {
    if let Ok(f) = File::open(&c.dir) {
        unsafe { libc::syncfs(f.as_raw_fd()) };
    }
    let dev = stats::device_stat_path(&c.dir);
    let t = Instant::now();
    loop {
        let a = stats::snap(dev.as_deref());
        std::thread::sleep(c.settle);
        let d = stats::snap(dev.as_deref()).since(&a);
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get()) as f64;
        c.busy_before = d.machine_us as f64 / (c.settle.as_micros() as f64 * cpus);
        c.writes_before = d.dev_writes;
        if (c.busy_before < 0.2 && c.writes_before < 20) || t.elapsed() > c.quiet_wait {
            return;
        }
    }
}

/// Runs a child to its end or for `limit`, and reads the JSON line it prints.
fn child(cmd: &mut Command, limit: Duration) -> Result<Value> {
    let mut p = cmd.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let t = Instant::now();
    let status = loop {
        if let Some(s) = p.try_wait()? {
            break s;
        }
        if t.elapsed() > limit {
            p.kill()?;
            p.wait()?;
            return Err("ran past its limit and was ended".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let o = p.wait_with_output()?;
    if !status.success() {
        let e = String::from_utf8_lossy(&o.stderr);
        return Err(e.lines().last().unwrap_or("failed").to_owned().into());
    }
    let text = String::from_utf8_lossy(&o.stdout);
    let line = text.lines().rev().find(|l| l.starts_with('{'));
    match line {
        Some(l) => Ok(serde_json::from_str(l)?),
        None => Ok(json!({})),
    }
}

impl Ctx {
    fn me(&self, cmd: &str, args: &[(&str, String)]) -> Command {
        let mut c = Command::new(&self.exe);
        c.arg(cmd);
        for (k, v) in args {
            c.arg(format!("--{k}")).arg(v);
        }
        c.arg("--dir").arg(&self.dir);
        c
    }

    fn record(&mut self, kind: &str, peer: &str, round: usize, r: Result<Value>) -> Result<()> {
        let mut v = match r {
            Ok(v) => v,
            Err(e) => json!({"error": e.to_string()}),
        };
        v["kind"] = json!(kind);
        v["peer"] = json!(peer);
        v["round"] = json!(round);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        v["load1"] = json!(load.split(' ').next().and_then(|x| x.parse::<f64>().ok()));
        v["busy_before"] = json!((self.busy_before * 100.0).round() / 100.0);
        v["writes_before"] = json!(self.writes_before);
        v["at_s"] = json!(self.began.elapsed().as_secs());
        writeln!(self.out, "{v}")?;
        self.out.flush()?;
        let g = |k: &str| v[k].as_f64().unwrap_or(0.0);
        if let Some(e) = v["error"].as_str() {
            eprintln!("[{:4}s] {kind:8} {peer:44} ERROR {e}", self.began.elapsed().as_secs());
        } else if kind == "reads" {
            eprintln!("[{:4}s] {kind:6} r{round} {peer:20} {v}", self.began.elapsed().as_secs());
        } else if kind.starts_with("replay") {
            eprintln!(
                "[{:4}s] {kind:12} {peer:40} {:9.0} records {:8.1} MB/s",
                self.began.elapsed().as_secs(),
                g("records"),
                g("mb_s")
            );
        } else {
            eprintln!(
                "[{:4}s] {kind:6} r{round} {peer:44} {:>6}B x{:<3} b{:<3} {:>10.0}/s p50 {:>9.1} p99 {:>9.1} us",
                self.began.elapsed().as_secs(),
                g("payload"),
                g("appenders"),
                g("batch"),
                g("appends_s"),
                g("p50_us"),
                g("p99_us")
            );
        }
        Ok(())
    }
}

fn drop_caches(dir: &Path) -> bool {
    if let Ok(f) = File::open(dir) {
        unsafe { libc::syncfs(f.as_raw_fd()) };
    }
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

const PARTS: [&str; 7] = ["floor", "peers", "batch", "replay", "reads", "redis", "etcd"];

/// `--key a,b,c`
fn list(a: &Args, key: &str) -> Vec<String> {
    a.str(key, "").split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// `--key 1,16,256`
fn numbers(a: &Args, key: &str) -> Result<Vec<usize>> {
    let number = |s: &String| match s.parse::<usize>() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("--{key}: '{s}' is no number").into()),
    };
    list(a, key).iter().map(number).collect()
}

/// `--key 1024x512,100x8`: payload x records.
fn pairs(a: &Args, key: &str) -> Result<Vec<(usize, usize)>> {
    let pair = |s: &String| {
        let (p, n) = s.split_once('x')?;
        Some((p.parse().ok().filter(|p| *p >= 16)?, n.parse().ok().filter(|n| *n > 0)?))
    };
    let text = |s: &String| format!("--{key}: '{s}' is not like 1024x512 (payload x records)");
    list(a, key).iter().map(|s| pair(s).ok_or_else(|| text(s).into())).collect()
}

pub fn run(a: &Args) -> Result<()> {
    let quick = a.str("quick", "false") == "true";
    let rounds: usize = a.num("rounds", if quick { 1 } else { 3 });
    let only: Vec<String> = list(a, "only");
    let chosen_parts: Vec<String> = list(a, "parts");
    let parts = if chosen_parts.is_empty() {
        // Of logs of up to 10 GB: only when it is asked for.
        PARTS.iter().filter(|part| **part != "reads").map(|part| part.to_string()).collect()
    } else {
        chosen_parts.clone()
    };
    let has = |p: &str| parts.iter().any(|x| x == p);
    if let Some(p) = parts.iter().find(|p| !PARTS.contains(&p.as_str())) {
        return Err(format!("no part '{p}'; there are {}", PARTS.join(", ")).into());
    }
    let out_path = a.str("out", "results.jsonl");
    let etcd = a.str("etcd-bin", "");
    fs::create_dir_all(a.dir())?;
    let mut c = Ctx {
        exe: std::env::current_exe()?,
        dir: a.dir(),
        out: File::create(&out_path)?,
        etcd: (!etcd.is_empty() && Path::new(&etcd).exists()).then(|| PathBuf::from(etcd)),
        settle: Duration::from_millis(if quick { 50 } else { 150 }),
        began: Instant::now(),
        quiet_wait: Duration::from_secs_f64(a.num("quiet-wait", if quick { 0.3 } else { 2.0 })),
        busy_before: 0.0,
        writes_before: 0,
    };
    let defs: Vec<_> = peers::all()
        .into_iter()
        .filter(|d| if only.is_empty() { d.default_on } else { only.iter().any(|o| o == d.name) })
        .collect();
    let others = ["floor", "etcd-go", "redis"];
    let known = |n: &str| others.contains(&n) || peers::all().iter().any(|d| d.name == n);
    if let Some(n) = only.iter().find(|n| !known(n)) {
        return Err(format!("no engine '{n}' in this build; see `peers list`").into());
    }
    // What is no engine behind the trait is chosen by `--only` or by a `--parts` that names it.
    let wants = |n: &str, part: &str| {
        only.is_empty() || only.iter().any(|o| o == n) || chosen_parts.iter().any(|p| p == part)
    };
    let methods: Vec<String> = list(a, "methods");
    if let Some(m) = methods.iter().find(|m| !floor::METHODS.contains(&m.as_str())) {
        return Err(format!("no method '{m}' of the floor; see `peers list`").into());
    }

    let warm: f64 = a.num("warm", if quick { 0.2 } else { 0.5 });
    let secs: f64 = a.num("secs", if quick { 0.8 } else { 3.0 });
    let (fwarm, fsecs): (f64, f64) = (0.1, a.num("floor-secs", if quick { 0.4 } else { 0.7 }));
    let side_rounds: usize = a.num("side-rounds", if quick { 0 } else { 1 });

    // Main cells go through every round, side cells through the first few.
    let main_and_side = |main: &[(usize, usize)], side: &[(usize, usize)]| {
        let m = main.iter().map(|&(p, n)| (p, n, true));
        m.chain(side.iter().map(|&(p, n)| (p, n, false))).collect::<Vec<_>>()
    };
    // payload x appenders
    let cells = if quick {
        main_and_side(&[(1024, 1), (1024, 16), (1024, 256)], &[])
    } else {
        main_and_side(
            &[(1024, 1), (1024, 16), (1024, 256), (4096, 1), (4096, 16), (4096, 256)],
            &[(100, 1), (100, 16), (100, 256), (65536, 1), (65536, 16), (65536, 256)],
        )
    };
    // payload x records per write; only the product matters here
    let floor_cells = if quick {
        main_and_side(&[(1024, 1), (1024, 16), (1024, 256)], &[])
    } else {
        main_and_side(
            &[(1024, 1), (4096, 1), (1024, 16), (4096, 16), (1024, 256)],
            &[(100, 1), (4096, 256)],
        )
    };
    // payload x records per batch, as for etcd's WAL
    let batches = if quick {
        main_and_side(&[(1024, 1), (1024, 64)], &[])
    } else {
        let side: Vec<_> =
            [100, 10240].iter().flat_map(|&p| [1, 8, 64, 512].map(|n| (p, n))).collect();
        main_and_side(&[1, 8, 64, 512].map(|n| (1024, n)), &side)
    };
    // Chosen cells go through every round.
    let (payloads, appenders) = (numbers(a, "payloads")?, numbers(a, "appenders")?);
    if payloads.iter().any(|&p| p < 16) {
        return Err("--payloads: at least 16 bytes".into());
    }
    let chosen = !payloads.is_empty() || !appenders.is_empty();
    let or = |v: Vec<usize>, d: &[usize]| if v.is_empty() { d.to_vec() } else { v };
    let (payloads, appenders) = (or(payloads, &[1024]), or(appenders, &[1, 16, 256]));
    let grid: Vec<_> =
        payloads.iter().flat_map(|&p| appenders.iter().map(move |&n| (p, n, true))).collect();
    // The floor's records per write are a perfect group of so many appenders.
    let (cells, floor_cells) = if chosen { (grid.clone(), grid) } else { (cells, floor_cells) };
    let chosen_batches = pairs(a, "batches")?;
    let batches =
        if chosen_batches.is_empty() { batches } else { main_and_side(&chosen_batches, &[]) };
    let skip = |main: bool, round: usize| !main && round > side_rounds;

    for round in 1..=rounds {
        if has("floor") && wants("floor", "floor") {
            for &(payload, batch, main) in &floor_cells {
                if skip(main, round) {
                    continue;
                }
                for m in floor::METHODS {
                    if !methods.is_empty() && !methods.iter().any(|x| x == m) {
                        continue;
                    }
                    let r = child(
                        &mut c.me(
                            "floor",
                            &[
                                ("method", m.to_string()),
                                ("payload", payload.to_string()),
                                ("batch", batch.to_string()),
                                ("warm", fwarm.to_string()),
                                ("secs", fsecs.to_string()),
                            ],
                        ),
                        Duration::from_secs(60),
                    );
                    c.record("floor", m, round, r)?;
                    settle(&mut c);
                }
            }
        }
        if has("peers") {
            for &(payload, appenders, main) in &cells {
                if skip(main, round) {
                    continue;
                }
                for d in &defs {
                    let r = child(
                        &mut c.me(
                            "cell",
                            &[
                                ("peer", d.name.into()),
                                ("payload", payload.to_string()),
                                ("appenders", appenders.to_string()),
                                ("warm", warm.to_string()),
                                ("secs", secs.to_string()),
                            ],
                        ),
                        Duration::from_secs(90),
                    );
                    c.record("append", d.name, round, r)?;
                    settle(&mut c);
                }
            }
        }
        if has("batch") || has("etcd") {
            for &(payload, batch, main) in &batches {
                if skip(main, round) {
                    continue;
                }
                if has("etcd") && wants("etcd-go", "etcd") {
                    if let Some(bin) = c.etcd.clone() {
                        let d = c.dir.join("etcd-wal");
                        let mut cmd = Command::new(bin);
                        cmd.arg("append").arg("-dir").arg(&d);
                        cmd.args(["-payload", &payload.to_string(), "-batch", &batch.to_string()]);
                        cmd.args(["-warm", &warm.to_string(), "-secs", &(secs * 0.7).to_string()]);
                        let r = child(&mut cmd, Duration::from_secs(90));
                        let _ = fs::remove_dir_all(&d);
                        c.record("batch", "etcd-go", round, r)?;
                        settle(&mut c);
                    }
                }
                if !has("batch") {
                    continue;
                }
                for d in defs.iter().filter(|d| d.batch && (!quick || d.name != "okaywal-64m")) {
                    let r = child(
                        &mut c.me(
                            "cell",
                            &[
                                ("peer", d.name.into()),
                                ("payload", payload.to_string()),
                                ("batch", batch.to_string()),
                                ("warm", warm.to_string()),
                                ("secs", (secs * 0.7).to_string()),
                            ],
                        ),
                        Duration::from_secs(90),
                    );
                    c.record("batch", d.name, round, r)?;
                    settle(&mut c);
                }
            }
        }
        if has("redis") && wants("redis", "redis") {
            for &(payload, appenders, main) in &cells {
                if skip(main, round) {
                    continue;
                }
                for policy in ["always", "everysec"] {
                    let r = child(
                        &mut c.me(
                            "redis",
                            &[
                                ("fsync", policy.into()),
                                ("payload", payload.to_string()),
                                ("appenders", appenders.to_string()),
                                ("secs", (secs * 0.7).to_string()),
                            ],
                        ),
                        Duration::from_secs(90),
                    );
                    c.record("redis", &format!("redis-{policy}"), round, r)?;
                    settle(&mut c);
                }
            }
        }
    }
    if has("replay") {
        replays(&mut c, &defs, &only, rounds, a.num("replay-mb", if quick { 64 } else { 512 }))?;
    }
    if has("reads") {
        reads(&mut c, &list(a, "read-kinds"), rounds, secs)?;
    }
    let _ = fs::remove_dir(&c.dir);
    eprintln!("results in {out_path}");
    print!("{}", report::markdown(&out_path)?);
    Ok(())
}

/// What `reads` measures, in rounds; each log is written once.
fn reads(c: &mut Ctx, only: &[String], rounds: usize, secs: f64) -> Result<()> {
    let base = c.dir.clone();
    let log = |mb: u64| base.join(format!("reads-{mb}"));
    let kinds: Vec<&str> = reads::KINDS
        .into_iter()
        .filter(|kind| only.is_empty() || only.iter().any(|o| o == kind))
        .collect();
    for mb in kinds.iter().filter_map(|kind| reads::log_mb(kind)) {
        if !log(mb).exists() {
            let mut load = Command::new(&c.exe);
            load.args(["reads-load", "--mb", &mb.to_string(), "--dir"]).arg(log(mb));
            child(&mut load, Duration::from_secs(300))?;
        }
    }
    for round in 1..=rounds {
        for kind in &kinds {
            let scratch = base.join("reads-scratch");
            let dir = reads::log_mb(kind).map_or(scratch.clone(), log);
            settle(c);
            if kind.ends_with("-cold") && !drop_caches(&base) {
                continue;
            }
            let mut run = Command::new(&c.exe);
            run.args(["reads", "--kind", kind, "--secs", &secs.to_string(), "--dir"]).arg(&dir);
            let r = child(&mut run, Duration::from_secs(180));
            c.record("reads", kind, round, r)?;
            let _ = fs::remove_dir_all(&scratch);
        }
    }
    for mb in kinds.iter().filter_map(|kind| reads::log_mb(kind)) {
        let _ = fs::remove_dir_all(log(mb));
    }
    Ok(())
}

fn replays(
    c: &mut Ctx,
    defs: &[crate::peer::PeerDef],
    only: &[String],
    rounds: usize,
    mb: u64,
) -> Result<()> {
    let (payload, records) = (1024u64, mb * 1024);
    let wants = |n: &str| only.is_empty() || only.iter().any(|o| o == n);
    let mut names: Vec<&str> = vec![];
    if wants("floor") {
        names.push("floor");
    }
    names.extend(defs.iter().filter(|d| d.replay.is_some() && d.load.is_some()).map(|d| d.name));
    if c.etcd.is_some() && wants("etcd-go") {
        names.push("etcd-go");
    }
    let base = c.dir.clone();
    let cmd = |c: &Ctx, verb: &str, name: &str, d: &Path| -> Command {
        if name == "etcd-go" {
            let mut k = Command::new(c.etcd.as_ref().unwrap());
            k.arg(verb).arg("-dir").arg(d);
            if verb == "load" {
                k.args(["-payload", &payload.to_string(), "-records", &records.to_string()]);
            }
            return k;
        }
        let mut k = Command::new(&c.exe);
        k.arg(verb).args(["--peer", name, "--payload", &payload.to_string()]);
        k.args(["--records", &records.to_string()]).arg("--dir").arg(d);
        k
    };
    for round in 1..=rounds {
        for name in &names {
            let d = base.join(format!("replay-{name}"));
            let _ = fs::remove_dir_all(&d);
            let l = child(&mut cmd(c, "load", name, &d), Duration::from_secs(180));
            if let Err(e) = l {
                c.record("replay-load", name, round, Err(e))?;
                let _ = fs::remove_dir_all(&d);
                continue;
            }
            for kind in ["replay-cold", "replay-warm"] {
                if kind == "replay-cold" && !drop_caches(&base) {
                    continue;
                }
                std::thread::sleep(c.settle);
                let r = child(&mut cmd(c, "replay", name, &d), Duration::from_secs(180));
                let r = r.and_then(|v| match v["records"].as_u64() {
                    Some(n) if n == records => Ok(v),
                    n => Err(format!("{n:?} of {records} records came back").into()),
                });
                c.record(kind, name, round, r)?;
            }
            let _ = fs::remove_dir_all(&d);
            settle(c);
        }
    }
    Ok(())
}
