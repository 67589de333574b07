//! Every bound of this crate.

use crate::BLOCK_BYTES;

/// Smallest ring, in bytes: the largest page size of the machines we run on, so that a ring is whole pages.
pub const MIN_RING_BYTES: usize = 1 << 16;
/// Largest ring, in bytes: its two copies must fit a 32-bit address space beside everything else.
pub const MAX_RING_BYTES: usize = 1 << 30;
/// How much of a ring's second copy is registered with the kernel, in bytes: more than a frame, or a write of several.
pub const REGISTERED_OVERLAP: usize = 1 << 20;
/// Most blocks of one ring at once.
pub const MAX_RING_BLOCKS: usize = 1 << 20;

const _: () = assert!(MIN_RING_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(MIN_RING_BYTES.is_power_of_two() && MAX_RING_BYTES.is_power_of_two());
const _: () = assert!(MAX_RING_BLOCKS < u32::MAX as usize);
/// Most entries of one batch.
pub const MAX_BATCH_ENTRIES: usize = 1 << 24;
/// Batches at once in an [`OpenBatch`](crate::OpenBatch): sealed ones that were not taken yet, the open one, spares.
pub const OPEN_BATCHES: usize = 4;
/// Most tickets of one slab.
pub const MAX_TICKETS: usize = 1 << 23;
/// Longest reply to a ticket, in bytes.
pub const MAX_REPLY_BYTES: usize = 64 << 10;
