//! What a record is made from.

use bytes::{Bytes, BytesMut};
use std::fmt;

/// The payload of a record: bytes of the caller's, shared or borrowed.
///
/// Small payloads are copied when they are accepted, and large borrowed ones too; large shared ones ([`Bytes`], [`Vec`])
/// are not copied before they are written. Readers of new records ([`Options::recent_bytes_max`]) get a large payload that
/// was borrowed, or is a [`Vec`] or [`String`] without spare room, in the memory that it came in.
///
/// [`Options::recent_bytes_max`]: crate::Options::recent_bytes_max
///
/// ```
/// # fn main() -> seawal::Result<()> { pollster::block_on(async {
/// # let dir = tempfile::tempdir().unwrap();
/// # let (wal, _) = seawal::Wal::open_or_create(dir.path().join("log"), Default::default()).await?;
/// let line = String::from("borrowed");
/// wal.append(&line).await?;
/// wal.append(line).await?;
/// wal.append(b"bytes").await?;
/// # wal.close().await?;
/// # Ok(()) }) }
/// ```
pub struct Payload<'a>(pub(crate) Inner<'a>);

pub(crate) enum Inner<'a> {
    /// Perhaps a part of something much larger.
    Shared(Bytes),
    /// All of its memory: keeping it keeps nothing else.
    Whole(Bytes),
    Borrowed(&'a [u8]),
}

impl Payload<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Inner::Shared(bytes) | Inner::Whole(bytes) => bytes,
            Inner::Borrowed(bytes) => bytes,
        }
    }

    /// Shared from here on, if it is longer than that.
    pub(crate) fn shared_beyond(self, bytes: usize) -> Self {
        match self.0 {
            Inner::Borrowed(slice) if slice.len() > bytes => {
                Payload(Inner::Whole(Bytes::copy_from_slice(slice)))
            }
            inner => Payload(inner),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

impl From<Bytes> for Payload<'_> {
    fn from(bytes: Bytes) -> Self {
        Payload(Inner::Shared(bytes))
    }
}

impl From<BytesMut> for Payload<'_> {
    fn from(bytes: BytesMut) -> Self {
        Payload(Inner::Shared(bytes.freeze()))
    }
}

impl From<Vec<u8>> for Payload<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        match bytes.len() == bytes.capacity() {
            true => Payload(Inner::Whole(bytes.into())),
            false => Payload(Inner::Shared(bytes.into())),
        }
    }
}

impl From<String> for Payload<'_> {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Payload(Inner::Borrowed(bytes))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Payload(Inner::Borrowed(bytes))
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Payload(Inner::Borrowed(bytes))
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Self {
        Payload(Inner::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a String> for Payload<'a> {
    fn from(text: &'a String) -> Self {
        Payload(Inner::Borrowed(text.as_bytes()))
    }
}
