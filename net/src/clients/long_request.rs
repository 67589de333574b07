//! A request that is longer than this node takes: read past, never kept, and answered once it is seen to be whole.
//!
//! Its sender may well be right: another node's limits are other ones. So it is told, and goes on.

use crate::clients::client_wire::ClientWireError;
use crate::limits::{CLIENT_HEADER_BYTES, MAX_LONG_REQUEST_BYTES};
use crate::wire::Reader;

/// Offset of the length in a message's header: the checksum and the request's number follow it.
const LENGTH_AT: usize = 8;

/// What is left of it to read past.
#[derive(Debug)]
pub(crate) struct LongRequest {
    /// The sender's number for it.
    pub(crate) request: u64,
    /// Bytes of its payload.
    pub(crate) payload_bytes: usize,
    left: usize,
    checksum: u32,
    hasher: crc32fast::Hasher,
}

impl LongRequest {
    /// From the header of a message whose length `error` complains of.
    ///
    /// # Errors
    /// `error` itself, if it is another one, or the length is more than any node takes.
    pub(crate) fn begin(header: &[u8], error: ClientWireError) -> Result<LongRequest, ClientWireError> {
        let ClientWireError::Length { length, .. } = error else { return Err(error) };
        let payload_bytes = length as usize;
        let Some(header) = header.get(..CLIENT_HEADER_BYTES).filter(|_| payload_bytes <= MAX_LONG_REQUEST_BYTES) else { return Err(error) };
        let mut hasher = crc32fast::Hasher::new();
        let mut r = Reader(header);
        hasher.update(r.bytes(LENGTH_AT + 4).ok_or(error)?);
        let checksum = r.u32().ok_or(error)?;
        hasher.update(r.0);
        let request = r.u64().ok_or(error)?;
        Ok(LongRequest { request, payload_bytes, left: payload_bytes, checksum, hasher })
    }

    /// Reads past what there is of it at the start of `bytes`; how much that was.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> usize {
        let part = bytes.get(..self.left).unwrap_or(bytes);
        self.hasher.update(part);
        self.left -= part.len();
        part.len()
    }

    /// Whether all of it came undamaged; `None` while it has not all come.
    pub(crate) fn is_whole(&self) -> Option<bool> {
        (self.left == 0).then(|| self.hasher.clone().finalize() == self.checksum)
    }
}
