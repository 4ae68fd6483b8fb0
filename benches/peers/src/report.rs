//! JSON lines to markdown: the median over the rounds, and how far they spread.

use crate::peer::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

type Key = (u64, u64, u64); // payload, appenders, batch

struct Rows {
    rows: Vec<Value>,
}

impl Rows {
    fn peers(&self, kind: &str) -> Vec<String> {
        let mut v: Vec<String> = Vec::new();
        for r in self.rows.iter().filter(|r| r["kind"] == kind) {
            let p = r["peer"].as_str().unwrap_or("").to_owned();
            if !v.contains(&p) {
                v.push(p);
            }
        }
        v
    }
    fn cells(&self, kind: &str) -> Vec<Key> {
        let mut m = BTreeMap::new();
        for r in self.rows.iter().filter(|r| r["kind"] == kind && r["error"].is_null()) {
            m.insert(key(r), ());
        }
        m.into_keys().collect()
    }
    fn get(&self, kind: &str, peer: &str, k: Key, field: &str) -> Vec<f64> {
        let mut v: Vec<f64> = self
            .rows
            .iter()
            .filter(|r| r["kind"] == kind && r["peer"] == peer && r["error"].is_null())
            .filter(|r| key(r) == k)
            .filter_map(|r| r[field].as_f64())
            .collect();
        v.sort_by(f64::total_cmp);
        v
    }
    fn med(&self, kind: &str, peer: &str, k: Key, field: &str) -> Option<f64> {
        median(&self.get(kind, peer, k, field))
    }
}

fn key(r: &Value) -> Key {
    let g = |k: &str| r[k].as_u64().unwrap_or(0);
    (g("payload"), g("appenders"), g("batch"))
}

fn median(v: &[f64]) -> Option<f64> {
    match v.len() {
        0 => None,
        n if n % 2 == 1 => Some(v[n / 2]),
        n => Some((v[n / 2 - 1] + v[n / 2]) / 2.0),
    }
}

fn n(x: Option<f64>) -> String {
    match x {
        None => "-".into(),
        Some(x) if x >= 100.0 => format!("{x:.0}"),
        Some(x) if x >= 10.0 => format!("{x:.1}"),
        Some(x) => format!("{x:.2}"),
    }
}

fn size(b: u64) -> String {
    match b {
        b if b >= 1024 && b % 1024 == 0 => format!("{} KiB", b / 1024),
        b => format!("{b} B"),
    }
}

pub fn markdown(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(path)?;
    let rows: Vec<Value> = text
        .lines()
        .filter(|l| !l.is_empty())
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?;
    let d = Rows { rows };
    let mut o = String::new();

    let cells = d.cells("floor");
    if !cells.is_empty() {
        writeln!(o, "\n## Floor: one thread, batches of N records per write\n")?;
        writeln!(o, "Median appends/s (p50 µs of one write made durable).\n")?;
        write!(o, "| method |")?;
        for (p, _, b) in &cells {
            write!(o, " {} ×{b} |", size(*p))?;
        }
        writeln!(o, "\n|---|{}", "---:|".repeat(cells.len()))?;
        for m in d.peers("floor") {
            write!(o, "| {m} |")?;
            for k in &cells {
                let (a, p) =
                    (d.med("floor", &m, *k, "appends_s"), d.med("floor", &m, *k, "p50_us"));
                match a {
                    None => write!(o, " - |")?,
                    _ => write!(o, " {} ({}) |", n(a), n(p))?,
                }
            }
            writeln!(o)?;
        }
    }

    for (kind, title) in [
        ("append", "Engines: one record per append, N appenders"),
        ("batch", "One appender, N records per durable batch"),
        ("redis", "Redis over loopback (another interface; CPU is the server's)"),
    ] {
        let cells = d.cells(kind);
        if cells.is_empty() {
            continue;
        }
        writeln!(o, "\n## {title}\n")?;
        writeln!(o, "Median appends/s.\n")?;
        write!(o, "| engine |")?;
        for (p, a, b) in &cells {
            let x = if kind == "batch" { b } else { a };
            write!(o, " {} ×{x} |", size(*p))?;
        }
        writeln!(o, "\n|---|{}", "---:|".repeat(cells.len()))?;
        for m in d.peers(kind) {
            write!(o, "| {m} |")?;
            for k in &cells {
                write!(o, " {} |", n(d.med(kind, &m, *k, "appends_s")))?;
            }
            writeln!(o)?;
        }
        writeln!(o, "\nThe rest of each cell (medians; spread = (max-min)/median of appends/s over the rounds).\n")?;
        writeln!(o, "| payload | N | engine | appends/s | MB/s | p50 µs | p90 | p99 | p99.9 | max | CPU µs/append | machine CPU µs/append | flushes/s | appends/flush | write amp | best/s | spread |")?;
        writeln!(o, "|---:|---:|---|{}", "---:|".repeat(14))?;
        for k in &cells {
            for m in d.peers(kind) {
                let v = d.get(kind, &m, *k, "appends_s");
                let Some(med) = median(&v) else { continue };
                let f = |x: &str| n(d.med(kind, &m, *k, x));
                let spread = 100.0 * (v[v.len() - 1] - v[0]) / med;
                writeln!(
                    o,
                    "| {} | {} | {m} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {spread:.0}% |",
                    size(k.0),
                    if kind == "batch" { k.2 } else { k.1 },
                    f("appends_s"), f("mb_s"), f("p50_us"), f("p90_us"), f("p99_us"),
                    f("p999_us"), f("max_us"), f("cpu_us"), f("machine_cpu_us"),
                    f("dev_flushes_s"), f("appends_per_flush"), f("write_amp"), n(v.last().copied()),
                )?;
            }
        }
    }

    let names = d.peers("replay-warm");
    if !names.is_empty() {
        writeln!(o, "\n## Replay: open and read every 1 KiB record\n")?;
        writeln!(o, "| engine | cold MB/s | warm MB/s | warm records/s | warm CPU s | RSS MB |")?;
        writeln!(o, "|---|---:|---:|---:|---:|---:|")?;
        let k = (0, 0, 0);
        for m in names {
            writeln!(
                o,
                "| {m} | {} | {} | {} | {} | {} |",
                n(d.med("replay-cold", &m, k, "mb_s")),
                n(d.med("replay-warm", &m, k, "mb_s")),
                n(d.med("replay-warm", &m, k, "records_s")),
                n(d.med("replay-warm", &m, k, "cpu_s")),
                n(d.med("replay-warm", &m, k, "rss_mb")),
            )?;
        }
    }

    let names = d.peers("reads");
    if !names.is_empty() {
        writeln!(o, "\n## Reading (seawal): medians, and the lowest and highest round\n")?;
        writeln!(o, "| what | figures |\n|---|---|")?;
        for m in names {
            let mut fields: Vec<&String> = Vec::new();
            for row in d.rows.iter().filter(|r| r["kind"] == "reads" && r["peer"] == m.as_str()) {
                let own = ["round", "load1", "busy_before", "writes_before", "at_s"];
                let all = row.as_object().into_iter().flat_map(|row| row.keys());
                fields = all
                    .filter(|f| !own.contains(&f.as_str()) && row[f.as_str()].is_number())
                    .collect();
            }
            let shown = fields.into_iter().map(|field| {
                let all = d.get("reads", &m, (0, 0, 0), field);
                let (low, high) = (all.first().copied(), all.last().copied());
                format!("{field} {} ({}–{})", n(median(&all)), n(low), n(high))
            });
            writeln!(o, "| {m} | {} |", shown.collect::<Vec<_>>().join(", "))?;
        }
    }

    let errors: Vec<&Value> = d.rows.iter().filter(|r| !r["error"].is_null()).collect();
    if !errors.is_empty() {
        writeln!(o, "\n## Errors\n")?;
        for e in errors {
            writeln!(o, "- {} {} round {}: {}", e["kind"], e["peer"], e["round"], e["error"])?;
        }
    }
    Ok(o)
}
