//! Records from a stream: lines, or payloads with their length before them.
//!
//! Memory is bounded by the largest record that is allowed; a length is not believed before its bytes are there.

use super::args::Frame;
use anyhow::{Context, bail};
use bytes::Bytes;
use std::io::{BufRead, BufReader, Read};

const BUFFER_BYTES: usize = 256 << 10;
/// Below this a record is copied out of a buffer that is used again; above, it takes the buffer with it.
const COPY_BYTES_MAX: usize = 32 << 10;

/// The records of a stream, in order.
pub(super) struct Records<R> {
    stream: BufReader<R>,
    frame: Frame,
    record_bytes_max: usize,
    buffer: Vec<u8>,
    /// Of the record that is read next, from 1.
    number: u64,
}

impl<R: Read> Records<R> {
    pub(super) fn new(stream: R, frame: Frame, record_bytes_max: usize) -> Records<R> {
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        Records { stream, frame, record_bytes_max, buffer: Vec::new(), number: 1 }
    }

    /// The next record, or `None` at the end of the stream.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        self.buffer.clear();
        let found = match self.frame {
            Frame::Line => self.line()?,
            Frame::Len32 => self.payload()?,
        };
        if !found {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(match self.buffer.len() {
            0..COPY_BYTES_MAX => Bytes::copy_from_slice(&self.buffer),
            _ => Bytes::from(std::mem::take(&mut self.buffer)),
        }))
    }

    fn line(&mut self) -> anyhow::Result<bool> {
        let bytes_max = self.record_bytes_max as u64 + 1;
        let mut line = (&mut self.stream).take(bytes_max);
        let read = line.read_until(b'\n', &mut self.buffer).context("reading stdin failed")?;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if self.buffer.len() > self.record_bytes_max {
            bail!(
                "line {} is longer than {} bytes; raise the limit with --record-bytes-max",
                self.number,
                self.record_bytes_max
            );
        }
        Ok(read > 0)
    }

    fn payload(&mut self) -> anyhow::Result<bool> {
        let number = self.number;
        let read = |error| anyhow::Error::new(error).context("reading stdin failed");
        self.take(4).map_err(read)?;
        let bytes = match self.buffer[..] {
            [] => return Ok(false),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => {
                bail!("the input ends inside the length of record {number}; is it framed as len32?")
            }
        };
        if bytes > self.record_bytes_max {
            bail!(
                "record {number} is {bytes} bytes long, more than {}; raise the limit with \
                 --record-bytes-max, if the input is framed as len32",
                self.record_bytes_max
            );
        }
        self.buffer.clear();
        self.take(bytes).map_err(read)?;
        if self.buffer.len() < bytes {
            let left = self.buffer.len();
            bail!("the input ends {left} bytes into record {number} of {bytes} bytes");
        }
        Ok(true)
    }

    /// Reads `bytes` bytes; fewer only at the end of the stream.
    fn take(&mut self, bytes: usize) -> std::io::Result<usize> {
        (&mut self.stream).take(bytes as u64).read_to_end(&mut self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], frame: Frame, max: usize) -> anyhow::Result<Vec<Bytes>> {
        let mut records = Records::new(input, frame, max);
        std::iter::from_fn(|| records.next().transpose()).collect()
    }

    #[test]
    fn lines() {
        let cases: [(&[u8], &[&str]); 5] = [
            (b"", &[]),
            (b"\n", &[""]),
            (b"a\n\nb\r\n", &["a", "", "b\r"]),
            (b"a\nb", &["a", "b"]),
            (b"1234\n1234", &["1234", "1234"]),
        ];
        for (input, expected) in cases {
            assert_eq!(all(input, Frame::Line, 4).unwrap(), expected, "{input:?}");
        }
    }

    #[test]
    fn line_above_the_limit_is_named() {
        for input in [&b"a\n12345\n"[..], b"a\n12345"] {
            let error = all(input, Frame::Line, 4).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains("--record-bytes-max"), "{error}");
        }
        assert!(all(b"\n\n", Frame::Line, 0).is_ok());
        assert!(all(b"x", Frame::Line, 0).is_err());
    }

    #[test]
    fn payloads() {
        let input = b"\x02\0\0\0a\n\0\0\0\0\x01\0\0\0b";
        assert_eq!(all(input, Frame::Len32, 4).unwrap(), ["a\n", "", "b"]);
        for (at, word) in
            [(2, "length of record 1"), (5, "1 bytes into record 1"), (14, "record 3")]
        {
            let error = all(&input[..at], Frame::Len32, 4).unwrap_err().to_string();
            assert!(error.contains(word), "{at}: {error}");
        }
        let error = all(b"\xff\xff\xff\xff", Frame::Len32, 4).unwrap_err().to_string();
        assert!(error.contains("record 1 is 4294967295 bytes"), "{error}");
    }
}
