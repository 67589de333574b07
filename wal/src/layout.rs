//! Fields at fixed offsets of a block, little-endian, and the checksum over a whole block.

use kontiki_frame::BLOCK_BYTES;

/// Where every block of ours keeps its checksum, behind a magic number of four bytes.
pub(crate) const AT_CHECKSUM: usize = 4;
/// Where every block of ours keeps its format version. Magic, checksum and version stay where they are in every
/// later version, so that a newer file is told from a damaged one.
pub(crate) const AT_VERSION: usize = 8;

/// The `N` bytes at `at`; zeros past the end.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

/// Puts a field at its offset of a block of ours.
#[allow(clippy::disallowed_methods, reason = "fields of blocks that only the log writes, not proposals on their way")]
pub(crate) fn put(block: &mut [u8], at: usize, field: &[u8]) {
    block[at..at + field.len()].copy_from_slice(field);
}

/// Checksum over the whole block but the checksum itself.
pub(crate) fn checksum(block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(block.get(..AT_CHECKSUM).unwrap_or_default());
    crc.update(block.get(AT_CHECKSUM + 4..).unwrap_or_default());
    crc.finalize()
}

/// Whether every byte is zero. By the chunk: recovery runs this over whole segments.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |any, &b| any | b) == 0) && rest.iter().all(|&b| b == 0)
}

/// Whole blocks in `bytes`, in bytes.
pub(crate) const fn whole_blocks(bytes: u64) -> u64 {
    bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64
}
