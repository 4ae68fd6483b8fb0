//! Redis with an append-only file, on loopback, driven by redis-benchmark.
//! Another interface (a socket and a protocol lie between), so a table apart.

use crate::peer::Result;
use crate::{stats, Args};
use serde_json::{json, Value};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PORT: &str = "16399";

/// Ends the server that this run started, and only that one.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cpu_us(pid: u32) -> u64 {
    let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = s.rsplit_once(") ") else { return 0 };
    let f: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|&i| f.get(i)?.parse::<u64>().ok()).sum();
    let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    ticks * (1_000_000 / hz)
}

fn ping() -> bool {
    Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", PORT, "ping"])
        .output()
        .map(|o| o.stdout.starts_with(b"PONG"))
        .unwrap_or(false)
}

fn bench(clients: usize, payload: usize, n: u64) -> Result<(Vec<f64>, f64)> {
    let t = Instant::now();
    let o = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", PORT, "-t", "set", "--csv", "-r", "10000"])
        .args(["-c", &clients.to_string(), "-d", &payload.to_string(), "-n", &n.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    let line =
        text.lines().find(|l| l.starts_with("\"SET\"")).ok_or("redis-benchmark said nothing")?;
    let v = line.split(',').skip(1).filter_map(|x| x.trim_matches('"').parse().ok()).collect();
    Ok((v, t.elapsed().as_secs_f64()))
}

pub fn run(dir: &Path, a: &Args) -> Result<Value> {
    let (policy, c) = (a.str("fsync", "always"), a.cell());
    if ping() {
        return Err("something already listens on the benchmark's Redis port".into());
    }
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", PORT, "--dir"])
        .arg(dir)
        .args(["--save", "", "--appendonly", "yes", "--appendfsync", &policy])
        .args(["--auto-aof-rewrite-percentage", "0", "--daemonize", "no"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let server = Server(child);
    let t = Instant::now();
    while !ping() {
        if t.elapsed() > Duration::from_secs(10) {
            return Err("redis-server did not come up".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // A short run sets the count for the timed one, and warms up.
    let first = (c.appenders as u64 * 40).max(3000);
    let (v, _) = bench(c.appenders, c.payload, first)?;
    let n = ((v[0] * c.secs) as u64).clamp(200, 3_000_000);
    let dev = stats::device_stat_path(dir);
    let (s0, c0) = (stats::snap(dev.as_deref()), cpu_us(server.0.id()));
    let (v, secs) = bench(c.appenders, c.payload, n)?;
    let (s1, c1) = (stats::snap(dev.as_deref()), cpu_us(server.0.id()));
    if v.len() < 7 {
        return Err("redis-benchmark's columns".into());
    }
    let d = s1.since(&s0);
    let nf = n as f64;
    // rps, avg, min, p50, p95, p99, max (ms)
    Ok(json!({
        "payload": c.payload, "appenders": c.appenders, "batch": 1, "appends": n, "secs": secs,
        "appends_s": v[0], "mb_s": v[0] * c.payload as f64 / 1e6,
        "mean_us": v[1] * 1e3, "p50_us": v[3] * 1e3, "p95_us": v[4] * 1e3, "p99_us": v[5] * 1e3,
        "max_us": v[6] * 1e3, "cpu_us": (c1 - c0) as f64 / nf,
        "machine_cpu_us": d.machine_us as f64 / nf,
        "dev_flushes_s": d.dev_flushes as f64 / secs,
        "appends_per_flush": nf / d.dev_flushes.max(1) as f64,
        "write_amp": d.dev_bytes as f64 / (nf * c.payload as f64),
    }))
}
