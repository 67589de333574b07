//! Fields at fixed offsets, little-endian, and the checksum around them: what every format of blocks, headers and records
//! is read and written with.
//!
//! Offsets and lengths are in bytes. A read past the end yields zero, which no check takes for valid; so nothing that
//! reads can panic, whatever the bytes are.
//!
//! ```
//! use kontiki_frame::fields::{checksum_around, put, u32_at, u64_at};
//!
//! const AT_CHECKSUM: usize = 8;
//! let mut record = [0; 16];
//! put(&mut record, 0, &77u64.to_le_bytes());
//! let sum = checksum_around(&record, AT_CHECKSUM);
//! put(&mut record, AT_CHECKSUM, &sum.to_le_bytes());
//!
//! assert_eq!(checksum_around(&record, AT_CHECKSUM), u32_at(&record, AT_CHECKSUM));
//! assert_eq!((u64_at(&record, 0), u64_at(&record, 12)), (77, 0), "the last four bytes are no number of eight");
//! ```

/// The `N` bytes at `at`.
#[inline]
pub fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()) {
        Some(chunk) => *chunk,
        None => [0; N],
    }
}

/// The number in the two bytes at `at`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

/// The number in the four bytes at `at`.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

/// The number in the eight bytes at `at`.
#[inline]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

/// The number in the sixteen bytes at `at`.
#[inline]
pub fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(field(bytes, at))
}

/// Puts a field at its offset: a number's `to_le_bytes`, or bytes as they are.
///
/// # Panics
/// If it does not fit. Whoever writes has the whole block or record at hand.
#[inline]
#[allow(clippy::disallowed_methods, reason = "fields of headers and records, not proposals on their way")]
pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// CRC-32 (IEEE) over all bytes but the four at `at`, where it is kept.
#[inline]
pub fn checksum_around(bytes: &[u8], at: usize) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(..at).unwrap_or_default());
    crc.update(bytes.get(at + 4..).unwrap_or_default());
    crc.finalize()
}

/// Whether every byte is zero. Compared as memory is, many at a time: recovery runs this over whole segments, and a small
/// frame is mostly padding.
pub fn all_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 1024] = [0; 1024];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_and_nothing_past_the_end() {
        let mut bytes = [0; 40];
        put(&mut bytes, 3, &0x0102_u16.to_le_bytes());
        put(&mut bytes, 5, &0x0304_0506_u32.to_le_bytes());
        put(&mut bytes, 9, &u64::MAX.to_le_bytes());
        put(&mut bytes, 17, &(1u128 << 120).to_le_bytes());
        assert_eq!((u16_at(&bytes, 3), u32_at(&bytes, 5), u64_at(&bytes, 9)), (0x0102, 0x0304_0506, u64::MAX));
        assert_eq!((u128_at(&bytes, 17), bytes[32]), (1 << 120, 1), "the least significant byte comes first");
        for at in [25, 39, 40, 41, usize::MAX] {
            assert_eq!((u128_at(&bytes, at), field::<16>(&bytes, at)), (0, [0; 16]), "{at}");
        }
    }

    #[test]
    fn a_checksum_covers_every_byte_but_its_own() {
        let mut bytes: [u8; 12] = core::array::from_fn(|at| at as u8);
        let sum = checksum_around(&bytes, 4);
        for at in 0..12 {
            bytes[at] ^= 1;
            assert_eq!(checksum_around(&bytes, 4) == sum, (4..8).contains(&at), "{at}");
            bytes[at] ^= 1;
        }
        assert_eq!(checksum_around(&bytes[..6], 4), crc32fast::hash(&bytes[..4]), "cut short, it covers what is there");
    }

    #[test]
    fn zeros_are_told_at_every_length() {
        for length in [0, 1, 63, 65, 1024, 1030] {
            let mut bytes = vec![0; length];
            assert!(all_zero(&bytes));
            for at in 0..length {
                bytes[at] = 1;
                assert!(!all_zero(&bytes), "{length}, {at}");
                bytes[at] = 0;
            }
        }
    }
}
