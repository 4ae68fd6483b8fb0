//! Standard output in large pieces, and the small forms that several commands print.

use bytes::Bytes;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::path::Path;

const BUFFER_BYTES: usize = 256 << 10;

/// Standard output without the line buffer of [`io::Stdout`]: what is written is there after a flush, not before.
pub(super) type Stdout = BufWriter<File>;

pub(super) fn stdout() -> io::Result<Stdout> {
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
}

/// The checksum of one payload by itself, as `ACK` and `cat` print it.
pub(super) fn payload_crc(payload: &Bytes) -> u32 {
    crc32c::crc32c(payload)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `1 segment`, `2 segments`.
pub(super) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// `1 to 7`, or `none`.
pub(super) fn range(first: Option<u64>, last: Option<u64>) -> String {
    match first.zip(last) {
        Some((first, last)) => format!("{first} to {last}"),
        None => "none".to_owned(),
    }
}

/// The last part of a path.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
