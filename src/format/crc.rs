//! The rolling checksum: CRC-32C (Castagnoli) over the data of all records so far.
//!
//! One chain runs through the whole log. A record stores the value *after* its own data, so it vouches for
//! everything before it as well. Type, length and padding are not covered: that is etcd's choice, and ours by
//! compatibility.

/// The value of the chain at some place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain(pub u32);

impl Chain {
    /// The chain after `data`.
    #[must_use]
    pub(crate) fn after(self, data: &[u8]) -> Chain {
        Chain(crc32c::crc32c_append(self.0, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_is_the_checksum_of_the_concatenation() {
        let parts: [&[u8]; 3] = [b"1234", b"", b"56789"];
        let chain = parts.iter().fold(Chain::default(), |c, p| c.after(p));
        // The check value of CRC-32C.
        assert_eq!(chain, Chain(0xe306_9283));
    }
}
