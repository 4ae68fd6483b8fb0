//! A record as it lies on disk: a length field, the record, padding to a multiple of eight.
//!
//! ```text
//! offset 0   8 bytes   length field, little-endian
//! offset 8   n bytes   the record (protobuf)
//! then       p bytes   padding, p = -n mod 8
//! ```
//!
//! The low 56 bits of the field are n. The top byte is 0 without padding, else 0x80 | p. Every frame starts at a
//! multiple of eight, so a length field never crosses a sector. A field of zero is the end of the records of a file.

/// The length field.
pub(crate) const LENGTH_FIELD_BYTES: usize = 8;
/// Frames start and end at multiples of this.
pub(crate) const FRAME_ALIGN: u64 = 8;

/// A decoded length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameLength {
    /// Bytes of the record.
    pub record: u64,
    /// Bytes of padding after it.
    pub padding: u8,
}

impl FrameLength {
    /// The length field of a record of `record` bytes as a writer makes it.
    pub(crate) fn of_record(record: usize) -> FrameLength {
        let record = record as u64;
        FrameLength { record, padding: ((FRAME_ALIGN - record % FRAME_ALIGN) % FRAME_ALIGN) as u8 }
    }

    pub(crate) fn to_bytes(self) -> [u8; LENGTH_FIELD_BYTES] {
        let flag = if self.padding == 0 { 0 } else { 0x80 | u64::from(self.padding) };
        (self.record | flag << 56).to_le_bytes()
    }

    /// As etcd reads it: bits 3 to 6 of the top byte are ignored, and without bit 7 so is the padding count.
    pub(crate) fn from_bytes(field: [u8; LENGTH_FIELD_BYTES]) -> FrameLength {
        let field = u64::from_le_bytes(field);
        let top = (field >> 56) as u8;
        FrameLength {
            record: field & ((1 << 56) - 1),
            padding: if top & 0x80 == 0 { 0 } else { top & 7 },
        }
    }

    /// Bytes after the length field.
    pub(crate) fn body(self) -> u64 {
        self.record + u64::from(self.padding)
    }

    /// Bytes of the whole frame.
    pub(crate) fn total(self) -> u64 {
        LENGTH_FIELD_BYTES as u64 + self.body()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_etcd() {
        assert_eq!(FrameLength::of_record(4).to_bytes(), [4, 0, 0, 0, 0, 0, 0, 0x84]);
        assert_eq!(FrameLength::of_record(16).to_bytes(), [16, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_length_comes_back_and_fills_a_multiple_of_eight() {
        for n in (0..1000).chain([10 << 20, u32::MAX as usize]) {
            let length = FrameLength::of_record(n);
            assert_eq!(FrameLength::from_bytes(length.to_bytes()), length);
            assert_eq!(length.total() % FRAME_ALIGN, 0);
        }
    }

    #[test]
    fn ignored_bits_are_ignored() {
        // Bits 3 to 6 of the top byte; the flag with a count of 0; a count without the flag.
        let read = |top: u8| FrameLength::from_bytes([9, 0, 0, 0, 0, 0, 0, top]);
        assert_eq!(read(0xff), FrameLength { record: 9, padding: 7 });
        assert_eq!(read(0x80), FrameLength { record: 9, padding: 0 });
        assert_eq!(read(0x07), FrameLength { record: 9, padding: 0 });
    }
}
