//! Arguments that several commands take, and how their text is read.

use crate::io::Backend;
use crate::types::Start;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};

/// How records stand in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Frame {
    /// A line each, without its newline
    Line,
    /// A u32 little-endian length before each
    Len32,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// JSON, an object a line
    Json,
}

/// Reads `beginning`, `latest` or `INDEX/TERM`.
pub(super) fn start(text: &str) -> Result<Start, String> {
    let snapshot = |text: &str| {
        let (index, term) = text.split_once('/')?;
        Some(Start::Snapshot { index: index.parse().ok()?, term: term.parse().ok()? })
    };
    match text {
        "beginning" => Ok(Start::Beginning),
        "latest" => Ok(Start::LatestSnapshot),
        other => snapshot(other).ok_or_else(|| {
            "give beginning, latest (the newest snapshot), or INDEX/TERM of a snapshot that `seawal stat` lists"
                .to_owned()
        }),
    }
}

/// Reads a number of bytes: `4096`, `4Ki`, `64M`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        other => return Err(format!("no unit is called {other:?}; use k, M, G, Ki, Mi or Gi")),
    };
    let number: u64 =
        digits.parse().map_err(|_| "give a whole number of bytes, such as 4096, 64M or 16Mi")?;
    number.checked_mul(unit).ok_or_else(|| "more bytes than 64 bits can count".to_owned())
}

/// Like [`size`], for what must fit in memory.
pub(super) fn size_in_memory(text: &str) -> Result<usize, String> {
    size(text)?.try_into().map_err(|_| "more bytes than memory can have".to_owned())
}

/// Reads the name of a backend.
pub(super) fn backend() -> impl TypedValueParser<Value = Backend> {
    PossibleValuesParser::new(["auto", "uring", "threads"]).try_map(|name| name.parse::<Backend>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64M", 64_000_000), ("16Ki", 16_384)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1.5M", "1MB", "99999999999G", "12é", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn starts() {
        assert_eq!(start("beginning"), Ok(Start::Beginning));
        assert_eq!(start("latest"), Ok(Start::LatestSnapshot));
        assert_eq!(start("7/2"), Ok(Start::Snapshot { index: 7, term: 2 }));
        for text in ["", "7", "7/", "/2", "7/2/1", "Latest"] {
            assert!(start(text).is_err(), "{text}");
        }
    }
}
