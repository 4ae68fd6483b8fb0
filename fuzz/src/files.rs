//! The files of a directory, as an input describes them: any bytes under any names, and, because a fuzzer cannot guess
//! checksums, bytes that are built like a log.

use crate::encode_differential::{framed, record};
use crate::input::Input;
use seawal::internals::{self, GroupPlace};
use seawal::{Position, Seq};

/// Bytes of all files, at most: few inputs are larger, but runs of zeros are cheap to ask for.
pub const BYTES_MAX: usize = 1 << 20;
const FILES_MAX: usize = 8;

/// A file in the directory of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// With a directory in front of it, maybe.
    pub name: String,
    pub bytes: Vec<u8>,
}

impl File {
    #[must_use]
    pub fn is_segment(&self) -> bool {
        self.name.ends_with(".wal") && !self.name.contains('/')
    }
}

#[must_use]
pub fn segment_name(seq: u64, index: u64) -> String {
    format!("{seq:016x}-{index:016x}.wal")
}

/// The rest of the input as files.
#[must_use]
pub fn files(input: &mut Input<'_>) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    let mut builder = Builder::default();
    let mut room = BYTES_MAX;
    while !input.is_empty() && files.len() < FILES_MAX {
        let (name, seq) = name(input);
        let bytes = match input.one_of(2) {
            0 => raw(input, room),
            _ => builder.segment(input, seq, room),
        };
        room -= bytes.len();
        let known = |file: &File| {
            let under = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|s| s.starts_with('/'));
            file.name == name || under(&file.name, &name) || under(&name, &file.name)
        };
        // A file is not replaced, and is no directory.
        if !files.iter().any(known) {
            files.push(File { name, bytes });
        }
    }
    files
}

/// What [`files`] makes these files of, as an input: for the seeds.
#[must_use]
pub fn describe(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    for file in files {
        match file.name.strip_suffix(".wal").and_then(|name| name.split_once('-')) {
            Some((seq, index)) if file.is_segment() => {
                let hex = |digits| u64::from_str_radix(digits, 16).expect("hex");
                out.push(4);
                out.extend(hex(seq).to_le_bytes());
                out.extend(hex(index).to_le_bytes());
            }
            _ => {
                out.extend([6, file.name.len() as u8]);
                out.extend(file.name.as_bytes());
            }
        }
        let used = file.bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        let used = used.next_multiple_of(8).min(file.bytes.len());
        out.push(0);
        out.extend((used as u32).to_le_bytes());
        out.extend(&file.bytes[..used]);
        // What is cut off of a preallocated file are zeros.
        let zeros = ((file.bytes.len() - used) / 8).min(2048);
        out.extend((zeros as u16).to_le_bytes());
    }
    out
}

/// A name, and the sequence number in it if it is that of a segment.
fn name(input: &mut Input<'_>) -> (String, u64) {
    match input.one_of(8) {
        0..=3 => {
            let (seq, index) = (u64::from(input.u8() % 8), input.u8().into());
            (segment_name(seq, index), seq)
        }
        4 => {
            let (seq, index) = (input.u64(), input.u64());
            (segment_name(seq, index), seq)
        }
        5 => {
            let names = [
                "seawal-next.tmp",
                "0.tmp",
                "1.tmp",
                "0000000000000000-0000000000000000.wal.broken",
                "0-0.wal",
                "1-A.wal",
                "00000000000000000-0.wal",
                "-.wal",
            ];
            (names[input.one_of(names.len())].to_owned(), 0)
        }
        6 => {
            let len = input.one_of(60);
            let name = String::from_utf8_lossy(input.bytes(len)).replace(['/', '\0'], "_");
            let name = if ["", ".", ".."].contains(&&*name) { "x".to_owned() } else { name };
            (name, 0)
        }
        _ => (format!("{}/inside", segment_name(input.u8().into(), 0)), 0),
    }
}

fn raw(input: &mut Input<'_>, room: usize) -> Vec<u8> {
    let len = (input.u32() as usize).min(room);
    let mut bytes = input.bytes(len).to_vec();
    let zeros = usize::from(input.u16()) * 8;
    bytes.resize((bytes.len() + zeros).min(room), 0);
    bytes
}

/// Writes records whose checksums hold, from file to file.
#[derive(Debug, Default)]
struct Builder {
    chain: u32,
    groups: u64,
}

impl Builder {
    fn segment(&mut self, input: &mut Input<'_>, seq: u64, room: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..input.one_of(32) {
            match input.one_of(8) {
                0 => {
                    let len = input.u16().into();
                    out.extend(input.bytes(len));
                }
                // Of etcd's, with a type that may be none.
                1 => {
                    let (record_type, len) = (i64::from(input.u8() % 8), input.u16().into());
                    let data = bytes::Bytes::copy_from_slice(input.bytes(len));
                    self.chain = crc32c::crc32c_append(self.chain, &data);
                    out.extend(framed(record_type, self.chain, Some(data)));
                }
                2 | 3 => self.group(input, seq, &mut out),
                4 => out.resize(out.len() + 8 * usize::from(input.u8()), 0),
                5 => out.extend(framed(4, self.chain, None)),
                6 => out.resize(out.len().next_multiple_of(4096), 0),
                _ => out.extend(input.u64().to_le_bytes()),
            }
        }
        out.truncate(room);
        out
    }

    fn group(&mut self, input: &mut Input<'_>, seq: u64, out: &mut Vec<u8>) {
        out.resize(out.len().next_multiple_of(8), 0);
        let position = Position::new(Seq(seq), out.len() as u64);
        let lies = input.u8();
        self.groups += 1;
        let place = GroupPlace {
            position: match lies & 1 {
                0 => position,
                _ => Position::new(Seq(input.number()), u64::from(input.u32()) & !7),
            },
            chain: self.chain,
            kind: input.u8(),
            log_id: [if lies & 2 == 0 { 1 } else { input.u8() }; 16],
            epoch: if lies & 4 == 0 { 1 } else { input.u32() },
            group: if lies & 8 == 0 { self.groups } else { input.u64() },
            first_index: input.number(),
            durable: match lies & 16 {
                0 => position,
                _ => Position::new(Seq(input.number()), input.number()),
            },
            boundary: if lies & 32 == 0 { 8 } else { 4096 },
        };
        let mut records = Vec::new();
        for _ in 0..input.one_of(8) {
            records.push(record(input));
        }
        let (bytes, chain) = internals::encode(&place, &records, 1 << 12);
        self.chain = chain;
        let from = out.len();
        out.extend(bytes);
        if lies & 64 != 0 {
            // A mark with a right checksum that says what is not so.
            let at = from + 8 + usize::from(input.u8() % 112);
            let magic = out[from..].windows(4).position(|four| four == b"SWLM");
            if let Some(mark) = magic.map(|magic| from + magic) {
                out[at] ^= input.u8();
                if out.len() >= mark + 100 {
                    let crc = crc32c::crc32c(&out[mark..mark + 96]);
                    out[mark + 96..mark + 100].copy_from_slice(&crc.to_le_bytes());
                }
            }
        }
    }
}
