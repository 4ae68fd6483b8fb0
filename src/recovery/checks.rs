//! What a walk does with the data of the records it comes over: checks it, and keeps it or not.

use super::facts::Facts;
use crate::format::Chain;
use crate::format::decode::{self, RawRecord};
use crate::types::Entry;
use bytes::Bytes;
use std::borrow::Cow;

/// What becomes of data. `P` is a piece of the file, which the data lies in.
pub(crate) trait Checks<P> {
    /// The chain after a record that is no crc record: the record is sound if that is the checksum it has.
    fn chain_after(&mut self, before: Chain, record: &RawRecord<Cow<'_, [u8]>>, piece: &P)
    -> Chain;
}

/// Data is checked.
#[derive(Debug)]
pub(crate) struct Checked;

impl<P> Checks<P> for Checked {
    fn chain_after(&mut self, before: Chain, record: &RawRecord<Cow<'_, [u8]>>, _: &P) -> Chain {
        before.after(record.data.as_deref().unwrap_or_default())
    }
}

/// Data is checked, and entries are kept: also those of a record that then proves unsound in another way, or of a group
/// that is not whole. The facts say how many count.
#[derive(Debug, Default)]
pub(crate) struct CheckedEntries(Vec<Entry>);

impl CheckedEntries {
    /// Those among the facts that the same walk found.
    pub(crate) fn of(mut self, facts: &Facts) -> Vec<Entry> {
        self.0.truncate(facts.entries() as usize);
        self.0
    }
}

impl Checks<Bytes> for CheckedEntries {
    fn chain_after(
        &mut self,
        before: Chain,
        record: &RawRecord<Cow<'_, [u8]>>,
        piece: &Bytes,
    ) -> Chain {
        // One that does not parse is damage, and the walk sees that too.
        if record.is_entry()
            && let Ok(entry) = decode::entry(data_of(record, piece))
        {
            self.0.push(entry);
        }
        Checked.chain_after(before, record, piece)
    }
}

/// Data is believed at first, and kept to be checked by somebody else.
#[derive(Debug, Default)]
pub(crate) struct Unchecked(Vec<UncheckedRecord>);

#[derive(Debug)]
struct UncheckedRecord {
    before: Chain,
    after: Chain,
    is_entry: bool,
    data: Option<Bytes>,
}

impl Checks<Bytes> for Unchecked {
    fn chain_after(
        &mut self,
        before: Chain,
        record: &RawRecord<Cow<'_, [u8]>>,
        piece: &Bytes,
    ) -> Chain {
        let (after, is_entry, data) =
            (Chain(record.crc), record.is_entry(), data_of(record, piece));
        self.0.push(UncheckedRecord { before, after, is_entry, data });
        after
    }
}

impl Unchecked {
    /// The entries among the facts that the same walk found, if all that was believed is so.
    pub(crate) fn check(self, facts: &Facts) -> Option<Vec<Entry>> {
        let mut entries = CheckedEntries(Vec::with_capacity(self.0.len()));
        for UncheckedRecord { before, after, is_entry, data } in self.0 {
            if before.after(data.as_deref().unwrap_or_default()) != after {
                return None;
            }
            if is_entry {
                entries.0.push(decode::entry(data).ok()?);
            }
        }
        Some(entries.of(facts))
    }
}

/// The data of a record, which shares the memory of the piece that it lies in.
fn data_of(record: &RawRecord<Cow<'_, [u8]>>, piece: &Bytes) -> Option<Bytes> {
    record.data.as_ref().map(|data| match data {
        Cow::Borrowed(data) => piece.slice_ref(data),
        Cow::Owned(data) => Bytes::copy_from_slice(data),
    })
}
