//! Little-endian fields, read and written without a way to panic on what a peer sent.

use kontiki_frame::fields::checksum_around;
use kontiki_mem::copy_payload;

/// Reads fields off the front of bytes; `None` once they run out.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// The one number that is left; `None` if that is not what is left.
    pub(crate) fn only_u32(mut self) -> Option<u32> {
        self.u32().filter(|_| self.0.is_empty())
    }

    /// As [`Reader::only_u32`].
    pub(crate) fn only_u64(mut self) -> Option<u64> {
        self.u64().filter(|_| self.0.is_empty())
    }

    /// As [`Reader::only_u32`].
    pub(crate) fn only_u128(mut self) -> Option<u128> {
        self.u128().filter(|_| self.0.is_empty())
    }

    /// A flag: anything but 0 and 1 is damage.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// Bytes of a field of a list before its value.
pub(crate) const FIELD_HEADER_BYTES: usize = 4;

/// The next of the fields that fill `r`: tag (2 bytes), length of the value (2 bytes), value. `None` once there are no
/// more, and `Some(None)` if what is left is no field.
pub(crate) fn next_field<'a>(r: &mut Reader<'a>) -> Option<Option<(u16, Reader<'a>)>> {
    if r.0.is_empty() {
        return None;
    }
    let mut field = || {
        let (tag, length) = (r.u16()?, r.u16()?);
        Some((tag, Reader(r.bytes(usize::from(length))?)))
    };
    Some(field())
}

/// Writes fields into bytes that the caller made large enough (an invariant of ours: it panics otherwise).
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Writer { out, at: 0 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.at + bytes.len();
        // Fields, never a payload.
        #[allow(clippy::disallowed_methods)]
        self.out[self.at..end].copy_from_slice(bytes);
        self.at = end;
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// Replies and, in the client library, proposals: counted as copies.
    pub(crate) fn payload(&mut self, payload: &[u8]) -> &mut Self {
        let end = self.at + payload.len();
        copy_payload(&mut self.out[self.at..end], payload);
        self.at = end;
        self
    }

    /// Writes a checksum over everything but its own four bytes at `at`.
    pub(crate) fn seal(out: &mut [u8], at: usize) {
        let crc = checksum_around(out, at);
        Writer { out, at }.u32(crc);
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.at
    }
}
