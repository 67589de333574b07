//! Every bound of the simulated world, and how they relate.

use kontiki_mem::BLOCK_BYTES;

/// What a power cut tears: writes reach the medium by sectors of this many bytes.
pub const SECTOR_BYTES: usize = 512;

/// Sectors in one block of a file.
pub const SECTORS_PER_BLOCK: usize = BLOCK_BYTES / SECTOR_BYTES;

/// Operations that a node may have outstanding, unless the conditions say otherwise.
pub const CAPACITY: usize = 512;

/// Hosts in one world.
pub const MAX_HOSTS: usize = 64;

/// Connections that wait on a listener to be accepted; more are let wait outside.
pub const BACKLOG: usize = 64;

/// First port that the world gives to those who do not ask for one.
pub const FIRST_EPHEMERAL_PORT: u16 = 49_152;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
// A block's sectors are kept as the bits of a byte.
const _: () = assert!(SECTORS_PER_BLOCK == 8);
// Hosts are numbered in the last byte of their address.
const _: () = assert!(MAX_HOSTS < 255);
