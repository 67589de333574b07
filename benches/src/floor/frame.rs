//! A batch of the floor: a header, the entries one after the other, zeros up to the block.
//!
//! ```text
//! 0        4       8       12       16          24            32
//! | crc-32 | bytes | count | unused | position | first number | entries ... | padding |
//! ```
//!
//! Little-endian. The checksum covers everything from `bytes` to the last entry; the same bytes travel and are stored.

use kontiki_mem::BLOCK_BYTES;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes of each entry that hold its number.
pub(super) const NUMBER_BYTES: usize = 8;

/// Bytes of a batch, padding included.
pub(super) const fn bytes(count: usize, entry_bytes: usize) -> usize {
    (HEADER_BYTES + count * entry_bytes).next_multiple_of(BLOCK_BYTES)
}

/// Writes a batch of `count` entries like `entry`, numbered from `first`, that stands at `position` of the stream.
pub(super) fn seal(frame: &mut [u8], position: u64, first: u64, count: u32, entry: &[u8]) {
    let end = HEADER_BYTES + count as usize * entry.len();
    let (used, padding) = frame.split_at_mut(end);
    padding.fill(0);
    let (header, entries) = used.split_at_mut(HEADER_BYTES);
    for (slot, number) in entries.chunks_exact_mut(entry.len()).zip(first..) {
        slot.copy_from_slice(entry);
        slot[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    }
    header[4..8].copy_from_slice(&(end as u32).to_le_bytes());
    header[8..12].copy_from_slice(&count.to_le_bytes());
    header[12..16].fill(0);
    header[16..24].copy_from_slice(&position.to_le_bytes());
    header[24..32].copy_from_slice(&first.to_le_bytes());
    let sum = crc32fast::hash(&frame[4..end]);
    frame[..4].copy_from_slice(&sum.to_le_bytes());
}

/// Bytes of the batch that starts here, padding included; `None` while its header is incomplete.
pub(super) fn whole(bytes: &[u8]) -> Option<usize> {
    Some(used(bytes)?.next_multiple_of(BLOCK_BYTES))
}

/// Whether this is a whole batch, as it was sealed, that stands at `position` of the stream.
pub(super) fn is_intact(frame: &[u8], position: u64) -> bool {
    let Some(covered) = used(frame).and_then(|end| frame.get(4..end)) else { return false };
    let sum = frame.first_chunk::<4>().map(|sum| u32::from_le_bytes(*sum));
    let place = frame.get(16..24).and_then(|at| at.first_chunk::<8>()).map(|at| u64::from_le_bytes(*at));
    sum == Some(crc32fast::hash(covered)) && place == Some(position)
}

fn used(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(4..HEADER_BYTES)?.first_chunk::<4>()?;
    Some((u32::from_le_bytes(*length) as usize).max(HEADER_BYTES))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_batch_is_whole_and_any_change_shows() {
        let mut frame = vec![0xEE; bytes(50, 100)];
        seal(&mut frame, 8192, 7, 50, &[1; 100]);
        assert_eq!(whole(&frame), Some(frame.len()));
        assert!(is_intact(&frame, 8192) && !is_intact(&frame, 4096));
        assert_eq!(whole(&frame[..HEADER_BYTES - 1]), None);
        for at in 0..HEADER_BYTES + 50 * 100 {
            frame[at] ^= 1;
            assert!(!is_intact(&frame, 8192), "{at}");
            frame[at] ^= 1;
        }
    }
}
