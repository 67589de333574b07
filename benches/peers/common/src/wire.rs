//! Frames on a byte stream: a length, then a message.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::payload;

/// Bytes of the length.
const LENGTH: usize = 4;
/// What is read from a socket at once, if it is there.
const READ: usize = 256 << 10;

/// Appends a frame: the length of what `body` appends, little-endian, and then that.
pub fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    body(out);
    let len = (out.len() - at - LENGTH) as u32;
    out[at..at + LENGTH].copy_from_slice(&len.to_le_bytes());
}

/// Splits the first frame off; `None` if it is not whole.
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

/// Appends a value as postcard writes it.
pub fn encode(out: &mut Vec<u8>, value: &impl Serialize) {
    // Only a type without a known length fails, and no message has one.
    if let Err(error) = postcard::serialize_with_flavor(value, Appending(out)) {
        unreachable!("a message that cannot be written: {error}");
    }
}

/// Reads a value; [`crate::Payload`]s in it are slices of the frame, not copies.
///
/// # Errors
/// The bytes are no such value.
pub fn decode<T: DeserializeOwned>(frame: &Bytes) -> anyhow::Result<T> {
    payload::slicing(frame, || Ok(postcard::from_bytes(frame)?))
}

struct Appending<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appending<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// What has been read of a stream.
pub struct Inbound {
    buffer: Vec<u8>,
    filled: usize,
}

impl Default for Inbound {
    fn default() -> Inbound {
        Inbound { buffer: vec![0; READ], filled: 0 }
    }
}

impl Inbound {
    /// Where to read to; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        let needed = self.buffer[..self.filled].first_chunk::<LENGTH>().map_or(0, |len| LENGTH + u32::from_le_bytes(*len) as usize);
        if needed > self.buffer.len() {
            self.buffer.resize(needed, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// Takes note of bytes read, and returns the whole frames among all so far. They share one allocation.
    pub fn read(&mut self, bytes: usize) -> Frames {
        self.filled += bytes;
        let mut rest = &self.buffer[..self.filled];
        while let Some((_, after)) = split(rest) {
            rest = after;
        }
        let whole = self.filled - rest.len();
        let block = Bytes::copy_from_slice(&self.buffer[..whole]);
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Frames(block)
    }
}

/// Frames that came in together, without their lengths.
#[derive(Default)]
pub struct Frames(Bytes);

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let len = split(&self.0)?.0.len();
        let frame = self.0.slice(LENGTH..LENGTH + len);
        self.0 = self.0.slice(LENGTH + len..);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;

    #[test]
    fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
        let sizes = [0, 1, 5, READ - LENGTH, READ, 3 * READ, 7];
        let mut stream = Vec::new();
        for size in sizes {
            frame(&mut stream, |out| out.extend((0..size).map(|n| (n * 31 + size) as u8)));
        }
        for cut in [1000, READ - 1, READ, usize::MAX] {
            let (mut inbound, mut got, mut rest) = (Inbound::default(), Vec::new(), &stream[..]);
            while !rest.is_empty() {
                let space = inbound.space();
                let n = space.len().min(cut).min(rest.len());
                space[..n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
                got.extend(inbound.read(n));
            }
            assert_eq!(got.iter().map(Bytes::len).collect::<Vec<_>>(), sizes, "cut into {cut}");
            assert!(got.iter().zip(sizes).all(|(f, size)| f.iter().enumerate().all(|(n, b)| *b == (n * 31 + size) as u8)));
        }
    }

    #[test]
    fn payloads_are_slices_of_the_frame() {
        let mut out = Vec::new();
        encode(&mut out, &vec![Payload(Bytes::from_static(b"one")), Payload(Bytes::new()), Payload(Bytes::from_static(b"two"))]);
        let frame = Bytes::from(out);
        let got: Vec<Payload> = decode(&frame).unwrap();
        assert_eq!(got.iter().map(|p| &p.0[..]).collect::<Vec<_>>(), [&b"one"[..], b"", b"two"]);
        assert!(frame.as_ptr_range().contains(&got[2].0.as_ptr()));
    }
}
