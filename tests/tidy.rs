//! The tree stays as it is drawn: which room may use which, how long a file may get, where unsafe code may stand.
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

use std::fs;
use std::path::{Path, PathBuf};

/// A room, and the rooms it may name besides itself, `types` and `error`.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("error", &[]),
    ("blocking", &[]),
    ("live", &[]),
    ("index", &["format"]),
    ("recent", &["format"]),
    ("retained", &[]),
    ("inbox", &["sync", "watermark"]),
    ("metrics", &[]),
    // What threads meet at, for those that loom looks at.
    ("sync", &[]),
    ("payload", &[]),
    ("format", &[]),
    ("io", &[]),
    ("tail", &["format"]),
    ("watermark", &["live", "index", "recent", "retained", "format", "sync"]),
    // Of `wal` the handle of a thread, which is itself an option.
    ("options", &["commit", "format", "segment", "io", "wal"]),
    ("segment", &["io"]),
    (
        "commit",
        &[
            "segment",
            "format",
            "io",
            "watermark",
            "live",
            "retained",
            "tail",
            "metrics",
            "payload",
            "sync",
        ],
    ),
    (
        "recovery",
        &["blocking", "segment", "format", "io", "watermark", "live", "index", "retained", "inbox"],
    ),
    ("backup", &["inbox", "io", "format", "recovery", "segment", "watermark"]),
    (
        "read",
        &["blocking", "recovery", "format", "io", "watermark", "live", "index", "inbox", "metrics"],
    ),
    (
        "wal",
        &[
            "backup",
            "blocking",
            "commit",
            "recovery",
            "read",
            "segment",
            "format",
            "io",
            "watermark",
            "live",
            "retained",
            "tail",
            "inbox",
            "metrics",
            "payload",
            "options",
        ],
    ),
    (
        "streams",
        &[
            "backup",
            "blocking",
            "commit",
            "format",
            "metrics",
            "options",
            "payload",
            "read",
            "recovery",
            "wal",
            "watermark",
        ],
    ),
    ("testing", &["streams", "wal", "options", "io"]),
    (
        "cli",
        &["backup", "wal", "recovery", "format", "io", "segment", "options", "live", "streams"],
    ),
];

/// Lines of production code in a file.
const LINES_MAX: usize = 600;

struct Source {
    path: PathBuf,
    room: String,
    /// Without the tests at its end.
    code: String,
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut dirs = vec![src.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_test = name.ends_with("tests.rs")
                || name == "contract.rs"
                || path.parent().is_some_and(|folder| folder.ends_with("tests"));
            if is_test || path.components().any(|part| part.as_os_str() == "pb") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code = code.split("#[cfg(test)]\npub(crate) mod tests").next().unwrap().to_owned();
            let room = path.strip_prefix(&src).unwrap().iter().next().unwrap();
            let room = room.to_str().unwrap().trim_end_matches(".rs").to_owned();
            found.push(Source { path, room, code });
        }
    }
    assert!(found.len() > 30);
    found
}

#[test]
fn data_flows_one_way() {
    for source in sources() {
        if ["lib", "main"].contains(&source.room.as_str()) {
            continue;
        }
        let (_, allowed) =
            ARROWS.iter().find(|(room, _)| *room == source.room).unwrap_or_else(|| {
                panic!("{} is in no room that tests/tidy.rs knows", source.path.display())
            });
        for line in source.code.lines() {
            let line = line.trim();
            if line.starts_with("//") {
                continue;
            }
            for used in line.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let own = ["", "types", "error", source.room.as_str()];
                let public =
                    used.starts_with(|c: char| c.is_ascii_uppercase()) && source.room == "cli";
                assert!(
                    own.contains(&used.as_str()) || allowed.contains(&used.as_str()) || public,
                    "{}: `{}` may not use `{used}` (tests/tidy.rs has the table): {line}",
                    source.path.display(),
                    source.room
                );
            }
        }
    }
}

#[test]
fn files_are_short() {
    for source in sources() {
        let lines = source.code.lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines", source.path.display());
    }
}

#[test]
fn unsafe_code_stands_in_two_rooms_only() {
    for source in sources() {
        let path = source.path.to_str().unwrap();
        let may = path.ends_with("io/buf.rs") || path.contains("io/uring/");
        let has = source.code.lines().map(str::trim).any(|line| {
            !line.starts_with("//")
                && (line.contains("unsafe {")
                    || line.contains("unsafe impl")
                    || line.contains("unsafe fn"))
        });
        assert!(may || !has, "{path}");
    }
}

#[test]
fn nothing_is_left_over() {
    for source in sources() {
        for word in ["FIXME", "XXX", "HACK", "for now"] {
            assert!(!source.code.contains(word), "{}: {word}", source.path.display());
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut reason = false;
    for line in manifest.lines() {
        match line {
            _ if line.starts_with('[') => section = line,
            _ if !section.ends_with("dependencies]") || section == "[dev-dependencies]" => {}
            _ if line.starts_with("# ") => reason = true,
            _ if line.contains(" = ") => {
                assert!(reason, "no line says why: {line}");
                reason = false;
            }
            _ => {}
        }
    }
}
