//! What an entry carries.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Opaque bytes, shared and not copied: on the leader a slice of the load's pool, on a follower a slice of the
/// frame it came in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

thread_local! {
    /// The frame that is being decoded on this thread.
    static FRAME: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

/// Runs `decode`, which decodes out of `frame`: payloads become slices of it.
pub(crate) fn slicing<T>(frame: &Bytes, decode: impl FnOnce() -> T) -> T {
    FRAME.replace(frame.clone());
    let value = decode();
    FRAME.take();
    value
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        struct Slice;
        impl<'de> Visitor<'de> for Slice {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E: Error>(self, slice: &'de [u8]) -> Result<Payload, E> {
                FRAME.with_borrow(|frame| {
                    let within = frame.as_ptr_range();
                    let whole = slice.as_ptr_range();
                    let inside = within.start <= whole.start && whole.end <= within.end;
                    Ok(Payload(if inside { frame.slice_ref(slice) } else { Bytes::copy_from_slice(slice) }))
                })
            }

            fn visit_bytes<E: Error>(self, slice: &[u8]) -> Result<Payload, E> {
                Ok(Payload(Bytes::copy_from_slice(slice)))
            }
        }
        deserializer.deserialize_bytes(Slice)
    }
}

/// Random bytes, cut into entries.
pub struct Pool {
    bytes: Bytes,
    size: usize,
    at: usize,
}

/// Bytes of the pool beyond one entry: more than a processor's second cache holds would measure that instead.
const POOL: usize = 256 << 10;

impl Pool {
    /// Entries of `size` bytes.
    pub fn new(size: usize) -> Pool {
        let mut bytes = vec![0; POOL + size];
        fastrand::Rng::new().fill(&mut bytes);
        Pool { bytes: bytes.into(), size, at: 0 }
    }

    /// The next entry, without a copy.
    pub fn entry(&mut self) -> Payload {
        // An odd stride: neighbours differ and so do rounds.
        self.at = (self.at + self.size + 1) % POOL;
        Payload(self.bytes.slice(self.at..self.at + self.size))
    }
}
