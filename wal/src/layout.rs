//! What every block of ours begins with.

use kontiki_frame::BLOCK_BYTES;
use kontiki_frame::fields::checksum_around;

/// Where every block of ours keeps its checksum, behind a magic number of four bytes.
pub(crate) const AT_CHECKSUM: usize = 4;
/// Where every block of ours keeps its format version. Magic, checksum and version stay where they are in every
/// later version, so that a newer file is told from a damaged one.
pub(crate) const AT_VERSION: usize = 8;

/// Checksum over the whole block but the checksum itself.
pub(crate) fn checksum(block: &[u8]) -> u32 {
    checksum_around(block, AT_CHECKSUM)
}

/// Whole blocks in `bytes`, in bytes.
pub(crate) const fn whole_blocks(bytes: u64) -> u64 {
    bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64
}
