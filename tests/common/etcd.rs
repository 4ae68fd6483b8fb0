//! etcd's own Go package, by way of the program in `tests/interop`.
#![allow(dead_code)] // every test binary uses a part of this

use super::require;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The program, built once. `None`, and why, where it cannot be.
pub(crate) fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Result<(TempDir, PathBuf), String>> = OnceLock::new();
    match PROGRAM.get_or_init(build) {
        Ok((_, path)) => Some(path),
        Err(why) => {
            require::skip("interop", why);
            None
        }
    }
}

fn build() -> Result<(TempDir, PathBuf), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = dir.path().join("interop");
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&path)
        .arg(".")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop"))
        .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode"), ("GOFLAGS", "")])
        .output()
        .map_err(|error| format!("go does not run: {error}"))?;
    if output.status.success() {
        Ok((dir, path))
    } else {
        Err(format!("etcd's package does not build: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Runs a command of the program and gives its lines; `Err` with what it said if it did not succeed.
pub(crate) fn try_etcd(
    arguments: &[&str],
    dir: &Path,
    rest: &[&str],
) -> Result<Vec<Value>, String> {
    let program = program().expect("was asked for before");
    let output =
        Command::new(program).args(arguments).arg(dir).args(rest).output().expect("it was built");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    if !output.status.success() {
        let last = text.lines().last().unwrap_or_default();
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{arguments:?} {rest:?}: {}: {last} {errors}", output.status));
    }
    Ok(text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect())
}

/// Runs a command of the program, which must succeed, and gives its lines.
#[track_caller]
pub(crate) fn etcd(arguments: &[&str], dir: &Path, rest: &[&str]) -> Vec<Value> {
    try_etcd(arguments, dir, rest).unwrap_or_else(|why| panic!("etcd: {why}"))
}
