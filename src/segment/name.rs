//! Names of segment files: `SEQ-INDEX.wal`, both 16 lower-case hex digits.
//!
//! INDEX is the index that the next entry was expected to have when the segment was started. It goes back after a
//! Raft conflict, so order is by SEQ alone.

use crate::types::Seq;

/// The file that the pipeline prepares and a cut renames. Not one of etcd's own names (`0.tmp`, `1.tmp`), which
/// etcd would take up with whatever bytes are in it. etcd passes over it silently.
pub(crate) const PREPARED: &str = "seawal-next.tmp";

/// What the names of files begin with that were segments and are kept to be used again.
pub(crate) const SPARE: &str = "seawal-spare-";

/// A parsed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub seq: Seq,
    pub index: u64,
}

impl SegmentName {
    /// Reads a name as etcd does: shorter hex and upper case are accepted.
    pub(crate) fn parse(name: &str) -> Option<SegmentName> {
        let (seq, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let name = SegmentName { seq: Seq(hex(seq)?), index: hex(index)? };
        // After the last number there is no next segment.
        (name.seq.0 < u64::MAX).then_some(name)
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.seq.0, self.index)
    }
}

fn hex(digits: &str) -> Option<u64> {
    let all_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if digits.is_empty() || digits.len() > 16 || !all_hex {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parses() {
        let name = "00000000000000a1-00000000000001ff.wal";
        let parsed = SegmentName::parse(name).unwrap();
        assert_eq!(parsed, SegmentName { seq: Seq(0xa1), index: 0x1ff });
        assert_eq!(parsed.to_string(), name);
    }

    #[test]
    fn accepts_what_etcd_accepts() {
        for name in ["15-181.wal", "000000000000000A-00000000000000FF.wal"] {
            assert!(SegmentName::parse(name).is_some(), "{name}");
        }
    }

    #[test]
    fn refuses_other_names() {
        for name in [
            "0.tmp",
            "lost+found",
            "x.wal",
            "1.wal",
            "-1.wal",
            "1-.wal",
            "1-2.wal.broken",
            "1-2-3.wal",
            "+1-2.wal",
            "ffffffffffffffff-0000000000000000.wal",
            "00000000000000001-0000000000000000.wal",
        ] {
            assert!(SegmentName::parse(name).is_none(), "{name}");
        }
    }
}
