//! Arguments that several commands take, and how their text is read.

use crate::io::Backend;
use crate::segment::method::{Prealloc, SyncMethod};
use crate::types::Start;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::time::Duration;

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

/// Longer times are mistakes.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a time: `200us`, `5ms`, `1s`, `0`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 =
        digits.parse().map_err(|_| "give a whole number and a unit, such as 200us, 5ms or 1s")?;
    let duration = match &text[digits.len()..] {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "" if number == 0 => Duration::ZERO,
        "" => return Err("a unit is missing; use us, ms or s".to_owned()),
        other => return Err(format!("no unit is called {other:?}; use us, ms or s")),
    };
    match duration <= DURATION_MAX {
        true => Ok(duration),
        false => Err("that is longer than a day".to_owned()),
    }
}

/// Reads the name of a sync method.
pub(super) fn sync_method() -> impl TypedValueParser<Value = SyncMethod> {
    PossibleValuesParser::new(["auto", "fdatasync", "dsync"])
        .try_map(|name| name.parse::<SyncMethod>())
}

/// Reads how segments are prepared.
pub(super) fn prealloc() -> impl TypedValueParser<Value = Prealloc> {
    PossibleValuesParser::new(["fallocate", "zero-fill"]).try_map(|name| name.parse::<Prealloc>())
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
    fn durations() {
        let micros = Duration::from_micros;
        let known = [("0", 0), ("0s", 0), ("200us", 200), ("5ms", 5_000), ("2s", 2_000_000)];
        for (text, us) in known {
            assert_eq!(duration(text), Ok(micros(us)), "{text}");
        }
        for text in ["", "5", "ms", "-1s", "1.5s", "1m", "2 s", "86401s", "99999999999999999999us"]
        {
            assert!(duration(text).is_err(), "{text}");
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
